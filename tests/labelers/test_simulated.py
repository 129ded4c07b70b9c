from itertools import product

import numpy as np
import pytest

from rlhf_jax.data.world import make_world, questions
from rlhf_jax.labelers import Gold, impression, make_labelers, rank


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
