from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import LanguageModel, by_rows
from rlhf_jax.runtime import make_mesh
from tests.models.conftest import GPT2


@pytest.mark.parametrize(
    ("mesh", "micro_batches", "rows", "together"),
    [
        ((1, 1, 1), 8, 8, 1),
        ((2, 2, 2), 8, 8, 4),
        ((4, 1, 1), 2, 8, 4),
        ((2, 4, 1), 8, 8, 8),
        ((2, 2, 1), 1, 8, 8),
        ((2, 2, 1), 3, 6, 2),  # which do not divide over the devices anyway
    ],
)
def test_a_micro_batch_has_rows_of_every_device(mesh, micro_batches, rows, together):
    model, seen = LanguageModel(replace(GPT2, micro_batches=micro_batches)), []

    def doubled(x):
        seen.append(len(x))
        return 2 * x

    x = jnp.arange(3 * rows).reshape(rows, 3)
    with jax.set_mesh(make_mesh(*mesh)):
        found = jax.jit(lambda x: by_rows(doubled, model, x))(x)
    assert set(seen) == {together}
    np.testing.assert_array_equal(found, 2 * np.arange(3 * rows).reshape(rows, 3))
