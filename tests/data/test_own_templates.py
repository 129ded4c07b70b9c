"""Constructs of published templates: ids as Transformers has them, and the assistant's tokens by hand.

The templates are small ones of our own, each with what is peculiar to the one that it is named for. Where TRL is installed,
which has the published ones, the ids of those are compared as well.
"""

import datetime
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_jax.data import (
    KWARGS,
    ChatTemplate,
    Layout,
    Messages,
    encode_chat,
    encode_learned,
    encode_prompt,
    encode_reply,
    encode_turn,
    less_oldest_turns,
    load_chat_template,
    load_tokenizer,
    read_demonstrations,
    read_prompts,
    read_rankings,
    render_chat,
    with_chat,
)
from rlhf_jax.errors import InputError
from tests.data.conftest import write_bytes_tokenizer
from tests.refusals import refusal

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>", "<|assistant|>", "[INST]", "[/INST]")
ID = {token: 256 + i for i, token in enumerate(SPECIAL)}
THOUGHT = "<think>\nHm.\n</think>\n\n"

# Earlier answers lose their reasoning, the last has it or an empty one.
QWEN3 = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = m.reasoning_content or (m.content.split('</think>')[0].split('<think>')[-1].strip('\n')"
    " if '</think>' in m.content else '') %}"
    "{% if loop.index0 > ns.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ said }}"
    "{% for call in m.tool_calls or [] %}{{ '\n<tool_call>\n' + (call | tojson) + '\n</tool_call>' }}{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# EOS stands where no generation prompt does.
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# The system message goes into the last turn of the user; an answer begins with a space, and nothing opens it.
MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}"
    "{% set last = rest | selectattr('role', 'equalto', 'user') | list | last == m %}"
    "{{ '[INST] ' + (system + '\n\n' if system is defined and last else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# The generation prompt opens the reasoning, which no answer in the conversation has.
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}{% endif %}"
    "{% if m.role == 'assistant' %}{{ '<|assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": f"{THOUGHT}Ho é"},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": f"{THOUGHT}So."},
]
PLAIN = [{**m, "content": m["content"].removeprefix(THOUGHT)} for m in TALK]
SYSTEM = [{"role": "system", "content": "Be kind."}]
EXPECTED = {
    "qwen3": (
        (QWEN3, TALK),
        ("<|im_start|>", "user\nHi", "<|im_end|>", "\n", "<|im_start|>", "assistant\n", ["Ho é", "<|im_end|>"], "\n"),
        ("<|im_start|>", "user\nWhy?", "<|im_end|>", "\n", "<|im_start|>", "assistant\n"),
        ([THOUGHT, "So.", "<|im_end|>"], "\n"),
    ),
    "phi3": (
        (PHI3, PLAIN),
        ("<|user|>", "\nHi", "<|end|>", "\n", "<|assistant|>", "\n", ["Ho é", "<|end|>"], "\n"),
        ("<|user|>", "\nWhy?", "<|end|>", "\n", "<|assistant|>", "\n", ["So.", "<|end|>"], "\n", "</s>"),
    ),
    "mistral": (
        (MISTRAL, SYSTEM + PLAIN),
        ("<s>", "[INST]", " Hi", "[/INST]", [" Ho é", "</s>"]),
        ("[INST]", " Be kind.\n\nWhy?", "[/INST]", [" So.", "</s>"]),
    ),
    "r1": (
        (R1, TALK),
        ("<s>", "<|user|>", "Hi", "<|assistant|>", ["\n\nHo é", "</s>"]),
        ("<|user|>", "Why?", "<|assistant|>", ["\n\nSo.", "</s>"]),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    into = tmp_path_factory.mktemp("chat")
    write_bytes_tokenizer(into / "tokenizer.json", SPECIAL)
    config = '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}'
    (into / "tokenizer_config.json").write_text(config)
    return into


@pytest.fixture(scope="module")
def small(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed: pip install -e .[oracle]")
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs_or_none(folder):
    try:
        import transformers
    except ImportError:
        return None
    return transformers.AutoTokenizer.from_pretrained(folder)


def by_hand(*parts):
    tokens, mask = [], []
    for part in (part for row in parts for part in row):
        for piece in part if isinstance(part, list) else [part]:
            ids = [ID[piece]] if piece in ID else list(piece.encode())
            tokens += ids
            mask += [isinstance(part, list)] * len(ids)
    return tokens, mask


def encoded(messages, tokenizer, source, **options):
    tokens, mask = encode_chat(messages, tokenizer, ChatTemplate(source), 10_000, **options)
    return tokens.tolist(), mask.tolist()


@pytest.mark.parametrize("name", EXPECTED)
def test_two_answers(small, name):
    (source, talk), *parts = EXPECTED[name]
    assert encoded(talk, small, source) == by_hand(*parts)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("turns", [1, 2, 3, 4])
def test_transformers_has_the_same_ids(small, theirs, name, turns):
    source, talk = EXPECTED[name][0]
    talk = talk[: len(talk) - 4 + turns]
    for prompt in (False, True) if turns % 2 else (False,):
        options = {"chat_template": source, "add_generation_prompt": prompt, "return_dict": False}
        assert encoded(talk, small, source, add_generation_prompt=prompt)[0] == theirs.apply_chat_template(
            talk, **options
        )


def test_a_generation_prompt_that_writes_more_than_an_answer_has(small):
    """Of R1 prompt and answer together are the conversation; what an answer is sampled after has the reasoning opened."""
    talking = replace(small, chat=ChatTemplate(R1))
    prompt, answer = encode_turn(Messages(TALK[:1]), "Ho", talking)
    assert (prompt, answer) == (by_hand(["<s>", "<|user|>", "Hi", "<|assistant|>"])[0], [*b"Ho", ID["</s>"]])


# A training template of TRL's kind: the white space behind a turn stands in the generation block.
TRAINING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_an_answer_ends_before_the_white_space_of_a_generation_block(small):
    talking = with_chat(small, ChatTemplate(TRAINING))
    assert talking.ends == (ID["<|im_end|>"], ID["</s>"])
    assert encode_turn(Messages(TALK[:1]), "Ho\n", talking)[1] == [*b"Ho\n", ID["<|im_end|>"]]


MORE = {"role": "assistant", "content": f"{THOUGHT}More."}
IN_A_ROW = {
    "qwen3": (QWEN3, [f"{THOUGHT}Ho é", "<|im_end|>", f"{THOUGHT}More.", "<|im_end|>"]),
    "training": (TRAINING, [f"{THOUGHT}Ho é", "<|im_end|>", "\n", f"{THOUGHT}More.", "<|im_end|>", "\n"]),
    "r1": (R1, ["\n\nHo é", "</s>", "\n\nMore.", "</s>"]),
    "phi3": (PHI3, [f"{THOUGHT}Ho é", "<|end|>", f"{THOUGHT}More.", "<|end|>"]),
}


@pytest.mark.parametrize("name", IN_A_ROW)
def test_two_answers_in_a_row_are_both_the_assistants(small, name):
    source, said = IN_A_ROW[name]
    tokens, mask = encoded([*TALK[:2], MORE], small, source)
    assert [t for t, own in zip(tokens, mask, strict=True) if own] == by_hand(said)[0]


@pytest.mark.parametrize("name", IN_A_ROW)
def test_transformers_has_the_same_ids_of_two_answers_in_a_row(small, theirs, name):
    source, talk = IN_A_ROW[name][0], [*TALK[:2], MORE]
    assert encoded(talk, small, source)[0] == theirs.apply_chat_template(talk, chat_template=source, return_dict=False)


def test_a_template_in_which_turns_alternate_refuses_two_answers_in_a_row(small):
    alternating = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    alternating += "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
    with pytest.raises(InputError, match=r"the chat template refuses the messages \(roles must alternate\)"):
        encoded([*TALK[:2], MORE], small, alternating)


def test_all_keys_reach_the_template(small, theirs):
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "é"}}}
    talk = [
        TALK[0],
        {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": "42", "name": "look"},
        {"role": "assistant", "content": "So.", "reasoning_content": "Ah."},
    ]
    tokens, mask = encoded(talk, small, QWEN3)
    assert tokens == theirs.apply_chat_template(talk, chat_template=QWEN3, return_dict=False)
    said = small.decode([t for t, own in zip(tokens, mask, strict=True) if own])
    assert said.startswith("<think>\nHm.\n</think>\n\n\n<tool_call>") and said.endswith("Ah.\n</think>\n\nSo.")
    assert mask.count(True) == len(said.encode()) + 2  # with two ends of a turn


TOOLS = "{{ tools | tojson }}{{ documents[0].title }}{% for m in messages %}{{ m.content[0].text }}{% endfor %}"


def test_tools_documents_and_contents_in_parts(small, theirs):
    talk = [{"role": "user", "content": [{"type": "text", "text": "Hi </s>"}]}]
    tools = [{"type": "function", "function": {"name": "a<|im_end|>"}}]
    documents = [{"title": "<s>", "text": ""}]
    more = {"tools": tools, "documents": documents}
    text = '[{"type": "function", "function": {"name": "a<|im_end|>"}}]<s>Hi </s>'
    assert render_chat(talk, small, ChatTemplate(TOOLS), **more) == text
    assert theirs.apply_chat_template(talk, chat_template=TOOLS, tokenize=False, **more) == text
    assert encoded(talk, small, TOOLS, **more)[0] == list(text.encode())  # none of it is a special token


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
@pytest.mark.parametrize("read", ["reasoning_content", "thinking"])
def test_reasoning_has_several_names_and_what_is_none_is_not_there(small, name, read):
    source = "{% for m in messages %}{{ m.content }}{{ m." + read + " }}{% endfor %}"
    talk = [TALK[0], {"role": "assistant", "content": None, "tool_calls": None, name: "Hm."}]
    assert render_chat(talk, small, ChatTemplate(source)) == "HiHm."
    with pytest.raises(InputError, match=f"message 2 has '{name}', for which the chat format has no place"):
        render_chat(talk, small, ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}"))


@pytest.mark.parametrize("key", ["tool_calls", "reasoning_content"])
def test_a_built_in_template_says_what_it_has_no_place_for(small, key):
    talk = [TALK[0], {"role": "assistant", "content": "So.", key: ["x"]}]
    for format in ("chatml", "hh", "zephyr"):
        with pytest.raises(InputError, match=f"message 2 has '{key}', for which the chat format has no place"):
            render_chat(talk, small, load_chat_template(format))
    with pytest.raises(InputError, match=f"message 2 has '{key}', for which the chat format has no place"):
        encode_prompt(Messages([*talk, TALK[2]]), small)


# Templates that read contents as strings (the first adds it to one), or as lists of parts, or as both.
STRINGS = "{% for m in messages %}{{ m.role + ':' + m.content + '\n' }}{% endfor %}"
TRIMS = "{% for m in messages %}{{ m.role }}:{{ m.content | trim }}\n{% endfor %}"
PARTS = "{% for m in messages %}{{ m.role }}:{% for p in m.content %}{{ p.text }}{% endfor %}{{ '\n' }}{% endfor %}"
BOTH = (
    "{% for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
)
BOTH += "<{{ p.text }}>{% endfor %}{% endif %}{{ '\n' }}{% endfor %}"


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_texts_in_parts_are_one_text_where_the_template_reads_no_parts(small, theirs_or_none, kind):
    parts = [{"type": kind, "text": "Hi "}, {"type": kind, "text": "you"}]
    talk = [{"role": "user", "content": parts}, {"role": "assistant", "content": "So."}]
    texts = {STRINGS: "user:Hi you\nassistant:So.\n", PARTS: "user:Hi you\nassistant:So.\n"}
    texts |= {TRIMS: texts[STRINGS], BOTH: "user:<Hi ><you>\nassistant:So.\n"}
    for source, text in texts.items():
        assert render_chat(talk, small, ChatTemplate(source)) == text
        tokens, mask = encoded(talk, small, source)
        assert small.decode(tokens) == text and "So." in small.decode(
            [t for t, m in zip(tokens, mask, strict=True) if m]
        )
    chatml = render_chat(talk, small, load_chat_template("chatml"))
    assert "user\nHi you<|im_end|>" in chatml
    assert encode_prompt(Messages(talk[:1]), small) == list(b"\n\nHuman: Hi you\n\nAssistant:")
    if theirs_or_none and kind == "text":
        for source, given in ((BOTH, talk), (PARTS, [talk[0], *in_parts(talk[1:])])):
            assert theirs_or_none.apply_chat_template(given, chat_template=source, tokenize=False) == texts[source]


@pytest.mark.parametrize(
    "part",
    [{"type": "text", "value": "Hi"}, {"type": "refusal", "refusal": "No"}, {"type": "thinking", "thinking": "Hm"}, 5],
)
def test_a_part_that_is_no_text_is_refused(small, part):
    talk = [{"role": "user", "content": [part]}]
    for source in (STRINGS, BOTH):
        assert "message 1 has the part" in refusal(lambda s=source: render_chat(talk, small, ChatTemplate(s)))
    assert "message 1 has the part" in refusal(lambda: encode_prompt(Messages(talk), small))


def test_a_part_of_a_type_that_the_template_names_is_the_templates(small):
    source = "{% for p in messages[0].content %}"
    source += "{% if p.type == 'thinking' %}[{{ p.thinking }}]{% else %}{{ p.text }}{% endif %}"
    content = [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hi"}]
    talk = [{"role": "assistant", "content": content}]
    assert render_chat(talk, small, ChatTemplate(source + "{% endfor %}")) == "[Hm]Hi"


@pytest.mark.parametrize("role", ["system", "developer", "tool"])
def test_a_message_that_the_template_does_not_write_is_refused(small, role):
    spoken = "{% for m in messages if m.role in ('user', 'assistant') %}{{ m.role + ':' + m.content }}{% endfor %}"
    talking, talk = (
        replace(small, chat=ChatTemplate(spoken)),
        [TALK[0], PLAIN[1], {"role": role, "content": "Hi"}, PLAIN[2]],
    )
    wanted = f"has the role '{role}' and a content for which the chat format has no place"
    assert f"message 3 {wanted}" in refusal(
        lambda: encode_prompt(Messages(talk), talking)
    )  # though another says the same
    assert wanted in refusal(lambda: encode_reply(talk[:2], talk[2:], talking))
    silent = [*talk[:2], {**talk[2], "content": " "}, talk[3]]
    assert small.decode(encode_prompt(Messages(silent), talking)) == "user:Hiassistant:Ho éuser:Why?"


def test_a_name_that_the_template_does_not_write_is_refused(small):
    talk = [{"role": "user", "content": "Hi", "name": "Ann"}]
    named = "{% for m in messages %}{{ m.name if m.role == 'system' }}{{ m.content }}{% endfor %}"
    for source in (STRINGS, named):
        wanted = "message 1 has the role 'user' and a name for which the chat format has no place"
        assert wanted in refusal(lambda s=source: render_chat(talk, small, ChatTemplate(s)))
    assert wanted in refusal(lambda: encode_prompt(Messages(talk), small))
    assert render_chat(talk, small, ChatTemplate(named.replace("system", "user"))) == "AnnHi"


def test_arguments_in_a_string_are_not_written_as_json_twice(small, theirs_or_none):
    def call(arguments):
        made = [{"type": "function", "function": {"name": "look", "arguments": arguments}}]
        return [TALK[0], {"role": "assistant", "content": "Ho", "tool_calls": made}]

    begin = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{% set a = c.function.arguments %}"
    written = {"{{ a | tojson }}": False, "{{ a if a is string else a | tojson }}": True, "{{ a }}": True}
    written["{% for key, value in a | items %}{{ key }}={{ value }}{% endfor %}"] = False
    for form, as_string in written.items():
        source, object = f"{begin}{form}{{% endfor %}}{{% endfor %}}", {"at": "é"}
        string = json.dumps(object, ensure_ascii=False)
        text = render_chat(call(string), small, ChatTemplate(source))
        assert text == render_chat(call(string if as_string else object), small, ChatTemplate(source))
        assert text.endswith('{"at": "é"}' if "items" not in form else "at=é")
        if theirs_or_none:  # of which both say in their documents that objects are what templates read
            given = call(string if as_string else object)
            assert text == theirs_or_none.apply_chat_template(given, chat_template=source, tokenize=False)
    assert render_chat(call("no JSON"), small, ChatTemplate(f"{begin}{{{{ a | tojson }}}}{{% endfor %}}{{% endfor %}}"))


def test_where_nothing_ends_an_earlier_answer_the_next_speakers_mark_is_not_learned(small):
    source = (
        "{% for m in messages %}{{ '<|user|>' if m.role == 'user' else '<|assistant|>' }}{{ m.content }}{% endfor %}"
    )
    source += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    talking = with_chat(small, ChatTemplate(source))
    expected = by_hand(
        ["<|user|>", "Hi", "<|assistant|>", ["Ho é"], "<|user|>", "Why?", "<|assistant|>", ["So.", "</s>"]]
    )
    assert encode_learned(Messages(PLAIN[:3]), "So.", talking, "all") == expected


@pytest.mark.parametrize("value", [True, False, 0, "low"])
def test_what_the_template_never_reads_is_refused_whatever_its_value(small, value):
    talk = [{**TALK[0], KWARGS: {"enable_thinking": value}}]
    assert "there is 'enable_thinking' beside the messages" in refusal(
        lambda: render_chat(talk, small, ChatTemplate(STRINGS))
    )
    assert (
        render_chat([{**TALK[0], KWARGS: {"tools": [], "documents": None}}], small, ChatTemplate(STRINGS))
        == "user:Hi\n"
    )


# A conversation of each kind of row, beside which tools and other things stand.
SCHEMAS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
BESIDE = {"tools": SCHEMAS, "documents": [{"title": "Zoo", "text": "é"}], "chat_template_kwargs": {"mood": "kind"}}
QWEN25 = (
    "{% if tools %}{{ '<|im_start|>system\n# Tools' }}{% for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}{% for d in documents or [] %}{{ d.title + ': ' + d.text + ';' }}{% endfor %}"
    "{{ mood }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{% for call in m.tool_calls or [] %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CALLED = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
USE = [TALK[0], CALLED, {"role": "tool", "content": "42"}, {"role": "assistant", "content": "So."}]
SHOWN = (
    *("<|im_start|>", f"system\n# Tools\n{json.dumps(SCHEMAS[0])}", "<|im_end|>", "\nZoo: é;kind"),
    *("<|im_start|>", "user\nHi", "<|im_end|>", "\n", "<|im_start|>", "assistant\n"),
    ['<tool_call>{"name": "look", "arguments": {}}</tool_call>', "<|im_end|>"],
    *("\n", "<|im_start|>", "tool\n42", "<|im_end|>", "\n", "<|im_start|>", "assistant\n", ["So.", "<|im_end|>"]),
)


@pytest.mark.parametrize("written", [lambda value: value, json.dumps], ids=["objects", "JSON"])
def test_tools_of_a_row_reach_the_template_in_every_stage(small, jsonl, written):
    beside = {name: written(value) for name, value in BESIDE.items()}
    talking = with_chat(small, ChatTemplate(QWEN25))
    path = jsonl({"messages": USE, **beside})
    (shown,) = read_demonstrations(path)
    assert encode_learned(shown.prompt, shown.answer, talking, "all") == by_hand(SHOWN)
    (prompt,) = read_prompts(path)
    begun = by_hand(SHOWN[:-1])[0]
    assert encode_prompt(prompt.conversation, talking) == begun and not prompt.columns
    pair = jsonl({"chosen": USE, "rejected": [*USE[:3], {"role": "assistant", "content": "No."}], **beside})
    (ranking,) = read_rankings(pair)
    for answer in ("So.", "No."):
        assert encode_turn(ranking.prompt, answer, talking) == (begun, [*answer.encode(), ID["<|im_end|>"]])
    assert ranking.answers == ("So.", "No.") and ranking.prompt == shown.prompt == prompt.conversation
    text = jsonl({"prompt": "Hi", "completion": "So.", **beside})
    (asked,) = read_demonstrations(text)
    assert encode_turn(asked.prompt, asked.answer, talking)[0] == by_hand(SHOWN[:10])[0]


@pytest.mark.parametrize("role", ["user", "tool"])
def test_what_an_environment_says_of_a_row_with_tools(small, role):
    """In a template of a model's own it may be a tool, and its tokens continue those that were sampled."""
    talking, reply = with_chat(small, ChatTemplate(QWEN25)), [{"role": role, "content": "42"}]
    begun = Messages([{**TALK[0], KWARGS: {"tools": SCHEMAS}}])
    answered = [*begun, {"role": "assistant", "content": "So."}]
    tokens = [*encode_prompt(begun, talking), *b"So.", *encode_reply(answered, reply, talking)]
    assert tokens == encode_prompt(Messages([*answered, *reply]), talking)


def test_tools_stay_where_the_oldest_turns_go(small, jsonl):
    talking = with_chat(small, ChatTemplate(QWEN25))
    (prompt,) = read_prompts(jsonl({"prompt": PLAIN[:3], **BESIDE}))
    most = len(encode_prompt(prompt.conversation, talking)) - 1
    kept = less_oldest_turns(prompt.conversation, lambda shorter: len(encode_prompt(shorter, talking)) <= most)
    assert kept is not None
    expected = by_hand((*SHOWN[:4], "<|im_start|>", "user\nWhy?", *SHOWN[6:10]))[0]
    assert encode_prompt(kept, talking) == expected
    tokens, _ = encode_chat(prompt.conversation, talking, ChatTemplate(QWEN25), most, add_generation_prompt=True)
    assert tokens.tolist() == expected


@pytest.mark.parametrize("name", BESIDE)
def test_a_format_that_never_reads_what_stands_beside_says_so(small, jsonl, name):
    path = jsonl({"messages": PLAIN, name: BESIDE[name]})
    ((prompt, answer, _),) = read_demonstrations(path)
    key = "mood" if name == "chat_template_kwargs" else name
    sentence = f"there is '{key}' beside the messages, for which the chat format has no place.*ignore = '{name}'"
    for format in (None, load_chat_template("chatml"), load_chat_template("zephyr"), ChatTemplate(PHI3)):
        with pytest.raises(InputError, match=sentence):
            encode_turn(prompt, answer, with_chat(small, format))
    assert read_demonstrations(path, layout=Layout(ignore=name))[0].prompt == Messages(PLAIN[:3])
    renamed = jsonl({"messages": PLAIN, "meta": {"of": BESIDE[name]}})
    if name != "chat_template_kwargs":
        assert read_demonstrations(renamed, layout=Layout(**{name: "meta.of"}))[0].prompt == prompt
    if name == "tools":
        old = jsonl({"messages": PLAIN, "functions": SCHEMAS})
        assert read_demonstrations(old, layout=Layout(tools="functions"))[0].prompt == prompt


def test_what_stands_beside_messages_and_in_the_first_of_them_is_refused(jsonl):
    row = {"messages": [{**PLAIN[0], KWARGS: {"mood": "kind"}}, PLAIN[1]]}
    assert read_prompts(jsonl(row))[0].conversation == Messages(row["messages"][:1])
    refusal(
        lambda: read_prompts(jsonl({**row, "tools": SCHEMAS})), "line 1: there is 'tools' beside the 'chat_template_kw"
    )


def test_only_the_first_message_says_what_the_template_is_given(small):
    late = Messages([*SYSTEM, {**TALK[0], KWARGS: {"tools": SCHEMAS}}])
    for tokenizer in (small, with_chat(small, ChatTemplate(QWEN25))):
        refusal(
            lambda tokenizer=tokenizer: encode_prompt(late, tokenizer), "message 2 has 'chat_template_kwargs', which"
        )


@pytest.mark.parametrize("given", ["text", {"messages": TALK}, {"add_generation_prompt": False}])
def test_what_the_template_is_given_in_any_case_is_refused(small, given):
    prompt = Messages([{**TALK[0], KWARGS: given}])
    refusal(lambda: encode_prompt(prompt, with_chat(small, ChatTemplate(QWEN25))), KWARGS)


@pytest.mark.parametrize("empty", [None, [], "", "[]", "null"])
def test_no_tools_are_none(jsonl, empty):
    """As for TRL; of an empty list Llama 3.1's template would write that there are tools."""
    for beside in ({"tools": empty}, {KWARGS: {"tools": empty if isinstance(empty, list) else []}}):
        assert read_prompts(jsonl({"messages": PLAIN, **beside}))[0].conversation == Messages(PLAIN[:3])


def test_what_tables_fill_up_with_null_is_no_part_of_a_tool(jsonl):
    filled = {"name": "look", "parameters": {"city": None, "day": {"type": "string", "enum": [None, "now"]}}}
    (prompt,) = read_prompts(jsonl({"messages": PLAIN, "tools": [filled]}))
    day = {"type": "string", "enum": [None, "now"]}
    assert prompt.conversation[0][KWARGS]["tools"] == [{"name": "look", "parameters": {"day": day}}]


def in_parts(talk):
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in talk]


PUBLISHED = [
    *("llama3_1", "llama3_2", "llama3", "qwen2_5", "qwen3", "qwen3_instruct_2507", "gemma", "gemma3", "phi3", "phi3_5"),
    *("deepseek_r1_distill", "deepseekv3", "smolvlm", "cohere", "glm4moe"),
    *("llama3_training", "qwen2_5_training", "qwen3_training", "gemma3_training", "phi3_training", "phi3_5_training"),
    "deepseek_r1_distill_training",
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_templates(small, theirs, name):
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    path = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this TRL has no template {name}")
    source = path.read_text()
    template = ChatTemplate(source, now=datetime.datetime.now())
    given = in_parts if name == "smolvlm" else list  # it writes nothing of contents that are strings
    for talk in (PLAIN[:1], PLAIN[:2], PLAIN[:3], PLAIN, SYSTEM + PLAIN, SYSTEM + PLAIN[:1], TALK):
        prompt = talk[-1]["role"] == "user"
        try:
            options = {"chat_template": source, "add_generation_prompt": prompt, "return_dict": False}
            expected = theirs.apply_chat_template(given(talk), **options)
        except Exception:
            with pytest.raises(InputError, match="refuses the messages"):
                encode_chat(talk, small, template, 10_000, prompt)
            continue
        tokens, mask = encode_chat(talk, small, template, 10_000, prompt)
        assert tokens.tolist() == expected
        said = small.decode(tokens[mask])
        answers = [m["content"].split("</think>")[-1].strip() for m in talk if m["role"] == "assistant"]
        asked = [m["content"] for m in talk if m["role"] == "user"]
        assert all(answer in said for answer in answers) and not any(question in said for question in asked)
    shown = [{**USE[0], KWARGS: {"tools": SCHEMAS}}, *USE[1:]]
    try:
        expected = theirs.apply_chat_template(USE, tools=SCHEMAS, chat_template=source, return_dict=False)
        tokens, mask = encode_chat(shown, small, template, 10_000)
    except Exception:
        with pytest.raises(InputError, match=r"refuses the messages|no place|does not continue"):
            encode_chat(shown, small, template, 10_000)
    else:
        assert tokens.tolist() == expected
        said = small.decode(tokens[mask])
        assert "look" in said and "So." in said and "Hi" not in said and "42" not in said
