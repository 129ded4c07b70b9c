"""A tokenizer as the files of a model's folder, from which Transformers reads the same ids."""

import json
import shutil
from pathlib import Path
from typing import Any

import tokenizers

from rlhf_jax.data.chat import render_chat
from rlhf_jax.data.chat_template import ChatTemplate
from rlhf_jax.data.model_folder import OURS, PAIRS, TOKENIZER_FILES, parse_object, read_bytes, tokenizer_files
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.data.tokenizer_json import sentencepiece_spec
from rlhf_jax.errors import InputError

GENERIC = "PreTrainedTokenizerFast"  # reads a tokenizer.json as it is; classes of a family rebuild it in their own way
ROLES = ("bos", "eos", "unk")
TEMPLATES = ("chat_template.jinja", "chat_template.json")


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, pad: bool, scores: bool) -> None:
    """Writes the tokenizer's files into the folder.

    A sentencepiece model that no class of Transformers is named for becomes a tokenizer.json (`sentencepiece_spec`), with
    the model itself beside it, which `load_tokenizer` goes by. Without a chat template such a tokenizer reads what looks
    like a special token as text, as here; a template has to write special tokens, and then what looks like one is one, as
    everywhere in Transformers. All other files are copied; what they leave open is named in tokenizer_config.json.

    pad: a pad that was added has a row in the model's embedding and gets a token. scores: of a reward model, which pads on
    the right and reads the token at which an answer ends: there its chat template stops, and without a template a
    tokenizer.json that was made here adds EOS to every text. InputError: a sentencepiece model that the library would read
    otherwise.
    """
    files, source = tokenizer_files(tokenizer.path), tokenizer.path
    beside = source if source.is_dir() else source.parent
    pieces = files[0].suffix != ".json"
    reads = not pieces or source.is_dir()  # the small files beside a .model are its own where the folder is given
    config = _read(beside / "tokenizer_config.json") if reads else {}
    made = pieces and (files[0].name == OURS or "tokenizer_class" not in config)
    listed = []
    if made:
        spec = sentencepiece_spec(read_bytes(files[0]))
        if scores and tokenizer.chat is None:
            spec["post_processor"] = _ending_with(tokenizer.vocabulary.name(tokenizer.eos), tokenizer.eos)
        (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False, indent=1))
        shutil.copy(files[0], folder / OURS)
        _require_same_ids(tokenizer, folder / "tokenizer.json")
        config = {"tokenizer_class": GENERIC, "clean_up_tokenization_spaces": False} | config
        config["split_special_tokens"] = tokenizer.chat is None
        listed = spec["added_tokens"]
    else:
        names = PAIRS[0] if len(files) == 2 else ["tokenizer.json"] if not pieces else [files[0].name]
        for file, name in zip(files, names, strict=True):
            shutil.copy(file, folder / name)
        config.setdefault("tokenizer_class", "GPT2Tokenizer" if len(files) == 2 else GENERIC)
        if files[0].name == "tokenizer.json":
            listed = _read(files[0]).get("added_tokens") or []
    others = (
        ()
        if made or not reads
        else TOKENIZER_FILES
        if source.is_dir()
        else ("special_tokens_map.json", "added_tokens.json")
    )
    for name in others:
        if (beside / name).is_file() and not (folder / name).exists() and not (tokenizer.chat and name in TEMPLATES):
            shutil.copy(beside / name, folder / name)

    tokens = {
        f"{role}_token": tokenizer.vocabulary.name(tokenizer.named[role]) for role in ROLES if role in tokenizer.named
    }
    if made:
        tokens.pop("unk_token", None)  # named there it would become one that texts cannot have
    if "pad" in tokenizer.named:
        tokens["pad_token"] = tokenizer.vocabulary.name(tokenizer.pad)
    elif pad:
        tokens["pad_token"] = _fresh(tokenizer)
        _add_token(config, tokens["pad_token"], tokenizer, listed)
    told = _read(folder / "special_tokens_map.json")
    for key, token in tokens.items():
        if key == "pad_token" or not config.get(key):
            config[key] = token
        if key == "pad_token" and told:
            told[key] = token
    config["padding_side"] = "right" if scores else "left"
    if tokenizer.chat is not None:
        config.pop("chat_template", None)
        template = stopping(tokenizer.chat, tokenizer) if scores else tokenizer.chat
        (folder / "chat_template.jinja").write_text(template.source)
    if told:
        (folder / "special_tokens_map.json").write_text(json.dumps(told, ensure_ascii=False, indent=2))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2))


def stopping(template: ChatTemplate, tokenizer: Tokenizer) -> ChatTemplate:
    """The template without the white space that it writes behind the token by which a conversation's last answer ends."""
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = render_chat(talk, tokenizer, template)
    bare = text.rstrip()
    if bare == text or not any(bare.endswith(token) for token in tokenizer.special):
        return template
    # Of its last line break Jinja itself takes one away, which it would not within a block.
    source = template.source.removesuffix("\n")
    said = "{{ said if add_generation_prompt else said.rstrip() }}"
    return template._replace(source=f"{{% set said %}}{source}{{% endset %}}{said}")


def _add_token(config: dict[str, Any], token: str, tokenizer: Tokenizer, listed: list[dict[str, Any]]) -> None:
    """Puts a token behind the last id. The list of a config is the whole one, so what the vocabulary adds goes in as well."""
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    known = {
        s.id: flags | {"content": text, "lstrip": s.lstrip, "rstrip": s.rstrip} for text, s in tokenizer.special.items()
    }
    known |= {each["id"]: {key: each[key] for key in (*flags, "content")} for each in listed}
    tokens = config.get("added_tokens_decoder") or {str(id): known[id] for id in sorted(known)}
    config["added_tokens_decoder"] = tokens | {str(tokenizer.pad): flags | {"content": token}}


def _fresh(tokenizer: Tokenizer) -> str:
    """A pad's text, which the vocabulary has not."""
    names = ("<pad>", "[PAD]", "<|pad|>", *(f"<|pad_{i}|>" for i in range(tokenizer.size)))
    return next(name for name in names if tokenizer.vocabulary.find(name) is None)


def _ending_with(token: str, id: int) -> dict[str, Any]:
    """The library's post-processor that puts a token behind every text."""
    sequence, special = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": token, "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [sequence, special],
        "pair": [sequence, second, special],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    }


def _require_same_ids(tokenizer: Tokenizer, path: Path) -> None:
    """InputError: some piece, alone or behind a letter or a line break, has other ids in the tokenizer.json."""
    theirs = tokenizers.Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True  # as text
    names = [tokenizer.vocabulary.name(id).replace("▁", " ") for id in range(tokenizer.vocab_size)]
    for text in (f"{before}{name}" for before in ("", "a", "\n") for name in names):
        if theirs.encode(text, add_special_tokens=False).ids != tokenizer.vocabulary.encode(text):
            raise InputError(
                f"{tokenizer.path} reads {text!r} otherwise than the tokenizer.json that Transformers would be given: put it "
                "into a folder with the tokenizer_config.json of its model, and name the folder"
            )


def _read(path: Path) -> dict[str, Any]:
    return parse_object(read_bytes(path), path) if path.is_file() else {}
