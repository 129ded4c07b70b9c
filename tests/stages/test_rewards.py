"""Reward functions: how they are asked, what they give together, and every way in which they go wrong."""

import asyncio
import importlib
import json
import math
import signal
import sys
import threading
import time
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import Columns, Messages, Prompt, prompt_text, read_prompts
from rlhf_jax.rewards import AnswerText, each, exact, from_trl
from rlhf_jax.runtime import source_sha256
from rlhf_jax.stages import Rewards
from rlhf_jax.stages.named_rewards import rewards_in
from rlhf_jax.stages.rewards import (
    RewardError,
    keep_failure,
    opinions,
    part_metrics,
    parts_earned,
    rewards_of,
    together,
)
from tests.refusals import refusal

pytestmark = pytest.mark.usefixtures("types_are_not_checked")  # models are stood in for
START = SimpleNamespace(format=None, tokenizer=SimpleNamespace(sha256="start"))
ANSWERS = ["a", "bb", "ccc", "dddd"]
PROMPTS = [Prompt(prompt_text(f"Say {i}."), columns=Columns(answer="bb", i=i)) for i in range(4)]


def asked(*functions, seconds=30.0, answers=ANSWERS, prompts=PROMPTS):
    return opinions(Rewards(functions=functions), prompts, answers, seconds)


def lengths(prompts, answers, rows):
    return [float(len(answer)) for answer in answers]


def second(prompts, answers, rows):
    """Of the second answer, and of no other."""
    return [None if row["i"] != 1 else 10 for row in rows]


# What functions are given, and what they may give.


def test_a_function_gets_each_prompt_with_its_answer_and_its_row_in_lists_of_its_own():
    def reward(prompts, answers, rows):
        found = [(p.text, a, dict(r)) for p, a, r in zip(prompts, answers, rows, strict=True)]
        assert found == [(p.text, a, dict(p.columns)) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
        for given in (prompts, answers, rows):
            given.clear()
        return [1, 2, 3, 4]

    assert asked(reward, lengths).tolist() == [[1, 2, 3, 4], [1, 2, 3, 4]]


@pytest.mark.parametrize("trl", [False, True])
def test_what_a_function_writes_into_rows_and_messages_stays_with_it(trl):
    def made():
        messages = Messages([{"role": "user", "content": "Say 1."}])
        return [Prompt(messages, columns=Columns(n=[1], of={"a": 1}))] * 4  # several answers to one

    def spoils(prompts, answers, rows):
        for prompt, row in zip(prompts, rows, strict=True):
            prompt.conversation[0]["content"] = "changed"
            row.pop("n").append(2)
            prompt.columns["of"].clear()  # the same row
            assert row == {"of": {}}
        return [1] * 4

    def of_trl(prompts, completions, n, **more):
        for messages, own in zip(prompts, n, strict=True):
            messages[0]["content"] = "changed"
            own.append(2)
        return [float(len(own)) for own in n]

    given = made()
    answers = [AnswerText("a", (3,), True)] * 4
    asked(from_trl(of_trl) if trl else spoils, lengths, prompts=given, answers=answers)
    assert given == made()


def test_numbers_of_every_kind_are_numbers():
    kinds = [
        True,
        2,
        2.5,
        np.float32(1.5),
        np.int64(3),
        np.bool_(False),
        jnp.float32(0.25),
        Decimal("0.5"),
        Fraction(3, 4),
        np.array(7),
    ]
    n = len(kinds)
    found = asked(lambda *given: kinds, lambda *given: np.arange(n), prompts=PROMPTS[:1] * n, answers=["x"] * n)
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 2, 2.5, 1.5, 3, 0, 0.25, 0.5, 0.75, 7], list(range(n))]
    assert asked(lambda *given: jnp.arange(4.0), lambda *given: (x for x in range(4))).tolist() == [[0, 1, 2, 3]] * 2


def test_a_sum_is_over_the_parts_that_have_an_opinion():
    model = SimpleNamespace(folder=Path("runs/reward_model"), scalar=True)
    rewards = Rewards(functions=(lengths, second), weights=(1.0, 0.5))
    said = opinions(rewards, PROMPTS, ANSWERS)
    np.testing.assert_array_equal(said, [[1, 2, 3, 4], [np.nan, 10, np.nan, np.nan]])
    np.testing.assert_array_equal(together(rewards, said), [[1, 7, 3, 4]])
    both = Rewards((model, model), (second,), (2.0, -1.0))
    of_models = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    np.testing.assert_array_equal(together(both, said[1:], of_models), [[2, -6, 6, 8], [10, 2, 14, 16]])
    assert together(rewards, said).dtype == np.float32


def test_a_sum_that_is_no_float32_is_a_sentence():
    rewards = Rewards(functions=(lengths, second), weights=(3e38, 3e38))
    said = opinions(rewards, PROMPTS, ANSWERS)
    refusal(lambda: together(rewards, said), "the rewards add up to 3.6e+39, too large for float32")


def test_each_part_has_its_mean_and_its_share_of_groups_without_any_difference():
    said = np.array([[1, 1, 2, 3], [np.nan, 4, np.nan, np.nan], [0, np.nan, 0, 1]], np.float32)
    rewards = Rewards(functions=(lengths, second, exact))
    assert part_metrics(parts_earned(rewards, said, None), 2) == {
        "reward/lengths": 1.75,
        "reward/second": 4,
        "reward/exact": pytest.approx(1 / 3),
        "group/no_difference/lengths": 0.5,
        "group/no_difference/second": 1,
        "group/no_difference/exact": 0.5,
    }
    model = SimpleNamespace(folder=Path("runs/reward_model"), scalar=True)
    silent = np.full((1, 4), np.nan, np.float32)
    of_models = np.array([[1.0, 2, 3, 4], [3, 4, 5, 6]])
    found = part_metrics(parts_earned(Rewards((model, model), (second,)), silent, of_models), 1)
    assert found == {"reward/reward_model": 3.5}


def test_two_functions_of_one_name_are_told_apart():
    others = [lambda *given: None, partial(lengths), each(lambda p, a, r: 1.0)]
    assert Rewards(functions=(lengths, *others)).named == ["lengths", "lambda", "lengths_2", "lambda_2"]


# Slow ones.


def test_async_functions_and_single_answers_are_asked_all_at_once():
    async def slow(prompts, answers, rows):
        await asyncio.sleep(0.4)
        return [1.0] * len(answers)

    async def later(prompt, answer, row):
        await asyncio.sleep(0.4)
        return float(len(answer))

    def waits(prompt, answer, row):
        time.sleep(0.4)
        return row["i"]

    def looks(prompts, answers, rows):
        time.sleep(0.4)
        return [0.0] * len(answers)

    began = time.monotonic()
    found = asked(looks, slow, each(later), each(waits, threads=4))
    assert time.monotonic() - began < 1.2  # 4 · 0.4 s + twice 3 · 0.4 s one after the other
    assert found.tolist() == [[0] * 4, [1] * 4, [1, 2, 3, 4], [0, 1, 2, 3]]


def test_an_async_client_lives_from_one_iteration_to_the_next():
    queue: asyncio.Queue[int] = asyncio.Queue()  # bound to the first loop that waits for it

    async def reward(prompts, answers, rows):
        asyncio.get_running_loop().call_later(0.01, queue.put_nowait, 3)
        return [await queue.get()] * len(answers)

    assert asked(reward).tolist() == asked(reward).tolist() == [[3] * 4]


def sleeps(prompts, answers, rows):
    time.sleep(30)


async def sleeps_in_the_loop(prompts, answers, rows):
    time.sleep(3)


async def waits(prompts, answers, rows):
    await asyncio.sleep(30)


def loops(prompts, answers, rows):
    while True:
        with suppress(Exception):
            time.sleep(0.001)


@pytest.mark.parametrize("slow", [sleeps, sleeps_in_the_loop, waits, loops, each(lambda p, a, r: time.sleep(30))])
def test_what_takes_too_long_is_a_sentence_and_the_next_is_asked_as_ever(slow):
    began = time.monotonic()
    words = "took more than 0.2 s for 4 answers; make it faster, or raise runtime.reward_seconds"
    refusal(lambda: asked(slow, lengths, seconds=0.2), words)
    assert time.monotonic() - began < 2.5
    assert asked(waits_a_little, seconds=5).tolist() == [[1] * 4]
    assert signal.getsignal(signal.SIGVTALRM) is signal.SIG_DFL


async def waits_a_little(prompts, answers, rows):
    await asyncio.sleep(0.01)
    return [1] * len(answers)


def test_alarms_are_heard_as_in_any_program():
    """math-verify sets them, and many a checker; they are the main thread's alone."""

    def reward(prompts, answers, rows):
        assert threading.current_thread() is threading.main_thread()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        return [1] * len(answers)

    assert asked(reward).tolist() == [[1] * 4]


# What goes wrong.


def fails_at(bad, error=ValueError("no such thing")):
    def reward(prompts, answers, rows):
        if bad in answers:
            raise error
        return [1] * len(answers)

    return reward


async def fails_later(prompts, answers, rows):
    await asyncio.sleep(0.001)
    return [1 / (len(answer) - 3) for answer in answers]


def of_many(prompts, answers, rows):
    if len(answers) > 1:
        raise RuntimeError("too many")
    raise LookupError("too few")


def leaves(prompts, answers, rows):
    sys.exit(3)


async def leaves_later(prompts, answers, rows):
    await asyncio.sleep(0.001)
    sys.exit(3)


async def interrupts(prompts, answers, rows):
    raise KeyboardInterrupt


async def in_a_task(prompts, answers, rows):
    return await asyncio.create_task(leaves_later(prompts, answers, rows))


def while_generating(prompts, answers, rows):
    yield sys.exit(3)


class OwnError(BaseException):
    def __str__(self):
        raise ValueError("no words")


async def nothing_wrong(prompts, answers, rows):
    await asyncio.sleep(0.001)
    return [1] * len(answers)


RAISES = {
    "one": (fails_at("ccc"), "raised ValueError: no such thing (test_rewards.py, line", "ccc"),
    "async": (fails_later, "raised ZeroDivisionError: division by zero (test_rewards.py, line", "ccc"),
    "each": (each(lambda p, a, r: 1 / (r["i"] - 2)), "raised ZeroDivisionError: division by zero", "ccc"),
    "the whole": (of_many, "raised RuntimeError: too many (test_rewards.py, line", None),
    "lazily": (
        lambda p, a, rows: (1 / (row["i"] - 2) for row in rows),
        "raised ZeroDivisionError: division by zero",
        "ccc",
    ),
    "async exit": (leaves_later, "raised RuntimeError: it called sys.exit(3)", "a"),
    "async interrupt": (interrupts, "raised RuntimeError: it raised KeyboardInterrupt", "a"),
    "exit in a task": (in_a_task, "raised RuntimeError: it called sys.exit(3)", "a"),
    "exit while generating": (while_generating, "raised RuntimeError: it called sys.exit(3)", "a"),
    "generator": (fails_at("ccc", GeneratorExit("no")), "raised GeneratorExit: no (test_rewards.py, line", "ccc"),
    "of its own": (fails_at("ccc", OwnError()), "raised OwnError (test_rewards.py, line", "ccc"),
    "exit": (leaves, "raised RuntimeError: it called sys.exit(3)", "a"),
}


@pytest.mark.parametrize("how", RAISES)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_names_function_prompt_and_answer_and_is_kept_with_them(how, tmp_path):
    function, words, answer = RAISES[how]
    with pytest.raises(RewardError) as raised:
        asked(lengths, function)
    assert asked(nothing_wrong).tolist() == [[1] * 4]  # and the next is asked as ever
    sentence, i = str(raised.value), None if answer is None else ANSWERS.index(answer)
    assert sentence.startswith("the reward function ") and words in sentence and "\n" not in sentence
    assert raised.value.code == "reward_2"
    there = keep_failure(tmp_path, 4, raised.value)
    said = json.loads((tmp_path / "reward_failed.json").read_text())
    assert there == f"; {tmp_path / 'reward_failed.json'} has it" and said["iteration"] == 5
    rows = [{"prompt": p.conversation, "answer": a, "row": p.columns} for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    if i is None:
        assert said["answers"] == rows and " at the answer " not in sentence
    else:
        assert {name: said[name] for name in ("prompt", "answer", "row")} == rows[i]
        assert sentence.endswith(f"at the answer {answer!r} to {PROMPTS[i].text!r}".replace("\n", "\\n"))


def test_what_cannot_be_written_as_json_is_kept_as_well(tmp_path):
    row = Columns(made=math.nan, of={1}, on=Path("x"), lone="\ud800")
    prompts = [Prompt(Messages([{"role": "user", "content": "x\ud800"}]), columns=row)]
    with pytest.raises(RewardError) as raised:
        asked(fails_at("\ud800y"), prompts=prompts, answers=["\ud800y"])
    keep_failure(tmp_path, 0, raised.value)
    assert "{1}" in json.loads((tmp_path / "reward_failed.json").read_text())["row"]["of"]


class Lazy:
    """Like a row of a data set that is gone."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        raise OSError("gone")

    __repr__ = item = __len__


GIVEN = {
    "too few": ([1.0], "gave [1.0] for 4 answers; let it give a list with a finite number for each, or None"),
    "too many": ([1.0] * 5, "for 4 answers"),
    "a table": ([[1.0] * 4], "gave [[1.0, 1.0, 1.0, 1.0]] for 4 answers"),
    "one number": (1.0, "gave 1.0 for 4 answers"),
    "nothing": (None, "gave None for 4 answers"),
    "a word": ("abcd", "gave 'abcd' for 4 answers"),
    "by name": ({0: 1, 1: 1, 2: 1, 3: 1}, "for 4 answers"),
    "a set": ({1, 2, 3, 4}, "gave {1, 2, 3, 4} for 4 answers"),
    "words": ([1, "2", 3, 4], "gave '2' at the answer 'bb' to "),
    "nan": ([1, 2, math.nan, 4], "gave nan at the answer 'ccc' to "),
    "inf": ([1, 2, 3, -math.inf], "gave -inf at the answer 'dddd' to "),
    "beyond float32": ([1e39, 2, 3, 4], "gave 1e+39 at the answer 'a' to "),
    "complex": ([1j, 2, 3, 4], "gave 1j at the answer 'a' to "),
    "rows": ([[1], [2], [3], [4]], "gave [1] at the answer 'a' to "),
    "masked": (np.ma.masked_array([1.0, 2, 3, 4], [False, False, True, False]), "gave masked at the answer 'ccc' to "),
    "frozen": (frozenset({1, 2, 3, 4}), "for 4 answers"),
    "keys": ({1: 0, 2: 0, 3: 0, 4: 0}.keys(), "for 4 answers"),
    "values": ({1: 0, 2: 0, 3: 0, 4: 0}.values(), "for 4 answers"),
    "bytes": (bytearray(b"abcd"), "for 4 answers"),
    "memory": (memoryview(b"abcd"), "for 4 answers"),
    "digits": ([1, 10**400, 3, 4], "at the answer 'bb' to "),
    "too many digits": ([1, 10**5000, 3, 4], "gave <int, which cannot be written> at the answer 'bb' to "),
    "signalling": ([Decimal("sNaN"), 2, 3, 4], "gave Decimal('sNaN') at the answer 'a' to "),
    "gone": (Lazy(), "gave <Lazy, which cannot be written> for 4 answers"),
    "gone within": ([1, 2, 3, Lazy()], "gave <Lazy, which cannot be written> at the answer 'dddd' to "),
    "a square": (np.ones((4, 1)), "at the answer 'a' to "),
}


@pytest.mark.parametrize("how", GIVEN)
def test_what_is_no_number_for_each_answer_is_a_sentence(how):
    given, words = GIVEN[how]

    def mine(prompts, answers, rows):
        return given

    said = refusal(lambda: asked(mine, lengths), words)
    assert said.startswith("the reward function mine gave ")


def test_where_no_function_has_an_opinion_a_sentence_names_the_columns_there_are():
    words = "no reward function has an opinion at the answer 'a' to "
    refusal(lambda: asked(second), words, "its row's other columns: answer, i")
    model = SimpleNamespace(folder=Path("runs/reward_model"), scalar=True)
    assert np.isnan(opinions(Rewards((model,), (second,)), PROMPTS, ANSWERS)).sum() == 3  # the model has one


def test_what_cannot_be_a_reward_is_refused_before_anything_is_asked():
    for wrong in (3, "runs/x", None, {"a": 1}, [], [lengths, 3]):
        refusal(partial(rewards_of, wrong), "the reward is ", "; give a reward model, several, or a function")
    refusal(lambda: rewards_of(Rewards()), "there is no reward")
    refusal(lambda: Rewards(functions=lengths), "the functions of the rewards are <function lengths", "give a list")
    refusal(lambda: Rewards(functions=(lengths, second), names=("a",)), "2 functions and 1 names")
    assert Rewards(functions=(lengths, second), weights=np.array([1.0, 2.0])).weighed == (1.0, [1.0, 2.0])
    refusal(lambda: rewards_of(lambda prompts, answers: [1.0]), "lambda takes (prompts, answers), not three arguments")
    refusal(lambda: rewards_of(lambda completions, **kwargs: [1.0]), "rewards.from_trl, or write trl: before its name")
    for weights in ((1.0,), (1.0, math.nan), (1, 2, 3), ["a", 1], [[1], [2]], 1.0, "12", np.ones(()), [1, 1e39]):
        refusal(
            lambda weights=weights: Rewards(functions=(lengths, second), weights=weights), "each of lengths, second"
        )
    assert [*rewards_of(lengths).functions, *rewards_of([lengths, second]).functions] == [lengths, lengths, second]
    assert Rewards(functions=(lengths, second), weights=[1, 0.5]).in_words == "lengths + 0.5·second"
    assert [Rewards(functions=(lengths, second)).name_of(code) for code in ("reward", "reward_2", "")] == [
        *("lengths", "second", "")
    ]


# From a config.


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a user's files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_rewards.py").write_text(
        "from helper import score\n\ndef exact(prompts, answers, rows):\n"
        "    return [score(a, row) for a, row in zip(answers, rows)]\n\n"
        "async def later(prompts, answers, rows):\n    return [2.0] * len(answers)\n\n"
        "def theirs(completions, **kwargs):\n    return [float(len(c)) for c in completions]\n\nK = 3\n"
        "def two(prompts, answers):\n    return []\n"
    )
    (tmp_path / "helper.py").write_text("def score(answer, row):\n    return float(answer == row['answer'])\n")
    yield tmp_path
    for name in ("helper", "my_rewards", "my_rewards_py", "json_py", "broken_py"):
        sys.modules.pop(name, None)


def test_a_config_names_functions_of_files_and_modules_with_weights(here):
    (here / "json.py").write_text("def exact(prompts, answers, rows):\n    return [1.0] * len(answers)\n")
    names = "my_rewards.py:exact, my_rewards.py:later, my_rewards:exact, json.py:exact, rlhf_jax.rewards:exact"
    found = rewards_in(names, "1, 2, 3, 4, 5", START)
    assert found.weights == (1, 2, 3, 4, 5)
    assert found.named == ["exact", "later", "exact_2", "exact_3", "exact_4"]
    said = opinions(found, PROMPTS, ANSWERS)
    assert said.tolist() == [[0, 1, 0, 0], [2] * 4, [0, 1, 0, 0], [1] * 4, [0, 1, 0, 0]]
    assert json.loads("1") == 1 and sys.modules["json"] is json
    assert rewards_in("my_rewards.py:exact", "", START).weights == ()


def test_a_file_s_name_is_not_taken_from_a_module_that_nobody_has_imported_yet(here, monkeypatch):
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    (here / "wave.py").write_text("def exact(prompts, answers, rows):\n    return [1.0] * len(answers)\n")
    assert rewards_in("wave.py:exact", "", START).named == ["exact"]
    assert hasattr(importlib.import_module("wave"), "open")


def test_what_a_file_s_function_takes_from_the_file_beside_it_counts_in_its_hash(here):
    (before,) = rewards_in("my_rewards.py:exact", "", START).functions
    hashes = [source_sha256(before)]
    (here / "helper.py").write_text("def score(answer, row):\n    return 2 * float(answer == row['answer'])\n")
    for name in ("helper", "my_rewards_py"):
        del sys.modules[name]
    (after,) = rewards_in("my_rewards.py:exact", "", START).functions
    assert source_sha256(after) != hashes[0]


def test_one_that_was_written_for_trl_has_trl_before_its_name(here):
    found = rewards_in("trl:my_rewards.py:theirs", "", START)
    refusal(lambda: opinions(found, PROMPTS, ANSWERS), "the reward function theirs: TRL's reward functions get")
    assert found.named == ["theirs"]


NAMED = {
    "none.py:exact": "there is no file none.py in ",
    "no_such_module:exact": "there is no module no_such_module; install it, or name a file",
    "my_rewards.py:exakt": "my_rewards.py has no function 'exakt'; did you mean exact?",
    "my_rewards.py:zzz": "it has score, exact, later, theirs, two",
    "my_rewards.py:K": "my_rewards.py:K is of type int and cannot be called",
    "my_rewards.py:two": "takes (prompts, answers), not three arguments",
    "my_rewards.py:theirs": "write trl: before its name in a config",
    "broken.py:exact": "broken.py raised SyntaxError",
    "raises.py:exact": "raises.py raised KeyError: 1 (raises.py, line 2",
    "my_rewards.py": "is no folder of a reward model; name one, or a function, as in my_rewards.py:exact",
    "runs/none": "runs/none is no folder of a reward model; name one, or a function",
    "gold:kindness": "the gold preference has no 'kindness'; name one of score, content, constraint",
    "gold:content": "is of the built-in world, and the data are files",
    "my_rewards.py:exact, my_rewards.py:exact": "names my_rewards.py:exact twice",
    "": "there is no reward",
}


@pytest.mark.parametrize("name", NAMED)
def test_what_a_config_cannot_find_is_a_sentence(name, here):
    (here / "broken.py").write_text("def exact(:\n")
    (here / "raises.py").write_text("x = {}\nx[1]\n")
    refusal(lambda: rewards_in(name, "", START), NAMED[name])


@pytest.mark.parametrize("weights", ["1", "1, x", "1, nan", "1, 2, 3"])
def test_weights_are_a_number_for_each(weights, here):
    words = "must have a number for each of given.reward, which are my_rewards.py:exact, my_rewards.py:later"
    refusal(lambda: rewards_in("my_rewards.py:exact, my_rewards.py:later", weights, START), words)


def test_reward_models_are_one_part_with_one_weight(here, monkeypatch):
    for name in ("a", "b"):
        (here / name).mkdir()
    named, asked_with = sys.modules["rlhf_jax.stages.named_rewards"], []

    def model_in(name, format):
        asked_with.append(format)
        return SimpleNamespace(folder=Path(name), scalar=True)

    monkeypatch.setattr(named, "model_in", model_in)
    monkeypatch.setattr(named, "Trained", SimpleNamespace)
    found = rewards_in("my_rewards.py:exact, a, b", "0.5, 2, 2", START)
    assert found.weights == (2, 0.5) and [model.folder.name for model in found.models] == ["a", "b"]
    assert found.named == ["exact"] and asked_with == [START.format] * 2
    refusal(lambda: rewards_in("a, b", "1, 2", START), "the reward models a, b are an ensemble", "one weight")


# The built-in world's tasks, and rows of files.


def test_the_parts_of_the_gold_preference_add_up_to_it():
    world = stages.from_world(stages.World(20, prompts=60, demonstrations=8, labelers=1, heldout_labelers=1), 0)
    names = "gold:content, gold:constraint, gold:brevity, gold:falsehood, gold:rudeness"
    weighed = rewards_in(names, "4, 0.5, 0.5, -2, -2", START, world.truth)  # the formula of labelers/gold.py
    prompts = list(world.prompts.train)[:8]
    answers = [d.answer for d in (*world.demonstrations.train[:4], *world.demonstrations.train[:2])] + ["Idiot.", ""]
    gold = [world.truth.gold(world.truth.question(p), a) for p, a in zip(prompts, answers, strict=True)]
    assert together(weighed, opinions(weighed, prompts, answers))[0].tolist() == pytest.approx(gold)
    score = rewards_in("gold:score", "", START, world.truth)
    assert opinions(score, prompts, answers)[0].tolist() == pytest.approx(gold) and len(set(gold)) > 2
    assert weighed.named[0] == "gold_content"


def test_what_else_a_row_says_comes_to_the_function(tmp_path):
    row = {"prompt": "What is 1 + 1?", "answer": "2", "tests": ["x == 2"], "category": "sum", "user": 5, "none": None}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (prompt,) = read_prompts(str(tmp_path / "rows.jsonl"))
    assert prompt.columns == {"answer": "2", "tests": ["x == 2"], "none": None}
    assert asked(exact, prompts=[prompt], answers=[" 2"]).tolist() == [[1]]
