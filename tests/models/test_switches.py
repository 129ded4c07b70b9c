"""Switches that say how a model computes, not what: each against the plain way, and against formulas."""

import math
from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from rlhf_jax.errors import InputError
from rlhf_jax.models import (
    Adapted,
    LanguageModel,
    Rope,
    Sampling,
    ScalarModel,
    empty_cache,
    generate,
    hidden_states,
    init_lora,
    logits,
    merge_lora,
    scalars,
    stack_blocks,
    unstack_blocks,
)
from rlhf_jax.models.attention import attend
from rlhf_jax.models.rope import Dynamic, Linear, Llama3, LongRope, Yarn, frequencies, rotate
from rlhf_jax.types import PromptBatch
from tests.models.conftest import GPT2, LLAMA, wild

LONG = pytest.mark.long
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0)
PAD, NEVER = 0, -1
NEW = 8  # tokens written
SLIDING = replace(
    LLAMA, layers=3, window=3, sliding=(True, False, True), local_rope=Rope(theta=100.0), turned=(True, True, False)
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(1, 13, (3, 8)))
MASK = jnp.arange(8)[None, :] >= jnp.array([0, 2, 5])[:, None]  # rows of 8, 6 and 3 tokens, padded on the left
PROMPTS = PromptBatch(TOKENS[:, :5], jnp.arange(5)[None, :] >= jnp.array([0, 2, 4])[:, None])


def shared(function):
    """Compiled once for each plain model, which compares by its config, whatever the test; a corrected model's base and
    scale are arguments."""

    @partial(jax.jit, static_argnums=0, static_argnames=("sampling", "samples"))
    def jitted(model, corrected, *arguments, **how):
        return function(Adapted(model, *corrected) if corrected else model, *arguments, **how)

    def call(model, *arguments, **how):
        plain, corrected = (model.model, (model.base, model.scale)) if isinstance(model, Adapted) else (model, ())
        return jitted(plain, corrected, *arguments, **how)

    return call


@shared
def logits_of(model, params, tokens=TOKENS, mask=MASK):
    return logits(model, params, hidden_states(model, params, tokens, mask)[0])


@shared
def logits_and_gradients(model, params):
    """Logits, and the gradients of the mean negative log-likelihood of the real tokens."""

    def loss(params):
        found = logits(model, params, hidden_states(model, params, TOKENS, MASK)[0])
        nll = -jnp.take_along_axis(jax.nn.log_softmax(found[:, :-1]), TOKENS[:, 1:, None], axis=-1)[..., 0]
        return jnp.sum(nll * MASK[:, :-1]) / jnp.sum(MASK[:, :-1]), found

    (_, found), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return found, grads


@shared
def written(model, params, *, sampling=GREEDY, samples=1):
    key = jax.random.key(0)
    return generate(model, params, PROMPTS, key, NEW, sampling, eos=NEVER, pad=PAD, samples=samples)


def greedy_by_hand(model, params):
    """The most likely token of a full forward pass, again and again; columns that are yet to come are padding."""
    P = PROMPTS.tokens.shape[1]
    tokens, mask = (np.pad(np.asarray(x), ((0, 0), (0, NEW))) for x in (PROMPTS.tokens, PROMPTS.mask))
    for t in range(P, P + NEW):
        best = np.asarray(logits_of(model, params, tokens, mask))[:, t - 1].argmax(axis=-1)
        tokens[:, t], mask[:, t] = best, True
    return tokens[:, P:]


def assert_close(found, expected, atol=1e-5):
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=atol)


def stacked(params, config):
    return {**params, "transformer": stack_blocks(params["transformer"], config.layers)}


# --- scan and remat ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [pytest.param(GPT2, id="gpt2", marks=LONG), pytest.param(SLIDING, id="sliding")])
def test_scan_is_the_loop(config):
    plain, scanned = LanguageModel(config), LanguageModel(replace(config, scan=True))
    params = wild(plain)
    stack = stacked(params, config)
    assert stack["transformer"]["blocks"]["mlp"]["up"]["kernel"].shape == (config.layers, config.width, config.hidden)
    expected, expected_grads = logits_and_gradients(plain, params)
    found, grads = logits_and_gradients(scanned, stack)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    grads = {**grads, "transformer": unstack_blocks(grads["transformer"], config.layers)}
    assert_close(grads, expected_grads, atol=1e-4)
    y = written(scanned, stack, samples=2)
    np.testing.assert_array_equal(y.tokens, np.repeat(greedy_by_hand(plain, params), 2, axis=0))


def test_stacking_and_back():
    params = wild(LanguageModel(SLIDING))["transformer"]
    again = unstack_blocks(stack_blocks(params, SLIDING.layers), SLIDING.layers)
    chex.assert_trees_all_equal(again, params)


def test_scan_makes_the_parameters_that_stacking_makes():
    config = replace(SLIDING, scan=True)
    shapes = jax.eval_shape(lambda: LanguageModel(config).init(jax.random.key(0), TOKENS, MASK))["params"]
    stack = stacked(wild(LanguageModel(SLIDING)), SLIDING)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, stack)


def test_scanned_layers_start_apart():
    config = replace(LLAMA, scan=True)
    params = jax.jit(LanguageModel(config).init)(jax.random.key(0), TOKENS, MASK)["params"]
    first, second = params["transformer"]["blocks"]["mlp"]["up"]["kernel"]
    assert np.abs(first - second).max() > 0.01


@pytest.mark.parametrize("scan", [pytest.param(False, marks=LONG), True])
def test_remat_changes_nothing_but_memory(scan):
    config = replace(SLIDING, scan=scan)
    params = wild(LanguageModel(SLIDING))
    params = stacked(params, SLIDING) if scan else params
    remat = LanguageModel(replace(config, remat=True))
    assert_close(logits_and_gradients(remat, params), logits_and_gradients(LanguageModel(config), params), atol=1e-4)
    program = str(jax.make_jaxpr(lambda params: logits_and_gradients(remat, params))(params))
    assert "remat" in program or "checkpoint" in program


# --- windows ----------------------------------------------------------------------------------------------------------

MIX = (True, False)


@pytest.mark.parametrize(
    ("window", "sliding"), [(3, MIX), *(pytest.param(*case, marks=LONG) for case in ((5, MIX), (7, MIX), (3, None)))]
)
def test_a_ring_is_the_full_forward(window, sliding):
    """Prompts of 5 columns (5, 3 and 1 tokens) and 8 tokens more, so that rings go round, some of them twice."""
    config = replace(LLAMA, window=window, sliding=sliding)
    model = LanguageModel(config)
    params = wild(model)
    rooms = [keys.shape[2] for keys in empty_cache(config, 3, 13).keys]
    assert rooms == [min(window, 13), 13 if sliding else min(window, 13)]
    expected = greedy_by_hand(model, params)
    np.testing.assert_array_equal(written(model, params).tokens, expected)
    if window == 3:
        np.testing.assert_array_equal(written(model, params, samples=2).tokens, np.repeat(expected, 2, axis=0))
        whole = LanguageModel(replace(config, window=None))
        assert (greedy_by_hand(whole, params) != expected).any()  # the window shows


def test_logp_of_sampled_answers_through_a_ring():
    """log-softmax of a full forward over prompt and answer."""
    model = LanguageModel(SLIDING)
    params = wild(model)
    y = written(model, params, sampling=Sampling(1.0, 0, 1.0), samples=2)
    tokens = np.concatenate([np.repeat(PROMPTS.tokens, 2, axis=0), y.tokens], axis=1)
    mask = np.concatenate([np.repeat(PROMPTS.mask, 2, axis=0), y.mask], axis=1)
    every = special.log_softmax(logits_of(model, params, tokens, mask)[:, 4:-1], axis=-1)
    expected = np.take_along_axis(every, np.asarray(y.tokens)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(y.logp, expected, atol=1e-4)
    assert (y.tokens[::2] != y.tokens[1::2]).any()


@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_window_ends_what_a_token_sees(window):
    """d hidden_t / d embedding_s of one sliding layer: something for t − window < s ≤ t, nothing elsewhere."""
    model = LanguageModel(replace(LLAMA, layers=1, window=window))
    params, T = wild(model), 6
    tokens, everything = jnp.arange(T)[None], jnp.ones((1, T), bool)  # each its own row of the embedding table

    def hidden(table):
        changed = {**params, "transformer": {**params["transformer"], "embedding": {"embedding": table}}}
        return hidden_states(model, changed, tokens, everything)[0][0]

    jacobian = jax.jit(jax.jacrev(hidden))(params["transformer"]["embedding"]["embedding"])  # [t, D, V, D]
    influence = np.abs(jacobian)[:, :, :T].sum(axis=(1, 3))
    t, s = np.indices((T, T))
    seen = (s <= t) & (s > t - window)
    np.testing.assert_array_equal(influence[~seen], 0.0)
    assert (influence[seen] > 1e-4).all()


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [pytest.param(GPT2, id="gpt2", marks=LONG), pytest.param(SLIDING, id="sliding")])
def test_half_precision(config):
    """bfloat16 has 8 bits: each rounding moves a number by at most 2⁻⁹ of it. A few dozen such roundings on the way to the
    logits, at random, leave them within a few hundredths of their own size, and not within float32's 10⁻⁵."""
    model, half = LanguageModel(config), LanguageModel(replace(config, compute="bfloat16"))
    params = wild(model)
    before = jax.tree.map(np.asarray, params)
    expected, expected_grads = logits_and_gradients(model, params)
    found, grads = logits_and_gradients(half, params)
    assert found.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    assert jax.eval_shape(lambda: hidden_states(half, params, TOKENS, MASK)[0]).dtype == jnp.bfloat16
    error = np.asarray(found - expected)[np.asarray(MASK)]
    size = np.std(expected)
    assert 1e-4 * size < error.std() < 0.05 * size
    off, size = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (grads, expected_grads))
    assert np.linalg.norm(off - size) < 0.1 * np.linalg.norm(size)
    chex.assert_trees_all_equal(params, before)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("scan", [pytest.param(False, marks=LONG), True])
def test_a_cache_in_half_precision(compute, scan):
    config = replace(SLIDING, compute=compute, cache="bfloat16", scan=scan)
    model = LanguageModel(config)
    params = wild(LanguageModel(SLIDING))
    params = stacked(params, SLIDING) if scan else params
    hidden, cache = jax.eval_shape(lambda: hidden_states(model, params, TOKENS, MASK, empty_cache(config, 3, 8), 0))
    assert {x.dtype for x in jax.tree.leaves(cache)} == {jnp.dtype("bfloat16")}
    assert hidden.dtype == compute
    # every column through the cache, one at a time: off a float32 model's by bfloat16's roundings

    @jax.jit
    @partial(chex.assert_max_traces, n=1)
    def step(token, mask, cache, t):
        hidden, cache = hidden_states(model, params, token, mask, cache, t)
        return logits(model, params, hidden), cache

    tokens, mask = np.asarray(TOKENS), np.asarray(MASK)
    cache, found = empty_cache(config, 3, 8), []
    for t in range(8):
        column, cache = step(tokens[:, t : t + 1], mask & (np.arange(8) <= t), cache, t)
        found.append(column)
    assert {x.dtype for x in jax.tree.leaves(cache)} == {jnp.dtype("bfloat16")}
    assert found[0].dtype == jnp.float32
    expected = np.asarray(logits_of(LanguageModel(replace(SLIDING, scan=scan)), params))
    error = (np.concatenate(found, axis=1) - expected)[mask]
    assert 1e-4 < error.std() / expected.std() < 0.05


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [False, True])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
def test_attention_by_hand(heads, groups, library):
    """Σₛ softmaxₛ(q·kₛ·scale) vₛ over allowed s, in float64; a row that may look at nothing is finite."""
    rng = np.random.default_rng(heads + groups)
    B, T, S, E, scale = 2, 5, 7, 8, 0.3
    q, k, v = (rng.normal(size=shape) for shape in ((B, T, heads, E), (B, groups, S, E), (B, groups, S, E)))
    allowed = rng.random((B, T, S)) < 0.5
    allowed[0, 2], allowed[1, :, :] = False, allowed[1, :, :] | (np.arange(S) == 3)
    arrays = [jnp.asarray(x, jnp.float32) for x in (q, k, v)]

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def both(q, k, v):
        found = attend(q, k, v, jnp.asarray(allowed), scale, None, library=library)
        return jnp.sum(found**2), found

    (_, found), grads = both(*arrays)
    expected = np.zeros((B, T, heads, E))
    for b, t, h in np.ndindex(B, T, heads):
        kept, group = allowed[b, t], h // (heads // groups)
        if kept.any():
            weights = np.exp(scale * k[b, group, kept] @ q[b, t, h])
            expected[b, t, h] = weights @ v[b, group, kept] / weights.sum()
    real = allowed.any(axis=-1)
    assert not real.all()
    np.testing.assert_allclose(found[real], expected[real], atol=1e-5)
    assert np.isfinite(found).all()
    assert all(np.isfinite(g).all() for g in grads)


def test_a_cap_by_hand():
    """Two keys with the scores 3 and −2, capped at 2: the weights are those of 2·tanh(1.5) and 2·tanh(−1)."""
    q, k = jnp.ones((1, 1, 1, 1)), jnp.array([3.0, -2.0]).reshape(1, 1, 2, 1)
    v = jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)
    found = attend(q, k, v, jnp.ones((1, 1, 2), bool), 1.0, 2.0)
    expected = 1 / (1 + math.exp(2 * math.tanh(-1) - 2 * math.tanh(1.5)))
    assert float(found[0, 0, 0, 0]) == pytest.approx(expected, abs=1e-6)


# --- LoRA -------------------------------------------------------------------------------------------------------------

TARGETS = ("query", "value", "down")


def corrected(base, head=None):
    """Corrections whose a and b are both far from 0."""
    lora = jax.eval_shape(lambda: init_lora(base, TARGETS, 2, jax.random.key(1)))["lora"]
    rng = np.random.default_rng(1)
    full = jax.tree.map(lambda x: jnp.asarray((0.5 * rng.standard_normal(x.shape)).astype(np.float32)), lora)
    return {"lora": full, "head": {} if head is None else head}


def language_pair(scan):
    config = replace(LLAMA, scan=scan)
    base = wild(LanguageModel(LLAMA))
    return LanguageModel(config), stacked(base, LLAMA) if scan else base


@pytest.mark.parametrize("scan", [pytest.param(False, marks=LONG), True])
def test_a_fresh_correction_is_none(scan):
    model, base = language_pair(scan)
    lora = init_lora(base, TARGETS, 2, jax.random.key(0))
    assert any(np.abs(x).max() > 0 for x in jax.tree.leaves(lora["lora"]))
    np.testing.assert_allclose(logits_of(Adapted(model, base, 4.0), lora), logits_of(model, base), atol=1e-5)


@pytest.mark.parametrize("scan", [pytest.param(False, marks=LONG), True])
def test_a_corrected_model_is_its_merged_one(scan):
    """W + scale·a·b, written out for one matrix; then logits and answers of the whole."""
    model, base = language_pair(scan)
    lora, scale = corrected(base), 0.7
    adapted, merged = Adapted(model, base, scale), merge_lora(base, lora, scale)
    block = (lambda tree: tree["transformer"]["blocks"]) if scan else (lambda tree: tree["transformer"]["block_1"])
    w, ab = block(base)["attention"]["value"]["kernel"], block(lora["lora"])["attention"]["value"]
    w, a, b = (np.asarray(x, np.float64)[1] if scan else np.asarray(x, np.float64) for x in (w, ab["a"], ab["b"]))
    found = np.asarray(block(merged)["attention"]["value"]["kernel"])
    np.testing.assert_allclose(found[1] if scan else found, w + scale * a @ b, atol=1e-5)
    assert block(merged)["attention"]["key"]["kernel"] is block(base)["attention"]["key"]["kernel"]

    expected = logits_of(model, merged)
    np.testing.assert_allclose(logits_of(adapted, lora), expected, atol=1e-3)
    assert np.abs(expected - logits_of(model, base)).max() > 0.1
    y = written(adapted, lora)
    np.testing.assert_array_equal(y.tokens, written(model, merged).tokens)
    assert (y.tokens != written(model, base).tokens).any()


@pytest.mark.parametrize("scan", [pytest.param(False, marks=LONG), True])
def test_a_corrected_scalar_model(scan):
    language, base = language_pair(scan)
    model = ScalarModel(language.config)
    head = {name: x for name, x in wild(ScalarModel(LLAMA), seed=3).items() if name != "transformer"}
    assert set(head) == {"kernel", "bias"}
    value = corrected(base, head)
    adapted, merged = Adapted(model, base, 0.7), merge_lora(base, value, 0.7)
    merged = {name: merged[name] for name in ("transformer", "kernel", "bias")}
    expected = jax.jit(lambda p: scalars(model, p, TOKENS, MASK))(merged)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def both(params):
        found = scalars(adapted, params, TOKENS, MASK)
        return jnp.sum(found**2), found

    (_, found), grads = both(value)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert jax.tree.structure(grads) == jax.tree.structure(value)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("scan", [pytest.param(False, marks=LONG), True])
def test_only_the_correction_learns(scan):
    """Gradients of a and b are those of W by the chain rule, scale·(∇W)bᵀ and scale·aᵀ(∇W); Adam keeps two numbers for
    each of theirs and one count."""
    model, base = language_pair(scan)
    lora, scale = corrected(base), 0.7
    adapted = Adapted(model, base, scale)
    _, grads = logits_and_gradients(adapted, lora)
    assert jax.tree.structure(grads) == jax.tree.structure(lora)
    _, of_merged = logits_and_gradients(model, merge_lora(base, lora, scale))
    block = (lambda tree: tree["transformer"]["blocks"]) if scan else (lambda tree: tree["transformer"]["block_1"])
    for part, name in (("attention", "query"), ("attention", "value"), ("mlp", "down")):
        w, ab, g = (
            block(of_merged)[part][name]["kernel"],
            block(lora["lora"])[part][name],
            block(grads["lora"])[part][name],
        )
        np.testing.assert_allclose(g["a"], scale * w @ ab["b"].swapaxes(-1, -2), atol=1e-3)
        np.testing.assert_allclose(g["b"], scale * ab["a"].swapaxes(-1, -2) @ w, atol=1e-3)

    def size(tree):
        return sum(x.size for x in jax.tree.leaves(tree))

    # per layer, rank 2: query 16 → 16, value 16 → 8 and down 24 → 16, each with rank·(in + out) numbers
    assert size(lora) == LLAMA.layers * 2 * ((16 + 16) + (16 + 8) + (24 + 16))
    assert size(optax.adam(1e-3).init(lora)) == 2 * size(lora) + 1
    assert size(lora) < 0.2 * size(base)


def test_the_base_is_one_for_policy_and_value():
    _, base = language_pair(False)
    before = {id(x) for x in jax.tree.leaves(base)}
    policy, value = Adapted(LanguageModel(LLAMA), base, 1.0), Adapted(ScalarModel(LLAMA), base, 1.0)
    lora = init_lora(base, TARGETS, 2, jax.random.key(0))
    for model in (policy, value):
        assert {id(x) for x in jax.tree.leaves(model.base)} == before
    assert not before & {id(x) for x in jax.tree.leaves(lora)}


@pytest.mark.parametrize(
    ("config", "targets", "named"), [(LLAMA, ("query", "qery"), "qery"), (GPT2, ("gate",), "gate")]
)
def test_a_matrix_that_there_is_not(config, targets, named):
    with pytest.raises(InputError, match=f"no matrix '{named}' to correct; name some of query, "):
        init_lora(wild(LanguageModel(config)), targets, 2, jax.random.key(0))


# --- rotary positions -------------------------------------------------------------------------------------------------

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3, 16)), jnp.float32)
POSITIONS = jnp.tile(jnp.arange(6) * 7, (2, 1))
ROOM = 36


def test_rotation_by_hand():
    """Dimensions j and j + 8 of 16 turned by position·θ^(−2j/16)."""
    found = np.asarray(rotate(X, POSITIONS, Rope(theta=500.0), ROOM))
    x, j = np.asarray(X, np.float64), np.arange(8)
    z = (x[..., :8] + 1j * x[..., 8:]) * np.exp(1j * np.asarray(POSITIONS)[:, :, None, None] * 500.0 ** (-2 * j / 16))
    np.testing.assert_allclose(found, np.concatenate([z.real, z.imag], axis=-1), atol=1e-4)


@pytest.mark.parametrize("scaling", [None, Linear(4.0), Llama3(8.0, 1.0, 4.0, 16), Yarn(4.0, 16, attention=1.0)])
def test_rotation_keeps_norms(scaling):
    turned = rotate(X, POSITIONS, Rope(scaling=scaling), ROOM)
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(X, axis=-1), rtol=1e-5)
    assert np.abs(turned - X).max() > 0.1


def test_a_linear_factor_divides_positions():
    np.testing.assert_array_equal(
        rotate(X, POSITIONS, Rope(scaling=Linear(1.0)), ROOM), rotate(X, POSITIONS, Rope(), ROOM)
    )
    halved = rotate(X, POSITIONS * 2, Rope(scaling=Linear(2.0)), ROOM)
    np.testing.assert_allclose(halved, rotate(X, POSITIONS, Rope(), ROOM), atol=1e-5)


def test_part_of_a_head_is_left_as_it_is():
    found = rotate(X, POSITIONS, Rope(share=0.25), ROOM)
    np.testing.assert_array_equal(found[..., 4:], X[..., 4:])
    np.testing.assert_array_equal(found[..., :4], rotate(X[..., :4], POSITIONS, Rope(), ROOM))
    assert (np.abs(found - X)[:, 1:, :, :4] > 0).all()


def test_yarn_sharpens_by_its_attention_factor():
    """Norms grow by 0.1·log(4) + 1 (the paper's √(1/t), equation 15), or by the factor given."""
    norms = jnp.linalg.norm(X, axis=-1)
    for yarn, factor in ((Yarn(4.0, 16), 0.1 * math.log(4) + 1), (Yarn(4.0, 16, attention=1.3), 1.3)):
        found = jnp.linalg.norm(rotate(X, POSITIONS, Rope(scaling=yarn), ROOM), axis=-1)
        np.testing.assert_allclose(found, factor * norms, rtol=1e-5)


@pytest.mark.parametrize("scaling", [Yarn(4.0, 2048), Llama3(4.0, 1.0, 4.0, 2048)])
def test_fast_pairs_keep_their_frequency_and_slow_ones_are_divided(scaling):
    """At 128 dimensions and θ = 10,000 over 2048 tokens, pair j makes 2048·θ^(−j/64)/2π turns: more than 32 for j = 0,
    fewer than one for j = 63."""
    plain, found = (np.asarray(frequencies(Rope(scaling=s), 128, ROOM)) for s in (None, scaling))
    assert 2048 * plain[0] / (2 * math.pi) > 32 and 2048 * plain[63] / (2 * math.pi) < 1
    assert found[0] == plain[0]
    assert found[63] == pytest.approx(plain[63] / 4, rel=1e-6)
    assert (np.diff(found / plain) <= 1e-6).all() and ((found / plain > 0.3) & (found / plain < 0.9)).any()


def test_longrope_goes_by_the_room_of_a_row():
    """Frequency j is 10000^(−2j/8) over the j-th factor of one list or of the other."""
    short, long = (1.0, 1.5, 2.0, 4.0), (3.0, 5.0, 8.0, 9.0)
    plain = 10_000.0 ** (-np.arange(4) / 4)
    scaling = LongRope(short, long, original_context=36, attention_factor=1.0)
    for room, factors in ((36, short), (37, long)):
        np.testing.assert_allclose(frequencies(Rope(scaling=scaling), 8, room), plain / np.array(factors), rtol=1e-5)


def test_a_dynamic_base_goes_by_the_room_of_a_row():
    """θ·(4·room/16 − 3)^(8/6) beyond 16 columns, θ up to them."""
    for room, theta in ((9, 10_000.0), (16, 10_000.0), (24, 10_000.0 * 3.0 ** (8 / 6))):
        found = frequencies(Rope(scaling=Dynamic(4.0, 16)), 8, room)
        np.testing.assert_allclose(found, theta ** (-np.arange(4) / 4), rtol=1e-5)


# --- what a family has and others have not ----------------------------------------------------------------------------


def test_a_layer_without_positions_does_not_see_the_order():
    """One block reads the last token's logits off a set of keys and values, where nothing turns them."""
    turned_round = TOKENS.at[:, :7].set(TOKENS[:, 6::-1])
    for turned, same in (((False,), True), (None, False)):
        model = LanguageModel(replace(LLAMA, layers=1, turned=turned))
        params = wild(LanguageModel(replace(LLAMA, layers=1)))
        last, again = (logits_of(model, params, tokens)[:1, -1] for tokens in (TOKENS, turned_round))
        assert np.allclose(last, again, atol=1e-5) == same


def test_norms_of_sums():
    """Where a block adds nothing, x becomes norm(norm(x)) in each."""
    config = replace(GPT2, norms="sum", final_norm=False, layers=1)
    params = wild(LanguageModel(config))
    block = params["transformer"]["block_0"]
    for branch, matrix in (("attention", "out"), ("mlp", "down")):
        block[branch][matrix] = jax.tree.map(jnp.zeros_like, block[branch][matrix])
    words, places = (np.asarray(params["transformer"][name]["embedding"]) for name in ("embedding", "position"))
    x = words[np.asarray(TOKENS[0])] + places[:8]
    for name in ("attention_norm", "mlp_norm"):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.norm_eps)
        x = x * np.asarray(block[name]["scale"]) + np.asarray(block[name]["bias"])
    found, _ = hidden_states(LanguageModel(config), params, TOKENS[:1], MASK[:1])
    np.testing.assert_allclose(found[0], x, atol=1e-4)


def test_queries_that_grow():
    """By 1 + 0.5·log 2 from the fourth position on, by 1 + 0.5·log 3 from the eighth: as if query's matrix were larger."""
    params = wild(LanguageModel(replace(LLAMA, layers=1)))
    found = logits_of(LanguageModel(replace(LLAMA, layers=1, query_growth=0.5, query_context=4)), params)
    for row, first in enumerate((0, 2, 5)):
        for t in range(first, 8):
            larger = jax.tree.map(lambda x: x, params)
            query = larger["transformer"]["block_0"]["attention"]["query"]
            query["kernel"] = query["kernel"] * (1 + 0.5 * math.log(1 + (t - first) // 4))
            expected = logits_of(LanguageModel(replace(LLAMA, layers=1)), larger)
            np.testing.assert_allclose(found[row, t], expected[row, t], atol=1e-4)


def test_factors_of_branches_and_logits():
    params = wild(LanguageModel(LLAMA))
    plain = logits_of(LanguageModel(LLAMA), params)
    np.testing.assert_allclose(logits_of(LanguageModel(replace(LLAMA, logit_scale=0.25)), params), plain / 4, rtol=1e-5)
    scaled = jax.tree.map(lambda x: x, params)
    for i in range(LLAMA.layers):
        for branch, matrix in (("attention", "out"), ("mlp", "down")):
            kernel = scaled["transformer"][f"block_{i}"][branch][matrix]
            kernel["kernel"] = 0.3 * kernel["kernel"]
    found = logits_of(LanguageModel(replace(LLAMA, residual_scale=0.3)), params)
    np.testing.assert_allclose(found, logits_of(LanguageModel(LLAMA), scaled), atol=1e-4)


def test_narrower_embeddings_and_a_first_position():
    """By the matrices that lead in and out, here zeros below an identity; two rows stand before the first position."""
    config = replace(GPT2, embedding_width=6, position_offset=2)
    params = wild(LanguageModel(config))
    wide = jax.tree.map(lambda x: x, params)
    into, out = jnp.eye(6, GPT2.width), jnp.eye(GPT2.width, 6)
    params["transformer"]["embedding_in"] = {"kernel": into}
    params["transformer"]["embedding_out"] = {"kernel": out}
    table = params["transformer"]["embedding"]["embedding"]
    wide["transformer"] = {k: v for k, v in wide["transformer"].items() if not k.startswith("embedding_")}
    wide["transformer"]["embedding"] = {"embedding": jnp.pad(table, ((0, 0), (0, GPT2.width - 6)))}
    wide["transformer"]["position"] = {"embedding": params["transformer"]["position"]["embedding"][2:]}
    found, expected = logits_of(LanguageModel(config), params), logits_of(LanguageModel(GPT2), wide)
    np.testing.assert_allclose(found[MASK], expected[MASK], atol=1e-4)
