"""Figures that say a run is lost: not finite (stop), or running away (warn once)."""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import SupportsFloat

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from rlhf_jax.errors import DivergenceError
from rlhf_jax.runtime.metrics import as_floats
from rlhf_jax.runtime.progress import info


def check_finite(stage: str, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
    """Raises DivergenceError at the first figure that is nan or infinite."""
    for name, value in as_floats(metrics).items():
        if not math.isfinite(value):
            raise DivergenceError(
                f"{stage}, step {step}: {name} is {value}; lower the learning rate (lr, value_lr) or clip_norm "
                "and run the same command again, it continues from the last checkpoint with them"
            )


def holds_nan(tree: PyTree) -> bool:
    """Whether a number anywhere in a tree is nan. With several processes each has to call it."""
    return any(bool(_any_nan(leaf)) for leaf in jax.tree.leaves(tree))


@jax.jit
def _any_nan(leaf):
    return jnp.any(jnp.isnan(leaf))


PATIENCE = 5  # steps in a row; one batch may be far off by chance, so many of them are not
NEAR_0 = ("loss/policy_avg", "loss/kl_avg")  # by construction, the second at the start: multiples of them say nothing


class Watch:
    """Warns once per term: objective/kl above `kl` nats, objective/entropy below `entropy` nats, or any loss/… for PATIENCE
    steps in a row above `factor` times the lowest median that any `window` steps before them had.

    Nothing of it is saved: a resumed run fills the window anew and may warn again.
    """

    def __init__(self, kl: float, entropy: float, factor: float, window: int):
        self._kl, self._entropy, self._factor, self._window = kl, entropy, factor, window
        self._losses: dict[str, deque[float]] = {}
        self._lowest: dict[str, float] = {}
        self._above: dict[str, int] = {}  # for how many steps in a row
        self._warned: set[str] = set()

    def look(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Looks at one step's figures."""
        for name, value in as_floats(metrics).items():
            self._look_at(step, name, value)

    def _look_at(self, step: int, name: str, value: float) -> None:
        if name == "objective/kl" and value > self._kl:
            self._warn(name, f"step {step}: {name} is {value:.3g} nats, above {self._kl:g}; raise the KL coefficient")
        elif name == "objective/entropy" and value < self._entropy:
            self._warn(
                name,
                f"step {step}: {name} is {value:.3g} nats, below {self._entropy:g}; "
                "the policy repeats itself, raise the KL coefficient or lower the learning rate",
            )
        elif name.startswith("loss/") and name not in NEAR_0:
            past = self._losses.setdefault(name, deque(maxlen=self._window))
            if len(past) == self._window:
                self._lowest[name] = min(self._lowest.get(name, math.inf), statistics.median(past))
            limit = self._factor * self._lowest.get(name, math.inf)
            self._above[name] = self._above.get(name, 0) + 1 if value > limit > 0 else 0
            if self._above[name] == PATIENCE:
                self._warn(
                    name,
                    f"step {step}: {name} is {value:.3g}, and was {PATIENCE} times in a row above {limit:.3g}, which is "
                    f"{self._factor:g} × the median that it had come down to; lower the learning rate",
                )
            past.append(value)

    def _warn(self, name: str, sentence: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            info(sentence)
