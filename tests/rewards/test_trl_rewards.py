"""TRL's own reward functions through the adapter, against what they give when they are called as TRL calls them."""

import asyncio

import pytest

from rlhf_jax.data import Columns, Messages, Prompt, prompt_text
from rlhf_jax.rewards import AnswerText, from_trl
from rlhf_jax.stages import Rewards
from rlhf_jax.stages.rewards import opinions
from tests.refusals import refusal

TEXTS = ["<think>\na\n</think>\n\\boxed{1}", "no thought", r"It is \boxed{\frac{1}{3}}.", "$0.5$"]
ANSWERS = [AnswerText(text, [n % 2 for n in range(2 * i + 1)], True, 7) for i, text in enumerate(TEXTS)]
SOLUTIONS = ["$1$", "nothing", r"$\frac{1}{3}$", r"$\frac{1}{2}$"]
HH = [Prompt(prompt_text(f"Say {i}."), columns=Columns(solution=s)) for i, s in enumerate(SOLUTIONS)]
CHAT = [Prompt(Messages([{"role": "user", "content": f"Say {i}."}]), columns=p.columns) for i, p in enumerate(HH)]
SPOKEN = [[{"role": "assistant", "content": text}] for text in TEXTS]
IDS = [list(answer.ids) for answer in ANSWERS]


def through(function, prompts=HH, answers=ANSWERS, **more):
    return from_trl(function, **more)(prompts, answers, [p.columns for p in prompts])


@pytest.mark.parametrize("prompts", [HH, CHAT], ids=["transcripts", "messages"])
def test_trl_s_own_functions_give_what_they_give_there(prompts):
    trl = pytest.importorskip("trl.rewards", reason="TRL is not installed")
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    called = {
        "prompts": None,
        "completions": SPOKEN,
        "completion_ids": IDS,
        "solution": SOLUTIONS,
        "trainer_state": None,
    }
    made = [
        trl.think_format_reward,
        trl.accuracy_reward,
        trl.reasoning_accuracy_reward,
        trl.get_cosine_scaled_reward(max_len=9),
        trl.get_repetition_penalty_reward(ngram_size=2),
        trl.get_soft_overlong_punishment(max_completion_len=8, soft_punish_cache=4),
    ]
    for function in made:
        theirs = function(**called)
        assert through(function, prompts) == theirs
        assert len(set(theirs)) > 1, "this says nothing"
    assert from_trl(made[3]).__name__ == "cosine_scaled_reward"


def test_prompts_and_completions_are_texts_or_messages_as_trl_has_them():
    seen = {}

    def reward(prompts, completions, completion_ids, solution, trainer_state, **kwargs):
        kwargs["log_metric"]("figure", 1.0)
        seen.update(prompts=prompts, completions=completions, ids=completion_ids, step=trainer_state.global_step)
        return [float(len(s)) for s in solution]

    assert through(reward) == [float(len(s)) for s in SOLUTIONS]
    assert seen == {"prompts": [p.text for p in HH], "completions": TEXTS, "ids": IDS, "step": 7}
    assert all(type(ids) is list for ids in seen["ids"])
    messages = [[{"role": "user", "content": f"Say {i}."}] for i in range(4)]
    for prompts, more in ((CHAT, {}), (HH, {"conversational": True})):
        through(reward, prompts, **more)
        assert (seen["prompts"], seen["completions"]) == (messages, SPOKEN)

    def annotated(completions: list[list[dict[str, str]]], **kwargs) -> list[float]:
        seen.update(completions=completions)
        return [0.0] * len(completions)

    through(annotated, HH)
    assert seen["completions"] == SPOKEN
    through(reward, CHAT, conversational=False)
    assert seen["completions"] == TEXTS
    refusal(lambda: through(reward, answers=["plain"] * 4), "an answer's tokens, and were given plain text")


def test_a_column_that_some_rows_lack_is_none_there_as_in_a_data_set():
    prompts = [Prompt(HH[0].conversation, columns=Columns(a=1, completion="x")), Prompt(HH[1].conversation)]

    def reward(completions, a, completion=(), **kwargs):
        assert completion == ()  # which TRL does not hand on
        return a

    assert through(reward, prompts, ANSWERS[:2]) == [1, None]


def test_an_async_one_is_waited_for():
    async def later(completions, **kwargs):
        await asyncio.sleep(0.01)
        return [float(len(each)) for each in completions]

    found = opinions(Rewards(functions=(from_trl(later),)), HH, ANSWERS, 10.0)
    assert found.tolist() == [[len(text) for text in TEXTS]]
