"""A stage's folder as a trained model: what its checkpoints' records say of the model, written and read."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from rlhf_jax.data import (
    CONFIG_FILES,
    TOKENIZER_FILES,
    Tokenizer,
    load_tokenizer,
    template_of,
    tokenizer_files,
    with_chat,
)
from rlhf_jax.errors import InputError
from rlhf_jax.models import ROPE_SCALINGS, Rope, TransformerConfig
from rlhf_jax.runtime import Checkpoints, require_writable
from rlhf_jax.stages.model import Format, Lora, Memory, Model, Trained, imported, with_lora


def trained(folder: Path | str, step: int | None = None, best: bool = False) -> Trained:
    """The model that a stage left in its folder, of this run or another: trained("runs/tiny/sft").

    step: of one of its checkpoints; without it the epoch that was chosen, if one was, else the end. best: the checkpoint of
    the best figure (runtime.best). InputError: there is no such stage, it is not finished, or it left no model.
    """
    folder = Path(folder)
    checkpoints = Checkpoints(folder / "checkpoints", None)
    latest = checkpoints.latest()
    if latest is None:
        raise InputError(f"{folder} holds no trained model; name a stage's folder, such as runs/tiny/sft")
    record = checkpoints.record(latest)
    if "model" not in record:
        raise InputError(f"{folder} holds checkpoints of an earlier version of rlhf_jax; train it anew")
    if latest < record["total"]:
        raise InputError(f"{folder}: the stage {folder.name} stopped at step {latest} of {record['total']}; finish it")
    if not record["model"]:
        raise InputError(f"{folder} holds no model but a sweep of them; name another stage's folder")
    if best:
        figure = record["model"]["best"]
        step = Checkpoints(folder / "checkpoints", None, figure).best() if figure else None
        if step is None:
            raise InputError(
                f"{folder}: no checkpoint was saved where runtime.best was looked at, every runtime.evaluate_every; take the "
                "last one"
            )
    if step is None:
        step = chosen_step(folder) or latest
    made = read_model(folder, record["model"], step, checkpoints.record(step)["sha256"])
    return replace(made, seed=record["settings"]["seed"])


def model_in(folder: Path | str, format: Format, memory: Memory | None = None, lora: Lora | None = None) -> Trained:
    """The model of a stage's folder, which has its own format, memory and lora; or of a Hugging Face folder with these.
    InputError: see `trained`, `imported` and `with_lora`."""
    if (Path(folder) / "config.json").is_file():
        return with_lora(imported(folder, format, memory), lora)
    return trained(folder)


def trained_in(folders: str, format: Format = Format(), memory: Memory | None = None) -> list[Trained]:
    """The models in folders that are named with commas between, each as `model_in` has it."""
    return [model_in(folder.strip(), format, memory) for folder in folders.split(",") if folder.strip()]


def chosen_step(folder: Path) -> int | None:
    """The step that a choice among a stage's checkpoints fell on. InputError: the file that says it is damaged."""
    path = folder / "chosen.json"
    try:
        return json.loads(path.read_text())["step"] if path.is_file() else None
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} is damaged; delete it and choose again") from error


def read_model(folder: Path, said: Mapping[str, Any], step: int, sha256: str) -> Trained:
    """From what the record of a checkpoint says of its model."""
    chat = template_of(said["chat"]) if said.get("chat") else None
    model = Trained(
        decoder=decoder_from_json(said["decoder"]),
        tokenizer=with_chat(load_tokenizer(folder / said["tokenizer"]), chat),
        format=Format(**said["format"]),
        values=said["values"],
        folder=folder,
        sha256=sha256,
        step=step,
        part=said["part"],
        scalar=said["scalar"],
        categories=tuple(said.get("categories", ())),
        lora=None if said["lora"] is None else Lora(**said["lora"]),
    )
    if said["base"] is None:
        return model
    where = Path(os.path.normpath(folder / said["base"]["folder"]))
    base = {name: said["base"][name] for name in ("sha256", "step", "part")}
    return replace(model, base=replace(model, folder=where, scalar=False, categories=(), lora=None, **base))


def model_record(
    model: Model, folder: Path, part: str, scalar: bool = False, best: str = "", categories: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What the record of a checkpoint in the folder says of its model, and `read_model` reads."""
    base = model.lora_base if isinstance(model, Trained) else None
    return {
        "decoder": decoder_to_json(model.decoder),
        "format": asdict(model.format),
        "tokenizer": keep_tokenizer(model.tokenizer, folder),
        "chat": model.tokenizer.chat and model.tokenizer.chat.source,
        "values": None if model.values is None else dict(model.values),
        "part": part,
        "scalar": scalar,
        **({"categories": list(categories)} if categories else {}),
        "best": best,
        "lora": asdict(model.lora) if isinstance(model, Trained) and model.lora else None,
        "base": base
        and {
            "folder": os.path.relpath(base.folder, folder),
            "sha256": base.sha256,
            "step": base.step,
            "part": base.part,
        },
    }


def keep_tokenizer(tokenizer: Tokenizer, folder: Path) -> str:
    """The tokenizer's place in the folder, which gets a copy of its files unless it is the tokenizer's own."""
    path = Path(tokenizer.path)
    if path.is_dir() and path.resolve() == folder.resolve():
        return "."
    if folder.resolve() in path.resolve().parents:
        return os.path.relpath(path, folder)
    into = folder / "tokenizer"
    came_to_nothing = into.exists() and not (folder / "checkpoints").exists()
    if came_to_nothing and _content(tokenizer_paths(path)) != _content(into.iterdir()):
        shutil.rmtree(into)
    if not into.exists():
        require_writable(folder)
        unfinished = folder / f".tokenizer.{uuid4().hex}"
        unfinished.mkdir()
        for file in tokenizer_paths(path):
            shutil.copy(file, unfinished / file.name)
        try:
            unfinished.rename(into)
        except OSError:
            if not into.exists():
                raise
            shutil.rmtree(unfinished)  # another process of the run was faster
    return "tokenizer" if path.is_dir() else f"tokenizer/{tokenizer_files(path)[0].name}"


def _content(files: Iterable[Path]) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in files}


def tokenizer_paths(path: Path) -> list[Path]:
    """All files that say something of the tokenizer at a path, which is a folder or a file."""
    files = list(tokenizer_files(path))
    if not path.is_dir():
        beside = CONFIG_FILES if path.suffix == ".json" or len(files) == 2 else ()  # which `load_tokenizer` reads
        return [*files, *(path.with_name(name) for name in beside if path.with_name(name).is_file())]
    names = (*TOKENIZER_FILES, "generation_config.json", "config.json")
    return [path / name for name in names if (path / name).is_file()]


def decoder_to_json(decoder: TransformerConfig) -> dict[str, Any]:
    """A decoder as a JSON object; the way in which rotary positions are stretched goes by its name."""

    def rope(of: Rope | None) -> dict[str, Any] | None:
        if of is None:
            return None
        scaling = None if of.scaling is None else {"kind": type(of.scaling).__name__, **asdict(of.scaling)}
        return asdict(of) | {"scaling": scaling}

    return asdict(decoder) | {"rope": rope(decoder.rope), "local_rope": rope(decoder.local_rope)}


def decoder_from_json(said: Mapping[str, Any]) -> TransformerConfig:
    """The decoder that `decoder_to_json` wrote down."""

    def rope(of: Mapping[str, Any] | None) -> Rope | None:
        if of is None:
            return None
        scaling = dict(of["scaling"]) if of["scaling"] else None
        if scaling:
            kind: Any = ROPE_SCALINGS[scaling.pop("kind")]
            scaling = kind(**{name: tuple(x) if isinstance(x, list) else x for name, x in scaling.items()})
        return Rope(**{**of, "scaling": scaling})

    ropes = {name: rope(said[name]) for name in ("rope", "local_rope")}
    lists = {name: tuple(x) for name, x in said.items() if isinstance(x, list)}
    return TransformerConfig(**{**said, **ropes, **lists})
