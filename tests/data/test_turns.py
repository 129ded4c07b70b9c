"""Conversations as tokens: one reading for demonstrations, rankings and prompts, in a template or as transcripts."""

import numpy as np
import pytest

from rlhf_jax.data import (
    ChatTemplate,
    Demonstration,
    Messages,
    Prompt,
    Ranking,
    encode_demonstrations,
    encode_learned,
    encode_prompt,
    encode_prompts,
    encode_rankings,
    encode_turn,
    fits,
    less_oldest_turns,
    load_chat_template,
    load_tokenizer,
    prompt_fits,
    prompt_text,
    text_of,
    with_chat,
)
from rlhf_jax.errors import InputError
from tests.data.conftest import write_bytes_tokenizer
from tests.refusals import refusal

SPECIAL = ("</s>", "<|im_start|>", "<|im_end|>")
EOS, START, END = 256, 257, 258
TALK = Messages(
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
)
WRITTEN = "Be kind.\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"  # the same as a transcript


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return load_tokenizer(write_bytes_tokenizer(tmp_path_factory.mktemp("turns") / "tokenizer.json", SPECIAL))


@pytest.fixture(scope="module")
def chatml(plain):
    return with_chat(plain, load_chat_template("chatml"))


def ids(*pieces):
    """Ids of special tokens as they are, of text its bytes."""
    return [i for piece in pieces for i in ([piece] if isinstance(piece, int) else piece.encode())]


PROMPT = ids(
    *(START, "system\nBe kind.", END, "\n", START, "user\nHi", END, "\n"),
    *(START, "assistant\nHello", END, "\n", START, "user\nWhy?", END, "\n", START, "assistant\n"),
)


@pytest.mark.parametrize("prompt", [TALK, WRITTEN], ids=["messages", "transcript"])
def test_a_turn_in_a_template(chatml, prompt):
    """A transcript is messages, and a template reads it as such."""
    assert encode_prompt(prompt, chatml) == PROMPT
    assert encode_turn(prompt, "So.", chatml) == (PROMPT, ids("So.", END))
    assert encode_turn(prompt, Messages([{"role": "assistant", "content": "So."}]), chatml) == (PROMPT, ids("So.", END))


@pytest.mark.parametrize("prompt", [TALK, WRITTEN], ids=["messages", "transcript"])
def test_a_turn_in_a_transcript(plain, prompt):
    for tokenizer in (plain, with_chat(plain, None), with_chat(plain, load_chat_template("hh"))):
        assert tokenizer.ends == (EOS,)
        assert encode_turn(prompt, "So.", tokenizer) == (ids(WRITTEN), ids(" So.", EOS))


def test_an_answer_of_several_turns(plain, chatml):
    more = [{"role": "assistant", "content": "So."}, {"role": "user", "content": "Ah"}]
    answer = Messages([*more, {"role": "assistant", "content": "Yes"}])
    _, said = encode_turn(TALK, answer, chatml)
    assert said == ids("So.", END, "\n", START, "user\nAh", END, "\n", START, "assistant\nYes", END)
    assert encode_turn(TALK, answer, plain)[1] == ids(" So.\n\nHuman: Ah\n\nAssistant: Yes", EOS)


def test_what_ends_an_answer(plain, chatml):
    assert chatml.ends == (END, EOS)
    assert with_chat(plain, load_chat_template("zephyr")).ends == (EOS,)
    # Where a template writes no special token behind an answer there is nothing to stop at, and EOS goes there.
    bare = with_chat(plain, ChatTemplate("{% for m in messages %}{{ m.role + ':' + m.content + ';' }}{% endfor %}"))
    assert bare.ends == (EOS,) and encode_turn(Messages(TALK[1:2]), "So.", bare)[1][-1] == EOS


def test_a_template_that_asks_for_the_date_hears_one_date(plain):
    source = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    dated = with_chat(plain, ChatTemplate(source))
    assert encode_prompt(Messages(TALK[1:2]), dated) == ids("26 Jul 2024Hi")


def marked(*parts):
    """Tokens and mask of parts, of which the assistant's stand in lists."""
    rows = [(i, own) for part in parts for own in [isinstance(part, list)] for i in ids(*(part if own else [part]))]
    return [i for i, _ in rows], [own for _, own in rows]


IN_TEMPLATE = marked(
    *(START, "system\nBe kind.", END, "\n", START, "user\nHi", END, "\n", START, "assistant\n", ["Hello", END], "\n"),
    *(START, "user\nWhy?", END, "\n", START, "assistant\n", ["So.", END]),
)
# In a transcript nothing marks the end of an earlier answer, so that its text alone is learned.
IN_TRANSCRIPT = marked(
    "Be kind.\n\nHuman: Hi\n\nAssistant:", [" Hello"], "\n\nHuman: Why?\n\nAssistant:", [" So.", EOS]
)


def test_an_earlier_answer_of_weight_0_is_no_turn_to_learn(plain, chatml):
    prompt = Messages([*TALK[:2], {**TALK[2], "weight": 0}, TALK[3]])
    for tokenizer in (plain, chatml):
        refusal(
            lambda tokenizer=tokenizer: encode_learned(prompt, "So.", tokenizer, "all"), "message 3 has the weight 0"
        )
    assert encode_learned(prompt, "So.", chatml) == encode_learned(TALK, "So.", chatml)


@pytest.mark.parametrize("prompt", [TALK, WRITTEN], ids=["messages", "transcript"])
def test_every_turn_of_the_assistant(plain, chatml, prompt):
    assert encode_learned(prompt, "So.", chatml, "all") == IN_TEMPLATE
    assert encode_learned(prompt, "So.", plain, "all") == IN_TRANSCRIPT


def test_demonstrations_learn_the_last_turn_or_all(plain, chatml):
    rows = [Demonstration(TALK, "So."), Demonstration("\n\nHuman: Hi\n\nAssistant:", "Yes")]
    for tokenizer, (tokens, every) in ((chatml, IN_TEMPLATE), (plain, IN_TRANSCRIPT)):
        last, whole = (encode_demonstrations(rows, tokenizer, 200, turns) for turns in ("last", "all"))
        assert (last.tokens == whole.tokens).all() and last.tokens[0, : len(tokens)].tolist() == tokens
        assert whole.predict[0, : len(tokens)].tolist() == every
        answer = len(encode_turn(TALK, "So.", tokenizer)[1])
        assert np.flatnonzero(last.predict[0]).tolist() == list(range(len(tokens) - answer, len(tokens)))
        assert (last.predict[1] == whole.predict[1]).all() and last.predict[1].sum() == len(ids("Yes")) + 1 + (
            tokenizer is plain  # the space before it
        )
        assert fits(rows[0], tokenizer, len(tokens), "all") and not fits(rows[0], tokenizer, len(tokens) - 1, "all")
        with pytest.raises(InputError, match=r"demonstration 1: a prompt of \d+ tokens and an answer of \d+ with EOS"):
            encode_demonstrations(rows, tokenizer, len(tokens) - 1, "all")


def test_all_three_kinds_of_rows_read_one_format(chatml):
    prompts = encode_prompts([Prompt(TALK)], chatml, 150)
    assert prompts.tokens[0][prompts.mask[0]].tolist() == PROMPT
    demonstrations = encode_demonstrations([Demonstration(TALK, "So.")], chatml, 150)
    rankings = encode_rankings([Ranking(TALK, ("No", "So."), (2, 1))], chatml, 150, 2)
    assert (rankings.tokens[0, 1] == demonstrations.tokens[0]).all()
    assert rankings.tokens[0, 0][rankings.mask[0, 0]].tolist() == PROMPT + ids("No", END)
    assert prompt_fits(Prompt(TALK), chatml, len(PROMPT)) and not prompt_fits(Prompt(TALK), chatml, len(PROMPT) - 1)


@pytest.mark.parametrize("written", [False, True], ids=["messages", "transcript"])
def test_the_oldest_turns_go_first(chatml, written):
    talk = WRITTEN if written else TALK
    short = Messages([TALK[0], TALK[3]])
    expected = prompt_text(list(short)) if written else short
    size = len(encode_prompt(short, chatml))
    assert less_oldest_turns(talk, lambda x: len(encode_prompt(x, chatml)) <= len(PROMPT)) is talk
    assert less_oldest_turns(talk, lambda x: len(encode_prompt(x, chatml)) <= len(PROMPT) - 1) == expected
    assert less_oldest_turns(talk, lambda x: len(encode_prompt(x, chatml)) <= size) == expected
    assert less_oldest_turns(talk, lambda x: len(encode_prompt(x, chatml)) <= size - 1) is None


def test_an_answer_that_does_not_continue_its_prompt(plain):
    turned = ChatTemplate("{% for m in messages | reverse %}{{ m.content + ';' }}{% endfor %}")
    with pytest.raises(InputError, match=r"in the chat template .* does not continue .*: give it \{% generation %\}"):
        with_chat(plain, turned)


def test_how_messages_read_aloud():
    """What splits, judges and pages know a conversation by; no template reads it."""
    assert text_of(TALK) == WRITTEN.removesuffix("\n\nAssistant:") and Prompt(TALK).text == WRITTEN
    assert Prompt(WRITTEN).text == text_of(WRITTEN) == WRITTEN
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    parts = {"role": "tool", "content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]}
    assert text_of(Messages([TALK[1], call, parts])) == '\n\nHuman: Hi\n\nAssistant: {"name": "f"}\n\nTool: 42'
    assert hash(Messages(list(TALK))) == hash(TALK) and len({Prompt(TALK), Prompt(Messages(list(TALK)))}) == 1


TWO = Messages(
    [
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Ah"},
        {"role": "assistant", "content": "Yes"},
    ]
)


@pytest.mark.parametrize("answer", [TWO, "So.\n\nHuman: Ah\n\nAssistant: Yes"], ids=["messages", "transcript"])
def test_what_a_user_says_inside_an_answer_is_not_learned(plain, chatml, answer):
    ids_, own = encode_learned(TALK, answer, plain)
    expected = marked(WRITTEN, [" So."], "\n\nHuman: Ah\n\nAssistant:", [" Yes", EOS])
    assert (ids_, own) == expected
    if answer is TWO:
        between = [END, "\n", START, "user\nAh", END, "\n", START, "assistant\n"]
        tokens, own = encode_learned(TALK, answer, chatml)
        assert tokens == PROMPT + ids("So.", *between, "Yes", END)
        learned = [token for token, each in zip(tokens, own, strict=True) if each]
        assert learned == ids("So.", END, "Yes", END)


def test_no_marker_of_a_turn_is_learned(plain):
    twice = encode_learned("\n\nHuman: a\n\nAssistant: b\n\nAssistant:", "c", plain, "all")
    assert twice == marked("\n\nHuman: a\n\nAssistant:", [" b"], "\n\nAssistant:", [" c", EOS])


def test_a_template_that_loses_what_is_said_is_refused(plain):
    for source in ("{{ m.content if m.role == 'assistant' }}", "{{ m.content | upper }}"):
        template = ChatTemplate(
            f"{{% for m in messages %}}{{% generation %}}{source}{{% endgeneration %}}{{% endfor %}}"
        )
        with pytest.raises(
            InputError, match=r"role .(user|assistant).*no place|does not write what the (user|assistant) says"
        ):
            with_chat(plain, template)


def test_a_developer_s_message_stays_as_a_system_s_does():
    talk = Messages([{"role": "developer", "content": "D"}, *TALK[1:]])
    assert less_oldest_turns(talk, lambda x: len(x) == 2) == Messages([talk[0], talk[-1]])
