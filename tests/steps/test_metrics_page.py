"""docs/metrics.md against the code, both ways: no figure is missing on the page, and none is made up.

What the steps return is asked without running them; `long` tests read what a whole run and the programs beside it have
written.
"""

import re
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import dpo as dpo_program
from experiments import grpo, rl_loop, sweep
from experiments import ppo_ptx as ppo_program
from rlhf_jax.models import LabelModel
from rlhf_jax.steps import (
    Iteration,
    KTOCoef,
    PreferenceCoef,
    Rollout,
    adam,
    classifier_step,
    dpo,
    iteration,
    judged_step,
    preference_step,
    reward_step,
    sample,
    text_coef,
    text_step,
)
from rlhf_jax.types import JudgedBatch, LabelBatch, PairBatch, PerAnswer, RankingBatch, TextBatch, TrainState
from tests.models.conftest import wild
from tests.small_run import PPO as SMALL_PPO
from tests.small_run import ROOT, begun, rows_of
from tests.steps.conftest import CONFIG, EOS, PAD

pytestmark = pytest.mark.usefixtures("types_are_not_checked")

PAGE = (ROOT / "docs" / "metrics.md").read_text()
RATE = {"grad_norm", "lr"}


def documented(heading: str) -> set[str]:
    """The names in the first column of a section's table."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)`", section, re.MULTILINE))


def unlike(written: set[str], names: set[str]) -> set[str]:
    """Written names that no documented one fits, and documented ones that fit no written one. `reward/<function>` is a
    pattern."""
    pattern = {name: re.compile(re.sub(r"<[^>]+>", ".+", re.escape(name))) for name in names}
    return {w for w in written if not any(p.fullmatch(w) for p in pattern.values())} | {
        name for name, p in pattern.items() if not any(p.fullmatch(w) for w in written)
    }


LANGUAGE = documented("Pretraining, SFT and the RL start")
RL, VALUE, MIX, LOOKS = map(documented, ("Reinforcement learning", "PPO", "The pretraining mix", "Looks"))
GROUPS, PAIRS, KTO = map(documented, ("Groups", "Pairs", "KTO"))
REWARD = documented("Reward model") | RATE
CLASSIFIER = documented("Moderation classifier") | RATE


def test_a_pattern_stands_for_names_of_a_user_s_own():
    assert not unlike({"reward/exact", "reward/length", "lr"}, {"reward/<function>", "lr"})
    assert unlike({"reward/exact", "lrs"}, {"reward/<function>", "lr"}) == {"lrs", "lr"}
    assert unlike(set(), {"reward/<function>"}) == {"reward/<function>"}


def test_each_figure_has_a_row_with_all_columns():
    heads = re.findall(r"^\|(.*)\|$", PAGE, re.MULTILINE)
    assert len(heads) > 60
    for row in heads:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)]
        assert len(cells) in (2, 4), row
        assert len(cells) == 2 or all(cells), f"a cell is empty: {row}"


# What steps return.


@pytest.fixture(scope="module")
def learner(tiny):
    params = tiny.state.policy
    optimiser = adam()
    state = TrainState(np.int32(0), params, optimiser.init(params), jax.random.key(0))
    return SimpleNamespace(state=state, optimiser=optimiser, rate=text_coef(1e-3, 10, 0.1))


def names(step, *arguments, **fixed) -> set[str]:
    found = jax.eval_shape(partial(step, **fixed), *arguments)[1]
    return {name for name, each in found.items() if not isinstance(each, PerAnswer)}  # rollouts alone have those


def test_a_language_model_s(tiny, learner):
    batch = TextBatch(np.ones((2, 6), np.int32), np.ones((2, 6), bool))
    fixed = {"model": tiny.models.policy, "optimiser": learner.optimiser}
    found = names(text_step, learner.state, batch, learner.rate, **fixed)
    assert not unlike(found | {"loss/valid"}, LANGUAGE)  # which SFT adds where an epoch ends


def test_a_reward_model_s(tiny, learner):
    batch = RankingBatch(np.ones((2, 3, 6), np.int32), np.ones((2, 3, 6), bool), np.ones((2, 3), np.int32))
    state = learner.state.replace(params=tiny.state.value, opt_state=learner.optimiser.init(tiny.state.value))
    fixed = {"model": tiny.models.value, "optimiser": learner.optimiser}
    assert not unlike(names(reward_step, state, batch, learner.rate, **fixed), REWARD)


def test_a_classifier_s(tiny, learner):
    model = LabelModel(CONFIG, 3)
    params = wild(model)
    batch = LabelBatch(np.ones((2, 6), np.int32), *(np.ones((2, n), bool) for n in (6, 3, 3)))
    state = learner.state.replace(params=params, opt_state=learner.optimiser.init(params))
    found = names(classifier_step, state, batch, learner.rate, model=model, optimiser=learner.optimiser)
    assert not unlike(found | {"loss/valid", "auprc/S"}, CLASSIFIER)  # which the stage adds where an epoch ends


def test_those_of_pairs_and_of_kto(tiny, learner):
    rows, two = TextBatch(np.ones((2, 6), np.int32), np.ones((2, 6), bool)), np.ones(2, np.float32)
    coef = PreferenceCoef(*np.ones(4, np.float32), rate=learner.rate)
    fixed = {"model": tiny.models.policy, "optimiser": learner.optimiser}
    pairs = PairBatch(rows, rows, two, two)
    found = names(preference_step, learner.state, pairs, coef, objective=dpo, per_token=False, **fixed)
    assert not unlike(found, PAIRS | RATE)
    judged, coef = JudgedBatch(rows, two > 0, two, rows, two), KTOCoef(*np.ones(3, np.float32), rate=learner.rate)
    assert not unlike(names(judged_step, learner.state, judged, coef, **fixed), KTO | RATE | {"loss/train"})


@pytest.mark.parametrize("mix", [True, False], ids=["with the mix", "without it"])
def test_ppo_s(tiny, mix):
    """With what a stage adds at a look."""
    batch = tiny.batch if mix else tiny.batch.replace(pretrain=None)
    found = names(tiny.iteration, tiny.state, batch, tiny.coef, tiny.frozen)
    assert not unlike(found | {"pretrain/loss", "gold/mean"}, RL | VALUE | LOOKS | (MIX if mix else set()))


def test_those_of_groups(tiny):
    learn = partial(grpo.learn, advantage="grpo", answers=2)
    fixed = {"models": tiny.models, "optimisers": tiny.optimisers, "plan": tiny.plan, "form": tiny.form}
    state = tiny.state.replace(value=None, value_opt=None)
    found = names(
        partial(iteration, halves=Iteration(sample, learn, has_value=False), **fixed),
        *(state, tiny.batch, tiny.coef, tiny.frozen),
    )
    assert not unlike(found, RL | GROUPS | MIX)


def test_the_sweep_s():
    assert not unlike({f"{name}/beta=0.1 seed=0" for name in sweep.LOGGED}, documented("Sweeps and ablations"))
    assert set(sweep.LOGGED) <= RL | MIX


def test_the_entrance_has_some_of_them(tiny):
    T = tiny.plan.max_tokens
    m = SimpleNamespace(
        decoder=tiny.models.policy.config,
        tokenizer=SimpleNamespace(ends=(EOS,), pad=PAD),
        format=SimpleNamespace(answer_tokens=T),
    )
    c = rl_loop.Settings(minibatches=2, batch=8)
    x: Rollout = jax.eval_shape(partial(rl_loop.sample, c=c, m=m), tiny.state, tiny.batch.prompts, tiny.frozen.sft)
    scores, text = jax.ShapeDtypeStruct((8,), np.float32), jax.tree.map(lambda x: x[:, 0], tiny.batch.pretrain)
    assert names(rl_loop.learn, tiny.state, x, scores, text, c=c, m=m) <= RL | VALUE | MIX


# What runs have written.


def written(*folders) -> set[str]:
    return {name for folder in folders for row in rows_of(folder) for name in row} - {"step"}


@pytest.mark.long
@pytest.mark.slow
def test_a_whole_run_s(uninterrupted):
    of = {name: uninterrupted / name for name in ("pretrain", "sft", "rl_init", "reward_model", "ppo", "ppo_ptx")}
    assert not unlike(written(of["pretrain"]) | {"loss/valid"}, LANGUAGE)
    assert not unlike(written(of["sft"]), LANGUAGE) and not unlike(written(of["rl_init"]), LANGUAGE)
    assert not unlike(written(of["reward_model"]), REWARD)
    assert not unlike(written(of["ppo"]), RL | VALUE | LOOKS)
    assert not unlike(written(of["ppo_ptx"]), RL | VALUE | MIX | LOOKS)
    scalars = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no TensorBoard")
    board = scalars.EventAccumulator(str(of["ppo_ptx"] / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == written(of["ppo_ptx"])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize("program", ["dpo", "kto", "grpo", "ppo_ptx"])
def test_the_programs_beside_it(uninterrupted, tmp_path, program):
    against = ["--given.against", str(uninterrupted / "sft")]
    if program in ("dpo", "kto"):
        rankings = ["--given.rankings", str(uninterrupted / "rankings" / "rankings.jsonl")]
        more = [*rankings, "--preference.objective", program, "--preference.batch", "8"]
        dpo_program.main(begun(dpo_program, uninterrupted, tmp_path, *against, *more))
        expected = PAIRS | RATE if program == "dpo" else KTO | RATE | {"loss/train"}
        assert not unlike(written(tmp_path / "preference"), expected)
    elif program == "grpo":
        grpo.main(begun(grpo, uninterrupted, tmp_path, *against, *SMALL_PPO))
        assert not unlike(written(tmp_path / "group"), RL | GROUPS | MIX | LOOKS)
    else:
        ppo_program.main(begun(ppo_program, uninterrupted, tmp_path, *against, *SMALL_PPO))
        left_out = {"objective/non_score_reward"}
        assert unlike(written(tmp_path / "ppo_ptx"), RL | VALUE | MIX | LOOKS) == left_out
