"""Prompts that begin alike."""

from collections.abc import Iterable

from rlhf_jax.data.curation.curated import Curated, Dropped, written
from rlhf_jax.data.prompts import Prompt

EQUAL, BEGIN = "say what an earlier one says", "begin as an earlier one does"


def drop_shared_prefixes(prompts: Iterable[Prompt], longest: int, held_out: Iterable[Prompt] = ()) -> Curated:
    """The prompts less those equal to an earlier one, or like it in more than `longest` first characters; the prompts held
    out are earlier than all.

    InstructGPT §3.2 drops "prompts that share a long common prefix" and does not say how long. Characters count from the
    first human turn on; what stands before it, such as a system's text, has to be the same. To begin alike is an equivalence,
    so one look-up a prompt finds the one that it is like: time and memory grow with the number of prompts.
    """
    first: dict[tuple[str, str], Prompt] = {}
    for prompt in held_out:
        first.setdefault(_beginning(prompt, longest), prompt)
    kept, dropped = [], []
    for prompt in prompts:
        near = first.setdefault(_beginning(prompt, longest), prompt)
        if near is prompt:
            kept.append(prompt)
        else:
            reason = EQUAL if written(near) == written(prompt) else BEGIN
            dropped.append(Dropped(prompt, reason, near=near))
    return Curated(kept, dropped)


def _beginning(prompt: Prompt, longest: int) -> tuple[str, str]:
    before, text = written(prompt)
    return before, text[: longest + 1]
