"""Two models' answers and a judge: figures by hand, with judges that like length, place, or nothing."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import Prompt, prompt_text
from rlhf_jax.evals import RATING, SHARE, Said, answering, length_controlled, mean_interval
from rlhf_jax.labelers import Opinion, Ranker, by_scores, read_judgements
from rlhf_jax.models import LanguageModel
from tests.refusals import refusal

PROMPTS = [Prompt(prompt_text(f"Question {i}?"), "open_qa" if i % 2 else "chat", f"user {i // 2}") for i in range(12)]


def rows(*texts):
    task = answering(PROMPTS[: len(texts)])
    return task.rows(task.items, [[Said(text, True)] for text in texts])


OURS = rows("aaa", "bb", "same", "", "c", "dddd")
THEIRS = rows("a", "bbbb", " same ", "x", "cc", "ddd")
LONGEST = by_scores("longest", lambda prompt, answers: [float(len(a)) for a in answers])


def by_hand(measured, name):
    return [row.values.get(name) for row in measured.rows]


def test_a_judge_s_win_rate_by_prompt_user_and_use_case(tmp_path, capsys):
    found = stages.win_rate(tmp_path / "out", OURS, THEIRS, LONGEST)
    assert by_hand(found, "win") == [1.0, 0.0, 0.5, 0.0, 0.0, 1.0]
    users = [0, 0, 1, 1, 2, 2]
    assert found.figures["win"] == mean_interval([1, 0, 0.5, 0, 0, 1], users, SHARE)
    assert found.figures["win/chat"] == mean_interval([1, 0.5, 0], [0, 1, 2], SHARE)
    assert found.figures["win/open_qa"] == mean_interval([0, 0, 1], [0, 1, 2], SHARE)
    assert by_hand(found, "length") == [3, 2, 4, 0, 1, 4] and by_hand(found, "length/theirs") == [1, 4, 4, 1, 2, 3]
    assert by_hand(found, "longer") == [1.0, 0.0, 0.5, 0.0, 0.0, 1.0]
    assert found.figures["position/first"].mean == 0.5 and found.figures["consistent"].mean == 1.0
    said = capsys.readouterr().err
    assert "of 6 pairs of answers 1 tie without a judge, as they are alike; 1 have an empty answer" in said
    assert "no win_length_controlled: a length-controlled win rate takes ten prompts" in said
    judgements = read_judgements(str(tmp_path / "out" / "judgements.jsonl"))
    assert len(judgements) == 8 and [one.ranks for one in judgements[:2]] == [(1, 2), (2, 1)]
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["win"]["mean"] == pytest.approx(2.5 / 6)
    assert stages.duels_of(found, "a", "b")[0] == ("a", "b", 1.0, "user 0")


def test_a_liking_for_what_stands_first_cancels_and_is_reported(tmp_path):
    first = Ranker(
        "first", lambda prompt, answers: (1, 2) if "0" in prompt.text else (2, 1) if "5" in prompt.text else (1, 1)
    )
    found = stages.win_rate(tmp_path / "out", OURS, THEIRS, first)
    assert by_hand(found, "win") == [0.5, 0.5, 0.5, 0.0, 0.5, 0.5]
    assert by_hand(found, "position/first") == [1.0, 0.5, None, None, 0.5, 0.0]
    assert by_hand(found, "consistent") == [0.0, 1.0, None, None, 1.0, 0.0]
    once = stages.win_rate(tmp_path / "once", OURS, THEIRS, first, both_orders=False)
    assert by_hand(once, "win") == [1.0, 0.5, 0.5, 0.0, 0.5, 0.0] and "position/first" not in once.figures


def test_ratings_are_of_whose_answer_they_were_and_skipped_pairs_have_no_win(tmp_path, capsys):
    def rank(prompt, answers):
        if "4" in prompt.text:
            return Opinion(skipped="unclear")
        ratings = tuple(min(7, 1 + len(a)) for a in answers)
        return Opinion((1, 1), ratings=ratings)

    found = stages.win_rate(tmp_path / "out", OURS, THEIRS, Ranker("rater", rank))
    assert by_hand(found, "rating") == [4, 3, None, None, None, 5]
    assert by_hand(found, "rating/theirs") == [2, 5, None, None, None, 4]
    assert found.figures["rating"] == mean_interval([4, 3, 5], [0, 0, 2], RATING)
    assert found.figures["rating/minus"].mean == pytest.approx((2 - 2 + 1) / 3)
    assert by_hand(found, "win") == [0.5, 0.5, 0.5, 0.0, None, 0.5]
    assert "1 have no verdict and are left out of the win rate" in capsys.readouterr().err


def test_a_call_that_was_stopped_goes_on_and_asks_nothing_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["rlhf_jax.stages.comparing"], "AT_ONCE", 2)
    log, stop = tmp_path / "log", tmp_path / "stop"  # files, as a folder knows a judge by what it is bound to
    stop.touch()

    def rank(prompt, answers):
        if stop.exists() and "Question 4" in prompt.text:
            raise KeyboardInterrupt
        with log.open("a") as file:
            file.write(f"{prompt.text.strip().splitlines()[0]}\n")
        return [1, 2]

    judge = Ranker("counting", rank)
    with pytest.raises(KeyboardInterrupt):
        stages.win_rate(tmp_path / "out", OURS, THEIRS, judge)
    stop.unlink()
    found = stages.win_rate(tmp_path / "out", OURS, THEIRS, judge)
    assert stages.win_rate(tmp_path / "out", OURS, THEIRS, judge) == found and len(found.rows) == 6
    # Two orders of each; the third and the fourth pair need no judge.
    assert log.read_text().splitlines() == [f"Human: Question {i}?" for i in (0, 0, 1, 1, 4, 4, 5, 5)]
    refusal(lambda: stages.win_rate(tmp_path / "out", THEIRS, OURS, judge), "made from another ours")


def test_a_length_controlled_rate_stands_beside_the_other(tmp_path):
    ours, theirs = rows(*("a" * (3 + i % 5) for i in range(12))), rows(*("b" * 5 for i in range(12)))
    won = {f"Question {i}?" for i in (1, 3, 4, 8, 9, 11)}
    judge = by_scores(
        "some", lambda p, answers: [float(a[0] == "a") * (any(w in p.text for w in won) - 0.5) for a in answers]
    )
    wins = [float(i in (1, 3, 4, 8, 9, 11)) for i in range(12)]
    expected = length_controlled(wins, [3 + i % 5 for i in range(12)], [5] * 12, [i // 2 for i in range(12)])
    found = stages.win_rate(tmp_path / "out", ours, theirs, judge)
    assert by_hand(found, "win") == wins
    np.testing.assert_allclose(found.figures["win_length_controlled"], expected.rate)


# People.


def test_people_judge_in_whichever_order_and_the_mean_over_them_counts(capsys):
    asked = stages.to_compare(OURS, THEIRS, names=("new", "old"), source="round 1")
    assert len(asked) == 4 and {c.model for c in asked[0].completions} == {"new", "old"}
    orders = {
        one.completions[0].model
        for one in stages.to_compare(rows(*"abcdefghijkl"), rows(*"ABCDEFGHIJKL"), names=("x", "y"))
    }
    assert orders == {"x", "y"}  # either stands first somewhere

    def ranks(one, best):
        return tuple(1 if c.model == best else 2 for c in one.completions)

    said = [
        asked[0].judged(
            "Ann",
            ranks=ranks(asked[0], "new"),
            ratings=tuple(6 if c.model == "new" else 2 for c in asked[0].completions),
        ),
        asked[0].judged("Bob", ranks=ranks(asked[0], "old")),
        asked[1].judged("Ann", ranks=ranks(asked[1], "new"), order=(1, 0)),
        asked[2].judged("Ann", skipped="unclear"),
    ]
    found = stages.win_rate_of_people([*said, said[0]._replace(task="other")], OURS, THEIRS, source="round 1")
    assert by_hand(found, "win") == [0.5, 1.0, 0.5, 0.0, None, None]
    assert by_hand(found, "rating")[0] == 6.0 and by_hand(found, "rating/theirs")[0] == 2.0
    new_first = asked[1].completions[0].model == "new"  # as it was given; it was shown the other way round
    assert by_hand(found, "position/first") == [0.5, 0.0 if new_first else 1.0, None, None, None, None]
    err = capsys.readouterr().err
    assert "1 of 5 judgements are about other answers" in err and "2 have no verdict" in err
    refusal(lambda: stages.win_rate_of_people(said, OURS, THEIRS), "none of the 4 judgements is about these answers")


# What is refused.


def test_answers_to_other_prompts_are_refused(tmp_path):
    refusal(
        lambda: stages.win_rate(tmp_path / "a", OURS, THEIRS[:5], LONGEST), "not to the same prompts (1 are answered"
    )
    refusal(lambda: stages.win_rate(tmp_path / "a", [], [], LONGEST), "there are no answers to compare")
    broken = Ranker("broken", lambda prompt, answers: "first")
    refusal(lambda: stages.win_rate(tmp_path / "b", OURS, THEIRS, broken), "labeler broken gave 'first'")
    refusal(
        lambda: stages.win_rate(tmp_path / "c", OURS[:1], THEIRS[:1], Ranker("no", lambda p, a: Opinion(skipped="no"))),
        "nobody judged any of the pairs",
    )


def test_the_reward_model_that_trained_a_model_is_no_judge_of_it(
    tmp_path, monkeypatch, tokenizer, types_are_not_checked
):
    of = stages.described(
        stages.Decoder(width=8, layers=1, heads=1, kv_heads=1, hidden=8), tokenizer, stages.Format(48, 48)
    )
    monkeypatch.setattr(stages.Trained, "params", lambda self: "its parameters")

    def trained(name, sha256, **more):
        return stages.Trained(
            of.decoder, tokenizer, of.format, folder=tmp_path / "out" / name, sha256=sha256, step=1, **more
        )

    def made(name, sha256, **inputs):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "made.json").write_text(json.dumps({"sha256": sha256, "inputs": inputs}))

    made("sft", "s")
    made("rm", "r", start="s")
    made("other", "o", start="s")
    made("ppo", "p", start="s", reward="r")
    made("ppo_2", "q", start="p", reward="x")
    judge = stages.by_reward_model("rm", trained("rm", "r", scalar=True))
    for policy in (trained("ppo", "p"), trained("ppo_2", "q")):
        refusal(
            lambda policy=policy: stages.win_rate(
                tmp_path / "x", OURS, THEIRS, judge, models=[trained("sft", "s"), policy]
            ),
            f"rm is the reward model that {policy.folder.name} was trained on: judge by another",
        )
    stages.require_impartial(stages.by_reward_model("o", trained("other", "o", scalar=True)), [trained("ppo_2", "q")])
    stages.require_impartial(judge, [trained("sft", "s")])
    stages.require_impartial(LONGEST, [trained("ppo", "p")])


def test_an_endpoint_s_order_is_the_caller_s_where_it_is_told_so(monkeypatch):
    from rlhf_jax.labelers import chat_completions
    from rlhf_jax.labelers.endpoint import Judge

    monkeypatch.setattr(Judge, "_reply", lambda self, messages: "A > B")
    prompt = Prompt(prompt_text("Question?"))
    url = "http://localhost:1/v1/chat/completions"
    assert chat_completions("j", url, "m").rank(prompt, ["x", "y"]).ranks == (1, 1)
    assert chat_completions("j", url, "m", both_orders=False).rank(prompt, ["x", "y"]).ranks == (1, 2)


def test_two_models_answer_and_are_compared(tmp_path, tokenizer):
    """From parameters to a win rate, through files."""
    shape = stages.Decoder(width=8, layers=1, heads=1, kv_heads=1, hidden=8)
    of = stages.described(shape, tokenizer, stages.Format(40, 6))
    model = LanguageModel(of.decoder)
    tokens = jnp.ones((1, 4), jnp.int32)
    task, answers = answering(PROMPTS), []
    for seed in (0, 1):
        params = model.init(jax.random.key(seed), tokens, tokens > 0)["params"]
        trained = stages.Trained(of.decoder, tokenizer, of.format, sha256=str(seed), step=1)
        answers.append(stages.measure(tmp_path / f"answers {seed}", stages.Loaded(trained, params), task))
    ours, theirs = (one.rows for one in answers)
    assert [row.shown["answer"] for row in ours] != [row.shown["answer"] for row in theirs]
    found = stages.win_rate(tmp_path / "out", ours, theirs, LONGEST)
    stripped = [[len(row.shown["answer"].strip()) for row in rows] for rows in (ours, theirs)]
    assert by_hand(found, "win") == [(1 + np.sign(a - b)) / 2 for a, b in zip(*stripped, strict=True)]
    assert {row.cluster for row in found.rows} == {f"user {i}" for i in range(6)}
