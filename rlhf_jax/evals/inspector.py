"""A page of answers, token by token: what each token cost, earned and was worth, drawn as coloured text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlhf_jax.evals.report import escaped, section_html, write_page

LOW, HIGH = "0, 114, 178", "213, 94, 0"  # below and above the neutral value
# The opacity of the strongest tint: with more of it the page's text would have less than WCAG's contrast of 4.5 to 1 on it.
MOST = 0.6


class Quantity(NamedTuple):
    """One number a token. What stands at `neutral` is not coloured."""

    name: str
    meaning: str
    neutral: float = 0.0
    digits: int = 2


QUANTITIES = (
    Quantity("KL", "log π_RL/π_SFT of the token, nats"),
    Quantity("exact KL", "KL of the two whole distributions before the token, nats"),
    Quantity("reward", "−β·KL, and the reward model's score at the last token"),
    Quantity("value", "V before the token, less its mean over the answers shown"),
    Quantity("advantage", "GAE, before whitening"),
    Quantity("ratio", "π after one more update on these answers / π that wrote them", 1.0, 3),
)


class Inspected(NamedTuple):
    """One answer. numbers: the name of a quantity → one number a token."""

    prompt: str
    score: float
    tokens: Sequence[str]
    numbers: Mapping[str, Float[ndarray, " T"]]


def write_inspector(path: Path, title: str, answers: Sequence[Inspected]) -> None:
    """Write the page: of each answer a line a quantity, its tokens tinted by how far they are from the neutral value (blue
    below, orange above), the same scale for all answers; the number stands under the token."""
    scales = {
        q.name: max(max(float(np.abs(a.numbers[q.name] - q.neutral).max(initial=0.0)) for a in answers), 1e-12)
        for q in QUANTITIES
    }
    meanings = "".join(f"<dt>{escaped(q.name)}</dt><dd>{escaped(q.meaning)}</dd>" for q in QUANTITIES)
    articles = "".join(
        f'<article><div class="prompt">{escaped(a.prompt)}</div><p class="category">score {a.score:.2f}</p>'
        + "".join(_line(a, q, scales[q.name]) for q in QUANTITIES)
        + "</article>\n"
        for a in answers
    )
    sections = [
        f"<style>{CSS}</style><header>\n<h1>{escaped(title)}</h1>\n<dl class='legend'>{meanings}</dl>\n</header>",
        section_html("samples", "Answers", articles),
    ]
    write_page(path, title, sections)


def _line(answer: Inspected, quantity: Quantity, scale: float) -> str:
    spans = []
    for token, number in zip(answer.tokens, answer.numbers[quantity.name], strict=True):
        away = float(number) - quantity.neutral
        tint = f"rgba({HIGH if away > 0 else LOW}, {MOST * min(abs(away) / scale, 1.0):.2f})"
        shown = f"{float(number):.{quantity.digits}f}"
        shown = shown.replace("-", "−") if float(shown) else shown.removeprefix("-")  # what rounds to zero has no sign
        spans.append(f'<span class="token" style="background:{tint}">{escaped(token)}<small>{shown}</small></span>')
    return f'<div class="tokens"><span class="name">{escaped(quantity.name)}</span>{"".join(spans)}</div>'


CSS = """
.tokens { display: flex; flex-wrap: wrap; gap: 3px; margin: 4px 0; align-items: baseline }
.tokens .name { width: 7em; font-size: 12.5px; color: var(--muted) }
.token { min-width: 2.8em; padding: 1px 4px; border-radius: 3px; font-size: 15px; text-align: center; white-space: pre }
.token small { display: block; font-size: 10.5px; color: var(--ink) }
"""
