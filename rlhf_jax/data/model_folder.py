"""A model's folder in the layout of Hugging Face: which files hold its tokenizer, and what its configs say of it."""

import json
from pathlib import Path
from typing import Any

from rlhf_jax.data.vocabulary import Special, Vocabulary
from rlhf_jax.errors import InputError

PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
OURS = "rlhf_jax.model"  # sentencepiece's, in folders that were written here, where tokenizer.json is made from it
CHOICE = ((OURS,), ("tokenizer.json",), ("tokenizer.model",), ("spiece.model",), *PAIRS)  # the first that is there
# All that say something of a tokenizer, and go with it.
TOKENIZER_FILES = (
    *(name for names in CHOICE for name in names),
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
# The small ones that stand beside a vocabulary, and the model's own, which name ids.
CONFIGS = ("tokenizer_config", "special_tokens_map", "generation_config", "config", "added_tokens")
CONFIG_FILES = tuple(f"{name}.json" for name in CONFIGS)
# Of the classes that keep a vocab.json and merges.txt, those that cut a text into words as GPT-2 does.
GPT2_LIKE = ("GPT2", "Roberta", "Bart", "CodeGen", "Longformer", "LED", "Whisper")


def tokenizer_files(path: Path) -> tuple[Path, ...]:
    """The file, or the vocabulary and its merges, of the tokenizer at `path`: a folder, or one of its files.

    InputError: a folder without a tokenizer, one file of a pair without the other.
    """
    if path.is_dir():
        for names in CHOICE:
            if (path / names[0]).is_file():
                break
        else:
            wanted = ", ".join(" with ".join(names) for names in CHOICE[1:])
            raise InputError(f"the folder {path} holds no tokenizer: put one of {wanted} there")
        files = tuple(path / name for name in names)
    else:
        names = next((pair for pair in PAIRS if path.name in pair), (path.name,))
        files = tuple(path.with_name(name) for name in names)
    for file in files:
        if len(files) == 2 and not file.is_file():
            raise InputError(f"{file} is missing: a vocabulary of this kind is {' with '.join(names)}")
    return files


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. InputError: it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"the tokenizer {path} cannot be read ({error.strerror}): check the path") from None


def parse_object(content: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in the bytes of `path`. InputError: anything else."""
    try:
        value = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error.reason
        raise InputError(f"{path} is no whole JSON file ({reason}): copy it anew") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object: check that it is the right file")
    return value


class Configs:
    """The small JSON files of a model's folder, each empty where it is absent."""

    def __init__(self, folder: Path | None):
        """InputError: one of them is broken. `folder` None: nothing is read."""
        self.folder = folder
        self._files = {name: _optional(folder / f"{name}.json") if folder else {} for name in CONFIGS}

    def named(self, vocabulary: Vocabulary) -> dict[str, int]:
        """The ids of "pad", "bos", "eos" and "unk", as far as a file names them and the vocabulary has them.

        The tokenizer's files go before the model's. InputError: a bos, eos or unk token that the vocabulary lacks.
        """
        found = {}
        for role in ("pad", "bos", "eos", "unk"):
            for name in ("tokenizer_config", "special_tokens_map"):
                token = _text(self._files[name].get(f"{role}_token"))
                if token is None or role in found:
                    continue
                id = vocabulary.find(token)
                if id is not None:
                    found[role] = id
                elif role != "pad":  # a pad that is missing is put behind the last id
                    raise InputError(
                        f"{self.folder}/{name}.json names {token!r} as the {role} token, which the vocabulary lacks: "
                        "copy the folder's files anew"
                    )
            for name in ("generation_config", "config"):
                id = self._files[name].get(f"{role}_token_id")
                id = id[0] if isinstance(id, list) and id else id
                if type(id) is int and 0 <= id < vocabulary.size:
                    found.setdefault(role, id)
        return found

    def added(self) -> dict[str, Special]:
        """The special tokens that the folder puts beside those of its vocabulary file."""
        listed = self._files["tokenizer_config"].get("added_tokens_decoder") or {}
        try:
            tokens = {
                token["content"]: Special(int(id), bool(token.get("lstrip")), bool(token.get("rstrip")))
                for id, token in listed.items()
                if token.get("special")
            }
            flagged = {token["content"] for token in listed.values()}
            more = {text: Special(int(id)) for text, id in self._files["added_tokens"].items() if text not in flagged}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(f"{self.folder}: its added tokens are no tokens with ids: copy its files anew") from None
        return tokens | more

    def denies(self, role: str) -> bool:
        """Whether tokenizer_config.json says that there is no such token, as Qwen's of BOS, whatever config.json says."""
        return self._files["tokenizer_config"].get(f"{role}_token", "") is None

    def require_added(self, vocabulary: Vocabulary) -> None:
        """InputError: the folder adds a token that the vocabulary has elsewhere, or, being one of texts, not at all."""
        listed = self._files["tokenizer_config"].get("added_tokens_decoder") or {}
        for id, token in listed.items():
            if vocabulary.find(token["content"]) != int(id):
                raise InputError(
                    f"{self.folder}/tokenizer_config.json adds {token['content']!r} with the id {id}, which the "
                    "vocabulary does not have there: give the folder the tokenizer.json that belongs to it"
                )

    def opening(self, named: dict[str, int]) -> tuple[int, ...]:
        """BOS where the folder of a vocabulary that does not say it itself has its texts begin so."""
        adds = self._files["tokenizer_config"].get("add_bos_token") is True
        return (named["bos"],) if adds and "bos" in named else ()

    def text_prefix(self) -> bool:
        """Whether a text begins as if a space preceded it, of a byte-level BPE.

        InputError: a tokenizer that cuts texts otherwise than GPT-2, which its two files do not show.
        """
        config = self._files["tokenizer_config"]
        kind = config.get("tokenizer_class") or "GPT2Tokenizer"
        if str(kind).removesuffix("Fast").removesuffix("Tokenizer") not in GPT2_LIKE:
            raise InputError(
                f"{self.folder}: a {kind} is not read from its vocabulary and merges: add its tokenizer.json"
            )
        return config.get("add_prefix_space") is True


def _optional(path: Path) -> dict[str, Any]:
    return parse_object(read_bytes(path), path) if path.is_file() else {}


def _text(token: Any) -> str | None:
    """A special token's text, which stands alone or in an object with its flags."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) and token else None
