"""Text to token ids and back, through the vocabularies of sentencepiece and Hugging Face."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex

from rlhf_jax.data.chat_template import ChatTemplate
from rlhf_jax.data.huggingface import HuggingFaceVocabulary, byte_level_spec
from rlhf_jax.data.model_folder import Configs, parse_object, read_bytes, tokenizer_files
from rlhf_jax.data.sentencepieces import MASK, SentencePieces, train_sentencepieces
from rlhf_jax.data.vocabulary import Special, Vocabulary
from rlhf_jax.errors import InputError


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to token ids and back, through the vocabulary at `path`.

    For a vocabulary of `train_tokenizer`, decode(encode(t)) == t for every text without U+2581 (▁, which
    sentencepiece itself writes for a space and which comes back as one): newlines, tabs, NUL, emoji, and
    spaces at both ends or in a row included. For a byte-level BPE, for every text.

    A text never encodes to a special token (pad, bos, eos, mask, the marks of a turn), whatever it says: what
    looks like one is encoded as the text it is, and refused where the vocabulary leaves no other way. A
    tokenizer whose file has no pad, or one that is also bos, eos or unk (GPT-2's end of text is all of them),
    gets a pad of its own behind the last id, which moves no other.
    """

    path: Path
    sha256: str  # of the vocabulary's file or files; stored in checkpoints, so that a wrong tokenizer is noticed
    vocabulary: Vocabulary
    named: dict[str, int]  # "bos", "eos", "unk", and "pad" where the file has one of its own
    chat: ChatTemplate | None = None  # how conversations become tokens; None: as transcripts (see `with_chat`)
    opening: tuple[int, ...] = ()  # what the file's post-processor puts before a text: BOS of Llama, Gemma, Mistral
    turn_end: int | None = None  # what ends the assistant's turn in that template, where it is a special token

    @property
    def processor(self) -> Any:
        """The library's own object: a SentencePieceProcessor, or a tokenizers.Tokenizer."""
        return self.vocabulary.processor

    @property
    def vocab_size(self) -> int:
        """Ids that the file itself defines."""
        return self.vocabulary.size

    @property
    def size(self) -> int:
        """Ids in all, with a pad that was added."""
        return max(self.vocab_size, self.pad + 1)

    @property
    def pad(self) -> int:
        return self.named.get("pad", self.vocab_size)

    @property
    def bos(self) -> int:
        return self._named("bos", "beginning-of-text")

    @property
    def eos(self) -> int:
        return self._named("eos", "end-of-text")

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids any of which ends an answer: the template's end of turn, EOS."""
        return tuple(dict.fromkeys((*([] if self.turn_end is None else [self.turn_end]), self.eos)))

    @property
    def begins(self) -> tuple[int, ...]:
        """What a document follows: what its own vocabulary opens a text with, or the EOS of the document before."""
        return self.opening or (self.eos,)

    @property
    def mask(self) -> int:
        if (mask := self.vocabulary.find(MASK)) is None:
            raise InputError(f"{self.path} has no {MASK} piece: train a tokenizer that has one")
        return mask

    @cached_property
    def special(self) -> dict[str, Special]:
        """The special tokens by their text. A pad that was added has none."""
        roles = {self.named[role] for role in ("pad", "bos", "eos") if role in self.named}
        unknown = self.named.get("unk")
        of_file = {text: s for text, s in self.vocabulary.special.items() if s.id != unknown or unknown in roles}
        marked = {special.id for special in of_file.values()}
        unmarked = {self.vocabulary.name(id): Special(id) for id in sorted(roles - marked)}
        return of_file | {text: special for text, special in unmarked.items() if text}

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, no special ones added.

        In sentencepiece, a first token stands for text that follows a space. InputError: a lone surrogate,
        which UTF-8 cannot hold; text that the vocabulary can only read as a special token.
        """
        return self._plain(self.vocabulary.encode(_utf8(text)), text)

    def encode_continued(self, text: str) -> list[int]:
        """The tokens of `text` behind other text, from which it is not set off by a space of the tokenizer's own.

        decode(encode(a) + encode_continued(b)) == a + b, wherever decode(encode(t)) == t. InputError: as `encode`.
        """
        return self._plain(self.vocabulary.encode_continued(_utf8(text)), text)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """encode(text), and for each token the characters [start, end) of `text` that it stands for.

        Tokens that are bytes of one character each have that character. A token that stands for the space which
        the text did not have may have none. InputError: as `encode`.
        """
        ids, offsets = self.vocabulary.encode_with_offsets(_utf8(text))
        return self._plain(ids, text), offsets

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of `ids`; special tokens are dropped, wherever they stand, and ids behind the last, as in Transformers:
        a model may have more rows than its tokenizer has pieces (Qwen's), and sample them.

        InputError: a negative id.
        """
        pieces = [int(i) for i in ids]
        if wrong := [i for i in pieces if i < 0]:
            raise InputError(f"token {wrong[0]} is none of the {self.size} pieces of {self.path}: give ids from 0")
        return self.vocabulary.decode([i for i in pieces if i < self.size and i not in self._special_ids])

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset({self.pad, *(special.id for special in self.special.values())})

    def _plain(self, ids: list[int], text: str) -> list[int]:
        if not self._special_ids.isdisjoint(ids):
            name = next(self.vocabulary.name(i) for i in ids if i in self._special_ids)
            raise InputError(f"the text {text[:60]!r} reads as the special token {name!r} of {self.path}: reword it")
        return ids

    def _named(self, role: str, name: str) -> int:
        if role not in self.named:
            raise InputError(f"{self.path} has no {name} piece: train a tokenizer that has one, or choose another")
        return self.named[role]


def load_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer at `path`, which is one of:

      - a sentencepiece .model;
      - a Hugging Face tokenizer.json;
      - a byte-level BPE as GPT-2's, vocab.json beside merges.txt, or encoder.json beside vocab.bpe: either file;
      - a model's folder that holds any of these; the first of this order is taken: rlhf_jax.model (of
        an export), tokenizer.json, tokenizer.model, spiece.model, vocab.json, encoder.json.

    Which tokens are bos, eos, pad and unk, tokenizer_config.json, special_tokens_map.json,
    generation_config.json and config.json beside it say, in this order (for a .model, where the folder is
    given), then the vocabulary itself, then custom ("</s>", "<|endoftext|>").

    InputError: missing, broken or truncated files.
    """
    path = Path(path)
    files = tokenizer_files(path)
    contents = [read_bytes(file) for file in files]
    pieces = len(files) == 1 and files[0].suffix != ".json"
    configs = Configs(None if pieces and not path.is_dir() else files[0].parent)
    added = configs.added()
    vocabulary: Vocabulary
    if pieces:
        vocabulary = SentencePieces(contents[0], added, files[0])
    else:
        spec = parse_object(contents[0], files[0])
        if len(files) == 2:
            spec = byte_level_spec(spec, contents[1], configs.text_prefix(), *files)
        vocabulary = HuggingFaceVocabulary(spec, added, files[0])
    configs.require_added(vocabulary)
    named = vocabulary.named | configs.named(vocabulary)
    if named.get("pad") in (named.get("bos"), named.get("eos"), named.get("unk")):
        named.pop("pad", None)
    # A whole tokenizer.json says it itself, and so it goes in Transformers, whatever the flags beside it say.
    if isinstance(vocabulary, HuggingFaceVocabulary) and len(files) == 1:
        opening = vocabulary.opening
    else:
        opening = configs.opening(named)
    return Tokenizer(path, hashlib.sha256(b"".join(contents)).hexdigest(), vocabulary, named, opening=opening)


def check_vocabulary(tokenizer: Tokenizer, rows: int, name: str) -> None:
    """InputError where the embedding of the model `name` has fewer `rows` than the tokenizer's file has ids. A pad that was
    added needs no row: nobody reads its embedding, and nobody predicts it."""
    if rows < tokenizer.vocab_size:
        raise InputError(
            f"{name} has {rows} rows in its embedding and the tokenizer {tokenizer.path} {tokenizer.vocab_size} ids: "
            "use the tokenizer that the model was trained with"
        )


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: Path | str) -> Tokenizer:
    """Trains a sentencepiece vocabulary on `texts`, writes it to `path` in one move, and loads it.

    Same input, same bytes; `train_sentencepieces` says which pieces. Up to `vocab_size` of them: a short text has
    fewer merges to give, and `size` says how many there are.

    InputError: no text; a vocabulary too small for the required pieces.
    """
    model = train_sentencepieces(texts, vocab_size)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(model)
    partial.replace(path)
    return load_tokenizer(path)


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = f"character {error.start + 1} of {text[:30]!r}"
        raise InputError(f"{place} is half of a surrogate pair, which is no text: remove it") from None
    return text
