"""BOS stands where the tokenizer's own post-processor puts it, in all that is made of text, and nowhere else."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from rlhf_jax.data import (
    ASSISTANT,
    HUMAN,
    Demonstration,
    Prompt,
    Ranking,
    encode_demonstrations,
    encode_prompts,
    encode_rankings,
    load_tokenizer,
    pack,
    train_tokenizer,
)
from rlhf_jax.data.chat import encode_learned, encode_prompt, encode_turn
from tests.data.conftest import TEXTS, write_bytes_tokenizer

SPECIAL = ("<s>", "</s>", "<t>")
BOS, EOS = 256, 257
ids = [("<s>", 256), ("</s>", 257), ("<t>", 258)]


def template(single):
    return processors.TemplateProcessing(single=single, special_tokens=ids)


PROCESSORS = {
    "none": (None, ()),
    "llama 2": (template("<s> $A"), (256,)),
    "llama 3": (processors.Sequence([processors.ByteLevel(trim_offsets=False), template("<s> $A")]), (256,)),
    "two": (template("<s> <t> $A </s>"), (256, 258)),
    "eos alone": (template("$A </s>"), ()),
    "gpt2": (processors.ByteLevel(), ()),
    "roberta": (processors.RobertaProcessing(("</s>", 257), ("<s>", 256)), (256,)),
    "bert": (processors.BertProcessing(("</s>", 257), ("<s>", 256)), (256,)),
}


def made(tmp_path, processor, **config):
    path = write_bytes_tokenizer(tmp_path / "tokenizer.json", SPECIAL)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    if processor is not None:
        theirs.post_processor = processor
    theirs.save(str(path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"} | config))
    return load_tokenizer(tmp_path), theirs


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_librarys_own_opening(tmp_path, name):
    processor, expected = PROCESSORS[name]
    ours, theirs = made(tmp_path, processor)
    assert ours.opening == expected
    written = theirs.encode("Hi").ids
    assert [*ours.opening, *ours.encode("Hi")] == written[: len(expected) + 2]
    assert ours.begins == (expected or (EOS,))


def test_all_that_is_made_of_text_begins_with_it(tmp_path):
    ours, _ = made(tmp_path, template("<s> $A"))
    prompt = f"{HUMAN} Hi{ASSISTANT}"
    begun = [BOS, *prompt.encode()]
    assert encode_prompt(prompt, ours) == begun
    assert encode_turn(prompt, "Ho", ours) == (begun, [*b" Ho", EOS])
    tokens, mask = encode_learned(prompt, "Ho", ours, "all")
    assert tokens == [*begun, *b" Ho", EOS] and mask == [False] * len(begun) + [True] * 4
    rows = encode_prompts([Prompt(prompt)], ours, 40)
    assert rows.tokens[0][rows.mask[0]].tolist() == begun
    row = encode_demonstrations([Demonstration(prompt, "Ho")], ours, 40)
    assert row.tokens[0, : len(tokens)].tolist() == tokens and row.predict[0].sum() == 4
    ranked = encode_rankings([Ranking(prompt, ("Ho", "No"), (1, 2))], ours, 40, 2)
    assert np.all(np.asarray(ranked.tokens).reshape(-1, 40)[:2, 0] == BOS)
    packed, tail = pack(["ab", "c"], ours, 4)
    assert packed.tolist() == [[BOS, *b"ab", EOS]] and tail == 3  # and of the second <s> c </s>


def test_flags_count_where_no_file_says_it_itself(tmp_path, tokenizer):
    """A whole tokenizer.json does; a sentencepiece model, and a vocabulary with its merges, do not."""
    assert made(tmp_path / "a", template("<s> $A"), add_bos_token=False)[0].opening == (BOS,)
    assert made(tmp_path / "b", template("$A"), add_bos_token=True)[0].opening == ()
    cases = [
        ({}, ()),
        ({"add_bos_token": True}, (1,)),
        ({"tokenizer_class": "LlamaTokenizer"}, ()),
        ({"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}, ()),
    ]
    for number, (config, opening) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        assert load_tokenizer(folder).opening == opening, config


def test_our_own_has_none(tokenizer):
    assert tokenizer.opening == () and tokenizer.begins == (tokenizer.eos,)
    assert pack(TEXTS[:1], tokenizer, 5)[0][0].tolist() == tokenizer.encode(TEXTS[0])[:5]


@pytest.mark.parametrize("name", ["none", "llama 3", "two", "eos alone"])
def test_transformers_begins_a_text_so(tmp_path, name):
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed: pip install -e .[oracle]")
    ours, _ = made(tmp_path, PROCESSORS[name][0], tokenizer_class="PreTrainedTokenizerFast")
    found = transformers.AutoTokenizer.from_pretrained(tmp_path)("Hi").input_ids
    assert found[: len(ours.opening) + 2] == [*ours.opening, *b"Hi"]


@pytest.mark.parametrize("config", [{"add_bos_token": True}, {"add_bos_token": False}, {}])
def test_transformers_begins_a_llama_so(tmp_path, config):
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed: pip install -e .[oracle]")
    path = train_tokenizer(TEXTS, 330, tmp_path / "tokenizer.model").path
    config |= {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (path.parent / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("The cat").input_ids == [*ours.opening, *ours.encode("The cat")]
