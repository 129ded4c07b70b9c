"""What an evaluation's figures are made of: which draws their intervals are over, and what their KL is of."""

import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import Prompt, train_tokenizer
from rlhf_jax.data.world import OCCUPATIONS, PEOPLE, PLACES, Question
from rlhf_jax.evals import RATING, SHARE, Answers, Estimate, mean_interval, paired_interval
from rlhf_jax.labelers import RANGE
from rlhf_jax.models import LanguageModel, Sampling, TransformerConfig, hidden_states, logits
from rlhf_jax.stages import Evaluate, Loaded, Trained, alignment_tax, distance, helpful
from rlhf_jax.stages.evaluation import Judge, Written, harmless, log_ratio_rows, subjects, truthful, written_by
from rlhf_jax.stages.report import lags
from rlhf_jax.types import PromptBatch, Response

EVALUATION = sys.modules["rlhf_jax.stages.evaluation"]
CONFIG = TransformerConfig(7, 12, 8, 1, 2, 2, 16, "layernorm", "rope", "gelu", True, True, 0.0)
TRANSFORMS = {
    "plain": Sampling(1.0, 0, 1.0),
    "cold": Sampling(0.5, 0, 1.0),
    "top-k": Sampling(1.0, 2, 1.0),
    "top-p": Sampling(1.0, 0, 0.7),
    "all": Sampling(2.0, 3, 0.8),
}


# The KL.


@pytest.mark.parametrize(
    ("sampling", "ours", "theirs"),
    [
        (Sampling(1.0, 0, 1.0), (0.5, 0.3, 0.15, 0.05), (0.1, 0.2, 0.3, 0.4)),
        # At temperature ½ probabilities are squared: 25 : 9 : 2.25 : 0.25 and 1 : 4 : 9 : 16.
        (Sampling(0.5, 0, 1.0), (25 / 36.5, 9 / 36.5, 2.25 / 36.5, 0.25 / 36.5), (1 / 30, 4 / 30, 9 / 30, 16 / 30)),
        # Two tokens are left, the policy's likeliest; on them the reference is 1 : 2, though they are its unlikeliest.
        (Sampling(1.0, 2, 1.0), (0.625, 0.375), (1 / 3, 2 / 3)),
        # Three reach a mass of 0.9.
        (Sampling(1.0, 0, 0.9), (0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95), (1 / 6, 2 / 6, 3 / 6)),
        # 25 : 9 of the policy's squares, 1 : 4 of the reference's.
        (Sampling(0.5, 2, 1.0), (25 / 34, 9 / 34), (0.2, 0.8)),
    ],
)
def test_the_kl_of_a_hand_made_categorical(monkeypatch, sampling, ours, theirs):
    """Answers of one token by p = (0.5, 0.3, 0.15, 0.05) and q = (0.1, 0.2, 0.3, 0.4), one row of each that can be drawn."""
    p, q = np.log([0.5, 0.3, 0.15, 0.05]), np.log([0.1, 0.2, 0.3, 0.4])
    each = np.arange(len(ours), dtype=np.int32)[:, None]

    def over_logits(fn, model, spoken, y):
        return fn(*(jnp.tile(jnp.float32(z), (len(y), 1, 1)) for z in (p, q)), y)

    monkeypatch.setattr(EVALUATION, "over_logits", over_logits)
    monkeypatch.setattr(EVALUATION, "hidden_states", lambda *rest: (jnp.zeros((len(each), 2, 1)), None))
    rows = log_ratio_rows.__wrapped__(replace(CONFIG, vocab_size=4), sampling, 1)
    ratio = rows((None, None), np.concatenate([each, each], axis=1), np.ones((len(each), 2), bool))
    np.testing.assert_allclose(ratio, np.log(ours) - np.log(theirs), rtol=1e-5)
    assert np.sum(np.exp(ratio) * theirs) == pytest.approx(1)  # of all that can be drawn


def params_of(seed):
    ones = jnp.ones((1, 12), bool)
    found = jax.jit(LanguageModel(CONFIG).init)(jax.random.key(seed), jnp.zeros((1, 12), jnp.int32), ones)["params"]
    return jax.tree.map(lambda x: 5.0 * x, found)


def transformed(z, sampling, like):
    """log π of each token after the logits z, by hand; top-k, then top-p, keep the likeliest by the logits `like`."""
    p = np.exp(like / sampling.temperature - np.max(like / sampling.temperature))
    order = np.argsort(-p)[: sampling.top_k or None]
    mass = np.cumsum(p[order]) / p[order].sum()
    kept = order[: int(np.sum(mass < sampling.top_p)) + 1] if sampling.top_p < 1 else order
    found = np.full(len(z), -np.inf)
    found[kept] = z[kept] / sampling.temperature
    return found - np.log(np.exp(found).sum())


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_kl_goes_through_the_transform_that_the_answers_were_drawn_through(name):
    """Three prompts of 5 tokens, the answers of 4 drawn token by token by hand; a padded prompt and an early end."""
    sampling, rng, T = TRANSFORMS[name], np.random.default_rng(0), 4
    model, ours, theirs = LanguageModel(CONFIG), params_of(0), params_of(1)
    tokens, mask = rng.integers(0, 7, (3, 9)).astype(np.int32), np.ones((3, 9), bool)
    mask[0, :2] = mask[1, 7:] = False
    read = jax.jit(
        lambda params, tokens: logits(model, params, hidden_states(model, params, tokens, jnp.asarray(mask))[0])
    )
    expected = np.zeros(3)
    for t in range(9 - T, 9):
        each = [np.asarray(read(params, tokens), np.float64)[:, t - 1] for params in (ours, theirs)]
        for row in range(3):
            p, q = (transformed(z[row], sampling, each[0][row]) for z in each)
            y = tokens[row, t] = rng.choice(7, p=np.exp(p))
            expected[row] += (p[y] - q[y]) * mask[row, t]
    found = log_ratio_rows(CONFIG, sampling, T)
    np.testing.assert_allclose(found((ours, theirs), tokens, mask), expected, atol=2e-4)
    np.testing.assert_array_equal(found((ours, ours), tokens, mask), 0)  # KL(π‖π)


# A small model and world.


@pytest.fixture(scope="module")
def data():
    return stages.from_world(stages.World(60, prompts=60, demonstrations=4, labelers=2, heldout_labelers=1), 0)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    tokenizer = train_tokenizer(list(data.tokenizer_text()), 400, tmp_path_factory.mktemp("tokenizer") / "small.model")
    of = stages.described(
        stages.Decoder(layers=1, width=16, heads=2, kv_heads=2, hidden=32), tokenizer, stages.Format(50, 4)
    )
    made = Trained(of.decoder, tokenizer, of.format)
    ones = jnp.ones((1, 54), bool)
    params = jax.jit(made.of.init)(jax.random.key(0), jnp.zeros((1, 54), jnp.int32), ones)["params"]
    return Loaded(made, params)


RUN = stages.Run(runtime=stages.Runtime(batch=32))


def test_figures_are_over_facts_people_and_occupations(data, model):
    """A model that was not trained says all kinds of things; what is asked is how many draws there are."""
    world = data.truth.world
    held = [fact.subject in world.held_out for fact in world.facts if fact.myth]
    found = truthful(model, data.truth, Evaluate(), RUN)
    of = {"truth": sum(held), "truth_trained": len(held) - sum(held)}
    assert of == {"truth": 5, "truth_trained": 11}
    kinds = ("multiple_choice", "generated", "informative")
    assert {name: figure.n for name, figure in found.items()} == {f"{k}/{x}": n for k, n in of.items() for x in kinds}
    found = harmless(model, data.truth, Evaluate(), RUN, draws=1)
    assert {name: figure.n for name, figure in found.items()} == {
        **{f"rudeness/{tone}": 5 for tone in ("none", "respectful", "rude")},  # occupations that are held out
        "bias/entropy_bits": len(OCCUPATIONS),
    }
    found = alignment_tax(model, data, RUN)
    assert found["closed/facts"].n == len(PEOPLE) + len(PLACES)
    ends = {" ".join(document.split()[:25]) for document in data.text.valid}
    assert 10 < found["closed/last_word"].n <= len(ends)
    for figure in found.values():
        assert figure.low < figure.mean < figure.high or figure.mean in (0, 1)


def test_questions_are_apart_by_whether_prompts_for_training_name_whom_they_are_about(data, model, monkeypatch):
    """A model that answers right about whom it was trained on, and says the myth of the others."""
    world = data.truth.world
    by_question = {fact.question: fact for fact in world.facts}

    def write(this, prompts, *rest):
        facts = [next(f for q, f in by_question.items() if q in prompt.text) for prompt in prompts]
        return None, [f.sentence(f.myth if f.subject in world.held_out else f.truth) for f in facts]

    monkeypatch.setattr(EVALUATION, "written_by", write)
    found = truthful(model, data.truth, Evaluate(), RUN)
    for name, expected in {"truth_trained/generated": 1, "truth_trained/informative": 1, "truth/generated": 0}.items():
        assert found[name].mean == expected
    judge = Judge("", data.prompts.test, [data.truth.question(p) for p in data.prompts.test], data.truth, model)
    named = {kind: {judge.questions[i].about for i in here} for kind, here in subjects(judge).items()}
    assert named["held_out"] <= set(world.held_out) and not named["trained"] & {*world.held_out, ""}
    assert sum(map(len, subjects(judge).values())) == sum(q.about != "" for q in judge.questions)


def test_a_rude_word_counts_whatever_was_asked_for(data, model, monkeypatch):
    """A model that does as it is told is rude where it is told to be, and nowhere else."""

    def write(this, prompts, *rest):
        return None, ["It is a ZONK." if "rudely" in prompt.text else "It is kind." for prompt in prompts]

    monkeypatch.setattr(EVALUATION, "written_by", write)
    found = harmless(model, data.truth, Evaluate(), RUN, draws=1)
    assert [found[f"rudeness/{tone}"].mean for tone in ("none", "respectful", "rude")] == [0, 0, 1]


def test_two_models_that_are_alike_write_alike(data, model):
    """All answer with the same random numbers, so that what differs between two answers is the models' doing."""
    prompts = data.prompts.test
    one, other = (
        written_by(Loaded(model.model, dict(model.params)), prompts, "evaluate", Evaluate(), RUN) for _ in range(2)
    )
    assert one[1] == other[1] and len(set(one[1])) > 1


def test_the_kl_is_named_after_its_reference_and_is_of_prompts(model):
    P, T = model.model.format.prompt_tokens, model.model.format.answer_tokens
    prompts = PromptBatch(
        np.repeat(np.arange(6, 9, dtype=np.int32)[:, None], P, axis=1)[[0, 0, 1, 2]], np.ones((4, P), bool)
    )
    y = np.random.default_rng(0).integers(6, 20, (4, T)).astype(np.int32)
    given = Response(y, np.ones((4, T), bool), y * np.float32(0), np.ones(4, np.float32), None)
    written = Written(Answers(prompts, given), [""] * 4, np.zeros(4), np.zeros(4))
    other = Loaded(model.model, jax.tree.map(lambda x: 1.5 * x, model.params))
    found = distance(model, written, other, "rl_init", Evaluate(), RUN)
    tokens, mask = written.answers.concat()
    ratio = log_ratio_rows(model.model.decoder, Sampling(1.0, 0, 1.0), T)((model.params, other.params), tokens, mask)
    assert found["kl/from_rl_init"] == pytest.approx(mean_interval(ratio, [0, 0, 1, 2]), rel=1e-5)
    assert {figure.n for figure in found.values()} == {3}
    assert found["length"].mean == T and found["length"].high == T > found["length"].low
    same = distance(model, written, model, "sft", Evaluate(temperature=0.7, top_p=0.9), RUN)
    assert same["kl/from_sft"] == Estimate(0.0, None, None, 3)
    assert distance(model, written, other, "sft", Evaluate(temperature=0.0), RUN).keys() == {"length", "ended"}


def test_two_models_are_compared_prompt_by_prompt():
    """Five answers to four prompts. A perfect answer has the gold score 5, and one of −1 or below is rated 1, the lowest."""
    asked = [Prompt(text, "chat" if i < 3 else "other") for i, text in enumerate("aabcd")]
    questions = [Question(text=p.text, category=p.category, wanted=("Yes.",)) for p in asked]
    gold = {"ppo": [4, 0, 2, -2, 1], "sft": [4, 1, 0, -8, -1]}
    written = {k: Written(None, [""] * 5, np.arange(5.0), np.array(x, float)) for k, x in gold.items()}
    judge = Judge("gold", asked, questions, None, None)
    found = helpful(judge, written, "ppo", ["ppo", "sft"])
    ours, theirs = np.array([6.0, 2, 4, 1, 3]), np.array([6.0, 3, 2, 1, 1])
    wins = [0.5, 0, 1, 1, 1]
    assert found == {
        "win_rate/vs_sft": mean_interval(wins, "aabcd", SHARE),
        "gold": mean_interval(gold["ppo"], "aabcd", RANGE),
        "rating": mean_interval(ours, "aabcd", RATING),
        "rating/minus_sft": paired_interval(ours, theirs, "aabcd", RATING),
        "rating/chat": mean_interval(ours[:3], "aab", RATING),
        "rating/other": mean_interval(ours[3:], "cd", RATING),
        "reward": mean_interval(np.arange(5.0), "aabcd"),
    }
    assert found["rating/minus_sft"].mean == pytest.approx((0 - 1 + 2 + 0 + 2) / 5) and found["rating"].n == 4
    files = helpful(judge._replace(questions=None), written, "ppo", ["sft"])
    assert files.keys() == {"win_rate/vs_sft", "reward/minus_sft", "reward"}
    assert files["reward/minus_sft"].mean == 0


def test_the_report_says_how_far_a_moving_average_is_behind(model):
    """Of the models that are one, at the end of their stage."""
    average, policy = (replace(model.model, part=part) for part in ("ema", "policy"))
    curves = {
        name: [{"step": 1, "policy/ema_lag": 0.9}, {"step": 2, "policy/ema_lag": 0.25}] for name in ("ppo", "ppo_ptx")
    }
    said = lags({"ppo": policy, "ppo_ptx": average, "base": average}, curves | {"pretrain": [], "sft": [{"step": 1}]})
    assert len(said) == 1 and said[0].startswith("PPO-ptx is the moving average") and "25 %" in said[0]
