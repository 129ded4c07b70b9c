"""Common given names and family names, by which the filter of personal data knows a person's name."""

from pathlib import Path


def _read(file: str) -> frozenset[str]:
    return frozenset((Path(__file__).parent / file).read_text(encoding="utf-8").split())


GIVEN = _read("given_names.txt")
FAMILY = _read("family_names.txt")
