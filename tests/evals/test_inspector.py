"""The page of answers token by token."""

import numpy as np

from rlhf_jax.evals import Inspected, write_inspector

NUMBERS = {
    "KL": [0.5, -1.0],
    "exact KL": [0.0, 0.25],
    "reward": [-0.001, 2.0],
    "value": [0.0, 0.0],
    "advantage": [1.0, -4.0],
    "ratio": [1.0, 1.5],
}


def test_every_token_has_every_number_and_a_tint_by_its_distance(tmp_path):
    numbers = {name: np.array(each) for name, each in NUMBERS.items()}
    path = tmp_path / "tokens.html"
    write_inspector(path, "title", [Inspected("<prompt>", 1.25, ["a<b", "⏎"], numbers)])
    page = path.read_text(encoding="utf-8")
    assert "&lt;prompt&gt;" in page and "score 1.25" in page and page.count("a&lt;b") == 6
    # KL: the largest is 1, so that 0.5 above is half orange and −1 is wholly blue
    assert 'background:rgba(213, 94, 0, 0.50)">a&lt;b<small>0.50</small>' in page
    assert 'background:rgba(0, 114, 178, 1.00)">⏎<small>−1.00</small>' in page
    assert "<small>0.00</small>" in page and "−0.00" not in page  # −0.001 rounds to zero, which has no sign
    assert 'rgba(0, 114, 178, 0.00)">a&lt;b<small>1.000</small>' in page  # a ratio of 1 is neutral
    assert 'rgba(213, 94, 0, 1.00)">⏎<small>1.500</small>' in page
