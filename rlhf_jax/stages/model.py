"""What stages are made from and return: a model, and where its parameters lie."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.tree_util import DictKey
from jaxtyping import Array, Key, PyTree

from rlhf_jax.config import Checked, Count, Divides, Natural, Positive, SettingError
from rlhf_jax.data import (
    Tokenizer,
    check_vocabulary,
    load_chat_template,
    load_tokenizer,
    located,
    own_chat_template,
    with_chat,
)
from rlhf_jax.errors import InputError
from rlhf_jax.models import (
    Adapted,
    LabelModel,
    LanguageModel,
    ScalarModel,
    TransformerConfig,
    init_lora,
    load_pretrained,
    merge_lora,
    read_decoder,
    stack_blocks,
)
from rlhf_jax.runtime import Checkpoints, Rule, sharding_of
from rlhf_jax.stages.run import Devices, Run


@dataclass(frozen=True)
class Decoder(Checked):
    """The shape of a model that starts from random numbers. The defaults are the 1.3 B model of Brown et al. 2020, Table
    2.1, which InstructGPT starts from, with the 16 heads that its width and head size of 128 leave."""

    width: Count = 2048  # of the residual stream
    layers: Count = 24  # blocks
    heads: Annotated[Count, Divides("width")] = 16  # of attention
    kv_heads: Annotated[Count, Divides("heads")] = 16  # as many as heads, or fewer that queries share
    hidden: Count = 8192  # width of the MLP
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"  # GPT-2's; "rmsnorm" is Llama's
    position: Literal["learned", "rope"] = "learned"  # GPT-2's; "rope" is Llama's
    mlp: Literal["gelu", "swiglu"] = "gelu"  # GPT-2's; "swiglu" is Llama's
    bias: bool = True  # of matrices; Llama has none
    tied: bool = True  # the unembedding is the embedding

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.position == "rope" and (size := self.width // self.heads) % 2:
            sentence = f"heads is {self.heads} and width {self.width}; rope turns pairs and a head has {size} numbers"
            raise SettingError(f"{sentence}: make width / heads even", "heads", "width")


@dataclass(frozen=True)
class Format(Checked):
    """How conversations become tokens, and how many at most."""

    prompt_tokens: Count = 1024  # longer prompts are left out (App. C: 1k)
    answer_tokens: Count = 1024  # at most, EOS included (App. C: 1k)
    too_long: Literal["drop", "cut", "error"] = (
        "drop"  # leave out rows that exceed this (App. C), or their oldest turns
    )
    chat: str = "model"  # the tokenizer's own template, else "hh"; or chatml, llama3, zephyr, dialogpt, or a Jinja file

    @property
    def context(self) -> int:
        """Of a row of text, or a prompt and its answer."""
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True)
class Memory(Checked):
    """How a decoder computes. The paper has half precision with float32 master weights (App. C)."""

    compute: Literal["float32", "bfloat16", "float16"] = "float32"  # of matrix products; float16 does not train
    cache: Literal["float32", "bfloat16", "float16"] = "float32"  # of keys and values
    remat: bool = False  # keep each block's input only, and compute the rest again for the gradient
    scan: bool = False  # one compiled block for all layers
    logit_rows: Natural = 0  # tokens whose logits exist at a time in losses; 0 is all


@dataclass(frozen=True)
class Lora(Checked):
    """Training of low-rank corrections in the place of all parameters (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Count = 8  # of each correction
    alpha: Positive = 16.0  # corrections are scaled by alpha / rank
    matrices: str = "query, value"  # some of query, key, value, out, gate, up, down; these two as in Hu et al., §7.1

    @property
    def scale(self) -> Any:
        return np.float32(self.alpha / self.rank)

    @property
    def names(self) -> list[str]:
        return [name.strip() for name in self.matrices.split(",")]


@dataclass(frozen=True)
class Model:
    """A decoder with its tokenizer and format, without parameters: pretraining starts it from random ones."""

    decoder: TransformerConfig
    tokenizer: Tokenizer
    format: Format
    values: Mapping[str, Any] | None = None  # the config.json that it came with

    def training(self, devices: Devices, dropout: float = 0.0) -> TransformerConfig:
        """The decoder as a step over the whole mesh has it."""
        axis = "data" if devices.pmap else None
        return replace(self.decoder, dropout=dropout, micro_batches=devices.micro_batches, axis_name=axis)


@dataclass(frozen=True)
class Trained(Model):
    """A trained model in a stage's folder or a Hugging Face folder. Parameters are read when they are asked for."""

    folder: Path = Path()
    sha256: str = ""  # what a model that is made from this one records
    step: int | None = None  # of a checkpoint; None in a Hugging Face folder
    part: str = "params"  # of the checkpoint's state
    scalar: bool = False  # a reward model
    categories: tuple[str, ...] = ()  # of a classifier
    lora: Lora | None = None  # models made from this one are corrections of `base`, or of this one if that is None
    seed: int | None = None  # of the run that trained it; None in a Hugging Face folder
    base: "Trained | None" = None  # what the parameters here are corrections of

    @property
    def of(self) -> LanguageModel | ScalarModel | LabelModel:
        """The module that the whole parameters belong to."""
        if self.categories:
            return LabelModel(self.decoder, len(self.categories))
        return ScalarModel(self.decoder) if self.scalar else LanguageModel(self.decoder)

    @property
    def kind(self) -> str:
        """In words."""
        return "a classifier" if self.categories else "a reward model" if self.scalar else "a language model"

    def learned(self, devices: Devices | None = None, mesh: Mesh | None = None, role: str = "policy") -> PyTree:
        """What was trained: all parameters, or with LoRA the corrections; on one device, or as its role lies on the mesh.
        InputError: the folder holds something else by now."""
        place = None if mesh is None else placement(devices or Devices(), mesh, role)
        if self.step is not None:
            checkpoints = Checkpoints(self.folder / "checkpoints", None)
            self._require_same(checkpoints.record(self.step)["sha256"])
            return checkpoints.read(self.part, self.step, place)[0]
        self._require_same(folder_sha256(self.folder))
        params = load_pretrained(self.folder, scalar=self.scalar, place=place).params
        if self.decoder.scan:
            params = {**params, "transformer": stack_blocks(params["transformer"], self.decoder.layers)}
        return params

    def _require_same(self, sha256: str) -> None:
        if self.sha256 and self.sha256 != sha256:
            raise InputError(
                f"{self.folder} holds another model than the one that was asked for (sha256 {sha256[:12]}, not "
                f"{self.sha256[:12]}); put that back, or start from what is there now"
            )

    def params(self) -> PyTree:
        """All parameters, corrections merged, on one device."""
        return whole(self.learned(), None if self.base is None else self.base.learned(), self.lora)

    def start(self, run: Run, mesh: Mesh, role: str, key: Key[Array, ""]) -> tuple[PyTree, PyTree]:
        """What a model made from this one starts from, and the frozen base beside it (None without LoRA). key: of fresh
        corrections."""
        found = self.learned(run.mesh, mesh, role)
        if self.lora is None:
            return found, None
        if self.base is None:
            return init_lora(found, self.lora.names, self.lora.rank, key), found
        return found, self.base.learned(run.mesh, mesh)

    def on_base(self, model: Any, base: PyTree) -> Any:
        """The model that what `start` gives belongs to."""
        return model if base is None or self.lora is None else Adapted(model, base, self.lora.scale)

    @property
    def lora_base(self) -> "Trained | None":
        """What models made from this one are corrections of."""
        return None if self.lora is None else (self.base or self)


def whole(learned: PyTree, base: PyTree, lora: Lora | None) -> PyTree:
    """A model as ordinary parameters, from what was trained of it and the frozen base."""
    if base is None or lora is None:
        return learned
    if learned["head"]:  # a scalar one
        base = {"transformer": base["transformer"]}
    return jax.jit(merge_lora)(base, learned, lora.scale)


def placement(devices: Devices, mesh: Mesh, role: str) -> Callable[[tuple[str, ...], tuple[int, ...]], NamedSharding]:
    """Where a parameter goes, by its path and shape, as it is read from a file."""
    axes: Rule = devices.rule(role)
    return lambda path, shape: sharding_of(tuple(map(DictKey, path)), shape, mesh, axes)


def described(decoder: Decoder, tokenizer: Tokenizer, format: Format, memory: Memory | None = None) -> Model:
    """A model to be trained from random parameters."""
    fields: dict[str, Any] = asdict(decoder) | asdict(memory or Memory())
    shape = TransformerConfig(vocab_size=tokenizer.size, context=format.context, dropout=0.0, **fields)
    return Model(shape, talking(tokenizer, format), format)


def imported(
    folder: Path | str, format: Format, memory: Memory | None = None, tokenizer: Tokenizer | None = None
) -> Trained:
    """The model of a Hugging Face folder: config.json, .safetensors, and a tokenizer unless another one is given. Where its
    architecture is a *ForSequenceClassification, it is a reward model.

    InputError: it is no such folder, its decoder or tokenizer cannot be read, ids have no row in its embedding, or the
    format is longer than the model's context.
    """
    folder = Path(folder)
    decoder, values = read_decoder(folder)
    tokenizer = tokenizer or load_tokenizer(folder)
    check_vocabulary(tokenizer, decoder.vocab_size, str(folder))
    if format.context > decoder.context:
        raise InputError(
            f"format.prompt_tokens + format.answer_tokens is {format.context} and {folder} was made for "
            f"{decoder.context}; lower them"
        )
    fields: dict[str, Any] = asdict(memory or Memory())
    scalar = any(str(name).endswith("ForSequenceClassification") for name in values.get("architectures") or ())
    made = Trained(
        replace(decoder, **fields), talking(tokenizer, format), format, values, folder, folder_sha256(folder)
    )
    return replace(made, scalar=scalar)


def talking(tokenizer: Tokenizer, format: Format) -> Tokenizer:
    """The tokenizer with the format's chat template. InputError: there is no such template, or the tokenizer lacks what it
    needs."""
    with located(f"format.chat = {format.chat!r}"):
        if format.chat == "model":
            return with_chat(tokenizer, own_chat_template(tokenizer.path))
        return with_chat(tokenizer, load_chat_template(format.chat))


def with_lora(model: Trained, lora: Lora | None) -> Trained:
    """The model as one of which others are corrections; the same model without lora. InputError: it is one already."""
    if lora is None:
        return model
    if model.base is not None:
        raise InputError(f"{model.folder} holds corrections already; attach [lora] to the model that they correct")
    return replace(model, lora=lora)


def folder_sha256(folder: Path) -> str:
    """sha256 of what a Hugging Face folder says of its model."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json; name a folder with one and .safetensors files")
    files = sorted([folder / "config.json", *folder.glob("*.safetensors")])
    return _sha256_of(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@cache
def _sha256_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of files with the time and size that they had: weights are not read twice."""
    hashed = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            hashed.update(hashlib.file_digest(file, "sha256").digest())
    return hashed.hexdigest()
