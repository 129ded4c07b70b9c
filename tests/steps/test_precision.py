"""What half precision does to the numbers that train: log-probabilities, KL, the ratio, gradients; each to a stated bound.

bfloat16 has 8 bits, float16 11: a rounding moves a number by at most 2⁻⁹, or 2⁻¹², of it.
"""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.equations import Mean
from rlhf_jax.errors import InputError
from rlhf_jax.models import LanguageModel, Sampling, ScalarModel, generate, hidden_states, logits, over_logits
from rlhf_jax.steps import (
    SAMPLE,
    Frozen,
    Models,
    clipped,
    join,
    masked_token_loss,
    minibatches,
    next_token_loss,
    policy_loss,
    ppo,
    pretrain_loss,
    reading,
    reward_loss,
    sample,
    text_coef,
    value_loss,
)
from rlhf_jax.steps.optimiser import gradient
from rlhf_jax.types import Experience, MaskedTextBatch, PPOBatch, PromptBatch, RankingBatch, TextBatch
from tests.models.conftest import wild
from tests.steps.conftest import CONFIG as SMALL

CONFIG = replace(SMALL, vocab_size=64, context=24, width=64, layers=2, heads=2, kv_heads=2, hidden=128, tied=False)
P, T, B = 8, 12, 16
UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-12}  # of a rounding
LONG = pytest.mark.long


def at(compute: str, **changes) -> Models:
    config = replace(CONFIG, compute=compute, cache=compute, **changes)
    return Models(LanguageModel(config), ScalarModel(config))


@cache
def params(seed: int):
    """A policy far from its initialisation, whose logits go up to about 20, as a trained model's do."""
    return jax.tree.map(lambda x: 0.4 * x, wild(at("float32").policy, seed))


@cache
def batch() -> PPOBatch:
    rng = np.random.default_rng(0)
    mask = np.arange(P) >= P - rng.integers(1, P + 1, B)[:, None]
    text = rng.integers(2, 64, (B, 2, P + T)).astype(np.int32)
    prompts = PromptBatch(np.where(mask, rng.integers(2, 64, (B, P)), 0).astype(np.int32), mask)
    return PPOBatch(prompts, TextBatch(text, np.ones(text.shape, bool)))


@cache
def written(compute: str):
    """x ⊕ y, its mask, and y as the sampler has it."""

    @jax.jit
    def write(policy, prompts):
        y = generate(at(compute).policy, policy, prompts, jax.random.key(0), T, Sampling(1.0, 0, 1.0), 1, 0)
        return *join(prompts, y), y

    return write(params(1), batch().prompts)


def sampling_key(state):
    return jax.random.fold_in(jax.random.fold_in(state.key, state.step), SAMPLE)


# --- logits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
@pytest.mark.parametrize("cap", [None, 10.0])
def test_logits_are_summed_in_float32(compute, cap):
    """Against the product of the same rounded factors in float64, to float32's accuracy: rounded to 8 bits, a logit of 10
    would be off by up to 1/32. What is read off them in chunks is read off the same."""
    model = at(compute, logit_cap=cap, logit_rows=7).policy
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 64)), compute)
    kernel = np.asarray(params(1)["unembedding"].astype(compute), np.float64)
    expected = np.asarray(hidden, np.float64) @ kernel
    expected = expected if cap is None else cap * np.tanh(expected / cap)
    assert np.abs(expected).max() > 5
    found = logits(model, params(1), hidden)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    chunked = over_logits(lambda l: (l[..., 3], jax.nn.logsumexp(l, axis=-1)), model, [(params(1), hidden)])
    np.testing.assert_allclose(chunked[0], expected[..., 3], atol=1e-5)
    np.testing.assert_allclose(chunked[1], np.log(np.exp(expected).sum(axis=-1)), atol=1e-5)


# --- log-probabilities, KL, ratio -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compute", "bound"), [("float32", 1e-5), ("bfloat16", 0.05), ("float16", 0.005)])
def test_the_sampler_and_the_learner_agree(compute, bound):
    """Decoding with a cache and reading the whole answer: the same log-probability of each token but for roundings, some of
    which depend on how a machine cuts up its products."""
    tokens, mask, y = written(compute)
    read = jax.jit(partial(reading, model=at(compute).policy))(params(1), tokens, mask, y)
    apart = np.asarray(read.logp - y.logp)[np.asarray(y.mask)]
    print(
        f"{compute}: learner's log-probability − sampler's at most {np.abs(apart).max():.1e}, deviation {apart.std():.1e}"
    )
    assert np.abs(apart).max() < bound


@pytest.mark.parametrize(
    ("compute", "cache"),
    [
        pytest.param("float32", "float32", marks=LONG),
        pytest.param("float32", "bfloat16", marks=LONG),
        ("bfloat16", "bfloat16"),
    ],
)
def test_the_ratio_of_the_first_minibatch_is_one(tiny, compute, cache):
    """Within 1e-5 for every token, as the gradient's program has it. A sampler whose keys are rounded to bfloat16 is further
    off."""
    config = replace(CONFIG, layers=1, compute=compute, cache=cache, micro_batches=2)
    models = Models(LanguageModel(config), ScalarModel(config))
    policy, sft = (jax.tree.map(lambda x: 0.3 * x, wild(models.policy, seed)) for seed in (1, 2))
    plan = tiny.plan._replace(max_tokens=T, minibatches=4)
    prompts = jax.tree.map(lambda x: np.tile(x, (4, 1)), batch().prompts)
    write = jax.jit(partial(sample, models=models, plan=plan))
    x = write(tiny.state.replace(policy=policy), prompts, Frozen(sft))
    drawn = jax.jit(lambda p: generate(models.policy, policy, p, sampling_key(tiny.state), T, plan.sampling, 1, 0))(
        prompts
    )
    np.testing.assert_array_equal(drawn.tokens, x.y.tokens)
    adv = jnp.ones(x.y.mask.shape)
    experience = minibatches(
        jax.random.key(0), Experience(x.tokens, x.mask, x.y, x.logp_sft, None, adv, None, None), 1, 4
    )

    def measured(logp, logp_old, advantages, mask, coef):
        losses, metrics = clipped(logp, logp_old, advantages, mask, coef)
        return losses, metrics | {
            "apart": Mean(jnp.max(jnp.abs(logp - logp_old), where=mask, initial=0), jnp.float32(1))
        }

    loss = partial(policy_loss, model=models.policy, form=tiny.form, objective=measured)
    first = jax.tree.map(lambda leaf: leaf[0], experience)
    _, metrics = jax.jit(jax.grad(loss, has_aux=True))(policy, first, tiny.coef)
    apart = float(metrics["apart"].total)
    sampler = float(np.abs(drawn.logp - x.y.logp)[np.asarray(x.y.mask)].max())
    print(
        f"{compute}, cache {cache}: |log ratio| at most {apart:.1e}; of the sampler's log-probabilities {sampler:.1e}"
    )
    assert apart < 1e-5
    if cache != compute:
        assert sampler > 1e-4


def test_answers_are_read_as_the_learner_reads_them(tiny, monkeypatch):
    """As many rows at a time: how a product is cut up, and so how it rounds, depends on its shape."""
    models, seen = at("bfloat16", micro_batches=2), []

    def watched(model, params, tokens, *arguments, **named):
        seen.append(len(tokens))
        return hidden_states(model, params, tokens, *arguments, **named)

    monkeypatch.setattr(ppo, "hidden_states", watched)
    plan = tiny.plan._replace(max_tokens=T, minibatches=4)
    state, frozen = tiny.state.replace(policy=params(1)), Frozen(params(2))
    write = partial(sample, models=models, plan=plan)
    jax.eval_shape(lambda s, p: jax.tree.leaves(write(s, p, frozen)), state, batch().prompts)
    sampled, seen[:] = set(seen), []
    tokens, mask, y = jax.tree.map(lambda leaf: leaf[: B // 4], written("float32"))
    experience = Experience(tokens, mask, y, y.logp, None, y.logp, None, None)
    loss = partial(policy_loss, model=models.policy, form=tiny.form)
    jax.eval_shape(jax.grad(lambda p: loss(p, experience, tiny.coef)[0]), params(1))
    assert sampled == set(seen) == {B // 4 // 2}


@pytest.mark.parametrize("compute", ["bfloat16", pytest.param("float16", marks=LONG)])
def test_the_kl_in_half_precision(compute):
    """KL(π‖π) is 0 to the last bit; KL(π‖π_SFT) a token is float32's but for roundings of its log-probabilities, whose size
    is a unit times that of a dozen sums over 64 numbers; and on average they cancel."""
    tokens, mask, y = written("float32")
    off, exact = {}, None
    for each in ("float32", compute):
        read = jax.jit(partial(reading, model=at(each).policy))
        one = read(params(1), tokens, mask, y, reference=params(1))
        np.testing.assert_array_equal(one.logp, one.logp_ref)
        np.testing.assert_allclose(one.kl_exact, 0.0, atol=1e-6)
        two = read(params(1), tokens, mask, y, reference=params(2))
        off[each] = np.asarray(two.logp - two.logp_ref)[np.asarray(y.mask)]
        exact = two.kl_exact if each == "float32" else exact
    error = off[compute] - off["float32"]
    print(
        f"{compute}: KL a token off by {error.std():.1e} of {off['float32'].std():.1e}, on average by {error.mean():.1e}"
    )
    assert error.std() < 25 * UNIT[compute]
    assert abs(error.mean()) < 0.02 * off["float32"].mean()


RATED, RATE = ("text", "masked text", "rankings"), text_coef(0.1, 10, 0.1)

# --- gradients --------------------------------------------------------------------------------------------------------


def losses(models: Models, form):
    """Every loss that trains, with its batch."""
    tokens, mask, y = written("float32")
    rng = np.random.default_rng(1)
    adv, logp_sft, values, returns = rng.normal(size=(4, B, T)).astype(np.float32)
    x = Experience(tokens, mask, y, jnp.asarray(logp_sft), values, jnp.asarray(adv), returns, None)
    text = jax.tree.map(lambda leaf: leaf[:, 0], batch().pretrain)
    hidden = MaskedTextBatch(np.where(np.arange(P + T) == 3, 0, text.tokens), text.tokens, text.predict)
    ranks = np.tile(np.arange(4, dtype=np.int32), (B // 4, 1))
    rankings = RankingBatch(*(np.asarray(each).reshape(B // 4, 4, -1) for each in (tokens, mask)), ranks)
    return {
        "policy": (partial(policy_loss, model=models.policy, form=form, reference=params(2)), x),
        "pretraining": (partial(pretrain_loss, model=models.policy, form=form), batch().pretrain),
        "value": (partial(value_loss, model=models.value), x),
        "text": (partial(next_token_loss, model=models.policy), text),
        "masked text": (partial(masked_token_loss, model=models.policy), hidden),
        "rankings": (partial(reward_loss, model=models.value), rankings),
    }


@pytest.mark.parametrize(
    "name",
    ["policy", "value", *(pytest.param(n, marks=LONG) for n in ("pretraining", "text", "masked text", "rankings"))],
)
def test_gradients_in_bfloat16(tiny, name):
    """Within 5 % of float32's, as one vector, and in float32 themselves."""
    form, coef = tiny.form._replace(kl_loss="exact"), tiny.coef._replace(beta_loss=jnp.float32(0.3))
    found = {}
    for compute in ("float32", "bfloat16"):
        models = at(compute)
        loss, rows = losses(models, form)[name]
        scalar = name in ("value", "rankings")
        given = jax.tree.map(lambda x: 0.4 * x, wild(models.value, 3)) if scalar else params(1)
        grads = jax.jit(jax.grad(loss, has_aux=True))(given, rows, RATE if name in RATED else coef)[0]
        assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
        found[compute] = np.concatenate([np.ravel(x) for x in jax.tree.leaves(grads)])
    error = np.linalg.norm(found["bfloat16"] - found["float32"]) / np.linalg.norm(found["float32"])
    print(f"{name}: the gradient in bfloat16 is {error:.1e} of its length off")
    assert 0 < error < 0.05


@pytest.mark.parametrize("name", ["policy", pytest.param("rankings", marks=LONG)])
def test_training_in_float16_is_refused(tiny, name):
    """Its numbers end at 6e-8, below most of a gradient. float16 is for sampling and reading."""
    loss, rows = losses(at("float16"), tiny.form)[name]
    model = at("float16").policy if name == "policy" else at("float16").value
    with pytest.raises(InputError, match=r"compute is float16.*bfloat16"):
        gradient(loss, model)(params(1), rows, tiny.coef)
