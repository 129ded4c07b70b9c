"""A question with choices: which of some texts a model finds likeliest after a context."""

from collections.abc import Sequence

import numpy as np

from rlhf_jax.data import Prompt, prompt_text
from rlhf_jax.evals.task import Context, LogProb


def context_of(text: str, chat: bool) -> Context:
    """The beginning of a document as it is; or the same words as the user's turn, after which the assistant speaks."""
    return Prompt(prompt_text(text.strip())) if chat else text


def text_after(text: str, chat: bool) -> str:
    """What follows a context that ends in no space: set off by one in a document; as it is as the assistant's answer."""
    return text if chat else f" {text}"


def total_logps(replies: Sequence[LogProb]) -> np.ndarray:
    """Σ log p of each choice, nats."""
    return np.array([reply.logp for reply in replies], np.float64)


def likeliest_is(right: int, scores: np.ndarray) -> float:
    """1 where the choice `right` has the highest score, else 0. Of equal ones the first counts, as in numpy's argmax."""
    return float(int(np.argmax(scores)) == right)


def share_of_probability(right: int, logps: np.ndarray) -> float:
    """Σ p over the first `right` choices / Σ p over all, by their log p. It does not underflow."""
    p = np.exp(logps - logps.max())
    return float(p[:right].sum() / p.sum())
