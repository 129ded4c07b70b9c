from itertools import product

import numpy as np
import pytest

from rlhf_jax.data.world import make_world, questions
from rlhf_jax.labelers import Gold, Habits, agreements, impression, make_labelers, rank


@pytest.fixture(scope="module")
def asked():
    world = make_world(0)
    return Gold(world), questions(world, 60)


def test_pools_share_nobody():
    train, heldout = make_labelers(0, 8, "train"), make_labelers(0, 8, "heldout")
    people = train + heldout
    assert len({p.name for p in people}) == 16
    assert len({p.weights for p in people}) == 16
    assert make_labelers(0, 8, "train") == train
    assert make_labelers(1, 8, "train") != train
    assert make_labelers(0, 3, "train") == train[:3]


def test_everybody_likes_what_is_good_and_dislikes_what_is_bad():
    for labeler in make_labelers(0, 20, "train"):
        assert [w > 0 for w in labeler.weights] == [True, True, True, False, False]


def test_identical_answers_tie_and_ranks_are_dense_from_1(asked):
    gold, prompts = asked
    for labeler, question in product(make_labelers(0, 3, "train"), prompts[:20]):
        answers = [question.wanted[0], "", question.wanted[0], "Nobody knows.", ""]
        ranks = rank(labeler, gold, question, answers)
        assert ranks[0] == ranks[2]
        assert ranks[1] == ranks[4]
        assert set(ranks) == set(range(1, max(ranks) + 1))
        assert rank(labeler, gold, question, answers) == ranks
        assert rank(labeler, gold, question, answers[::-1]) == ranks[::-1]


def test_better_answers_are_preferred_more_often_than_not(asked):
    """A right answer (less right where more parts are asked for) against an empty one (gold 0)."""
    gold, prompts = asked
    ranks = [
        rank(labeler, gold, question, [question.wanted[0], ""])
        for labeler, question in product(make_labelers(0, 5, "train"), prompts)
    ]
    better, worse = sum(a < b for a, b in ranks), sum(a > b for a, b in ranks)
    assert better > 4 * worse
    assert worse > 0  # they do err


def test_readings_are_drawn_anew_with_every_seed_and_stay_with_it(asked):
    """Of the same prompts and answers, what people of two seeds see beyond the facets, which they weigh, is unrelated."""
    gold, prompts = asked
    read = [(question, answer) for question in prompts for answer in (question.wanted[0], "", "Nobody knows.")]

    def noise(seed):
        people = [
            labeler._replace(weights=(0.0,) * len(labeler.weights)) for labeler in make_labelers(seed, 8, "train")
        ]
        return np.array([impression(person, gold, *each) for person, each in product(people, read)])

    first, second = noise(0), noise(1)
    np.testing.assert_array_equal(noise(0), first)
    distinct = len({(q.text, gold.facets(q, a)) for q, a in read}) * 8  # answers that look alike are read alike
    assert distinct > 800
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / distinct**0.5


# Habits and groups. Each against the same people without it.


def rankings(people, asked, turned=False):
    gold, prompts = asked
    rows = [[q.wanted[0], "", "Nobody knows.", f"{q.wanted[0]} And so on and on, at some length."] for q in prompts]
    found = [
        [rank(p, gold, q, row[:: -1 if turned else 1]) for q, row in zip(prompts, rows, strict=True)] for p in people
    ]
    return [[ranks[:: -1 if turned else 1] for ranks in each] for each in found]


def test_what_nobody_asked_for_changes_nothing(asked):
    plain = make_labelers(0, 4, "train")
    assert plain == make_labelers(0, 4, "train", Habits(), {"": (1.0,) * 5})
    assert rankings(plain, asked) == rankings(plain, asked, turned=True)


def test_rankings_are_flipped_as_often_as_said_and_pairs_with_them(asked):
    plain, flipping = make_labelers(0, 12, "train"), make_labelers(0, 12, "train", Habits(flips=0.25))
    flips, n, same, pairs = 0, 0, 0, 0
    for before, after in zip(rankings(plain, asked), rankings(flipping, asked), strict=True):
        for one, other in zip(before, after, strict=True):
            turned = tuple(max(one) + 1 - r for r in one)
            assert other in (one, turned)
            n += 1
            flips += other == turned != one
            same, pairs = same + agreements([one, other])[0], pairs + agreements([one, other])[1]
    assert n == 720
    assert abs(flips / n - 0.25) < 3 * (0.25 * 0.75 / n) ** 0.5
    assert abs(1 - same / pairs - 0.25) < 0.06
    assert rankings(make_labelers(0, 2, "train", Habits(flips=1.0)), asked) != rankings(plain[:2], asked)


def test_who_abstains_says_so_and_the_rest_stays(asked):
    plain, lazy = make_labelers(0, 12, "train"), make_labelers(0, 12, "train", Habits(abstains=0.3))
    pairs = [(one, other) for a, b in zip(rankings(plain, asked), rankings(lazy, asked), strict=True)
             for one, other in zip(a, b, strict=True)]  # fmt: skip
    skipped = sum(other == () for _, other in pairs) / len(pairs)
    assert abs(skipped - 0.3) < 3 * (0.3 * 0.7 / len(pairs)) ** 0.5
    assert all(other in ((), one) for one, other in pairs)


def test_position_and_length_are_worth_what_is_said(asked):
    gold, prompts = asked
    (plain,) = make_labelers(0, 1, "train")
    (eager,) = make_labelers(0, 1, "train", Habits(position=1000.0))
    (wordy,) = make_labelers(0, 1, "train", Habits(length=2.0))
    for question in prompts[:20]:
        answers = ["Nobody knows.", question.wanted[0], ""]
        assert rank(eager, gold, question, answers) == rank(eager, gold, question, answers[::-1]) == (1, 2, 3)
        for answer in answers:
            more = impression(wordy, gold, question, answer) - impression(plain, gold, question, answer)
            assert more == pytest.approx(2.0 * len(answer) / 100)


def test_noise_is_as_large_as_said(asked):
    gold, prompts = asked
    (exact,) = make_labelers(0, 1, "train", Habits(noise=0.0))
    for question in prompts[:20]:
        seen = gold.facets(question, "Nobody knows.")
        assert impression(exact, gold, question, "Nobody knows.") == pytest.approx(np.dot(exact.weights, seen))


def test_groups_may_oppose_each_other(asked):
    gold, prompts = asked
    groups = {"plain": (1.0,) * 5, "contrary": (-1.0,) * 5}
    people = make_labelers(0, 6, "train", Habits(noise=0.0), groups)
    assert [p.group for p in people] == ["plain", "contrary"] * 3
    for question in prompts[:20]:
        answers = [question.wanted[0], ""]
        for person in people:
            assert rank(person, gold, question, answers) == ((1, 2) if person.group == "plain" else (2, 1))
