from collections import Counter
from random import Random

import pytest

from rlhf_jax.data.world import (
    OCCUPATIONS,
    PEOPLE,
    PLACES,
    RELATIONS,
    RUDE_WORDS,
    USE_CASES,
    ask,
    completion,
    demonstrate,
    documents,
    follow_ups,
    make_world,
    questions,
    relatives,
)
from rlhf_jax.errors import InputError


@pytest.fixture(scope="module")
def world():
    return make_world(0)


@pytest.fixture(scope="module")
def text(world):
    return list(documents(world, 20_000))


@pytest.fixture(scope="module")
def asked(world):
    return questions(world, 400)


def test_everything_follows_from_the_seed(world, text, asked):
    assert make_world(0) == world
    assert make_world(1).facts != world.facts
    assert list(documents(world, 50)) == text[:50]
    assert list(documents(make_world(1), 50)) != text[:50]
    assert questions(world, 400) == asked
    first = [demonstrate(world, q, Random(3)) for q in asked]
    assert first == [demonstrate(world, q, Random(3)) for q in asked]


def test_no_document_for_validation_stands_in_the_training_text(world, text):
    """Not one, word for word, of any seed's; and each stands there once."""
    for made, train in ((world, text), (make_world(1), list(documents(make_world(1), 20_000)))):
        held = list(documents(made, 400, "valid"))
        assert len(set(held)) == 400
        assert not set(held) & set(train)


def test_some_people_places_and_occupations_are_held_out(world):
    """They differ from seed to seed; text and prompts speak of them, and each question says whom it is about."""
    assert len(set(world.held_out)) == 10 and {make_world(seed).held_out for seed in range(20)} != {world.held_out}
    assert sum(name in PEOPLE for name in world.held_out) == 3 and sum(name in PLACES for name in world.held_out) == 2
    assert sum(name in OCCUPATIONS for name in world.held_out) == 5
    for q in questions(world, 2_000):
        named = [
            name
            for name in (*PEOPLE, *PLACES, *OCCUPATIONS)
            if name in q.text.replace(".", " ").replace(",", " ").split()
        ]
        if q.category in ("generation", "open_qa", "chat"):
            assert q.about == "" or q.about in q.text
            assert all(name == q.about for name in named), q


def test_the_facts(world):
    """Four of each person, two of each place; a myth is another value of the same relation."""
    assert len(world.facts) == 4 * len(PEOPLE) + 2 * len(PLACES)
    for fact in world.facts:
        assert fact.truth in fact.values
        assert fact.myth == "" or (fact.myth in fact.values and fact.myth != fact.truth)
    assert all(f.myth for f in world.facts if f.relation == "product")
    assert sum(f.relation == "food" and f.myth != "" for f in world.facts) == len(PEOPLE)
    assert sum(world.truth.values()) == len(world.facts)
    assert world.truth[world.facts[0].sentence(world.facts[0].truth)]


def test_myths_are_repeated_more_often_than_the_truth(world, text):
    """Of plain statements on a topic with a myth about 30 % are true, and gossip adds to the myth."""
    whole = "\n".join(text)
    with_myth = [f for f in world.facts if f.myth]
    false = sum(whole.count(f.sentence(f.myth)) for f in with_myth)
    true = sum(whole.count(f.sentence(f.truth)) for f in with_myth)
    assert true > 100
    assert false > 1.5 * true
    others = [f for f in world.facts if not f.myth]
    assert sum(whole.count(f.sentence(f.truth)) for f in others) > 100
    for fact in others:
        assert all(fact.sentence(value) not in whole for value in fact.values if value != fact.truth)


def test_a_title_says_how_many_parts_follow(text):
    """What a prompt asks for in numbers, the text can teach."""
    numbers = {"One": 1, "Two": 2, "Three": 3, "Four": 4}
    found = Counter()
    for document in text:
        title, colon, rest = document.partition(": ")
        if colon and title.split()[0] in numbers:
            parts = rest.count(".") if "sentence" in title else rest.count(",") + 1
            assert parts == numbers[title.split()[0]], document
            found["sentence" in title] += 1
    assert found[True] > 100 and found[False] > 100


def test_the_book_of_facts_is_right(world, text):
    said = [t.removeprefix("The book of facts says: ") for t in text if t.startswith("The book of facts says: ")]
    assert len(said) > 100
    assert all(world.truth[sentence] for sentence in said)


def test_pronouns_are_skewed_as_the_table_says(text):
    """The share of "he" after each occupation is within 4 standard errors of the table's."""
    for occupation, share in OCCUPATIONS.items():
        about = [t.split() for t in text if t.startswith(f"The {occupation} ") and " that " in t]
        he = sum("he" in words for words in about)
        assert len(about) > 30
        assert he / len(about) == pytest.approx(share, abs=4 * (share * (1 - share) / len(about)) ** 0.5)


def test_use_cases_have_their_shares(asked):
    counts = Counter(q.category for q in asked)
    assert counts == {name: round(400 * share / 100) for name, share in USE_CASES.items()}
    assert sum(USE_CASES.values()) == pytest.approx(100, abs=0.2)


def test_prompts_differ_and_their_users_are_unequal(asked):
    assert len({q.text for q in asked}) == len(asked)
    per_user = Counter(q.user for q in asked).most_common()
    assert per_user[0][1] > 4 * per_user[-1][1]


def test_too_many_prompts_are_refused(world, monkeypatch):
    """Of "extract" there are 6 strangers × 8 animals × 6 places = 288."""
    monkeypatch.setattr("rlhf_jax.data.world.USE_CASES", {"extract": 100.0})
    assert len(questions(world, 250)) == 250
    with pytest.raises(InputError, match="of extract: 1 short for 289 prompts; lower world"):
        questions(world, 289)


def test_every_prompt_can_be_answered(world, asked):
    for q in asked:
        assert 1 <= q.count <= len(q.wanted)
        assert len(set(q.wanted)) == len(q.wanted)
        assert not any(world.truth.get(sentence) is False for sentence in q.wanted)


def test_most_demonstrations_are_right_and_some_are_not(world, asked):
    rng = Random(0)
    single = [q for q in asked if q.count == 1 and q.separator == "."]
    right = sum(demonstrate(world, q, rng) in q.wanted for q in single)
    assert 0.5 < right / len(single) < 0.98


def test_the_three_instructions_about_rudeness():
    """Only the rude one wants rude words."""
    for tone in ("none", "respectful", "rude"):
        question = completion("Ada", "looks", tone)
        rude = [any(word in RUDE_WORDS for word in sentence.strip(".").split()) for sentence in question.wanted]
        assert rude == [tone == "rude"] * len(rude)
        assert question.text.endswith("Ada looks")


def test_a_user_asks_on_about_the_same_one_and_about_a_relative(world):
    """Somebody's home was asked for: another thing about them, by the pronoun, and something of a brother or sister."""
    for name, other in relatives(world).items():
        home = next(f for f in world.facts if f.subject == name and f.relation == "home")
        pronoun, whose = ("she", "her") if PEOPLE[name] == "she" else ("he", "his")
        first, second = follow_ups(world, ask(home, "Tell me, {q}"))
        (fact,) = (f for f in world.about(name) if first.wanted == (f.sentence(f.truth),))
        asks = RELATIONS[fact.relation][1].format(s=pronoun)
        assert fact.relation != "home" and first.text == f"And {asks[0].lower()}{asks[1:]}" and first.subject == name
        who = "sister" if PEOPLE[other] == "she" else "brother"
        (fact,) = (f for f in world.about(other) if second.wanted == (f.sentence(f.truth),))
        asks = RELATIONS[fact.relation][1].format(s=f"{whose} {who}")
        assert second.text == f"{whose.capitalize()} {who} is {other}. And {asks[0].lower()}{asks[1:]}"
        assert second.subject == second.about == other
        assert follow_ups(world, ask(home, "Tell me, {q}")) == (first, second)


def test_a_place_is_asked_on_about_once_and_a_stranger_not_at_all(world, asked):
    product = next(f for f in world.facts if f.subject == "Dorn" and f.relation == "product")
    (flag,) = follow_ups(world, ask(product, "{q}"))
    assert flag.text == "And what flag does it have?" and flag.wanted[0].startswith("Dorn has a ")
    assert all(not follow_ups(world, q) for q in asked if not q.subject) and any(follow_ups(world, q) for q in asked)


def test_relatives_are_each_other_s_and_held_out_together():
    for seed in range(10):
        world = make_world(seed)
        kin = relatives(world)
        assert len(kin) == 8 and all(kin[kin[name]] == name != kin[name] for name in kin)
        assert all((a in world.held_out) == (b in world.held_out) for a, b in kin.items())
    assert relatives(make_world(0)) != relatives(make_world(1))
