"""Where TRL's conventions are not ours, and by how much: the figures of docs/from_trl.md, measured.

TRL's own trainers are asked where they are installed: SFT, Reward and DPO of 1.16, and PPO of 1.12, the last release with a
PPOTrainer (pip install trl==1.12.0 into a folder of its own, and PYTHONPATH).
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.equations import (
    averaged,
    constant,
    cosine,
    gae,
    kl_k2,
    kl_k3,
    linear_decay,
    row_sums,
    token_rewards,
    values,
    whiten,
)
from rlhf_jax.models import LanguageModel, Sampling, ScalarModel, load_pretrained
from rlhf_jax.stages import PPO
from rlhf_jax.steps import (
    Frozen,
    Models,
    Optimisers,
    Plan,
    PreferenceCoef,
    Rollout,
    adam,
    answer_logps,
    descend,
    divergences,
    dpo,
    initial_state,
    join,
    learn,
    policy_step,
    preference_step,
    reading,
    response_values,
    reward_scores,
    reward_step,
    text_coef,
    text_step,
    training_score,
    value_step,
)
from rlhf_jax.types import (
    Experience,
    PairBatch,
    PPOState,
    PromptBatch,
    RankingBatch,
    Response,
    TextBatch,
    TrainState,
)
from tests.steps.conftest import EOS, PAD

pytestmark = pytest.mark.usefixtures("types_are_not_checked")

LR = 1e-3
ADAMW = Optimisers(*(adam(1e-8, np.inf, 0.9, 0.999) for _ in range(2)))  # torch's constants, and no clipping
C = PPO(
    batch=8,
    minibatches=1,
    beta=0.05,
    lr=LR,
    value_lr=LR,
    warmup=0,
    whiten="unbiased",
    missing_eos_penalty=1.0,
).plain()


class Setting(NamedTuple):
    """What one update starts from: models, the answers, their scores, and the state before."""

    models: Models
    x: Rollout
    scores: jax.Array
    frozen: Frozen
    state: PPOState


def setting(models: Models, policy, value, frozen: Frozen, prompts: PromptBatch, tokens, eos: int) -> Setting:
    """Answers [B, T] to prompts: up to the first EOS or to the end."""
    ends = tokens == eos
    mask = jnp.asarray(np.cumsum(ends, axis=1) - ends == 0)
    blank, ones = jnp.zeros(mask.shape, jnp.float32), jnp.ones(len(tokens), jnp.float32)
    y = Response(jnp.where(mask, jnp.asarray(tokens, jnp.int32), PAD), mask, blank, ones, None)
    joined = join(prompts, y)
    read = jax.jit(partial(reading, model=models.policy))(policy, *joined, y, reference=frozen.sft)
    x = Rollout(
        *joined, replace(y, logp=read.logp), jnp.asarray(ends.any(axis=1)), divergences(read, mask), read.logp_ref
    )
    scores = jax.jit(partial(reward_scores, model=models.value))(x, frozen)
    return Setting(models, x, scores, frozen, initial_state(policy, value, ADAMW, jax.random.key(0)))


@partial(jax.jit, static_argnames=("models", "epochs"))
def _ours(models: Models, epochs: int, x: Rollout, scores, coef, frozen: Frozen, state: PPOState):
    plan = Plan(x.y.tokens.shape[1], Sampling(1.0, 0, 1.0), epochs, 1, EOS, PAD)
    fixed = {"models": models, "optimisers": ADAMW, "plan": plan, "form": C.form}
    return learn(state, x, scores, None, coef, frozen, **fixed)


def ours(s: Setting, c: PPO = C) -> tuple[PPOState, dict[str, float]]:
    """One iteration: the score at the last token, and an episode of the answer's tokens."""
    state, metrics = _ours(s.models, c.epochs, s.x, s.scores, c.coefficients, s.frozen, s.state)
    return state, {name: float(value) for name, value in values(metrics).items()}


@partial(jax.jit, static_argnames="models")
def _as_trl(models: Models, x: Rollout, scores, frozen: Frozen, state: PPOState) -> PPOState:
    mask = x.y.mask
    T = mask.shape[1]
    episode = jnp.arange(T)[None] <= jnp.sum(mask, axis=1, keepdims=True)  # one column more, where there is room
    score, _ = training_score(scores, x.ended, state.scores, C.coefficients, C.form)
    V = response_values(state.value, x.tokens, x.mask, T, model=models.value)
    adv, returns = gae(token_rewards(score, x.kl["k1"], C.beta, episode), V, episode, C.discount, C.lam)
    adv = whiten(adv, mask, unbiased=True)
    batch = Experience(x.tokens, x.mask, x.y, x.logp_sft, V, adv, returns, None)
    state, _ = policy_step(state, batch, C.coefficients, model=models.policy, optimiser=ADAMW.policy, form=C.form)
    batch = replace(batch, response=replace(x.y, mask=episode))
    return value_step(state, batch, C.coefficients, model=models.value, optimiser=ADAMW.value)[0]


def as_trl(s: Setting) -> PPOState:
    """The same update with TRL's conventions: the score stands one column after the last token, where the value of that
    state is kept and learned."""
    return _as_trl(s.models, s.x, s.scores, s.frozen, s.state)


def apart(a, b) -> tuple[float, float]:
    """Largest and root mean square difference of parameters in learning rates, which are Adam's first steps. TRL's value head
    has no bias."""

    def of(tree):
        return {k: v for k, v in tree.items() if k != "bias"}

    both = zip(jax.tree.leaves(of(a)), jax.tree.leaves(of(b)), strict=True)
    off = np.concatenate([np.abs(np.asarray(x) - np.asarray(y)).ravel() for x, y in both]) / LR
    return float(off.max()), float(np.sqrt((off**2).mean()))


@pytest.fixture(scope="module")
def miniature(tiny) -> Setting:
    """The steps' tiny models, with made-up answers, seven of which end before the last column."""
    rng, lengths = np.random.default_rng(1), np.array([5, 2, 3, 4, 1, 4, 2, 3])
    tokens = rng.integers(2, 11, (8, 5))
    tokens[np.arange(8)[1:], lengths[1:] - 1] = EOS
    models = tiny.models
    return setting(models, tiny.state.policy, tiny.state.value, tiny.frozen, tiny.batch.prompts, tokens, EOS)


@pytest.mark.long
def test_the_place_of_the_score_moves_parameters_by_up_to_two_steps(miniature):
    """Two, where a gradient's sign is another one."""
    (here, _), there = ours(miniature), as_trl(miniature)
    for name in ("policy", "value"):
        largest, root = apart(getattr(here, name), getattr(there, name))
        assert largest == pytest.approx(2.0, abs=0.01) and 0.05 < root < 1.0, name


def test_where_no_answer_ends_before_the_last_column_the_conventions_are_one(miniature):
    tokens = np.random.default_rng(2).integers(2, 11, (8, 5))
    s, state = miniature, miniature.state
    prompts = PromptBatch(np.asarray(s.x.tokens[:, :4]), np.asarray(s.x.mask[:, :4]))
    s = setting(s.models, state.policy, state.value, s.frozen, prompts, tokens, EOS)
    (here, _), there = ours(s), as_trl(s)
    for name in ("policy", "value"):
        assert apart(getattr(here, name), getattr(there, name))[0] < 1e-2


def test_the_value_head_s_bias_moves_by_a_step(miniature):
    moved = ours(miniature)[0].value["bias"] - miniature.state.value["bias"]
    assert abs(float(moved)) == pytest.approx(LR, rel=1e-3)


def test_vf_coef_does_not_change_what_the_value_network_learns(miniature):
    """Adam divides it out, here and there."""
    one, other = (ours(miniature, replace(C, value_coef=x))[0].value for x in (0.1, 1.0))
    assert apart(one, other)[0] < 0.05  # a tenth of a gradient is nearer to Adam's eps


# TRL's trainers.


def their_tokenizer():
    """Words with spaces between: w1, w3 … w31, PAD 0 and EOS 2."""
    import tokenizers
    import transformers

    ids = {{0: "<pad>", 2: "<eos>"}.get(i, f"w{i}"): i for i in range(32)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="w3"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def their_config():
    """A Llama of 32 numbers."""
    import transformers

    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": 1}
    more = {"num_key_value_heads": 2, "max_position_embeddings": 64, "attn_implementation": "eager"}
    return transformers.LlamaConfig(**size, **ids, **more)


PLAIN = {"bf16": False, "gradient_checkpointing": False, "report_to": "none", "use_cpu": True, "save_strategy": "no"}


@pytest.fixture(scope="module")
def their_ppo(tmp_path_factory):
    """epochs → one iteration of PPOTrainer with Llamas of 32 numbers: the setting that it started from, the models after it,
    and what it logged."""
    environment = pytest.MonkeyPatch()
    environment.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    trl = pytest.importorskip("trl.experimental.ppo", reason="TRL has no PPOTrainer; the last was trl==1.12.0")
    made = {}

    def run(epochs: int) -> SimpleNamespace:
        if epochs not in made:
            made[epochs] = iteration_of(trl, epochs, tmp_path_factory.mktemp("trl"))
        return made[epochs]

    yield run
    environment.undo()


def iteration_of(trl, epochs: int, folder: Path) -> SimpleNamespace:
    import torch
    import transformers
    from datasets import Dataset
    from trl.experimental.ppo import ppo_trainer

    kinds = {
        "policy": "CausalLM",
        "ref": "CausalLM",
        "value": "SequenceClassification",
        "reward": "SequenceClassification",
    }
    nets = {}
    for seed, (name, kind) in enumerate(kinds.items()):
        torch.manual_seed(seed)
        nets[name] = getattr(transformers, f"LlamaFor{kind}")(their_config())
        with torch.no_grad():
            for path, p in nets[name].named_parameters():
                spread = 0.15 if "lm_head" in path or "embed" in path else 0.1
                p.copy_(spread * torch.randn_like(p) + (1.0 if p.ndim == 1 else 0.0))
        nets[name].save_pretrained(folder / name)
    rng, logged, drawn = np.random.default_rng(0), [], []
    queries = [rng.integers(3, 32, n).tolist() for n in (5, 3, 4, 5, 2, 5, 3, 4)]
    lengths, answers = np.array([8, 3, 5, 8, 2, 6, 4, 8]), rng.integers(3, 32, (8, 8))
    answers[np.arange(8)[lengths < 8], lengths[lengths < 8] - 1] = 2
    answers = np.where(np.arange(8) < lengths[:, None], answers, 0)

    def generation(model, given, *_):
        """These answers, in the order of the prompts, and the policy's logits of them."""
        rows = [queries.index([int(i) for i in row if i]) for row in given]
        both = torch.cat([given, torch.tensor(answers[rows])], dim=1)
        drawn.append((given.numpy(), answers[rows]))
        return both, ppo_trainer.forward(model, both, 0).logits[:, given.shape[1] - 1 : -1]

    args = trl.PPOConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=8,
        num_ppo_epochs=epochs,
        total_episodes=8,
        response_length=8,
        temperature=1.0,
        stop_token_id=2,
        learning_rate=LR,
        kl_coef=C.beta,
        missing_eos_penalty=C.missing_eos_penalty,
        num_sample_generations=0,
        **PLAIN,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo_trainer, "batch_generation", generation)
        rows = Dataset.from_list([{"input_ids": query} for query in queries])
        trainer = trl.PPOTrainer(
            args, their_tokenizer(), nets["policy"], nets["ref"], nets["reward"], rows, nets["value"]
        )
        trainer.log = lambda metrics, *_: logged.append(dict(metrics))
        trainer.train()
    after = {}
    for name in ("policy", "value"):
        nets[name].save_pretrained(folder / f"{name}_after")
        after[name] = load_pretrained(folder / f"{name}_after", scalar=name == "value").params
    read = {name: load_pretrained(folder / name, scalar="Sequence" in kind) for name, kind in kinds.items()}
    models = Models(LanguageModel(read["policy"].config), ScalarModel(read["value"].config))
    frozen = Frozen(read["ref"].params, (read["reward"].params,))
    ((asked, said),) = drawn
    prompts = PromptBatch(asked.astype(np.int32), asked != 0)
    s = setting(models, read["policy"].params, read["value"].params, frozen, prompts, said, 2)
    return SimpleNamespace(setting=s, log=logged[0], **after)


@pytest.mark.long
@pytest.mark.slow
def test_with_its_conventions_one_update_is_trl_s_and_with_ours_it_is_not(their_ppo):
    them = their_ppo(1)
    same, (other, logged) = as_trl(them.setting), ours(them.setting)
    found = {}
    for name in ("policy", "value"):
        assert apart(getattr(same, name), getattr(them, name))[0] < 0.01, name
        found[name] = apart(getattr(other, name), getattr(them, name))
    print(f"\nin learning rates, largest and root mean square: {found}")
    assert found["policy"] == pytest.approx((2.0, 0.15), abs=0.01)
    assert found["value"] == pytest.approx((2.0, 0.49), abs=0.01)
    alike = ("objective/kl", "objective/entropy", "objective/scores", "objective/rlhf_reward")
    for name in (*alike, "objective/non_score_reward", "lr", "episode"):
        assert logged[name] == pytest.approx(them.log[name], rel=1e-5), name


@pytest.mark.long
@pytest.mark.slow
def test_trl_s_figures_count_padding(their_ppo):
    """After two updates, whose second has moved: padding has a log-ratio of 0, a ratio of 1, and an entropy of its own."""
    them, mask = their_ppo(2), np.asarray(their_ppo(2).setting.x.y.mask)
    _, logged = ours(them.setting, replace(C, epochs=2))
    share = mask.mean()
    ratio = (share * logged["val/ratio"] + (1 - share), them.log["val/ratio"])
    print(f"\n{share:.3f} of the columns are answers; approxkl {logged['policy/approxkl_avg']:.3g}, TRL's", end=" ")
    print(f"{them.log['policy/approxkl_avg']:.3g}; entropy {logged['policy/entropy_avg']:.4f},", end=" ")
    print(f"TRL's {them.log['policy/entropy_avg']:.4f}; ratio {logged['val/ratio']:.4f}, TRL's {ratio[1]:.4f}")
    assert 0.6 < share < 0.8
    assert them.log["policy/approxkl_avg"] == pytest.approx(share * logged["policy/approxkl_avg"], rel=0.02)
    assert ratio[0] == pytest.approx(ratio[1], abs=2e-3)
    assert abs(them.log["policy/entropy_avg"] - logged["policy/entropy_avg"]) > 0.005


# What a stage learns with.


def test_adamw_is_torch_s_with_torch_s_constants_and_clipping():
    """Five updates with decay, of gradients that are cut; torch divides by the norm + 1e-6."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = rng.normal(size=(3, 4)).astype(np.float32)
    gradients = 10 * rng.normal(size=(5, 3, 4)).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(start))
    optimiser = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    own = adam(1e-8, 1.0, 0.9, 0.999, weight_decay=0.1)
    params = {"kernel": jnp.asarray(start)}
    state = own.init(params)
    for g in gradients:
        theirs.grad = torch.tensor(g)
        norm = torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        optimiser.step()
        params, state, size = descend(own, {"kernel": jnp.asarray(g)}, state, params, 0.1)
        assert float(norm) == pytest.approx(float(size), rel=1e-6)
    np.testing.assert_allclose(params["kernel"], theirs.detach().numpy(), atol=1e-5)  # float32 has 1 − 0.999 to 6e-5


def test_what_b2_makes_of_a_hundred_updates():
    """Gradients of a mean of 0.1 and a deviation of 1: how far apart 0.95 and 0.999 end, as a share of the way."""
    rng = np.random.default_rng(0)
    gradients = jnp.asarray(0.1 + rng.normal(size=(100, 1000)), jnp.float32)

    def end(b2: float) -> np.ndarray:
        own, params = adam(1e-8, np.inf, 0.9, b2), {"kernel": jnp.zeros(1000)}

        def step(carry, g):
            params, state = carry
            return descend(own, {"kernel": g}, state, params, 1.0)[:2], None

        (params, _), _ = jax.lax.scan(step, (params, own.init(params)), gradients)
        return np.asarray(params["kernel"])

    ours_end, theirs_end = end(0.95), end(0.999)
    share = np.linalg.norm(ours_end - theirs_end) / np.linalg.norm(theirs_end)
    print(f"\nb2: {share:.3f} of the way apart")
    assert share == pytest.approx(0.044, abs=0.01)


def factors(shape, n: int, floor: float, warmup: int) -> np.ndarray:
    return np.array([float(shape(i, float(n), floor, float(warmup))) for i in range(n)])


def test_schedules_are_transformers_but_for_the_ends():
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")

    def theirs(name: str, n: int, warmup: int) -> np.ndarray:
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = transformers.get_scheduler(name, optimiser, num_warmup_steps=warmup, num_training_steps=n)
        rates = []
        for _ in range(n):
            rates.append(schedule.get_last_lr()[0])
            optimiser.step()
            schedule.step()
        return np.array(rates)

    np.testing.assert_allclose(factors(linear_decay, 100, 0.01, 0), theirs("linear", 100, 0), atol=1e-6)
    assert np.abs(factors(linear_decay, 100, 0.0, 0) - theirs("linear", 100, 0)).max() == pytest.approx(0.01, abs=1e-6)
    cosines = factors(cosine, 100, 0.0, 0), theirs("cosine", 100, 0)
    assert np.abs(cosines[0] - cosines[1]).max() == pytest.approx(0.0091, abs=0.0002)
    # A warm-up of ten steps: theirs begins at 0, ours at a tenth; both are at the peak before and after the tenth.
    warm = theirs("constant_with_warmup", 20, 10)
    assert warm[0] == 0.0 and warm[9] == pytest.approx(0.9) and warm[10] == 1.0
    here = factors(constant, 20, 0.0, 10)
    assert here[0] == pytest.approx(0.1) and here[9] == here[10] == 1.0
    np.testing.assert_allclose(here[:-1], warm[1:], atol=1e-6)


@pytest.mark.parametrize("n", [8, 64, 512])
def test_whitening_by_the_unbiased_variance(n):
    x, mask = jnp.asarray(np.random.default_rng(0).normal(size=(1, n)), jnp.float32), jnp.ones((1, n), bool)
    share = whiten(x, mask, unbiased=True) / whiten(x, mask)
    np.testing.assert_allclose(share, np.sqrt((n - 1) / n), rtol=1e-5)


# The group methods' losses, at the ratio of 1 that an iteration begins with.


def test_the_gradient_of_trl_s_corrected_kl_is_that_of_k2():
    """GRPOConfig.use_bias_correction_kl: k3 times the ratio."""
    rng = np.random.default_rng(0)
    logp, ref = (jnp.asarray(-rng.exponential(size=50), jnp.float32) for _ in range(2))
    corrected = jax.grad(lambda x: jnp.sum(kl_k3(x, ref) * jnp.exp(x - logp)))(logp)
    np.testing.assert_allclose(corrected, jax.grad(lambda x: jnp.sum(kl_k2(x, ref)))(logp), atol=1e-5)
    plain = jax.grad(lambda x: jnp.sum(kl_k3(x, ref)))(logp)
    assert float(jnp.abs(plain - corrected).max()) > 0.1


def test_the_gradient_of_rloo_s_whole_ratios_is_that_of_the_constant_mean():
    """TRL clips one ratio an answer. At 1 its gradient is T times that of ratios a token under policy_mean = "constant"."""
    rng, T = np.random.default_rng(0), 6
    mask = jnp.asarray(np.arange(T) < np.array([6, 2, 4])[:, None])
    old = jnp.asarray(-rng.exponential(size=(3, T)), jnp.float32)
    A = jnp.asarray(rng.normal(size=(3, 1)), jnp.float32)

    def of_answers(logp):
        return jnp.mean(-A[:, 0] * jnp.exp(row_sums(logp - old, mask)))

    def of_tokens(logp, over):
        return averaged(-A * jnp.exp(logp - old), mask, over).value

    theirs = jax.grad(of_answers)(old)
    np.testing.assert_allclose(T * jax.grad(of_tokens)(old, "constant"), theirs, atol=1e-6)
    by_token = jax.grad(of_tokens)(old, "token")
    cosine_between = jnp.vdot(by_token, theirs) / (jnp.linalg.norm(by_token) * jnp.linalg.norm(theirs))
    assert float(cosine_between) == pytest.approx(1.0, abs=1e-6)  # of one batch they differ in size alone
    by_answer = jax.grad(of_tokens)(old, "answer")
    assert float(jnp.vdot(by_answer, theirs)) < 0.98 * float(jnp.linalg.norm(by_answer) * jnp.linalg.norm(theirs))


# TRL's other trainers: three updates each.

STEPS = 3
RATE = text_coef(LR, STEPS, 1 / STEPS)


@pytest.fixture(scope="module")
def their_trainer(tmp_path_factory):
    """(trainer, config, model's class, rows, settings) → our parameters before, our module, and their parameters after."""
    pytest.importorskip("trl", minversion="1.16", reason="TRL is not installed: pip install trl")
    import torch
    import transformers
    import trl
    from datasets import Dataset

    def run(name: str, kind: str, rows: list[dict], **more):
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        net = getattr(transformers, f"LlamaFor{kind}")(their_config())
        net.save_pretrained(folder / "before")
        net.config._name_or_path = str(folder / "before")  # where DPOTrainer reads its reference
        args = getattr(trl, f"{name}Config")(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=len(rows),
            max_steps=STEPS,
            learning_rate=LR,
            **PLAIN,
            **more,
        )
        dataset = Dataset.from_list(rows)
        trainer = getattr(trl, f"{name}Trainer")(
            net, args=args, train_dataset=dataset, processing_class=their_tokenizer()
        )
        trainer.train()
        net.save_pretrained(folder / "after")
        scalar = kind == "SequenceClassification"
        before = load_pretrained(folder / "before", scalar=scalar)
        return before.config, before.params, load_pretrained(folder / "after", scalar=scalar).params

    return run


def texts(prompts: list[list[int]], answers: list[list[int]], length: int = 12) -> TextBatch:
    tokens, predict = np.zeros((len(prompts), length), np.int32), np.zeros((len(prompts), length), bool)
    for i, (x, y) in enumerate(zip(prompts, answers, strict=True)):
        tokens[i, : len(x) + len(y)] = x + y
        predict[i, len(x) : len(x) + len(y)] = True
    return TextBatch(tokens, predict)


def drawn(lengths) -> list[list[int]]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(3, 32, n).tolist() for n in lengths]


PROMPTS, CHOSEN, REJECTED = drawn((4, 2, 5, 3)), drawn((3, 6, 2, 4)), drawn((5, 1, 4, 6))
OPTIMISER = adam(1e-8, 1.0, 0.9, 0.999)


def trained_by(step, params, batch, coef, **fixed):
    state = TrainState(jnp.int32(0), params, OPTIMISER.init(params), jax.random.key(0))
    one = jax.jit(partial(step, optimiser=OPTIMISER, schedule="linear", **fixed))
    for _ in range(STEPS):
        state, _ = one(state, batch, coef)
    return state.params


@pytest.mark.long
@pytest.mark.slow
def test_three_updates_of_sft(their_trainer):
    rows = [
        {"input_ids": x + y, "completion_mask": [0] * len(x) + [1] * len(y)}
        for x, y in zip(PROMPTS, CHOSEN, strict=True)
    ]
    config, before, after = their_trainer("SFT", "CausalLM", rows, completion_only_loss=True)
    found = trained_by(text_step, before, texts(PROMPTS, CHOSEN), RATE, model=LanguageModel(config))
    assert apart(before, after)[0] > 1.5
    assert apart(found, after)[0] < 0.01


@pytest.mark.long
@pytest.mark.slow
def test_three_updates_of_a_reward_model(their_trainer):
    pairs = list(zip(PROMPTS, CHOSEN, REJECTED, strict=True))
    rows = [{"chosen_ids": x + a, "rejected_ids": x + b} for x, a, b in pairs]
    config, before, after = their_trainer("Reward", "SequenceClassification", rows)
    sides = [texts(PROMPTS, side).tokens for side in (CHOSEN, REJECTED)]
    tokens = np.stack(sides, axis=1)
    batch = RankingBatch(tokens, tokens > 0, np.tile(np.array([1, 2], np.int32), (4, 1)))
    found = trained_by(reward_step, before, batch, RATE, model=ScalarModel(config))
    assert apart(before, after)[0] > 1.5
    assert apart(found, after)[0] < 0.01


@pytest.mark.long
@pytest.mark.slow
def test_three_updates_of_dpo(their_trainer):
    """It takes text alone, and puts an EOS behind each answer."""

    def text(ids: list[int]) -> str:
        return "".join(f"w{i} " for i in ids)

    rows = [
        {"prompt": text(x), "chosen": text(a), "rejected": text(b)}
        for x, a, b in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
    ]
    config, before, after = their_trainer("DPO", "CausalLM", rows)
    model = LanguageModel(config)
    sides = [texts(PROMPTS, [[*answer, 2] for answer in side]) for side in (CHOSEN, REJECTED)]
    reference = [answer_logps(before, side, model=model, per_token=False)[0] for side in sides]
    coef = PreferenceCoef(*(np.float32(x) for x in (0.1, 0, 0, 0)), rate=RATE)
    fixed = {"model": model, "objective": dpo, "per_token": False}
    found = trained_by(preference_step, before, PairBatch(*sides, *reference), coef, **fixed)
    assert apart(before, after)[0] > 1.5
    assert apart(found, after)[0] < 0.01
