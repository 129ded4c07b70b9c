"""The reward model: K = 4..9 answers of the SFT model to each prompt, ranked by labelers; all pairs of a prompt at once.

    python experiments/reward_model.py configs/tiny.toml

InstructGPT, §3.5 and App. C.2. With [files] the rankings are read, and nobody is asked.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from experiments.decoder import language_model, scalar_model, transformer
from experiments.devices import mesh_of, rule, to_load
from experiments.lora import frozen_base, lora_scale, on_base, whole
from experiments.recipe import (
    Config,
    configured,
    kept_by_length,
    material,
    prompts_that_fit,
    role_key,
    role_seed,
    stage,
    tokenizer,
)
from experiments.sft import best_epoch_by_loss, fine_tuned, sft_stage, trained, untrained
from rlhf_jax.data import (
    Demonstration,
    Prompt,
    Ranking,
    batch_indices,
    encode_demonstrations,
    encode_prompts,
    encode_rankings,
    fits,
    prompt_text,
    ranking_fits,
    read_rankings,
    take,
    write_rankings,
)
from rlhf_jax.data.world import Question
from rlhf_jax.equations import pair_accuracy, values
from rlhf_jax.errors import InputError
from rlhf_jax.evals import Estimate, answer, ratio_interval, scores
from rlhf_jax.labelers import Labeler, agreements, rank
from rlhf_jax.models import Sampling, scalar_from_language_model, scalar_head
from rlhf_jax.runtime import Stage, Watch, mapped, place, run, say, shard_rows, write_atomically
from rlhf_jax.steps import TextCoef, adam, centred, reward, reward_step, text_coef
from rlhf_jax.types import RankingBatch, TrainState

AS_IS = Sampling(temperature=1.0, top_k=0, top_p=1.0)


def member_name(member: int) -> str:
    """Of an ensemble, whose models differ in their first head and in the order of their data."""
    return "reward_model" if member == 0 else f"reward_model_{member + 1}"


def first_state(config: Config, language_params: dict, member: int = 0) -> TrainState:
    """From what was trained of the language model."""
    key = role_key(config, member_name(member))
    head = scalar_head(transformer(config), key)
    if config.lora:
        params = {"lora": language_params["lora"], "head": head}
    else:
        params = scalar_from_language_model(language_params, head)
    optimiser = adam(config.optimiser.eps, config.optimiser.clip_norm)
    return TrainState(step=jnp.int32(0), params=params, opt_state=optimiser.init(params), key=key)


def answers_to_rank(config: Config, prompts: list[Prompt], role: str) -> list[tuple[str, ...]]:
    """Up to K different answers of the SFT model to each prompt, K drawn evenly from fewest..most. Where the model
    does not write `fewest` different ones among K + 2 the row is ()."""
    rng = np.random.default_rng(role_seed(config, role))
    Ks = rng.integers(config.reward.fewest, config.reward.most + 1, len(prompts))
    asked = [p for p, K in zip(prompts, Ks, strict=True) for _ in range(K + 2)]
    params = fine_tuned(config, "sft", best_epoch_by_loss(config))
    written = write_answers(config, params, asked, role, AS_IS)
    rows, start = [], 0
    t, length = tokenizer(config), config.model.context
    for prompt, K in zip(prompts, Ks, strict=True):
        # What a barely trained model writes can take more tokens when it is read again.
        drawn = [text for text in written[start : start + K + 2] if text]
        texts = dict.fromkeys(text for text in drawn if fits(Demonstration(prompt.text, text), t, length))
        rows.append(tuple(texts)[:K] if len(texts) >= config.reward.fewest else ())
        start += K + 2
    return rows


def write_answers(config: Config, params: dict, prompts: list[Prompt], role: str, sampling: Sampling) -> list[str]:
    t, c = tokenizer(config), config.evaluate
    written = answer(
        language_model(config),
        params,
        encode_prompts(prompts, t, config.model.prompt_tokens),
        role_key(config, role),
        batch=c.batch,
        max_tokens=config.model.answer_tokens,
        sampling=sampling,
        eos=t.eos,
        pad=t.pad,
    )
    return [t.decode(ids).strip() for ids in written.ids(t.eos)]


def ranked(
    config: Config, labelers: list[Labeler], questions: list[Question], answers: list[tuple[str, ...]], rng
) -> list[Ranking]:
    """Each prompt's answers ranked by a labeler drawn for it; prompts whose answers they find all alike are dropped."""
    truth = material(config).truth
    assert truth is not None
    rows = []
    for question, texts in zip(questions, answers, strict=True):
        labeler = labelers[rng.integers(len(labelers))]
        if texts:
            ranks = rank(labeler, truth.gold, question, texts)
            if len(set(ranks)) > 1:
                rows.append(Ranking(prompt_text(question.text), texts, ranks, labeler.name))
    return rows


@cache
def training_rankings(config: Config) -> list[Ranking]:
    """What the reward model learns from, written to comparisons.jsonl once collected."""
    source = material(config)
    if source.rankings is not None:
        return source.rankings["train"]
    path = Path(config.out) / "reward_model" / "comparisons.jsonl"
    if not path.exists():
        truth = source.truth
        assert truth is not None
        kept = prompts_that_fit(config, "train")[-config.reward.prompts :]  # the last: demonstrations are of the first
        prompts = [source.prompts["train"][i] for i in kept]
        questions = [truth.questions["train"][i] for i in kept]
        texts = answers_to_rank(config, prompts, "comparisons")
        rng = np.random.default_rng(role_seed(config, "labelers"))
        rows = ranked(config, truth.labelers, questions, texts, rng)
        say(
            f"labelers ranked the answers to {len(rows)} of {len(prompts)} prompts; the others had too few different ones"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rankings(path, rows)
    return read_rankings(str(path))


def encoded(config: Config, rankings: list[Ranking]) -> RankingBatch:
    length = config.model.context
    kept = kept_by_length(config, rankings, lambda r, t: ranking_fits(r, t, length), "rankings")
    if not kept:
        raise InputError("no ranking is left to learn from; train the SFT model longer, or read rankings from a file")
    return encode_rankings(kept, tokenizer(config), length, max(len(r.answers) for r in kept))


def reward_stage(config: Config, member: int = 0) -> Stage:
    return stage(
        config,
        member_name(member),
        reward_steps(config),
        config.sections("pretrain", "sft", "reward"),
        {"sft": sft_stage(config, "sft").sha256},
    )


def reward_steps(config: Config) -> int:
    return max(config.reward.epochs * len(training_rankings(config)) // config.reward.batch, 1)


def reward_params(config: Config, member: int = 0) -> dict:
    """The reward model's whole parameters, with its bias set."""
    return whole(config, trained_reward(config, member), frozen_base(config))


def trained_reward(config: Config, member: int = 0, mesh: Mesh | None = None) -> dict:
    """What was trained of it."""
    shapes = jax.eval_shape(lambda: untrained_reward(config))
    return reward_stage(config, member).load(to_load(config, shapes, "reward", mesh))[0].params


def untrained_reward(config: Config) -> TrainState:
    """Of its shapes."""
    return first_state(config, untrained(config, "sft").params)


def reward_models(config: Config) -> None:
    for member in range(config.ppo.reward_models):
        reward_model(config, member)


def reward_model(config: Config, member: int) -> None:
    c, this = config.reward, reward_stage(config, member)
    if not this.finished:
        mesh, rows = mesh_of(config), encoded(config, training_rankings(config))
        model = scalar_model(config, training=True)
        optimiser = adam(config.optimiser.eps, config.optimiser.clip_norm)

        def step(state: TrainState, batch: RankingBatch, coef: TextCoef, base: dict):
            return reward_step(state, batch, coef, model=on_base(model, base, lora_scale(config)), optimiser=optimiser)

        coef, step = place(text_coef(c.lr, this.total, c.floor), mesh), mapped(step, mesh, config.mesh.pmap)
        state = first_state(config, trained(config, "sft", best_epoch_by_loss(config), mesh), member)
        state = this.resume(place(state, mesh, rule(config, "reward")))
        base = frozen_base(config, mesh)
        seed = role_seed(config, member_name(member))
        for i in this.steps(int(state.step), Watch(kl=np.inf, entropy=-np.inf, factor=4.0, window=50)):
            batch = take(rows, batch_indices(len(rows.ranks), c.batch, seed, i))
            state, metrics = step(state, shard_rows(batch, mesh), coef, base)
            this.log(i, values(metrics))
            if i + 1 == this.total:
                state = replace(state, params=centred_on_demonstrations(config, state.params, base, mesh))
            this.save(i, state, config.runtime.save_every)
    measure(config, member)


@cache
def score_rows(config: Config):
    """r_θ of rows x ⊕ y, jitted."""
    return jax.jit(partial(reward, model=scalar_model(config)))


def centred_on_demonstrations(config: Config, params: dict, base: PyTree, mesh: Mesh) -> dict:
    with jax.set_mesh(mesh):
        these = demonstration_scores(config, whole(config, params, base))
    return params | {"head": centred(params["head"], these)} if config.lora else centred(params, these)


def demonstration_scores(config: Config, params: dict) -> jax.Array:
    t, length = tokenizer(config), config.model.context
    rows = encode_demonstrations([d for d in material(config).demonstrations["train"] if fits(d, t, length)], t, length)
    return jnp.asarray(
        scores(score_rows(config), params, rows.tokens, rows.tokens != t.pad, batch=config.evaluate.batch)
    )


def measure(config: Config, member: int) -> None:
    """accuracy.json: how often the reward model agrees with labelers, and labelers with each other, on test prompts."""
    path = Path(config.out) / member_name(member) / "accuracy.json"
    if path.exists():
        return
    params = reward_params(config, member)
    figures = (accuracy_on_files if material(config).truth is None else accuracy_in_world)(config, params)
    write_atomically(path, json.dumps({name: e._asdict() for name, e in figures.items()}, indent=1))
    for name, e in figures.items():
        say(f"{member_name(member)} {name}: {e}")


def accuracy_on_files(config: Config, params: dict) -> dict[str, Estimate]:
    rankings = material(config).rankings
    assert rankings is not None
    figures = {}
    for part in ("valid", "test"):
        rows = encoded(config, rankings[part])
        figures[f"accuracy/{part}"] = accuracy(reward_of(config, params, rows), [rows.ranks])
    return figures


def accuracy_in_world(config: Config, params: dict) -> dict[str, Estimate]:
    """Each test answer is scored once and compared with what every labeler, and the gold formula, says of it."""
    source, truth = material(config), material(config).truth
    assert truth is not None
    asked = [(source.prompts["test"][i], truth.questions["test"][i]) for i in prompts_that_fit(config, "test")]
    asked = asked[: config.evaluate.prompts]
    texts = answers_to_rank(config, [p for p, _ in asked], "test comparisons")
    kept = [(p, q, row) for (p, q), row in zip(asked, texts, strict=True) if row]
    rows = encoded(config, [Ranking(p.text, row, tuple(range(1, len(row) + 1))) for p, _, row in kept])
    score, slots = reward_of(config, params, rows), rows.ranks.shape[1]

    def ranks_by(judge: Callable[[Question, tuple[str, ...]], tuple[int, ...]]) -> np.ndarray:
        return np.array([[*judge(q, row), *[0] * (slots - len(row))] for _, q, row in kept], np.int32)

    figures = {}
    for pool, labelers in (("train", truth.labelers), ("heldout", truth.heldout_labelers)):
        by_labeler = [ranks_by(partial(rank, labeler, truth.gold)) for labeler in labelers]
        figures[f"accuracy/{pool}_labelers"] = accuracy(score, by_labeler)
        figures[f"agreement/{pool}_labelers"] = agreement(by_labeler)
    figures["accuracy/gold"] = accuracy(score, [ranks_by(lambda q, row: best_first([truth.gold(q, a) for a in row]))])
    return figures


def best_first(gold: list[float]) -> tuple[int, ...]:
    order = sorted(set(gold), reverse=True)
    return tuple(order.index(g) + 1 for g in gold)


def reward_of(config: Config, params: dict, rows: RankingBatch) -> np.ndarray:
    """[N, K] scores; those of empty slots mean nothing."""
    N, K, T = rows.tokens.shape
    flat = rows.tokens.reshape(-1, T), rows.mask.reshape(-1, T)
    return scores(score_rows(config), params, *flat, batch=config.evaluate.batch).reshape(N, K)


def accuracy(score: np.ndarray, rankings: list[np.ndarray]) -> Estimate:
    """Share of the pairs that the model orders as a labeler did, over all labelers; the interval is over prompts."""
    each = [jax.vmap(pair_accuracy)(jnp.asarray(score), jnp.asarray(ranks)) for ranks in rankings]
    return ratio_interval(sum(np.asarray(m.total) for m in each), sum(np.asarray(m.count) for m in each))


def agreement(rankings: list[np.ndarray]) -> Estimate:
    """Share of the pairs that two labelers order alike, where both see a difference, over all pairs of labelers."""
    counts = np.array([agreements([r[r > 0].tolist() for r in rows]) for rows in zip(*rankings, strict=True)], float)
    return ratio_interval(counts[:, 0], counts[:, 1])


if __name__ == "__main__":
    run(lambda: reward_models(configured()))
