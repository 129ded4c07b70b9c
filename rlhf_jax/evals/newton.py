"""The maximum of a concave likelihood, by Newton's method."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy import ndarray

Parts = tuple[float, Float[ndarray, "N P"], Float[ndarray, "P P"]]


class NoMaximumError(ValueError):
    """It rises without end: what is to be explained is explained wholly."""


def maximum(
    parts: Callable[[Float[ndarray, " P"]], Parts], start: Float[ndarray, " P"], steps: int = 100
) -> tuple[Float[ndarray, " P"], Float[ndarray, "N P"], Float[ndarray, "P P"]]:
    """Where it is, each observation's gradient there, and the curvature −∂²: steps that do not rise are halved.

    parts: of parameters the log-likelihood, its gradient by observation, and −∂². NoMaximumError: the curvature is
    singular, or the gradient is not 0 to nine digits after so many steps.
    """
    at = start
    value, scores, H = parts(at)
    for _ in range(steps):
        gradient = scores.sum(0)
        try:
            step = np.linalg.solve(H, gradient)
        except np.linalg.LinAlgError as error:
            raise NoMaximumError from error
        if float(gradient @ step) <= 1e-18 * max(len(scores), 1):
            return at, scores, H
        size = 1.0
        while (new := parts(at + size * step))[0] < value and size > 1e-6:
            size /= 2
        at = at + size * step
        value, scores, H = new
        if np.abs(at).max() > 50:  # odds of e⁵⁰: it has no end
            raise NoMaximumError
    raise NoMaximumError
