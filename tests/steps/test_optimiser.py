"""What `adam` can do beside the paper's Adam: decay, and leave parameters where they are."""

import re
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.errors import InputError
from rlhf_jax.models import LanguageModel, ScalarModel, init_lora, mesh_axes
from rlhf_jax.steps import adam, descend
from tests.models.conftest import GPT2, wild

SCANNED = replace(GPT2, scan=True, qk_norm="head")  # with biases, and norms that are matrices of all layers
LR, DECAY = 0.125, 0.5


@pytest.fixture(scope="module")
def params():
    return wild(LanguageModel(replace(GPT2, qk_norm="width")))


def path_of(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_path(tree) -> dict[str, np.ndarray]:
    return {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def after(params, grads, **settings):
    """Parameters and the optimiser's state after one update."""
    optimiser = adam(**settings)
    run = jax.jit(lambda p, g: descend(optimiser, g, optimiser.init(p), p, LR)[:2])
    return run(params, grads)


def zeros(params):
    return jax.tree.map(jnp.zeros_like, params)


def test_by_default_it_is_the_paper_s_adam_and_its_state(params):
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-8))
    chex.assert_trees_all_equal(adam().init(params), plain.init(params))
    found = adam().update(params, plain.init(params), params)
    chex.assert_trees_all_equal(found, plain.update(params, plain.init(params), params))


def test_the_decay_rates_of_both_moments(params):
    """From 0, a moment is (1 − b) times what is averaged; the gradient has norm 1 after clipping."""
    state = after(params, params, b1=0.75, b2=0.5)[1]
    unit = jax.tree.map(lambda g: g / optax.tree.norm(params), params)
    chex.assert_trees_all_close(state[1].mu, jax.tree.map(lambda g: 0.25 * g, unit), rtol=1e-5)
    chex.assert_trees_all_close(state[1].nu, jax.tree.map(lambda g: 0.5 * g**2, unit), rtol=1e-5)


MODELS = {
    "language": LanguageModel(replace(GPT2, qk_norm="width")),
    "scanned": LanguageModel(SCANNED),
    "scalar": ScalarModel(GPT2),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_matrices_decay_by_the_rate_times_lambda_and_norms_and_biases_do_not(model):
    """Without a gradient Adam's own update is 0, so that θ ← (1 − lr·λ)·θ."""
    params = wild(model)
    moved, left = by_path(after(params, zeros(params), weight_decay=DECAY)[0]), by_path(params)
    matrix = re.compile(r"(embedding|kernel)$")
    assert {matrix.search(path) is None for path in left} == {True, False}
    for path, leaf in left.items():
        np.testing.assert_array_equal(moved[path], leaf * (1 - LR * DECAY) if matrix.search(path) else leaf, path)


def test_the_decay_is_beside_adam_s_update_and_not_in_its_moments(params):
    grads = jax.tree.map(jnp.cos, params)
    (plain, _), (decayed, state) = after(params, grads), after(params, grads, weight_decay=DECAY)
    names = ("transformer", "block_0", "mlp", "up", "kernel")
    one, other, start = (jax.tree_util.tree_reduce(lambda _, x: x, _at(t, names)) for t in (plain, decayed, params))
    np.testing.assert_allclose(other, one - LR * DECAY * start, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(state[1], after(params, grads)[1][1])


def _at(tree, names):
    for name in names:
        tree = tree[name]
    return tree


FROZEN = r"embedding|block_0/attention/(query|key)/kernel$"


def test_what_is_frozen_stays_without_moments_and_leaves_the_clipped_norm_alone(params):
    """Not even a gradient of 10⁶ there shows: the rest moves as if those parameters were not."""
    frozen = re.compile(FROZEN)
    grads = jax.tree_util.tree_map_with_path(
        lambda path, x: 1e6 * x if frozen.search(path_of(path)) else jnp.cos(x), params
    )
    moved, state = after(params, grads, weight_decay=DECAY, frozen=FROZEN)
    moved, start = by_path(moved), by_path(params)
    stays = {path for path in start if frozen.search(path)}
    assert {path for path in start if (moved[path] == start[path]).all()} == stays
    assert len(stays) == 4  # two embeddings, query and key
    assert len(jax.tree.leaves(state)) == 1 + 2 * (len(start) - len(stays))  # the count, and two moments of each other

    rest, its_grads = ({path: x for path, x in by_path(t).items() if path not in stays} for t in (params, grads))
    alone = after(rest, its_grads, weight_decay=DECAY)[0]
    for path, leaf in alone.items():
        np.testing.assert_allclose(moved[path], leaf, rtol=1e-6, err_msg=path)


def test_the_state_of_a_frozen_model_lies_as_its_parameters_do(params):
    """Every leaf has its place on a mesh: a moment that of its parameter."""
    state = adam(frozen=FROZEN).init(params)
    found = {path_of(p): mesh_axes(p, x.ndim) for p, x in jax.tree_util.tree_leaves_with_path(state)}
    assert [axes for path, axes in found.items() if path.endswith("nu/transformer/block_1/mlp/up/kernel")] == [
        ("fsdp", "tensor")
    ]


def test_corrections_and_heads_decay_and_freeze_too():
    base, head = wild(LanguageModel(GPT2)), {"kernel": jnp.ones(16), "bias": jnp.ones(())}
    params = init_lora(base, ["query", "up"], 2, jax.random.key(0), head)
    ones = jax.tree.map(jnp.ones_like, params)
    moved = by_path(after(ones, zeros(params), weight_decay=DECAY, frozen=r"^lora/.*/query/a$")[0])
    for path, leaf in moved.items():
        still = path.endswith(("query/a", "bias"))
        np.testing.assert_array_equal(leaf, np.full_like(leaf, 1.0 if still else 1 - LR * DECAY), path)


def test_an_expression_that_freezes_nothing_is_an_error(params):
    with pytest.raises(InputError, match=r"'block_7/' is found in no parameter's path"):
        adam(frozen="block_7/").init(params)
    with pytest.raises(InputError, match="not a regular expression"):
        adam(frozen="block_(7")
