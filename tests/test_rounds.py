"""Rounds: what each is made from, and people who rank through the page while the program is killed."""

import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import rounds
from rlhf_jax import stages
from rlhf_jax.config import read_config
from rlhf_jax.data import Prompt, Ranking, prompt_text, read_rankings
from rlhf_jax.labelers import Store, read_judgements
from tests.labeling.served import judged, served
from tests.refusals import refusal
from tests.small_run import ROOT, environment
from tests.studies import two_arms

PROMPTS = [Prompt(prompt_text(f"Question {i}?")) for i in range(9)]


def test_the_program_is_short():
    assert len(Path(rounds.__file__).read_text().splitlines()) <= 80


@pytest.fixture
def wired(monkeypatch, types_are_not_checked):
    """The program's stages, each a note of what it was made from."""
    seen = SimpleNamespace(evaluated=None, labelers=[])
    truth = SimpleNamespace(judge="the gold preference")
    data = stages.DataSets("text", "demonstrations", stages.Parts(PROMPTS, test=PROMPTS), truth=truth)  # type: ignore

    def note(name, *made_from):
        return SimpleNamespace(folder=Path(name), sha256=f"sha256 of {name}", made_from=made_from)

    def ask(folder, answers, labelers, run, before):
        seen.labelers.append(labelers)
        return [*before, (folder.name, answers.folder.name)]

    def ask_people(folder, store, answers, before, **more):
        return [*before, (folder.name, answers.folder.name, store, more)]

    def evaluate_in_turn(*given, about):
        seen.evaluated, seen.about = given, about

    for name, stage in {
        "model_in": lambda folder, *rest: note(folder),
        "data_of": lambda model, *rest: data,
        "prompts_that_fit_all": lambda prompts, model: prompts,
        "simulated": lambda truth: ["people of the world"],
        "sample_answers": lambda folder, *rest: note(folder, *rest),
        "reward_model": lambda folder, *rest: note(folder, *rest),
        "policy": lambda folder, *rest, **more: note(folder, *rest, more),
        "ask": ask,
        "ask_people": ask_people,
        "evaluate_in_turn": evaluate_in_turn,
    }.items():
        monkeypatch.setattr(stages, name, stage)
    return seen


def call(tmp_path, *more):
    line = [str(ROOT / "configs/rounds.toml"), "--out", str(tmp_path / "out"), "--answers.prompts", "2", *more]
    rounds.main(stages.begin(rounds.Config, rounds.__file__, "", line))


def test_each_round_is_made_from_the_newest_policy_and_learns_from_all_rankings(wired, tmp_path):
    call(tmp_path)
    out, models, start, _, reward, writer, *_ = wired.evaluated
    assert list(models) == ["sft", "round_1", "round_2", "round_3"] and out == tmp_path / "out"
    sft, *policies = models.values()
    assert (str(sft.folder), str(start.folder), writer) == ("runs/tiny/sft", "runs/tiny/rl_init", sft)
    gathered = [(f"rankings_{n}", f"answers_{n}") for n in (1, 2, 3)]
    made = json.loads((out / "rounds.json").read_text())
    for n, (policy, before) in enumerate(zip(policies, [sft, *policies], strict=False), 1):
        begins, judge, prompts, more = policy.made_from
        assert policy.folder == out / f"policy_{n}" and begins == start and prompts.train == PROMPTS
        assert (more["text"], more["judge"]) == ("text", "the gold preference")
        assert judge.folder == out / f"reward_model_{n}" and judge.made_from[:2] == (sft, gathered[:n])
        assert made[f"round_{n}"] == {
            "rankings": n,
            "writer": before.sha256,
            "answers": f"sha256 of {out}/answers_{n}",
            "reward_model": judge.sha256,
            "policy": policy.sha256,
        }
    assert reward == policies[-1].made_from[1] and wired.labelers == [["people of the world"]] * 3
    # By which runs from other seeds' models are put together.
    assert wired.about["rounds"]["count"] == 3 and "given" not in wired.about and "out" not in wired.about


def test_each_round_asks_about_prompts_of_its_own(wired, tmp_path, monkeypatch):
    drawn = []
    sample = stages.sample_answers
    monkeypatch.setattr(stages, "sample_answers", lambda *given: drawn.append(given[1:3]) or sample(*given))
    call(tmp_path, "--rounds.count", "4")
    assert [prompts for _, prompts in drawn] == [PROMPTS[7:], PROMPTS[5:7], PROMPTS[3:5], PROMPTS[1:3]]
    assert [writer.folder.name for writer, _ in drawn] == ["sft", "policy_1", "policy_2", "policy_3"]
    # As many labels in one round are about the same prompts.
    call(tmp_path, "--rounds.count", "1", "--answers.prompts", "8")
    assert sorted(drawn[-1][1]) == sorted(p for _, prompts in drawn[:4] for p in prompts)
    refusal(lambda: call(tmp_path, "--rounds.count", "5"), "5 rounds of 2 prompts each are more than the 9 prompts")


def test_a_store_has_people_rank(wired, tmp_path):
    call(tmp_path, "--rounds.count", "2", "--rounds.store", "labels.sqlite", "--rounds.wanted", "3")
    models, reward = wired.evaluated[1], wired.evaluated[4]
    assert len(models) == 3 and wired.labelers == []
    for n, (folder, answers, store, more) in enumerate(reward.made_from[1], 1):
        assert (folder, answers, store) == (f"rankings_{n}", f"answers_{n}", "labels.sqlite")
        assert (more["wanted"], more["model"]) == (3, ["sft", "policy_1"][n - 1])
        assert more["sampling"]["temperature"] == 1.0


# People, and a program that is killed.


class People(threading.Thread):
    """Two labelers, who rank what the page gives them, in turn, as far as they may."""

    def __init__(self, server, tokens):
        super().__init__(daemon=True)
        self.server, self.tokens, self.may, self.asked, self.over = server, tokens, 0, [], False

    def run(self):
        while not self.over:
            for token in self.tokens:
                if len(self.asked) < self.may and (task := self.post("next", token, {})["task"]):
                    ranks = preferred(task["answers"])
                    assert self.post("submit", token, judged(task["key"], ranks)) == {"kept": True}
                    self.asked.append((task["conversation"][0]["text"], *sorted(task["answers"])))
            time.sleep(0.02)

    def post(self, what, token, given):
        answer = self.server.post(f"/api/{what}", token, given)
        assert answer.status == 200, answer.body
        return answer.json


def preferred(answers):
    """Ranks by the texts alone: shorter ones are better, equal lengths tie."""
    lengths = sorted({len(text) for text in answers})
    return [lengths.index(len(text)) + 1 for text in answers]


class Program:
    """The program, at work, and what it has said."""

    def __init__(self, line, log):
        self.log = log
        with log.open("w") as said:
            self.process = subprocess.Popen(
                line, cwd=ROOT, env=environment(), stderr=said, stdout=subprocess.PIPE, text=True
            )

    def until_it_says(self, sentence):
        while sentence not in (said := self.log.read_text()):
            assert self.process.poll() is None, said[-3000:]
            time.sleep(0.02)

    def kill(self):
        assert self.process.poll() is None  # it waits
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.mark.long
@pytest.mark.slow
def test_killed_as_people_rank_nothing_is_asked_twice_and_nothing_lost(tmp_path, compiled_once, shapes_are_not_checked):
    two_arms.before(tmp_path / "before")
    out, path, config = tmp_path / "out", tmp_path / "labels.sqlite", tmp_path / "rounds.toml"
    sft = tmp_path / "before" / "sft"
    config.write_text(
        f"""out = "{out}"
given = {{ start = "{sft}", sft = "{sft}" }}
rounds = {{ count = 2, store = "{path}" }}
world = {{ documents = 120, prompts = 150, demonstrations = 60, labelers = 2, heldout_labelers = 1 }}
answers = {{ prompts = 12, fewest = 2, most = 4 }}
reward = {{ batch = 4, lr = 3e-3 }}
ppo = {{ iterations = 1, batch = 16, minibatches = 2, gamma = 0.0, pretrain_examples = 0, warmup = 0 }}
evaluate = {{ prompts = 8 }}
runtime = {{ batch = 32 }}
"""
    )
    line = [sys.executable, "experiments/rounds.py", str(config)]
    with Store(path) as store, served(store) as server:
        people = People(server, [store.add_labeler("Ann"), store.add_labeler("Bob")])
        people.start()

        def ranked(count):
            """The people go on, as far as to so many judgements."""
            people.may = count
            while store.progress().done < count:
                assert people.is_alive()
                time.sleep(0.02)

        program = Program(line, tmp_path / "first.txt")
        program.until_it_says("are missing")
        first = store.progress().wanted
        assert f"rankings_1: {first} of {first} judgements are missing; this waits" in program.log.read_text()
        assert f"The page: rlhf-label serve {shlex.quote(str(path))}\n" in program.log.read_text()
        ranked(4)
        program.kill()
        ranked(7)  # while no program is there
        program = Program(line, tmp_path / "second.txt")
        program.until_it_says(f"rankings_1: {first - 7} of {first} judgements are missing")
        ranked(first)
        program.until_it_says(f"rankings_1: all {first} judgements are there")
        program.until_it_says("rankings_2: ")  # by itself
        second = store.progress().wanted - first
        assert f"rankings_2: {second} of {second} judgements are missing" in program.log.read_text()
        ranked(first + 3)
        program.kill()
        ranked(first + second)
        program = Program(line, tmp_path / "third.txt")
        printed, _ = program.process.communicate()
        assert program.process.returncode == 0, program.log.read_text()[-3000:]
        people.over = True
        people.join()
        now, judgements = store.progress(), store.judgements()
    assert (now.wanted, now.done, now.skipped) == (first + second, first + second, 0)
    assert len(people.asked) == len(set(people.asked)) == first + second  # nothing was asked twice
    each = [read_judgements(str(out / f"rankings_{n}" / "judgements.jsonl")) for n in (1, 2)]
    assert each[0] + each[1] == judgements and [len(part) for part in each] == [first, second]  # and nothing lost
    assert {one.labeler for one in judgements} == {"Ann", "Bob"}
    for n, writer in ((1, "sft"), (2, "policy_1")):
        rows = [json.loads(row) for row in (out / f"answers_{n}" / "answers.jsonl").read_text().splitlines()]
        expected = [(row["prompt"]["conversation"], row["answers"]) for row in rows if row["answers"]]
        found = [one for one in judgements if one.source.startswith(f"rankings_{n} ")]
        assert [(one.prompt, [c.text for c in one.completions]) for one in found] == expected
        assert all(list(one.ranks) == preferred([c.text for c in one.completions]) for one in found)
        assert {c.model for one in found for c in one.completions} == {writer}
        ranked = read_rankings(str(out / f"rankings_{n}" / "rankings.jsonl"))
        whose = [
            Ranking(one.prompt, tuple(c.text for c in one.completions), one.ranks, one.labeler, one.user)
            for one in found
        ]
        assert ranked == [row for row in whose if len(set(row.ranks)) > 1]
    made = json.loads((out / "rounds.json").read_text())
    assert list(made) == ["round_1", "round_2"] and made["round_2"]["writer"] == made["round_1"]["policy"]
    figures = json.loads((out / "evaluation.json").read_text())
    assert figures["round_2"]["rating"]["n"] == 8 and figures["round_2"]["rating/minus_round_1"]["low"] is not None
    assert "rating" in printed.lower() and "round_2" in printed


def test_the_config_that_ships_asks_for_three_rounds_and_its_control_for_as_many_labels():
    c = read_config(rounds.Config, ROOT / "configs" / "rounds.toml")
    assert f"--rounds.count 1 --answers.prompts {c.rounds.count * c.answers.prompts} " in rounds.__doc__
