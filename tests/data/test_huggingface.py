"""Vocabularies of Hugging Face's library and of GPT-2: published ids, special tokens, pads, offsets, broken files."""

import hashlib
import json

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from rlhf_jax.data import check_vocabulary, load_tokenizer
from rlhf_jax.errors import InputError
from tests.data.conftest import TEXTS, byte_characters, write_bytes_tokenizer, write_llama_tokenizer

text = st.text(st.characters(exclude_categories=["Cs"]))
awkward = st.lists(text | st.sampled_from([" ", "\n", "<|endoftext|>", "<pad>", "</s>", "\0", "😀"])).map("".join)


@pytest.fixture(scope="session")
def gpt2(real_data):
    return load_tokenizer(real_data / "gpt2-bpe")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A byte-level BPE with merges, as the library itself trains and saves one."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<|endoftext|>"]
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet)
    )
    made.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 1)]
    )
    made.enable_truncation(4)
    made.enable_padding(length=16)
    path = tmp_path_factory.mktemp("trained") / "tokenizer.json"
    made.save(str(path))
    return load_tokenizer(path)


# --- GPT-2


def test_published_ids_of_gpt2(gpt2):
    """From the model's own encoder.py, as its documentation and that of its ports show them."""
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("Hello, world!") == [15496, 11, 995, 0]
    assert gpt2.eos == gpt2.bos == 50256
    assert gpt2.special["<|endoftext|>"].id == 50256


def test_the_pad_of_gpt2_is_a_new_id(gpt2):
    assert (gpt2.vocab_size, gpt2.pad, gpt2.size) == (50257, 50257, 50258)
    assert gpt2.decode([15496, 50257, 995, 50256]) == "Hello world"
    assert gpt2.decode([15496, 50258, 995]) == "Hello world"  # a row behind them, of a padded vocabulary


def test_end_of_text_in_a_text_is_text(gpt2):
    ids = gpt2.encode("<|endoftext|>")
    assert [gpt2.decode([i]) for i in ids] == ["<", "|", "end", "of", "text", "|", ">"]


@given(awkward)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_decode_undoes_encode_in_gpt2(gpt2, text):
    ids = gpt2.encode(text)
    assert gpt2.decode(ids) == text
    assert gpt2.encode_continued(text) == ids == gpt2.encode_with_offsets(text)[0]
    assert max(ids, default=0) < 50256


def test_gpt2_has_no_mask(gpt2):
    with pytest.raises(InputError, match="has no <mask> piece"):
        _ = gpt2.mask


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe"])
def test_either_file_of_the_pair_will_do(gpt2, real_data, name):
    again = load_tokenizer(real_data / "gpt2-bpe" / name)
    both = (real_data / "gpt2-bpe/encoder.json").read_bytes() + (real_data / "gpt2-bpe/vocab.bpe").read_bytes()
    assert again.sha256 == gpt2.sha256 == hashlib.sha256(both).hexdigest()
    assert again.encode("Hello world") == [15496, 995]


def test_an_answer_gets_its_space_in_gpt2(gpt2):
    from rlhf_jax.data import encode_turn

    prompt, answer = encode_turn("\n\nHuman: Hi\n\nAssistant:", "Hello world", gpt2)
    assert gpt2.decode(prompt + answer) == "\n\nHuman: Hi\n\nAssistant: Hello world"
    assert answer == [*gpt2.encode(" Hello world"), 50256]


# --- tokenizer.json


@given(awkward)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_decode_undoes_encode(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert not {0, 1} & set(ids)


def test_what_a_file_says_of_padding_truncation_and_bos_is_left_to_the_caller(trained):
    ids = trained.encode("The cat sat on the mat.")
    assert len(ids) > 4
    assert trained.decode(ids) == "The cat sat on the mat."
    assert (trained.pad, trained.eos, trained.bos) == (0, 1, 1)
    vocab = json.loads(trained.path.read_bytes())["model"]["vocab"]
    assert trained.size == trained.vocab_size == len(vocab) > 258  # 2 special tokens, 256 bytes, and merges
    assert trained.sha256 == hashlib.sha256(trained.path.read_bytes()).hexdigest()


@given(awkward)
def test_offsets_are_characters(tmp_path_factory, text):
    tokenizer = bytes_tokenizer(tmp_path_factory)
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == list(text.encode())
    assert offsets == [(i, i + 1) for i, character in enumerate(text) for _ in character.encode()]


def bytes_tokenizer(tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "bytes" / "tokenizer.json"
    return load_tokenizer(path if path.exists() else write_bytes_tokenizer(path, ["</s>"]))


def test_offsets_hold_the_space_of_a_word(tmp_path):
    merges = [(" ", "w"), (" w", "o")]
    made = tokenizers.Tokenizer.from_file(str(write_bytes_tokenizer(tmp_path / "tokenizer.json", ["</s>"], merges)))
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    assert made.encode("a wo").offsets == [(0, 1), (2, 4)]
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.encode_with_offsets("a wo") == ([ord("a"), 257], [(0, 1), (1, 4)])


def test_a_llama_style_vocabulary(tmp_path):
    tokenizer, id = write_llama_tokenizer(tmp_path / "tokenizer.json")
    assert (tokenizer.bos, tokenizer.eos, tokenizer.named["unk"]) == (1, 2, 0)
    assert (tokenizer.vocab_size, tokenizer.pad, tokenizer.size) == (268, 268, 269)
    assert tokenizer.encode("Hi Hi") == [id["▁Hi"], id["▁Hi"]]
    assert tokenizer.encode("é") == [id["▁"], id["<0xC3>"], id["<0xA9>"]]
    assert tokenizer.decode([1, *tokenizer.encode("Hi é"), 2, 268]) == "Hi é"
    assert tokenizer.encode_with_offsets("Hi Hi")[1] == [(0, 2), (2, 5)]


def test_text_behind_other_text_gets_no_space_in_front(tmp_path):
    for scheme in (None, "always", "first"):
        tokenizer, id = write_llama_tokenizer(tmp_path / "tokenizer.json", scheme)
        assert tokenizer.encode("Hi") == [id["▁Hi"]]
        assert tokenizer.encode_continued("Hi") == [id["Hi"]]
        assert tokenizer.encode_continued(" Hi") == [id["▁Hi"]]
        assert tokenizer.vocabulary.prefix_after_special == (scheme != "first")


def test_dropout_of_merges_is_off(tmp_path):
    path = write_bytes_tokenizer(tmp_path / "tokenizer.json", ["</s>"], [("a", "b")])
    spec = json.loads(path.read_bytes())
    spec["model"]["dropout"] = 1.0  # every merge is left out, every time
    path.write_text(json.dumps(spec))
    assert load_tokenizer(path).encode("ab") == [256]


def test_a_prefix_deep_in_a_pre_tokenizer_is_found(tmp_path):
    made = tokenizers.Tokenizer.from_file(str(write_bytes_tokenizer(tmp_path / "tokenizer.json", ["</s>"])))
    digits, byte_level = pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.encode("ab") == list(b" ab")
    assert tokenizer.encode_continued("ab") == list(b"ab")


def test_merges_that_make_a_special_token_are_not_used(tmp_path):
    tokenizer, id = write_llama_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.encode("<s>") == [id["▁"], id["<s"], id[">"]]
    assert tokenizer.decode(tokenizer.encode("Hi<s>")) == "Hi<s>"


def test_text_that_can_only_be_a_special_token_is_refused(tmp_path):
    made = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["</s>", "<unk>"])
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.encode("a b") == [0, 2]  # the unknown token is one that texts have
    with pytest.raises(InputError, match="the text 'a </s>' reads as the special token '</s>' of"):
        tokenizer.encode("a </s>")


def test_half_of_a_surrogate_pair_is_said(trained):
    with pytest.raises(InputError, match=r"character 2 .* is half of a surrogate pair"):
        trained.encode("a\ud800")


# --- which tokens are special


def folder(tmp_path, special=("<|endoftext|>", "<|im_end|>", "<pad>", "<s>"), **configs):
    write_bytes_tokenizer(tmp_path / "tokenizer.json", special)
    for name, config in configs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
    return load_tokenizer(tmp_path)


def test_the_configs_name_the_tokens(tmp_path):
    t = folder(
        tmp_path, tokenizer_config={"eos_token": "<|im_end|>", "bos_token": None, "pad_token": {"content": "<pad>"}}
    )
    assert (t.eos, t.pad, t.bos, t.size) == (257, 258, 259, 260)
    t = folder(tmp_path, special_tokens_map={"eos_token": "<s>", "bos_token": {"content": "<s>", "lstrip": False}})
    assert (t.eos, t.bos) == (257, 259)  # tokenizer_config.json is still there, and goes first


@pytest.mark.parametrize("name", ["generation_config", "config"])
@pytest.mark.parametrize("eos", [257, [257, 256]])
def test_the_models_configs_name_ids(tmp_path, name, eos):
    t = folder(tmp_path, **{name: {"eos_token_id": eos, "pad_token_id": -1}})
    assert (t.eos, t.pad) == (257, 258)


def test_the_tokenizers_own_files_go_before_the_models(tmp_path):
    t = folder(tmp_path, generation_config={"eos_token_id": 257}, config={"eos_token_id": 258})
    assert t.eos == 257
    t = folder(tmp_path, special_tokens_map={"eos_token": "<s>"})
    assert t.eos == 259


def test_without_configs_custom_names_them(tmp_path):
    t = folder(tmp_path)
    assert (t.eos, t.pad, t.bos) == (256, 258, 259)


@pytest.mark.parametrize("pad", ["<|endoftext|>", "<s>", "<unk>", "[PAD]", None])
def test_a_pad_that_is_missing_or_another_token_is_put_behind(tmp_path, pad):
    special = ("<|endoftext|>", "<s>", "<unk>")
    t = folder(
        tmp_path, special, tokenizer_config={"eos_token": "<|endoftext|>", "pad_token": pad, "unk_token": "<unk>"}
    )
    assert (t.eos, t.bos, t.vocab_size, t.pad, t.size) == (256, 257, 259, 259, 260)
    assert t.encode("<|endoftext|>") == list(b"<|endoftext|>")


def test_a_token_that_is_not_flagged_special_becomes_it_by_its_role(tmp_path):
    t = folder(tmp_path, ("<s>",), tokenizer_config={"eos_token": "a"})
    assert t.special["a"].id == t.eos == ord("a")
    with pytest.raises(InputError, match="reads as the special token 'a'"):
        t.encode("cat")


def test_no_eos_is_said_when_it_is_used(tmp_path):
    t = folder(tmp_path, ("<x>",))
    for role in ("eos", "bos"):
        with pytest.raises(InputError, match=r"has no (end|beginning)-of-text piece"):
            getattr(t, role)


def test_a_named_token_that_the_vocabulary_lacks_is_said(tmp_path):
    with pytest.raises(InputError, match=r"tokenizer_config.json names '<eot>' as the eos token, which the vocabulary"):
        folder(tmp_path, tokenizer_config={"eos_token": "<eot>"})


def test_added_tokens_of_the_config(tmp_path):
    listed = {"257": {"content": "<|im_end|>", "special": True}, "260": {"content": "<|new|>", "special": True}}
    t = folder(tmp_path, tokenizer_config={"added_tokens_decoder": listed, "eos_token": "<|new|>"})
    assert (t.eos, t.vocab_size) == (260, 261)
    assert t.encode("<|new|>") == list(b"<|new|>")
    with pytest.raises(
        InputError, match=r"adds '<\|im_end\|>' with the id 3, which the vocabulary does not have there"
    ):
        folder(tmp_path, tokenizer_config={"added_tokens_decoder": {"3": {"content": "<|im_end|>", "special": True}}})
    with pytest.raises(InputError, match=r"the special token '<\|far\|>' has the id 260 and was to have 999: mend it"):
        folder(tmp_path, tokenizer_config={"added_tokens_decoder": {"999": {"content": "<|far|>", "special": True}}})


# --- folders and files


def write_pair(path, names=("vocab.json", "merges.txt"), merges=("a b", "ab c"), more=("<|endoftext|>",)):
    """Bytes have their value as id; then what the merges make; then more."""
    tokens = [*byte_characters(), *(merge.replace(" ", "") for merge in merges), *more]
    (path / names[0]).write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (path / names[1]).write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges))
    return path


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_a_pair(tmp_path, names):
    write_pair(tmp_path, names)
    t = load_tokenizer(tmp_path)
    assert t.encode("abcab") == [257, 256]
    assert (t.eos, t.pad) == (258, 259)
    assert t.decode([257, 258, 256, 259]) == "abcab"
    (tmp_path / names[1]).unlink()
    for path in (tmp_path, tmp_path / names[0]):
        with pytest.raises(InputError, match=f"{names[1]} is missing: a vocabulary of this kind is {names[0]} with"):
            load_tokenizer(path)


def test_a_pair_that_cuts_texts_otherwise_is_refused(tmp_path):
    write_pair(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": true}'
    )
    assert load_tokenizer(tmp_path).encode("abc") == [ord(" "), 257]
    assert load_tokenizer(tmp_path).encode_continued("abc") == [257]
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    with pytest.raises(InputError, match="a Qwen2Tokenizer is not read from its vocabulary and merges"):
        load_tokenizer(tmp_path)


def test_tokenizer_json_goes_first(tmp_path, tokenizer):
    write_pair(tmp_path)
    assert load_tokenizer(tmp_path).vocab_size == 259
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
    assert load_tokenizer(tmp_path).sha256 == tokenizer.sha256
    path = write_bytes_tokenizer(tmp_path / "tokenizer.json", ["</s>"])
    assert load_tokenizer(tmp_path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_sentencepiece_folder_with_added_tokens(tmp_path, tokenizer):
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
    (tmp_path / "added_tokens.json").write_text('{"<|im_start|>": 331, "<|im_end|>": 330}')
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    t = load_tokenizer(tmp_path)
    assert (t.size, t.eos, t.bos, t.pad) == (332, 330, 1, 0)
    assert t.encode("cat <|im_end|>") == tokenizer.encode("cat <|im_end|>")
    assert t.decode([331, *t.encode("The cat"), 330]) == "The cat"
    (tmp_path / "added_tokens.json").write_text('{"<|im_start|>": 5}')
    with pytest.raises(
        InputError, match=r"tokenizer.model has the piece .* where the added token '<\|im_start\|>' belongs"
    ):
        load_tokenizer(tmp_path)


def test_an_added_token_that_is_text_needs_a_tokenizer_json(tmp_path):
    write_pair(tmp_path)
    listed = {"259": {"content": "    ", "special": False}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    with pytest.raises(InputError, match="adds '    ' with the id 259, which the vocabulary does not have there"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(InputError, match=r"holds no tokenizer: put one of tokenizer.json, tokenizer.model, .* there"):
        load_tokenizer(tmp_path)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"absent.json cannot be read \(No such file"):
        load_tokenizer(tmp_path / "absent.json")


@pytest.mark.parametrize("part", [0, 1, 0.5, 0.99])
def test_a_truncated_tokenizer_json(tmp_path, part):
    path = write_bytes_tokenizer(tmp_path / "tokenizer.json", ["</s>"])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))] if part < 1 else b"\xff\xfe")
    with pytest.raises(InputError, match=r"tokenizer.json is no whole JSON file \(.*\): copy it anew"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no JSON object"),
        ("{}", "is no tokenizer that can be read"),
        ('{"model": {"type": "BPE"}}', "is no tokenizer that can be read"),
        ('{"model": 3}', "is no tokenizer that can be read"),
        ('{"added_tokens": [3], "model": {}}', "is no tokenizer that can be read"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}', "is no tokenizer that can be read"),
    ],
)
def test_a_json_file_of_another_shape(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=f"tokenizer.json {message}") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ("a b\n", r"merges.txt is truncated or not vocab.json's own: no merge makes 1 of its tokens, such as 'abc'"),
        ("", "no merge makes 2 of its tokens"),
        ("a b\nab\n", r"merges.txt has 'ab', no merge of vocab.json"),
        ("a b\nab cd\n", r"merges.txt has 'ab cd', no merge of vocab.json"),
    ],
)
def test_truncated_merges(tmp_path, merges, message):
    write_pair(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges)
    with pytest.raises(InputError, match=message):
        load_tokenizer(tmp_path)


def test_a_vocab_json_of_another_shape(tmp_path):
    write_pair(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": "b"}')
    with pytest.raises(InputError, match=r"vocab.json does not map tokens to ids"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0')
    with pytest.raises(InputError, match=r"vocab.json is no whole JSON file"):
        load_tokenizer(tmp_path)


def test_a_broken_config(tmp_path):
    write_bytes_tokenizer(tmp_path / "tokenizer.json", ["</s>"])
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config.json is no whole JSON file"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"x": 3}}')
    with pytest.raises(InputError, match="its added tokens are no tokens with ids"):
        load_tokenizer(tmp_path)


# --- a tokenizer and an embedding


def test_an_embedding_with_too_few_rows(tmp_path):
    with_pad = load_tokenizer(write_bytes_tokenizer(tmp_path / "a" / "tokenizer.json", ["</s>", "<pad>"]))
    without = load_tokenizer(write_bytes_tokenizer(tmp_path / "b" / "tokenizer.json", ["</s>"]))
    assert (with_pad.size, without.vocab_size, without.size) == (258, 257, 258)
    for rows in (258, 300):
        check_vocabulary(with_pad, rows, "small")
        check_vocabulary(without, rows, "small")
    with pytest.raises(
        InputError, match=r"small has 257 rows .* 258 ids: use the tokenizer that the model was trained with"
    ):
        check_vocabulary(with_pad, 257, "small")
    check_vocabulary(without, 257, "small")  # the pad that was added needs no row
    with pytest.raises(InputError, match=r"small has 256 rows .* use the tokenizer"):
        check_vocabulary(without, 256, "small")
