"""One hash of what rows of data say, by which a stage's folder knows what it was made from."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def content_sha256(rows: Iterable[Any]) -> str:
    """sha256 (hex) over rows in their order. A row is a string, or a tuple of strings, numbers and tuples, such as a Prompt,
    a Demonstration or a Ranking."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()
