"""A model whose parameters are cut over a mesh writes and scores what it does on one device."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rlhf_jax.evals import answer, per_row, scores
from rlhf_jax.models import LanguageModel, Sampling, ScalarModel, mesh_axes, scalars
from rlhf_jax.runtime import make_mesh, place
from rlhf_jax.types import PromptBatch, TextBatch
from tests.models.conftest import LLAMA, wild

SMALL = replace(LLAMA, layers=1)
ROWS = np.random.default_rng(0).integers(2, SMALL.vocab_size, (6, 5)).astype(np.int32)
EVERY = np.ones(ROWS.shape, bool)


def written(params):
    how = {"batch": 4, "max_tokens": 4, "sampling": Sampling(1.0, 0, 1.0), "eos": 1, "pad": 0}
    found = answer(LanguageModel(SMALL), params, PromptBatch(ROWS, EVERY), jax.random.key(1), **how)
    return found.response.tokens, found.response.logp


def likely(params):
    return per_row(LanguageModel(SMALL), params, TextBatch(ROWS, EVERY), batch=4)


def scored(params):
    score = jax.jit(lambda params, tokens, mask: scalars(ScalarModel(SMALL), params, tokens, mask)[:, -1])
    return (scores(score, params, ROWS, EVERY, batch=4),)


@pytest.mark.parametrize(
    ("kind", "of"), [(LanguageModel, written), (LanguageModel, likely), (ScalarModel, scored)], ids=lambda x: x.__name__
)
def test_on_a_mesh_as_on_one_device(kind, of):
    params, mesh = wild(kind(SMALL)), make_mesh(2, 2, 2)
    alone = of(params)
    with jax.set_mesh(mesh):
        together = of(place(params, mesh, mesh_axes))
    assert len(alone[0]) == len(ROWS)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)
