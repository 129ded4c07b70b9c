"""The alignment tax: what a model has lost, or won, of what another can do (InstructGPT, §4.2 and App. E.6)."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from rlhf_jax.errors import InputError
from rlhf_jax.evals.intervals import Estimate


@runtime_checkable
class Found(Protocol):
    """What a task found of a model (`rlhf_jax.stages.Measured` is one)."""

    @property
    def figures(self) -> Mapping[str, Estimate]: ...

    def minus(self, other: Any, /) -> Mapping[str, Estimate]: ...


def tax_table(before: Mapping[str, Found], after: Mapping[str, Found]) -> str:
    """A table in Markdown: of each figure that both models have its value before and after, and by how much it rose, paired
    item by item, with the 95 % interval; "–" where pairs cannot be made (a perplexity, two tokenizers' tokens).

    before and after: what each task found, by the task's name. An interval of one difference says nothing of the many that
    stand beside it: of twenty without a cause, one excludes 0. InputError: a task of one model alone.
    """
    if alone := sorted(before.keys() ^ after.keys()):
        raise InputError(f"{alone[0]!r} was measured of one of the two models alone: measure both, or leave it out")
    lines = ["| task | figure | before | after | after − before | n |", "|:--|:--|--:|--:|--:|--:|"]
    for task, old in before.items():
        new = after[task]
        rise = new.minus(old)
        for name in old.figures:
            if name in new.figures:
                n, found = new.figures[name].n, rise.get(name)
                cells = (_shown(old.figures[name]), _shown(new.figures[name]), _shown(found, signed=True))
                lines.append(f"| {task} | {name} | {' | '.join(cells)} | {n} |")
    return "\n".join(lines) + "\n"


def _shown(estimate: Estimate | None, signed: bool = False) -> str:
    if estimate is None:
        return "–"
    mean, low, high = (None if x is None else _number(x, signed) for x in estimate[:3])
    return f"{mean}" if low is None else f"{mean} ({low} to {high})"


def _number(x: float, signed: bool) -> str:
    text = f"{x:+.3f}" if signed else f"{x:.3f}"
    return text.lstrip("+-") if not float(text) else text.replace("-", "−")
