"""What was measured: the rows behind figures, each of one item, and the figures that they make, of one model or of two."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.evals.intervals import Estimate, Scale, ratio_interval

Number = int | float
Value = Number | tuple[Number, Number]  # a number; or a part and its whole: right pairs of pairs, bits of bytes


class Row(NamedTuple):
    """What was found of one item: a question, a pair, a prompt.

    Two models' rows of one item have the same id. Rows of one cluster share a draw (a fact that is asked in several forms, a
    user, a template) and are not independent. Figures are means of values over the rows that have them.
    """

    id: str
    cluster: str
    values: Mapping[str, Value]
    shown: Mapping[str, Any] = {}  # what else a reader of the rows wants to see, as JSON: the prompt, the answer

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "cluster": self.cluster, "values": dict(self.values), "shown": dict(self.shown)}


def row_of(found: Mapping[str, Any]) -> Row:
    """The row whose `as_json` this is, as it was before."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in found["values"].items()}
    return Row(found["id"], found["cluster"], values, found["shown"])


def figures_of(rows: Sequence[Row], scales: Mapping[str, Scale | None]) -> dict[str, Estimate]:
    """The mean of each value over the rows that have it, Σ part / Σ whole where it is a part of something, with the interval
    over clusters (`ratio_interval`). scales: of each name, or of what stands before its first "/"; None: it has none.

    ValueError: a name without a scale, a value outside its scale.
    """
    return {name: _ratio(_column(rows, name), _scale(name, scales)) for name in _names(rows)}


def differences(ours: Sequence[Row], theirs: Sequence[Row], scales: Mapping[str, Scale | None]) -> dict[str, Estimate]:
    """Ours − theirs of each value that both have, item by item, with the interval over clusters: what an item adds to both
    is gone from it. Of parts it is Σ (part − their part) / Σ whole, where both have the same whole; a value whose wholes
    differ (two tokenizers' tokens) has no difference.

    ValueError: the two are not of the same items, or put them into other clusters; a name without a scale.
    """
    found, others = _by_id(ours), _by_id(theirs)
    if found.keys() != others.keys():
        alone = next(iter(found.keys() ^ others.keys()))
        raise ValueError(f"Rows of two models are compared item by item; only one of the two has {alone!r}.")
    if apart := [id for id, row in found.items() if row.cluster != others[id].cluster]:
        raise ValueError(f"The two models' rows of {apart[0]!r} are in different clusters.")
    result = {}
    theirs = [others[id] for id in found]
    for name in _names(ours):
        pairs = [
            (row.cluster, _parts(row.values[name]), _parts(other.values[name]))
            for row, other in zip(found.values(), theirs, strict=True)
            if name in row.values and name in other.values
        ]
        if not pairs or any(a[1] != b[1] for _, a, b in pairs):
            continue
        scale = _scale(name, scales)
        reach = None if scale is None else scale[1] - scale[0]
        result[name] = _ratio(
            [(cluster, a[0] - b[0], a[1]) for cluster, a, b in pairs], None if reach is None else (-reach, reach)
        )
    return result


def _scale(name: str, scales: Mapping[str, Scale | None]) -> Scale | None:
    """The scale of a value. ValueError: there is none by its name, nor by what stands before its first "/"."""
    for known in (name, name.partition("/")[0]):
        if known in scales:
            return scales[known]
    raise ValueError(f"The value {name!r} has no scale; give it one, or None.")


def _names(rows: Sequence[Row]) -> Iterable[str]:
    return dict.fromkeys(name for row in rows for name in row.values)


def _by_id(rows: Sequence[Row]) -> dict[str, Row]:
    found = {row.id: row for row in rows}
    if len(found) < len(rows):
        twice = Counter(row.id for row in rows).most_common(1)[0][0]
        raise ValueError(f"Two rows have the id {twice!r}; each item has one.")
    return found


def _parts(value: Value) -> tuple[float, float]:
    return (float(value[0]), float(value[1])) if isinstance(value, tuple) else (float(value), 1.0)


def _column(rows: Sequence[Row], name: str) -> list[tuple[str, float, float]]:
    return [(row.cluster, *_parts(row.values[name])) for row in rows if name in row.values]


def _ratio(column: Sequence[tuple[str, float, float]], scale: Scale | None) -> Estimate:
    clusters, parts, wholes = zip(*column, strict=True)
    index = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    at = [index[cluster] for cluster in clusters]
    return ratio_interval(np.bincount(at, parts), np.bincount(at, wholes), scale)
