"""The curation of a run's prompts, by InstructGPT's §3.2 and App. A.4, part by part."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from rlhf_jax.config import Checked, Natural, Share
from rlhf_jax.data import Prompt
from rlhf_jax.data.curation import (
    TABLE_1,
    Curated,
    Dropped,
    drop_by_length,
    drop_near_duplicates,
    drop_other_languages,
    drop_personal,
    drop_repeats,
    drop_shared_prefixes,
    identifier,
    limit_per_user,
    with_use_case,
    written,
)
from rlhf_jax.errors import InputError
from rlhf_jax.evals import QUANTILES, Audit, Example
from rlhf_jax.runtime import info, progress

EXAMPLES, USERS, LOOKED_AT = (
    6,
    12,
    5_000,
)  # of each reason, of all, and prompts whose language is looked at, on the page


@dataclass(frozen=True)
class Curation(Checked):
    """Which prompts of a file are left out; 0, "" and false turn a step off. What goes is said, with its reasons. Near
    duplicates, personal data and languages need the extra `curation`."""

    once: bool = True  # leave out what a user has asked before
    per_user: Natural = 200  # prompts of one user at most (InstructGPT §3.2)
    shared_prefix: Natural = 200  # first characters beyond which no two may be alike (§3.2 does not say how many)
    similarity: Share = 0.0  # Jaccard similarity from which on two prompts are near duplicates, such as 0.8
    pii: bool = False  # leave out training prompts with personal data (§3.2)
    region: str = "US"  # whose phone numbers are known without a country code
    languages: str = ""  # those that are kept, as ISO 639 codes with commas between
    shortest: Natural = 0  # characters that a prompt has at least
    longest: Natural = 0  # characters that a prompt has at most
    use_cases: bool = False  # the category of a prompt without one is its use-case (Table 1), by simple rules

    def __post_init__(self) -> None:
        """InputError: no length can be between these."""
        super().__post_init__()
        if 0 < self.longest < self.shortest:
            raise InputError(f"shortest is {self.shortest} and longest {self.longest}: no prompt is of such a length")

    def codes(self) -> list[str]:
        return [code.strip() for code in self.languages.split(",") if code.strip()]


def curate(prompts: Sequence[Prompt], settings: Curation, held_out: Sequence[Prompt] = ()) -> Curated:
    """The prompts, in their order, less those that a step drops, each by the first that does: repeats, lengths, languages,
    personal data, shared prefixes, near duplicates, prompts beyond a user's limit. What is too like a prompt held out goes,
    and a user's prompts held out count. The same prompts and settings give the same."""

    def steps() -> Iterator[tuple[bool, str, Callable[[Iterable[Prompt]], Curated]]]:
        c = settings
        yield c.once, "", drop_repeats
        yield c.shortest + c.longest > 0, "", lambda rows: drop_by_length(rows, c.shortest, c.longest)
        yield bool(c.codes()), "languages", lambda rows: drop_other_languages(rows, c.codes())
        yield c.pii, "personal data", lambda rows: drop_personal(rows, c.region)
        yield c.shared_prefix > 0, "", lambda rows: drop_shared_prefixes(rows, c.shared_prefix, held_out)
        yield c.similarity > 0, "near duplicates", lambda rows: drop_near_duplicates(rows, c.similarity, held_out)
        yield c.per_user > 0, "", lambda rows: limit_per_user(rows, c.per_user, held_out)

    kept: Sequence[Prompt] = prompts
    dropped: list[Dropped] = []
    for on, title, step in steps():
        if on:
            found = step(_watched(kept, title) if title else kept)
            kept, dropped = found.kept, [*dropped, *found.dropped]
    return Curated([with_use_case(p) if settings.use_cases else p for p in kept], dropped)


def curate_parts(parts: Sequence[Sequence[Prompt]], settings: Curation) -> tuple[Curated, ...]:
    """The parts of a data set, the first for training and each held out from those before it, none of whose prompts changes
    its part. The most held-out part is curated first, so that of two prompts alike the one that is held out stays; prompts
    with personal data go from the first part alone."""
    done: list[Curated] = []
    for number in reversed(range(len(parts))):
        held_out = [prompt for curated in done for prompt in curated.kept]
        done.append(curate(parts[number], settings if number == 0 else replace(settings, pii=False), held_out))
    return tuple(reversed(done))


def say_curated(parts: Sequence[Curated]) -> None:
    """Says how many prompts were left out and why, where any were."""
    reasons = Counter(dropped.reason for part in parts for dropped in part.dropped)
    if not reasons:
        return
    count = sum(len(part.kept) + len(part.dropped) for part in parts)
    why = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
    info(f"{reasons.total()} of {count} prompts are left out by [files.curation]: {why}")


def _watched(prompts: Sequence[Prompt], title: str) -> Iterator[Prompt]:
    with progress(title, len(prompts)) as advance:
        for prompt in prompts:
            yield prompt
            advance()


def audit_of(parts: Mapping[str, Curated], settings: Curation) -> Audit:
    """What the audit page shows of curated parts, by their names. Users that have no name of their own are not shown, and
    languages only where py3langid is installed."""
    kept = [prompt for part in parts.values() for prompt in part.kept]
    dropped = [(name, each) for name, part in parts.items() for each in part.dropped]
    reasons: dict[str, Counter[str]] = {}
    examples: dict[str, list[Example]] = {}
    for name, each in dropped:
        reasons.setdefault(each.reason, Counter())[name] += 1
        shown = examples.setdefault(each.reason, [])
        if len(shown) < EXAMPLES:
            near = each.near.text.strip() if each.near else ""
            shown.append(Example(name, each.prompt.text.strip(), each.detail, near))
    gone = [each.prompt for _, each in dropped]
    cases, users = (
        _paired(Counter(map(of, kept)), Counter(map(of, gone)))
        for of in (lambda prompt: with_use_case(prompt).category, lambda prompt: prompt.user)
    )
    users.pop("", None)
    most = sorted(users, key=lambda user: -sum(users[user]))[:USERS]
    return Audit(
        kept={name: len(part.kept) for name, part in parts.items()},
        reasons=reasons,
        use_cases=cases,
        paper=TABLE_1,
        lengths=list(zip(_quantiles(kept), _quantiles(gone), strict=True)),
        users={user: users[user] for user in most},
        user_count=len(users),
        languages=_languages(kept),
        examples=examples,
        settings="\n".join(f"{name} = {json.dumps(value)}" for name, value in asdict(settings).items()),
    )


def _paired(kept: Counter[str], gone: Counter[str]) -> dict[str, tuple[int, int]]:
    return {name: (kept[name], gone[name]) for name in (*kept, *(name for name in gone if name not in kept))}


def _quantiles(prompts: Sequence[Prompt]) -> list[int]:
    if not prompts:
        return [0 for _ in QUANTILES]
    lengths = [len(written(prompt)[1]) for prompt in prompts]
    return [int(x) for x in np.percentile(lengths, QUANTILES, method="nearest")]


def _languages(prompts: Sequence[Prompt]) -> dict[str, int]:
    """Of LOOKED_AT prompts at most, at even distances."""
    try:
        guess = identifier()
    except InputError:
        return {}
    some = prompts[:: -(-len(prompts) // LOOKED_AT) or 1]
    return dict(Counter(guess(prompt)[0] for prompt in some).most_common(12))
