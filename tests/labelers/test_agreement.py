"""Agreement: worked examples that were published, and small ones by hand."""

import krippendorff
import numpy as np
import pytest

from rlhf_jax.evals import SHARE, ratio_interval
from rlhf_jax.labelers import (
    Agreed,
    Screened,
    agreed_by_task,
    agreements,
    alpha,
    comparison,
    fleiss_kappa,
    kappa,
    screened,
)
from rlhf_jax.stages import labelers_agree
from tests.refusals import refusal

# Fourteen raters put ten subjects into five categories: the worked example of Wikipedia's "Fleiss' kappa", κ = 0.210.
PSYCHIATRY = """
0 0 0 0 14
0 2 6 4 2
0 0 3 5 6
0 3 9 2 0
2 2 8 1 1
7 7 0 0 0
3 2 6 3 0
2 5 3 2 2
6 5 2 1 0
0 2 2 3 7
"""
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", example C: four observers, twelve units, five values.
OBSERVERS = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
ORDINAL = 0.815  # section D there


def test_fleiss_worked_example():
    counts = np.array([line.split() for line in PSYCHIATRY.split("\n") if line], np.float64)
    assert (counts.sum(1) == 14).all() and counts.shape == (10, 5)
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa(counts[:, ::-1]) == pytest.approx(fleiss_kappa(counts), rel=1e-12)


def test_fleiss_at_its_ends():
    assert fleiss_kappa(np.array([[3.0, 0.0], [0.0, 3.0]])) == 1.0
    assert fleiss_kappa(np.array([[1.0, 1.0], [1.0, 1.0]])) == -1.0  # two who always differ
    assert np.isnan(fleiss_kappa(np.array([[3.0, 0.0], [3.0, 0.0]])))


def task(number):
    return comparison(f"Question {number}?", ["Yes.", "No."])


def rated(rows):
    """Judgements of which the first completion's ratings are the table's; the other's are always 7."""
    return [
        task(unit).judged(f"labeler {who}", ranks=(1, 1), ratings=(int(value), 7))
        for who, row in enumerate(rows)
        for unit, value in enumerate(row)
        if value != "."
    ]


def test_krippendorff_s_worked_example():
    rows = [line.split() for line in OBSERVERS.split("\n") if line]
    table = [[np.nan if value == "." else float(value) for value in row] for row in rows]
    assert krippendorff.alpha(table, level_of_measurement="ordinal") == pytest.approx(ORDINAL, abs=5e-4)
    judgements = rated(rows)
    # The second completion is a unit of its own, on which all agree.
    both = [row + [7.0 if value != "." else np.nan for value in given] for row, given in zip(table, rows, strict=True)]
    assert alpha(judgements, "ratings") == pytest.approx(
        krippendorff.alpha(both, level_of_measurement="ordinal"), abs=1e-12
    )


def flagged(rows):
    return [
        task(unit).judged(f"labeler {who}", ranks=(1, 2), flags=({"sexual": value == "y"}, {}))
        for who, row in enumerate(rows)
        for unit, value in enumerate(row)
        if value != "."
    ]


def test_flags_by_hand():
    """Two observers, ten units, yes or no: Krippendorff (2011), example A, α = 0.095."""
    rows = ["nynnnnnnyn", "yyynnynnnn"]
    judgements = flagged(rows)
    assert alpha(judgements, "sexual") == pytest.approx(0.095, abs=5e-4)
    # They say the same of 6 of 10, and 6 of the 20 flags are yes.
    assert kappa(judgements, "sexual") == pytest.approx((0.6 - (0.3**2 + 0.7**2)) / (1 - (0.3**2 + 0.7**2)))


def test_nothing_to_compare_is_no_figure():
    one = flagged(["ynn"])
    assert alpha(one, "sexual") is None and kappa(one, "sexual") is None and alpha(one, "ranks") is None
    alike = flagged(["nnn", "nnn"])
    assert alpha(alike, "sexual") is None and kappa(alike, "sexual") is None
    assert alpha(alike, "ratings") is None and alpha(alike, "violent") is None
    assert labelers_agree(one) == {}
    refusal(lambda: alpha(one, "colour"), "'colour' is nothing that labelers say: there are ranks, ratings")


def ranked(*several):
    three = comparison("Which?", ["a", "b", "c"])
    return [three.judged(f"labeler {who}", ranks=ranks) for who, ranks in enumerate(several)]


def test_ranks_are_the_order_that_they_say():
    assert alpha(ranked((1, 2, 3), (1, 2, 3)), "ranks") == 1.0
    assert alpha(ranked((1, 2, 2), (1, 3, 3)), "ranks") == 1.0
    assert alpha(ranked((1, 2, 3), (3, 2, 1)), "ranks") < 0
    skipped = ranked((1, 2, 3))[0]._replace(labeler="Cay", ranks=(), skipped="no")
    assert alpha([*ranked((1, 2, 3), (1, 2, 3)), skipped], "ranks") == 1.0


def test_agreement_by_prompt_has_an_interval_over_them():
    other = comparison("Who?", ["a", "b"])
    judgements = [*ranked((1, 2, 3), (1, 3, 2)), *(other.judged(name, ranks=(2, 1)) for name in ("x", "y", "z"))]
    counts = agreed_by_task(judgements)
    assert counts == [Agreed(judgements[0].task, 2, 3), Agreed(other.id, 3, 3)]
    assert labelers_agree(judgements)["agreement"] == ratio_interval([2, 3], [3, 3], SHARE)
    assert set(labelers_agree(judgements)) == {"agreement", "alpha/ranks"}


def test_screening_by_what_is_known():
    known = ranked((1, 2, 3))[0]._replace(flags=({"sexual": True, "violent": False}, {"sexual": False}, {}))
    ann = known._replace(labeler="Ann")
    bob = known._replace(
        labeler="Bob", ranks=(2, 1, 3), flags=({"sexual": False}, {"sexual": False, "opinion": True}, {})
    )
    cay = known._replace(labeler="Cay", ranks=(), skipped="no", flags=())
    found = screened([(known, ann), (known, ann), (known, bob), (known, cay)])
    assert found == [
        Screened("Ann", agreed=6, pairs=6, same_flags=6, flags=6),
        Screened("Bob", agreed=2, pairs=3, same_flags=1, flags=2),
        Screened("Cay", agreed=0, pairs=0, same_flags=0, flags=0),
    ]
    bare = known._replace(flags=())
    assert screened([(bare, ann), (bare, bare._replace(labeler="Dan"))]) == [
        Screened("Ann", 3, 3, 0, 0),
        Screened("Dan", 3, 3, 0, 0),
    ]
    assert [one.passes for one in found] == [True, False, False]  # who says nothing is not screened
    assert Screened("Dan", 3, 4, 0, 0).passes and not Screened("Dan", 3, 4, 2, 3).passes


@pytest.mark.parametrize(
    ("rankings", "expected"),
    [
        ([(1, 2), (1, 2)], (1, 1)),
        ([(1, 2), (2, 1)], (0, 1)),
        ([(1, 1), (1, 2)], (0, 0)),  # a tie of one of them does not count
        ([(1, 2, 3), (1, 3, 2)], (2, 3)),
        ([(1, 2, 2), (2, 1, 3)], (1, 2)),  # pairs 1–2: no, 1–3: yes, 2–3: a tie
        ([(1, 2), (1, 2), (2, 1)], (1, 3)),  # three labelers make three pairs of labelers
        ([(1, 2)], (0, 0)),
        ([(), (1, 2), (1, 2), ()], (1, 1)),  # who skipped it agrees with nobody
    ],
)
def test_agreement_by_hand(rankings, expected):
    assert agreements(rankings) == expected
