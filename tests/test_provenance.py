"""Where every text came from: which part of the data each stage, each look during training and each evaluation reads, whose
parameters it asks, and which of several it picks. The data are marked, so that a row tells its part; nothing is trained: in
the place of the compiled programs stand functions that write down what they are given."""

import re
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dpo, grpo, instructgpt, ppo_ptx
from rlhf_jax import stages
from rlhf_jax.data import Demonstration, Prompt, Ranking, prompt_text, train_tokenizer
from rlhf_jax.equations import Mean
from rlhf_jax.evals import Answers
from rlhf_jax.labelers import Habits, Opinion, impression, rank
from rlhf_jax.runtime import read_metrics
from rlhf_jax.stages import AnswersToRank, Evaluate, Parts, Trained
from rlhf_jax.stages.training import Epochs
from rlhf_jax.steps import Iteration
from rlhf_jax.types import Response
from tests import small_run
from tests.silence import silence

pytestmark = pytest.mark.usefixtures("types_are_not_checked")
SHAPE = stages.Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=32)
FORMAT = stages.Format(prompt_tokens=40, answer_tokens=16)
RUN = stages.Run(seed=0, runtime=stages.Runtime(batch=4, save_every=1, keep=1, evaluate_every=1))
MARK = re.compile(r"(train|valid|test) number (\d+)")
PARTS = ("train", "valid", "test")


def module(name):
    """A stage's module; in the package its name is the function's."""
    return sys.modules[f"rlhf_jax.stages.{name}"]


def marked(kind, count=12):
    """Rows of each part; row i of a part says so."""

    def rows(part):
        numbers = range({"train": count, "valid": count // 2, "test": count // 3}[part])
        names = [f"{part} number {i}" for i in numbers]
        prompts = [prompt_text(f"Say {name}.") for name in names]
        return {
            "text": [f"A book on {name}, and what it is. " * 4 for name in names],
            "prompts": [Prompt(p) for p in prompts],
            "demonstrations": [Demonstration(p, f"I say {name}.") for p, name in zip(prompts, names, strict=True)],
            "rankings": [
                Ranking(p, (f"Good {name}.", f"Bad {name}."), (1, 2)) for p, name in zip(prompts, names, strict=True)
            ],
        }[kind]

    return Parts(*map(rows, PARTS))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    text = [row for kind in ("text",) for part in marked(kind).each().values() for row in part]
    text += [f"{d.prompt} {d.answer}" for part in marked("demonstrations").each().values() for d in part]
    return train_tokenizer(text * 3, 330, tmp_path_factory.mktemp("tokenizer") / "small.model")


@pytest.fixture
def models(tokenizer, tmp_path, monkeypatch):
    """Models whose parameters are one number each, by which they are told apart."""
    numbers = {}

    def model(name, number, scalar=False) -> Trained:
        of = stages.described(SHAPE, tokenizer, FORMAT)
        numbers[name] = number
        return Trained(of.decoder, tokenizer, FORMAT, folder=tmp_path / name, sha256=name, step=1, scalar=scalar)

    read = Trained.learned

    def learned(self, *where, **more):
        if self.folder.name not in numbers:
            return read(self, *where, **more)
        return {"bias": jnp.float32(numbers[self.folder.name])}

    monkeypatch.setattr(Trained, "learned", learned)
    return model


def texts_of_rows(tokenizer, tokens):
    """The text of each row of tokens."""
    rows = np.asarray(tokens).reshape(-1, np.shape(tokens)[-1])
    special = {tokenizer.pad, tokenizer.eos}
    return [tokenizer.decode([int(t) for t in row if int(t) not in special]) for row in rows]


def parts_in(texts):
    """The parts that these texts come from; each has a mark."""
    found = [{part for part, _ in MARK.findall(str(text))} for text in texts]
    assert found and all(found), texts
    return set().union(*found)


def moved(tree, by):
    return jax.tree.map(lambda x: x + by, tree)


# Reinforcement learning.


class Asked(NamedTuple):
    """What an iteration is given."""

    state: Any
    prompts: list
    batch: Any
    coef: Any
    frozen: Any


@pytest.fixture
def rl(models, tokenizer, tmp_path, monkeypatch):
    """A run of RL whose iterations add 1 to the policy and 10 to its average; what it, the judge and the looks get."""
    policy, seen = module("policy"), SimpleNamespace(asked=[], judged=[], looked=[], text=[])
    scores = [1.0, 5.0, 3.0]

    def by_models(halves, pieces, mesh, run):
        def call(state, prompts, batch, coef, frozen):
            seen.asked.append(Asked(state, prompts, batch, coef, frozen))
            after = replace(state, step=state.step + 1, policy=moved(state.policy, 1), ema=moved(state.ema, 10))
            return after, {"objective/scores": scores[int(state.step)], "objective/kl": 0.0}, silence(batch, frozen)

        return call

    def answers_of(model, params, prompts, key, sampling, batch):
        seen.looked.append((float(params["bias"]), texts_of_rows(tokenizer, prompts.tokens)))
        return "answers"

    def per_row(model, params, rows, *, batch):
        seen.text.append((float(params["bias"]), texts_of_rows(tokenizer, rows.tokens)))
        return -3.0 * np.ones(2), 2.0 * np.ones(2), None

    def judge(prompts, answers):
        assert answers == ["a text"]
        seen.judged.append([p.text for p in prompts])
        return {"gold/mean": float(len(seen.judged))}

    monkeypatch.setattr(policy, "by_models", by_models)
    monkeypatch.setattr(policy, "answers_of", answers_of)
    monkeypatch.setattr(policy, "decoded", lambda model, answers: ["a text"])
    monkeypatch.setattr(policy, "per_row", per_row)
    start, reward = models("start", 0.0), models("reward_model", 500.0, scalar=True)
    c = stages.PPO(
        iterations=3, batch=4, minibatches=2, pretrain_examples=2, gamma=0.5, beta=0.3, discount=0.9, lam=0.8
    )

    def train(folder="policy", c=c, reward=reward, run=RUN, **more):
        given = {"text": marked("text"), "judge": judge} | more
        made = stages.policy(tmp_path / folder, start, reward, marked("prompts"), c, run, **given)
        return SimpleNamespace(**vars(seen), made=made, c=c, folder=tmp_path / folder)

    return train


def test_rl_learns_from_training_prompts_and_training_text_and_looks_at_validation(rl, tokenizer):
    found = rl()
    assert parts_in(p.text for call in found.asked for p in call.prompts) == {"train"}
    assert parts_in(text for call in found.asked for text in texts_of_rows(tokenizer, call.batch.pretrain.tokens)) == {
        "train"
    }
    assert parts_in(text for texts in found.judged for text in texts) == {"valid"}
    assert parts_in(text for _, texts in found.looked for text in texts) == {"valid"}
    assert parts_in(text for _, texts in found.text for text in texts) == {"valid"}
    assert len(found.judged) == len(found.looked) == len(found.text) == 3
    rows = read_metrics(found.folder)
    assert [row["gold/mean"] for row in rows] == [1, 2, 3]
    assert [row["pretrain/loss"] for row in rows] == [1.5] * 3  # 6 nats over 4 tokens


def test_the_tokens_of_a_batch_are_those_of_its_prompts_and_iterations_differ(rl, tokenizer):
    found = rl()
    for call in found.asked:
        assert [" ".join(t.split()) for t in texts_of_rows(tokenizer, call.batch.prompts.tokens)] == [
            " ".join(p.text.split()) for p in call.prompts
        ]
        assert call.batch.pretrain.tokens.shape[:2] == (4, 2)
    drawn = [p.text for call in found.asked for p in call.prompts]
    assert len(set(drawn)) == 12  # three batches of four are every prompt once
    first = found.asked[0].batch.pretrain.tokens
    assert not np.array_equal(first, found.asked[1].batch.pretrain.tokens)


def test_answers_to_one_prompt_are_neighbours(rl):
    found = rl(answers=2)
    for call in found.asked:
        names = [p.text for p in call.prompts]
        assert names[0] == names[1] != names[2] == names[3]


def test_whose_parameters_rl_starts_from_and_what_is_handed_on(rl, models):
    """The reference is the start; the value network starts as the reward model, or as the one given, which is none."""
    found = rl()
    first = found.asked[0]
    assert [float(p["bias"]) for p in (first.state.policy, first.state.ema, first.frozen.sft)] == [0, 0, 0]
    assert [float(r["bias"]) for r in first.frozen.reward] == [500]
    assert float(first.state.value["bias"]) == 500
    assert [float(call.frozen.sft["bias"]) for call in found.asked] == [0, 0, 0]
    assert [float(call.state.policy["bias"]) for call in found.asked] == [0, 1, 2]
    for name in first.coef._fields:
        assert float(getattr(first.coef, name)) == pytest.approx(float(getattr(found.c, name))), name
    value = models("value", 700.0, scalar=True)
    others = [models("one", 501.0, scalar=True), models("two", 502.0, scalar=True)]
    rl(folder="other", reward=others, value=value)
    again = found.asked[3]
    assert float(again.state.value["bias"]) == 700
    assert [float(r["bias"]) for r in again.frozen.reward] == [501, 502]


def test_the_result_is_the_moving_average_and_looks_are_at_what_learns(rl):
    found = rl()
    assert float(found.made.params()["bias"]) == 30
    assert float(stages.trained(found.folder).params()["bias"]) == 30
    for number, ((one, _), (other, _)) in enumerate(zip(found.looked, found.text, strict=True), 1):
        assert one == other and one in (number, 10 * number)  # the policy, or its average


def test_the_best_checkpoint_has_the_largest_figure(rl):
    """Scores 1, 5, 3: the second stays beside the last."""
    found = rl(run=replace(RUN, runtime=replace(RUN.runtime, best="objective/scores")))
    best = stages.trained(found.folder, best=True)
    assert best.step == 2 and float(best.params()["bias"]) == 20
    assert stages.trained(found.folder).step == 3


def test_moments_of_scores_are_of_the_start_s_answers_to_training_prompts(rl, models, tokenizer, monkeypatch):
    policy, seen = module("policy"), SimpleNamespace(texts=[], params=[])

    def answers_of(model, params, prompts, key, sampling, batch):
        seen.texts += texts_of_rows(tokenizer, prompts.tokens)
        seen.params.append(float(params["bias"]))
        return SimpleNamespace(concat=lambda: ("tokens", "mask"))

    def scores_of(model, tokens, mask, *, batch, params):
        return np.array([1.0, 2.0, 6.0], np.float32) + params["bias"] - 500

    monkeypatch.setattr(policy, "answers_of", answers_of)
    monkeypatch.setattr(policy, "scores_of", scores_of)
    c = stages.PPO(iterations=1, batch=4, minibatches=2, score_norm="fixed").plain()
    found = rl(c=c, judge=None, text=None)
    assert parts_in(seen.texts) == {"train"} and seen.params == [0]
    moments = found.asked[0].state.scores
    assert [float(m) for m in (moments.count, moments.mean, moments.squares)] == pytest.approx([3, 3, 14])


class Drawn(NamedTuple):
    y: Response


def test_a_reward_function_is_given_each_prompt_with_its_own_answer(models, tokenizer, tmp_path):
    """And its scores come to the answers that they are of."""
    said, T = [], FORMAT.answer_tokens

    def sample(state, prompts, frozen, *, models, plan):
        # Every answer is the end of its prompt: "Say train number 3.\n\nAssistant:"
        tokens, mask = prompts.tokens[:, -T:], prompts.mask[:, -T:]
        return Drawn(Response(tokens, mask, tokens * 0.0, tokens[:, 0] * 0.0, None))

    def learn(state, x, scores, text, coef, frozen, **fixed):
        rows = jnp.sum(jnp.where(x.y.mask, x.y.tokens, 0), axis=1).astype(jnp.float32)
        right = jnp.sum(jnp.abs(scores[0] - rows))
        after = replace(state, step=state.step + 1)
        return after, {"wrong": Mean(right, jnp.float32(1)), "objective/kl": Mean(right, jnp.float32(1))}

    def reward(prompts, answers, rows):
        said.extend(zip(prompts, answers, strict=True))
        ids = [tokenizer.encode(p.text)[-T:] for p in prompts]
        return [float(sum(row)) for row in ids]

    start = models("start", 0.0)
    c = stages.PPO(iterations=2, batch=4, minibatches=2).plain()
    halves = Iteration(sample, learn, has_value=False)
    stages.policy(tmp_path / "policy", start, reward, marked("prompts"), c, RUN, iteration=halves)
    assert [row["wrong"] for row in read_metrics(tmp_path / "policy")] == [0, 0]
    assert len(said) == 8 and len({p.text for p, _ in said}) == 8
    assert parts_in(p.text for p, _ in said) == {"train"}
    for prompt, answer in said:
        assert prompt.text.endswith(answer) and len(answer) > 5


# Supervised learning.


@pytest.fixture
def supervised(models, tokenizer, tmp_path, monkeypatch):
    """A run of SFT whose step adds 1 to the parameters, with these losses of its epochs on validation rows."""
    stage, seen = module("supervised"), SimpleNamespace(rows=[], held=[], written=[])
    losses = [3.0, 1.0, 2.0]

    def step(state, batch, coef, *, model, optimiser, schedule):
        seen.rows.append(batch)
        return replace(state, step=state.step + 1, params=moved(state.params, 1)), {"loss/train": Mean(1.0, 1.0)}

    def per_row(model, params, rows, *, batch):
        seen.held.append((float(params["bias"]), texts_of_rows(tokenizer, rows.tokens)))
        return -losses[len(seen.held) - 1] * np.ones(2), np.ones(2), None

    monkeypatch.setattr(stage, "mapped", lambda program, *where: program)
    monkeypatch.setattr(stage, "shard_rows", lambda batch, mesh: batch)
    monkeypatch.setattr(stage, "per_row", per_row)

    def train(**more):
        c = stages.Supervised(epochs=3, batch=6, pretrain_share=0.34)
        text = marked("text").train
        made = stages.supervised(
            tmp_path / "sft", models("base", 0.0), marked("demonstrations"), c, RUN, text=text, step=step, **more
        )
        return SimpleNamespace(**vars(seen), made=made)

    return train


def test_sft_learns_from_training_demonstrations_and_is_looked_at_on_validation(supervised, tokenizer):
    found = supervised()
    assert len(found.rows) == 9  # 12 demonstrations, of which 4 are in a batch of 6
    texts = [texts_of_rows(tokenizer, batch.tokens) for batch in found.rows]
    assert parts_in(text for rows in texts for text in rows) == {"train"}
    for rows in texts:
        assert [("I say" in row, "book" in row) for row in rows] == [(True, False)] * 4 + [(False, True)] * 2
    assert len({row for rows in texts[:3] for row in rows[:4]}) == 12  # an epoch has each demonstration once
    assert parts_in(text for _, rows in found.held for text in rows) == {"valid"}
    assert [number for number, _ in found.held] == [3, 6, 9]  # the parameters at the end of each epoch


def test_the_best_epoch_has_the_least_validation_loss(supervised):
    found = supervised()
    best = stages.best_epoch(found.made)
    assert best.step == 6 and float(best.params()["bias"]) == 6


def test_the_chosen_epoch_has_the_best_reward_on_the_prompts_given(supervised, models, tokenizer, monkeypatch):
    """Rewards 1, 2, 7 of the answers of epochs 1, 2, 3, whose losses are 3, 1, 2."""
    stage, found, asked = module("supervised"), supervised(), []
    reward = models("reward_model", 500.0, scalar=True)

    def answers_of(model, params, prompts, key, sampling, batch):
        asked.append((float(params["bias"]), texts_of_rows(tokenizer, prompts.tokens)))
        return SimpleNamespace(concat=lambda: (float(params["bias"]), None))

    def scores_of(model, tokens, mask, *, batch):
        assert model.folder.name == "reward_model"
        return np.array({3: [0.0, 2.0], 6: [1.0, 3.0], 9: [6.0, 8.0]}[tokens])

    monkeypatch.setattr(stage, "answers_of", answers_of)
    monkeypatch.setattr(stage, "scores_of", scores_of)
    chosen = stages.choose_epoch(found.made, reward, marked("prompts").valid, RUN)
    assert chosen.step == 9 and float(chosen.params()["bias"]) == 9
    assert [number for number, _ in asked] == [3, 6, 9]
    assert parts_in(text for _, texts in asked for text in texts) == {"valid"}
    assert stages.trained(found.made.folder).step == 9
    assert stages.choose_epoch(found.made, reward, [], RUN).step == 6  # without prompts the least loss tells
    assert stages.trained(found.made.folder).step == 6
    assert stages.choose_epoch(found.made, reward, marked("prompts").valid, RUN).step == 9


@pytest.mark.parametrize(
    ("c", "more"), [({}, ["begun"]), ({"cut_off": False}, []), ({"off_topic": True}, ["begun", "other"])]
)
def test_a_reward_model_learns_the_rankings_in_their_order_and_is_centred_on_demonstrations(
    models, tokenizer, tmp_path, monkeypatch, c, more
):
    """And with each ranking, unless it is told not to, one of the answers without its end, of rank −1; and if it is told to,
    one of another's answers."""
    c = stages.Reward(epochs=2, batch=4, **c)
    stage, rows, centred, others = module("reward_model"), [], [], Counter()

    def step(state, batch, coef, *, model, optimiser, schedule):
        rows.append(batch)
        return replace(state, step=state.step + 1, params=moved(state.params, 1)), {"loss/train": Mean(1.0, 1.0)}

    def scores_of(model, tokens, mask, *, batch, params):
        centred.append((texts_of_rows(tokenizer, tokens), np.asarray(mask), np.asarray(tokens)))
        return np.array([0.0, 2.0], np.float32) + params["bias"]

    def first_params(start, run, mesh, role):
        return {"bias": jnp.float32(0.5)}, None

    monkeypatch.setattr(stage, "mapped", lambda program, *where: program)
    monkeypatch.setattr(stage, "shard_rows", lambda batch, mesh: batch)
    monkeypatch.setattr(stage, "scores_of", scores_of)
    monkeypatch.setattr(stage, "first_params", first_params)
    given = {"centre_on": marked("demonstrations").valid, "step": step}
    made = stages.reward_model(tmp_path / "reward", models("sft", 0.0), marked("rankings").train, c, RUN, **given)
    assert len(rows) == 6 and made.scalar
    for batch in rows:
        texts = np.array(texts_of_rows(tokenizer, batch.tokens)).reshape(4, 2 + len(more))
        assert batch.mask[..., -8:].any()  # without the columns that only rows of other batches need
        assert parts_in(text for text in texts.ravel() if text) == {"train"}
        better = np.array([["Good" in text for text in pair] for pair in texts[:, :2]])
        assert (batch.ranks[:, :2] == np.where(better, 1, 2)).all()
        ended = (batch.tokens == tokenizer.eos).any(axis=2)
        assert ended[:, :2].all()
        for pair, slots, ranks, ends in zip(texts[:, :2], texts[:, 2:], batch.ranks[:, 2:], ended[:, 2:], strict=True):
            for kind, text, place, end in zip(more, slots, ranks, ends, strict=True):
                assert place == (-1 if text else 0) and end == (kind == "other" and text != "")
                assert kind == "other" or any(whole.startswith(text) for whole in pair)
                others[kind] += bool(text) and not any(whole.startswith(text) for whole in pair)
    assert ("other" in more) == (others["other"] > 12) and not others[
        "begun"
    ]  # of 24; it is empty where drawn is its own
    assert float(made.params()["bias"]) == -1  # where the mean of the two, 1 above it, is 0
    ((texts, mask, tokens),) = centred
    assert parts_in(texts) == {"valid"} and all("I say" in text for text in texts)
    assert (mask == (tokens != tokenizer.pad)).all() and (tokens == tokenizer.eos).sum() == len(texts)


# Answers and labelers.


def test_labelers_rank_answers_of_the_model_to_the_last_training_prompts(models, tmp_path, monkeypatch):
    stage, asked = module("answers"), []

    def texts_of(model, params, prompts, key, sampling, batch):
        asked.append((float(params["bias"]), [p.text for p in prompts]))
        return [f"{i} of {MARK.search(p.text)[0]}." for i, p in enumerate(prompts)]

    monkeypatch.setattr(stage, "texts_of", texts_of)
    c = AnswersToRank(prompts=5, fewest=2, most=3)
    found = stages.sample_answers(tmp_path / "answers", models("writer", 3.0), marked("prompts").train, c, RUN)
    assert [number for number, _ in asked] == [3]
    assert [row.prompt for row in found.rows] == list(marked("prompts").train[-5:])
    for row in found.rows:
        assert 2 <= len(row.answers) <= 3
        assert {MARK.search(answer)[0] for answer in row.answers} == {MARK.search(row.prompt.text)[0]}


@pytest.fixture(scope="module")
def world():
    return stages.from_world(stages.World(40, prompts=150, demonstrations=4, labelers=2, heldout_labelers=1), 0)


def test_who_ranks_for_training_are_the_training_labelers(world):
    truth = world.truth
    assert [one.name for one in stages.simulated(truth)] == [one.name for one in truth.labelers]
    assert not {one.name for one in truth.labelers} & {one.name for one in truth.heldout_labelers}
    assert len(truth.labelers) == 2 and len(truth.heldout_labelers) == 1
    prompt = world.prompts.train[0]
    right = " ".join(sorted(truth.question(prompt).wanted)) or "Yes."
    for one, of in zip(stages.simulated(truth), truth.labelers, strict=True):
        answers = (right, "No.", "Blah blah blah blah blah blah.")
        assert one.rank(prompt, answers) == rank(of, truth.gold, truth.question(prompt), answers)


def test_labelers_have_the_habits_that_the_settings_say():
    """All of them, each in its place."""
    size = {"documents": 10, "prompts": 60, "demonstrations": 4, "labelers": 2, "heldout_labelers": 1}
    said = {"noise": 1.0, "position_bias": 2.0, "length_bias": 3.0, "flips": 0.25, "abstains": 0.5}
    truth = stages.from_world(stages.World(**size, **said), 0).truth
    for labeler in (*truth.labelers, *truth.heldout_labelers):
        assert labeler.habits == Habits(noise=1.0, position=2.0, length=3.0, flips=0.25, abstains=0.5)
    assert stages.World().habits == Habits()
    prompt = next(iter(truth.asked))
    answers = [stages.simulated(replace(truth, labelers=[labeler._replace(habits=Habits(abstains=1.0))]))[0].rank(
        Prompt(prompt), ("Yes.", "No.")) for labeler in truth.labelers]  # fmt: skip
    assert answers == [Opinion(skipped="abstains")] * 2


# Evaluation.


class Pupil(NamedTuple):
    """What a model says of everything: its answer's words, and its log-probability of each token."""

    says: str
    logp: float
    loss: float


PUPILS = {
    "base": Pupil("nothing", -3.0, 4.0),
    "sft": Pupil("fair", -2.0, 3.0),
    "ppo": Pupil("fair", -1.5, 6.0),
    "ppo_ptx": Pupil("good", -1.0, 2.0),
    "rl_init": Pupil("start", -2.5, 2.5),
}
REWARDS = {"nothing": 0.0, "start": 1.0, "fair": 2.0, "good": 3.0}


@pytest.fixture
def evaluation(models, tokenizer, tmp_path, monkeypatch):
    """An evaluation by the reward model of what PUPILS say, and what was read."""
    figures, seen = module("evaluation"), SimpleNamespace(asked={}, text={}, rows=[], ends={})
    names = {float(i): name for i, name in enumerate(PUPILS)}
    pupils = {name: models(name, i) for i, name in names.items()}
    reward, T = models("reward_model", 500.0, scalar=True), FORMAT.answer_tokens

    def answers_of(model, params, prompts, key, sampling, batch):
        name = names[float(params["bias"])]
        seen.asked.setdefault(name, []).extend(texts_of_rows(tokenizer, prompts.tokens))
        ids = [*tokenizer.encode(PUPILS[name].says), tokenizer.eos]
        tokens = np.full((len(prompts.tokens), T), tokenizer.pad, np.int32)
        tokens[:, : len(ids)] = ids
        mask = np.arange(T) < np.full((len(tokens), 1), len(ids))
        return Answers(prompts, Response(tokens, mask, tokens * 0.0, tokens[:, 0] * 1.0, None))

    def scores_of(model, tokens, mask, *, batch, params=None):
        assert float(params["bias"]) == 500
        texts = texts_of_rows(tokenizer, tokens)
        seen.rows += texts
        known = {**REWARDS, "Good": 9.0, "Bad": 8.0}
        said = [
            next((value for word, value in known.items() if word in text.rpartition(":")[2]), -5.0) for text in texts
        ]
        return np.array(said, np.float32)

    def per_row(model, params, rows, *, batch):
        name = names[float(params["bias"])]
        seen.text.setdefault(name, []).extend(texts_of_rows(tokenizer, rows.tokens))
        tokens = rows.predict[:, 1:].sum(axis=1)
        return -PUPILS[name].loss * tokens, tokens.astype(float), None

    def log_ratio_rows(decoder, sampling, T):
        def of_rows(both, tokens, mask):
            ours, theirs = (PUPILS[names[float(params["bias"])]].logp for params in both)
            return (ours - theirs) * mask[:, -T:].sum(axis=1)

        return of_rows

    def likelihood(model, params, rows, *, batch, length):
        name = names[float(params["bias"])]
        seen.ends.setdefault(name, []).extend(tokenizer.decode([*row.context[1:], *row.target]) for row in rows)
        return SimpleNamespace(greedy=np.arange(len(rows)) == 0)

    for fake in (answers_of, scores_of, per_row, log_ratio_rows, likelihood):
        monkeypatch.setattr(figures, fake.__name__, fake)
    monkeypatch.setattr(module("agreement"), "scores_of", scores_of)
    monkeypatch.setattr(module("report"), "page", lambda out, *rest: (out / "report.html").write_text("page"))
    data = stages.DataSets(*(marked(kind) for kind in ("text", "demonstrations", "prompts", "rankings")))
    given = {"reward": reward, "settings": Evaluate(prompts=3), "run": RUN}

    def evaluate():
        found = stages.evaluate(tmp_path, pupils, data, writer=pupils["sft"], answers=AnswersToRank(), **given)
        return {name: {key: e.mean for key, e in each.items()} for name, each in found.items()}

    def compare():
        others = [pupils["sft"], pupils["base"]]
        found = stages.compare(tmp_path / "x.json", "mine", pupils["ppo_ptx"], others, pupils["rl_init"], data, **given)
        return {key: e.mean for key, e in found.items()}

    return SimpleNamespace(evaluate=evaluate, compare=compare, seen=seen)


def answer_length(tokenizer, name):
    return len(tokenizer.encode(PUPILS[name].says)) + 1


def test_an_evaluation_reads_what_is_held_out_and_its_figures_have_their_signs(evaluation, tokenizer):
    found, seen = evaluation.evaluate(), evaluation.seen
    assert parts_in(text for texts in seen.asked.values() for text in texts) == {"test"}
    assert seen.asked.keys() == set(PUPILS)
    assert all(len(set(texts)) == 3 for texts in seen.asked.values())  # some are shown, and drawn again
    assert parts_in(text for texts in seen.text.values() for text in texts) == {"valid"}
    assert seen.text.keys() == set(PUPILS)
    assert parts_in(text for texts in seen.ends.values() for text in texts) == {"valid"}
    assert all(
        text.endswith("and what it is.") for texts in seen.ends.values() for text in texts
    )  # of 40 words the last

    assert found.keys() == {*PUPILS, "reward_model"}
    ptx, sft, base, start = (found[name] for name in ("ppo_ptx", "sft", "base", "rl_init"))
    assert ptx["win_rate/vs_sft"] == ptx["win_rate/vs_base"] == 1
    assert found["ppo"]["win_rate/vs_sft"] == 0.5 and found["ppo"]["win_rate/vs_base"] == 1
    assert base["win_rate/vs_sft"] == 0 and "win_rate/vs_base" not in base and "win_rate/vs_sft" not in sft
    assert start["win_rate/vs_sft"] == 0 and start["win_rate/vs_base"] == 1 and start["kl/from_rl_init"] == 0
    for name, said in PUPILS.items():
        figures = found[name]
        length = answer_length(tokenizer, name)
        assert figures["reward"] == REWARDS[said.says]
        assert figures["length"] == length and figures["ended"] == 1
        # Of its own answers, above where RL started
        assert [key for key in figures if key.startswith("kl/")] == ["kl/from_rl_init"]
        assert figures["kl/from_rl_init"] == pytest.approx((said.logp - PUPILS["rl_init"].logp) * length)
        assert figures["pretrain/loss"] == pytest.approx(said.loss)
        assert figures["closed/last_word"] == pytest.approx(1 / len(seen.ends[name]))


def test_the_reward_model_s_accuracy_is_of_the_part_that_it_says(evaluation):
    found = evaluation.evaluate()["reward_model"]
    assert found["accuracy/valid"] == found["accuracy/test"] == 1  # "Good" is above "Bad" in every ranking
    ranked = [text for text in evaluation.seen.rows if "Good" in text or "Bad" in text]
    counts = {part: sum(f"{part} number" in text for text in ranked) for part in PARTS}
    assert counts == {"train": 0, "valid": 12, "test": 8}


def test_a_comparison_is_with_the_others_and_the_kl_is_from_the_start(evaluation, tokenizer):
    figures, seen = evaluation.compare(), evaluation.seen
    assert figures["win_rate/vs_sft"] == figures["win_rate/vs_base"] == 1
    assert [key for key in figures if key.startswith("kl/")] == ["kl/from_rl_init"]
    assert figures["kl/from_rl_init"] == pytest.approx(1.5 * answer_length(tokenizer, "ppo_ptx"))
    assert figures["pretrain/loss"] == pytest.approx(2.0) and figures["reward"] == 3
    assert parts_in(text for texts in seen.asked.values() for text in texts) == {"test"}
    assert parts_in(text for texts in seen.text.values() for text in texts) == {"valid"}


def test_the_judge_of_the_world_is_asked_for_the_test_prompts_and_their_own_questions(models, world):
    reward, start = models("reward_model", 500.0, scalar=True), models("start", 0.0)
    start = replace(start, format=stages.Format(200, 16))
    judge = stages.judge_of(world, start, reward, Evaluate(prompts=4))
    assert judge.prompts == list(world.prompts.test)[:4]
    assert judge.questions == [world.truth.question(p) for p in judge.prompts]
    assert [prompt_text(q.text) for q in judge.questions] == [p.text for p in judge.prompts]
    assert float(judge.reward.params["bias"]) == 500


def test_the_world_s_truth_asks_what_no_training_prompt_does(world, monkeypatch):
    figures, asked = module("evaluation"), []

    def written_by(this, prompts, role, c, run):
        asked.extend(p.text for p in prompts)
        return None, ["Yes."] * len(prompts)

    monkeypatch.setattr(figures, "written_by", written_by)
    monkeypatch.setattr(figures, "likeliest", lambda model, params, choices, **more: [0] * len(choices))
    tokenizer = SimpleNamespace(
        encode=lambda text: [1], encode_continued=lambda text: [2], eos=0, chat=None, opening=()
    )
    model = SimpleNamespace(decoder=None, tokenizer=tokenizer, format=FORMAT)
    monkeypatch.setattr(figures, "LanguageModel", lambda decoder: None)
    figures.truthful(figures.Loaded(model, None), world.truth, Evaluate(), RUN)
    trained_on = {p.text for part in (world.prompts.train, world.prompts.valid) for p in part}
    assert asked and not trained_on & set(asked)


def test_agreement_is_with_each_pool_s_own_labelers_on_test_prompts(world, models, monkeypatch):
    """A reward model that is of one mind with the held-out labeler, and not with the others."""
    agreement, truth, asked = module("agreement"), world.truth, []
    (heldout,) = truth.heldout_labelers
    long = stages.Format(prompt_tokens=200, answer_tokens=300)

    def drawn(model, prompts, answers, run, role):
        asked.extend(prompts)
        assert model.folder.name == "writer"
        right = [" ".join(sorted(truth.question(p).wanted)) for p in prompts]
        return [(each, each[: len(each) // 2] or "?", "No.", "No, you zonk.") for each in right]

    def reward_of(reward, rows, run):
        found = np.zeros(rows.ranks.shape, np.float32)
        for i, (p, texts) in enumerate(zip(asked, drawn_rows, strict=True)):
            found[i, : len(texts)] = [impression(heldout, truth.gold, truth.question(p), t) for t in texts]
        return found

    drawn_rows = []

    def keep(*given):
        drawn_rows.extend(drawn(*given))
        return drawn_rows

    monkeypatch.setattr(agreement, "draw_answers", keep)
    monkeypatch.setattr(agreement, "reward_of", reward_of)
    reward, writer = models("reward_model", 500.0, scalar=True), models("writer", 1.0)
    reward, writer = replace(reward, format=long), replace(writer, format=long)
    found = stages.agreement_on(world, stages.Loaded(reward, None), writer, AnswersToRank(), Evaluate(prompts=50), RUN)
    assert {p.text for p in asked} <= {p.text for p in world.prompts.test}
    assert found["accuracy/heldout_labelers"].mean == 1
    assert 0.5 < found["accuracy/train_labelers"].mean < 1 and 0.5 < found["accuracy/gold"].mean < 1


# The programs: what is made from what.


@pytest.fixture
def drawn_up(monkeypatch, world):
    """A program's stages write down what they are made from and make nothing; a model is its name."""
    made: dict[str, tuple] = {}

    def use(program, *names, **values):
        for name in names:

            def stage(folder, *given, stage_name=name, **more):
                made[folder.name] = (given, more)
                return folder.name

            monkeypatch.setattr(program, name, stage)
        for name, value in values.items():
            monkeypatch.setattr(program, name, value)
        return made

    return use


def test_what_is_made_from_what_in_the_recipe(drawn_up, world, tmp_path, monkeypatch):
    made = drawn_up(
        instructgpt,
        *("pretrain", "supervised", "sample_answers", "ask", "reward_model", "policy"),
        data_sets=lambda settings, seed: world,
        starting_model=lambda *given: "random",
        data_that_fit=lambda data, start: data,
        with_lora=lambda model, lora: model,
        best_epoch=lambda model: f"best of {model}",
        choose_epoch=lambda model, reward, prompts, run: ("chosen", model, reward, prompts),
        evaluate=lambda out, *given, **more: made.update(evaluate=(given, more)),
    )
    c = small_run.recipe(tmp_path, "--reward-models", "2")
    instructgpt.recipe(c)
    text, demonstrations, prompts, judge = world.text, world.demonstrations, world.prompts, world.truth.judge
    run = c.run
    assert made["pretrain"] == (("random", text.train, c.pretrain, run), {})
    assert made["sft"] == (("pretrain", demonstrations, c.sft, run), {"text": text.train})
    assert made["comparisons"] == (("best of sft", prompts.train, c.answers, run), {})
    (answers, labelers, _), _ = made["rankings"]
    assert answers == "comparisons" and [one.name for one in labelers] == ["train-0", "train-1"]
    more = {"valid": world.rankings.valid, "centre_on": demonstrations.train}
    for name in ("reward_model", "reward_model_2"):
        assert made[name] == (("best of sft", "rankings", c.reward, run), more)
    assert made["rl_init"] == (("pretrain", demonstrations, c.rl_init, run), {"text": text.train})
    rewards = ["reward_model", "reward_model_2"]
    for name, settings in (("ppo", c.ppo.plain()), ("ppo_ptx", c.ppo)):
        assert made[name] == (("rl_init", rewards, prompts, settings, run), {"text": text, "judge": judge})
    (models, data, reward, writer, *_), _ = made["evaluate"]
    chosen = ("chosen", "sft", "reward_model", prompts.valid)
    assert models == {"base": "pretrain", "sft": chosen, "ppo": "ppo", "ppo_ptx": "ppo_ptx", "rl_init": "rl_init"}
    assert (data, reward, writer) == (world, "reward_model", "best of sft")


@pytest.mark.parametrize("program", [ppo_ptx, grpo], ids=["ppo_ptx", "grpo"])
def test_what_is_made_from_what_in_a_later_program(drawn_up, world, tmp_path, program):
    asked = []
    made = drawn_up(
        program,
        "policy",
        model_in=lambda folder, *where: f"start in {folder}",
        trained_in=lambda folders, *where: [f"model in {each.strip()}" for each in folders.split(",")],
        rewards_in=lambda *given: given,
        environment_in=lambda name: f"environment of {name}",
        data_of=lambda model, settings, seed: asked.append(model) or world,
        prompts_that_fit_all=lambda prompts, start: prompts,
        compare=lambda path, *given, **talk: made.update(compare=given, talk=talk),
    )
    given = program.Given("init", "r1, mine.py:f", "1, 2", "env.py", "sft, base")
    of_ppo = {"ppo": stages.PPO(batch=8, minibatches=2), "episodes": stages.Episodes(turns=3)}
    c = replace(program.Config(out=str(tmp_path)), given=given, **of_ppo)
    rewards_given = ("r1, mine.py:f", "1, 2", "start in init", world.truth, "environment of env.py")
    program.main(c)
    (name,) = set(made) - {"compare", "talk"}
    assert asked == ["start in init"]
    (start, rewards, prompts, settings, run), more = made[name]
    assert (start, rewards, settings) == ("start in init", rewards_given, c.ppo) and run == c.run
    assert prompts == world.prompts and more["text"] is world.text
    assert made["talk"] == {"environment": "environment of env.py", "episodes": stages.Episodes(turns=3)}
    assert made["talk"].items() <= more.items()
    assert more["judge"]([world.prompts.test[0]], ["No."]).keys() == {"gold/mean"}
    _, model, others, reference, data, reward, *_ = made["compare"]
    assert (model, others) == (name, ["model in sft", "model in base"])
    assert (reference, data, reward) == ("start in init", world, rewards_given)


@pytest.mark.parametrize("source", ["rankings.jsonl", ""])
def test_preferences_are_learned_from_the_rankings_given_or_those_for_training(drawn_up, world, tmp_path, source):
    """Of a file, from those that do not ask what is held out, whether or not that fits."""
    data = replace(world, rankings=marked("rankings"))
    read = [Ranking(prompt, ("Yes.", "No."), (1, 2)) for prompt in ("Say a.", world.prompts.test[0].text, "Say b.")]
    made = drawn_up(
        dpo,
        "preference",
        model_in=lambda folder, *where: f"model in {folder}",
        trained_in=lambda folders, *where: folders,
        read_rankings=lambda source: read,
        data_of=lambda model, settings, seed, **how: data,
        prompts_that_fit_all=lambda prompts, start: stages.Parts(prompts.train),
        compare=lambda path, *given: made.update(compare=given),
    )
    c = replace(dpo.Config(out=str(tmp_path)), given=dpo.Given("init", source, "r1", "sft"))
    dpo.main(c)
    rankings = [read[0], read[2]] if source else data.rankings.train
    assert made["preference"] == (("model in init", rankings, c.preference, c.run), {})
    name, model, others, reference, given, reward, *_ = made["compare"]
    assert (name, model, others, reference, reward) == ("dpo", "preference", "sft", "model in init", "model in r1")
    assert given == replace(data, prompts=stages.Parts(world.prompts.train))


def test_pairs_are_two_answers_of_one_ranking_the_better_first(models, tokenizer):
    stage = module("preference")
    rankings = marked("rankings").train
    passes = Epochs(1, len(rankings), 4)
    of_step = stage.pairs(rankings, models("start", 0.0), passes, RUN, "dpo")
    for i in range(3):
        chosen, rejected = (texts_of_rows(tokenizer, side.tokens) for side in of_step(i))
        for good, bad in zip(chosen, rejected, strict=True):
            assert "Good" in good and "Bad" in bad
            assert MARK.findall(good)[0] == MARK.findall(bad)[0] and MARK.findall(good)[0][0] == "train"
