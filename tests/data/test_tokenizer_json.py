"""A sentencepiece model as a tokenizer.json: the library reads the same ids from every text, and the text from them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_jax.data import ASSISTANT, HUMAN, load_tokenizer, train_tokenizer
from rlhf_jax.data.tokenizer_folder import write_tokenizer
from rlhf_jax.data.tokenizer_json import sentencepiece_spec
from rlhf_jax.errors import InputError

TEXTS = [
    f"{HUMAN} What is the colour of the sky?{ASSISTANT} The sky is blue.\nThe sea is  blue too.",
    "The cat sat on the mat: aaaa aaa ----- ababa aba    <s> </s> <0x41> 0x41 <unk> <mask> ab-ab\tx",
] * 20


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return train_tokenizer(TEXTS, 400, tmp_path_factory.mktemp("ours") / "some.model")


def read(model: bytes) -> tokenizers.Tokenizer:
    theirs = tokenizers.Tokenizer.from_str(json.dumps(sentencepiece_spec(model)))
    theirs.encode_special_tokens = True  # as text
    return theirs


@pytest.fixture(scope="module")
def theirs(ours):
    return read(ours.path.read_bytes())


anything = st.text(st.characters(exclude_categories=["Cs"]))
pieces = (
    "a",
    "aa",
    "b",
    "ab",
    "aba",
    "-",
    " ",
    "  ",
    "▁",
    "\n",
    "\t",
    "\r\n",
    HUMAN,
    ASSISTANT,
    "<pad>",
    "</s>",
    "<s>",
)
pieces += ("<mask>", "<unk>", "<0x41>", "0x41", "<0", "😀", "é", "\0", "Human:", "⁇", "sky", " the")
awkward = st.lists(anything | st.sampled_from(pieces), max_size=12).map("".join)


@given(awkward)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text(ours, theirs, text):
    ids = ours.encode(text)
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids) == ours.decode(ids)


@pytest.mark.parametrize(
    "text",
    ["", " ", "  a  b ", "\n", "\n</s>", "\n<0x41>\n", "<mask>", "\n<unk>", f"{HUMAN}{ASSISTANT}", "aaaaaaa ababababa"],
)
def test_by_hand(ours, theirs, text):
    ids = ours.encode(text)
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids) == text


@pytest.mark.parametrize("letters", ["aaab- ", "ab", "a ", "-a"])
def test_runs_merge_from_the_left(ours, theirs, letters):
    rng = np.random.default_rng(0)
    for _ in range(1000):
        text = "".join(rng.choice(list(letters), rng.integers(1, 18)))
        assert theirs.encode(text).ids == ours.encode(text), text


def trained(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return model.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram", "vocab_size": 90},
        {"model_type": "unigram", "vocab_size": 340, "byte_fallback": True, "normalization_rule_name": "identity"},
        {"model_type": "bpe", "vocab_size": 120, "add_dummy_prefix": False},
        {"model_type": "bpe", "vocab_size": 380, "byte_fallback": True, "remove_extra_whitespaces": False},
    ],
    ids=["t5", "unigram with bytes", "bpe that collapses spaces", "llama"],
)
def test_others_models(tmp_path, options):
    path = tmp_path / "other.model"
    path.write_bytes(trained(**options))
    ours, theirs = load_tokenizer(path), read(path.read_bytes())
    for text in [
        "The cat  sat",
        "",
        "a",
        "the sky is blue",
        " the mat. ",
        "What colour?",
        "ﬁne ｆｕｌｌ",
        "é😀x",
        "ab\nab",
    ]:
        ids = ours.encode(text)
        assert theirs.encode(text).ids == ids, text
        assert theirs.decode(ids) == ours.decode(ids), text


def test_what_cannot_become_one_is_said(tmp_path):
    path = tmp_path / "other.model"
    path.write_bytes(trained(model_type="char", vocab_size=60))
    with pytest.raises(InputError, match="only a BPE, or a unigram without user-defined pieces"):
        sentencepiece_spec(path.read_bytes())


def test_a_model_that_would_be_read_otherwise_is_refused(ours, tmp_path, monkeypatch):
    from rlhf_jax.data import tokenizer_folder

    def without_merges(model: bytes):
        spec = sentencepiece_spec(model)
        spec["model"]["merges"].clear()
        return spec

    monkeypatch.setattr(tokenizer_folder, "sentencepiece_spec", without_merges)
    with pytest.raises(InputError, match=r"some.model reads '.*' otherwise than the tokenizer.json"):
        write_tokenizer(ours, Path(tmp_path), pad=False, scores=False)
