"""How many prompts one user may give."""

from collections import Counter
from collections.abc import Iterable

from rlhf_jax.data.curation.curated import Curated, Dropped
from rlhf_jax.data.prompts import Prompt

MANY = "are more than one user may give"


def limit_per_user(prompts: Iterable[Prompt], most: int = 200, held_out: Iterable[Prompt] = ()) -> Curated:
    """The first `most` prompts of every user (InstructGPT §3.2: 200), those held out, which count as the first, not among
    them. Prompts without a user all stay."""
    seen, kept, dropped = Counter(prompt.user for prompt in held_out), [], []
    for prompt in prompts:
        seen[prompt.user] += 1
        if not prompt.user or seen[prompt.user] <= most:
            kept.append(prompt)
        else:
            dropped.append(Dropped(prompt, MANY, f"number {seen[prompt.user]} of {prompt.user}"))
    return Curated(kept, dropped)
