"""Log-probabilities in chunks of tokens are those of all tokens at once, and [B, T, V] exists nowhere on the way."""

import math
import re
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.equations import values
from rlhf_jax.models import LanguageModel, Sampling, generate
from rlhf_jax.steps import (
    TextCoef,
    join,
    masked_token_loss,
    next_token_loss,
    policy_loss,
    pretrain_loss,
    reading,
)
from rlhf_jax.types import Experience, MaskedTextBatch, Repetition

TRANSFORMS = {
    "plain": Sampling(0.7, 0, 1.0),
    "top-k and top-p": Sampling(0.7, 4, 0.8),
    "min-p": Sampling(1.3, 0, 1.0, min_p=0.2),
    "penalty": Sampling(0.7, 0, 1.0, repetition_penalty=1.5),
    "all": Sampling(0.7, 8, 0.95, min_p=0.05, repetition_penalty=1.5),
}
COEF = TextCoef(*(jnp.float32(0.0) for _ in TextCoef._fields))


def in_chunks(model, rows):
    return LanguageModel(replace(model.config, logit_rows=rows))


def assert_close(found, expected):
    """Leaf by leaf, within 1e-6 of the leaf's largest number."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * max(1e-6, float(jnp.abs(b).max())))


@pytest.fixture(scope="module")
def answers(tiny):
    """What the tiny policy writes under a transform: x ⊕ y, its mask, y."""

    @cache
    def written(sampling):
        @jax.jit
        def write(prompts):
            y = generate(tiny.models.policy, tiny.state.policy, prompts, jax.random.key(3), 5, sampling, 1, 0)
            return *join(prompts, y), y

        return write(tiny.batch.prompts)

    return written


@pytest.fixture(scope="module")
def read(tiny, answers):
    """Every number of a reading, and the gradient of them all, each number with a weight of its own."""

    @cache
    def read(sampling, rows):
        tokens, mask, y = answers(sampling)
        model, weights = in_chunks(tiny.models.policy, rows), np.random.default_rng(0).normal(size=(4, *y.mask.shape))

        def total(params):
            found = reading(params, tokens, mask, y, model=model, entropies=True, reference=tiny.frozen.sft)
            found = jax.tree.map(lambda x: jnp.where(y.mask, x, 0.0), found)
            return sum(jnp.sum(w * x) for w, x in zip(jnp.asarray(weights, jnp.float32), found, strict=True)), found

        return jax.jit(jax.grad(total, has_aux=True))(tiny.state.policy)

    return read


# Of 8 · 5 tokens: one, no divisor, a divisor, all but one, and more than there are.
@pytest.mark.parametrize("rows", [7, *(pytest.param(rows, marks=pytest.mark.long) for rows in (1, 10, 39, 1000))])
def test_a_reading_and_its_gradient(read, rows):
    assert_close(read(TRANSFORMS["plain"], rows), read(TRANSFORMS["plain"], 0))


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param(sampling, id=name, marks=[] if name == list(TRANSFORMS)[-1] else pytest.mark.long)
        for name, sampling in list(TRANSFORMS.items())[1:]
    ],
)
def test_a_reading_under_every_transform(answers, read, sampling):
    y = answers(sampling)[2]
    if y.support is not None:
        assert not y.support[y.mask].all()
    assert_close(read(sampling, 7), read(sampling, 0))


def test_what_was_not_asked_for_is_not_there(tiny, answers):
    for rows in (0, 7):
        alone = jax.eval_shape(
            partial(reading, model=in_chunks(tiny.models.policy, rows)),
            tiny.state.policy,
            *answers(TRANSFORMS["plain"]),
        )
        assert alone.logp.shape == (8, 5)
        assert alone.entropy is None and alone.logp_ref is None and alone.kl_exact is None


@pytest.fixture(scope="module")
def experience(tiny, answers):
    tokens, mask, y = answers(TRANSFORMS["top-k and top-p"])
    adv, logp_sft = np.random.default_rng(0).normal(size=(2, *y.mask.shape)).astype(np.float32)
    return Experience(tokens, mask, y, jnp.asarray(logp_sft), None, jnp.asarray(adv), None, tiny.batch.pretrain)


def loss_and_gradient(loss, *arguments, **named):
    """Loss, metrics and gradient."""
    (value, metrics), grads = jax.jit(jax.value_and_grad(partial(loss, **named), has_aux=True))(*arguments)
    return value, values(metrics), grads


@pytest.mark.parametrize("kl_loss", ["k2", "exact"])
def test_the_policy_s_loss_its_metrics_and_its_gradient(tiny, experience, kl_loss):
    coef = tiny.coef._replace(entropy=jnp.float32(0.1), beta_loss=jnp.float32(0.3))
    form = tiny.form._replace(kl_loss=kl_loss)
    whole, chunked = (
        loss_and_gradient(
            policy_loss,
            tiny.state.policy,
            experience,
            coef,
            model=in_chunks(tiny.models.policy, rows),
            form=form,
            reference=tiny.frozen.sft,
        )
        for rows in (0, 7)
    )
    assert_close(chunked, whole)


def test_an_exact_kl_without_a_reference(tiny, experience):
    with pytest.raises(ValueError, match="reference"):
        policy_loss(
            tiny.state.policy,
            experience,
            tiny.coef,
            model=tiny.models.policy,
            form=tiny.form._replace(kl_loss="exact"),
        )


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.long), 0.5])
@pytest.mark.parametrize("loss", [next_token_loss, masked_token_loss])
def test_the_losses_of_text(tiny, loss, dropout):
    rows = jax.tree.map(lambda x: jnp.asarray(x[:, 0]), tiny.batch.pretrain)
    batch = rows if loss is next_token_loss else MaskedTextBatch(rows.tokens.at[:, 2].set(0), rows.tokens, rows.predict)
    model = LanguageModel(replace(tiny.models.policy.config, dropout=dropout))
    whole, chunked = (
        loss_and_gradient(
            loss,
            tiny.state.policy,
            batch,
            COEF,
            model=in_chunks(model, rows),
            dropout_key=jax.random.key(0) if dropout else None,
        )
        for rows in (0, 7)
    )
    assert_close(chunked, whole)


WIDE = 1009  # a vocabulary beside which every other dimension is small


def wide_model(tiny, rows):
    """A model in chunks of so many tokens, and parameters for it."""
    model = LanguageModel(replace(tiny.models.policy.config, width=12, vocab_size=WIDE, logit_rows=rows))
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, tokens == 0))["params"]
    return model, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def traced(fn, *arguments):
    """The program of fn. It takes leaves, since our types hold arrays and JAX would put descriptions of them there."""
    leaves, structure = jax.tree.flatten(arguments)
    return jax.jit(lambda leaves: fn(*jax.tree.unflatten(structure, leaves))).trace(leaves)


def largest_number(text):
    """Elements of the largest array of numbers that a program's text names; masks of bits are not counted."""
    shapes = re.findall(r"\b(?:f32|s32|i32)\[([\d,]+)\]", text)
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


@pytest.mark.parametrize("truncated", [False, pytest.param(True, marks=pytest.mark.long)])
def test_no_array_has_a_number_for_every_token_and_every_word(tiny, experience, truncated):
    """Neither as the program is written nor as it is compiled, neither forward nor backward."""
    y, form = experience.response.replace(support=None), tiny.form._replace(kl_loss="exact")
    if truncated:
        penalty = Repetition(jnp.ones(8), jnp.zeros((8, WIDE), jnp.int32))
        y = y.replace(support=jnp.ones((8, 5, WIDE), bool), repetition=penalty)
    found = {}
    for rows in (0, 10):
        model, params = wide_model(tiny, rows)

        def loss(params, reference, batch, model=model):
            policy, _ = policy_loss(params, batch, tiny.coef, model=model, form=form, reference=reference)
            return policy + pretrain_loss(params, batch.pretrain, tiny.coef, model=model, form=form)[0]

        program = traced(jax.grad(loss), params, params, replace(experience, response=y))
        found[rows] = [largest_number(text) for text in (str(program.jaxpr), program.lower().compile().as_text())]
    everything = 8 * 5 * WIDE
    assert min(found[0]) >= everything  # where there are such arrays, they are found
    assert max(found[10]) < everything / 3  # the embedding is the largest


def test_every_device_works_on_its_rows_of_every_chunk(tiny):
    """With rows dealt out to 8 devices and chunks of 8 tokens, each device makes the logits of one."""
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    by_row, replicated = (jax.NamedSharding(mesh, jax.P(*spec)) for spec in (("data",), ()))
    model, params = wide_model(tiny, 8)
    rows = jax.tree.map(lambda x: jax.device_put(x[:, 0], by_row), tiny.batch.pretrain)

    def loss(params, rows):
        return next_token_loss(params, rows, COEF, model=model)[0]

    program = traced(jax.grad(loss), jax.device_put(params, replicated), rows).lower().compile().as_text()
    tokens = {math.prod(map(int, lead.split(","))) for lead in re.findall(rf"f32\[([\d,]+),{WIDE}\]", program)}
    assert tokens - {12} == {1}  # 12 is the gradient of the unembedding
