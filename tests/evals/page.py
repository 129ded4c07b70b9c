"""A page as a browser reads it."""

from collections.abc import Sequence
from html.parser import HTMLParser

VOID = ("meta", "br", "path", "rect", "use", "col", "hr", "img", "link", "input")


class Page(HTMLParser):
    """sections: by id, the tables in them, as rows of the cells' text. inside: of each table the classes that it stands in.
    elements: every tag with its attributes. text: all of it."""

    def __init__(self, page: str):
        super().__init__()
        self.sections: dict[str, list[list[list[str]]]] = {}
        self.inside: list[list[str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._at: list[list[list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.elements.append((tag, named))
        if tag not in VOID:
            self._open.append((tag, named))
        if tag == "section":
            self._at = self.sections.setdefault(named["id"] or "", [])
        if tag == "table":
            self._at.append([])
            self.inside.append([str(each.get("class")) for _, each in self._open])
        if tag == "tr":
            self._at[-1].append([])
        if tag in ("th", "td"):
            self._at[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while tag not in VOID and self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not any(tag in ("style", "script") for tag, _ in self._open):
            self.text += data
        if any(tag in ("th", "td") for tag, _ in self._open):
            self._at[-1][-1][-1] += data
