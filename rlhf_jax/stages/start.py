"""The model that a run starts from: described and random, or a Hugging Face folder's; and its tokenizer."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rlhf_jax.config import Checked, Count
from rlhf_jax.data import Tokenizer, content_sha256, load_tokenizer, train_tokenizer
from rlhf_jax.errors import InputError
from rlhf_jax.runtime import first_process, locked, meet, require_writable, write_atomically
from rlhf_jax.stages.datasets import DataSets
from rlhf_jax.stages.model import Decoder, Format, Memory, Model, described, imported


@dataclass(frozen=True)
class Imported:
    """A model to start from, in the place of random parameters."""

    folder: str  # config.json, .safetensors and tokenizer, as Transformers saves them


@dataclass(frozen=True)
class TokenizerSettings(Checked):
    """Which tokenizer the run has."""

    path: str = ""  # a sentencepiece model, a tokenizer.json or a folder; "" is the imported model's, or trains one
    vocab_size: Count = 50_257  # pieces of one that is trained on the run's text; GPT-3's has as many


def starting_model(
    out: Path,
    decoder: Decoder,
    folder: Imported | None,
    tokenizer: TokenizerSettings,
    format: Format,
    memory: Memory,
    data: DataSets,
) -> Model:
    """The imported model where there is one, else the described one, whose tokenizer may be trained on the run's text."""
    given = load_tokenizer(Path(tokenizer.path)) if tokenizer.path else None
    if folder is not None:
        return imported(folder.folder, format, memory, given)
    return described(decoder, given or run_tokenizer(tokenizer, out, data.tokenizer_text), format, memory)


def run_tokenizer(settings: TokenizerSettings, out: Path, text: Callable[[], Iterable[str]]) -> Tokenizer:
    """The tokenizer in out/tokenizer.model, trained on the run's own text where it is not there.

    InputError: it was trained on another text, or with another size.
    """
    path, record = out / "tokenizer.model", out / "tokenizer.made.json"
    made_from = {"vocab_size": settings.vocab_size, "text": content_sha256(text())}
    if first_process() and not path.exists():
        require_writable(out)
        with locked(out):
            train_tokenizer(text(), settings.vocab_size, path)
            write_atomically(record, json.dumps(made_from) + "\n")
    meet("the tokenizer is trained")
    found = json.loads(record.read_text()) if record.exists() else made_from  # a file that the user put there
    if found != made_from:
        size = settings.vocab_size
        what = (
            "on another text"
            if found["vocab_size"] == size
            else f"for a vocabulary of {found['vocab_size']}, not {size}"
        )
        raise InputError(f"{path} was trained {what}; choose another --out, or move it away and it is trained again")
    return load_tokenizer(path)
