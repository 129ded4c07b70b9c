"""A tokenizer trained on a few sentences, and the real data of RLHF_JAX_DATA."""

import json
import os
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from rlhf_jax.data import load_tokenizer, train_tokenizer

TEXTS = [
    "\n\nHuman: What is the colour of the sky?\n\nAssistant: The sky is blue.",
    "\n\nHuman: Name a fruit.\n\nAssistant: An apple is a fruit.\nA pear is a fruit.",
    "The cat sat on the mat. The dog sat on the cat.",
] * 20


def byte_characters():
    """The character that stands for each byte in a byte-level BPE: a printable one for itself, the others from U+0100 on
    (Radford et al. 2019, `bytes_to_unicode` of their encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]


def write_bytes_tokenizer(path, special, merges=(), **flags):
    """A tokenizer.json whose ids 0 to 255 are the bytes, then what the merges make, then the special tokens."""
    characters = byte_characters()
    merges = [tuple("".join(characters[b] for b in part.encode()) for part in pair) for pair in merges]
    vocab = {token: i for i, token in enumerate([*characters, *(a + b for a, b in merges)])}
    made = tokenizers.Tokenizer(models.BPE(vocab, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([tokenizers.AddedToken(token, normalized=False, **flags) for token in special])
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(str(path))
    return path


def write_llama_tokenizer(path, scheme=None):
    """As Llama 2's: ▁ for a space and before each text, bytes for characters it lacks, merges that also make "<s>"."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    tokens += ["▁", "H", "i", "<", "s", ">", "Hi", "▁Hi", "<s"]
    merges = [("H", "i"), ("▁", "Hi"), ("<", "s"), ("<s", ">")]
    vocab = {token: i for i, token in enumerate(tokens)}
    made = tokenizers.Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if scheme is None:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(strip)
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.save(str(path))
    return load_tokenizer(path), vocab


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return train_tokenizer(TEXTS, 330, tmp_path_factory.mktemp("tokenizer") / "small.model")


@pytest.fixture(scope="session")
def real_data():
    folder = os.environ.get("RLHF_JAX_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("RLHF_JAX_DATA does not name the folder of real data")
    return Path(folder)


@pytest.fixture
def jsonl(tmp_path):
    """Writes objects to rows.jsonl and gives its path as a string."""

    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write
