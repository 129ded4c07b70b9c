"""Reinforcement learning of a policy: PPO-ptx (InstructGPT, §3.5 and App. C.4), or another iteration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PyTree

from rlhf_jax.config import (
    AboveOneOrInf,
    Checked,
    Count,
    DividesBatch,
    Finite,
    Natural,
    NotNegative,
    NotNegativeOrInf,
    Positive,
    PositiveOrInf,
    PositiveShare,
    SettingError,
    Share,
    ShareBelowOne,
)
from rlhf_jax.data import Prompt, batch_indices, content_sha256, encode_prompts, take
from rlhf_jax.equations import ensemble_score, nothing_seen, seen
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.evals import Task, per_row
from rlhf_jax.models import (
    LanguageModel,
    Sampling,
    ScalarModel,
    scalar_from_language_model,
    scalar_head,
)
from rlhf_jax.runtime import Watch, place, shard_rows
from rlhf_jax.stages.answers import answers_of, decoded, scores_of
from rlhf_jax.stages.datasets import Parts, parts_of
from rlhf_jax.stages.episodes import (
    BrokenEnvironmentError,
    Environment,
    Episodes,
    episode_metrics,
    in_turns,
    play,
    reading_of_episodes,
    require_environment,
    require_turns,
)
from rlhf_jax.stages.functions import asked
from rlhf_jax.stages.iterations import around, by_models, on_host, reading_of, recording, replayed
from rlhf_jax.stages.measuring import looked
from rlhf_jax.stages.model import Trained, whole
from rlhf_jax.stages.rewards import (
    RewardError,
    RewardFunction,
    Rewards,
    forget_failure,
    keep_failure,
    part_metrics,
    rewards_of,
)
from rlhf_jax.stages.rollouts import ROLLOUTS, Drawn, few, read_drawn, recorded, require_replayable, say
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.text_reward import read_as_text
from rlhf_jax.stages.training import (
    has_row,
    open_stage,
    packed,
    parents,
    prompts_that_fit,
    require_belonging,
    result,
    settings_without,
)
from rlhf_jax.steps import (
    PPO_PTX,
    Estimator,
    Form,
    Frozen,
    Iteration,
    Models,
    Plan,
    PPOCoef,
    initial_state,
)
from rlhf_jax.types import Moments, PPOBatch, PromptBatch, TextBatch

Judge = Callable[[list[Prompt], list[str]], Mapping[str, float]]


@dataclass(frozen=True)
class PPO(Checked):
    """PPO-ptx's values at 1.3 B (App. C.4). Plain PPO has gamma = 0 and pretrain_examples = 0."""

    iterations: Count = 500  # 256,000 episodes (App. C.4)
    batch: Count = 512  # episodes an iteration (App. C.4)
    minibatches: DividesBatch = 8  # of 64 episodes (App. C.4)
    epochs: Count = 1  # over the batch (App. C.4)
    temperature: NotNegative = 1.0  # that answers are drawn at (App. C.4)
    top_k: Natural = 0  # 0 is off
    top_p: PositiveShare = 1.0  # 1 is off
    beta: NotNegative = 0.02  # of the KL in the reward, per nat (App. C.4, E.7)
    kl_reward: Estimator = "k1"  # log π_RL/π_SFT, as in Eq. 2; or "k2", "k3", "exact" (the whole vocabulary)
    beta_loss: NotNegative = 0.0  # of the KL in the loss, per nat; the paper has none
    kl_loss: Estimator = "k2"  # its gradient is the KL's; k1's is 0 on average and k3's the reverse KL's
    beta_end: NotNegative = 1.0  # factor on both β that a linear schedule ends at; 1 is no schedule, as in the paper
    beta_steps: Natural = 500  # iterations until then
    kl_target: Positive = 6.0  # nats an answer; counts once the horizon is finite (Ziegler et al. 2019, code)
    kl_horizon: PositiveOrInf = float("inf")  # episodes; inf: β does not adapt, as in the paper
    gamma: NotNegative = 27.8  # of the pretraining loss, per nat (App. C.4); see `pretrain_loss` for what it is per
    pretrain_examples: Natural = 8  # rows of text an episode (App. C.4); where gamma is 0 they are measured alone
    pretrain_mean: Literal["token", "example"] = "token"  # over which the pretraining loss is a mean; not printed
    policy_mean: Literal["token", "answer", "constant"] = (
        "token"  # and the policy's; GRPO's is answer, Dr. GRPO's constant
    )
    clip_low: NotNegative = 0.2  # of the ratio, below 1 (App. C.4)
    clip_high: NotNegative = 0.2  # and above (App. C.4)
    dual_clip: AboveOneOrInf = float("inf")  # of the ratio where the advantage is negative; inf is off
    entropy: Finite = 0.0  # bonus, per nat a token; the paper has none
    stop_kl: PositiveOrInf = float("inf")  # nats a token at which an iteration's updates end; inf is off
    value_clip: NotNegativeOrInf = 0.2  # not printed; Ziegler et al. 2019, code. inf is off
    value_coef: NotNegative = 0.1  # of the value loss; its Adam undoes it, but for clip_norm and eps: see `value_lr`
    value_warmup: Natural = 0  # iterations in which the value network learns alone
    discount: Share = 1.0  # none (App. C.4)
    lam: Share = 0.95  # λ of GAE; not printed; Ziegler et al. 2019, code
    whiten: Literal["biased", "unbiased", "off"] = "biased"  # the advantages, by that variance (Huang et al. 2024)
    whiten_rewards: bool = False  # their mean stays; Ziegler et al. 2019 did
    lr: Positive = 8.05e-6  # not printed; above it PPO without the mix diverged (App. C.4)
    value_lr: Positive = 9e-6  # (App. C.4); how fast the value network learns
    warmup: Natural = 10  # iterations from a tenth of both rates to the whole (App. C.4)
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of both rates, after the warm-up (App. C.4)
    lr_steps: Count = 500  # iterations, the last of which is at the schedule's floor
    lr_floor: Share = 0.1  # share of both rates that it ends at
    ema: ShareBelowOne = 0.992  # decay of the policy's moving average, an update (App. C.4); 0 is the policy itself
    result: Literal["average", "policy"] = "average"  # what is looked at, kept as best, returned, reported and exported
    missing_eos_penalty: NotNegative = 0.0  # off the score of an answer that is cut off; the paper does not speak of it
    score_norm: Literal["running", "fixed", "off"] = "off"  # by all scores so far, or by those of π_SFT's answers
    score_clip: PositiveOrInf = float("inf")  # inf is off
    ensemble: Literal["mean", "minimum"] = "mean"  # of several reward models' scores; the paper has one
    uncertainty: NotNegative = 0.0  # of their variance, off the mean

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature == 0:
            sentence = "temperature is 0: greedy answers have no other ones to be compared with; set it above 0"
            raise SettingError(sentence, "temperature")
        if self.gamma > 0 and not self.pretrain_examples:
            sentence = f"gamma is {self.gamma} and pretrain_examples 0, which is no mix; set gamma to 0"
            raise SettingError(f"{sentence}, or pretrain_examples to 1 or more", "gamma", "pretrain_examples")

    def plain(self) -> "PPO":
        """The same without the pretraining mix, for which no text is read."""
        return replace(self, gamma=0.0, pretrain_examples=0)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p)

    @property
    def coefficients(self) -> PPOCoef:
        return PPOCoef(*(np.float32(getattr(self, name)) for name in PPOCoef._fields))

    @property
    def form(self) -> Form:
        return Form(*(getattr(self, name) for name in Form._fields))

    @property
    def part(self) -> str:
        """Of a PPOState and its checkpoints, the parameters that are the result."""
        return {"average": "ema", "policy": "policy"}[self.result]

    def plan(self, model: Trained) -> Plan:
        t = model.tokenizer
        return Plan(model.format.answer_tokens, self.sampling, self.epochs, self.minibatches, t.ends, t.pad)


def policy(
    folder: Path | str,
    start: Trained,
    reward: Trained | RewardFunction | Sequence[Trained | RewardFunction] | Rewards | None,
    prompts: Parts[Prompt] | Sequence[Prompt],
    settings: PPO = PPO(),
    run: Run = RUN,
    *,
    text: Parts[str] | Sequence[str] | None = None,
    iteration: Iteration = PPO_PTX,
    value: Trained | None = None,
    judge: Judge | None = None,
    answers: int = 1,
    order: str = "ppo",
    replay: Path | str | None = None,
    environment: Environment | None = None,
    episodes: Episodes = Episodes(),
    looks: Sequence[Task] = (),
) -> Trained:
    """Trains a policy by reinforcement learning, with a KL penalty towards the model that it starts from.

    reward: a reward model, an ensemble of them, a function (prompts, answers, rows) → a number for each answer, or None where
    it has no opinion, or several of both, which are added (see `Rewards`, which has their weights). rows: what columns else
    each prompt's row has. The value network starts as `value`, else as the (first) reward model, else as the policy below a
    fresh projection. prompts: .train to learn from,
    .valid to evaluate on; without parts all are to learn from. text: .train for the pretraining mix, .valid for its loss.
    iteration: two pure halves, see rlhf_jax.steps.Iteration. judge: figures of the answers to .valid, for the curves.
    looks: tasks, whose figures are logged beside the judge's, as task/figure.
    answers: to each prompt, one after the other. order: runs with the same one get the same prompts in the same order. The
    folder's name deals out the sampling. environment: with whom the policy speaks in turn from each prompt, in `episodes` of
    several turns, which it rewards turn by turn; a reward beside it is of whole episodes, and reward may be None.

    It returns the moving average of the policy (App. C.4), or by settings.result the policy itself. The same is looked at
    after the first iteration, every runtime.evaluate_every and the last, and where a look has the best figure so far
    (runtime.best) it is saved. policy/ema_lag says by what share of its way the policy is ahead of the average.

    Every runtime.record_every iterations all answers, and what was learned from them, go into folder/rollouts; see
    rlhf_jax.stages.rollouts. replay: a folder with such rollouts of every iteration, from which it learns in the place of
    sampling and scoring. The call that recorded them then ends with the same bits; what says how it learns may be changed,
    what says how it samples may not.

    If a reward function or the environment raises, what was learned is saved, reward_failed.json says at which answer until
    that iteration has gone well, and the same call continues with the function mended or not.
    InputError: the folder was made from something else; the settings want text, and there is none; models that do not belong
    together; what reward or judge did wrong; rollouts to replay that are missing, damaged or another run's.
    """
    prompts, text = parts_of(prompts), None if text is None else parts_of(text)
    c, folder = settings, Path(folder)
    if answers < 1 or c.batch % answers:
        raise InputError(
            f"ppo.batch is {c.batch} and answers {answers}, which does not divide it; set answers to a divisor"
        )
    ensemble = {"ensemble": c.ensemble, "uncertainty": c.uncertainty}
    if environment is not None:
        require_environment(environment)
    rewards = read_as_text(rewards_of(reward, needed=environment is None), start, value, **ensemble)
    models = tuple(rewards.models)
    if environment:
        require_turns(iteration, run, rewards)
    require_belonging(start, models, value)
    if c.pretrain_examples and not (text and text.train):
        raise InputError(
            f"{folder}: ppo.pretrain_examples is {c.pretrain_examples} and there is no text; give it some, or 0"
        )
    if environment and c.score_norm != "off":
        raise InputError(
            f"ppo.score_norm is {c.score_norm!r}: what an environment gives a turn is not normalised; set it to 'off'"
        )
    fit = prompts_that_fit(prompts.train, start, "train")
    mixed = {"text": content_sha256(text.train)} if text and c.pretrain_examples else {}
    batch = {"batch": run.runtime.batch} if c.score_norm == "fixed" else {}  # deals out the draws of π_SFT's answers
    weights = {"weights": list(rewards.weights)} if len(rewards.weights) else {}
    code: dict[str, Callable] = {"sample": iteration.sample, "learn": iteration.learn}
    old = None if replay is None else recorded(replay)
    name = folder.name if old is None else old.origin["name"]  # it deals out the draws
    if environment and old is None:
        code["environment"] = partial(play, environment=environment)
    stage = open_stage(
        folder,
        c.iterations,
        start,
        {"ppo": settings_without(c, "iterations"), "answers": answers, "order": order, **batch, **weights}
        | ({"episodes": asdict(episodes)} if environment else {}),
        {
            **parents(start=start, **({"value": value} if value else {})),
            **rewards.inputs,
            "prompts": content_sha256(fit),
            **mixed,
            **({"rollouts": old.sha256()} if old else {}),
        },
        code | (rewards.code if old is None else {}),
        run,
        part=c.part,
        best=run.runtime.best,
        fixed_length=""
        if c.schedule == "constant" or c.iterations <= c.lr_steps
        else f"its {c.schedule} schedule ends after lr_steps = {c.lr_steps}: --anew {folder.name} starts it again, "
        "or train from its end",
    )
    if stage.done():
        return result(stage, start)
    if old is not None:
        require_replayable(old, stage.record, c.iterations)
    mesh, plan = run.mesh.mesh(), c.plan(start)
    batch_of = batches(fit, text, start, c, run, answers, order)
    frozen, value_params, value_model = networks(start, models, value, run, mesh, name, iteration.has_value)
    optimisers = run.optimisers()
    nets = Models(LanguageModel(start.training(run.mesh)), ScalarModel(value_model.training(run.mesh)))
    pieces = {"models": nets, "optimisers": optimisers, "plan": plan, "form": c.form}
    state = initial_state(frozen.sft, value_params, optimisers, run.key(name))
    if c.score_norm == "fixed":
        state = replace(
            state, scores=reference_moments(start, frozen, () if rewards.functions else models, fit, c, run, mesh)
        )
    state = stage.resume(place(state, mesh, run.mesh.rule()))
    frozen, coef = place(frozen, mesh, run.mesh.rule()), place(c.coefficients, mesh)
    if old is not None:
        about = state, frozen, batch_of(0)[1].prompts
        if environment:
            how = reading_of_episodes(pieces, start, episodes, *about, 1)
            pieces["plan"] = plan._replace(max_tokens=episodes.columns(start))
        else:
            how = reading_of(iteration, start, plan, *about, max(len(models), 1))
        for i in range(int(state.step), stage.total):  # before anything is learned
            chosen, batch = batch_of(i)
            read_drawn(old, i + 1, chosen, batch.prompts, how)

        def figures(drawn: Drawn) -> dict[str, float]:
            if environment:
                return episode_metrics(drawn, answers)
            return part_metrics(drawn.parts, answers) if rewards.functions else {}

        program = replayed(iteration, pieces, mesh, run, old, how, figures)
    elif environment:
        program = in_turns(iteration, pieces, mesh, run, start, environment, episodes, rewards, answers)
    elif rewards.functions:
        program = around(iteration, pieces, mesh, run, start, rewards, answers)
    else:
        program = by_models(iteration, pieces, mesh, run)

    def due(i: int, every: int) -> bool:
        return every > 0 and (i == 0 or (i + 1) % every == 0 or i + 1 == stage.total)

    evaluate = evaluation(start, prompts, text, judge, c, run, looks)
    record = recording(folder / ROLLOUTS, folder.name, stage.record, stage.total, run.runtime.record_every)
    for i in stage.steps(int(state.step), rl_watch()):
        chosen, batch = batch_of(i)
        try:
            state, metrics, drawn = program(state, chosen, shard_rows(batch, mesh), coef, frozen)
        except BrokenEnvironmentError:
            stage.failed(i, state, "environment")
            raise
        except RewardError as error:
            there = keep_failure(folder, i, error)
            stage.failed(i, state, error.code, rewards.name_of(error.code))
            raise InputError(f"{error}{there}") from error
        forget_failure(folder)
        look, records, tables = due(i, run.runtime.evaluate_every), due(i, run.runtime.record_every), {}
        if look or records:
            drawn = on_host(drawn._replace(told=()), mesh)._replace(told=drawn.told)
            earned = drawn.parts or dict(zip(rewards.recorded, drawn.scores, strict=not rewards.functions))
            asked, P = batch.prompts, start.format.prompt_tokens
            if environment:  # it begins episodes in its own words
                asked = PromptBatch(drawn.x.tokens[:, :P], drawn.x.mask[:, :P])
        if records:
            record(i + 1, chosen, asked, drawn, earned, start)
        if look:
            tables = {"answers": few(chosen, drawn, earned, start)}
            say(folder.name, i + 1, tables["answers"])
            try:
                with jax.set_mesh(mesh):
                    metrics |= evaluate(whole(getattr(state, c.part), frozen.base, start.lora))
            except InputError:  # of the judge; what was learned is not lost
                stage.log(i, metrics, tables)
                stage.save(i, state, 1)
                raise
        stage.log(i, metrics, tables)
        stage.save(i, state, 1 if look and stage.is_best(metrics) else run.runtime.save_every)
    return result(stage, start)


def rl_watch() -> Watch:
    """Warns of a policy that is lost, and of losses that run away."""
    return Watch(kl=100.0, entropy=0.5, factor=5.0, window=10)


def judged(judge: Judge, prompts: Sequence[Prompt], texts: Sequence[str]) -> dict[str, float]:
    """The figures that a judge gives. InputError: it raises, or gives something else than finite numbers by name."""
    said = asked("the judge", judge, list(prompts), list(texts))
    try:
        figures = {str(name): float(value) for name, value in said.items()}
    except (AttributeError, TypeError, ValueError):
        figures = {"": np.nan}
    if "step" in figures or not np.isfinite(list(figures.values())).all():
        raise InputError(
            f"the judge gave {shortened(said)}; let it give a dict of finite numbers, none of which is called step"
        )
    return figures


def networks(
    start: Trained,
    rewards: Sequence[Trained],
    value: Trained | None,
    run: Run,
    mesh: Mesh,
    role: str,
    has_value: bool = True,
) -> tuple[Frozen, PyTree, Trained]:
    """The models that do not learn; where the value network starts, and whose decoder it has.

    InputError: with LoRA, a reward model or value network that corrects another base; without, reward models and a value
    network of several shapes.
    """
    base = start.lora_base
    for other in (*rewards, *([value] if value else [])):
        if (other.lora_base and other.lora_base.sha256) != (base and base.sha256):
            raise InputError(
                f"{other.folder} and {start.folder} are corrections of different models; train them from one"
            )
    sft, frozen_base = start.start(run, mesh, "policy", run.key(f"{role} corrections"))
    frozen = Frozen(
        sft,
        tuple(model.learned(run.mesh, mesh, "reward") for model in rewards),
        frozen_base,
        start.lora.scale if start.lora else np.float32(1.0),
    )
    like = value or (rewards[0] if rewards else start)
    if any(model.decoder != like.decoder for model in rewards):
        raise InputError("the reward models and the value network have different shapes; give them one")
    if not has_value:
        return frozen, None, like
    if value is not None:
        return frozen, value.learned(run.mesh, mesh, "value"), like
    if rewards:
        return frozen, frozen.reward[0], like
    head = scalar_head(start.decoder, run.key(f"{role} value"))
    fresh = {"lora": sft["lora"], "head": head} if frozen_base is not None else scalar_from_language_model(sft, head)
    return frozen, fresh, like


def batches(
    prompts: Sequence[Prompt], text: Parts[str] | None, model: Trained, c: PPO, run: Run, answers: int, order: str
) -> Callable[[int], tuple[list[Prompt], PPOBatch]]:
    """The batch of iteration i: c.batch prompts, each `answers` times, one after the other, and pretraining rows for each
    row."""
    encoded = encode_prompts(prompts, model.tokenizer, model.format.prompt_tokens)
    rows = packed(text.train, model) if text and c.pretrain_examples else None
    number = run.numpy_seed(order)

    def batch(i: int) -> tuple[list[Prompt], PPOBatch]:
        drawn = batch_indices(len(prompts), c.batch // answers, number, i).repeat(answers)
        x, chosen = take(encoded, drawn), [prompts[int(at)] for at in drawn]
        if rows is None:
            return chosen, PPOBatch(x, None)
        picked = take(rows, batch_indices(len(rows.tokens), c.batch * c.pretrain_examples, number, i))
        by_episode = jax.tree.map(lambda leaf: leaf.reshape(c.batch, c.pretrain_examples, -1), picked)
        return chosen, PPOBatch(x, by_episode)

    return batch


def evaluation(
    model: Trained,
    prompts: Parts[Prompt],
    text: Parts[str] | None,
    judge: Judge | None,
    c: PPO,
    run: Run,
    looks: Sequence[Task] = (),
) -> Callable[[PyTree], dict[str, float]]:
    """How parameters do on validation prompts, validation text and tasks, for the curves."""
    batch = run.runtime.batch
    held = packed(text.valid, model) if text and has_row(text.valid, model) else None
    rows = None if held is None else TextBatch(held.tokens[:batch], held.predict[:batch])
    chosen = prompts_that_fit(prompts.valid, model, "valid")[:batch] if judge else []
    encoded = encode_prompts(chosen, model.tokenizer, model.format.prompt_tokens) if chosen else None

    def evaluate(params: PyTree) -> dict[str, float]:
        figures: dict[str, float] = {}
        if rows is not None:
            total, tokens, _ = per_row(LanguageModel(model.decoder), params, rows, batch=batch)
            figures["pretrain/loss"] = float(-total.sum() / tokens.sum())
        if judge and encoded is not None:
            answers = answers_of(model, params, encoded, run.key("look"), c.sampling, batch)
            figures |= judged(judge, chosen, decoded(model, answers))
        return figures | looked(looks, model, params, run)

    return evaluate


def reference_moments(
    model: Trained,
    frozen: Frozen,
    rewards: Sequence[Trained],
    prompts: Sequence[Prompt],
    c: PPO,
    run: Run,
    mesh: Mesh,
    count: int = 256,
) -> Moments:
    """Of the scores that π_SFT's own answers to training prompts get (Ziegler et al. 2019, code: 256 samples).
    InputError: a reward is a function."""
    if not rewards:
        raise InputError(
            'ppo.score_norm = "fixed" takes reward models, and a reward is a function; set it to "running"'
        )
    encoded, batch = encode_prompts(prompts[:count], model.tokenizer, model.format.prompt_tokens), run.runtime.batch
    params, *each = (whole(p, frozen.base, model.lora) for p in (frozen.sft, *frozen.reward))
    with jax.set_mesh(mesh):
        rows = answers_of(model, params, encoded, run.key("reference scores"), c.sampling, batch).concat()
        scores = [scores_of(m, *rows, batch=batch, params=p) for m, p in zip(rewards, each, strict=True)]
    score: Float[Any, " N"] = ensemble_score(jnp.asarray(np.stack(scores)), c.ensemble, c.uncertainty)
    return seen(nothing_seen(), score)
