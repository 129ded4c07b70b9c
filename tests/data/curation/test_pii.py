"""The filter of personal data on 200 lines that were written for it, of which half hold none (personal.tsv)."""

from pathlib import Path

import pytest

from rlhf_jax.data import Prompt, prompt_text
from rlhf_jax.data.curation import KINDS, drop_personal, personal_data
from tests.refusals import refusal

LINES = [line.split("\t") for line in (Path(__file__).parent / "personal.tsv").read_text(encoding="utf-8").splitlines()]
# kind → (right, found, there): precision is right / found, recall right / there. docs/curation.md has this table.
MEASURED = {
    "e-mail": (13, 13, 14),
    "IBAN": (7, 7, 8),
    "card": (8, 8, 9),
    "national number": (16, 17, 18),
    "IP": (6, 7, 6),
    "phone": (16, 16, 19),
    "address": (12, 13, 15),
    "name": (14, 17, 17),
}


def kinds_in(text: str) -> set[str]:
    return {each.kind for each in personal_data(text)}


@pytest.fixture(scope="module")
def lines() -> list[tuple[set[str], set[str]]]:
    """Of each line the kinds that are there and those that are found."""
    return [(set(said.split(",")) - {"-"}, kinds_in(text)) for said, text in LINES]


def test_half_of_the_lines_hold_nothing():
    assert len(LINES) == 200 and sum(said == "-" for said, _ in LINES) == 100
    assert len({text for _, text in LINES}) == 200


@pytest.mark.parametrize("kind", KINDS)
def test_precision_and_recall(lines, kind):
    right = sum(kind in there and kind in found for there, found in lines)
    assert (right, sum(kind in found for _, found in lines), sum(kind in there for there, _ in lines)) == MEASURED[kind]


def test_prompts_with_any_of_it_are_left_out(lines):
    prompts = [Prompt(prompt_text(text)) for _, text in LINES]
    found = drop_personal(prompts)
    assert found.kept == [p for p, (_, kinds) in zip(prompts, lines, strict=True) if not kinds]
    for each, (_, kinds) in zip(found.dropped, [line for line in lines if line[1]], strict=True):
        assert set(each.detail.split(", ")) == kinds


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "Ask Dr. Sarah J. Miller (sarah.miller@acme.org).",
            [("e-mail", "sarah.miller@acme.org"), ("name", "Sarah J. Miller")],
        ),
        (
            "Pay 4111-1111-1111-1111 or 5555 5555 5555 4444",
            [("card", "4111-1111-1111-1111"), ("card", "5555 5555 5555 4444")],
        ),
        ("Call +44 20 7946 0958 or (650) 253-0000", [("phone", "+44 20 7946 0958"), ("phone", "(650) 253-0000")]),
    ],
)
def test_each_stretch_of_text_is_found_once(text, found):
    assert personal_data(text) == found


def test_check_digits_tell_a_number_from_its_neighbours():
    """Of ten neighbours that differ in the last digit one is right (Luhn; ISO 7064 for an IBAN's two)."""
    cards = [f"411111111111111{digit}" for digit in range(10)]
    assert [card for card in cards if kinds_in(f"card {card}")] == ["4111111111111111"]
    ibans = [f"DE{check:02}370400440532013000" for check in range(100)]
    assert [iban for iban in ibans if "IBAN" in kinds_in(iban)] == ["DE89370400440532013000"]


def test_the_region_is_that_of_numbers_without_a_country():
    text = "ring 020 7946 0958"
    assert not personal_data(text) and [p.kind for p in personal_data(text, "GB")] == ["phone"]
    refusal(lambda: personal_data("a", "UK"), "the region 'UK' is not known; name an ISO 3166 code")
