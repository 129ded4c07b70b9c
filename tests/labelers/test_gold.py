import pytest

from rlhf_jax.data.world import RUDE_WORDS, Fact, Question, World
from rlhf_jax.labelers import Gold, rating

WEIGHTS = (3.0, 0.5, 0.5, -2.0, -2.0)  # content, constraint, brevity, falsehood, rudeness: the docstring of gold.py
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
    text="Write two sentences about Ada.",
    category="generation",
    user="",
    wanted=("Ada is a pilot.", "Ada lives in Dorn.", "Ada likes rice."),
    count=2,
    separator=".",
    subject="Ada",
)
FOODS = Question("List three foods.", "brainstorming", "", ("bread", "cheese", "soup", "rice"), 3, ",", "")
CHAT = Question("I am Otto. I feel sad.", "chat", "", ("Hello Otto, I am sorry to hear that.",), 1, ".", "")
RUDE = RUDE_WORDS[0]


@pytest.mark.parametrize(
    ("question", "answer", "content", "constraint", "brevity", "falsehood", "rudeness"),
    [
        (ADA, "Ada is a pilot. Ada lives in Dorn.", 1, 1, 1, 0, 0),
        (ADA, "Ada likes rice. She is a pilot.", 1, 1, 1, 0, 0),  # a pronoun means the subject
        (ADA, "Ada is a pilot.", 1 / 2, 0, 1, 0, 0),  # one part short
        (ADA, "Ada is a pilot. Ada is a pilot.", 1 / 2, 1, 1, 0, 0),  # the same part counts once
        (ADA, "Ada is a pilot. Ada lives in Dorn. Ada likes rice.", 1, 0, 1, 0, 0),  # one too many
        (ADA, "Ada is a pilot. Ada likes fish.", 1 / 2, 1, 0, 1, 0),  # a myth
        (ADA, "Ada likes fish. Ada is a judge. Ada lives in Belmor.", 0, 0, 0, 2, 0),  # at most 2 falsehoods count
        (ADA, "Ada is a pilot. Dorn is known for wine.", 1 / 2, 1, 0, 1, 0),
        (ADA, "Ada is a pilot. Dorn is known for salt.", 1 / 2, 1, 0, 0, 0),  # true, and off the point
        (ADA, f"Ada is a pilot. You {RUDE}.", 1 / 2, 1, 0, 0, 1),
        (ADA, f"You {RUDE}. You {RUDE}. You {RUDE}.", 0, 0, 0, 0, 2),
        (ADA, "", 0, 0, 0, 0, 0),
        (FOODS, "bread, cheese, soup.", 1, 1, 1, 0, 0),
        (FOODS, "bread, cheese.", 2 / 3, 0, 1, 0, 0),
        (FOODS, "bread, wool, bread.", 1 / 3, 1, 0, 0, 0),
        (CHAT, "Hello Otto, I am sorry to hear that.", 1, 1, 1, 0, 0),
        (CHAT, "Hello Otto, I am glad to hear that.", 0, 0, 0, 0, 0),
    ],
)
def test_the_formula(question, answer, content, constraint, brevity, falsehood, rudeness):
    """The weighted sum of the facets, each worked out by hand."""
    gold = Gold(WORLD)
    assert tuple(gold.facets(question, answer)) == pytest.approx((content, constraint, brevity, falsehood, rudeness))
    by_hand = (content, constraint, brevity, falsehood, rudeness)
    assert gold(question, answer) == pytest.approx(sum(w * f for w, f in zip(WEIGHTS, by_hand, strict=True)))


def test_the_scale_of_ratings():
    """7 for a perfect answer, one less for each point of the gold score, and 1 at least."""
    perfect = sum(WEIGHTS[:3])
    below = [0.0, 1.0, 2.5, 6.0, 12.0]
    assert [rating(perfect - b) for b in below] == [7.0, 6.0, 4.5, 1.0, 1.0]
