"""Prompts that a user has given before."""

from collections.abc import Iterable

from rlhf_jax.data.curation.curated import Curated, Dropped
from rlhf_jax.data.prompts import Prompt

AGAIN = "say what an earlier one of the same user says"


def drop_repeats(prompts: Iterable[Prompt]) -> Curated:
    """The prompts less those whose conversation, category and user are an earlier one's: files of answers may have a row
    for each answer."""
    first: dict[tuple, Prompt] = {}
    kept, dropped = [], []
    for prompt in prompts:
        near = first.setdefault((prompt.conversation, prompt.category, prompt.user), prompt)
        if near is prompt:
            kept.append(prompt)
        else:
            dropped.append(Dropped(prompt, AGAIN, near=near))
    return Curated(kept, dropped)
