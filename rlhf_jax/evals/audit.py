"""The audit of curated prompts: one page with what was left out and why, and what the prompts that stay are like."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf_jax.evals.figures import CATEGORIES
from rlhf_jax.evals.report import escaped, section_html, write_page

SHOWN = 1_200  # characters of an example's text


class Example(NamedTuple):
    """A prompt that was left out."""

    part: str
    text: str
    detail: str
    near: str  # the text of the prompt that it was too like, or ""


class Audit(NamedTuple):
    """What the page shows. Counts of prompts are kept and dropped, or those of a part, by its name."""

    kept: Mapping[str, int]
    reasons: Mapping[str, Mapping[str, int]]  # reason → part → how many it dropped
    use_cases: Mapping[str, tuple[int, int]]
    paper: Mapping[str, float]  # use-case → % of prompts in the paper
    lengths: Sequence[
        tuple[int, int]
    ]  # of characters; of each prompt that was kept, of each that was dropped: as quantiles
    users: Mapping[str, tuple[int, int]]  # those with the most prompts
    user_count: int
    languages: Mapping[str, int]  # of a sample of the prompts
    examples: Mapping[str, Sequence[Example]]
    settings: str  # as TOML


QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # %, of Audit.lengths


def write_audit(path: Path, title: str, audit: Audit) -> None:
    """Write the page. The same input gives the same bytes."""
    kept, dropped = sum(audit.kept.values()), sum(sum(parts.values()) for parts in audit.reasons.values())
    header = (
        f"<style>{CSS}</style><header>\n<h1>{escaped(title)}</h1>\n"
        f'<p class="by">{kept + dropped:,} prompts: {kept:,} stay, {dropped:,} are left out</p>\n</header>'
    )
    sections = [
        header,
        section_html("reasons", "What is left out", _reasons(audit)),
        section_html("use-cases", "Use-cases", _use_cases(audit)),
        section_html("lengths", "Lengths", _lengths(audit)),
        section_html("users", "Users", _users(audit)),
        section_html("languages", "Languages", _languages(audit)),
        section_html("examples", "Examples", _examples(audit)),
        section_html("setup", "Set-up", f"<pre>{escaped(audit.settings)}</pre>"),
    ]
    write_page(path, title, sections)


def _reasons(audit: Audit) -> str:
    total = sum(audit.kept.values()) + sum(sum(parts.values()) for parts in audit.reasons.values())
    rows = {"stay": audit.kept, **dict(sorted(audit.reasons.items(), key=lambda row: -sum(row[1].values())))}
    return _table(
        ["prompts that", *audit.kept, "all", "share"],
        [
            [
                name,
                *(f"{parts.get(p, 0):,}" for p in audit.kept),
                f"{sum(parts.values()):,}",
                _bar(sum(parts.values()), total),
            ]
            for name, parts in rows.items()
        ],
    )


def _use_cases(audit: Audit) -> str:
    before, after = (sum(pair[i] for pair in audit.use_cases.values()) for i in (0, 1))
    names = [*audit.paper, *(name for name in audit.use_cases if name not in audit.paper)]
    rows = []
    for name in names:
        stay, gone = audit.use_cases.get(name, (0, 0))
        paper = f"{audit.paper[name]:.1f} %" if name in audit.paper else "–"
        rows.append(
            [CATEGORIES.get(name, name), f"{stay:,}", _bar(stay, before), paper, f"{gone:,}", _share(gone, after)]
        )
    note = (
        '<p class="legend">The category of each prompt or, where it has none, what simple rules make of its words, which '
        "know English; the paper's shares are of the prompts from its API, by labelers (InstructGPT, Table 1).</p>"
    )
    return note + _table(["", "stay", "share", "paper", "left out", "share"], rows)


def _lengths(audit: Audit) -> str:
    names = {0: "shortest", 50: "median", 100: "longest"}
    rows = [
        [names.get(q, f"{q} %"), f"{stay:,}", f"{gone:,}"]
        for q, (stay, gone) in zip(QUANTILES, audit.lengths, strict=True)
    ]
    return _table(["characters", "stay", "left out"], rows)


def _users(audit: Audit) -> str:
    if not audit.user_count:
        return '<p class="missing">No user is named.</p>'
    rows = [[user, f"{stay:,}", f"{gone:,}"] for user, (stay, gone) in audit.users.items()]
    note = f'<p class="legend">{audit.user_count:,} users; those with the most prompts are shown.</p>'
    return note + _table(["user", "stay", "left out"], rows)


def _languages(audit: Audit) -> str:
    if not audit.languages:
        return '<p class="missing">Languages are not known: py3langid is not installed.</p>'
    total = sum(audit.languages.values())
    note = f'<p class="legend">By py3langid, of {total:,} of the prompts that stay; "zxx" is text without words.</p>'
    return note + _table(["", "prompts", "share"], [[n, f"{c:,}", _bar(c, total)] for n, c in audit.languages.items()])


def _examples(audit: Audit) -> str:
    if not audit.examples:
        return '<p class="missing">Nothing is left out.</p>'
    shown = []
    for reason, examples in audit.examples.items():
        each = "".join(_example(example) for example in examples)
        count = sum(audit.reasons[reason].values())
        shown.append(f"<details open><summary>{count:,} {escaped(reason)}</summary>{each}</details>")
    return "".join(shown)


def _example(example: Example) -> str:
    about = " · ".join(escaped(words) for words in (example.part, example.detail) if words)
    near = f'<p class="category">near to</p><div class="near">{_text(example.near)}</div>' if example.near else ""
    return f'<article><p class="category">{about}</p><div class="prompt">{_text(example.text)}</div>{near}</article>\n'


def _text(text: str) -> str:
    return escaped(text if len(text) <= SHOWN else f"{text[:SHOWN]} …")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escaped(name)}</th>' for name in head)
    body = "\n".join(
        f'<tr><th scope="row">{escaped(name)}</th>{"".join(f"<td>{_cell(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    )
    return f'<div class="scroll"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n'


class _Html(str):
    """Text that is HTML already."""


def _cell(cell: str) -> str:
    return cell if isinstance(cell, _Html) else escaped(cell)


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %" if of else "–"


def _bar(count: int, of: int) -> _Html:
    width = 100 * count / of if of else 0
    return _Html(
        f'<span class="bar"><i style="width:{width:.1f}%"></i></span><span class="of">{_share(count, of)}</span>'
    )


CSS = """
.bar { display: inline-block; width: 120px; height: 9px; margin-right: 10px; background: var(--tint); text-align: left }
.of { display: inline-block; min-width: 3.6em }
.bar i { display: block; height: 100%; background: var(--m2) }
.prompt { font-size: 15.5px } .near { white-space: pre-wrap; overflow-wrap: anywhere; max-width: 52em; color: var(--muted);
  font-size: 14.5px; border-left: 3px solid var(--rule); padding-left: 12px }
article { padding: 14px 0 16px } details { margin: 0 0 18px }
@media (max-width: 600px) { .bar { display: none } }
"""
