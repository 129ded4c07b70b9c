"""Labelers at work: the rankings that a reward model learns from, and beside them all that was said."""

import json
import sys
import threading
import time

import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import Messages, Prompt, Ranking, content_sha256, prompt_text, read_rankings
from rlhf_jax.labelers import Comparison, Opinion, Store, as_rankings, comparison, read_judgements
from rlhf_jax.runtime import set_aside
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


def test_all_that_was_said_lies_beside_the_rankings(tmp_path, capsys):
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
    skipped, alike = (sum(one.labeler == name for one in said) for name in ("Dan", "Bob"))
    counted = (
        f"ranked the answers to {len(found)} of 11 prompts; 1 had fewer than two different ones, {skipped} they skipped"
    )
    assert f"{counted}, to {alike} they found all alike" in capsys.readouterr().err
    assert skipped and alike


def test_a_round_in_which_nobody_prefers_anything_adds_nothing(tmp_path):
    before = stages.ask(tmp_path / "one", ANSWERS, POOL, RUN)
    assert stages.ask(tmp_path / "two", ANSWERS, [BOB, DAN], RUN, before=before) == before
    assert stages.ask(tmp_path / "two", ANSWERS, [BOB, DAN], RUN, before=before) == before
    refusal(
        lambda: stages.ask(tmp_path / "three", ANSWERS, [BOB, DAN], RUN),
        f"{tmp_path / 'three'}: no labeler put an answer above another",
    )


def test_a_round_s_rankings_come_behind_those_before_and_another_labeler_is_drawn_for_each_prompt(tmp_path):
    pool = [Ranker(f"labeler {i}", lambda prompt, answers: (1, 2, 3)) for i in range(5)]
    first = stages.ask(tmp_path / "rankings_1", ANSWERS, pool, RUN)
    drawn = np.random.default_rng(RUN.numpy_seed("labelers")).integers(5, size=len(ROWS))  # of the first round, as ever
    assert [row.labeler for row in first] == [f"labeler {i}" for i in drawn[1:]]
    both = stages.ask(tmp_path / "rankings_2", ANSWERS, pool, RUN, before=first)
    assert both[:10] == first and [row[:3] for row in both[10:]] == [row[:3] for row in first]
    assert [row.labeler for row in both[10:]] != [row.labeler for row in first]
    assert stages.ask(tmp_path / "rankings_2", ANSWERS, pool, RUN, before=first) == both
    assert read_rankings(str(tmp_path / "rankings_2" / "rankings.jsonl")) == both[10:]
    refusal(lambda: stages.ask(tmp_path / "rankings_2", ANSWERS, pool, RUN), "made from another rankings")
    third = stages.ask(tmp_path / "rankings_3", ANSWERS, pool, RUN, before=both)
    patterns = [[row.labeler for row in third[start : start + 10]] for start in (0, 10, 20)]
    assert len(third) == 30 and len({tuple(each) for each in patterns}) == 3
    # Each knows what came before it, and is known by all that there is to learn from.
    made = [json.loads((tmp_path / f"rankings_{n}" / "made.json").read_text()) for n in (1, 2, 3)]
    assert [each["known_as"] for each in made] == [content_sha256(rows) for rows in (first, both, third)]
    assert made[0]["inputs"] == {"answers": "0" * 64} and made[2]["inputs"]["rankings"] == made[1]["known_as"]
    assert set_aside(tmp_path, "rankings_2") == ["rankings_2", "rankings_3"]


# People.


@pytest.fixture
def quick(monkeypatch):
    """People are waited for in small steps."""
    monkeypatch.setattr(sys.modules["rlhf_jax.stages.rankings"], "PAUSE", 0.005)
    monkeypatch.setattr(sys.modules["rlhf_jax.stages.rankings"], "QUIET", 0.0)


def do(path, person, count):
    """So many comparisons by somebody at work on a store, of whom Bob ties all; what they were."""
    done = []
    with Store(path) as store:
        while len(done) < count:
            if (lease := store.lease(person)) is None:
                time.sleep(0.005)
                continue
            ranks = (1, 1, 1) if person == "Bob" else (2, 1, 3)
            store.submit(lease.task.judged(person, ranks=ranks, id=f"{person} {lease.key}"))
            done.append(lease.task)
    return done


class StoppedError(Exception):
    pass


def test_people_rank_while_the_call_waits_and_one_that_was_stopped_asks_nothing_again(
    quick, tmp_path, monkeypatch, capsys
):
    path, out = tmp_path / "my labels.sqlite", tmp_path / "rankings_1"
    before = [Ranking("\n\nHuman: Old?\n\nAssistant:", ("a", "b"), (1, 2), "Zoe")]
    with Store(path) as store:
        for person in ("Ann", "Bob"):
            store.add_labeler(person)

    def call(of=path, wanted=2):
        more = {"model": "policy_1", "sampling": {"temperature": 0.7}, "before": before}
        return stages.ask_people(out, of, ANSWERS, wanted=wanted, **more)

    def stop_after(sentence):
        """Ends the call when it says so."""

        def info(said):
            if sentence in said:
                raise StoppedError

        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["rlhf_jax.stages.rankings"], "info", info)
            worker = threading.Thread(target=do, args=(path, "Ann", 4))
            worker.start()
            with pytest.raises(StoppedError):
                call()
            worker.join()

    stop_after("16 of 20 judgements are missing")
    with Store(path) as store:
        tasks = store.judgements()
        store.add_tasks([comparison("Something else?", THREE)])  # nobody waits for it
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["rlhf_jax.stages.rankings"], "wait_for_people", None)
        refusal(lambda: call(tmp_path / "lables.sqlite"), "lables.sqlite: no such store: check the path")
        refusal(lambda: call(wanted=1), "made with another wanted (2, not 1)")
    workers = [threading.Thread(target=do, args=(path, *work), daemon=True) for work in (("Ann", 6), ("Bob", 10))]
    capsys.readouterr()
    found = []
    waiting = threading.Thread(target=lambda: found.append(call()), daemon=True)
    waiting.start()
    while "missing" not in (said := capsys.readouterr().err):
        time.sleep(0.005)
    assert said == (
        "rankings_1: 16 of 20 judgements are missing; this waits for them. The page: rlhf-label serve "
        f"'{tmp_path}/my labels.sqlite'\n"
    )
    for each in workers:
        each.start()
    for each in (*workers, waiting):
        each.join()
    assert "rankings_1: all 20 judgements are there" in capsys.readouterr().err
    with Store(path) as store:
        assert (store.progress().wanted, store.progress().missing) == (21, 1)  # nothing is there twice
        said = store.judgements(f"rankings_1 {ANSWERS.sha256[:12]}")
    assert [one for one in said if one.id in {each.id for each in tasks}] == tasks  # nothing is lost
    assert read_judgements(str(out / "judgements.jsonl")) == said and len(said) == 20
    assert {(c.model, c.sampling["temperature"]) for one in said for c in one.completions} == {("policy_1", 0.7)}
    ranked = [Ranking(r.prompt.conversation, THREE, (2, 1, 3), "Ann", r.prompt.user) for r in ROWS[1:]]
    assert found[0] == [*before, *ranked]  # Bob's say nothing
    assert call() == found[0]


def test_who_waits_for_nobody_says_so(quick, tmp_path, capsys):
    path, found = tmp_path / "labels.sqlite", []
    waiting = threading.Thread(
        target=lambda: found.append(stages.ask_people(tmp_path / "out", path, ANSWERS)), daemon=True
    )
    waiting.start()
    while "missing" not in (said := capsys.readouterr().err):
        time.sleep(0.005)
    words = f"out: 10 of 10 judgements are missing; for 10 comparisons there is nobody left to ask: rlhf-label labeler {path}"
    assert said.startswith(f"{words} NAME; this waits")
    with Store(path) as store:
        store.add_labeler("Dan"), store.add_labeler("Eve")
        stages.label(store, [DAN])
        for _ in range(9):
            lease = store.lease("Eve")
            store.submit(lease.task.judged("Eve", skipped="no", id=lease.key))
        while "for 9 comparisons there is nobody left" not in capsys.readouterr().err:
            time.sleep(0.005)
        store.add_labeler("Ann")
    do(path, "Ann", 10)
    waiting.join()
    assert [row.labeler for row in found[0]] == ["Ann"] * 10
    assert len(read_judgements(str(tmp_path / "out" / "judgements.jsonl"))) == 29  # those who skipped too


def test_rounds_ask_about_prompts_of_their_own_the_last_ones_first():
    prompts = [row.prompt for row in ROWS]
    assert stages.in_rounds(prompts, 3, 2) == [prompts[9:], prompts[7:9], prompts[5:7]]
    assert stages.in_rounds(prompts, 2, 2) == stages.in_rounds(prompts, 3, 2)[:2]
    assert stages.in_rounds(prompts, 1, 11) == [prompts]
    words = (
        "4 rounds of 3 prompts each are more than the 11 prompts for training: lower rounds.count or answers.prompts"
    )
    refusal(lambda: stages.in_rounds(prompts, 4, 3), words)


def test_nobody_ranks_by_themselves_outside_the_world():
    refusal(lambda: stages.simulated(None), "name a store that people fill")


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
