"""Rollouts on disk: a run learns from its own again to the bit; a record holds every bit; what does not fit is refused."""

import ast
import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import grpo, look
from rlhf_jax import stages
from rlhf_jax.data import Messages, Prompt, by_role, prompt_text
from rlhf_jax.models import LanguageModel, ScalarModel
from rlhf_jax.runtime import Checkpoints, read_metrics
from rlhf_jax.stages import Trained, begin, sample_rollouts
from rlhf_jax.stages.rollouts import Drawn, Reading, Recorded, few, read_drawn, recorded, write_rollouts
from rlhf_jax.steps import PPO_PTX, Iteration, sample
from rlhf_jax.types import PerAnswer, PromptBatch, Repetition, Response
from tests.models.conftest import wild
from tests.refusals import refusal
from tests.small_run import ROOT

pytestmark = pytest.mark.usefixtures("types_are_not_checked")
SHAPE = stages.Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=32)
FORMAT = stages.Format(prompt_tokens=24, answer_tokens=6)
RUN = stages.Run(seed=0, runtime=stages.Runtime(batch=4, save_every=1, keep=9, evaluate_every=2, record_every=1))
C = stages.PPO(iterations=2, batch=4, minibatches=2, pretrain_examples=1, gamma=0.5, beta=0.1, lr=1e-2, warmup=0)
PROMPTS = [Prompt(prompt_text(f"Name a {word}.")) for word in ("fruit", "apple", "pear", "cat", "dog", "mat")]
TEXT = ["The cat sat on the mat. The dog sat on the cat."] * 20
GROUP = Iteration(sample, partial(grpo.learn, advantage="rloo", answers=2), has_value=False)


def length(prompts, answers, rows=()):
    return [len(answer) / 3 for answer in answers]


@pytest.fixture(scope="module")
def programs_are_kept(tmp_path_factory):
    """Each stage compiles its programs, and most of them here are the same ones."""
    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: jax.config.values[name] for name in names}
    for values in (names, before):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is names:
            yield


@pytest.fixture(scope="module")
def runs(programs_are_kept, tokenizer, tmp_path_factory):
    """runs.policy(folder, …): a stage of RL of a model with random parameters, by a reward model with others."""
    decoder = stages.described(SHAPE, tokenizer, FORMAT).decoder
    model = partial(Trained, decoder, tokenizer, FORMAT, step=1)
    out = tmp_path_factory.mktemp("runs")
    start, reward = (model(folder=out / name, sha256=name, scalar=name == "reward") for name in ("start", "reward"))

    def learned(self, *where):
        if self.folder.name not in ("start", "reward"):
            return read(self, *where)
        return wild(ScalarModel(decoder), 2) if self.scalar else wild(LanguageModel(decoder), 1)

    def policy(folder, given=reward, c=C, run=RUN, text=TEXT, prompts=PROMPTS, start=start, **more):
        return stages.policy(out / folder, start, given, prompts, c, run, text=text, **more)

    read = Trained.learned
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trained, "learned", learned)
        made = SimpleNamespace(policy=policy, out=out, start=start, reward=reward)
        made.first = policy("first/ppo", c=replace(C, top_p=0.9))  # learns from it: of no test
        yield made


def state_of(made):
    return Checkpoints(made.folder / "checkpoints", None).record(made.step)["sha256"]


def files_of(made):
    return {path.name: path.read_bytes() for path in sorted((made.folder / "rollouts").glob("*.jsonl"))}


def figures_of(made):
    return [{k: x for k, x in row.items() if k != "time/reward"} for row in read_metrics(made.folder)]


def assert_learned_the_same(one, other):
    """Parameters, moments of the optimisers, averages, keys; figures; what was made of each answer."""
    assert state_of(one) == state_of(other)
    assert figures_of(one) == figures_of(other)
    assert files_of(one) == files_of(other) and len(files_of(one)) == 2


def forbidden(*given, **more):
    raise AssertionError("a replay samples nothing")


def test_a_replay_learns_to_the_bit_what_the_run_learned_from_a_reward_model(runs, monkeypatch):
    """With the pretraining mix, and top-p, whose choice of tokens is a part of each log-probability."""
    monkeypatch.setattr(sys.modules["rlhf_jax.stages.iterations"], "drawing", forbidden)
    again = runs.policy("again/another_name", c=replace(C, top_p=0.9), replay=runs.first.folder)
    assert_learned_the_same(runs.first, again)


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ("function", {"iteration": GROUP, "answers": 2}),
        pytest.param("function", {"iteration": PPO_PTX}, marks=pytest.mark.long),
        pytest.param("reward", {"iteration": GROUP, "answers": 2}, marks=pytest.mark.long),
    ],
    ids=["function-group", "function-ppo", "reward-group"],
)
def test_a_replay_learns_the_same_from_functions_and_in_groups(runs, given, more, monkeypatch):
    asked, name = [], f"{given}-{len(more)}"

    def reward(prompts, answers, rows):
        asked.extend(answers)
        return length(prompts, answers)

    given = reward if given == "function" else runs.reward
    more |= {"c": C.plain()}
    one = runs.policy(f"one/{name}", given, **more)
    before = len(asked)
    monkeypatch.setattr(sys.modules["rlhf_jax.stages.iterations"], "drawing", forbidden)
    assert_learned_the_same(one, runs.policy(f"two/{name}", given, replay=one.folder / "rollouts", **more))
    assert len(asked) == before == (8 if callable(given) else 0)


@pytest.mark.long
@pytest.mark.parametrize("pmap", [False, True], ids=["mesh", "pmap"])
def test_on_two_devices_a_replay_learns_the_same(runs, pmap):
    two = replace(RUN, mesh=stages.Devices(data=2, pmap=pmap))
    one = runs.policy(f"devices/{pmap}", c=C.plain(), run=two)
    assert_learned_the_same(one, runs.policy(f"again/{pmap}", c=C.plain(), run=two, replay=one.folder))


@pytest.mark.long
def test_what_a_resumed_run_does_again_is_recorded_with_the_same_bytes(runs):
    folder = runs.out / "resumed" / "ppo"
    shutil.copytree(runs.first.folder, folder)
    shutil.rmtree(folder / "checkpoints" / "2")
    (folder / "rollouts" / "000002.jsonl").write_text("of the run that was killed\n")
    assert_learned_the_same(runs.first, runs.policy("resumed/ppo", c=replace(C, top_p=0.9)))


def test_a_line_says_what_people_look_for(runs):
    rows = [json.loads(line) for line in (runs.first.folder / "rollouts" / "000001.jsonl").read_text().splitlines()]
    t = runs.start.tokenizer
    assert len(rows) == C.batch
    for row in rows:
        assert row["step"] == 1 and row["prompt"] in {prompt.text for prompt in PROMPTS}
        assert row["answer"] == t.decode([i for i in row["ids"] if i != t.eos]).strip()
        assert row["ended"] == ("eos" if row["ids"][-1] == t.eos else "length")
        assert row["ended"] == "eos" or len(row["ids"]) == FORMAT.answer_tokens
        assert row["reward"] == {"reward": row["scores"][0]} and row["score"] == row["scores"][0]
        numbers = [row["logp"], row["logp_ref"], *row["kl"].values(), row["advantage"], row["value"]]
        assert [len(each) for each in numbers] == [len(row["ids"])] * 8
        # In the first iteration the policy is the reference.
        assert row["logp"] == row["logp_ref"] and set(row["kl"]["k1"]) == {0.0} and max(row["logp"]) < 0
        assert row["prompt_ids"] == t.encode(row["prompt"])
    metrics = read_metrics(runs.first.folder)
    assert np.mean([row["score"] for row in rows]) == pytest.approx(metrics[0]["objective/scores"], rel=1e-6)
    values = [x for row in rows for x in row["value"]]
    assert np.mean(values) == pytest.approx(metrics[0]["val/mean"], rel=1e-5)
    advantages = np.array([x for row in rows for x in row["advantage"]])
    assert advantages.mean() == pytest.approx(0, abs=1e-6) and advantages.std() == pytest.approx(
        1, rel=1e-3
    )  # whitened


class Said(NamedTuple):
    y: Response


@pytest.fixture
def repeated(runs, monkeypatch):
    """Iterations that learn nothing, in which each answer is the end of its prompt and earns its row's number."""

    def program(*pieces):
        def call(state, prompts, batch, coef, frozen):
            tokens, mask = (np.asarray(x)[:, -6:] for x in (batch.prompts.tokens, batch.prompts.mask))
            y = Response(tokens, mask, tokens * np.float32(0), np.ones(len(tokens), np.float32), None)
            scores = np.arange(len(tokens), dtype=np.float32)[None]
            metrics = {"objective/scores": 1.0, "objective/kl": 0.0}
            return replace(state, step=state.step + 1), metrics, Drawn(Said(y), scores, {})

        return call

    for name in ("by_models", "replayed"):
        monkeypatch.setattr(sys.modules["rlhf_jax.stages.policy"], name, program)


def test_a_few_answers_of_a_look_are_said(runs, repeated, capsys):
    quiet = replace(RUN, runtime=replace(RUN.runtime, record_every=0))
    made = runs.policy("said/ppo", c=C.plain(), run=quiet)
    said = [line.split(" · ") for line in capsys.readouterr().err.splitlines() if " → " in line]
    assert [line[:2] for line in said] == [[f"ppo {i}", f"reward {x}"] for i in (1, 2) for x in (3, 1, 0)]
    asked = {by_role(prompt.conversation): prompt.text.strip() for prompt in PROMPTS}
    for _, _, text in said:
        prompt, answer = text.removesuffix(" (length)").split(" → ")
        assert asked[ast.literal_eval(prompt)].endswith(ast.literal_eval(answer)) and "Human:" not in prompt
    assert not (made.folder / "rollouts").exists()  # nothing is recorded unasked


def test_every_nth_iteration_is_recorded_and_it_is_said_how_much_that_is(runs, repeated, capsys, monkeypatch):
    written = []

    def write(folder, step, prompts, given, drawn, earned, model):
        written.append((step, list(earned), [prompt.text for prompt in prompts]))
        (path := folder / f"{step}").write_text("x" * 2_000_000)
        return path

    monkeypatch.setattr(sys.modules["rlhf_jax.stages.iterations"], "write_rollouts", write)
    third = replace(RUN, runtime=replace(RUN.runtime, record_every=3))
    runs.policy("third/ppo", c=replace(C.plain(), iterations=7), run=third)
    assert [step for step, _, _ in written] == [1, 3, 6, 7]
    assert all(parts == ["reward"] and len(texts) == 4 for _, parts, texts in written)
    assert "ppo/rollouts: 4 answers are 2 MB, 4 iterations about 8 MB" in capsys.readouterr().err


# Sampling without learning.


def test_sampling_alone_gives_what_the_first_iteration_drew(runs):
    settings = replace(C, top_p=0.9, iterations=1)
    folder = sample_rollouts(runs.out / "sampled" / "ppo", runs.start, runs.reward, PROMPTS, settings, RUN)
    (row, *rows), (first, *others) = (recorded(each).rows(1) for each in (folder, runs.first.folder))
    learned = ("score", "value", "advantage")
    same = [{name: x for name, x in each.items() if name not in learned} for each in (first, *others)]
    assert [row, *rows] == same and not (folder / "checkpoints").exists()
    files = {path: path.stat().st_mtime_ns for path in (folder / "rollouts").iterdir()}
    assert sample_rollouts(folder, runs.start, runs.reward, PROMPTS, settings, RUN) == folder
    assert {path: path.stat().st_mtime_ns for path in (folder / "rollouts").iterdir()} == files
    refusal(lambda: sample_rollouts(folder, runs.start, length, PROMPTS, settings, RUN), "made from another reward")


# A record holds every bit.


class Odd(NamedTuple):
    """A rollout of another kind: answers with gaps, and numbers of its own."""

    tokens: np.ndarray
    mask: np.ndarray
    y: Response
    ended: np.ndarray
    kl: dict
    earned: np.ndarray


def odd(tokenizer, rng):
    B, P, T, V = 4, 5, 6, 11
    counts = np.arange(P) >= np.array([[0], [2], [4], [1]])
    given = PromptBatch(np.where(counts, rng.integers(3, V, (B, P)), tokenizer.pad).astype(np.int32), counts)
    mask = np.arange(T) < np.array([[6], [3], [1], [1]])
    gaps = mask & (np.arange(T) % 3 != 1)  # what others said counts for the models and not for the loss
    y = np.where(mask, rng.integers(3, V, (B, T)), tokenizer.pad).astype(np.int32)
    y[1, 2] = tokenizer.eos
    numbers = rng.normal(size=(B, T)).astype(np.float32) * np.float32(10.0) ** rng.integers(-44, 38, (B, T))
    numbers = np.where(mask, numbers, 0).astype(np.float32)
    numbers[0, :5] = [-0.0, np.inf, -np.inf, np.float32(1e-45), np.nextafter(np.float32(1), np.float32(2))]
    logp = np.where(np.isfinite(numbers), -np.abs(numbers), 0).astype(np.float32)
    junk = rng.normal(size=(B, T)).astype(np.float32)  # also where no token is
    support = rng.random((B, T, V)) < 0.5
    since = Repetition(np.full(B, 1.3, np.float32), rng.integers(0, T, (B, V)).astype(np.int32))
    response = Response(y, gaps, logp, np.full(B, 0.7, np.float32), support, since)
    tokens, all_of = np.concatenate([given.tokens, y], axis=1), np.concatenate([counts, mask], axis=1)
    ended = np.array([True, True, False, False])  # the first by another end than EOS
    return given, Odd(tokens, all_of, response, ended, {"k1": numbers, "own": junk}, junk[:, :3])


def same_bits(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in leaves
    )


@pytest.fixture
def odd_one(tokenizer, tmp_path):
    """A record of it, how it is read, and what was recorded."""
    given, x = odd(tokenizer, np.random.default_rng(0))
    decoder = stages.described(SHAPE, tokenizer, FORMAT).decoder
    model = Trained(decoder, tokenizer, FORMAT)
    scores = np.float32([[0.1, -2.5, 1e-7, np.finfo(np.float32).max], [1, 2, 3, -0.0]])
    earned = {"good": scores[0], "short": np.float32([1, np.nan, 0, 2])}
    talk = Messages([{"role": "user", "content": "Hi\u2028\ud800"}, {"role": "tool", "content": [1]}])
    prompts = [Prompt(talk), *PROMPTS[:3]]
    numbers = {"score": PerAnswer(scores[1]), "advantage": PerAnswer(x.kl["own"])}
    path = write_rollouts(tmp_path, 7, prompts, given, Drawn(x, scores, numbers), earned, model)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x)
    how = Reading(shapes, tokenizer, decoder.vocab_size, 2)

    def read(given=given, how=how):
        return read_drawn(Recorded(tmp_path, {}), 7, prompts, given, how)

    return SimpleNamespace(path=path, read=read, x=x, scores=scores, given=given, how=how, model=model, prompts=prompts)


def test_every_number_comes_back_to_the_bit(odd_one):
    back = odd_one.read()
    assert same_bits(back.x, odd_one.x) and same_bits(back.scores, odd_one.scores)
    assert odd_one.path.name == "000007.jsonl"
    rows = [json.loads(line) for line in odd_one.path.read_text().split("\n")[:-1]]
    assert rows[0]["messages"] == [{"role": "user", "content": "Hi\u2028\ud800"}, {"role": "tool", "content": [1]}]
    assert "messages" not in rows[1] and rows[1]["reward"] == {"good": -2.5, "short": None}
    assert [row["ended"] for row in rows] == ["length", "eos", "length", "length"]
    assert rows[0]["rollout"]["ended"] is True and "ended" not in rows[1]["rollout"]
    assert rows[0]["kl"]["k1"][1:3] == ["inf", "-inf"]


def test_the_highest_the_median_and_the_lowest_are_shown(odd_one):
    scores = np.float32([[2, 0, 1, 3]])
    shown = few(odd_one.prompts, Drawn(odd_one.x, scores, {}), {"good": scores[0]}, odd_one.model)
    assert [row["good"] for row in shown] == [3, 1, 0]
    assert [row["ended"] for row in shown] == ["length", "length", "eos"]
    assert shown[1]["prompt"] == by_role(PROMPTS[1].conversation)


def edited(path, at, edit):
    """The record with another line."""
    lines = path.read_text().split("\n")
    row = json.loads(lines[at])
    edit(row)
    lines[at] = json.dumps(row)
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda row: row["ids"].__setitem__(0, 100_000),
            ["line 2 has the token 100000, and the model a vocabulary of"],
        ),
        (lambda row: row["ids"].__setitem__(0, -1), ["line 2 has the token -1"]),
        (lambda row: row.update(ids=[1.5]), ["line 2: ids is [1.5]"]),
        (lambda row: row.update(ids=[3] * 7), ["line 2: ids is", "not 1 to 6 tokens"]),
        (lambda row: row.update(ids=[]), ["line 2: ids is []", "not 1 to 6 tokens"]),
        (lambda row: row.pop("ids"), ["line 2: ids is None"]),
        (lambda row: row["logp"].pop(), ["line 2: logp is [", "of an answer of 3 tokens"]),
        (lambda row: row.update(logp=[-1, 0.5, -1]), ["line 2: logp has 0.5, which is no log-probability"]),
        (lambda row: row.update(logp=[-1, "-inf", -1]), ["line 2: logp has -inf, which is no log-probability"]),
        (lambda row: row.update(logp=[-1, -1e39, -1]), ["line 2: logp is [-1, -1e+39, -1]"]),
        (lambda row: row["kl"].update(k1=[[], {}, 1]), ["line 2: kl.k1 is"]),
        (lambda row: row.update(scores=[1, 1e39]), ["line 2: scores is [1, 1e+39]"]),
        (lambda row: row.update(scores=[1, 10**400]), ["line 2: scores is [1, 1000"]),
        (lambda row: row.update(scores=[1, "inf"]), ["line 2: scores is [1, 'inf']"]),
        (lambda row: row.update(reward=None), ["line 2: reward is None, which is no object of numbers"]),
        (lambda row: row.update(reward=[1]), ["line 2: reward is [1], which"]),
        (lambda row: row.update(reward="x"), ["line 2: reward is 'x', which"]),
        (lambda row: row.update(reward={"good": "x"}), ["line 2: reward is {'good': 'x'}, which"]),
        (lambda row: row.update(rollout=3), ["line 2: rollout is 3, which is no object"]),
        (lambda row: row.update(rollout=None), ["line 2: rollout is None, which is no object"]),
        (lambda row: row.pop("logp"), ["line 2: logp is missing"]),
        (lambda row: row["kl"].update(k1=[1, True, 2]), ["line 2: kl.k1 is [1, True, 2]"]),
        (lambda row: row["kl"].update(k1=["one", 1, 2]), ["line 2: kl.k1 is"]),
        (lambda row: row["rollout"].update({"y.support": "e"}), ["line 2: rollout.y.support is 'e'"]),
        (
            lambda row: row["rollout"].update({"y.turn": 1}),
            ["line 2 has y.turn, which this run's sample does not give"],
        ),
        (lambda row: row.update(scores=[1]), ["line 2: scores is [1], and this run has 2 for each answer"]),
        (lambda row: row.update(scores=[1, None]), ["line 2: scores is [1, None]"]),
        (lambda row: row["prompt_ids"].append(3), ["line 2 answers another prompt than this run asks there"]),
    ],
)
def test_a_damaged_line_is_one_sentence(odd_one, edit, words):
    edited(odd_one.path, 1, edit)
    refusal(odd_one.read, "000007.jsonl", *words)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "is damaged; copy the file anew"),
        (lambda text: text[:-1], "line 4 is damaged"),
        (lambda text: "[1]\n" + text, "line 1 is damaged"),
        (lambda text: "[" * 100_000 + text, "line 1 is damaged"),
        (lambda text: text[: text.index("\n") + 1], "holds 1 answers where 4 were recorded"),
    ],
)
def test_a_torn_record_is_one_sentence(odd_one, damage, words):
    odd_one.path.write_text(damage(odd_one.path.read_text()))
    refusal(odd_one.read, "000007.jsonl", words)


@pytest.mark.parametrize(
    "text", ['{"name": "", ', '{"name": "a", "more": ' + '{"a":' * 2000 + "1" + "}" * 2000 + ", ", "[" * 100_000]
)
def test_an_origin_that_is_damaged_is_one_sentence(text, tmp_path):
    (tmp_path / "origin.json").write_text(text + '"settings": {}, "inputs": {}, "model": {}}')
    refusal(lambda: recorded(tmp_path), "origin.json is damaged; copy it anew")


def test_only_files_that_are_named_like_iterations_are_some(odd_one):
    for name in ("²³.jsonl", "٠٠٠٠٠٣.jsonl", "8.jsonl", "notes.jsonl"):
        (odd_one.path.parent / name).write_text("")
    assert Recorded(odd_one.path.parent, {}).steps() == [7]


# What cannot be replayed.


def test_rollouts_of_another_run_are_refused_before_anything_is_made(runs):
    top_p, replay = replace(C, top_p=0.9), runs.first.folder

    def refused(*words, **given):
        refusal(lambda: runs.policy("refused/ppo", **{"c": top_p, "replay": replay, **given}), *words)
        assert not (runs.out / "refused" / "ppo" / "checkpoints").exists()

    refused("recorded with another ppo.top_p (0.9, not 1.0); set it back", c=C)
    refused("recorded with another ppo.temperature (1.0, not 0.5)", c=replace(top_p, temperature=0.5))
    refused("recorded with another ppo.batch (4, not 2)", c=replace(top_p, batch=2))
    refused("recorded with another seed (0, not 1)", run=replace(RUN, seed=1))
    refused("recorded with another answers (1, not 2)", answers=2)
    refused("recorded with another prompts;", prompts=PROMPTS[:5])
    refused("recorded with another start;", start=replace(runs.start, sha256="other"))
    refused("000003.jsonl is missing", "or set ppo.iterations to 2", c=replace(top_p, iterations=3))
    refused(
        "nowhere/rollouts holds no rollouts; record them with runtime.record_every = 1", replay=runs.out / "nowhere"
    )

    def talk(*given):
        raise AssertionError("a replay speaks with nobody")

    talks = {"environment": stages.Environment(lambda row: talk(), lambda messages, row: talk())}
    refused("these rollouts are single answers; leave the environment out", **talks, iteration=PPO_PTX)
    torn = runs.out / "torn"
    shutil.copytree(replay, torn)
    path = torn / "rollouts" / "000002.jsonl"
    path.write_text(path.read_text()[:-100])
    refused("000002.jsonl, line 4 is damaged", replay=torn)
    (torn / "rollouts" / "origin.json").write_text("{")
    refused("origin.json is damaged", replay=torn)


def test_what_says_how_to_learn_may_differ_which_is_said(runs, repeated, capsys):
    c = replace(C, top_p=0.9, iterations=1, lr=2e-2)
    again = partial(runs.policy, "learns/otherwise")
    again(c=c, replay=runs.first.folder)
    assert "learns otherwise than that run: another ppo.lr\n" in capsys.readouterr().err
    # The same folder goes on with the same rollouts, and refuses others.
    changed = runs.out / "changed"
    shutil.copytree(runs.first.folder, changed)
    again(c=replace(c, iterations=2), replay=runs.first.folder)
    edited(changed / "rollouts" / "000001.jsonl", 0, lambda row: row.update(scores=[5.0]))
    refusal(lambda: again(c=replace(c, iterations=2), replay=changed), "made from another rollouts")


# The page.


def test_the_page_has_all_answers_that_were_recorded(runs, tmp_path):
    at, line = str(runs.first.folder), [str(ROOT / "configs/look.toml"), "--out", str(tmp_path)]
    path = look.look(begin(look.Config, look.__file__, "", [*line, "--look.at", at]))
    page = path.read_text(encoding="utf-8")
    text = page.split('id="data">')[1].split("</script>")[0]
    data = json.loads(text)
    rows = [row for step in (1, 2) for row in recorded(at).rows(step)]
    assert [(a[0], data["prompts"][a[1]], a[7]) for a in data["answers"]] == [
        (row["step"], by_role(row["prompt"]), row["answer"]) for row in rows
    ]
    assert [q["name"] for q in data["quantities"]] == ["KL", "exact KL", "value", "advantage", "log π"]
    assert data["answers"][0][2] == rows[0]["score"] and data["answers"][0][3] == rows[0]["reward"]
    assert data["answers"][0][6][3] == pytest.approx(rows[0]["advantage"], abs=1e-4)
    few_of = begin(look.Config, look.__file__, "", [*line, "--look.at", at, "--look.answers", "1"])
    assert look.look(few_of).read_text(encoding="utf-8").count("<option>") == 2  # the first and the last stay
