"""Each published layout of ../shared/layouts gives what its table says, and all three readers know a row by one prompt.

The files lie beside RLHF_JAX_DATA; what they hold is written out here, so that the expected values can be read.
"""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from rlhf_jax.data import (
    Demonstration,
    Judged,
    Layout,
    Messages,
    prompt_text,
    read_demonstrations,
    read_feedback,
    read_prompts,
    read_rankings,
)
from rlhf_jax.data.layouts import example
from rlhf_jax.data.sources import Row
from tests.refusals import refusal

EGG, SKY = "How do I boil an egg?", "Why is the sky blue?"
BOIL, AIR = "Put it in boiling water for eight minutes.", "Air scatters blue light more than red."
PIRATE = "You are a pirate."


def q(text, system=""):
    return f"{system}\n\nHuman: {text}\n\nAssistant:"


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


HELLO = [user("Hello"), assistant("Hi."), user(EGG)]
CALL = [user(EGG), assistant(None, tool_calls=[{"name": "f"}]), {"role": "tool", "content": "42"}]
RUN_ON = (
    (assistant(BOIL), user("Thanks"), assistant("Welcome.")),
    (
        assistant("No idea."),
        user("What?"),
        assistant("Sorry."),
    ),
)
TWO_LINES = f"{EGG}\nsecond line, with comma"

# File → of its first row the prompt, the demonstration's answer, the ranking's answers with their ranks (None: refused), and
# how many rows are read as demonstrations, rankings and prompts.
READ = {
    "05_ultrafeedback.jsonl": (
        q(EGG),
        BOIL,
        ((BOIL, 1), ("No idea.", 4), (f"{BOIL} Yes.", 2), ("Hm.", 2)),
        (4, 4, 4),
    ),
    "06_nectar.jsonl": (
        q(EGG),
        BOIL,
        tuple((a, i) for i, a in enumerate((BOIL, f"{BOIL} Yes.", "Maybe.", "No idea.", "Hm.", "Eh.", "??"), 1)),
        (4, 4, 4),
    ),
    "11_distilabel_intel_orca.jsonl": (q(EGG, PIRATE), BOIL, ((BOIL, 1), ("No idea.", 2)), (4, 4, 4)),
    "11b_truthy_dpo_system.jsonl": (q(EGG, PIRATE), BOIL, ((BOIL, 1), ("No idea.", 2)), (4, 4, 4)),
    "11c_distilabel_capybara_dpo.jsonl": (Messages(HELLO), BOIL, ((BOIL, 1), ("No idea.", 2)), (4, 4, 4)),
    "13_sharegpt.jsonl": (Messages([user(EGG)]), BOIL, None, (4, 0, 4)),
    "14_alpaca.json": (q(EGG), BOIL, None, (4, 0, 4)),
    "16_tulu3.jsonl": (Messages([system("Be brief."), *HELLO]), BOIL, None, (4, 0, 4)),
    "16c_messages_tool.jsonl": (Messages(CALL), BOIL, None, (4, 0, 4)),
    "18_kto.jsonl": (q(EGG), BOIL, ((BOIL, 1), ("No idea.", 2)), (4, 4, 8)),
    "19e_trl_explicit_multi_completion.jsonl": (
        Messages([user(EGG)]),
        Messages(RUN_ON[0]),
        ((Messages(RUN_ON[0]), 1), (Messages(RUN_ON[1]), 2)),
        (4, 4, 4),
    ),
    "26c_array_named.jsonl": (q(EGG), BOIL, ((BOIL, 1), ("No idea.", 2)), (4, 4, 4)),
    "26q.tsv": (q(EGG), BOIL, ((BOIL, 1), ("No idea.", 2)), (4, 4, 4)),
    "27c_semicolon.csv": (
        q(TWO_LINES),
        f'{BOIL}\n\n"quoted"',
        ((f'{BOIL}\n\n"quoted"', 1), ("No idea.", 2)),
        (4, 4, 4),
    ),
    "28c_rank_double.parquet": (q(EGG), BOIL, ((BOIL, 1), ("No idea.", 2)), (4, 4, 4)),
}


@pytest.fixture
def layouts(real_data):
    folder = real_data.parent / "layouts"
    if not folder.is_dir():
        pytest.skip("there are no layouts beside the real data")
    return folder


@pytest.mark.parametrize("file", READ)
def test_a_published_file_is_read(layouts: Path, file):
    prompt, answer, ranked, counts = READ[file]
    path = str(layouts / file)
    demonstrations, prompts = read_demonstrations(path), read_prompts(path)
    assert demonstrations[0][:2] == (prompt, answer)
    assert prompts[0].conversation == prompt and isinstance(prompts[0].conversation, type(prompt))
    if ranked is None:
        refusal(lambda: read_rankings(path), file, "no ranking (found: ", "give chosen and rejected, or prompt and")
        rankings = []
    else:
        rankings = read_rankings(path)
        assert rankings[0].prompt == prompt
        assert tuple(zip(rankings[0].answers, rankings[0].ranks, strict=True)) == ranked
        assert {r.prompt for r in rankings} == {p.conversation for p in prompts}
    assert (len(demonstrations), len(rankings), len(prompts)) == counts
    assert {d.prompt for d in demonstrations} == {p.conversation for p in prompts}


UNUSABLE = {
    "22c_empty_prompt.jsonl": ("line 1: the prompt is empty", 4),
    "23c_none_content.jsonl": ("line 1: message 2 has no content", 0),
    "24b_surrogate.jsonl": ("line 1: it holds half a character (a lone surrogate)", 0),
}


@pytest.mark.parametrize("file", UNUSABLE)
@pytest.mark.parametrize("read", [read_demonstrations, read_prompts])
def test_a_row_that_cannot_be_used_is_named_or_dropped_and_counted(layouts, read, file, caplog):
    sentence, left = UNUSABLE[file]
    path = str(layouts / file)
    refusal(lambda: read(path), f"{file}, {sentence}")
    if left:
        assert len(read(path, unusable="drop")) == left
        assert "dropped 1 of 5 rows" in caplog.text
    else:
        refusal(lambda: read(path, unusable="drop"), "none is left", sentence)


def test_dialogues_that_end_in_a_users_turn_are_prompts_and_no_demonstrations(layouts, caplog):
    path = str(layouts / "16b_messages_end_user.jsonl")
    refusal(lambda: read_demonstrations(path), "line 5: the conversation ends in", "not in a turn of the assistant")
    assert len(read_demonstrations(path, unusable="drop")) == 4
    assert "dropped 1 of 5 rows: 1 that do not end in a turn of the assistant (the first is" in caplog.text
    prompts = [p.conversation for p in read_prompts(path)]
    assert len(prompts) == 5
    assert prompts[4] == Messages([user("Hello"), assistant("Hi."), user("Bye")])


@pytest.mark.parametrize("read", [read_demonstrations, read_rankings, read_prompts])
def test_what_is_refused(layouts, read):
    refusal(
        lambda: read(str(layouts / "19b_trl_implicit_text.jsonl")), "line 1: there are answers and no prompt: give it"
    )
    refusal(lambda: read(str(layouts / "27g_pandas_messages.csv")), "line 2: a text is Python's repr of messages")


# Layouts of published data sets, as their cards and files on the hub have them, with words of our own in them.


PROMPT = q("Q")
ASKED = Messages([user("Q")])
TALK = Messages([user("P"), assistant("O"), user("Q")])
PAIR = (("Y", 1), ("N", 2))
HH = "\n\nHuman: P\n\nAssistant: O\n\nHuman: Q\n\nAssistant:"
GPT = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "Y"}]
WHOLE = {"chosen": [user("Q"), assistant("Y")], "rejected": [user("Q"), assistant("N")]}
CALLS = {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'}
SEVERAL_CALLS = {"role": "tool_call", "content": json.dumps([{"name": "f", "arguments": '{"a": 1}'}] * 2)}
FUNCTION = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
AS_IT_IS = {
    "hh-rlhf": ({"chosen": HH + " Y", "rejected": HH + " N"}, HH, "Y", PAIR),
    "OpenOrca": ({"id": "1", "system_prompt": "S", "question": "Q", "response": "Y"}, q("Q", "S"), "Y", None),
    "OpenOrca without a system": ({"system_prompt": "", "question": "Q", "response": "Y"}, PROMPT, "Y", None),
    "orca_dpo_pairs": ({"system": "S", "question": "Q", "chosen": "Y", "rejected": "N"}, q("Q", "S"), "Y", PAIR),
    "Dolly": ({"instruction": "Q", "context": "C", "response": "Y", "category": "qa"}, q("Q\n\nC"), "Y", None),
    "Alpaca's input": ({"instruction": "Q", "input": "C", "output": "Y"}, q("Q\n\nC"), "Y", None),
    "GSM8K": ({"question": "Q", "answer": "Y"}, PROMPT, "Y", None),
    "GSM8K, mapped for GRPO": ({"question": "Q", "prompt": [user("Q")], "answer": "Y"}, ASKED, "Y", None),
    "MATH": ({"problem": "Q", "level": "Level 5", "type": "Algebra", "solution": "Y"}, PROMPT, "Y", None),
    "MetaMathQA": ({"type": "t", "query": "Q", "original_question": "O", "response": "Y"}, PROMPT, "Y", None),
    "OpenR1-Math": (
        {"problem": "Q", "solution": "A", "answer": "B", "messages": WHOLE["chosen"]},
        ASKED,
        "Y",
        None,
    ),
    "Capybara": (
        {"source": "s", "conversation": [{"input": "P", "output": "O"}, {"input": "Q", "output": "Y"}]},
        TALK,
        "Y",
        None,
    ),
    "Infinity-Instruct": ({"conversations": GPT, "label": {"ability_en": ["x"]}, "langdetect": "en"}, ASKED, "Y", None),
    "OpenHermes-2.5": (
        {"conversations": [{**turn, "weight": None} for turn in GPT], "system_prompt": None},
        ASKED,
        "Y",
        None,
    ),
    "LLaMA-Factory's tools": (
        {"conversations": [GPT[0], CALLS, {"from": "observation", "value": "42"}, GPT[1]], "tools": "[]"},
        Messages([user("Q"), assistant("", tool_calls=[FUNCTION]), {"role": "tool", "content": "42"}]),
        "Y",
        None,
    ),
    "ms-swift's tools": (
        {"messages": [user("Q"), SEVERAL_CALLS, {"role": "tool_response", "content": "42"}, assistant("Y")]},
        Messages([user("Q"), assistant("", tool_calls=[FUNCTION] * 2), {"role": "tool", "content": "42"}]),
        "Y",
        None,
    ),
    "LIMA": ({"conversations": ["P", "O", "Q", "Y"], "source": "s"}, TALK, "Y", None),
    "no_robots": ({"prompt": "Q", "prompt_id": "1", "messages": WHOLE["chosen"], "category": "c"}, ASKED, "Y", None),
    "UltraChat 200k": ({"prompt": "P", "messages": [*TALK, assistant("Y")]}, TALK, "Y", None),
    "Skywork-Reward-Preference": ({**WHOLE, "source": "s"}, ASKED, "Y", PAIR),
    "Tulu 3 preferences": ({**WHOLE, "prompt": "Q", "chosen_model": "m"}, ASKED, "Y", PAIR),
    "ultrafeedback-binarized": (
        {**WHOLE, "prompt": "Q", "messages": WHOLE["chosen"], "score_chosen": 8.0, "score_rejected": 5.0},
        ASKED,
        "Y",
        PAIR,
    ),
    "Argilla's of it": ({**WHOLE, "prompt": "Q", "chosen-rating": 5.0, "rejected-rating": 4.5}, ASKED, "Y", PAIR),
    "a system in the prompt alone": (
        {**WHOLE, "prompt": [system("S"), user("Q")]},
        Messages([system("S"), *ASKED]),
        "Y",
        PAIR,
    ),
    "Nemotron": (
        {"input": [user("Q")], "output": "Y", "system_prompt": "S"},
        Messages([system("S"), *ASKED]),
        "Y",
        None,
    ),
    "LLaMA-Factory": (
        {"instruction": "Q", "input": "", "output": "Y", "system": "S", "history": [["P", "O"]]},
        q("Q", "S\n\nHuman: P\n\nAssistant: O"),
        "Y",
        None,
    ),
    "system, user, assistant": ({"system": "S", "user": "Q", "assistant": "Y"}, q("Q", "S"), "Y", None),
    "Distilabel, exchanged": (
        {"input": "Q", "chosen": "Y", "rejected": "N", "generations": ["N", "Y"], "rating": [1.0, 9.0]},
        PROMPT,
        "Y",
        PAIR,
    ),
    "TRL: prompt and completion": ({"prompt": [user("Q")], "completion": [assistant("Y")]}, ASKED, "Y", None),
    "lists beside each other": (
        {"prompt": "Q", "responses": ["Y", "N", "M"], "scores": [3, 1.5, 3]},
        PROMPT,
        "Y",
        (("Y", 1), ("N", 3), ("M", 1)),
    ),
    "messages in a cell": (
        {"messages": '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "Y"}]'},
        ASKED,
        "Y",
        None,
    ),
}


@pytest.mark.parametrize("name", AS_IT_IS)
def test_a_known_layout_is_read_as_it_is(jsonl, name):
    row, prompt, answer, ranked = AS_IT_IS[name]
    path = jsonl(row)
    assert [d[:2] for d in read_demonstrations(path)] == [(prompt, answer)]
    assert [p.conversation for p in read_prompts(path)] == [prompt]
    if ranked is None:
        refusal(lambda: read_rankings(path), "line 1: no ranking (found: ", "name in [files.layout] answers with ranks")
    else:
        (ranking,) = read_rankings(path)
        assert (ranking.prompt, tuple(zip(ranking.answers, ranking.ranks, strict=True))) == (prompt, ranked)


STEER = {"prompt": "Q", "response": "Y", "helpfulness": 4, "verbosity": 1}
POST = {"history": "Q", "human_ref_A": "Y", "human_ref_B": "N", "labels": 1, "score_ratio": 3.0, "domain": "d"}
REPLIES = [{"text": "N", "rank": 1, "replies": []}, {"text": "Y", "rank": 0, "replies": []}]
SUMMARIES = {"info": {"post": "Q"}, "summaries": [{"text": "N"}, {"text": "Y"}], "choice": 1, "worker": "w"}
WEB = {"question": {"full_text": "Q"}, "answer_0": "N", "answer_1": "Y", "score_0": -1.0, "score_1": 1.0}
SAFE = {"prompt": "Q", "response_0": "N", "response_1": "Y", "better_response_id": 1}
ARENA = {"conversation_a": WHOLE["chosen"], "conversation_b": WHOLE["rejected"], "winner": "model_a"}
# Rows, what they are refused by as they are (None: only the answers are), the layout, and what it gives.
NAMED = {
    "SHP": (
        [POST, {**POST, "score_ratio": 1.5}],
        "no prompt (found: history, ",
        Layout(prompt="history", answers="human_ref_B, human_ref_A", best="labels", drop="score_ratio < 2"),
        (PROMPT, (("N", 2), ("Y", 1))),
    ),
    "HelpSteer2": (
        [STEER, {**STEER, "response": "N", "helpfulness": 1}],
        None,
        Layout(answer="response", scores="helpfulness", drop="helpfulness == 0"),
        (PROMPT, PAIR),
    ),
    "HelpSteer3": (
        [{"context": [user("Q")], "response1": "Y", "response2": "N", "overall_preference": -2}],
        "no prompt (found: context, ",
        Layout(prompt="context", answers="response1, response2", scores="-overall_preference, overall_preference"),
        (ASKED, PAIR),
    ),
    "oasst's trees": (
        [{"prompt": {"text": "Q", "replies": REPLIES}}],
        "'prompt' holds an object: name the text in it, as in prompt = 'prompt.text'",
        Layout(prompt="prompt.text", answers="prompt.replies.text", ranks="prompt.replies.rank"),
        (PROMPT, (("N", 2), ("Y", 1))),
    ),
    "summarize_from_feedback": (
        [SUMMARIES],
        "no prompt (found: info, summaries",
        Layout(prompt="info.post", answers="summaries.text", best="choice", labeler="worker"),
        (PROMPT, (("N", 2), ("Y", 1))),
    ),
    "webgpt_comparisons": (
        [WEB],
        "'question' holds an object: name the text in it, as in prompt = 'question.full_text'",
        Layout(prompt="question.full_text", answers="answer_0, answer_1", scores="score_0, score_1"),
        (PROMPT, (("N", 2), ("Y", 1))),
    ),
    "PKU-SafeRLHF": (
        [SAFE],
        None,
        Layout(answers="response_0, response_1", best="better_response_id"),
        (PROMPT, (("N", 2), ("Y", 1))),
    ),
    "an arena": (
        [ARENA, {**ARENA, "winner": "tie"}],
        "no prompt (found: conversation_a",
        Layout(chosen="conversation_a", rejected="conversation_b", drop="winner != model_a"),
        (ASKED, PAIR),
    ),
    "stack-exchange-paired": (
        [{"question": "Q", "response_j": "Y", "response_k": "N"}],
        None,
        Layout(chosen="response_j", rejected="response_k"),
        (PROMPT, PAIR),
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_another_layout_is_refused_and_read_through_its_names(jsonl, name):
    rows, refused, layout, (prompt, ranked) = NAMED[name]
    path = jsonl(*rows)
    readers = (read_demonstrations, read_rankings, read_prompts) if refused else (read_demonstrations, read_rankings)
    for read in readers:
        refusal(lambda read=read: read(path), "line 1: ", refused or "[files.layout]")
    (ranking,) = read_rankings(path, layout=layout)
    assert (ranking.prompt, tuple(zip(ranking.answers, ranking.ranks, strict=True))) == (prompt, ranked)
    assert {p.conversation for p in read_prompts(path, layout=layout)} == {prompt}
    if not layout.answer:
        ((asked, answer, _),) = read_demonstrations(path, layout=layout)
        assert (asked, answer) == (prompt, "Y")


def test_the_sign_of_helpsteer3s_preference_says_which_answer_is_better_and_0_that_none_is(jsonl, caplog):
    (row,), _, layout, _ = NAMED["HelpSteer3"]
    talk = [user("P"), assistant("O"), user("Q")]
    path = jsonl(*({**row, "context": talk, "overall_preference": n} for n in (-3, -1, 0, 2, "3")))
    refusal(lambda: read_rankings(path, layout=layout), "line 3: all answers tie")
    rankings = read_rankings(path, unusable="drop", layout=layout)
    assert [r.ranks for r in rankings] == [(1, 2), (1, 2), (2, 1), (2, 1)]
    assert {r.prompt for r in rankings} == {Messages(talk)} and {r.answers for r in rankings} == {("Y", "N")}
    assert "dropped 1 of 5 rows: 1 in which no answer is above another" in caplog.text
    best = [d.answer for d in read_demonstrations(path, layout=layout)]
    assert best == ["Y", "Y", "Y", "N", "N"]


def test_where_scores_make_rankings_demonstrations_are_those_that_are_not_dropped(jsonl):
    path = jsonl(STEER, {**STEER, "response": "N", "helpfulness": 1})
    refusal(
        lambda: read_demonstrations(path, layout=Layout(answer="response", scores="helpfulness")), "which are too bad"
    )
    kept = read_demonstrations(path, layout=Layout(drop="helpfulness < 3"))
    assert [d.answer for d in kept] == ["Y"]


@pytest.mark.parametrize(
    ("more", "advice", "never"),
    [
        ({"toxic": True}, "drop = 'toxic == true', or say", "label ="),  # true is not what was liked
        (
            {"is_safe": False},
            "drop = 'is_safe == false', or to have it say which answers are better name it, as in label",
            "x",
        ),
        ({"toxicity": 0.9}, "answer = 'completion' and scores = '-toxicity'", "label ="),
        ({"rating": 1}, "answer = 'completion' and scores = 'rating'", "label ="),
        ({"verdict": "poor"}, "drop = 'verdict == poor', or say", "scores ="),
    ],
)
def test_what_is_advised_for_a_column_that_judges_can_be_done(jsonl, more, advice, never):
    path = jsonl({"prompt": "Q", "completion": "Y", **more})
    assert never not in refusal(lambda: read_demonstrations(path), advice)


def test_no_column_of_answers_is_advised_as_the_prompt(jsonl):
    said = refusal(lambda: read_prompts(jsonl(POST)), "no prompt (found: history, ")
    assert "prompt = " not in said


def test_a_conversation_beside_a_named_answer_is_not_called_null(jsonl):
    path = jsonl({"conversation": WHOLE["chosen"], "toxic": False})
    refusal(lambda: read_demonstrations(path, layout=Layout(answer="response", label="toxic")), "no prompt (found: ")
    (told,) = read_demonstrations(path, layout=Layout(drop="toxic == true"))
    assert told.answer == "Y"


def test_what_the_assistant_wrote_is_no_prompt(jsonl):
    """As in OpenAssistant's rows, a message each, and in Guanaco's, a conversation in one text."""
    rows = [{"text": "Q", "role": "prompter"}, {"text": "Y", "role": "assistant"}]
    refusal(
        lambda: read_prompts(jsonl(*rows), layout=Layout(prompt="text")), "line 2: there is 'role' beside the prompt"
    )
    kept = read_prompts(jsonl(*rows), layout=Layout(prompt="text", drop="role == assistant"))
    assert [p.conversation for p in kept] == [PROMPT]
    assert len(read_prompts(jsonl(*rows), layout=Layout(prompt="text", ignore="role"))) == 2
    guanaco = jsonl({"text": "### Human: Q### Assistant: Y"})
    refusal(lambda: read_prompts(guanaco, layout=Layout(prompt="text")), "the prompt holds turns of its own")


def test_a_label_that_is_named_as_the_answer_is_no_verdict(jsonl):
    (told,) = read_demonstrations(jsonl({"prompt": "Q", "label": "Y"}), layout=Layout(answer="label"))
    assert told.answer == "Y"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"rating": 1}, "there is 'rating' beside the answers, which may say that they are bad"),
        ({"label": "bad"}, "there is 'label' beside the answers"),
        ({"is_safe": False}, "there is 'is_safe' beside the answers"),
        ({"Label": False}, "there is 'Label' beside the answers"),
        ({"preferred": False}, "there is 'preferred' beside the answers"),
        ({"input": "C"}, "there is 'input' beside 'prompt'"),
        ({"history": "earlier"}, "the history is 'earlier': make it pairs"),
        ({"tools": ["hammer"]}, "'tools' is ['hammer'], and the chat template is given a list of JSON schemas"),
        ({"documents": "a letter"}, "'documents' is 'a letter', and the chat template is given a list of objects with"),
        ({"chat_template_kwargs": [1]}, "'chat_template_kwargs' is [1], and the chat template is given an object"),
        ({"tools": "[{}]", "chat_template_kwargs": {"tools": [{}]}}, "there is 'tools' in its own column and in"),
        ({"system": ["S"]}, "the system message is ['S']: make it a string"),
    ],
)
def test_a_column_that_changes_what_a_row_means_is_not_looked_past(jsonl, more, sentence):
    path = jsonl({"prompt": "Q", "completion": "Y", **more})
    refusal(lambda: read_demonstrations(path), f"line 1: {sentence}")
    pair = jsonl({"prompt": "Q", "chosen": "Y", "rejected": "N", **more})
    refusal(lambda: read_rankings(pair), f"line 1: {sentence}")
    if (name := next(iter(more))) in ("rating", "label", "Label", "is_safe", "preferred"):
        assert read_prompts(pair)[0].columns[name] == more[name]
        assert len(read_rankings(pair, layout=Layout(ignore=name))) == 1


@pytest.mark.parametrize(
    "more",
    [
        *({name: False} for name in ("is_chosen", "passed", "is_response_safe", "safe", "desirable", "anything")),
        *({name: "bad"} for name in ("thumb", "feedback", "verdict", "judgement", "judgment", "anything")),
        *({"toxic": True}, {"upvotes": -5}, {"preference": "B"}, {"isCorrect": 0}, {"anything": "False"}),
        *({"rejected": True}, {"is_correct_answer": 0}, {"result": "loss"}, {"tests_passed": 0}, {"flagged": 1}),
    ],
)
def test_what_may_call_the_one_answer_bad_is_not_looked_past(jsonl, more):
    path, (name,) = jsonl({"prompt": "Q", "response": "N", **more}), more
    refusal(lambda: read_demonstrations(path), f"line 1: there is {name!r} beside the answers, which may", "ignore = ")
    assert [d.answer for d in read_demonstrations(path, layout=Layout(ignore=name))] == ["N"]
    assert read_prompts(path)[0].conversation == PROMPT


def test_what_does_not_judge_the_answer_may_stand_beside_it(jsonl):
    more = {"parallel_tool_calls": False, "reward_model": "m", "prompt_quality": "bad", "correct_answer": "B", "n": -1}
    assert len(read_demonstrations(jsonl({"prompt": "Q", "response": "Y", "source": "s", **more}))) == 1


def test_all_that_may_judge_is_named_at_once(jsonl):
    row = {"prompt": "Q", "response": "Y", "safe": True, "stars": 5}
    refusal(lambda: read_demonstrations(jsonl(row)), "there is 'safe'", "'safe == false'", "ignore = 'safe, stars'")
    toxic = {"prompt": "Q", "response": "Y", "toxic": False}
    refusal(lambda: read_demonstrations(jsonl(toxic)), "drop = 'toxic == true'")
    assert len(read_demonstrations(jsonl(toxic), layout=Layout(drop="toxic == true"))) == 1


def test_the_tag_of_llama_factorys_kto_is_a_label(jsonl, caplog):
    rows = [{"instruction": "Q", "input": "C", "output": a, "kto_tag": a == "Y"} for a in ("N", "Y")]
    assert [d.answer for d in read_demonstrations(jsonl(*rows))] == ["Y"]
    assert "1 whose label is false" in caplog.text
    assert [(j.answer, j.liked) for j in read_feedback(jsonl(*rows))] == [("N", False), ("Y", True)]
    refusal(lambda: read_demonstrations(jsonl({**rows[0], "kto_tag": None})), "'kto_tag' is null: give it a value")
    assert len(read_demonstrations(jsonl(*rows), layout=Layout(ignore="kto_tag"))) == 2


@pytest.mark.parametrize(
    "more",
    [{"is_flipped": True}, {"winner": "B"}, {"chosen_is_better": False}, {"rejected_safe": True}, {"note": "bad"}],
)
def test_what_may_say_that_a_pair_is_the_other_way_round_is_not_looked_past(jsonl, more):
    path, (name,) = jsonl({"prompt": "Q", "chosen": "Y", "rejected": "N", **more}), more
    refusal(lambda: read_rankings(path), f"line 1: there is {name!r} beside the answers")
    assert len(read_rankings(path, layout=Layout(ignore=name))) == 1


@pytest.mark.parametrize(
    "more",
    [
        *({"margin": 2.0}, {"preference": "chosen"}, {"tie": False}, {"is_flipped": False}, {"status": "swapped"}),
        *({"chosen_rank": 1, "rejected_rank": 2}, {"chosen_toxicity": 0.1, "rejected_toxicity": 0.9}),
        *({"chosen_model": "a", "rejected_model": "b"}, {"chosen_length": 1, "rejected_length": 2}),
    ],
)
def test_what_agrees_with_a_pair_may_stand_beside_it(jsonl, more):
    (ranking,) = read_rankings(jsonl({"prompt": "Q", "chosen": "Y", "rejected": "N", **more}))
    assert tuple(zip(ranking.answers, ranking.ranks, strict=True)) == PAIR


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            {"chosen_reward": -1, "rejected_reward": 1},
            "the rejected answer is rated higher (1) than the chosen one (-1)",
        ),
        ({"chosen_rank": 2, "rejected_rank": 1}, "the rejected answer is rated higher"),
        ({"ChosenRating": 1, "RejectedRating": 2}, "the rejected answer is rated higher"),
        ({"ranks": [2, 1]}, "the rejected answer is rated higher"),
        ({"margin": -2.0}, "'margin' is -2.0, by which the rejected answer is the better one"),
        ({"preference": "rejected"}, "'preference' is 'rejected', by which the rejected answer"),
        ({"tie": True}, "all answers tie"),
        ({"status": "tie"}, "all answers tie"),
        ({"score_chosen": 1, "score_rejected": 1}, "all answers tie"),
        ({"rating": [9, 9], "status": "tie"}, "all answers tie"),
        ({"scores": [1, 2]}, "the rejected answer is rated higher (2) than the chosen one (1)"),
        ({"chosen_rating": 1, "rejected_rating": 2}, "the rejected answer is rated higher (2) than the chosen one (1)"),
    ],
)
def test_what_rates_a_pair_otherwise_makes_it_unusable(jsonl, more, sentence, caplog):
    path = jsonl(
        {"prompt": "Q", "chosen": "Y", "rejected": "N", **more}, {"prompt": "Q", "chosen": "Y", "rejected": "M"}
    )
    refusal(lambda: read_rankings(path), "line 1: ", sentence)
    assert [r.answers for r in read_rankings(path, unusable="drop")] == [("Y", "M")]
    assert "dropped 1 of 2 rows" in caplog.text


def test_a_system_beside_whole_conversations_is_before_both(jsonl):
    for system_column, prompt in (({"system": "S"}, Messages([system("S"), user("Q")])), ({"system": ""}, ASKED)):
        path = jsonl({**WHOLE, **system_column})
        assert [r[:3] for r in read_rankings(path)] == [(prompt, ("Y", "N"), (1, 2))]
        assert read_prompts(path)[0].conversation == read_demonstrations(path)[0].prompt == prompt
    path = jsonl({"chosen": HH + " Y", "rejected": HH + " N", "system": "S"})
    assert read_rankings(path)[0].prompt == read_prompts(path)[0].conversation == "S" + HH


BESIDE = [
    {"prompt": "You are kind.", "question": "2+2?", "answer": "4"},
    {"prompt": [user("You are kind.")], "query": "2+2?", "chosen": "4", "rejected": "5"},
    {"prompt": "Be kind.", "messages": WHOLE["chosen"]},
    {"prompt": [system("S"), user("Q")], "messages": WHOLE["chosen"]},
    {"instruction": "Translate it.", "messages": WHOLE["chosen"]},
    {"context": "The sky is blue.", "conversations": GPT},
    {"prompt": "Be kind.", **WHOLE},
    {"context": "The sky is blue.", **WHOLE},
    {"question": "R", "chosen": HH + " Y", "rejected": HH + " N"},
]


@pytest.mark.parametrize("row", BESIDE)
@pytest.mark.parametrize("read", [read_demonstrations, read_prompts])
def test_a_column_that_may_be_of_the_prompt_is_not_dropped_without_a_word(jsonl, row, read):
    path, whole = jsonl(row), "answer" not in row and "query" not in row
    first = next(iter(row))
    refusal(
        lambda: read(path), f"line 1: there is {first!r} beside a whole" if whole else "line 1: there are two prompts"
    )
    other = first if whole else ("question" if "question" in row else "query")
    assert len(read(path, layout=Layout(ignore=other))) == 1


@pytest.mark.parametrize("said", [{"train": False}, {"training": False}, {"loss": False}, {"loss": 0}, {"weight": 0.0}])
def test_whatever_says_that_a_turn_is_not_learned_is_its_weight(jsonl, said):
    for row in (
        {"messages": [user("Q"), assistant("Y", **said)]},
        {"prompt": "Q", "completion": [assistant("Y", **said)]},
    ):
        refusal(lambda row=row: read_demonstrations(jsonl(row)), "line 1: the last answer has the weight 0")
    talk = [user("P"), assistant("O", **said), user("Q"), assistant("Y")]
    assert read_demonstrations(jsonl({"messages": talk}))[0].prompt[1] == assistant("O", weight=0)
    yes = {"from": "gpt", "value": "Y", **dict.fromkeys(said, True)}
    turns = [{"from": "human", "value": "Q", **(said if "weight" not in said else {})}, yes]
    if "weight" not in said:
        assert read_demonstrations(jsonl({"conversations": turns}))[0][:2] == (ASKED, "Y")


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("tools", [{"tools": [TOOL]}, {"tools": []}, {}])
def test_openais_preferences_are_read_with_their_tools(jsonl, tools):
    """The layout of OpenAI's preference fine-tuning files."""
    asked = {"messages": [user("Q")], "parallel_tool_calls": True, **tools}
    path = jsonl({"input": asked, "preferred_output": [assistant("Y")], "non_preferred_output": [assistant("N")]})
    prompt = Messages([{**user("Q"), "chat_template_kwargs": tools}]) if tools.get("tools") else ASKED
    assert [r[:3] for r in read_rankings(path)] == [(prompt, ("Y", "N"), (1, 2))]
    assert read_demonstrations(path)[0][:2] == (prompt, "Y")
    assert read_prompts(path)[0].conversation == prompt


@pytest.mark.parametrize("turns", [[{"from": "human", "value": "Q"}], [user("Q")]])
def test_llama_factorys_preferences_have_their_turns_before_both_answers(jsonl, turns):
    row = {"conversations": turns, "chosen": {"from": "gpt", "value": "Y"}, "rejected": {"from": "gpt", "value": "N"}}
    assert [r[:3] for r in read_rankings(jsonl(row))] == [(ASKED, ("Y", "N"), (1, 2))]
    assert read_demonstrations(jsonl(row))[0][:2] == (ASKED, "Y")
    assert read_prompts(jsonl({**row, "system": "S"}))[0].conversation == Messages([system("S"), *ASKED])
    ends = {**row, "conversations": [*turns, assistant("Y")]}
    refusal(lambda: read_rankings(jsonl(ends)), "line 1: the prompt ends in an answer")


def test_an_answer_that_goes_on_with_turns_is_not_another_than_itself(jsonl):
    answer = "a\n\nHuman: more\n\nAssistant: b"
    assert read_demonstrations(jsonl({"prompt": "Q", "completion": answer}))[0][:2] == (PROMPT, answer)


@pytest.mark.parametrize(
    "more",
    [
        *({"choices": ["0", "4"]}, {"options": {"A": "red"}}, {"choices": {"text": ["red"], "label": ["A"]}}),
        *({"A": "red", "B": "blue"}, {"opa": "red"}, {"choices": '["red"]'}, {"option_1": "red"}),
    ],
)
def test_choices_beside_a_question_are_not_left_out(jsonl, more):
    row, first = {"question": "Which?", "answer": "B", **more}, next(iter(more))
    for read in (read_demonstrations, read_prompts):
        refusal(
            lambda read=read: read(jsonl(row)), f"line 1: there is {first!r} beside the question, which does not hold"
        )
        assert len(read(jsonl(row), layout=Layout(ignore=", ".join(more)))) == 1
        assert len(read(jsonl({**row, "question": "Which? A red B blue 0 4"}))) == 1


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"prompt": "Q", "completions": [{"response": "Y", "overall_score": 7.5}, {"response": "N"}]},
            "completion 2 has no 'overall_score', which others have",
        ),
        (
            {"prompt": "Q", "completions": [{"response": "Y"}, {"response": "N", "score": 1}]},
            "completion 1 has no 'score', which others have",
        ),
        ({"instruction": "Q", "output": ["Y", "N"]}, "'output' is a list of texts: write the one answer as a string"),
        ({"prompt": '["Q"]', "chosen": "Y", "rejected": "N"}, "the prompt is a list of texts written as JSON"),
        ({"prompt": "\u200b", "chosen": "Y", "rejected": "N"}, "the prompt is empty"),
        ({"prompt": [user("\u200b\ufeff")], "chosen": "Y", "rejected": "N"}, "the prompt is empty"),
        ({"prompt": "Q", "chosen": "\u200b", "rejected": "N"}, "empty"),
    ],
)
def test_rows_that_are_refused_with_what_to_write(jsonl, row, sentence):
    refusal(lambda: read_rankings(jsonl(row)), "line 1: ", sentence)


def test_a_list_of_answers_is_read_through_what_the_refusal_says(jsonl):
    path = jsonl({"instruction": "Q", "output": ["N", "Y"], "scores": [1, 2]})
    (ranking,) = read_rankings(path, layout=Layout(answers="output", scores="scores"))
    assert (ranking.answers, ranking.ranks) == (("N", "Y"), (2, 1))


def test_an_answer_of_weight_0_is_not_learned(jsonl, caplog):
    row = {"messages": [*TALK, assistant("Y", weight=0)]}
    refusal(lambda: read_demonstrations(jsonl(row)), "line 1: the last answer has the weight 0")
    learned = [user("P"), assistant("O", weight=0), user("Q"), assistant("Y", weight=1)]
    assert len(read_demonstrations(jsonl(row, {"messages": learned}), unusable="drop")) == 1
    assert "1 whose last answer has the weight 0" in caplog.text


ANOTHER = [  # rows in which one column does not say what another says
    {"messages": WHOLE["chosen"], "prompt": "a title", "completion": "Y"},
    {"messages": TALK, "prompt": "Q", "completion": "Y"},
    {"messages": [system("S"), *WHOLE["chosen"]], "prompt": "Q", "response": "Y"},
    {"conversations": GPT, "prompt": "R", "chosen": "Y", "rejected": "N"},
    {"conversation": HH + " Y", "chosen": [user("R"), assistant("Y")], "rejected": [user("R"), assistant("N")]},
    {"conversations": GPT, "messages": [user("R"), assistant("Y")]},
]
ANOTHER_ANSWER = [
    {"messages": WHOLE["chosen"], "prompt": "Q", "completion": "N"},
    {"conversations": GPT, "prompt": "Q", "chosen": "N", "rejected": "M"},
    {"response": "N", "messages": WHOLE["chosen"]},
    {"responses": ["N", "M"], "messages": WHOLE["chosen"]},
    {"output": [assistant("M")], **WHOLE},
    {"completions": [{"text": "M", "rank": 1}], "prompt": "Q", "answer": "Y"},
]


@pytest.mark.parametrize("row", ANOTHER)
def test_a_conversation_beside_another_prompt_is_not_dropped_without_a_word(jsonl, row):
    path, first = jsonl(row), next(iter(row))
    for read in (read_demonstrations, read_prompts):
        refusal(lambda read=read: read(path), f"line 1: there is {first!r} beside the prompt, which it does not begin")
        assert len(read(path, layout=Layout(ignore=first))) == 1
    if "completion" in row and row["messages"] == WHOLE["chosen"]:
        assert read_demonstrations(path, layout=Layout(messages=first))[0][:2] == (ASKED, "Y")


@pytest.mark.parametrize("row", ANOTHER_ANSWER)
def test_another_answer_is_not_dropped_without_a_word(jsonl, row):
    """Prompts know nothing of it."""
    path, first = jsonl(row), next(iter(row))
    refusal(
        lambda: read_demonstrations(path), f"line 1: there is {first!r} beside the answer, and it says something else"
    )
    assert len(read_demonstrations(path, layout=Layout(ignore=first))) == 1
    assert read_prompts(path)[0].conversation in (PROMPT, ASKED)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "completion": "Y", "messages": [user("q"), assistant(" Y ")]},
        {"prompt": [system("S"), user("Q")], "completion": "Y", "messages": WHOLE["chosen"]},
        {"prompt": "Q", "completion": "Y", "conversation": "conversation 12", "conversations": []},
        {"prompt": "Q", "chosen": "Y", "rejected": "N", "messages": [user("Q")]},
        {**WHOLE, "response": "Y", "completions": [{"text": "M"}, {"text": "N"}]},
        {"messages": WHOLE["chosen"], "answer": "42", "solution": "6 * 7 = 42"},
    ],
)
def test_what_says_the_same_may_stand_beside_it(jsonl, row):
    assert [d.answer for d in read_demonstrations(jsonl(row))] == ["Y"]


PICTURE = {"type": "image_url", "image_url": {"url": "a.png"}}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"prompt": "Q", "completion": "Y", "images": ["a.png"]},
            "there is 'images' beside the texts, which models of",
        ),
        ({"messages": [user([PICTURE]), assistant("Y")]}, "message 1 has a part of type 'image_url', which models of"),
        ({"user": "Q", "assistant": "Y", "context": "C"}, "there is 'context' beside 'user'"),
        (
            {"messages": WHOLE["chosen"], "functions": [{"name": "f"}]},
            "there are 'functions' beside the texts: say that",
        ),
        ({"messages": WHOLE["chosen"], "functions": '[{"name": "f"}]'}, "there are 'functions' beside the texts: say"),
    ],
)
def test_what_no_model_of_text_sees_and_what_a_question_is_about_are_not_left_out(jsonl, row, sentence):
    for read in (read_demonstrations, read_prompts):
        refusal(lambda read=read: read(jsonl(row)), f"line 1: {sentence}")
    for ignored, more in ((Layout(ignore="images"), {}), (Layout(), {"images": []})):
        if "images" in row:
            assert len(read_prompts(jsonl({**row, **more}), layout=ignored)) == 1


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q ", "messages": WHOLE["chosen"]},
        {"prompt": "S", "messages": [system("S"), *WHOLE["chosen"]]},
        {"prompt": [user("P")], "messages": [*TALK, assistant("Y")]},
        {"prompt": HH, "chosen": HH + " Y", "rejected": HH + " N"},
        {"instruction": "Q", "context": "C", "messages": [user("Q\n\nC"), assistant("Y")]},
        {"prompt": "Solve: Q", "question": "Q", "answer": "Y"},
    ],
)
def test_what_a_conversation_holds_may_stand_beside_it(jsonl, row):
    assert [d.answer for d in read_demonstrations(jsonl(row))] == ["Y"]


def test_a_label_in_a_list_is_not_looked_past(jsonl):
    row = {"prompt": "Q", "completion": "Y", "label": [False]}
    refusal(lambda: read_demonstrations(jsonl(row)), "line 1: there is 'label' beside the answers")


@pytest.mark.parametrize(
    "answer", [{"answer": 42}, {"solution": ["a"]}, {"completions": [3]}, {"answer": "a", "output": "b"}]
)
def test_prompts_are_read_whatever_stands_in_the_columns_of_answers(jsonl, answer):
    path = jsonl({"question": "Q", **answer})
    assert read_prompts(path)[0].columns == answer
    refusal(lambda: read_demonstrations(path), "line 1: ")


def test_a_prompt_that_is_named_goes_before_messages(jsonl):
    path = jsonl({"question": "Q", "messages": [user("R"), assistant("Y")]})
    for layout in (Layout(messages="messages"), Layout(ignore="question")):
        assert read_prompts(path, layout=layout)[0].conversation == Messages([user("R")])
    assert read_prompts(path, layout=Layout(prompt="question"))[0].conversation == PROMPT


def test_systems_that_contradict_each_other_are_refused(jsonl):
    messages = [system("S"), user("Q"), assistant("Y")]
    assert read_demonstrations(jsonl({"messages": messages, "system": "S"}))[0].prompt == Messages(messages[:-1])
    for row in ({"messages": messages, "system": "T"}, {"prompt": q("Q", "S"), "completion": "Y", "system": "T"}):
        refusal(lambda row=row: read_demonstrations(jsonl(row)), "line 1: there are two system messages")


def test_of_a_label_only_what_is_liked_is_a_demonstration_whatever_writes_it(tmp_path, caplog):
    path = tmp_path / "kto.csv"
    path.write_text("prompt,completion,label\nQ,Y,True\nQ,N,False\nR,M,0\nR,L,0.0\n")
    assert [d.answer for d in read_demonstrations(str(path))] == ["Y"]
    assert "dropped 3 of 4 rows: 3 whose label is false" in caplog.text
    (ranking,) = read_rankings(str(path))
    assert (ranking.answers, ranking.ranks) == (("Y", "N"), (1, 2))
    assert "dropped 2 of 4 rows: 2 whose prompt has no answer that is judged otherwise" in caplog.text
    caplog.clear()
    each = [("Q", "Y", True), ("Q", "N", False), ("R", "M", False), ("R", "L", False)]
    assert (
        read_feedback(str(path)) == [Judged(prompt_text(prompt), *rest) for prompt, *rest in each] and not caplog.text
    )
    path.write_text("prompt,completion,label,user\nR,M,0,a\n")
    refusal(
        lambda: read_rankings(str(path)), "none is left: give prompts with a liked and a disliked answer, or let KTO"
    )
    assert read_feedback(str(path)) == [Judged(prompt_text("R"), "M", False, user="a")]


def test_feedback_without_labels_is_rankings(jsonl):
    pair, label = {"prompt": "Q", "chosen": "Y", "rejected": "N"}, {"prompt": "Q", "completion": "Y", "label": True}
    assert read_feedback(jsonl(pair)) == read_rankings(jsonl(pair)) != []
    scored = [{"prompt": "Q", "completion": c, "stars": s} for c, s in (("Y", 5), ("N", 1))]
    layout = Layout(prompt="prompt", answer="completion", scores="stars")
    assert read_feedback(jsonl(*scored), layout=layout) == read_rankings(jsonl(*scored), layout=layout) != []
    refusal(
        lambda: read_feedback(jsonl(label, pair)), "line 2: a ranking in a file of answers with labels; put the two"
    )


def test_a_row_of_a_labelled_file_without_a_label_is_not_taken_for_liked(jsonl, caplog):
    liked = {"prompt": "Q", "completion": "Y", "label": True}
    null, absent = {**liked, "label": None}, {"prompt": "Q", "completion": "N"}
    for read in (read_demonstrations, read_rankings):
        refusal(lambda read=read: read(jsonl(liked, null)), "line 2: 'label' is null: give it a value")
    assert [d.answer for d in read_demonstrations(jsonl(liked, null), unusable="drop")] == ["Y"]
    assert len(read_demonstrations(jsonl(liked, null), layout=Layout(ignore="label"))) == 2
    refusal(
        lambda: read_demonstrations(jsonl(absent, liked)), "line 1: there is no label, which ", "line 2 has: add it"
    )
    advised = Layout(label="label", drop="label == null")
    assert len(read_demonstrations(jsonl(absent, liked, null), layout=advised)) == 1


def test_labels_and_ratings_of_decimals_are_labels_and_ratings(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def written(name, values):
        table = pyarrow.table({"prompt": ["Q", "R"], "completion": ["Y", "N"], name: list(map(Decimal, values))})
        parquet.write_table(table, tmp_path / "decimals.parquet")
        return str(tmp_path / "decimals.parquet")

    assert [d.answer for d in read_demonstrations(written("label", ["1.00", "0.00"]))] == ["Y"]
    refusal(
        lambda: read_demonstrations(written("rating", ["5.0", "1.0"])), "row 1: there is 'rating' beside the answers"
    )


def test_ranks_of_some_scores_of_many_and_numbers_beyond_floats_are_refused(jsonl):
    two = [{"text": "Y", "rank": 1, "score": 2}, {"text": "N", "score": 1}]
    for some in (two, two[::-1]):
        refusal(lambda some=some: read_rankings(jsonl({"prompt": "Q", "completions": some})), "has no 'rank': add it")
    row = {"prompt": "Q", "responses": ["Y", "N"], "scores": [10**400, 1]}
    refusal(lambda: read_rankings(jsonl(row)), "line 1: 'scores' is 1000", "no number: make it one")
    one = Layout(prompt="prompt", answer="answer", scores="scores")
    rated = {"prompt": "Q", "answer": "Y", "scores": [1, 2]}
    refusal(lambda: read_rankings(jsonl(rated), layout=one), "line 1: there is one answer and 'scores' has 2 numbers")
    nested = []
    for _ in range(3000):
        nested = [nested]
    refusal(lambda: example(Row({"prompt": "Q", "more": nested}, "")), "inside each other a thousand times")


@pytest.mark.parametrize("content", [b"hi", [{"type": "text", "text": b"hi"}]])
def test_bytes_in_messages_are_refused(content):
    row = Row({"messages": [{"role": "user", "content": content}, assistant("Y")]}, "")
    refusal(lambda: example(row), "message 1 holds bytes, {'role': 'user', 'content': ", "as strings")


def test_messages_stay_as_they_were_given(jsonl):
    parts = {"role": "user", "content": [{"type": "text", "text": " Q "}]}
    call = assistant(None, tool_calls=[{"function": {"name": "f", "arguments": {"a": None}}}])
    told = {"role": "tool", "content": "42", "tool_call_id": "1"}
    said = assistant(" Y ", reasoning_content="so")
    path = jsonl({"messages": [parts, call, told, {**said, "name": None}]})
    assert read_demonstrations(path)[0][:2] == (Messages([parts, call, told]), Messages([said]))
    last = jsonl({"messages": [user("Q"), call]})
    assert read_demonstrations(last)[0].answer == Messages([call])
    refusal(lambda: read_demonstrations(jsonl({"messages": [user("Q"), {**call, "tool_calls": []}]})), "has no content")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"prompt": [user("Q")], "chosen": [user("R"), assistant("Y")], "rejected": WHOLE["rejected"]},
            "the prompt is not how",
        ),
        ({"prompt": [user("Q"), assistant("Y")]}, "the prompt ends in an answer"),
        ({"messages": [user("Q"), assistant("Y"), assistant("N")]}, "the prompt ends in an answer"),
        ({side: [user("Q"), assistant("Y"), assistant(side)] for side in WHOLE}, "the prompt ends in an answer"),
        ({"prompt": [system("S")]}, "the prompt is empty"),
        ({"instruction": "Q", "question": "R"}, "there are two prompts, 'instruction' and 'question'"),
        ({"messages": [{"role": "robot", "content": "Q"}]}, "message 1 has the role 'robot': use 'user'"),
        (
            {"conversations": [{**CALLS, "value": "f(1)"}]},
            "message 1 calls a function and is 'f(1)': make it JSON with",
        ),
        ({"conversations": [{**CALLS, "value": '[{"name": "f"}]'}]}, "message 1 calls a function and is"),
        (
            {"messages": "array([{'role': 'user', 'content': 'Q'}], dtype=object)"},
            "a text is Python's repr of messages",
        ),
        ({"messages": None}, "'messages' is null"),
        ({"prompt": "Q", "history": [["P", "O"], ["N"]]}, "the history is [['P', 'O'], ['N']]"),
    ],
)
def test_prompts_that_are_none(jsonl, row, sentence):
    refusal(lambda: read_prompts(jsonl(row)), f"line 1: {sentence}")


COMPARED = {"prompt": "Q", "chosen": "Y", "rejected": "N"}
UNREAD = {  # a row, how it is read, and the columns that nothing is read from
    "numbers of no name": ({"prompt": "Q", "completion": "Y", "value": 0.1, "y": 3, "x1": -2.5}, {}, "value, y, x1"),
    "ids": ({"messages": [user("Q"), assistant("Y")], "id": "a", "source": "s", "prompt": "Q"}, {}, "id, source"),
    "a pair's scores are compared": (
        {**COMPARED, "score_chosen": 2, "score_rejected": 1, "margin": 1.0, "n": 1},
        {},
        "n",
    ),
    "of Distilabel": ({**COMPARED, "generations": ["Y", "N"], "rating": [9.0, 1.0], "order": ["a", "b"]}, {}, "order"),
    "what is ignored": ({"prompt": "Q", "completion": "Y", "value": 1, "y": 3}, {"ignore": "value"}, "y"),
    "what drops": ({"prompt": "Q", "completion": "Y", "value": 1, "y": 3}, {"drop": "y > 5"}, "value"),
    "what the layout names": (
        {"q": "Q", "a": "Y", "b": "N", "c": 1},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        "c",
    ),
    "a label": ({"prompt": "Q", "completion": "Y", "label": True, "tools": "[]", "system": "Be."}, {}, ""),
    "ranked": ({"prompt": "Q", "completions": ["Y", "N"], "scores": [2, 1], "value": [1, 2]}, {}, "value"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_columns_that_nothing_is_read_from_are_named_once(jsonl, name, caplog):
    row, layout, unread = UNREAD[name]
    path = jsonl(*[row | {"empty": None}] * 3, row | ({"late": 1} if unread else {}))
    sentence = f"{path}: columns not read: {unread}, late"
    read_demonstrations(path, layout=Layout(**layout))
    assert [record.message for record in caplog.records] == ([sentence] if unread else [])
    caplog.clear()
    read_prompts(path, layout=Layout(**layout))  # whose other columns reward functions are given
    assert not caplog.records


def test_conditions_drop_rows_and_are_counted(jsonl, caplog):
    rows = [
        {"prompt": str(n), "meta": {"lang": lang}, "n": n, "ok": n > 1}
        for n, lang in enumerate(["en", "de", "en", "fr"])
    ]
    path = jsonl(*rows)

    def kept(drop):
        return [p.columns["n"] for p in read_prompts(path, layout=Layout(drop=drop))]

    assert kept("meta.lang != en") == [0, 2]
    assert kept("n >= 2 and meta.lang == 'en' or n < 1") == [1, 3]
    assert kept("ok == true") == [0, 1]
    assert kept("n == 1 or n == 2") == [0, 3]
    assert kept("ok == null") == [0, 1, 2, 3]
    assert "dropped 2 of 4 rows: 2 by 'meta.lang != en' (the first is" in caplog.text
    refusal(lambda: kept("n < 9"), "dropped 4 of 4 rows", "none is left")
    refusal(lambda: kept("language != en"), "no row has 'language', which the layout names")
    refusal(lambda: kept("meta.lang < 3"), "line 1: 'meta.lang' is 'en', which cannot be compared with 3")
    refusal(lambda: kept("n"), "drop = 'n' cannot be read from 'n' on")
    refusal(lambda: kept("n < 1 or"), "cannot be read")
    for word, small in (("True", "true"), ("False", "false"), ("None", "null"), ("TRUE", "true")):
        refusal(lambda word=word: Layout(drop=f"ok == {word}").check(), f"write {small}, or '{word}' in quotes")
    for one in ("n == '3'", "n != '3'"):
        refusal(lambda one=one: kept(one), "line 1: 'n' is 0, which is never the text '3': write 3 without quotes")
    refusal(lambda: kept("ok == 'true'"), "line 1: 'ok' is False, which is never the text 'true'")
    refusal(lambda: kept("ok != 'True'"), "which is never the text 'True': write true without")
    assert kept("n == 'N/A'") == [0, 1, 2, 3]
    cells = jsonl({"prompt": "a", "n": "10"}, {"prompt": "b", "n": "9"}, {"prompt": "c", "n": ""})
    assert [p.columns["n"] for p in read_prompts(cells, layout=Layout(drop="n < 9.5"))] == ["10", ""]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"prompt": "a", "messages": "b"}, "both 'prompt' and 'messages'"),
        ({"rejected": "a"}, "'rejected' and no 'chosen'"),
        ({"best": "a"}, "'best' and no 'answers'"),
        ({"chosen": "a", "answers": "b, c"}, "both 'answers' and 'chosen'"),
        ({"answers": "a", "scores": "b", "best": "c"}, "both 'best' and 'scores'"),
        ({"answers": "a", "ranks": "b", "best": "c"}, "both 'best' and 'ranks'"),
        ({"answers": "a", "ranks": "b", "scores": "c"}, "both 'ranks' and 'scores'"),
        ({"answers": "a", "scores": "b", "label": "c"}, "both 'label' and 'answers'"),
        ({"answer": "a", "scores": "b", "label": "c"}, "both 'label' and 'scores'"),
        ({"chosen": "a", "rejected": "b", "label": "c"}, "both 'label' and 'chosen'"),
        ({"scores": "a"}, "'scores' and neither 'answer' nor 'answers'"),
    ],
)
def test_a_layout_that_cannot_be(names, sentence):
    refusal(lambda: Layout(**names).check(), f"the layout names {sentence}")
    refusal(lambda: read_prompts("nowhere.jsonl", layout=Layout(**names)), f"the layout names {sentence}")


def test_a_layouts_path_is_named_where_it_leads_nowhere(jsonl):
    path = jsonl({"a": {"b.c": [{"d": "Q"}, {"d": "R"}]}, "y": None})
    assert read_prompts(path, layout=Layout(prompt="a.b.c.1.d"))[0].conversation == q("R")
    refusal(
        lambda: read_prompts(path, layout=Layout(prompt="a.x")),
        "line 1: there is no 'a.x' (found: a, y): mend the path",
    )
    refusal(lambda: read_prompts(path, layout=Layout(prompt="y")), "line 1: 'y' is null")
    refusal(lambda: read_prompts(path, layout=Layout(prompt="a.b.c.0.d", user="z")), "no row has 'z'")


def test_a_question_that_quotes_a_dialogue_is_one_turn(tmp_path):
    """What begins with the user's turn, or ends where the assistant's begins, is a transcript; other text is said by the
    user, whatever it quotes."""
    log = "Translate this log:\n\nHuman: hi\n\nAssistant: yo\n\nHuman: bye"
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"instruction": log, "output": "x"}) + "\n")
    asked = Messages([{"role": "user", "content": log}])
    assert read_demonstrations(str(path)) == [Demonstration(asked, "x")]
    assert [prompt.conversation for prompt in read_prompts(str(path))] == [asked]
    path.write_text(json.dumps({"prompt": f"{log}\n\nAssistant:", "completion": "x"}) + "\n")
    assert read_demonstrations(str(path)) == [Demonstration(f"{log}\n\nAssistant:", "x")]
