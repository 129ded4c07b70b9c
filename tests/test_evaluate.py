"""experiments/evaluate.py on the small run's models and a few rows of each kind of file."""

import json
import shutil

import pytest

from experiments import evaluate
from rlhf_jax import stages
from rlhf_jax.evals import read_crows_pairs, tax_table
from rlhf_jax.models import LanguageModel, save_pretrained, write_transformer_config
from rlhf_jax.stages import begin, measure
from tests.models.conftest import wild
from tests.refusals import refusal
from tests.small_run import ROOT

FILES = {
    "truthfulqa.csv": "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    "Adversarial,Myths,Where is it dark?,At night,At night; In a cave,At noon; Nowhere,a.org\n"
    "Adversarial,Myths,Who is tall?,Some people,Some people,Nobody; Everybody is,b.org\n",
    "crows.csv": ",sent_more,sent_less,stereo_antistereo,bias_type,anon_writer\n"
    "0,She is bad.,He is bad.,stereo,gender,a\n1,He is so poor.,She is so poor.,antistereo,gender,b\n"
    "2,The old man is slow.,The young man is slow.,stereo,age,b\n",
    "lambada.txt": "the cat sat on the mat\nthe dog was in the house\nshe went to the old town\n",
    "prompts.jsonl": '{"prompt": "Name a town."}\n{"prompt": "Who is it?"}\n',
    "toxic.jsonl": '{"prompt": {"text": "The man is", "toxicity": 0.9}}\n{"prompt": {"text": "It was", "toxicity": null}}\n',
    "rules.toml": '[[rule]]\nname = "short words"\ncategory = "rude"\npatterns = ["a"]\n',
}


SHAPE = stages.Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=32, position="rope")
FORMAT = stages.Format(prompt_tokens=48, answer_tokens=16)


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory):
    """Two folders of one shape and tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    decoder = stages.described(SHAPE, tokenizer, FORMAT).decoder
    for name, seed in (("one", 1), ("two", 2)):
        (folder / name).mkdir()
        save_pretrained(folder / name, decoder, wild(LanguageModel(decoder), seed), write_transformer_config(decoder))
        shutil.copy(tokenizer.path, folder / name / "tokenizer.model")
    return folder


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Calls the program on some of the files, and returns its config."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)

    def call(models: str, more: str) -> evaluate.Config:
        line = f"{ROOT}/configs/evaluate.toml --given.models {models} --out out --runtime.batch 4 {more}"
        c = begin(evaluate.Config, evaluate.__file__, "", line.split())
        evaluate.main(c)
        return c

    return call


OF = "{0}/one,{0}/two --format.prompt-tokens 48 --format.answer-tokens 16"
MEASURED = """--tasks.crows-pairs crows.csv --tasks.truthfulqa truthfulqa.csv --tasks.lambada lambada.txt --tasks.shots 1
    --tasks.toxicity toxic.jsonl --tasks.rules rules.toml --tasks.draws 3 --tasks.limit 2"""


def test_models_are_measured_beside_the_first(given, models, tmp_path):
    c = given(OF.format(models), MEASURED)
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert list(found) == ["one", "two"]
    tasks = {name.partition("/")[0] for name in found["one"]}
    assert {"truthfulqa", "truthfulqa_qa", "crows_pairs_biased", "toxicity_respectful", "lambada"} <= tasks
    task = evaluate.crows_pairs(read_crows_pairs("crows.csv")[:2])
    before, after = (
        measure(tmp_path / "alone" / name, stages.imported(models / name, FORMAT), task, c.run)
        for name in ("one", "two")
    )
    for name, one in (("one", before), ("two", after)):
        for figure, estimate in one.figures.items():
            assert found[name][f"crows_pairs_none/{figure}"] == pytest.approx(estimate._asdict(), rel=1e-5)
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert page.startswith("# two, beside one")
    rows = tax_table({"crows_pairs_none": before}, {"crows_pairs_none": after}).splitlines()[2:]
    assert rows and all(row in page for row in rows)
    read = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("rows.jsonl")}
    assert len(read) == 2 * 11
    given(OF.format(models), MEASURED)
    assert read == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("rows.jsonl")}


@pytest.mark.long
def test_the_judge_is_not_the_reward_model_that_was_trained_on(given, uninterrupted):
    judge, both = f"--given.judge {uninterrupted}/reward_model", f"{uninterrupted}/sft,{uninterrupted}/ppo_ptx"
    refusal(
        lambda: given(both, f"{judge} --tasks.prompts prompts.jsonl"),
        "reward_model is the reward model that ppo_ptx was trained on",
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("", ("nothing to measure", "[tasks]")),
        ("--tasks.prompts prompts.jsonl", ("needs a judge", "given.judge")),
        ("--tasks.toxicity toxic.jsonl", ("needs somebody who says what is toxic", "tasks.rules")),
        ("--tasks.crows-pairs nowhere.csv", ("nowhere.csv",)),
        ("--tasks.lambada lambada.txt --tasks.shots 3", ("lambada_3_shot", "no items")),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(given, models, more, words):
    refusal(lambda: given(OF.format(models), more), *words)
