"""What a researcher does in a repository of their own: studies of a page, on rlhf_jax alone; and how folders take it."""

import argparse
import ast
import contextlib
import importlib.util
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import export as export_program
from experiments import rounds
from experiments.seeds import seeds
from rlhf_jax import runtime, stages, steps
from rlhf_jax.data import (
    Demonstration,
    encode_prompts,
    load_tokenizer,
    read_demonstrations,
    read_prompts,
    read_rankings,
    write_rankings,
)
from rlhf_jax.equations import mean, nothing_seen
from rlhf_jax.errors import DivergenceError, InputError
from rlhf_jax.models import LanguageModel, ScalarModel, load_pretrained
from rlhf_jax.runtime import Checkpoints, read_metrics, tree_hash
from rlhf_jax.stages import begin, policy, trained, with_lora
from rlhf_jax.stages.saved import keep_tokenizer
from rlhf_jax.types import Experience, Response
from tests.refusals import refusal
from tests.silence import silence

ROOT = Path(__file__).parents[1]
STUDIES = Path(__file__).parent / "studies"
POLICY = sys.modules["rlhf_jax.stages.policy"]  # `stages.policy` is the function


def loaded(path, name=""):
    """A file as a module, as `python FILE` has it."""
    spec = importlib.util.spec_from_file_location(name or path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # by which the hash of a function finds what it names
    spec.loader.exec_module(module)
    return module


two_arms, changed_loss = (loaded(STUDIES / f"{name}.py") for name in ("two_arms", "changed_loss"))
RUN, PPO = two_arms.RUN, two_arms.PPO
EACH = replace(RUN, runtime=replace(RUN.runtime, save_every=1, keep=9))


@dataclass(frozen=True)
class Made:
    """A run that the tests share, and what it printed. They leave it as it is."""

    out: Path
    printed: str
    data: stages.DataSets
    sft: stages.Trained
    rankings: list

    @property
    def random(self):
        return stages.described(two_arms.SHAPE, self.sft.tokenizer, two_arms.FORMAT)

    @property
    def base(self):
        return trained(self.out / "pretrain")

    @property
    def reward(self):
        return trained(self.out / "first" / "reward_model")

    def pretrain(self, folder=None, start=None, text=None, c=two_arms.PRETRAIN, run=RUN):
        text = self.data.text.train if text is None else text
        return stages.pretrain(folder or self.out / "pretrain", start or self.random, text, c, run)

    def supervised(self, folder=None, start=None, rows=None, c=two_arms.SFT, run=RUN, **more):
        rows = self.data.demonstrations if rows is None else stages.Parts(rows, self.data.demonstrations.valid)
        return stages.supervised(folder or self.out / "sft", start or self.base, rows, c, run, **more)

    def answers(self, start=None, prompts=None, c=two_arms.ANSWERS, run=RUN):
        prompts = self.data.prompts.train if prompts is None else prompts
        return stages.sample_answers(self.out / "answers", start or self.sft, prompts, c, run)

    def reward_model(self, folder=None, start=None, rankings=None, c=two_arms.REWARD, run=RUN, **more):
        rankings = self.rankings[: len(self.rankings) // 2] if rankings is None else rankings
        folder = folder or self.out / "first" / "reward_model"
        return stages.reward_model(folder, start or self.sft, rankings, c, run, **more)

    def policy(self, folder=None, start=None, reward=None, prompts=None, c=PPO, run=RUN, **more):
        folder = folder or self.out / "first" / "policy"
        prompts = self.data.prompts if prompts is None else stages.Parts(prompts)
        return policy(folder, start or self.sft, reward or self.reward, prompts, c, run, **more)


@pytest.fixture(scope="module", autouse=True)
def programs_are_kept(tmp_path_factory):
    """Stages trace and compile their programs each time that they are called, and most tests here call the same ones. Shapes
    are not checked: Orbax builds a state of Nones on its way to a checkpoint."""
    programs, by_models = {}, POLICY.by_models

    def kept(halves, pieces, mesh, run):
        def call(state, prompts, batch, *rest):
            what = jax.tree.structure((state, batch, rest)), *(leaf.shape for leaf in jax.tree.leaves((state, batch)))
            key = (halves, pieces["models"], pieces["plan"], pieces["form"], mesh, run.optimiser, run.mesh, what)
            if key not in programs:
                programs[key] = by_models(halves, pieces, mesh, run)
            return programs[key](state, prompts, batch, *rest)

        return call

    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before, checks = {name: jax.config.values[name] for name in names}, jaxtyping.config.jaxtyping_disable
    for values, off, function in ((names, True, kept), (before, checks, by_models)):
        POLICY.by_models = function
        jaxtyping.config.update("jaxtyping_disable", off)
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is names:
            yield


@pytest.fixture(scope="module")
def made(programs_are_kept, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "two_arms"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", ["two_arms.py", str(out)])
        two_arms.main()
    return Made(out, printed.getvalue(), *two_arms.before(out))


@pytest.fixture
def quick(monkeypatch):
    """Policies whose iterations compute nothing, for what folders do. quick.at(i) is called in each."""

    class Quick:
        at = staticmethod(lambda i: None)
        figures = staticmethod(lambda i: {})
        learned = staticmethod(lambda state: state)

    def by_models(halves, pieces, mesh, run):
        def call(state, prompts, batch, coef, frozen):
            i = int(state.step)
            Quick.at(i)
            state = Quick.learned(replace(state, step=state.step + 1))
            return state, {"objective/scores": float(i), **Quick.figures(i)}, silence(batch, frozen)

        return call

    monkeypatch.setattr(POLICY, "by_models", by_models)
    return Quick


def files(folder):
    """Every file with its content and when it was written, but for locks."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def steps_of(folder):
    return [row["step"] for row in read_metrics(folder)]


def lines_of(text):
    return [line for line in text.splitlines() if line.strip()]


def definition(module, name):
    """The lines of a function in a study."""
    path = Path(module.__file__)
    node = next(n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == name)
    return path.read_text().splitlines()[node.lineno - 1 : node.end_lineno]


# Studies.


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.py")), ids=lambda path: path.stem)
def test_a_study_stands_on_rlhf_jax_alone(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert {name.partition(".")[0] for name in names} <= {"rlhf_jax", "jax", *sys.stdlib_module_names}


def test_two_arms_of_a_study_are_one_short_program_and_end_in_one_table(made):
    assert len(Path(two_arms.__file__).read_text().splitlines()) <= 60
    first, second = (made.out / arm for arm in ("first", "second"))
    for stage in ("reward_model", "policy"):
        one, other = trained(first / stage), trained(second / stage)
        assert one.sha256 != other.sha256 and tree_hash(one.params()) != tree_hash(other.params())
    parent = Checkpoints(first / "policy" / "checkpoints", None).record(2)["inputs"]
    assert parent["reward"] == trained(first / "reward_model").sha256 and parent["start"] == made.sft.sha256
    table = made.printed[made.printed.rindex("HELPFUL") - 200 :]
    assert re.search(r"first +second +n\n", table)
    figures = json.loads((second / "policy.json").read_text())
    shown = re.search(r"Reward-model score.*", table)[0]
    assert f"{figures['reward']['mean']:.2f}" in shown.replace("−", "-") and "KL from SFT" in table


def test_both_arms_of_a_study_get_the_same_draws(made, tmp_path):
    """Stages of one name in two folders: what differs between the arms is what they are made from."""
    found = {arm: read_metrics(made.out / arm / "policy")[0] for arm in ("first", "second")}
    made.policy(tmp_path / "another_name", c=replace(PPO, iterations=1))
    found["another"] = read_metrics(tmp_path / "another_name")[0]
    entropy, score = ({arm: row[f"objective/{name}"] for arm, row in found.items()} for name in ("entropy", "scores"))
    assert entropy["first"] == entropy["second"] != entropy["another"]  # of the same answers
    assert score["first"] != score["second"]


def test_a_changed_loss_is_a_few_lines_and_resumes_and_reports(made, tmp_path, capsys):
    own = definition(changed_loss, "proximal") + [
        line for line in definition(changed_loss, "study") if "proximal" in line
    ]
    assert len(own) <= 15
    study = partial(changed_loss.study, tmp_path, made.sft, made.reward, made.data, run=EACH, c=two_arms.EVALUATE)
    study(replace(PPO, iterations=1))
    figures = study(PPO)
    assert "proximal: continues after step 1, now to 2" in capsys.readouterr().err
    assert steps_of(tmp_path / "proximal") == [1, 2]
    assert figures["win_rate/vs_sft"].n > 0
    assert json.loads((tmp_path / "proximal.json").read_text())["reward"]["mean"] == figures["reward"].mean

    # A folder of the same name gets the same draws; what differs after them is the loss.
    found, usual = trained(tmp_path / "proximal"), made.policy(tmp_path / "usual" / "proximal")
    rows = [read_metrics(each.folder)[0] for each in (found, usual)]
    assert rows[0]["objective/entropy"] == rows[1]["objective/entropy"]
    assert rows[0]["loss/policy_avg"] != rows[1]["loss/policy_avg"]
    assert tree_hash(found.params()) != tree_hash(usual.params())
    refusal(lambda: made.policy(tmp_path / "proximal"), "made with another learn", "proximal", "--anew proximal")
    refusal(
        lambda: made.policy(iteration=steps.Iteration(steps.sample, partial(steps.learn, objective=steps.clipped))),
        "made with another learn",
    )
    # The same file with another number in it.
    path = tmp_path / "changed_loss.py"
    path.write_text(replaced("(2 * coef.clip_high)", "(3 * coef.clip_high)")(Path(changed_loss.__file__).read_text()))
    other = partial(loaded(path, "edited.changed_loss").study, *study.args, **study.keywords)
    refusal(lambda: other(PPO), "its learn (", "changed_loss.proximal", "has changed since", "--anew proximal")


@pytest.mark.long
def test_rounds_on_a_small_world_end_in_their_report_and_go_on(made, tmp_path, capsys):
    config, out, sft = tmp_path / "rounds.toml", tmp_path / "out", made.out / "sft"
    config.write_text(f'''
out = "{out}"
given = {{ start = "{sft}", sft = "{sft}" }}
world = {{ documents = 120, prompts = 150, demonstrations = 60, labelers = 2, heldout_labelers = 1 }}
answers = {{ prompts = 16, fewest = 2, most = 4 }}
reward = {{ batch = 4, lr = 3e-3 }}
ppo = {{ iterations = 1, batch = 16, minibatches = 2, gamma = 0.0, pretrain_examples = 0, lr = 3e-3 }}
evaluate = {{ prompts = 16 }}
runtime = {{ batch = 32 }}
''')

    def call(count):
        rounds.main(begin(rounds.Config, rounds.__file__, "", [str(config), "--rounds.count", str(count)]))
        return json.loads((out / "rounds.json").read_text())

    first, there = call(1), files(out)
    two = call(2)
    stays = {path: each for path, each in files(out).items() if path.parent != out}
    assert (
        first["round_1"] == two["round_1"]
        and stays.items() >= {path: each for path, each in there.items() if path.parent != out}.items()
    )
    one, other = (trained(out / f"policy_{n}") for n in (1, 2))
    assert [two[f"round_{n}"]["policy"] for n in (1, 2)] == [one.sha256, other.sha256] and one.sha256 != other.sha256
    # The second reward model is of old and new rankings: it is done with them, and refuses the new alone.
    old, new = (read_rankings(str(out / f"rankings_{n}" / "rankings.jsonl")) for n in (1, 2))
    assert two["round_2"]["rankings"] == len(old + new) > len(old) > 0 and not {r.prompt for r in old} & {
        r.prompt for r in new
    }
    again = partial(made.reward_model, out / "reward_model_2", c=stages.Reward(batch=4, lr=3e-3))
    assert again(rankings=old + new).sha256 == two["round_2"]["reward_model"]
    refusal(lambda: again(rankings=new), "made from another rankings")
    answers = json.loads((out / "answers_2" / "made.json").read_text())
    assert answers["inputs"]["model"] == one.sha256  # the newest policy's
    record = Checkpoints(out / "policy_2" / "checkpoints", None).record(1)
    assert record["inputs"]["start"] == made.sft.sha256  # each policy begins where the first did
    figures = json.loads((out / "evaluation.json").read_text())
    assert list(figures) == ["sft", "round_1", "round_2", "reward_model"]
    assert {"rating", "rating/minus_sft", "rating/minus_round_1", "kl/from_sft"} <= figures["round_2"].keys()
    assert "accuracy/gold" in figures["reward_model"] and re.search(
        r"sft|SFT +round_1 +round_2 +n", capsys.readouterr().out
    )
    # Runs from several seeds' models are put together, as those of the recipe are.
    (tmp_path / "other").mkdir()
    shutil.copy(out / "evaluation.json", tmp_path / "other")
    about = json.loads((out / "evaluated.json").read_text())
    (tmp_path / "other" / "evaluated.json").write_text(json.dumps({"config": about["config"] | {"seed": 1}}))
    assert seeds([out, tmp_path / "other"])["round_2"]["rating"].n == 2
    # What came from the first round's rankings goes with them.
    aside = runtime.set_aside(out, "rankings_1")
    assert sorted(aside) == sorted(path.name for path in (out / "set_aside").iterdir())
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"answers_1", "set_aside"}


# A reward that is a Python function.


class Rows(NamedTuple):
    tokens: Any
    mask: Any
    y: Response
    logp_sft: Any


def sample(state, prompts, frozen, *, models, plan):
    """The ends of prompts in the place of answers."""
    T = plan.max_tokens
    y = Response(prompts.tokens[:, -T:], prompts.mask[:, -T:], jnp.zeros((PPO.batch, T)), jnp.ones(PPO.batch), None)
    return Rows(prompts.tokens, prompts.mask, y, y.logp)


def learn_less(state, x, scores, text, coef, frozen, **more):
    return replace(state, step=state.step + 1), {"objective/scores": mean(scores)}


def as_the_model(model):
    """A reward model's own scores as a function of the answers, which know their tokens."""

    def scores(prompts, answers, rows):
        x, T = encode_prompts(prompts, model.tokenizer, two_arms.FORMAT.prompt_tokens), two_arms.FORMAT.answer_tokens
        y = np.full((len(answers), T), model.tokenizer.pad)
        for row, answer in zip(y, answers, strict=True):
            row[: len(answer.ids)] = answer.ids
        mask = np.arange(T) < np.array([[len(answer.ids)] for answer in answers])
        tokens, mask = (np.concatenate(both, axis=1) for both in ((x.tokens, y), (x.mask, mask)))
        return stages.scores_of(model, tokens, mask, batch=len(answers))

    return scores


@pytest.mark.parametrize("beside", [pytest.param("nothing", marks=pytest.mark.long), "the model"])
def test_a_function_that_scores_as_the_reward_model_gives_the_same_numbers(made, tmp_path, beside):
    """Alone, and as 3/4 of the reward beside the model itself as the other quarter."""
    inner, function = trained(made.out / "first" / "policy"), as_the_model(made.reward)
    mixed = stages.Rewards([made.reward], [function], [0.25, 0.75])
    outer = made.policy(tmp_path / "policy", reward=function if beside == "nothing" else mixed, value=made.reward)
    # To the bit with XLA's defaults; the tests' flags let it sum in another order where the program is another.
    for a, b in zip(read_metrics(inner.folder), read_metrics(outer.folder), strict=True):
        assert b.pop("time/reward") > 0
        parts = [b.pop(name) for name in ("reward/scores", "reward/reward_model") if name in b]
        assert parts == pytest.approx([a["objective/reward_model"]] * (1 + (beside != "nothing")), rel=1e-5, abs=1e-6)
        assert {name: a[name] for name in b} == pytest.approx(b, rel=1e-5, abs=1e-6)
    a, b = (Checkpoints(each.folder / "checkpoints", None).read("policy", 2)[0] for each in (inner, outer))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), a, b)


@pytest.mark.long
def test_a_crash_in_a_reward_function_costs_nothing_and_the_end_is_the_same_to_the_bit(made, tmp_path):
    crash = argparse.Namespace(at=None)  # of which only the class is part of the function's hash

    def reward(prompts, answers, rows):
        if answers[0].iteration == crash.at:
            raise OSError("the grader is not there")
        return [float(len(answer)) for answer in answers]

    def call(name):
        return made.policy(tmp_path / name / "policy", reward=reward, c=replace(PPO, iterations=3))

    crash.at = 1
    refusal(lambda: call("cut"), "raised OSError: the grader is not there", "reward_failed.json has it")
    assert Checkpoints(tmp_path / "cut" / "policy" / "checkpoints", None).steps() == [1]
    crash.at = None
    assert call("cut").sha256 == call("whole").sha256
    assert steps_of(tmp_path / "cut" / "policy") == [1, 2, 3]


def test_weights_and_the_function_of_each_part_are_what_a_policy_is_made_from(made, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(
        POLICY, "around", lambda halves, pieces, mesh, run, *more: POLICY.by_models(halves, pieces, mesh, run)
    )
    call = partial(made.policy, tmp_path / "policy", c=replace(PPO, iterations=1))
    rewards = stages.Rewards([made.reward], [good, remembers_it], [1.0, 0.5, 0.25])
    call(reward=rewards)
    record = Checkpoints(tmp_path / "policy" / "checkpoints", None).record(1)
    assert record["settings"]["weights"] == [1.0, 0.5, 0.25] and record["inputs"]["reward"] == made.reward.sha256
    assert {name for name in record["code"] if name.startswith("reward")} == {"reward_2", "reward_3"}
    call(reward=rewards)
    refusal(lambda: call(reward=replace(rewards, weights=[1.0, 0.5, 0.5])), "another weights")
    refusal(
        lambda: call(reward=replace(rewards, functions=[good, good])), "another reward_3 (test_studies.remembers_it"
    )
    refusal(lambda: call(reward=replace(rewards, models=[made.reward] * 2)), "another reward_2")


def good(prompts, answers, rows):
    return [float(len(answer)) for answer in answers]


def raises(prompts, answers, rows=()):
    raise KeyError("no such prompt")


WRONG = {
    "nan": (lambda *given: [float("nan"), *good(*given)[1:]], ["the reward function reward gave nan at the answer "]),
    "none": (lambda *given: None, ["gave None for 16 answers"]),
    "raises": (raises, ["raised KeyError: 'no such prompt' (test_studies.py, line", "in raises) at the answer"]),
}


def test_a_reward_function_that_goes_wrong_is_a_sentence_and_loses_nothing(made, tmp_path):
    """It goes wrong in the third of four iterations, none of which is due to be saved; mended, the run goes on from there."""
    asked = argparse.Namespace(times=0, how="")  # of which only the class is part of the function's hash

    def reward(*given):
        asked.times += 1
        return (WRONG[asked.how][0] if asked.times >= 3 and asked.how else good)(*given)

    halves = steps.Iteration(sample, learn_less, has_value=False)
    call = partial(made.policy, tmp_path / "policy", reward=reward, c=replace(PPO, iterations=4), iteration=halves)
    for asked.how, (_, words) in WRONG.items():
        asked.times = min(asked.times, 2)
        refusal(call, *words, f"; {tmp_path / 'policy' / 'reward_failed.json'} has it")
        assert Checkpoints(tmp_path / "policy" / "checkpoints", None).steps() == [2]
        assert steps_of(tmp_path / "policy") == [1, 2]
        said = json.loads((tmp_path / "policy" / "reward_failed.json").read_text())
        assert said["iteration"] == 3 and said["who"] == "the reward function reward"
        assert len(said["answers"]) == 16 if asked.how == "none" else "Human:" in said["prompt"] and "answer" in said
    asked.how, asked.times = "", 2
    call()
    assert steps_of(tmp_path / "policy") == [1, 2, 3, 4]
    assert asked.times == 2 + 2  # the first two iterations are not made again


def forgets_a_name(prompts, answers, rows):
    return [float(len(answer)) for answer in answers] if len(prompts[0].text) < 0 else unknown


def remembers_it(prompts, answers, rows):
    return [float(len(answer)) / 2 for answer in answers]


def test_a_reward_function_that_raised_may_be_mended_and_the_record_says_so(made, tmp_path, capsys):
    """Until a checkpoint owes something to the mended one."""
    folder, calls = tmp_path / "policy", []

    def forgetful(prompts, answers, rows):
        calls.append(1)
        return (good if len(calls) < 3 else forgets_a_name)(prompts, answers, rows)

    halves = steps.Iteration(sample, learn_less, has_value=False)
    call = partial(made.policy, folder, c=replace(PPO, iterations=4), iteration=halves)
    refusal(lambda: call(reward=forgetful), "raised NameError: name 'unknown' is not defined (test_studies.py, line")
    assert "saved step 2 of 4; the same command continues, with forgetful mended or not" in capsys.readouterr().err
    assert json.loads((folder / "failed.json").read_text()) == {"step": 3, "code": "reward", "name": "forgetful"}
    refusal(lambda: call(reward=remembers_it, c=replace(PPO, iterations=4, beta=0.2)), "another ppo.beta")
    call(reward=remembers_it)
    assert "policy: continues after step 2 with reward sha256" in capsys.readouterr().err
    assert steps_of(folder) == [1, 2, 3, 4] and not [*folder.glob("*failed.json")]
    (change,) = Checkpoints(folder / "checkpoints", None).record(4)["changed"]
    assert change["after"] == 2 and change["key"] == "reward" and change["from"] != change["to"]
    refusal(lambda: call(reward=forgetful), "another reward (test_studies.")


JUDGES = {
    "raises": (raises, ["the judge raised KeyError: 'no such prompt' (test_studies.py, line"]),
    "step": (
        lambda prompts, texts: {"step": 3.0},
        ["the judge gave {'step': 3.0}; let it give a dict of finite numbers"],
    ),
    "nan": (lambda prompts, texts: {"mine": float("nan")}, ["the judge gave {'mine': nan}"]),
    "a number": (lambda prompts, texts: 1.0, ["the judge gave 1.0"]),
}


@pytest.mark.parametrize("how", JUDGES)
def test_a_judge_that_goes_wrong_is_a_sentence_and_loses_nothing(made, quick, tmp_path, monkeypatch, how):
    monkeypatch.setattr(POLICY, "answers_of", lambda *given: None)
    monkeypatch.setattr(POLICY, "decoded", lambda *given: ["an answer"])
    judge, words = JUDGES[how]
    asked = iter([{"mine": 1.0}])

    def once(prompts, texts):
        return next(asked, None) or judge(prompts, texts)

    run = replace(RUN, runtime=replace(RUN.runtime, evaluate_every=3, save_every=50))
    call = partial(made.policy, tmp_path / "policy", c=replace(PPO, iterations=4), run=run)
    prompts = stages.Parts(made.data.prompts.train, made.data.prompts.valid)

    def with_judge(judge):
        return policy(tmp_path / "policy", made.sft, made.reward, prompts, replace(PPO, iterations=4), run, judge=judge)

    refusal(lambda: with_judge(once), *words)
    assert steps_of(tmp_path / "policy") == [1, 2, 3]
    assert Checkpoints(tmp_path / "policy" / "checkpoints", None).steps() == [3]
    call()
    assert steps_of(tmp_path / "policy") == [1, 2, 3, 4]


# Folders: what is done stays as it is.


def test_rows_in_no_parts_are_all_for_training(made, quick, tmp_path):
    whole = policy(
        tmp_path / "parts" / "policy", made.sft, made.reward, stages.Parts(made.data.prompts.train), PPO, RUN
    )
    plain = policy(tmp_path / "rows" / "policy", made.sft, made.reward, made.data.prompts.train, PPO, RUN)
    assert whole.sha256 == plain.sha256


def test_the_run_s_tokenizer_is_of_its_text_and_size(made, tmp_path):
    def tokenizer(size, text=made.data.tokenizer_text):
        return stages.run_tokenizer(stages.TokenizerSettings(vocab_size=size), tmp_path, text)

    first = tokenizer(700)
    assert tokenizer(700).sha256 == first.sha256
    refusal(
        lambda: tokenizer(650), "tokenizer.model was trained for a vocabulary of 700, not 650; choose another --out"
    )
    refusal(lambda: tokenizer(700, lambda: ["another text"]), "tokenizer.model was trained on another text")
    (tmp_path / "tokenizer.made.json").unlink()
    assert tokenizer(650).sha256 == first.sha256  # one that the user put there


def test_a_start_that_came_to_nothing_leaves_no_tokenizer_to_a_later_one(made, tmp_path):
    small = stages.run_tokenizer(stages.TokenizerSettings(vocab_size=650), tmp_path, made.data.tokenizer_text)
    keep_tokenizer(small, tmp_path / "sft")
    kept = keep_tokenizer(made.sft.tokenizer, tmp_path / "sft")
    assert load_tokenizer(tmp_path / "sft" / kept).sha256 == made.sft.tokenizer.sha256
    (tmp_path / "sft" / "checkpoints").mkdir()
    assert (
        load_tokenizer(tmp_path / "sft" / keep_tokenizer(small, tmp_path / "sft")).sha256 == made.sft.tokenizer.sha256
    )


def test_a_model_whose_folder_was_made_anew_is_not_read_for_the_one_before(made):
    before = replace(made.sft, sha256="0" * 64)
    refusal(before.params, "sft holds another model than the one that was asked for", "not 000000000000")
    corrected = replace(with_lora(made.sft, stages.Lora()), base=before)
    refusal(corrected.params, "sft holds another model than the one that was asked for")


def test_a_name_that_a_record_has_for_itself_is_no_folder_s(made, tmp_path):
    for name in ("seed", "optimiser", "lora", "model", "format"):
        refusal(lambda name=name: made.supervised(tmp_path / name), f"folder can be called {name}; name it otherwise")


def test_programs_that_are_given_models_have_the_world_that_those_were_held_out_from(made):
    world = stages.World(120, prompts=150, demonstrations=60)
    assert made.sft.seed == trained(made.out / "sft").seed == 0
    for seed in (0, 1):
        assert stages.data_of(made.sft, world, seed).prompts == stages.from_world(world, 0).prompts
    assert stages.data_of(replace(made.sft, seed=None), world, 1).prompts == stages.from_world(world, 1).prompts


def test_programs_that_are_given_models_refuse_a_world_of_which_these_may_have_learned_what_is_held_out(made):
    """More prompts are cut into parts anew. More demonstrations are of training prompts, whose answers may be others."""
    world = stages.World(120, prompts=150, demonstrations=60)
    more = replace(world, prompts=140)
    held, learned = stages.from_world(more, 0).prompts.test, stages.from_world(world, 0).prompts.train
    assert {p.text for p in held} & {p.text for p in learned}  # so it would be wrong
    refusal(
        lambda: stages.data_of(made.sft, more, 0),
        "sft was trained with other data than [world] says here, and may have learned from prompts that these hold out; give",
    )
    assert stages.data_of(made.sft, replace(world, demonstrations=50), 0).prompts == stages.from_world(world, 0).prompts
    assert stages.data_of(made.base, more, 0).prompts.test == held  # pretraining knows no prompts


def test_a_program_that_is_refused_leaves_the_config_of_the_one_before(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text('out = "unused"\n')
    out = tmp_path / "run"

    def program(*words, then=lambda: None):
        def main():
            begin(stages.Program, "mine.py", "", [str(tmp_path / "mine.toml"), "--out", str(out), *words])
            then()

        runtime.run(main)

    def refuses():
        raise InputError("no")

    with pytest.raises(SystemExit):
        program(then=refuses)
    assert not out.exists()
    program("--seed", "1")
    before = (out / "mine.toml").read_text()
    with pytest.raises(SystemExit):
        program("--seed", "2", then=refuses)
    assert (out / "mine.toml").read_text() == before
    runtime.run(lambda: begin(stages.Program, "mine.py", "", [str(out / "mine.toml")]))  # says the same
    assert (out / "mine.toml").read_text() == before and "# command line" in before
    program("--seed", "3")
    assert "seed = 3" in (out / "mine.toml").read_text()


def everything(made):
    """Every stage of the first arm once more."""
    two_arms.before(made.out)
    made.reward_model()
    made.policy()


def test_what_is_done_says_so_and_returns_at_once_and_changes_no_file(made, monkeypatch, capsys):
    for name in ("pretrain", "supervised", "reward_model", "iterations"):
        monkeypatch.delattr(sys.modules[f"rlhf_jax.stages.{name}"], "mapped")  # nothing is compiled
    monkeypatch.delattr(sys.modules["rlhf_jax.stages.answers"], "answer")
    before = files(made.out)
    everything(made)
    assert files(made.out) == before
    said = capsys.readouterr().err.splitlines()
    for line in ("pretrain: done, 40 steps", "policy: done, 2 steps"):
        assert said.count(line) == 1
    assert [line.partition(":")[0] for line in said if ": done, " in line] == [
        "pretrain",
        "sft",
        "reward_model",
        "policy",
    ]


@pytest.mark.parametrize(
    ("stage", "change", "words"),
    [
        ("pretrain", {"c": {"lr": 0.5}}, "another pretrain.lr (0.01, not 0.5)"),
        ("supervised", {"c": {"batch": 8}}, "another sft.batch (16, not 8)"),
        ("answers", {"c": {"temperature": 0.5}}, "another answers.temperature (1.0, not 0.5)"),
        ("reward_model", {"c": {"warmup": 1}}, "another reward.warmup (0, not 1)"),
        ("policy", {"c": {"beta": 0.2}}, "another ppo.beta (0.1, not 0.2)"),
        ("policy", {"c": {"lr": 1e-5}}, "another ppo.lr"),
        ("policy", {"c": {"whiten": "off"}}, "another ppo.whiten ('biased', not 'off')"),
        ("policy", {"run": {"seed": 1}}, "another seed (0, not 1)"),
        ("policy", {"run": {"optimiser": stages.Optimiser(b2=0.9)}}, "another optimiser.b2 (0.95, not 0.9)"),
        ("answers", {"run": {"runtime": stages.Runtime(batch=16)}}, "another batch (32, not 16)"),
        ("policy", {"answers": 2}, "another answers (1, not 2)"),
    ],
    ids=lambda value: value.partition(" (")[0] if isinstance(value, str) else "",
)
def test_another_setting_is_refused_by_its_key(made, stage, change, words):
    defaults = {"c": getattr(two_arms, {"supervised": "SFT", "reward_model": "REWARD"}.get(stage, stage.upper()), PPO)}
    defaults = {"c": PPO if stage == "policy" else defaults["c"], "run": RUN}
    given = {k: replace(defaults[k], **v) if k in defaults else v for k, v in change.items()}
    before = files(made.out)
    refusal(lambda: getattr(made, stage)(**given), words, "choose another folder, or --anew ")
    assert files(made.out) == before


def test_another_shape_or_format_is_refused_by_its_key(made):
    deeper = stages.described(replace(two_arms.SHAPE, layers=2), made.sft.tokenizer, two_arms.FORMAT)
    refusal(lambda: made.pretrain(start=deeper), "another model.layers (1, not 2)")
    longer = replace(made.base, format=replace(two_arms.FORMAT, answer_tokens=20))
    refusal(lambda: made.supervised(start=longer), "another format.answer_tokens (16, not 20)")


def test_another_start_model_or_reward_model_is_refused(made):
    other = trained(made.out / "second" / "policy")
    refusal(lambda: made.supervised(start=other), "sft: it was made from another start", "--anew sft")
    refusal(lambda: made.reward_model(start=other), "made from another start")
    refusal(lambda: made.policy(start=other), "policy: it was made from another start")
    refusal(lambda: made.policy(reward=trained(made.out / "second" / "reward_model")), "made from another reward")
    refusal(lambda: made.policy(value=made.reward), "made from another value")
    refusal(lambda: made.policy(reward=[made.reward, made.reward]), "made from another reward_2")
    refusal(lambda: made.policy(reward=good), "made from another reward")
    refusal(lambda: made.answers(start=other), "answers: it was made from another model")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_content_of_data_counts_and_not_the_file_that_it_stands_in(made, tmp_path):
    """The same rows in a file of another name, in JSON with other spaces, are accepted; a changed one is refused."""
    rows = [{"answer": d.answer, "prompt": d.prompt} for d in made.data.demonstrations.train]
    made.supervised(rows=read_demonstrations(write_rows(tmp_path / "other_name.jsonl", rows)))
    rows[3]["answer"] += " More."
    changed = read_demonstrations(write_rows(tmp_path / "other_name.jsonl", rows))
    refusal(lambda: made.supervised(rows=changed), "sft: it was made from another demonstrations")

    rows = [{"user": p.user, "prompt": p.text, "category": p.category} for p in made.data.prompts.train]
    prompts = read_prompts(write_rows(tmp_path / "prompts.jsonl", rows))
    made.policy(prompts=prompts)
    made.answers(prompts=prompts)
    refusal(lambda: made.policy(prompts=prompts[1:]), "policy: it was made from another prompts")
    refusal(lambda: made.answers(prompts=prompts[1:]), "answers: it was made from another prompts")

    write_rankings(tmp_path / "ours.jsonl", made.rankings[: len(made.rankings) // 2])
    half = read_rankings(str(tmp_path / "ours.jsonl"))
    made.reward_model(rankings=half)
    first = half[0]
    upside_down = tuple(max(first.ranks) + 1 - rank for rank in first.ranks)
    turned = [first._replace(ranks=upside_down), *half[1:]]
    refusal(lambda: made.reward_model(rankings=turned), "made from another rankings")
    centre = [Demonstration("x", "y")]
    refusal(lambda: made.reward_model(centre_on=centre), "made from another centre_on")

    made.pretrain(text=tuple(made.data.text.train))
    refusal(lambda: made.pretrain(text=[*made.data.text.train[:-1], "another"]), "made from another text")


def test_what_does_not_change_the_result_does_not_refuse(made, quick, tmp_path, monkeypatch):
    """Of a run that is done, and of one that goes on."""
    others = stages.Run(
        mesh=stages.Devices(data=2, micro_batches=2),
        runtime=stages.Runtime(save_every=1, keep=7, evaluate_every=3, batch=8, wandb=True),
    )
    made.pretrain(run=others)
    made.supervised(run=others)
    made.policy(run=others)
    made.policy(tmp_path / "policy", c=replace(PPO, iterations=1))
    monkeypatch.setattr(POLICY, "reference_moments", lambda *given: nothing_seen())
    others = replace(others, runtime=replace(others.runtime, wandb=False))
    made.policy(tmp_path / "policy", c=replace(PPO, iterations=3), run=others)
    assert Checkpoints(tmp_path / "policy" / "checkpoints", None).steps() == [1, 2, 3]
    fixed = replace(PPO, iterations=1, score_norm="fixed")
    made.policy(tmp_path / "fixed", c=fixed)
    refusal(lambda: made.policy(tmp_path / "fixed", c=fixed, run=others), "another batch (32, not 8)")


def test_a_signal_stops_and_the_same_command_continues(made, quick, tmp_path, capsys):
    quick.at = staticmethod(lambda i: signal.raise_signal(signal.SIGTERM) if i == 1 else None)
    with pytest.raises(SystemExit) as stopped:
        made.policy(tmp_path / "policy", c=replace(PPO, iterations=4))
    assert stopped.value.code == 0
    assert "policy: saved step 2 of 4; the same command continues" in capsys.readouterr().err
    quick.at = staticmethod(lambda i: None)
    made.policy(tmp_path / "policy", c=replace(PPO, iterations=4))
    assert "policy: continues after step 2 of 4" in capsys.readouterr().err
    assert steps_of(tmp_path / "policy") == [1, 2, 3, 4]


# An experiment that is copied and changed.


def copied(folder, change=lambda text: text):
    """experiments/ppo_ptx.py as a file of one's own."""
    path = folder / "mine.py"
    path.write_text(change((ROOT / "experiments" / "ppo_ptx.py").read_text()))
    importlib.invalidate_caches()
    return loaded(path)


def replaced(old, new):
    def change(text):
        assert text.count(old) == 1
        return text.replace(old, new)

    return change


def test_a_copied_experiment_whose_learn_was_edited_is_told_so_finished_or_not(made, quick, tmp_path):
    def call(change, iterations=2):
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        halves = steps.Iteration(steps.sample, copied(tmp_path, change).learn)
        return made.policy(tmp_path / "policy", c=replace(PPO, iterations=iterations), iteration=halves)

    edited = replaced("coef.discount, coef.lam)", "coef.discount, 0.5 * coef.lam)")
    words = "policy: its learn (mine.learn) has changed since", "--anew policy"
    quick.at = staticmethod(lambda i: signal.raise_signal(signal.SIGTERM) if i == 0 else None)
    with pytest.raises(SystemExit):
        call(lambda text: text)
    refusal(lambda: call(edited), *words)
    quick.at = staticmethod(lambda i: None)
    call(replaced("    # Âₜ by GAE", "    # a comment\n    # Âₜ by GAE"))
    refusal(lambda: call(edited), *words)
    call(replaced("From answers x and their scores [E, B]:", "Another docstring:"))
    refusal(lambda: call(edited, 3), *words)
    refusal(lambda: made.policy(tmp_path / "policy"), "made with another learn (mine.learn, not rlhf_jax.steps")


# Anew, longer, after a divergence.


def test_anew_sets_a_stage_and_what_came_from_it_aside_and_the_rest_stays(made, quick, tmp_path, capsys):
    out, config = tmp_path / "run", tmp_path / "tiny.toml"
    config.write_text(f'out = "{out}"\n')
    for name in ("pretrain", "sft", "answers", "rankings"):
        shutil.copytree(made.out / name, out / name)

    def anew(name):
        return begin(stages.Program, "mine.py", "", [str(config), "--anew", name]).folder

    def after_sft():
        answers = stages.sample_answers(out / "answers", made.sft, made.data.prompts.train, two_arms.ANSWERS, RUN)
        rankings = stages.ask(out / "rankings", answers, stages.simulated(made.data.truth), RUN)
        reward = made.reward_model(out / "reward_model", rankings=rankings)
        return reward.sha256, made.policy(out / "policy", reward=reward).sha256

    def there(folder):
        return sorted(path.name for path in folder.iterdir() if path.is_dir())

    found = after_sft()
    aside, stays = (
        {name: files(out / name) for name in names.split()}
        for names in ("rankings reward_model policy", "pretrain sft answers")
    )
    assert "no rankins to make anew; it holds answers, policy" in refusal(lambda: anew("rankins"))
    assert anew("rankings") == out
    assert f"set aside in {out / 'set_aside'}: rankings, reward_model, policy" in capsys.readouterr().err
    assert there(out) == ["answers", "pretrain", "set_aside", "sft"] and there(out / "set_aside") == sorted(aside)
    for name, before in aside.items():
        now = files(out / "set_aside" / name)
        assert {path.relative_to(out / "set_aside"): each for path, each in now.items()} == {
            path.relative_to(out): each for path, each in before.items()
        }
    assert after_sft() == found  # the same again, from the same
    assert {name: files(out / name) for name in stays} == stays
    anew("sft")
    assert there(out) == ["pretrain", "set_aside"]


def test_more_iterations_continue_with_the_bits_of_a_run_that_was_asked_for_all_of_them(made, tmp_path):
    made.policy(tmp_path / "policy", c=replace(PPO, iterations=1))
    longer = made.policy(tmp_path / "policy")
    whole = trained(made.out / "first" / "policy")
    assert longer.sha256 == whole.sha256
    assert read_metrics(longer.folder) == read_metrics(whole.folder)
    refusal(
        lambda: made.policy(c=replace(PPO, iterations=1)), "2 steps were run and 1 are asked for; ask for 2 or more"
    )


def test_a_schedule_that_ends_says_why_it_does_not_go_on(made, quick, tmp_path):
    """Supervised stages' end with the stage, PPO's after lr_steps."""
    why = "its cosine schedule is made for its length"
    refusal(lambda: made.pretrain(c=replace(two_arms.PRETRAIN, steps=50)), "40 steps were run and 50", why)
    refusal(lambda: made.supervised(c=replace(two_arms.SFT, epochs=21)), why, "--anew sft")
    refusal(lambda: made.reward_model(c=replace(two_arms.REWARD, epochs=9)), why, "--anew reward_model")

    cosine = replace(PPO, schedule="cosine", lr_steps=3)
    made.policy(tmp_path / "policy", c=cosine)
    made.policy(tmp_path / "policy", c=replace(cosine, iterations=3))  # the schedule's own end
    words = "3 steps were run and 4", "its cosine schedule ends after lr_steps = 3", "--anew policy"
    refusal(lambda: made.policy(tmp_path / "policy", c=replace(cosine, iterations=4)), *words)
    refusal(lambda: made.policy(tmp_path / "policy", c=replace(cosine, lr_steps=4)), "another ppo.lr_steps (3, not 4)")


@pytest.mark.long
def test_a_constant_schedule_goes_on_in_a_supervised_stage(made, tmp_path):
    c = replace(two_arms.REWARD, schedule="constant", batch=1)  # of which any number of rows makes whole batches
    made.reward_model(tmp_path / "longer" / "reward_model", c=replace(c, epochs=1))
    longer = made.reward_model(tmp_path / "longer" / "reward_model", c=c)
    assert longer.sha256 == made.reward_model(tmp_path / "whole" / "reward_model", c=c).sha256


def test_after_a_divergence_a_lower_rate_continues_and_is_recorded(made, tmp_path):
    """The policy is left alone for two iterations, of which the second is saved; then the rate throws it away."""
    wild, run = (
        replace(PPO, iterations=4, lr=1e9, value_warmup=2),
        replace(RUN, runtime=replace(RUN.runtime, save_every=2)),
    )
    call = partial(made.policy, tmp_path / "policy", run=run)
    with pytest.raises(
        DivergenceError, match=r"policy, step [34]: .* lower the learning rate \(lr, value_lr\) or clip_norm"
    ):
        call(c=wild)
    assert Checkpoints(tmp_path / "policy" / "checkpoints", None).steps() == [2]
    refusal(lambda: call(c=replace(wild, lr=1e-3, beta=0.2)), "another ppo.beta")
    call(c=replace(wild, lr=1e-3))
    assert steps_of(tmp_path / "policy") == [1, 2, 3, 4]
    record = Checkpoints(tmp_path / "policy" / "checkpoints", None).record(4)
    assert record["changed"] == [{"after": 2, "key": "ppo.lr", "from": 1e9, "to": 1e-3}]
    refusal(lambda: call(c=replace(wild, lr=1e-4)), "another ppo.lr (0.001, not 0.0001)")


# Two processes, and folders of other runs.


def test_a_second_program_in_the_folder_is_refused_and_harms_nothing(made, quick, tmp_path):
    call = partial(made.policy, tmp_path / "policy", run=EACH)
    second = []

    def at(i):
        if i == 1 and not second:
            second.append(refusal(call, "policy: another process (", "is at work in it; wait for it"))

    quick.at = staticmethod(at)
    call(c=replace(PPO, iterations=3))
    assert second and steps_of(tmp_path / "policy") == [1, 2, 3]
    assert [row["objective/scores"] for row in read_metrics(tmp_path / "policy")] == [0.0, 1.0, 2.0]
    assert trained(tmp_path / "policy").step == 3


@pytest.mark.slow
@pytest.mark.long
def test_the_same_program_started_twice_is_refused_with_a_sentence(made, quick, tmp_path):
    out = tmp_path / "two_arms"
    shutil.copytree(made.out, out)
    shutil.rmtree(out / "first" / "policy")
    said = []

    def at(i):
        done = subprocess.run(
            [sys.executable, two_arms.__file__, str(out)], capture_output=True, text=True, timeout=300, check=False
        )
        said.append((done.returncode, done.stderr.splitlines()[-1]))

    quick.at = staticmethod(at)
    made.policy(out / "first" / "policy", reward=trained(out / "first" / "reward_model"), c=replace(PPO, iterations=1))
    ((code, sentence),) = said
    assert code == 2 and sentence.startswith("error: ") and "is at work in it" in sentence
    assert steps_of(out / "first" / "policy") == [1]


def test_another_runs_models_are_inputs_and_nothing_before_ppo_is_trained_again(made, quick, tmp_path):
    sft, reward = trained(str(made.out / "sft")), trained(str(made.out / "first" / "reward_model"))
    before = files(made.out)
    found = policy(tmp_path / "beta" / "policy", sft, reward, made.data.prompts, replace(PPO, beta=0.5), RUN)
    assert files(made.out) == before
    assert [path.name for path in (tmp_path / "beta").iterdir()] == ["policy"] == [found.folder.name]
    assert sft.sha256 == made.sft.sha256 and reward.scalar and not sft.scalar


def checkpointed(folder, record):
    checkpoints = Checkpoints(folder / "checkpoints", None)
    checkpoints.save(1, {"params": {"w": jnp.zeros(3)}}, record)
    checkpoints.close()
    return folder


def test_a_folder_that_holds_no_trained_model_is_a_sentence(made, quick, tmp_path):
    refusal(lambda: trained(tmp_path / "none"), f"{tmp_path / 'none'} holds no trained model; name a stage's folder")
    refusal(lambda: trained(made.out), "holds no trained model; name a stage's folder")
    refusal(lambda: trained(made.out / "answers"), "holds no trained model")
    refusal(lambda: stages.trained_in(f"{made.out / 'sft'}, {tmp_path / 'none'}"), "none holds no trained model")

    quick.at = staticmethod(lambda i: signal.raise_signal(signal.SIGTERM) if i == 0 else None)
    with pytest.raises(SystemExit):
        made.policy(tmp_path / "policy")
    refusal(lambda: trained(tmp_path / "policy"), "the stage policy stopped at step 1 of 2; finish it")

    old = checkpointed(tmp_path / "old", {"total": 1, "config": {}})
    refusal(lambda: trained(old), "holds checkpoints of an earlier version of rlhf_jax; train it anew")
    sweep = checkpointed(tmp_path / "sweep", {"total": 1, "model": {}})
    refusal(lambda: trained(sweep), "holds no model but a sweep of them")


def test_a_damaged_folder_is_a_sentence(made, tmp_path):
    for name in ("record", "arrays", "chosen", "tokenizer"):
        shutil.copytree(made.out / "sft", tmp_path / name)
    step = str(trained(made.out / "sft").step)
    (tmp_path / "record" / "checkpoints" / step / "record" / "metadata").write_text("{}")
    refusal(lambda: trained(tmp_path / "record"), f"checkpoints: step {step} is empty or half-written")
    for file in (tmp_path / "arrays" / "checkpoints" / step / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    refusal(lambda: trained(tmp_path / "arrays").params(), f"checkpoints: step {step} cannot be read")
    (tmp_path / "chosen" / "chosen.json").write_text('{"step": ')
    refusal(lambda: trained(tmp_path / "chosen"), "chosen.json is damaged; delete it")
    shutil.rmtree(tmp_path / "tokenizer" / "tokenizer")
    refusal(lambda: trained(tmp_path / "tokenizer"), "tokenizer")


# PPO's optimiser.


def learn_nothing(state, x, scores, text, coef, frozen, *, models, optimisers, plan, form):
    """Advantages of 0, whose gradient is 0: what moves a parameter is its decay."""
    batch = Experience(x.tokens, x.mask, x.y, x.logp_sft, None, x.logp_sft, None, None)
    state, metrics = steps.ppo_step(state, batch, coef, models=models, optimisers=optimisers, form=form)
    return replace(state, step=state.step + 1), metrics


SHARE = {
    "cosine": lambda t: 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * t)),
    "linear": lambda t: 0.1 + 0.9 * (1 - t),
}


@pytest.mark.parametrize("schedule", ["cosine", pytest.param("linear", marks=pytest.mark.long)])
def test_a_schedule_weight_decay_and_frozen_parameters_reach_ppo(made, tmp_path, schedule):
    """θ ← θ·Π(1 − lrᵢ·λ), an update an iteration: lrᵢ from lr to a tenth of it over three."""
    run = replace(RUN, optimiser=stages.Optimiser(weight_decay=2.0, frozen="embedding"))
    c = replace(PPO, iterations=3, schedule=schedule, lr_steps=3, lr_floor=0.1, lr=0.02)
    halves = steps.Iteration(sample, learn_nothing, has_value=False)
    found = made.policy(tmp_path / "policy", c=c, run=run, iteration=halves)
    rates = [0.02 * SHARE[schedule](i / 2) for i in range(3)]
    assert [row["lr"] for row in read_metrics(found.folder)] == pytest.approx(rates)
    before = jax.tree_util.tree_leaves_with_path(made.sft.params())
    after = jax.tree.leaves(Checkpoints(found.folder / "checkpoints", None).read("policy", 3)[0])
    kinds = set()
    for (path, old), new in zip(before, after, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        stays = "embedding" in name or name.endswith("bias") or "_norm/" in name
        kinds.add(stays)
        shrunk = old if stays else old * np.prod([1 - rate * 2.0 for rate in rates])
        np.testing.assert_allclose(new, shrunk, rtol=0 if stays else 1e-5, err_msg=name)
    assert kinds == {True, False}


def test_frozen_parameters_that_there_are_none_of_are_a_sentence(made, tmp_path):
    for pattern, words in (("embeding", "is found in no parameter's path"), ("(", "is not a regular expression")):
        run = replace(RUN, optimiser=stages.Optimiser(frozen=pattern))
        refusal(lambda run=run: made.policy(tmp_path / "policy", run=run), words, repr(pattern))
    assert not (tmp_path / "policy" / "checkpoints").exists()


# The best checkpoint, and corrections.


def test_the_best_checkpoint_stays_and_is_asked_for_by_name(made, quick, tmp_path):
    figures = [0.1, 0.9, 0.3, 0.2]
    quick.figures = staticmethod(lambda i: {"gold/mean": figures[i]})
    run = replace(RUN, runtime=replace(RUN.runtime, save_every=1, keep=1, best="gold/mean"))
    made.policy(tmp_path / "policy", c=replace(PPO, iterations=4), run=run)
    assert Checkpoints(tmp_path / "policy" / "checkpoints", None).steps() == [2, 4]
    assert trained(tmp_path / "policy").step == 4
    best = trained(tmp_path / "policy", best=True)
    assert best.step == 2 and best.sha256 != trained(tmp_path / "policy").sha256
    refusal(
        lambda: trained(made.out / "first" / "policy", best=True),
        "no checkpoint was saved where runtime.best was looked at",
    )
    wrong = replace(run, runtime=replace(run.runtime, best="gold/men"))
    sentence = refusal(lambda: made.policy(tmp_path / "other", run=wrong), "no figure is called 'gold/men'")
    assert "objective/scores, gold/mean" in sentence


@pytest.mark.parametrize(("result", "sign"), [("average", -1.0), pytest.param("policy", 1.0, marks=pytest.mark.long)])
def test_the_best_look_is_saved_and_is_of_what_is_returned_and_exported(
    made, quick, tmp_path, monkeypatch, result, sign
):
    """Of a judge whose figure is the largest in the middle of a run that saves no other step than its last. After step i the
    policy's numbers are i and the average's −i."""

    def learned(state):
        i = float(state.step)
        policy, average = (jax.tree.map(lambda x, to=to: jnp.full_like(x, to), state.policy) for to in (i, -i))
        return replace(state, policy=policy, ema=average)

    def number(params):
        (found,) = {float(x) for leaf in jax.tree.leaves(params) for x in (leaf.min(), leaf.max())}
        return found

    looked = []

    def evaluation(*_):
        def evaluate(params):
            looked.append(number(params))
            return {"gold/mean": -abs(abs(looked[-1]) - 4.0)}

        return evaluate

    quick.learned = staticmethod(learned)
    monkeypatch.setattr(POLICY, "evaluation", evaluation)
    run = replace(RUN, runtime=replace(RUN.runtime, save_every=99, evaluate_every=2, keep=1, best="gold/mean"))
    found = made.policy(tmp_path / "policy", c=replace(PPO, iterations=7, result=result), run=run)
    assert looked == [sign * i for i in (1, 2, 4, 6, 7)]  # the first, every second, the last
    assert number(found.params()) == sign * 7
    assert Checkpoints(tmp_path / "policy" / "checkpoints", None).steps() == [4, 7]
    monkeypatch.setattr(sys, "argv", ["export.py", str(tmp_path / "policy"), str(tmp_path / "best"), "--best"])
    export_program.main()
    assert number(load_pretrained(tmp_path / "best").params) == sign * 4
    # A resumed run knows the best of before: none that is worse is saved.
    looked.clear()
    made.policy(tmp_path / "policy", c=replace(PPO, iterations=9, result=result), run=run)
    assert looked == [sign * 8, sign * 9] and Checkpoints(tmp_path / "policy" / "checkpoints", None).steps() == [4, 9]


def merged_by_hand(base, learned, scale):
    """W + scale·a·b of every corrected matrix."""
    out = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(base):
        names = [key.key for key in path]
        found = learned["lora"]
        for name in names[:-1]:
            found = found.get(name, {})
        out[tuple(names)] = (
            leaf + scale * found["a"] @ found["b"] if set(found) == {"a", "b"} and names[-1] == "kernel" else leaf
        )
    return out


def test_corrections_are_trained_and_their_base_stays(made, tmp_path):
    before = files(made.out / "pretrain")
    lora = stages.Lora(rank=2, alpha=8.0, matrices="query, down")
    base = with_lora(made.base, lora)
    c = replace(two_arms.SFT, epochs=2)
    made.supervised(tmp_path / "sft", start=base, rows=made.data.demonstrations.train, c=c)
    found = trained(tmp_path / "sft")
    assert found.lora == lora and found.base is not None and found.base.sha256 == made.base.sha256
    learned = found.learned()
    b = learned["lora"]["transformer"]["block_0"]["attention"]["query"]["b"]
    assert float(jnp.abs(b).max()) > 0
    expected = merged_by_hand(made.base.params(), learned, 8.0 / 2)
    moved = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(found.params()):
        np.testing.assert_allclose(leaf, expected[tuple(key.key for key in path)], atol=1e-6)
    for path, leaf in jax.tree_util.tree_leaves_with_path(made.base.params()):
        moved += not np.array_equal(leaf, expected[tuple(key.key for key in path)])
    assert moved == 2  # the query's and the MLP's, of one block
    assert files(made.out / "pretrain") == before
    refusal(lambda: with_lora(found, lora), "holds corrections already")
    refusal(lambda: made.supervised(start=base), "another lora")


@pytest.mark.long
def test_ppo_on_corrections_leaves_the_base_alone(made, tmp_path):
    before = files(made.out / "pretrain")
    base = with_lora(made.base, stages.Lora(rank=2))
    sft = made.supervised(tmp_path / "sft", start=base, c=replace(two_arms.SFT, epochs=4))
    reward = made.reward_model(tmp_path / "reward_model", start=sft)
    refusal(
        lambda: made.policy(tmp_path / "other", start=sft, reward=reward, value=made.reward),
        "are corrections of different models; train them from one",
    )
    found = made.policy(tmp_path / "policy", start=sft, reward=reward)
    old, new = sft.params(), found.params()
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new), strict=True)
        if not np.array_equal(a, b)
    }
    assert changed and all("query" in name or "value" in name for name in changed)
    assert isinstance(found.of, LanguageModel) and isinstance(reward.of, ScalarModel)
    assert files(made.out / "pretrain") == before


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_preferences_train_corrections(made, tmp_path, objective):
    """At its first step the policy is the reference, with LoRA too; and its base stays."""
    lora = stages.Lora(rank=2, alpha=8.0, matrices="query, down")
    settings = stages.Preference(objective=objective, batch=8, lr=1e-2, warmup=0)
    found = stages.preference(tmp_path / "corrected", with_lora(made.base, lora), made.rankings[:16], settings)
    learned = found.learned()
    b = learned["lora"]["transformer"]["block_0"]["attention"]["query"]["b"]
    assert float(jnp.abs(b).max()) > 0 and found.base is not None and found.base.sha256 == made.base.sha256
    expected = merged_by_hand(made.base.params(), learned, 8.0 / 2)
    for path, leaf in jax.tree_util.tree_leaves_with_path(found.params()):
        np.testing.assert_allclose(leaf, expected[tuple(key.key for key in path)], atol=1e-6)
    if objective == "dpo":  # −log σ(0)
        first = json.loads((tmp_path / "corrected" / "metrics.jsonl").read_text().splitlines()[0])
        assert any(value == pytest.approx(np.log(2), abs=1e-5) for key, value in first.items() if "loss" in key)
