"""Several answers to each prompt, checked: how often one of k passes, and what answers earn, by kind of prompt."""

from collections.abc import Callable, Sequence
from functools import partial
from math import comb
from typing import Any

from rlhf_jax.data import Prompt
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.evals.intervals import SHARE
from rlhf_jax.evals.measured import Row
from rlhf_jax.evals.task import Said, Task, Write
from rlhf_jax.models import Sampling

# (prompts, answers, the rows' other columns) → a number each, or None where it has no opinion, as rewards are.
Check = Callable[[list[Prompt], list[str], list[Any]], Sequence[float | None]]


def attempts(
    prompts: Sequence[Prompt],
    check: Check,
    draws: int = 8,
    ks: Sequence[int] = (1, 8),
    sampling: Sampling = Sampling(1.0, 0, 1.0),
    max_tokens: int | None = None,
) -> Task:
    """pass@k and rewards of so many answers to each prompt.

    check: as a reward function of text, such as those of rlhf_jax.rewards; an answer passes where it gives 1 or more. A
    prompt of which it has no opinion is in no figure. Figures: pass@k for each of ks, reward (the mean of all answers), and
    reward/<category> of prompts that have one. The draws of one user's prompts are one cluster, else those of one prompt's.

    InputError: no prompts; ks that are not from 1 to draws; a check that gives anything else than a number an answer.
    """
    if draws < 1 or not ks or not all(1 <= k <= draws for k in ks):
        raise InputError(f"pass@k takes k from 1 to the {draws} draws, not {', '.join(map(str, ks)) or 'none'}")
    return Task(
        "attempts",
        [(str(number), prompt) for number, prompt in enumerate(prompts, 1)],
        partial(_asks, draws=draws),
        partial(_rows, check=check, ks=tuple(ks)),
        {"reward": None, **{f"pass@{k}": SHARE for k in ks}},
        sampling,
        max_tokens,
    )


def pass_at(k: int, passed: int, draws: int) -> float:
    """The chance that one of k answers passes, of `draws` of which so many did: 1 − C(n − c, k) / C(n, k) (Chen et al. 2021,
    arXiv:2107.03374, Eq. 1), which has the right mean, unlike 1 − (1 − c/n)ᵏ."""
    return 1 - comb(draws - passed, k) / comb(draws, k)


def _asks(item: tuple[str, Prompt], draws: int) -> list[Write]:
    return [Write(item[1])] * draws


def _rows(
    items: Sequence[tuple[str, Prompt]], replies: Sequence[Sequence[Said]], check: Check, ks: tuple[int, ...]
) -> list[Row]:
    prompts = [prompt for (_, prompt), said in zip(items, replies, strict=True) for _ in said]
    texts = [one.text.strip() for said in replies for one in said]
    earned = iter(_checked(check(prompts, texts, [prompt.columns for prompt in prompts]), texts))
    return [
        _row(number, prompt, said, [next(earned) for _ in said], ks)
        for (number, prompt), said in zip(items, replies, strict=True)
    ]


def _row(number: str, prompt: Prompt, said: Sequence[Said], earned: Sequence[float | None], ks: tuple[int, ...]) -> Row:
    found = [reward for reward in earned if reward is not None]
    shown = {"prompt": prompt.text, "answers": [one.text.strip() for one in said], "rewards": list(earned)}
    if len(found) < len(earned):
        return Row(number, prompt.user or prompt.text, {}, shown)
    passed = sum(reward >= 1 for reward in found)
    mean = sum(found) / len(found)
    values = {f"pass@{k}": pass_at(k, passed, len(found)) for k in ks} | {"reward": mean}
    if prompt.category:
        values[f"reward/{prompt.category}"] = mean
    return Row(number, prompt.user or prompt.text, values, shown)


def _checked(earned: Any, texts: Sequence[str]) -> list[float | None]:
    """InputError: not a finite number, or None, for each answer."""
    try:
        found = [None if one is None else float(one) for one in earned]
    except (TypeError, ValueError):
        found = []
    if len(found) != len(texts) or not all(one is None or abs(one) < float("inf") for one in found):
        raise InputError(
            f"the check gave {shortened(earned)} for {len(texts)} answers: let it give a finite number, or None, for each"
        )
    return found
