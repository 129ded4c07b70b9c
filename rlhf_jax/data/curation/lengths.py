"""Prompts that are too short or too long to be asked."""

from collections.abc import Iterable

from rlhf_jax.data.curation.curated import Curated, Dropped, written
from rlhf_jax.data.prompts import Prompt

SHORT, LONG = "are too short", "are too long"


def drop_by_length(prompts: Iterable[Prompt], shortest: int = 0, longest: int = 0) -> Curated:
    """The prompts of at least `shortest` and at most `longest` characters, the text before the first human turn and the
    markers of the first and the last turn not counted. A longest of 0 is no limit."""
    kept, dropped = [], []
    for prompt in prompts:
        length = len(written(prompt)[1])
        if shortest <= length and (not longest or length <= longest):
            kept.append(prompt)
        else:
            dropped.append(Dropped(prompt, SHORT if length < shortest else LONG, f"{length} characters"))
    return Curated(kept, dropped)
