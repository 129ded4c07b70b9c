"""Labelers at work: the rankings that a reward model learns from, and beside them all that was said."""

import sys

import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import Messages, Prompt, prompt_text
from rlhf_jax.labelers import Comparison, Opinion, Store, as_rankings, read_judgements
from rlhf_jax.stages import RUN, CandidateRows, Candidates, Ranker
from tests.refusals import refusal

THREE = ("An apple.", "A pear.", "A fig.")
ROWS = [
    Candidates(Prompt(prompt_text("Nobody answers."), user="user 9"), ()),
    *(Candidates(Prompt(prompt_text(f"Question {i}?"), "open_qa", f"user {i}"), THREE) for i in range(9)),
    Candidates(Prompt(Messages([{"role": "user", "content": "Name a fruit."}])), THREE),
]
ANSWERS = CandidateRows(ROWS, "0" * 64)
ANN = Ranker("Ann", lambda prompt, answers: (30, 10, 10), "a")
BOB = Ranker("Bob", lambda prompt, answers: (1, 1, 1))
CAY = Ranker("Cay", lambda prompt, answers: Opinion((2, 1, 3), ratings=(3, 7, 1), flags=({"opinion": True}, {}, {})))
DAN = Ranker("Dan", lambda prompt, answers: Opinion(skipped="not mine"))
POOL = [ANN, BOB, CAY, DAN]


def test_all_that_was_said_lies_beside_the_rankings(tmp_path):
    found = stages.ask(tmp_path / "out", ANSWERS, POOL, RUN)
    said = read_judgements(str(tmp_path / "out" / "judgements.jsonl"))
    assert [one.prompt for one in said] == [row.prompt.conversation for row in ROWS[1:]]
    assert [one.user for one in said] == [row.prompt.user for row in ROWS[1:]]
    assert {one.labeler for one in said} == {"Ann", "Bob", "Cay", "Dan"}
    expected = {
        "Ann": ((2, 1, 1), "", (), (), "a"),
        "Bob": ((1, 1, 1), "", (), (), ""),
        "Cay": ((2, 1, 3), "", (3, 7, 1), ({"opinion": True}, {}, {}), ""),
        "Dan": ((), "not mine", (), (), ""),
    }
    for one in said:
        assert (one.ranks, one.skipped, one.ratings, one.flags, one.group) == expected[one.labeler]
    # Rankings have the ranks as they were given; who ties all or skips gives none.
    as_given = [row._replace(ranks=(30, 10, 10)) if row.labeler == "Ann" else row for row in as_rankings(said)]
    assert found == as_given and {row.labeler for row in found} == {"Ann", "Cay"}


def test_the_file_beside_is_part_of_the_folder(tmp_path):
    stages.ask(tmp_path / "out", ANSWERS, POOL, RUN)
    with (tmp_path / "out" / "judgements.jsonl").open("a") as file:
        file.write("\n")
    refusal(lambda: stages.ask(tmp_path / "out", ANSWERS, POOL, RUN), "judgements.jsonl has changed")


@pytest.mark.parametrize(
    ("opinion", "words"),
    [
        (Opinion(), "labeler Ann gave Opinion(ranks=(), "),
        (Opinion((1, 2)), "for 3 answers; let them give each a whole number"),
        (Opinion((1, 2, 3), skipped="no"), "labeler Ann: the judgement has both ranks and a reason to skip"),
        (Opinion((1, 2, 3), ratings=(1, 2, 9)), "labeler Ann: completion 3 has the rating 9"),
        (Opinion((1, 2, 3), flags=({"rude": True}, {}, {})), "labeler Ann: completion 1 has the flag 'rude'"),
    ],
)
def test_an_opinion_that_is_none_names_its_labeler(tmp_path, opinion, words):
    refusal(lambda: stages.ask(tmp_path / "out", ANSWERS, [Ranker("Ann", lambda *given: opinion)], RUN), words)
    assert not (tmp_path / "out").exists()


def test_what_labelers_are_to_judge_are_the_answers_of_a_model():
    found = stages.comparisons(ANSWERS, model="ppo", sampling={"temperature": 1.0}, source="round-2")
    assert len(found) == len({one.id for one in found}) == 10
    assert [(one.prompt, one.user) for one in found] == [(r.prompt.conversation, r.prompt.user) for r in ROWS[1:]]
    assert {(c.model, c.sampling["temperature"], one.source) for one in found for c in one.completions} == {
        ("ppo", 1.0, "round-2")
    }


def test_labelers_do_what_a_store_asks_for(tmp_path):
    tasks = stages.comparisons(ANSWERS)
    categories = set()

    def looks(prompt, answers):
        categories.add(prompt.category)
        return (1, 2, 3)

    with Store(tmp_path / "store.sqlite") as store:
        store.add_tasks(tasks, wanted=2)
        count = stages.label(store, [ANN, Ranker("Eve", looks), DAN], {tasks[0].id: ROWS[1].prompt})
        done = store.progress()
        assert (done.done, done.missing) == (20, 0) and done.skipped > 0 and count == 20 + done.skipped
        assert categories == {"open_qa", ""}
        assert stages.label(store, [ANN]) == 0
        said = store.judgements()
        assert {(one.labeler, one.group) for one in said} == {("Ann", "a"), ("Eve", ""), ("Dan", "")}
        assert len(as_rankings(said)) == 20
        store.undo("Eve")
        assert stages.label(store, [Ranker("Eve", looks)]) == 0  # who would say the same again
        store.add_labeler("Fay")
        assert store.lease("Fay") is None or isinstance(store.lease("Fay").task, Comparison)
        refusal(lambda: stages.label(store, [ANN, ANN]), "two labelers are called Ann")


def test_a_reward_model_prefers_what_it_scores_higher(monkeypatch, tokenizer):
    """With the length of a row in tokens for a score."""
    seen = []

    def scores_of(model, tokens, mask, *, batch, params):
        seen.append((params, tokenizer.decode(tokens[0][mask[0]].tolist())))
        return np.asarray(mask.sum(1), np.float32)

    monkeypatch.setattr(sys.modules["rlhf_jax.stages.rankings"], "scores_of", scores_of)
    of = stages.described(
        stages.Decoder(width=8, layers=1, heads=1, kv_heads=1, hidden=8), tokenizer, stages.Format(48, 48)
    )
    monkeypatch.setattr(stages.Trained, "params", lambda self: "its parameters")
    reward = stages.Trained(of.decoder, tokenizer, of.format, sha256="r", step=1, scalar=True)
    ranker = stages.by_reward_model("rm", reward, group="models")
    answers = ["An apple is a fruit.", "A pear.", "An apple is a fruit. A pear is a fruit."]
    assert ranker.rank(Prompt(prompt_text("Name a fruit.")), answers) == (2, 3, 1)
    assert seen[0][0] == "its parameters" and "Name a fruit." in seen[0][1] and "An apple is a fruit." in seen[0][1]
    assert (ranker.name, ranker.group) == ("rm", "models")
