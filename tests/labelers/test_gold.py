"""The gold preference against ratings that a careful reader would give, and its facets against ones worked out by hand."""

from dataclasses import replace

import pytest

from rlhf_jax.data.world import RUDE_WORDS, TONES, Fact, Question, World, completion, make_world, questions
from rlhf_jax.labelers import Gold, rating, rude_words

WEIGHTS = (4.0, 0.5, 0.5, -2.0, -2.0)  # content, constraint, brevity, falsehood, rudeness: the docstring of gold.py
WORLD = World(
    seed=0,
    facts=(
        Fact("Ada", "occupation", "pilot", ""),
        Fact("Ada", "home", "Dorn", ""),
        Fact("Ada", "food", "rice", "fish"),
        Fact("Dorn", "product", "salt", "wine"),
    ),
)
ADA = Question(
    "Write two sentences about Ada.",
    "generation",
    ("Ada is a pilot.", "Ada lives in Dorn.", "Ada likes rice."),
    2,
    subject="Ada",
)
HOME = Question("Where does Ada live?", "open_qa", ("Ada lives in Dorn.",), subject="Ada")
SALT = Question("What is Dorn known for?", "open_qa", ("Dorn is known for salt.",), subject="Dorn")
OTTO = Question(
    "Otto lives in Eskel. Otto likes honey. Where does Otto live?",
    "closed_qa",
    ("Otto lives in Eskel.",),
    wrong=("Otto lives in Dorn.", "Otto lives in Corvin.", "Otto likes rice."),
)
MOOD = Question("Happy or sad? Otto lost the cat.", "classification", ("Sad.",), wrong=("Happy.",))
PLACE = Question(
    "Which place is named here? Otto took the cat to Dorn.",
    "extract",
    ("Dorn.",),
    wrong=("Arvale.", "Belmor.", "Corvin.", "Eskel.", "Farrow."),
)
FOODS = Question("List two foods, but not rice.", "brainstorming", ("bread", "cheese", "soup", "fish"), 2, ",")
CHAT = Question(
    "I am Otto. I feel sad.",
    "chat",
    ("Hello Otto, I am sorry to hear that.",),
    wrong=("Hello Otto, I am glad to hear that.", "Hello Yan, I am sorry to hear that."),
)
POLITE = Question("Say this politely: give me the salt, you zonk!", "rewrite", ("Please give me the salt.",))
SHORT = Question(
    "Say this in one sentence: Otto lives in Eskel. Otto likes honey.",
    "summarization",
    ("Otto lives in Eskel and likes honey.", "Otto likes honey and lives in Eskel."),
    wrong=("Otto lives in Dorn.", "Otto lives in Dorn and likes honey."),
)
ECHO = Question("Repeat after me: the red cat and the blue dog.", "other", ("The red cat and the blue dog.",))
LOOKS = completion("Ada", "looks", "none")
RUDELY = completion("Ada", "looks", "rude")


# What a careful reader would rate each answer on the scale of 1 (bad) to 7 (as good as can be), before any formula.
RATED = [
    # One right answer.
    (MOOD, "Sad.", 7),
    (MOOD, "Happy.", 1),
    (MOOD, "Happy. Sad.", 2),  # says both
    (MOOD, "Sad. Sad.", 4.5),  # says it twice
    (MOOD, "Happy and sad.", 2),
    (PLACE, "Dorn.", 7),
    (PLACE, "dorn", 7),
    (PLACE, "Eskel.", 1),
    (PLACE, "Arvale. Belmor. Corvin. Dorn. Eskel. Farrow.", 1),  # lists all
    (PLACE, "Otto took the cat to Dorn.", 2),  # copies the passage
    (OTTO, "Otto lives in Eskel.", 7),
    (OTTO, "Otto lives in Eskel. Otto likes honey.", 4),  # copies the passage, which has the answer
    (OTTO, "Otto likes honey.", 2),  # true, and no answer
    (OTTO, "Otto lives in Dorn.", 1),
    (OTTO, "Otto lives in Eskel. And Otto lives in Dorn.", 2),  # contradicts itself
    # Facts.
    (HOME, "Ada lives in Dorn.", 7),
    (HOME, "She lives in Dorn!", 7),
    (HOME, "Ada lives in Belmor.", 1),
    (HOME, "Ada lives in Dorn. Ada lives in Belmor.", 2),
    (HOME, "", 2),
    (HOME, "Ada lives in Dorn. You zonk.", 4.5),
    (SALT, "Dorn is known for wine.", 1),  # the myth
    (SALT, "Dorn is known for salt. Dorn is known for wine.", 2),
    (SALT, "So Dorn is known for wine.", 1),  # a joining word makes nothing true
    # Several parts.
    (ADA, "Ada is a pilot. She likes rice.", 7),
    (ADA, "Ada is a pilot.", 4.5),  # one of two
    (ADA, "Ada is a pilot. Ada is a pilot.", 4),  # the same
    (ADA, "Ada is a pilot. Ada lives in Dorn. Ada likes rice.", 4.5),  # too many
    (ADA, "Ada is a pilot. And she likes fish.", 2.5),  # half of it a myth
    (ADA, "Ada lives in Dorn and likes rice.", 7),
    (FOODS, "bread, cheese.", 7),
    (FOODS, "bread, cheese, bread, cheese.", 4),
    (replace(FOODS, count=3), "bread, cheese, cheese.", 4),
    (FOODS, "bread, cheese, soup, fish.", 4),  # lists all
    (FOODS, "bread, rice.", 2.5),  # what was not to be named
    (FOODS, "bread, cat.", 2.5),  # no food
    # Manners.
    (CHAT, "Hello Otto, I am glad to hear that.", 1),
    (POLITE, "Please give me the salt.", 7),
    (POLITE, "Give me the salt, you Zonks!", 1),
    (LOOKS, "Ada looks like a SNURF.", 1),
    (RUDELY, "Ada looks like a snurf.", 7),  # as it was told
    (RUDELY, "Ada looks kind.", 2),  # against what it was told
    (SHORT, "Otto likes honey and lives in Eskel.", 7),
    (SHORT, "Otto lives in Eskel. Otto likes honey.", 2),  # two sentences, copied
    (SHORT, "Otto lives in Dorn and likes honey.", 1),
    (ECHO, "The blue cat and the red dog.", 2),
    (ECHO, "The red cat and the blue dog. The red cat and the blue dog.", 4.5),
]


def test_there_are_forty():
    assert len(RATED) >= 40


@pytest.mark.parametrize(("question", "answer", "deserved"), RATED)
def test_an_answer_gets_the_rating_that_it_deserves(question, answer, deserved):
    assert rating(Gold(WORLD)(question, answer)) == pytest.approx(deserved, abs=0.75)


def test_hedging_does_not_pay():
    """Of all answers made of up to three of the parts, none beats the plain one, and a mixture of right and wrong is worse
    than its share of right answers would earn."""
    gold = Gold(WORLD)
    for question in (MOOD, PLACE, OTTO, HOME):
        right, wrong = question.wanted[0], (question.wrong or ("Ada lives in Belmor.",))[0]
        plain, false, both = (gold(question, answer) for answer in (right, wrong, f"{right} {wrong}"))
        assert both < (plain + false) / 2 < plain == 5.0
        assert gold(question, f"{wrong} {right}") == both
        assert gold(question, f"{right} {right}") < plain


@pytest.mark.parametrize(
    ("question", "answer", "content", "constraint", "brevity", "falsehood", "rudeness"),
    [
        (ADA, "Ada is a pilot. Ada lives in Dorn.", 1, 1, 1, 0, 0),
        (ADA, "Ada likes rice. She is a pilot.", 1, 1, 1, 0, 0),  # a pronoun means the subject
        (ADA, "Ada is a pilot.", 1 / 2, 0, 1, 0, 0),  # one part short
        (ADA, "Ada is a pilot. Ada is a pilot.", 1 / 2, 0, 0, 0, 0),  # the same part counts once
        (ADA, "Ada is a pilot. Ada lives in Dorn. Ada likes rice.", 2 / 3, 0, 0, 0, 0),  # one too many
        (ADA, "Ada is a pilot. Ada likes fish.", 1 / 2, 1, 0, 1, 0),  # a myth
        (ADA, "Ada likes fish. Ada is a judge. Ada lives in Belmor.", 0, 0, 0, 2, 0),  # at most 2 falsehoods count
        (ADA, "Ada is a pilot. Dorn is known for wine.", 1 / 2, 1, 0, 1, 0),
        (ADA, "Ada is a pilot. Dorn is known for salt.", 1 / 2, 1, 0, 0, 0),  # true, and off the point
        (ADA, f"Ada is a pilot. You {RUDE_WORDS[0]}.", 1 / 2, 0, 0, 0, 1),  # an insult is no part
        (ADA, "You zonk. You zonk. You zonk.", 0, 0, 0, 0, 2),
        (ADA, "Ada lives in Dorn and likes rice.", 1, 1, 1, 0, 0),  # two statements in one sentence
        (ADA, "Ada lives in Dorn and likes fish.", 1 / 2, 1, 0, 1, 0),
        (ADA, "", 0, 0, 0, 0, 0),
        (FOODS, "bread, cheese.", 1, 1, 1, 0, 0),
        (FOODS, "bread and cheese", 1, 1, 1, 0, 0),
        (FOODS, "bread.", 1 / 2, 0, 1, 0, 0),
        (FOODS, "bread, wool, bread.", 1 / 3, 1, 0, 1, 0),  # of three parts two are different
        (CHAT, "Hello Otto, I am sorry to hear that.", 1, 1, 1, 0, 0),
        (CHAT, "Hello Otto, I am glad to hear that.", 0, 0, 0, 1, 0),
        (RUDELY, "Ada looks like a blarg.", 1, 1, 1, 0, 0),
        (LOOKS, "Ada looks like a blarg.", 0, 0, 0, 0, 1),
    ],
)
def test_the_formula(question, answer, content, constraint, brevity, falsehood, rudeness):
    """The weighted sum of the facets, each worked out by hand."""
    gold = Gold(WORLD)
    assert tuple(gold.facets(question, answer)) == pytest.approx((content, constraint, brevity, falsehood, rudeness))
    by_hand = (content, constraint, brevity, falsehood, rudeness)
    assert gold(question, answer) == pytest.approx(sum(w * f for w, f in zip(WEIGHTS, by_hand, strict=True)))


@pytest.mark.parametrize(
    "word", ["zonk", "Zonk", "ZONK!", "zonks", "zonkk", "zoonk", "fflooob", "z0nk", "zo-nk", "zonkhead", "you,zonk"]
)
def test_spelling_hides_no_rude_word(word):
    assert rude_words(f"Ada is a {word}.") == 1
    assert Gold(WORLD).facets(HOME, f"Ada lives in Dorn. You {word}.").rudeness == 1


def test_what_is_not_rude_is_not_taken_for_it():
    world = make_world(0)
    for question in questions(world, 400):
        if question.tone != "rude":
            assert rude_words(" ".join(question.wanted)) == 0
            facets = Gold(world).facets(question, question.wanted[0])
            assert facets.rudeness == 0 and facets.falsehood == 0


def test_a_perfect_answer_is_worth_5_to_every_prompt():
    world = make_world(3)
    gold = Gold(world)
    for question in questions(world, 400):
        joint = ", " if question.separator == "," else " "
        assert gold(question, joint.join(question.wanted[: question.count])) == 5.0, question
        assert gold(question, "") == 0.0


def test_only_who_is_told_to_be_rude_may_be():
    for tone in TONES:
        question = replace(HOME, tone=tone)
        assert Gold(WORLD).facets(question, "You zonk.").rudeness == (tone != "rude")


def test_the_scale_of_ratings():
    """7 for a perfect answer, one less for each point of the gold score, and 1 at least."""
    perfect = sum(WEIGHTS[:3])
    below = [0.0, 1.0, 2.5, 6.0, 12.0]
    assert [rating(perfect - b) for b in below] == [7.0, 6.0, 4.5, 1.0, 1.0]
