"""Vocabularies in the formats of Hugging Face's tokenizers library, and GPT-2's older one."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from rlhf_jax.data.vocabulary import Special
from rlhf_jax.errors import InputError

# A tokenizer.json does not say which of its special tokens begins a text or ends it. Where no other file does either,
# these names, the first that is there.
CUSTOMARY = {
    "bos": ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>"),
    "pad": ("<pad>", "[PAD]"),
    "unk": ("<unk>", "[UNK]"),
}
# Tokens that no merge makes are special ones. GPT-2, RoBERTa, OPT and StarCoder write them so; others come of a lost merge.
SPECIAL_LOOKS = ("<", "[", "madeupword")


class HuggingFaceVocabulary:
    """A tokenizer.json, in which special tokens are read as text: a text holds none of them, whatever it says."""

    def __init__(self, spec: dict[str, Any], added: Mapping[str, Special], path: Path):
        """InputError: no tokenizer that the library reads; an added token whose id is another's."""
        try:
            self._read(spec, added)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except Exception as error:  # the library raises bare Exceptions, a file of another shape all sorts
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise InputError(f"{path} is no tokenizer that can be read ({reason}): copy it anew") from None

    def _read(self, spec: dict[str, Any], added: Mapping[str, Special]) -> None:
        listed = {token["content"]: token for token in spec.get("added_tokens") or []}
        for text, (id, lstrip, rstrip) in sorted(added.items(), key=lambda item: item[1].id):
            flags = {"single_word": False, "normalized": False, "lstrip": lstrip, "rstrip": rstrip}
            listed.setdefault(text, {"id": id, "content": text, **flags})["special"] = True
        self.special = {
            text: Special(token["id"], token.get("lstrip", False), token.get("rstrip", False))
            for text, token in listed.items()
            if token.get("special")
        }
        self.opening = _opening(spec.get("post_processor"))
        # What a post-processor does is add special tokens and take the spaces out of the offsets.
        spec = {**spec, "added_tokens": list(listed.values())}
        spec |= {"post_processor": None, "truncation": None, "padding": None}
        model = spec.get("model") or {}
        if (
            model.get("type") == "BPE"
        ):  # Llama's merges make "<s>" of its letters; dropout would cut a text anew each time
            merges = [m for m in model["merges"] if _merged(m) not in self.special]
            spec["model"] = {**model, "merges": merges, "dropout": None}
        self.processor = _build(spec)
        parts = {key: _without_prefix(spec.get(key)) for key in ("normalizer", "pre_tokenizer")}
        same = all(spec.get(key) == part for key, part in parts.items())
        self._continued = self.processor if same else _build({**spec, **parts})
        # "first" is the first text of all, which what follows a special token is not.
        self.prefix_after_special = '"prepend_scheme": "first"' not in json.dumps(spec.get("pre_tokenizer"))
        for text, special in self.special.items():
            if (found := self.processor.token_to_id(text)) != special.id:
                raise InputError(f"the special token {text!r} has the id {found} and was to have {special.id}: mend it")
        self.size = 1 + max(self.processor.get_vocab(with_added_tokens=True).values(), default=-1)
        customary = {role: next((t for t in names if t in self.special), None) for role, names in CUSTOMARY.items()}
        customary["unk"] = model.get("unk_token") or customary["unk"]
        self.named = {role: i for role, token in customary.items() if token and (i := self.find(token)) is not None}

    def encode(self, text: str) -> list[int]:
        return self.processor.encode(text, add_special_tokens=False).ids

    def encode_continued(self, text: str) -> list[int]:
        return self._continued.encode(text, add_special_tokens=False).ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self.processor.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: list[int]) -> str:
        return self.processor.decode(ids, skip_special_tokens=False)

    def find(self, token: str) -> int | None:
        return self.processor.token_to_id(token)

    def name(self, id: int) -> str:
        return self.processor.id_to_token(id) or ""


def byte_level_spec(vocab: Any, merges: bytes, prefix: bool, vocab_path: Path, merges_path: Path) -> dict[str, Any]:
    """The tokenizer.json of GPT-2's byte-level BPE (Radford et al. 2019, §2.2) of token → id, and lines of two tokens.

    `prefix`: a text begins as if a space preceded it. InputError: files of another shape; tokens that no merge
    makes, as when the file of merges is cut off.
    """
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise InputError(f"{vocab_path} does not map tokens to ids: check that it is the right file")
    try:
        lines = merges.decode().split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{merges_path} is not UTF-8 text: copy it anew") from None
    pairs = [line.split(" ") for line in lines[lines[0].startswith("#version") :] if line.strip()]
    made = {"".join(pair) for pair in pairs}
    if wrong := [pair for pair in pairs if len(pair) != 2 or "".join(pair) not in vocab]:
        raise InputError(f"{merges_path} has {' '.join(wrong[0])!r}, no merge of {vocab_path.name}: copy both anew")
    lone = [token for token in vocab if len(token) > 1 and token not in made]
    if lost := [token for token in lone if not token.startswith(SPECIAL_LOOKS)]:
        raise InputError(
            f"{merges_path} is truncated or not {vocab_path.name}'s own: no merge makes {len(lost)} of its tokens, "
            f"such as {lost[0]!r}: copy both anew"
        )
    flags = {"single_word": False, "normalized": False, "lstrip": False, "rstrip": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}
    return {
        "added_tokens": [{"id": vocab[token], "content": token, **flags} for token in lone],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": pairs},
    }


def _opening(processor: Any) -> tuple[int, ...]:
    """The ids that a post-processor puts before a single text."""
    kind = processor.get("type") if isinstance(processor, dict) else None
    if kind == "Sequence":
        return tuple(id for part in reversed(processor["processors"]) for id in _opening(part))
    if kind in ("RobertaProcessing", "BertProcessing"):
        return (processor["cls"][1],)
    if kind != "TemplateProcessing":
        return ()
    before = itertools.takewhile(lambda part: "SpecialToken" in part, processor["single"])
    names = [part["SpecialToken"]["id"] for part in before]
    return tuple(id for name in names for id in processor["special_tokens"][name]["ids"])


def _build(spec: dict[str, Any]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
    tokenizer.encode_special_tokens = True  # as text
    return tokenizer


def _merged(merge: str | list[str]) -> str:
    """The token that a merge makes; older files write "a b", newer ones ["a", "b"]."""
    return "".join(merge.split(" ") if isinstance(merge, str) else merge)


def _without_prefix(part: Any) -> Any:
    """A normalizer or pre-tokenizer, less the space that it would put before a text."""
    if not isinstance(part, dict):
        return part
    changed = {key: [_without_prefix(p) for p in part[key]] for key in ("normalizers", "pretokenizers") if key in part}
    if "normalizers" in changed:
        changed["normalizers"] = [p for p in changed["normalizers"] if p is not None]
    if part.get("type") == "Prepend":
        return None
    if part.get("type") == "Metaspace":
        changed |= {"prepend_scheme": "never"} | ({"add_prefix_space": False} if "add_prefix_space" in part else {})
    if part.get("type") == "ByteLevel":
        changed |= {"add_prefix_space": False}
    return {**part, **changed}
