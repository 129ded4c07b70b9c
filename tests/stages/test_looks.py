"""Tasks as looks of the stages that train language models: what is logged is what the task finds at that step."""

from dataclasses import replace

import pytest

from rlhf_jax import stages
from rlhf_jax.data import Demonstration, Prompt, Ranking, prompt_text
from rlhf_jax.evals import SHARE, Likely, Row, Task, Write
from rlhf_jax.models import Sampling
from rlhf_jax.runtime import read_metrics
from rlhf_jax.stages import RUN, measure
from tests.refusals import refusal

pytestmark = pytest.mark.usefixtures("types_are_not_checked")
RUN2 = replace(RUN, runtime=replace(RUN.runtime, batch=4, save_every=1, evaluate_every=1))
SHAPE = stages.Decoder(width=8, layers=1, heads=1, kv_heads=1, hidden=8)
FORMAT = stages.Format(24, 8)
ASKED = [prompt_text(text) for text in ("Name a fruit.", "The cat?", "A dog?", "Name a cat.")]
TEXT = ["The cat sat on the mat. The dog sat on the cat."] * 40


def asks(item):
    return [Likely(item[0], item[1]), Write(Prompt(prompt_text(item[0])))]


def rows(items, replies):
    return [
        Row(text, text, {"logp": likely.logp, "length": float(len(said.text)), "ended": float(said.ended)})
        for (text, _), (likely, said) in zip(items, replies, strict=True)
    ]


ITEMS = [("The cat sat", " on the mat."), ("An apple", " is a fruit."), ("A", " pear.")]
LOOK = Task("look", ITEMS, asks, rows, {"logp": None, "length": None, "ended": SHARE}, Sampling(1.0, 0, 1.0), 6)
RANKINGS = [Ranking(prompt, ("A pear is a fruit.", "An apple."), (1, 2)) for prompt in ASKED]
DEMONSTRATIONS = [Demonstration(prompt, "A pear is a fruit.") for prompt in ASKED]


def mean_length(prompts, answers, rows):
    return [float(len(answer)) for answer in answers]


@pytest.fixture(scope="module")
def base(types_are_not_checked, tokenizer, tmp_path_factory):
    c = stages.Pretrain(steps=2, batch=4, lr=1e-2)
    start = stages.described(SHAPE, tokenizer, FORMAT)
    return stages.pretrain(tmp_path_factory.mktemp("out") / "pretrain", start, TEXT, c, RUN2, looks=[LOOK])


STAGES = {
    "supervised": lambda folder, base, looks: stages.supervised(
        folder, base, DEMONSTRATIONS, stages.Supervised(epochs=2, batch=4, lr=1e-2), RUN2, looks=looks
    ),
    "preference": lambda folder, base, looks: stages.preference(
        folder, base, RANKINGS, stages.Preference(epochs=2, batch=4, lr=1e-2), RUN2, looks=looks
    ),
    "policy": lambda folder, base, looks: stages.policy(
        folder,
        base,
        mean_length,
        [Prompt(prompt) for prompt in ASKED],
        stages.PPO(batch=4, minibatches=1, iterations=2, lr=1e-2, pretrain_examples=0, gamma=0.0, result="policy"),
        RUN2,
        looks=looks,
    ),
}


def assert_logged(model, found):
    at = {row["step"]: row for row in read_metrics(model.folder)}[model.step]
    assert {name: at[f"look/{name}"] for name in found} == pytest.approx({k: e.mean for k, e in found.items()})
    assert at["look/length"] > 0


def test_a_look_of_pretraining_is_the_task_s(base, tmp_path):
    assert_logged(base, measure(tmp_path / "m", base, LOOK, RUN2).figures)
    assert all("look/logp" in row for row in read_metrics(base.folder))


@pytest.mark.parametrize(
    "stage", ["policy", *(pytest.param(name, marks=pytest.mark.long) for name in ("supervised", "preference"))]
)
def test_a_look_is_the_task_s(base, tmp_path, stage):
    model = STAGES[stage](tmp_path / "looked" / stage, base, [LOOK])
    assert_logged(model, measure(tmp_path / "m", model, LOOK, RUN2).figures)
    first, last = (next(row for row in read_metrics(model.folder) if row["step"] == step) for step in (1, model.step))
    assert first["look/logp"] != last["look/logp"]
    alone = STAGES[stage](tmp_path / "alone" / stage, base, [])
    assert alone.sha256 == model.sha256  # looking changes nothing


def test_a_task_that_cannot_be_asked_is_a_sentence(base, tmp_path):
    refusal(lambda: STAGES["supervised"](tmp_path / "x", base, [replace(LOOK, items=[])]), "there are no items")
