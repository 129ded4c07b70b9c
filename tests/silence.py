"""A rollout in which nothing was said, for iterations that compute nothing."""

from types import SimpleNamespace

import numpy as np

from rlhf_jax.stages.rollouts import Drawn


def silence(batch, frozen) -> Drawn:
    """To the prompts of a batch, scored by the reward models there are."""
    rows = len(batch.prompts.tokens)
    y = SimpleNamespace(tokens=np.zeros((rows, 1), np.int32), mask=np.zeros((rows, 1), bool))
    return Drawn(SimpleNamespace(y=y), np.zeros((len(frozen.reward), rows), np.float32), {})
