"""What was made from what, as a drawing: folders are boxes, and arrows lead to them from what they were made from."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlhf_jax.evals.report import escaped

WIDTH, HEIGHT, ACROSS, DOWN = 148, 42, 18, 44  # of a box, and of what is between two, CSS pixels
LETTERS = 19  # that a box has room for


class Origins(NamedTuple):
    """A folder, and by which hashes what is made from it, and it itself, record their parents."""

    name: str
    results: tuple[str, ...]  # the newest first
    inputs: Mapping[str, str]  # name → sha256


class Edge(NamedTuple):
    parent: str  # a folder's name, or the sha256 of what is not in the run
    child: str
    role: str  # by which the child calls it
    outside: bool  # of the run


def edges(folders: Sequence[Origins]) -> list[Edge]:
    """From each input of each folder, to it. Of two folders with one result the first is the parent."""
    owner = {result: folder.name for folder in reversed(folders) for result in folder.results}
    return [
        Edge(owner.get(sha256, sha256), folder.name, role, sha256 not in owner)
        for folder in folders
        for role, sha256 in folder.inputs.items()
    ]


def layers(folders: Sequence[Origins]) -> list[list[str]]:
    """Boxes by rows, such that each stands below all that it was made from; what is from outside stands right above the first
    that is made from it."""
    found = edges(folders)
    level = {folder.name: 1 for folder in folders}
    for _ in folders:  # a path has no more steps than there are folders; records of a circle, which cannot be, end too
        for edge in found:
            if not edge.outside:
                level[edge.child] = min(max(level[edge.child], level[edge.parent] + 1), len(folders))
    for edge in found:
        if edge.outside:
            level[edge.parent] = min(level.get(edge.parent, len(folders)), level[edge.child] - 1)
    rows: list[list[str]] = [[] for _ in range(max(level.values(), default=0) + 1)]
    for name, row in level.items():
        rows[row].append(name)
    return [row for row in rows if row]


def lineage_svg(folders: Sequence[Origins], colour: int, number: int) -> str:
    """The drawing. colour: slot of the palette. number: of the drawing on its page, by which its arrowheads go."""
    found, rows = edges(folders), layers(folders)
    across = max(map(len, rows), default=0)
    width, height = across * (WIDTH + ACROSS) + ACROSS, len(rows) * (HEIGHT + DOWN) - DOWN + 8
    roles = {edge.parent: edge.role for edge in reversed(found) if edge.outside}
    results = {folder.name: folder.results[0] if folder.results else "" for folder in folders}
    at = {
        name: (ACROSS + ((across - len(row)) / 2 + i) * (WIDTH + ACROSS), 4.0 + y * (HEIGHT + DOWN))
        for y, row in enumerate(rows)
        for i, name in enumerate(row)
    }
    lines = "".join(_arrow(edge, at, number) for edge in found)
    boxes = "".join(_box(name, at[name], colour, roles.get(name), results.get(name, name)) for name in at)
    head = (
        f'<defs><marker id="arrow{number}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="var(--muted)"/></marker></defs>'
    )
    return (
        f'<svg class="lineage" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="What was made from what">{head}{lines}{boxes}</svg>'
    )


def _arrow(edge: Edge, at: Mapping[str, tuple[float, float]], number: int) -> str:
    (x, y), (to_x, to_y) = at[edge.parent], at[edge.child]
    x, y, to_x = x + WIDTH / 2, y + HEIGHT, to_x + WIDTH / 2
    bend = DOWN * 0.6
    dash = ' stroke-dasharray="3 3"' if edge.outside else ""
    return (
        f'<path data-from="{escaped(edge.parent)}" data-to="{escaped(edge.child)}" data-role="{escaped(edge.role)}" '
        f'd="M{x:.1f} {y:.1f}C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y - 1:.1f}" fill="none" '
        f'stroke="var(--muted)"{dash} marker-end="url(#arrow{number})"><title>{escaped(edge.role)}</title></path>'
    )


def _box(name: str, at: tuple[float, float], colour: int, role: str | None, sha256: str) -> str:
    """role: of what is from outside the run; None of its own folders."""
    x, y = at
    label = name if role is None else role
    short = label if len(label) <= LETTERS else f"{label[: LETTERS - 1]}…"
    line = (
        f'stroke="var(--m{colour})" stroke-width="2"'
        if role is None
        else 'stroke="var(--muted)" stroke-dasharray="4 3"'
    )
    middle = x + WIDTH / 2
    return (
        f'<g><title>{escaped(label)}, sha256 {escaped(sha256)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{WIDTH}" '
        f'height="{HEIGHT}" rx="3" fill="var(--page)" {line}/>'
        f'<text x="{middle:.1f}" y="{y + 18:.1f}" text-anchor="middle" font-size="13" fill="var(--ink)">'
        f"{escaped(short)}</text>"
        f'<text x="{middle:.1f}" y="{y + 33:.1f}" text-anchor="middle" font-size="11" fill="var(--muted)">'
        f"{escaped(sha256[:12])}</text></g>"
    )
