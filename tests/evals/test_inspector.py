"""The page of answers token by token."""

import re

import numpy as np
import pytest

from rlhf_jax.evals import Inspected, write_inspector
from tests.evals.contrast import LEAST, contrast, over, schemes

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
    # KL: the largest is 1, so that 0.5 above is half orange, of 0.6 at most, and −1 is wholly blue
    assert 'background:rgba(213, 94, 0, 0.30)">a&lt;b<small>0.50</small>' in page
    assert 'background:rgba(0, 114, 178, 0.60)">⏎<small>−1.00</small>' in page
    assert "<small>0.00</small>" in page and "−0.00" not in page  # −0.001 rounds to zero, which has no sign
    assert 'rgba(0, 114, 178, 0.00)">a&lt;b<small>1.000</small>' in page  # a ratio of 1 is neutral
    assert 'rgba(213, 94, 0, 0.60)">⏎<small>1.500</small>' in page


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_every_tint(tmp_path, scheme):
    """A token and its number, at 200 distances from the neutral value on either side: WCAG 2.2, 1.4.3."""
    numbers = {name: np.linspace(-1, 1, 401) + (name == "ratio") for name in NUMBERS}
    write_inspector(tmp_path / "tokens.html", "", [Inspected("", 0.0, ["x"] * 401, numbers)])
    page = (tmp_path / "tokens.html").read_text(encoding="utf-8")
    colours = schemes(page)[scheme]
    tints = {tuple(map(float, each)) for each in re.findall(r"background:rgba\((.*?), (.*?), (.*?), (.*?)\)", page)}
    assert len(tints) == 2 * 61  # two colours by hundredths, up to the strongest
    texts = ["ink", re.search(r"\.token small { .*color: var\(--(\w+)\)", page)[1]]
    behind = [over(tint, colours["page"]) for tint in tints]
    assert min(contrast(colours[text], each) for text in texts for each in behind) >= LEAST
