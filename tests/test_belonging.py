"""Models that do not belong together, rankings and labelers that say nothing, and what an evaluation is made from: each is
noticed before anything is read or computed. Nothing is trained here."""

import json
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments import best_of_n as best_of_n_program
from experiments import dpo, grpo, inspect_tokens, ppo_ptx
from rlhf_jax import stages
from rlhf_jax.data import Demonstration, Prompt, Ranking, prompt_text
from rlhf_jax.errors import InputError
from rlhf_jax.evals import Estimate
from rlhf_jax.labelers import Habits
from rlhf_jax.stages import AnswersToRank, CandidateRows, Candidates, Evaluate, Ranker, Trained
from rlhf_jax.steps import text_step
from tests.refusals import refusal

pytestmark = pytest.mark.usefixtures("types_are_not_checked")
SHAPE = stages.Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=32)
FORMAT = stages.Format(prompt_tokens=24, answer_tokens=16)
PPO = stages.PPO(iterations=1, batch=4, minibatches=2).plain()
RUN = stages.Run(seed=0, runtime=stages.Runtime(batch=4))
P = prompt_text("Name a fruit.")
PROMPTS = [Prompt(P), Prompt(prompt_text("Name a dog."))]
ROWS = stages.Parts([Demonstration(P, "A pear.")])
PAIR = Ranking(P, ("A pear.", "A dog."), (1, 2))
REPORT, AGREEMENT = (sys.modules[f"rlhf_jax.stages.{name}"] for name in ("report", "agreement"))


@pytest.fixture
def models(tokenizer, tmp_path):
    """Models whose folders are not there, so that to read one is another error than those below."""

    def model(name, scalar=False, tokenizer=tokenizer, format=FORMAT, shape=SHAPE) -> Trained:
        of = stages.described(shape, tokenizer, format)
        return Trained(of.decoder, tokenizer, format, folder=tmp_path / name, sha256=name, step=1, scalar=scalar)

    other, short = replace(tokenizer, sha256="0" * 64), stages.Format(prompt_tokens=12, answer_tokens=16)
    return SimpleNamespace(
        make=model,
        lm=model("sft"),
        reward=model("reward_model", scalar=True),
        foreign=model("foreign", scalar=True, tokenizer=other),
        short=model("short", scalar=True, format=short),
        turning=model("turning", scalar=True, format=short, shape=replace(SHAPE, position="rope")),
    )


@pytest.fixture(scope="module")
def world():
    return stages.from_world(stages.World(40, prompts=240, demonstrations=4, labelers=2, heldout_labelers=1), 0)


# Models.


def test_a_reward_model_is_no_start(models, tmp_path):
    reward, out = models.reward, tmp_path / "out"
    calls = {
        "policy": lambda: stages.policy(out, reward, reward, stages.Parts(PROMPTS), PPO, RUN),
        "supervised": lambda: stages.supervised(out, reward, ROWS, run=RUN),
        "preference": lambda: stages.preference(out, replace(reward, lora=stages.Lora()), [PAIR], run=RUN),
        "reward_model": lambda: stages.reward_model(out, reward, [PAIR], run=RUN),
        "sample_answers": lambda: stages.sample_answers(out, reward, PROMPTS, run=RUN),
        "pretrain": lambda: stages.pretrain(out, reward, ["text"], stages.Pretrain(steps=1), RUN),
        "choose_epoch": lambda: stages.choose_epoch(reward, reward, PROMPTS, RUN),
        "rl_loop's": lambda: stages.open_stage(out, 1, reward, {}, {}, {"step": text_step}, RUN, part="ema"),
    }
    for name, call in calls.items():
        assert refusal(call) == f"{reward.folder} is a reward model; start from a language model", name
    assert not out.exists()
    stages.open_stage(out, 1, reward, {}, {}, {}, RUN, scalar=True)  # a stage that makes one


def takers(models, tmp_path, monkeypatch):
    """Every call that scores by a reward model, given one."""

    def best_of_n(reward):
        found = {"start": models.lm, "reward": reward}
        monkeypatch.setattr(best_of_n_program, "model_in", lambda name, *more: found[name])
        monkeypatch.setattr(best_of_n_program, "data_of", lambda *given: data)
        monkeypatch.setattr(best_of_n_program, "rewards_in", lambda name, *more: stages.Rewards((found[name],)))
        given = SimpleNamespace(start="start", reward="reward", weights="")
        where = {"format": None, "memory": None, "files": None, "world": None}
        c = SimpleNamespace(given=given, runtime=RUN.runtime, seed=0, **where)
        return best_of_n_program.best_of_n(c)

    data = stages.DataSets(stages.Parts(()), ROWS, stages.Parts((), (), PROMPTS))
    five = dict.fromkeys(("base", "sft", "ppo", "ppo_ptx", "rl_init"), models.lm)
    out, lm = tmp_path / "out", models.lm
    policy = partial(stages.policy, out, lm, prompts=stages.Parts(PROMPTS), settings=PPO, run=RUN)
    return {
        "policy": lambda reward: policy(reward=reward),
        "ensemble": lambda reward: policy(reward=[models.reward, reward]),
        "value": lambda value: policy(reward=models.reward, value=value),
        "choose_epoch": lambda reward: stages.choose_epoch(lm, reward, PROMPTS, RUN),
        "best_of_n": best_of_n,
        "compare": lambda reward: stages.compare(out, "mine", lm, [], lm, data, reward),
        "evaluate": lambda reward: stages.evaluate(out, five, data, reward, lm, AnswersToRank()),
    }


def test_what_scores_is_a_reward_model_with_the_tokenizer_and_the_context_of_what_is_scored(
    models, tmp_path, monkeypatch
):
    lm = models.lm
    for name, call in takers(models, tmp_path, monkeypatch).items():
        words = f"{lm.folder} is a language model; give a reward model"
        role = {"value": "value network"}.get(name, "reward")
        assert refusal(lambda call=call: call(lm), words).endswith(f"as the {role}"), name
        if name in ("value", "choose_epoch", "evaluate"):  # for others a foreign one reads text
            sentence = f"{models.foreign.folder} and {lm.folder} have different tokenizers; train them from one"
            assert refusal(lambda call=call: call(models.foreign)) == sentence, name
        if name != "ensemble":  # of several shapes, which read text
            words = f"{models.short.folder} has positions for 28 tokens and {lm.folder} has texts of 40; train it with"
            refusal(lambda call=call: call(models.short), words)
    assert not (tmp_path / "out").exists()
    stages.require_belonging(lm, [models.reward, models.turning], models.turning)  # rotary positions have no end


def test_models_that_are_compared_belong_to_the_reward_model(models, tmp_path, world):
    lm, base = models.lm, models.make("base", tokenizer=models.foreign.tokenizer)
    files = stages.DataSets(stages.Parts(()), ROWS, stages.Parts((), (), PROMPTS))
    compare = partial(stages.compare, tmp_path / "out", "mine", lm)
    words = "reward_model and", "have different tokenizers"
    refusal(lambda: compare([base], lm, files, models.reward), *words)
    refusal(lambda: compare([], base, world, models.reward), *words)  # of whom the KL is taken
    refusal(lambda: compare([models.reward], lm, world, models.reward), "is a reward model")
    for odd in ("base", "rl_init"):
        five = dict.fromkeys(("base", "sft", "ppo", "ppo_ptx", "rl_init"), lm) | {odd: base}
        evaluate = partial(stages.evaluate, tmp_path, five, files, models.reward)
        refusal(lambda evaluate=evaluate: evaluate(lm, AnswersToRank()), *words)


@pytest.mark.parametrize("reward", [[], None, "runs/tiny/reward_model", 3, ["runs/tiny/reward_model"], {}])
def test_what_is_no_reward_is_said(models, tmp_path, reward):
    call = partial(stages.policy, tmp_path / "out", models.lm, reward, stages.Parts(PROMPTS), PPO, RUN)
    assert refusal(call) == f"the reward is {reward!r}; give a reward model, several, or a function"


def test_what_is_no_row_is_said(models, tmp_path):
    call = partial(stages.policy, tmp_path / "out", models.lm, models.reward, settings=PPO, run=RUN)
    refusal(
        lambda: call(prompts=[PROMPTS[0], {"prompt": "Hi"}]), "row 2, {'prompt': 'Hi'}, is not a prompt: give Prompt("
    )
    refusal(
        lambda: stages.supervised(tmp_path / "sft", models.lm, [("a", "b")]),
        "row 1, ('a', 'b'), is not a demonstration",
    )


def test_what_is_no_model_is_said(models, tmp_path):
    words = "'runs/tiny/sft' is no trained model; give one, such as stages.trained(folder)"
    refusal(lambda: stages.supervised(tmp_path / "out", "runs/tiny/sft", ROWS), words)
    call = partial(stages.policy, tmp_path / "out", models.lm, models.reward, stages.Parts(PROMPTS), PPO, RUN)
    refusal(lambda: call(value="runs/tiny/sft"), words)


# Rankings.


THREE = ("a0.", "a1.", "a2.")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (Ranking(P, THREE, (0, 1, 2)), "answer 1 has the rank 0: use whole numbers from 1 on"),
        (Ranking(P, THREE, (1, float("nan"), 2)), "answer 2 has the rank nan"),
        (Ranking(P, THREE, (1, 2.5, 3)), "answer 2 has the rank 2.5"),
        (Ranking(P, THREE, (True, 2, 3)), "answer 1 has the rank True"),
        (Ranking(P, THREE, np.array([1.5, 2, 3])), "answer 1 has the rank np.float64(1.5)"),
        (Ranking(P, THREE, (1, 2)), "there are 3 answers and 2 ranks: give each answer one"),
        (Ranking(P, THREE, None), "the ranks are None"),
        (Ranking(P, ("a", "", "b"), (1, 2, 3)), "answer 2 is empty"),
        (Ranking(P, ("a", "b", "a"), (1, 2, 3)), "one and the same answer has two ranks"),
        (Ranking(P, ("a", None), (1, 2)), "answer 2 is no text"),
        (Ranking(P, "ab", (1, 2)), "the answers are a str"),
        (Ranking(None, THREE, (1, 2, 3)), "the prompt is no text"),
        ((P, THREE, (1, 2, 3)), "a tuple is no ranking"),
    ],
)
def test_a_broken_row_is_named_by_its_number(models, tmp_path, row, words):
    for stage in (stages.reward_model, stages.preference):
        refusal(
            lambda stage=stage: stage(tmp_path / "out", models.lm, [PAIR, PAIR, row], run=RUN), f"ranking 3: {words}"
        )
    assert not (tmp_path / "out").exists()


def test_rows_without_a_pair_are_left_out_and_said(models, tmp_path, capsys):
    empty = [Ranking(P, THREE, (2, 2, 2)), Ranking(P, ("a",), (1,)), Ranking(P, (), ())]
    for stage in (stages.reward_model, stages.preference):
        words = "no ranking is left to learn from"
        refusal(lambda stage=stage: stage(tmp_path / "out", models.lm, empty, run=RUN), words)
        refusal(lambda stage=stage: stage(tmp_path / "out", models.lm, [], run=RUN), words)
        capsys.readouterr()
        with pytest.raises(InputError):  # the model is not there
            stage(tmp_path / stage.__name__, models.lm, [PAIR, *empty], run=RUN)
        assert "3 of 4 rankings have no answer above another and are left out" in capsys.readouterr().err


def test_numpy_s_whole_numbers_are_ranks():
    checked = sys.modules["rlhf_jax.stages.training"].checked_rankings
    rows = [Ranking(P, ["a", "b"], np.array([2, 1])), Ranking(P, ("a", "b"), (np.int32(2), 1))]
    assert checked(rows) == [Ranking(P, ("a", "b"), (2, 1))] * 2
    assert {type(rank) for row in checked(rows) for rank in row.ranks} == {int}


# Labelers.


def ask(folder, labelers, count=8) -> Any:
    rows = [Candidates(Prompt(prompt_text(f"Question {i}?"), user=f"user {i}"), THREE) for i in range(count)]
    return stages.ask(folder, CandidateRows(rows, "0" * 64), labelers, RUN)


def forwards(prompt, answers):
    return range(1, len(answers) + 1)


def backwards(prompt, answers):
    return np.arange(len(answers), 0, -1)


def raises(prompt, answers):
    raise ValueError("not\ntoday")


def test_labelers_have_names_of_their_own_and_there_is_one(tmp_path):
    refusal(lambda: ask(tmp_path / "out", []), "there is no labeler", "give at least one")
    words = "two labelers are called Ann; give each a name of their own"
    refusal(lambda: ask(tmp_path / "out", [Ranker("Ann", forwards), Ranker("Ann", backwards)]), words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rank", "words"),
    [
        (raises, "labeler Ann raised ValueError: not today (test_belonging.py, line"),
        (
            lambda prompt, answers: (1, 2),
            "labeler Ann gave (1, 2) for 3 answers; let them give each a whole number from 1 on",
        ),
        (lambda prompt, answers: (0, 1, 2), "labeler Ann gave (0, 1, 2) for 3 answers"),
        (lambda prompt, answers: (1.0, 2.5, 3.0), "labeler Ann gave (1.0, 2.5, 3.0) for 3 answers"),
        (lambda prompt, answers: None, "labeler Ann gave None for 3 answers"),
    ],
)
def test_a_labeler_that_gives_no_ranks_is_named(tmp_path, rank, words):
    refusal(lambda: ask(tmp_path / "out", [Ranker("Ann", rank)]), words)
    assert not (tmp_path / "out").exists()


def test_numpy_s_ranks_are_taken_and_the_order_of_labelers_is_recorded(tmp_path):
    ann, bob = Ranker("Ann", forwards), Ranker("Bob", backwards)
    found = ask(tmp_path / "one", [ann, bob])
    assert {(row.labeler, row.ranks) for row in found} == {("Ann", (1, 2, 3)), ("Bob", (3, 2, 1))}
    assert [(row.prompt, row.user) for row in found] == [(prompt_text(f"Question {i}?"), f"user {i}") for i in range(8)]
    assert ask(tmp_path / "one", [ann, bob]) == found != ask(tmp_path / "two", [bob, ann])
    refusal(lambda: ask(tmp_path / "one", [bob, ann]), "another labelers (['Ann', 'Bob'], not ['Bob', 'Ann'])")


# Comparisons and evaluations.


@pytest.fixture
def computed(monkeypatch):
    """In the place of what compares models: the calls of `judge_of`, and what `helpful` was given."""
    seen = SimpleNamespace(times=0, rivals=None, written=None)

    def judge_of(data, model, reward, c, *talk):
        seen.times += 1
        return SimpleNamespace(reward=reward, questions=None, prompts=[], name="nobody", reward_name="")

    def helpful(judge, written, name, others=()):
        seen.rivals, seen.written = list(others), dict(written)
        return {"reward": Estimate(float(seen.times), None, None, 1)}

    def page(out, *rest):
        (out / "report.html").write_text("page")

    monkeypatch.setattr(REPORT, "judge_of", judge_of)
    monkeypatch.setattr(REPORT, "helpful", helpful)
    monkeypatch.setattr(REPORT, "page", page)
    monkeypatch.setattr(REPORT, "loaded", lambda model: model)
    monkeypatch.setattr(REPORT, "write", lambda model, *rest: model)
    for name in ("distance", "alignment_tax", "truthful", "harmless", "agreement_on"):
        monkeypatch.setattr(REPORT, name, lambda *rest: {})
    return seen


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["sft", "runs/base"], ["sft", "base"]),
        (["arms/first/policy", "arms/second/policy"], ["first/policy", "second/policy"]),
        (["a/x/policy", "b/x/policy", "a/sft"], ["a/x/policy", "b/x/policy", "sft"]),
        (["policy", "arms/policy"], ["{tmp}/policy", "arms/policy"]),
        (["arms/mine", "sft"], ["arms/mine", "sft"]),
        (["sft", "sft"], ["sft"]),
    ],
)
def test_rivals_are_told_apart_by_their_paths(models, tmp_path, computed, world, folders, names):
    others = [models.make(folder) for folder in folders]
    names = [name.format(tmp=tmp_path.name) for name in names]
    stages.compare(tmp_path / "mine.json", "mine", models.lm, others, models.lm, world, models.reward)
    assert computed.rivals == names
    rivals = dict(zip(folders, others, strict=True)).values()
    assert computed.written == {**dict(zip(names, rivals, strict=True)), "mine": models.lm}


def test_checkpoints_of_one_folder_are_told_apart_by_their_steps(models, tmp_path, computed, world):
    others = [replace(models.lm, step=step) for step in (1, 2)]
    stages.compare(tmp_path / "x.json", "sft step 2", models.lm, others, models.lm, world, models.reward)
    assert computed.rivals == ["sft step 1", f"{tmp_path.name}/sft step 2"]


def test_each_of_several_models_stands_against_those_before_it(models, tmp_path, computed, world, monkeypatch, capsys):
    rivals, distances = {}, []
    helpful = REPORT.helpful
    monkeypatch.setattr(
        REPORT,
        "helpful",
        lambda judge, written, name, others: rivals.update({name: others}) or helpful(judge, written, name),
    )
    monkeypatch.setattr(
        REPORT, "distance", lambda this, written, start, *rest: distances.append((this, start, rest[0])) or {}
    )
    measured = []
    monkeypatch.setattr(
        REPORT,
        "agreement_on",
        lambda *given: measured.append(given[1:3]) or {"accuracy/gold": Estimate(0.7, None, None, 9)},
    )
    sft, one, two, start = (models.make(name) for name in ("sft", "policy_1", "policy_2", "rl_init"))
    named = {"sft": sft, "round_1": one, "round_2": two}
    given = (world, models.reward, sft, AnswersToRank(), Evaluate(), RUN)
    found = stages.evaluate_in_turn(tmp_path, named, start, *given, about={"seed": 3})
    assert rivals == {"sft": [], "round_1": ["sft"], "round_2": ["sft", "round_1"]} and computed.times == 1
    assert distances == [(each, start, "rl_init") for each in named.values()] and measured == [(models.reward, sft)]
    as_json = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(as_json) == list(found) == ["sft", "round_1", "round_2", "reward_model"]
    assert json.loads((tmp_path / "evaluated.json").read_text()) == {"config": {"seed": 3}}
    said = capsys.readouterr().out
    assert "round_2" in said and "70" in said
    foreign = replace(sft, tokenizer=replace(sft.tokenizer, sha256="0" * 64))
    words = "different tokenizers"
    refusal(lambda: stages.evaluate_in_turn(tmp_path, {"sft": foreign}, start, *given), words)


def changed_truth(world):
    held = stages.from_world(stages.World(40, prompts=240, demonstrations=4, labelers=2, heldout_labelers=2), 0)
    return replace(world, truth=held.truth)


def test_an_evaluation_is_made_again_where_what_it_is_made_from_changed_or_a_file_is_gone(
    models, tmp_path, computed, world, capsys
):
    five = dict.fromkeys(("base", "sft", "ppo", "ppo_ptx", "rl_init"), models.lm)
    files = replace(world, truth=None, rankings=stages.Parts([PAIR], [PAIR], [PAIR]))
    given = {"data": files, "writer": models.lm, "answers": AnswersToRank(), "settings": Evaluate(), "run": RUN}

    def times(**change):
        evaluate = partial(stages.evaluate, tmp_path, five, reward=models.reward)
        before = computed.times
        found = evaluate(**given | change)
        assert found["sft"]["reward"].mean == computed.times
        return computed.times - before

    other, truth = PAIR._replace(answers=("A plum.", "A dog.")), replace(world.truth)
    changes = {
        "settings": {"settings": Evaluate(temperature=0.5)},
        "answers": {"answers": AnswersToRank(most=8)},
        "seed": {"run": replace(RUN, seed=1)},
        "writer": {"writer": models.make("another")},
        "truth": {"data": replace(files, truth=truth)},
        "labelers": {"data": replace(changed_truth(world), rankings=files.rankings)},
        "valid rankings": {"data": replace(files, rankings=stages.Parts([PAIR], [other], [PAIR]))},
        "test rankings": {"data": replace(files, rankings=stages.Parts([PAIR], [PAIR], [other]))},
    }
    assert (times(), times()) == (1, 0)
    for name, change in changes.items():
        assert (times(**change), times(**change)) == (1, 0), name
        assert (times(), times()) == (1, 0), name
    times(**changes["truth"])
    assert len(truth.asked) > 0  # which it keeps
    assert times(**changes["truth"]) == 0
    for name in ("evaluation.json", "evaluated.json", "samples.json", "report.html"):
        (tmp_path / name).unlink()
        assert (times(**changes["truth"]), times(**changes["truth"])) == (1, 0), name
    for name in ("evaluation.json", "evaluated.json"):
        for torn in ("", '{"sft": {"rew', "[]", '{"sft": 3}', "\xff"):
            (tmp_path / name).write_text(torn, encoding="latin-1")
            assert (times(**changes["truth"]), times(**changes["truth"])) == (1, 0), (name, torn)


def test_an_evaluation_that_is_stopped_as_it_writes_is_not_taken_for_the_one_before(
    models, tmp_path, computed, world, monkeypatch
):
    five = dict.fromkeys(("base", "sft", "ppo", "ppo_ptx", "rl_init"), models.lm)
    evaluate = partial(stages.evaluate, tmp_path, five, world, models.reward, models.lm, AnswersToRank())
    evaluate()
    written = REPORT.page

    def stopped(*rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(REPORT, "page", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Evaluate(temperature=0.5))
    monkeypatch.setattr(REPORT, "page", written)
    assert evaluate()["sft"]["reward"].mean == computed.times == 3


# Nothing to answer, nothing to compare.


def test_without_prompts_nothing_begins(models, tmp_path, world):
    lm, reward, long = models.lm, models.reward, [Prompt(prompt_text("many words " * 40))]
    five = dict.fromkeys(("base", "sft", "ppo", "ppo_ptx", "rl_init"), lm)
    calls = (
        lambda prompts, data: stages.sample_answers(tmp_path / "out", lm, prompts, run=RUN),
        lambda prompts, data: stages.compare(tmp_path / "out", "mine", lm, [], lm, data, reward),
        lambda prompts, data: stages.evaluate(tmp_path / "out", five, data, reward, lm, AnswersToRank()),
        lambda prompts, data: stages.evaluate_in_turn(tmp_path / "out", five, lm, data, reward, lm, AnswersToRank()),
    )
    for prompts in ([], long):
        data = stages.DataSets(stages.Parts(()), ROWS, stages.Parts((), (), prompts))
        for call in calls:
            words = f"none of {len(prompts)} prompts has at most format.prompt_tokens = 24 tokens; give some"
            refusal(partial(call, prompts, data), words)
    refusal(lambda: stages.choose_epoch(lm, reward, long, RUN), words)
    refusal(lambda: stages.choose_epoch(lm, reward, [], RUN), "no epoch has a validation loss")
    assert not (tmp_path / "out").exists()


def agreement_of(data, models, monkeypatch, answered=True):
    """With the right answers, a half of them and a wrong one to each test prompt, and scores by chance."""

    def drawn(model, prompts, *rest):
        right = [" ".join(sorted(data.truth.asked[p.text].wanted)) for p in prompts]
        return [(each, each[: len(each) // 2], "No.") if answered else () for each in right]

    def scores(reward, rows, run):
        return np.random.default_rng(0).normal(size=rows.ranks.shape).astype(np.float32)

    monkeypatch.setattr(AGREEMENT, "draw_answers", drawn)
    monkeypatch.setattr(AGREEMENT, "reward_of", scores)
    long = stages.Format(prompt_tokens=200, answer_tokens=300)
    reward, writer = models.make("reward", scalar=True, format=long), models.make("writer", format=long)
    return stages.agreement_on(data, stages.Loaded(reward, None), writer, AnswersToRank(), Evaluate(), RUN)


def test_figures_without_a_pair_are_left_out_and_said(models, monkeypatch, world, capsys):
    assert len(world.truth.heldout_labelers) == 1
    found = agreement_of(world, models, monkeypatch)
    assert found.keys() == {
        "accuracy/train_labelers", "agreement/train_labelers", "accuracy/heldout_labelers", "accuracy/gold"
    }  # fmt: skip
    assert "no agreement/heldout_labelers" in capsys.readouterr().err
    percent = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    figures = dict.fromkeys(("win_rate/vs_sft", "win_rate/vs_base", "pretrain/loss", "kl/from_rl_init"), percent)
    five = dict.fromkeys(("base", "sft", "ppo", "ppo_ptx", "rl_init"), figures)
    judge = SimpleNamespace(name="nobody")
    said = REPORT.findings(judge, {**five, "reward_model": dict.fromkeys(found, percent)})
    assert said[-1].endswith("as labelers do who ranked nothing for training.")

    assert agreement_of(world, models, monkeypatch, answered=False) == {}
    assert "too few different answers" in capsys.readouterr().err
    assert len(REPORT.findings(judge, {**five, "reward_model": {}})) == len(said) - 1

    files = replace(world, truth=None, rankings=stages.Parts([PAIR], [], [PAIR]))
    assert agreement_of(files, models, monkeypatch).keys() == {"accuracy/test"}
    assert "no ranking of a valid prompt fits" in capsys.readouterr().err
    json.dumps({name: figure._asdict() for name, figure in found.items()})


def test_who_abstains_is_compared_with_nobody(models, monkeypatch, world):
    """Half of the labelers skip everything: the figures are the others'."""
    truth = world.truth
    assert len(truth.labelers) == 2
    lazy = [truth.labelers[1]._replace(name="lazy", habits=Habits(abstains=1.0))]
    alone = replace(world, truth=replace(truth, labelers=truth.labelers[:1]))
    more = replace(world, truth=replace(truth, labelers=truth.labelers[:1] + lazy))
    found = [agreement_of(data, models, monkeypatch) for data in (alone, more)]
    assert found[0] == found[1] and "accuracy/train_labelers" in found[0]


# The world behind given models.


@pytest.mark.parametrize("program", [best_of_n_program, dpo, grpo, inspect_tokens, ppo_ptx], ids=lambda p: p.__name__)
def test_a_program_that_is_given_models_asks_for_the_data_behind_them(program, models, monkeypatch):
    """And not for those of its own seed, of which other prompts are held out."""

    class AskedError(Exception):
        pass

    def data_of(model, settings, seed, **how):
        raise AskedError(model)

    found = {"start": models.lm, "policy": models.lm, "reward": models.reward}
    monkeypatch.setattr(program, "data_of", data_of)
    for name in ("trained", "model_in"):
        if hasattr(program, name):
            monkeypatch.setattr(program, name, lambda folder, *more: found[folder.rpartition("/")[2]])
    if hasattr(program, "trained_in"):
        monkeypatch.setattr(program, "trained_in", lambda folders, *more: [])
    given = {name: name for name in program.Given.__annotations__ if name in found}
    config = program.Config(out="unused", seed=1, given=replace(program.Given(), **given))
    main = getattr(program, "main", None) or program.inspect_tokens
    with pytest.raises(AskedError) as asked:
        main(config)
    assert asked.value.args == (models.lm,)
