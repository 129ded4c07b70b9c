"""Every parameter of every decoder has a place on the mesh, and so has whatever is kept beside it."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.models import LanguageModel, ScalarModel, init_lora, mesh_axes, stack_blocks
from rlhf_jax.runtime import make_mesh, mapped, place, shard_rows
from tests.models.conftest import GPT2, LLAMA, wild

DECODERS = {
    "gpt2": GPT2,
    "gpt2, untied": replace(GPT2, tied=False),
    "llama": LLAMA,
    "norms everywhere": replace(LLAMA, norms="both", qk_norm="head", qkv_bias=True, norm_offset=1.0),
}


def parameters(model):
    """Their shapes."""
    row = jnp.ones((1, 2), jnp.int32)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), row, row > 0))["params"]


def placed(tree):
    """Of each leaf that is cut, its path and its axes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    found = {jax.tree_util.keystr(p, simple=True, separator="/"): mesh_axes(p, leaf.ndim) for p, leaf in leaves}
    assert all(len(found[jax.tree_util.keystr(p, simple=True, separator="/")]) == leaf.ndim for p, leaf in leaves)
    return {path: axes for path, axes in found.items() if any(axes)}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", [LanguageModel, ScalarModel])
def test_every_matrix_is_cut_along_both_axes(name, kind):
    params = parameters(kind(DECODERS[name]))
    axes = placed(params)
    matrices = [
        jax.tree_util.keystr(p, simple=True, separator="/")
        for p, leaf in jax.tree_util.tree_leaves_with_path(params)
        if leaf.ndim == 2 and "position" not in str(p)
    ]
    assert matrices and all(set(axes[path]) == {"fsdp", "tensor"} for path in matrices)


def test_a_product_needs_no_exchange_before_its_sum():
    """What writes to the heads or to the MLP is cut by columns, what reads them by rows (Megatron-LM, §3)."""
    axes = placed(parameters(LanguageModel(LLAMA)))
    for name in ("attention/query", "attention/key", "attention/value", "mlp/up", "mlp/gate"):
        assert axes[f"transformer/block_0/{name}/kernel"] == ("fsdp", "tensor")
    for name in ("attention/out", "mlp/down"):
        assert axes[f"transformer/block_0/{name}/kernel"] == ("tensor", "fsdp")


def test_moments_corrections_and_stacked_layers_lie_as_their_matrices():
    params = parameters(LanguageModel(LLAMA))
    adam, cut = placed(jax.eval_shape(optax.scale_by_adam().init, params)), placed(params)
    assert adam == {f"{moment}/{path}": axes for moment in ("mu", "nu") for path, axes in cut.items()}
    stacked = placed(jax.eval_shape(partial(stack_blocks, layers=LLAMA.layers), params["transformer"]))
    assert stacked["blocks/mlp/up/kernel"] == (None, "fsdp", "tensor")
    lora = placed(jax.eval_shape(lambda p: init_lora(p, ["query", "down"], 2, jax.random.key(0)), params)["lora"])
    block = "transformer/block_0"
    assert lora[f"{block}/attention/query/a"] == ("fsdp", None) and lora[f"{block}/attention/query/b"] == (
        None,
        "tensor",
    )
    assert lora[f"{block}/mlp/down/a"] == ("tensor", None) and lora[f"{block}/mlp/down/b"] == (None, "fsdp")


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_compiler_finds_every_exchange_it_needs(name, capfd):
    """Where it finds none it makes an array whole on every device and says so on the standard error."""
    model, mesh = LanguageModel(DECODERS[name]), make_mesh(2, 2, 2)
    rows = np.ones((8, 4), np.int32)

    def step(params, tokens):
        gradient = jax.grad(lambda p: model.apply({"params": p}, tokens, tokens > 0)[0].astype(jnp.float32).mean())
        return jax.tree.map(jnp.subtract, params, gradient(params)), {}

    mapped(step, mesh)(place(wild(model), mesh, mesh_axes), shard_rows(rows, mesh))
    assert "rematerialization" not in capfd.readouterr().err


def test_a_parameter_without_a_place_is_an_error():
    with pytest.raises(ValueError, match="does not say on which axes mlp/router lies"):
        placed({"mlp": {"router": jnp.zeros((2, 2))}})
