"""The study of rankings against shuffled pairs: both arms have the same comparisons, in as many updates."""

import json
import math
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from experiments.studies.kwise_against_pairs import LAYOUT, as_pairs, before, drawn, lead, study
from rlhf_jax import stages
from rlhf_jax.data import Ranking, prompt_text, read_rankings, train_tokenizer
from rlhf_jax.runtime import Checkpoints

WORDS = [a + b for a in ("b", "d", "f", "h", "p") for b in ("ad", "en", "ill", "og")]
SHAPE = stages.Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=32, position="rope")
FORMAT = stages.Format(prompt_tokens=24, answer_tokens=16)


def published(path: Path, prompts: int, answers: int) -> str:
    """A file as alpaca-eval-prefs is, of answers of which the more is preferred the oftener "good" stands in it."""
    rng = Random(0)
    with path.open("w") as file:
        for number in range(prompts):
            responses = []
            for model in range(answers):
                words = [*rng.sample(WORDS, 3), *["good"] * (model % 4), str(model)]
                responses.append(
                    {"model": f"m{model}", "output": " ".join(words), "gpt4turbo_vs_gpt4_1106": (model % 4) / 4}
                )
            question = f"Which {rng.choice(WORDS)} thing is number {number}?"
            file.write(
                json.dumps({"id": number, "dataset": "d", "instruction": question, "responses": responses}) + "\n"
            )
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    text = [f"Human: Assistant: {' '.join(WORDS)} {number}" for number in range(60)] * 3
    tokenizer = train_tokenizer(text, 320, tmp_path_factory.mktemp("tokenizer") / "small.model")
    return stages.described(SHAPE, tokenizer, FORMAT)


def test_pairs_are_the_comparisons_of_a_ranking_each_by_itself():
    six = Ranking(prompt_text("Q?"), tuple("abcdef"), (1, 3, 2, 5, 4, 7), "Ann", "user")
    tied = Ranking(prompt_text("R?"), tuple("uvwx"), (1, 2, 2, 3), "Bob")
    pairs = as_pairs([six, tied])
    by_prompt = Counter(row.prompt for row in pairs)
    assert by_prompt == {six.prompt: math.comb(6, 2), tied.prompt: math.comb(4, 2) - 1}
    for row in (six, tied):
        its = [pair for pair in pairs if pair.prompt == row.prompt]
        assert all((pair.labeler, pair.user) == (row.labeler, row.user) and len(pair.answers) == 2 for pair in its)
        rank = dict(zip(row.answers, row.ranks, strict=True))
        above = {(a, b) for a in row.answers for b in row.answers if rank[a] < rank[b]}
        said = [pair.answers if pair.ranks[0] < pair.ranks[1] else pair.answers[::-1] for pair in its]
        assert set(said) == above and len(said) == len(above)


def test_rankings_have_four_to_nine_answers_that_fit_and_none_twice(model, capsys):
    long = " ".join(WORDS * 2)
    many = Ranking(prompt_text("Many?"), (*(f"{w} {i}" for i, w in enumerate(WORDS)), long), tuple(range(1, 22)))
    few = Ranking(prompt_text("Few?"), ("bad", "ben", "bill", long), (1, 2, 3, 4))
    alike = Ranking(prompt_text("Alike?"), ("bad", "ben", "bill", "bog", long), (2, 2, 2, 2, 1))
    found = drawn([many] * 20 + [few, alike], model, 2)
    assert {row.prompt for row in found} == {many.prompt} and 40 >= len(found) >= 38
    assert {len(row.answers) for row in found} == {4, 5, 6, 7, 8, 9}
    rank = dict(zip(many.answers, many.ranks, strict=True))
    for row in found:
        assert row.ranks == tuple(rank[answer] for answer in row.answers) and long not in row.answers
    assert not set(found[0].answers) & set(found[1].answers)
    used = sum(len(row.answers) for row in found)
    assert f"{len(found)} rankings of {used} answers; of 429 to 22 prompts 407 fit" in capsys.readouterr().err


def test_the_lead_is_a_share_of_all_pairs():
    ours = [stages.Ordered("p", "", 3.0, 4), stages.Ordered("q", "", 1.0, 6), stages.Ordered("p", "", 2.0, 2)]
    theirs = [stages.Ordered("p", "", 1.0, 4), stages.Ordered("q", "", 2.0, 6), stages.Ordered("p", "", 2.0, 2)]
    found = lead(ours, theirs)
    assert (found.mean, found.n) == (pytest.approx((2 - 1 + 0) / 12), 2)


def test_both_arms_make_as_many_updates_and_are_looked_at_after_each_pass(monkeypatch, types_are_not_checked):
    train = [Ranking(prompt_text(f"{n}?"), tuple("abcd"), (1, 2, 3, 4)) for n in range(11)]
    test = [Ranking(prompt_text("held out?"), tuple("abcd"), (1, 2, 3, 4))]
    made, looks = {}, []
    rate, run = 0.25, stages.Run(seed=7)

    def reward_model(folder, start, rows, c, its):
        assert its.runtime.keep > c.epochs and c.lr == rate and start == "start"
        made[folder] = (rows, c.batch, its.runtime.save_every, its.seed)

    def ordered(judge, rows, its):
        looks.append((*judge, rows))
        return [stages.Ordered(row.prompt, "", 6.0, 6) for row in rows]

    monkeypatch.setattr(stages, "reward_model", reward_model)
    monkeypatch.setattr(stages, "trained", lambda folder, step: (folder, step))
    monkeypatch.setattr(stages, "loaded", lambda model: model)
    monkeypatch.setattr(stages, "ordered", ordered)
    c = stages.Reward(epochs=3, batch=2, lr=rate, schedule="constant")
    figures = study(Path("out"), "start", stages.Parts(train, test=test), c, run, seeds=2)
    assert made == {
        Path("out", arm, f"seed_{seed}", "reward_model"): (rows, batch, 5, seed)
        for arm, rows, batch in (("kwise", train, 2), ("pairs", as_pairs(train), 13))
        for seed in (0, 1)
    }
    expected = [(folder, 5 * e, rows) for folder in made for e in (1, 2, 3) for rows in (train, test)]
    assert sorted(looks, key=str) == sorted(expected, key=str)
    assert set(figures) == {
        *(f"{part}/{arm}/{e}" for part in ("train", "test") for arm in ("kwise", "pairs") for e in (1, 2, 3)),
        *(f"test/lead/{e}" for e in (1, 2, 3)),
    }


@pytest.mark.long
def test_the_study_runs_on_a_file_as_it_is_published(tmp_path, types_are_not_checked):
    file = published(tmp_path / "prefs.jsonl", prompts=30, answers=14)
    vocabulary, pretrain = (
        stages.TokenizerSettings(vocab_size=320),
        stages.Pretrain(steps=20, batch=8, lr=1e-2, warmup=2),
    )
    start, rankings = before(tmp_path / "out", file, SHAPE, FORMAT, vocabulary, pretrain)
    assert not {row.prompt for row in rankings.train} & {row.prompt for row in rankings.test}
    assert len(rankings.train) > 10 and len(rankings.test) > 5
    known = {row.prompt: dict(zip(row.answers, row.ranks, strict=True)) for row in read_rankings(file, layout=LAYOUT)}
    for row in (*rankings.train, *rankings.test):
        assert all(known[row.prompt][answer] == rank for answer, rank in zip(row.answers, row.ranks, strict=True))
    figures = study(
        tmp_path / "out", start, rankings, stages.Reward(8, 4, 2e-2, schedule="constant", cut_off=False), seeds=1
    )
    updates = len(rankings.train) // 4
    for arm in ("kwise", "pairs"):
        steps = Checkpoints(tmp_path / "out" / arm / "seed_0" / "reward_model" / "checkpoints", None).steps()
        assert steps[:8] == [updates * e for e in range(1, 9)]
        assert figures[f"test/{arm}/8"].mean > 0.75 and figures[f"test/{arm}/8"].n == len(
            {r.prompt for r in rankings.test}
        )
