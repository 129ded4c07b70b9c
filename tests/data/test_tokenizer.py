"""Text survives the tokenizer whatever it holds, and training gives the same bytes again."""

import hashlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_jax.data import ASSISTANT, HUMAN, load_tokenizer, train_tokenizer
from rlhf_jax.errors import InputError
from tests.data.conftest import TEXTS

# The surrogates are no text, and sentencepiece writes U+2581 for a space.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"))
awkward = st.lists(text | st.sampled_from([" ", "\n", HUMAN, ASSISTANT, "<pad>", "</s>", "<mask>"])).map("".join)


@given(awkward)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_decode_undoes_encode(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask} & set(ids)


@pytest.mark.parametrize(
    "text", ["", " ", "  a  b ", "a\n\n\nb\r\n\t", "\0", "😀👩‍🚀é", "\ufeffa", "<0x41> ⁇ </s><mask>"]
)
def test_decode_undoes_encode_by_hand(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_space_piece_is_the_one_thing_that_changes(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a▁b")) == "a b"


def test_special_pieces(tokenizer):
    assert (tokenizer.pad, tokenizer.bos, tokenizer.eos) == (0, 1, 2)
    ids = tokenizer.encode("The cat")
    special = [tokenizer.pad, tokenizer.bos, tokenizer.mask, *ids, tokenizer.eos, tokenizer.pad]
    assert tokenizer.decode(np.array(special, np.int32)) == "The cat"


def test_turns_and_newlines_are_single_pieces_and_frequent_words_too(tokenizer):
    markers = [tokenizer.processor.piece_to_id(piece) for piece in (HUMAN, ASSISTANT, "\n", "▁fruit")]
    ids = tokenizer.encode(f"{HUMAN} fruit{ASSISTANT} fruit\nThe")
    human, assistant, newline, fruit = markers
    assert ids[1:6] == [human, fruit, assistant, fruit, newline]


def test_an_answer_gets_one_leading_space(tokenizer):
    prompt, answer = "\n\nHuman: Name a fruit.\n\nAssistant:", "An apple."
    both = tokenizer.encode(prompt) + tokenizer.encode(answer)
    assert tokenizer.decode(both) == f"{prompt} {answer}"
    assert both == tokenizer.encode(f"{prompt} {answer}")


def test_text_behind_other_text_gets_no_space_of_its_own(tokenizer):
    for first, second in [("The c", "at"), ("The", " cat"), ("The", "  cat"), ("The ", ""), ("", "cat")]:
        assert tokenizer.decode([*tokenizer.encode(first), *tokenizer.encode_continued(second)]) == first + second


def test_offsets_are_characters(tokenizer):
    """The piece of a space that the text does not have stands for nothing; the bytes of a character for all of it."""
    ids, offsets = tokenizer.encode_with_offsets("é😀\n cat")
    pieces = [tokenizer.processor.id_to_piece(i) for i in ids]
    assert pieces[:8] == ["▁", *(f"<0x{b:02X}>" for b in "é😀".encode()), "\n"]
    assert offsets[:8] == [(0, 0), *2 * [(0, 1)], *4 * [(1, 2)], (2, 3)]
    assert ("▁cat", (3, 7)) in zip(pieces, offsets, strict=True)


@given(awkward)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_offsets_cover_the_text(tokenizer, text):
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    assert {i for begin, end in offsets for i in range(begin, end)} == set(range(len(text)))
    assert offsets == sorted(offsets)


def test_training_again_gives_the_same_bytes(tokenizer, tmp_path):
    again = train_tokenizer(iter(TEXTS), 330, tmp_path / "deeper" / "again.model")
    assert again.sha256 == tokenizer.sha256 == hashlib.sha256(again.path.read_bytes()).hexdigest()
    assert [path.name for path in again.path.parent.iterdir()] == ["again.model"]
    assert load_tokenizer(again.path).encode("The dog") == tokenizer.encode("The dog")
    other = train_tokenizer(TEXTS, 320, tmp_path / "other.model")
    assert other.sha256 != tokenizer.sha256
    assert (other.size, tokenizer.size) == (320, 330)


def test_long_texts_are_not_left_out(tmp_path):
    tokenizer = train_tokenizer(["zebra quagga " * 1000], 300, tmp_path / "long.model")
    assert len(tokenizer.encode("quagga")) == 1


def test_a_short_text_gives_fewer_pieces_than_asked_for(tmp_path):
    tokenizer = train_tokenizer(["hello world"], 5000, tmp_path / "short.model")
    assert 268 < tokenizer.size < 300


def test_a_vocabulary_too_small_says_what_is_needed(tmp_path):
    path = tmp_path / "none.model"
    needed = 4 + 1 + 3 + 256 + len("▁abc")  # pad bos eos unk, <mask>, newline and two markers, bytes, characters
    with pytest.raises(InputError, match=f"a vocabulary of 100 is too small: ask for at least the {needed} "):
        train_tokenizer(["a b c"], 100, path)
    assert not path.exists()
    assert train_tokenizer(["a b c"], needed, path).size == needed


@pytest.mark.parametrize("texts", [[], [""]])
def test_no_text_is_said(texts, tmp_path):
    with pytest.raises(InputError, match="no text to train a tokenizer on"):
        train_tokenizer(texts, 500, tmp_path / "none.model")


def test_missing_and_broken_files_are_said(tmp_path):
    with pytest.raises(InputError, match=r"absent.model cannot be read \(No such file"):
        load_tokenizer(tmp_path / "absent.model")
    (tmp_path / "broken.model").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"broken.model is no sentencepiece model"):
        load_tokenizer(tmp_path / "broken.model")


@pytest.mark.parametrize("part", [0, 0.5, 0.99])
def test_a_truncated_model_is_said(tokenizer, tmp_path, part):
    whole = tokenizer.path.read_bytes()
    (tmp_path / "half.model").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(InputError, match=r"half.model is no sentencepiece model"):
        load_tokenizer(tmp_path / "half.model")


def test_what_cannot_be_encoded_or_decoded_is_said(tokenizer):
    with pytest.raises(InputError, match=r"character 2 .* is half of a surrogate pair"):
        tokenizer.encode("a\ud800")
    with pytest.raises(InputError, match="token -1 is none of the 330 pieces"):
        tokenizer.decode([5, -1])


def test_an_id_of_a_row_that_stands_for_no_piece_is_no_text(tokenizer):
    """A model's vocabulary may be padded; its policy can sample what no text encodes to."""
    text = tokenizer.encode("Hello there")
    assert tokenizer.decode([*text[:1], tokenizer.size, *text[1:], tokenizer.size + 100]) == "Hello there"


def test_a_foreign_vocabulary_without_a_special_piece_says_so(real_data):
    t5 = load_tokenizer(real_data / "t5-sentencepiece/sentencepiece_cc_all.32000.100extra-sentencepiece.model")
    assert (t5.pad, t5.eos, t5.bos) == (0, 1, 2)
    assert t5.decode(t5.encode("Hello there")) == "Hello there"
    with pytest.raises(InputError, match="has no <mask> piece"):
        _ = t5.mask


def test_shakespeare_survives(real_data, tmp_path):
    play = (real_data / "tinyshakespeare/input.txt").read_text()[:200_000]
    tokenizer = train_tokenizer([play], 800, tmp_path / "play.model")
    assert tokenizer.size == 800
    assert tokenizer.decode(tokenizer.encode(play)) == play
