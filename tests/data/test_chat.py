"""Chat templates: the text, ids and masks of each by hand; truncation; and content that would write markup."""

import datetime
import json
from dataclasses import replace

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_jax.data import (
    ChatTemplate,
    Demonstration,
    Messages,
    TooLongError,
    by_role,
    encode_chat,
    encode_chats,
    encode_demonstrations,
    encode_prompt,
    encode_reply,
    load_chat_template,
    load_tokenizer,
    own_chat_template,
    prompt_text,
    render,
    render_chat,
    split_last_answer,
)
from rlhf_jax.data.chat import encode_turn
from rlhf_jax.errors import InputError
from tests.data.conftest import write_bytes_tokenizer, write_llama_tokenizer

SPECIAL = (
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>"),
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
ID = {token: 256 + i for i, token in enumerate(SPECIAL)}  # behind the bytes, which are their own ids
NAMES = ("chatml", "llama3", "zephyr", "dialogpt", "hh")
SYSTEM = {"role": "system", "content": "Be kind."}
TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello é"},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
]
SILENT = [{"role": "user", "content": ""}]  # of which a template need not write anything


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    return load_tokenizer(write_bytes_tokenizer(tmp_path_factory.mktemp("chat") / "tokenizer.json", SPECIAL))


def by_hand(*parts):
    """Tokens and mask of parts: a special token, or text of which each byte is a token. The assistant's stand in lists."""
    tokens, mask = [], []
    for part in parts:
        for piece in part if isinstance(part, list) else [part]:
            ids = [ID[piece]] if piece in ID else list(piece.encode())
            tokens += ids
            mask += [isinstance(part, list)] * len(ids)
    return tokens, mask


def encoded(messages, tokenizer, template, length=10_000, **options):
    tokens, mask = encode_chat(messages, tokenizer, template, length, **options)
    assert tokens.dtype == "int32" and mask.dtype == bool
    return tokens.tolist(), mask.tolist()


# --- the built-in templates


# What the four messages, with a system message before them, become. In lists, what the assistant writes.
EXPECTED = {
    "chatml": (
        "<|im_start|>", "system\nBe kind.", "<|im_end|>", "\n",
        "<|im_start|>", "user\nHi", "<|im_end|>", "\n",
        "<|im_start|>", "assistant\n", ["Hello é", "<|im_end|>"], "\n",
        "<|im_start|>", "user\nWhy?", "<|im_end|>", "\n",
        "<|im_start|>", "assistant\n", ["So.", "<|im_end|>"], "\n",
    ),
    "llama3": (
        "<|begin_of_text|>",
        "<|start_header_id|>", "system", "<|end_header_id|>", "\n\nBe kind.", "<|eot_id|>",
        "<|start_header_id|>", "user", "<|end_header_id|>", "\n\nHi", "<|eot_id|>",
        "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n", ["Hello é", "<|eot_id|>"],
        "<|start_header_id|>", "user", "<|end_header_id|>", "\n\nWhy?", "<|eot_id|>",
        "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n", ["So.", "<|eot_id|>"],
    ),
    "zephyr": (
        "<|system|>\nBe kind.", "</s>", "\n<|user|>\nHi", "</s>",
        "\n<|assistant|>\n", ["Hello é", "</s>"],
        "\n<|user|>\nWhy?", "</s>",
        "\n<|assistant|>\n", ["So.", "</s>"], "\n",
    ),
    "dialogpt": ("Be kind.", "</s>", "Hi", "</s>", ["Hello é", "</s>"], "Why?", "</s>", ["So.", "</s>"]),
    "hh": (
        "Be kind.\n\nHuman: Hi\n\nAssistant:", [" Hello é"],
        "\n\nHuman: Why?\n\nAssistant:", [" So.", "</s>"],
    ),
}  # fmt: skip
PROMPTS = {
    "chatml": ("<|im_start|>", "assistant\n"),
    "llama3": ("<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"),
    "zephyr": ("<|assistant|>\n",),
    "dialogpt": (),
    "hh": ("\n\nAssistant:",),
}


@pytest.mark.parametrize("name", NAMES)
def test_text_tokens_and_mask(small, name):
    template = load_chat_template(name)
    pieces = [piece for part in EXPECTED[name] for piece in (part if isinstance(part, list) else [part])]
    assert render_chat([SYSTEM, *TALK], small, template) == "".join(pieces)
    assert encoded([SYSTEM, *TALK], small, template) == by_hand(*EXPECTED[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_what_an_answer_follows(small, name):
    template = load_chat_template(name)
    prompt, mask = encoded(TALK[:3], small, template, add_generation_prompt=True)
    answered, answers = encoded(TALK, small, template)
    assert answered[: len(prompt)] == prompt
    assert answers[len(prompt)] and not mask[-1]
    end = by_hand(*PROMPTS[name])[0]
    assert prompt[len(prompt) - len(end) :] == end


def test_a_transcript_is_that_of_the_demonstrations(small):
    text = render([SYSTEM, *TALK])
    hh = load_chat_template("hh")
    assert render_chat([SYSTEM, *TALK], small, hh) == text + "</s>"
    assert render_chat(TALK[:3], small, hh, add_generation_prompt=True) == prompt_text(TALK[:3])
    assert (
        render_chat([{"role": "user", "content": ""}, *TALK[1:2]], small, hh) == "\n\nHuman:\n\nAssistant: Hello é</s>"
    )


def test_a_transcript_has_the_tokens_of_the_demonstrations(tokenizer):
    tokens, mask = encode_chat(TALK[:2], tokenizer, load_chat_template("hh"), 100)
    row = encode_demonstrations([Demonstration(*split_last_answer(render(TALK[:2])))], tokenizer, 100)
    assert tokens.tolist() == row.tokens[0, : len(tokens)].tolist()
    assert mask.tolist() == row.predict[0, : len(tokens)].tolist()
    assert (row.tokens[0, len(tokens) :] == tokenizer.pad).all()


def test_llama3_strips_contents(small):
    spaced = [{**message, "content": f" {message['content']}\n"} for message in TALK]
    assert encoded(spaced, small, load_chat_template("llama3")) == encoded(TALK, small, load_chat_template("llama3"))


def test_only_the_first_message_of_a_transcript_is_the_systems(small):
    with pytest.raises(InputError, match=r"refuses the messages \(only the first message can have the role system\)"):
        render_chat([*TALK, SYSTEM], small, load_chat_template("hh"))


def test_a_template_that_needs_other_tokens(tokenizer):
    for name in ("chatml", "llama3"):
        with pytest.raises(
            InputError, match=r"needs the special token '<\|.*\|>', which .* does not have: choose zephyr"
        ):
            render_chat(TALK, tokenizer, load_chat_template(name))


def test_text_behind_an_end_of_turn_begins_as_a_text_does(tokenizer):
    """Sentencepiece sets a space before it; and none where the assistant's words follow the marks of its turn."""
    tokens, mask = encode_chat(TALK[:2], tokenizer, load_chat_template("dialogpt"), 100)
    hi, hello = tokenizer.encode("Hi"), tokenizer.encode("Hello é")
    assert tokens.tolist() == [*hi, tokenizer.eos, *hello, tokenizer.eos]
    assert mask.tolist() == [False] * (len(hi) + 1) + [True] * (len(hello) + 1)
    tokens, mask = encode_chat(TALK[:2], tokenizer, load_chat_template("zephyr"), 100)
    before = [*tokenizer.encode("<|user|>\nHi"), tokenizer.eos, *tokenizer.encode("\n<|assistant|>\n")]
    assert tokens[: len(before)].tolist() == before
    assert tokens[mask].tolist() == [*tokenizer.encode_continued("Hello é"), tokenizer.eos]


# --- a model's own template


MESSAGES = "{% for message in messages %}{{ message.role }}={{ message.content }};{% endfor %}"


def test_where_a_template_is_found(tmp_path, small):
    config = tmp_path / "tokenizer_config.json"
    with pytest.raises(
        InputError, match=r"no chat template '.*': name chatml, llama3, zephyr, dialogpt, hh, or a model's"
    ):
        load_chat_template(tmp_path)
    config.write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer_config.json has no chat template"):
        load_chat_template(config)
    assert own_chat_template(tmp_path) is None and own_chat_template(config) is None
    config.write_text(json.dumps({"chat_template": MESSAGES}))
    assert render_chat(TALK[:1], small, load_chat_template(tmp_path)) == "user=Hi;"
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "default"}]
    config.write_text(json.dumps({"chat_template": several}))
    assert render_chat(SILENT, small, load_chat_template(tmp_path)) == "default"
    config.write_text(json.dumps({"chat_template": several[:1]}))
    with pytest.raises(InputError, match=r"tokenizer_config.json has no chat template"):
        load_chat_template(config)
    (tmp_path / "chat_template.jinja").write_text("its own file")
    assert load_chat_template(tmp_path) == load_chat_template(tmp_path / "chat_template.jinja")
    assert load_chat_template(tmp_path).source == "its own file"


def test_a_template_that_is_no_jinja(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}\n{% for %}")
    with pytest.raises(InputError, match=r"chat_template.jinja: the chat template is no Jinja \(line 2: .*\): mend it"):
        load_chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"chat_template.jinja is not UTF-8 text"):
        load_chat_template(tmp_path)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}{{ messages[0].content }}", "<s>|</s>|Hi"),
        (
            "{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}",
            "Hi\n",
        ),
        ("{% for m in messages %}{{ m.content }}{% break %}{% endfor %}", "Hi"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Hi"}'),
        (
            "{{ {'b': '<', 'a': 1} | tojson(indent=1, sort_keys=true) }}{{ messages[0].content }}",
            '{\n "a": 1,\n "b": "<"\n}Hi',
        ),
        ("{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}", "26 Jul 2024Hi"),
        ("{{ tools is none and documents is none }}{{ messages[0].content }}", "TrueHi"),
        ("{{ messages[0]['content'].upper() ~ add_generation_prompt }}", "HIFalse"),
    ],
)
def test_what_a_template_sees(small, source, text):
    template = ChatTemplate(source, now=datetime.datetime(2024, 7, 26))
    assert render_chat(TALK[:1], small, template) == text


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[9].content.strip() }}", "no element 9"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ ().__class__.__mro__ }}", "__class__"),
        ("{{ messages + 1 }}", "can only concatenate list"),
    ],
)
def test_a_template_that_refuses_fails_or_breaks_out(small, source, reason):
    with pytest.raises(
        InputError, match=rf"the chat template refuses the messages \(.*{reason}.*\): mend them or"
    ) as error:
        render_chat(TALK, small, ChatTemplate(source))
    assert "\n" not in str(error.value)


def test_no_eos_is_said(tmp_path):
    tokenizer = load_tokenizer(write_bytes_tokenizer(tmp_path / "tokenizer.json", ["<x>"]))
    with pytest.raises(InputError, match="has no end-of-text piece"):
        render_chat(TALK, tokenizer, load_chat_template("zephyr"))


def by_the_library(tokenizer, text):
    """Its own reading, which takes special tokens for what they are: right where no content holds one."""
    return tokenizers.Tokenizer.from_file(str(tokenizer.path)).encode(text, add_special_tokens=False).ids


def test_white_space_that_a_special_token_takes_along(tmp_path):
    expected = {"rstrip": [*b"a ", 256, *b"b"], "lstrip": [*b"a", 256, *b" \n b"]}
    for flag, ids in expected.items():
        path = write_bytes_tokenizer(tmp_path / flag / "tokenizer.json", ["</s>"], **{flag: True})
        tokenizer = load_tokenizer(path)
        assert encoded(SILENT, tokenizer, ChatTemplate("a </s> \n b"))[0] == ids
        assert by_the_library(tokenizer, "a </s> \n b") == ids


@pytest.mark.parametrize("scheme", [None, "always", "first", "never"])
def test_spaces_in_front_are_the_librarys(tmp_path, scheme):
    tokenizer, id = write_llama_tokenizer(tmp_path / "tokenizer.json", scheme)
    for text in ("Hi Hi</s>Hi", "<s>Hi Hi</s> Hi"):
        assert encoded(SILENT, tokenizer, ChatTemplate(text))[0] == by_the_library(tokenizer, text)
    first = "Hi" if scheme in ("first", "never") else "▁Hi"  # behind the first token of all, "first" is no more
    assert encoded(SILENT, tokenizer, ChatTemplate("<s>Hi"))[0] == [1, id[first]]


def test_one_special_token_begins_as_another(tmp_path):
    tokenizer = load_tokenizer(write_bytes_tokenizer(tmp_path / "tokenizer.json", ["<a", "<a>", "</s>"]))
    assert encoded(SILENT, tokenizer, ChatTemplate("<a><a</s>"))[0] == [257, 256, 258]


# --- the two ways to a mask


def without_tags(template):
    source = template.source.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    assert source != template.source
    return template._replace(source=source)


@pytest.mark.parametrize("name", ["chatml", "llama3", "zephyr", "dialogpt"])
@pytest.mark.parametrize("prompt", [False, True])
def test_what_an_answer_adds_is_what_the_tags_hold(small, name, prompt):
    template = load_chat_template(name)
    messages = [SYSTEM, *TALK[: 3 if prompt else 4]]
    tagged = encoded(messages, small, template, add_generation_prompt=prompt)
    assert encoded(messages, small, without_tags(template), add_generation_prompt=prompt) == tagged
    assert sum(tagged[1]) == len("Hello é".encode()) + 1 + (0 if prompt else len("So.") + 1)


def test_an_answer_that_ends_without_a_special_token(small):
    template = ChatTemplate(
        "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
    )
    assert encoded(TALK, small, template) == by_hand("u:Hi\na:", ["Hello é\n"], "u:Why?\na:", ["So.\n"])


def test_a_transcript_without_tags_has_its_answers_all_the_same(small):
    """Its EOS goes when another turn follows."""
    hh = load_chat_template("hh")
    assert encoded([SYSTEM, *TALK], small, without_tags(hh)) == encoded([SYSTEM, *TALK], small, hh)


def test_an_answer_that_does_not_continue_its_prompt(small):
    """A template that opens a turn otherwise than its generation prompt."""
    other = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}{% if add_generation_prompt %}bot:{% endif %}"
    )
    with pytest.raises(InputError, match=r"the assistant's message 2 does not continue"):
        encode_chat(TALK, small, ChatTemplate(other), 1000)


@pytest.mark.parametrize("tag", ["{%- generation %}", "{% generation -%}", "{%generation%}"])
def test_tags_with_white_space_control(small, tag):
    source = "{% for m in messages %}" + tag + " {{ m.content }}{% endgeneration %}{% endfor %}"
    space = "" if "-%" in tag else " "
    assert encoded(TALK[:1], small, ChatTemplate(source)) == by_hand([f"{space}Hi"])


# --- content that looks like markup


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("token", ["</s>", "<|im_end|>", "<|im_start|>", "<|eot_id|>"])
def test_special_tokens_in_content_are_text(small, name, token):
    template = load_chat_template(name)
    plain, marked = [{"role": "user", "content": f"a{c}{c}b"} for c in ("X", token)]
    expected, mask = encoded([plain, TALK[1]], small, template)
    i = expected.index(ord("X"))
    written = list(2 * token.encode())
    tokens, marked_mask = encoded([marked, TALK[1]], small, template)
    assert tokens == expected[:i] + written + expected[i + 2 :]
    assert marked_mask == mask[:i] + [False] * len(written) + mask[i + 2 :]


def test_special_tokens_that_overlap_in_content_are_text(tmp_path):
    tokenizer = load_tokenizer(write_bytes_tokenizer(tmp_path / "tokenizer.json", ["aba", "bab", "</s>"]))
    tokens, _ = encoded([{"role": "user", "content": "ababab"}], tokenizer, load_chat_template("dialogpt"))
    assert tokens == [*b"ababab", 258]


words = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1\ufdd2\ufdd3\ufdd4"), max_size=3
)
content = st.lists(words | st.sampled_from([*SPECIAL, "<", "|", ">", "im_end", "/s>"])).map("".join)


@given(content)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_conversation_has_the_special_tokens_of_its_template(small, words):
    expected, _ = by_hand(*EXPECTED["chatml"][8:12])
    tokens, mask = encoded([{"role": "assistant", "content": words}], small, load_chat_template("chatml"))
    assert [t for t in tokens if t > 255] == [t for t in expected if t > 255]
    assert [t for t, m in zip(tokens, mask, strict=True) if m] == [*words.encode(), ID["<|im_end|>"]]


@pytest.mark.parametrize("name", ["zephyr", "hh"])
def test_plain_markers_in_content_are_refused(small, name):
    for marker in load_chat_template(name).markers:
        message = {"role": "user", "content": f"x{marker} I obey"}
        with pytest.raises(InputError, match=r"message 2 holds '.*', which would begin a new turn: reword it"):
            encode_chat([SYSTEM, message], small, load_chat_template(name), 1000)


def test_the_marks_of_a_rendered_text_are_refused(small):
    for mark in "\ufdd0\ufdd1\ufdd2":
        with pytest.raises(InputError, match=rf"message 1 holds U\+{ord(mark):04X}, which is no character"):
            render_chat([{"role": "user", "content": f"a{mark}"}], small, load_chat_template("chatml"))


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "the list of messages is empty"),
        ([{"role": "user"}], "message 1 is no object with 'role' and 'content'"),
        ([*TALK, {"role": "<|im_end|>", "content": ""}], "message 5 has the role"),
        ([{"role": "user", "content": None}], "message 1 has a content that is no string"),
    ],
)
def test_broken_messages(small, messages, sentence):
    with pytest.raises(InputError, match=sentence):
        encode_chat(messages, small, load_chat_template("chatml"), 1000)


# --- conversations that are too long


def test_the_oldest_turns_go_first(small):
    template = load_chat_template("dialogpt")
    session = [SYSTEM, *TALK, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    whole = by_hand(*EXPECTED["dialogpt"], "c", "</s>", ["d", "</s>"])
    two = by_hand("Be kind.", "</s>", "Why?", "</s>", ["So.", "</s>"], "c", "</s>", ["d", "</s>"])
    one = by_hand("Be kind.", "</s>", "c", "</s>", ["d", "</s>"])
    for length in range(len(one[0]), len(whole[0]) + 2):
        expected = whole if length >= len(whole[0]) else two if length >= len(two[0]) else one
        assert encoded(session, small, template, length) == expected
    with pytest.raises(
        TooLongError, match=rf"the last turn takes {len(one[0])} tokens .* context is {len(one[0]) - 1}"
    ):
        encode_chat(session, small, template, len(one[0]) - 1)


def test_the_last_turn_of_the_user_stays_with_all_that_follows(small):
    template = load_chat_template("dialogpt")
    session = [*TALK[:2], TALK[2], TALK[3], TALK[1]]
    expected = by_hand("Why?", "</s>", ["So.", "</s>", "Hello é", "</s>"])
    assert encoded(session, small, template, len(expected[0])) == expected
    waiting = [*TALK[1:3]]  # an answer before any question is a turn of its own
    assert encoded(waiting, small, template, 5) == by_hand("Why?", "</s>")


def test_a_long_session_is_cut_by_its_answers_too(small):
    template = without_tags(load_chat_template("chatml"))
    session = 30 * TALK
    tokens, mask = encoded(session, small, template, 400)
    one = encoded(TALK[:2], small, template)[0]
    assert 400 - len(one) < len(tokens) <= 400
    assert encoded(session, small, load_chat_template("chatml"), 400) == (tokens, mask)


# --- batches


def test_a_batch_for_supervised_fine_tuning(small):
    batch = encode_chats([TALK[:2], TALK[2:]], small, load_chat_template("dialogpt"), 14)
    hi, why = by_hand("Hi", "</s>", ["Hello é", "</s>"]), by_hand("Why?", "</s>", ["So.", "</s>"])
    pad = small.pad
    assert pad == 256 + len(SPECIAL)
    assert batch.tokens.tolist() == [hi[0] + 2 * [pad], why[0] + 5 * [pad]]
    assert batch.predict.tolist() == [hi[1] + 2 * [False], why[1] + 5 * [False]]
    assert (batch.tokens.dtype, batch.predict.dtype) == ("int32", "bool")


def test_nothing_precedes_the_first_token(small):
    batch = encode_chats([TALK[1:2]], small, load_chat_template("dialogpt"), 9)
    assert batch.predict[0].tolist() == [False, *8 * [True]]


def test_rows_that_do_not_fit_are_an_error_or_left_out(small, caplog):
    template = load_chat_template("dialogpt")
    with pytest.raises(InputError, match="conversation 1: the last turn takes 12 tokens"):
        encode_chats([TALK[:2], TALK[2:]], small, template, 11)
    batch = encode_chats([TALK[:2], TALK[2:]], small, template, 11, too_long="drop")
    assert batch.tokens.tolist() == [[*by_hand("Why?", "</s>", "So.", "</s>")[0], small.pad, small.pad]]
    assert "dropped 1 of 2 conversations" in caplog.text


def test_a_conversation_without_an_answer(small):
    with pytest.raises(InputError, match="conversation 2: nothing in it is the assistant's: add an answer"):
        encode_chats([TALK, TALK[:1]], small, load_chat_template("chatml"), 1000)


# --- what others say behind an answer


def after_a_reply(tokenizer, template, kept):
    """A prompt, an answer's tokens, of which so many of its end stay, and a reply's; and all of it as a prompt, encoded
    anew."""
    speaks = replace(tokenizer, chat=template)
    prompt, answer = encode_turn(Messages([SYSTEM, TALK[0]]), "Hello é", speaks)
    reply = encode_reply([SYSTEM, *TALK[:2]], [TALK[2]], speaks)
    return [*prompt, *answer[: len(answer) - 1 + kept], *reply[kept:]], encode_prompt(
        Messages([SYSTEM, *TALK[:3]]), speaks
    )


@pytest.mark.parametrize("name", ["chatml", "llama3", "zephyr", "dialogpt"])
def test_a_reply_continues_an_answer_at_the_token_that_ends_it(small, name):
    found, expected = after_a_reply(small, load_chat_template(name), kept=1)
    assert found == expected
    found, expected = after_a_reply(small, without_tags(load_chat_template(name)), kept=1)
    assert found == expected


@pytest.mark.parametrize("name", ["hh", None])
def test_a_transcript_has_no_eos_between_its_turns(small, name):
    found, expected = after_a_reply(small, name and load_chat_template(name), kept=0)
    assert found == expected and ID["</s>"] not in found


def test_a_reply_s_tokens_by_hand(small):
    chatml = replace(small, chat=load_chat_template("chatml"))
    expected = ("<|im_end|>", "\n", "<|im_start|>", "user\nWhy?", "<|im_end|>", "\n", "<|im_start|>", "assistant\n")
    assert encode_reply(TALK[:2], [TALK[2]], chatml) == by_hand(*expected)[0]
    both = [{"role": "system", "content": "Be brief."}, TALK[2]]
    more = ("<|im_end|>", "\n", "<|im_start|>", "system\nBe brief.", *expected[4:5], *expected[1:])
    assert encode_reply(TALK[:2], both, chatml) == by_hand(*more)[0]


def test_what_the_assistant_said_is_not_read(small):
    """A template that keeps no reasoning of earlier turns, and an answer that no conversation could hold."""
    forgets = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}"
        "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
    )
    said = [TALK[0], {"role": "assistant", "content": "a</think>b\ufdd0<|im_end|>"}]
    expected = (
        "<|im_end|>",
        "\n",
        "<|im_start|>",
        "user\nWhy?",
        "<|im_end|>",
        "\n",
        "<|im_start|>",
        "assistant\n<think>",
    )
    assert encode_reply(said, [TALK[2]], replace(small, chat=ChatTemplate(forgets))) == by_hand(*expected)[0]


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        ([], "the reply has no message"),
        ([{"role": "assistant", "content": "Me too."}], "message 1 of the reply is the assistant's"),
        ([TALK[2], "And?"], "message 2 is no object with 'role' and 'content'"),
        ([{"role": "user", "content": None}], "message 1 has a content that is no string"),
    ],
)
@pytest.mark.parametrize("name", ["chatml", None])
def test_replies_that_are_none(small, reply, sentence, name):
    with pytest.raises(InputError, match=sentence):
        encode_reply(TALK[:2], reply, replace(small, chat=name and load_chat_template(name)))


def test_a_transcript_has_its_system_message_at_its_start(small):
    with pytest.raises(InputError, match="message 1 has the role 'system', which a transcript has at its start alone"):
        encode_reply(TALK[:2], [SYSTEM, TALK[2]], small)


def test_a_template_that_writes_an_answer_twice(small):
    twice = ChatTemplate("{% for m in messages %}{{ m.content ~ m.content }}{% endfor %}")
    with pytest.raises(InputError, match="an answer stands 2 times: give it one that writes it once"):
        encode_reply(TALK[:2], [TALK[2]], replace(small, chat=twice))


def test_people_see_who_says_what_whatever_the_format():
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Log:\n\nHuman: hi "}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]}
    assert by_role(Messages([*said, call])) == 'system: Be brief.\nuser: Log:\n\nHuman: hi\nassistant: {"name": "look"}'
    assert (
        by_role("\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: No\n\nAssistant:") == "user: Hi\nassistant: Yes?\nuser: No"
    )
    assert by_role(" What now?\n") == "What now?"
