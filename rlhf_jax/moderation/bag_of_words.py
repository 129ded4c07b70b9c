"""The plainest classifier of texts, beside which others are measured: logistic regression on words and pairs of words."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

from rlhf_jax.moderation.plain import plain
from rlhf_jax.types import AnyArray

SEEN = 2  # texts that a word or pair has to be in: of one alone nothing is learned


@dataclass(frozen=True)
class BagOfWords:
    """Logits of texts: a weight for each word and pair of words that is there, however often, and one for none."""

    columns: Mapping[str, int]
    weights: Float[ndarray, "F C"]
    bias: Float[ndarray, " C"]

    def __call__(self, texts: Sequence[str]) -> Float[ndarray, "N C"]:
        return np.asarray(_features(texts, self.columns) @ self.weights + self.bias)


def fit_bag_of_words(
    texts: Sequence[str], labels: Bool[AnyArray, "N C"], known: Bool[AnyArray, "N C"], penalty: float = 1.0
) -> BagOfWords:
    """Of each category the weights w and the bias b at which Σ cross-entropy of the known labels + penalty/2 · |w|² is least.

    A text's row has length 1, so that long ones weigh no more. Words are as people read them (`plain`); with words and pairs
    of fewer than two texts left out. The problem is convex: L-BFGS from 0 (Liu & Nocedal 1989).
    """
    counts = Counter(word for text in texts for word in _words(text))
    columns = {word: i for i, word in enumerate(sorted(word for word, n in counts.items() if n >= SEEN))}
    x, labels, known = _features(texts, columns), np.asarray(labels, bool), np.asarray(known, bool)
    fitted = [_fit(x[known[:, c]], labels[known[:, c], c], penalty) for c in range(labels.shape[1])]
    theta = np.stack(fitted, axis=1)
    return BagOfWords(columns, theta[:-1], theta[-1])


def _fit(x: Any, y: Bool[ndarray, " N"], penalty: float) -> Float[ndarray, " F1"]:
    def loss(theta: ndarray) -> tuple[float, ndarray]:
        w, z = theta[:-1], x @ theta[:-1] + theta[-1]
        off = expit(z) - y
        value = np.sum(np.logaddexp(0.0, np.where(y, -z, z))) + penalty / 2 * (w @ w)
        return float(value), np.append(x.T @ off + penalty * w, off.sum())

    return minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"gtol": 1e-6}).x


def _words(text: str) -> set[str]:
    words = re.findall(r"\w+", plain(text).text)
    return {*words, *map(" ".join, pairwise(words))}


def _features(texts: Sequence[str], columns: Mapping[str, int]) -> sparse.csr_array:
    found, ends = [], [0]
    for text in texts:
        found += sorted(columns[word] for word in _words(text) if word in columns)
        ends.append(len(found))
    sizes = np.diff(ends)
    values = np.repeat(np.maximum(sizes, 1) ** -0.5, sizes)
    return sparse.csr_array((values, np.array(found, np.int64), ends), shape=(len(texts), len(columns)))
