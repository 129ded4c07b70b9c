"""The prompts of a file, curated as a run curates them, with what is left out and a page over both.

    python experiments/curate.py configs/curate.toml --files.prompts prompts.jsonl

InstructGPT, §3.2 and App. A.4; docs/curation.md says how each step works and what was measured. Needs the extra: pip install
'rlhf_jax[curation]'. The prompts are split by user as in a run with the same files and seed, and each part is curated.
kept.jsonl has the prompts that stay, with their part as "split" (a run keeps it by files.layout.prompts.split = "split") and
their use-case as "category"; dropped.jsonl the others, with the reason and what each was too like; audit.html counts, shares,
lengths, users, languages and examples.

Differences from the paper: 1. it does not say how long a shared prefix is; here it is 200 characters. 2. Near duplicates,
languages and lengths are ours. 3. Personal data are found by patterns, check digits and lists; the paper does not say how.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_jax.data import Messages, Prompt, read_prompts
from rlhf_jax.data.curation import Curated, Dropped
from rlhf_jax.errors import InputError
from rlhf_jax.evals import write_audit
from rlhf_jax.runtime import run, write_atomically
from rlhf_jax.stages import Curation, Files, Program, audit_of, begin, curate_parts, data_sets, say_curated

ALL = Curation(similarity=0.8, pii=True, languages="en", use_cases=True)
NONE = Curation(once=False, per_user=0, shared_prefix=0)


@dataclass(frozen=True)
class Config(Program):
    files: Files = Files(curation=ALL)  # with the prompts; of the others only what they hold out is read


def main(c: Config) -> None:
    if not c.files.prompts:
        raise InputError("files.prompts names no file; name the one that is to be curated")
    data = data_sets(replace(c.files, curation=NONE), c.seed)
    parts = data.prompts.each()
    curated = dict(zip(parts, curate_parts(list(parts.values()), c.files.curation), strict=True))
    say_curated(list(curated.values()))
    layout = c.files.layout.of("prompts")
    curated["none"] = in_no_part(read_prompts(c.files.prompts, c.files.unusable, layout), parts.values())
    kept = (row_of(prompt) | {"split": name} for name, part in curated.items() for prompt in part.kept)
    dropped = (
        row_of(each.prompt)
        | {"split": name, "reason": each.reason, "detail": each.detail, "near": each.near and each.near.text}
        for name, part in curated.items()
        for each in part.dropped
    )
    write_rows(c.folder / "kept.jsonl", kept)
    write_rows(c.folder / "dropped.jsonl", dropped)
    write_audit(c.folder / "audit.html", f"{c.files.prompts}: curation", audit_of(curated, c.files.curation))


def in_no_part(prompts: Iterable[Prompt], parts: Iterable[Iterable[Prompt]]) -> Curated:
    """Those that the split leaves out, because what they say is held out elsewhere."""
    there, outside = Counter(prompt for part in parts for prompt in part), []
    for prompt in prompts:
        there[prompt] -= 1
        if there[prompt] < 0:
            outside.append(Dropped(prompt, "hold what is held out elsewhere"))
    return Curated([], outside)


def row_of(prompt: Prompt) -> dict:
    """A row that is read as this prompt."""
    said = prompt.conversation
    named = {
        "prompt": list(said) if isinstance(said, Messages) else said,
        "category": prompt.category,
        "user": prompt.user,
    }
    return dict(prompt.columns) | {name: value for name, value in named.items() if value}


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """One object a line."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    run(lambda: main(begin(Config, __file__, __doc__)))
