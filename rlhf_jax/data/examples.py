"""The examples of a source, less the rows that are dropped, which are counted by reason."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

from rlhf_jax.data.dialogue import UnusableRowError, placed
from rlhf_jax.data.layouts import Example, Layout, example
from rlhf_jax.data.paths import ABSENT, at, conditions, holds, names_in
from rlhf_jax.data.sources import Row, located, read_rows
from rlhf_jax.errors import InputError

PARTS = ("train", "valid", "test")
T = TypeVar("T")


def read_examples(
    source: str,
    parse: Callable[[Example, Row], T],
    unusable: Literal["error", "drop"] = "error",
    layout: Layout = Layout(),
    part: str = "",
    says_unread: bool = True,
) -> list[T]:
    """What `parse` makes of the examples of `source` (see `read_rows`), less the rows that it raises LeftOutError for. Their
    prompts know where they were read (`place_of`).

    part: "train", "valid" or "test", only the rows whose `layout.split` says so, be there none; "" is all. With
    unusable="drop" rows with an UnusableRowError are left out. All that is left out is counted by reason in a warning. With
    says_unread another one names the columns that nothing was read from.
    InputError, with the line: a row that cannot be read; a path of the layout that no row has; all rows are left out.
    """
    layout.check()
    kept: list[T] = []
    dropped: dict[str, list[str]] = {}
    advice, unread = "give other rows", dict[str, None]()
    optional = {
        getattr(layout, name) for name in ("system", "history", "tools", "documents", "category", "user", "labeler")
    } - {""}
    named = optional | set(names_in(layout.ignore))
    for row in rows_of(source, layout.drop, dropped, named, (layout.split, part)):
        try:
            with located(row.where):
                found = example(row, layout)
                unread |= dict.fromkeys(found.unread)
                kept.append(parse(found._replace(prompt=placed(found.prompt, row.where, unusable == "drop")), row))
        except LeftOutError as said:
            dropped.setdefault(str(said), []).append(row.where)
        except UnusableRowError as error:
            if unusable == "error":
                raise
            advice = advice if dropped else str(error)
            dropped.setdefault(error.reason, []).append(row.where)
    if dropped and not kept and not part:
        raise InputError(f"{how_many(source, dropped, 0)}; none is left: {advice}")
    say_dropped(source, dropped, len(kept))
    if says_unread and unread and part in ("", PARTS[0]):
        logging.getLogger(__name__).warning("%s: columns not read: %s", source, ", ".join(unread))
    return kept


class LeftOutError(Exception):
    """A row that is not asked for, whatever is done with unusable ones. The message goes on from "12 rows"."""


def rows_of(
    source: str,
    drop: str,
    dropped: dict[str, list[str]],
    named: Iterable[str] = (),
    of_split: tuple[str, str] = ("", ""),
) -> Iterator[Row]:
    """The rows of `source` that the conditions do not drop, of one part or, where that is "", of all. Where the dropped ones
    are goes into `dropped`. InputError: a path, of the conditions or of `named`, that no row has; a split of another name."""
    alternatives, (split, part) = conditions(drop), of_split
    unseen = {*named, *(path for each in alternatives for path, _, _ in each)}
    for row in read_rows(source):
        unseen = {path for path in unseen if at(row.fields, path) is ABSENT}
        own = part and _part_named(at(row.fields, split))
        if own in PARTS and own != part:
            continue
        with located(row.where):
            if any(all(holds(row.fields, *comparison) for comparison in each) for each in alternatives):
                dropped.setdefault(f"by {drop!r}", []).append(row.where)
                continue
            if own != part:
                raise InputError(f"{split!r} says {own!r}: make it train, valid or test, or drop such rows")
        yield row
    if unseen:
        raise InputError(f"{source}: no row has {sorted(unseen)[0]!r}, which the layout names: mend the path")


def say_dropped(source: str, dropped: dict[str, list[str]], kept: int) -> None:
    """Warns of the rows that are left out, reason → places, where there are any."""
    if dropped:
        logging.getLogger(__name__).warning("%s", how_many(source, dropped, kept))


def how_many(source: str, dropped: dict[str, list[str]], kept: int) -> str:
    """A sentence of the rows that are left out, by their reasons."""
    count = sum(map(len, dropped.values()))
    reasons = ", ".join(f"{len(places)} {reason} (the first is {places[0]})" for reason, places in dropped.items())
    return f"{source}: dropped {count} of {count + kept} rows: {reasons}"


def _part_named(value: Any) -> str:
    names = {"validation": "valid", "val": "valid", "dev": "valid", "training": "train"}
    name = "nothing" if value is None or value is ABSENT else str(value).lower()
    return names.get(name, name)
