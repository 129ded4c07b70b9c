"""Models from and to Hugging Face folders: config.json beside one or several .safetensors files."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rlhf_jax.errors import InputError
from rlhf_jax.models.families import (
    Keys,
    Tensor,
    computed,
    family_of,
    read_transformer_config,
    text_part,
    write_transformer_config,
)
from rlhf_jax.models.heads import LanguageModel, ScalarModel
from rlhf_jax.models.transformer import TransformerConfig, unstack_blocks

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# In the folder of a model that reads images too: its text decoder, in two orders of words, and what else it has.
TEXT, IMAGES = (
    re.compile(r"^(model\.language_model|language_model\.model)\."),
    ("vision_tower.", "multi_modal_projector."),
)
BUFFERS = re.compile(r"\.(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$")  # constants in old files
SCORE_BIAS = "rlhf_jax_score_bias"  # in config.json: torch's score layer has none
FLOATS = ("F64", "F32", "BF16", "F16")  # what weights may be; quantised ones have their scales elsewhere
SHARD = 5 * 10**9  # bytes a file

ParamPath = tuple[str, ...]


class Pretrained(NamedTuple):
    """A model as its folder has it. values: its config.json, with which an export is written."""

    config: TransformerConfig
    params: PyTree
    values: dict


def read_decoder(folder: Path | str) -> tuple[TransformerConfig, dict]:
    """The decoder that a folder's config.json describes, and that file's values, or its text part's. InputError: it is
    missing or broken, or has a key that is not implemented or missing."""
    path = Path(folder) / "config.json"
    values = text_part(_json(path), str(path))
    return read_transformer_config(values, str(path)), values


def load_pretrained(
    folder: Path | str,
    *,
    scalar: bool = False,
    dtype: str | None = "float32",
    place: Callable[[ParamPath, tuple[int, ...]], jax.sharding.Sharding] | None = None,
) -> Pretrained:
    """The language model of a folder, or with scalar its *ForSequenceClassification of one label as a ScalarModel.

    One tensor at a time goes from the file to where it belongs: `place` says of a parameter's path and shape on which
    devices, so that a model larger than one device's memory loads. dtype None keeps the file's.
    InputError: a file that is missing, broken or cut off; a key of config.json, or a tensor, that is unknown, missing or of
    another shape than config.json says; a head that config.json ties to another embedding. No weight is read before all
    else is known to be right, and then those two first.
    """
    folder = Path(folder)
    config, values = read_decoder(folder)
    bias = _score_bias(values, str(folder / "config.json"))
    shapes, params = _shapes(config, scalar), {}
    if scalar:
        del shapes["bias",]
    wanted, found = _matched(folder, config, values, scalar, shapes)
    if config.tied and not scalar:
        _check_tied(folder, values, found)
    for tensor in wanted:
        array = found[tensor.name].read()
        for path, part in zip(tensor.paths, tensor.split(array, config), strict=True):
            _put(params, path, _placed(np.ascontiguousarray(part, dtype=dtype), path, place))
    if scalar:
        _put(params, ("bias",), _placed(np.asarray(bias).astype(params["kernel"].dtype), ("bias",), place))
    return Pretrained(config, params, values)


def _score_bias(values: dict, source: str) -> float:
    return Keys(values, {SCORE_BIAS: 0.0}, source).number(SCORE_BIAS, sign=True)


def _matched(
    folder: Path, config: TransformerConfig, values: dict, scalar: bool, shapes: dict[ParamPath, tuple[int, ...]]
) -> tuple[list["OurTensor"], dict[str, "Stored"]]:
    """The tensors that the config asks for, and all that the files hold, by our names. InputError: they do not match."""
    found, wanted, left = _with_prefix(_stored(folder), values), [], dict(shapes)
    for tensor in _tensors(config, values, scalar):
        if not left.keys() >= set(tensor.paths):
            continue  # a bias, say, that this config does not have
        parts = [np.broadcast_to(np.int8(0), left.pop(path)) for path in tensor.paths]
        if tensor.name not in found:
            raise InputError(
                f"{folder} has no tensor {tensor.name}, which its config.json asks for: copy the files anew"
            )
        found[tensor.name].check(tensor.join(parts, config).shape)
        wanted.append(tensor)
    assert not left, f"no family's table gives {left}"
    known = {tensor.name for tensor in wanted} | ({_head(values).name} if config.tied or scalar else set())
    if unknown := [name for name in found if name not in known and not BUFFERS.search(name)]:
        raise InputError(
            f"{folder} has a tensor {min(unknown)}, which its config.json does not ask for: copy the files anew"
        )
    return wanted, found


def _check_tied(folder: Path, values: dict, found: dict[str, "Stored"]) -> None:
    """Old files of tied models hold the head as well. InputError: it is another than the embedding."""
    embedding, head = family_of(values, "config.json").tensors[0].name, _head(values).name
    if head not in found:
        return
    found[head].check(found[embedding].shape)
    if not np.array_equal(found[head].read(), found[embedding].read()):
        raise InputError(
            f"{folder}: {head} is another than {embedding}, and config.json ties the two: set tie_word_embeddings to false "
            f"to keep it, or take it out of the file"
        )


def save_pretrained(
    folder: Path | str,
    config: TransformerConfig,
    params: PyTree,
    values: dict | None = None,
    *,
    scalar: bool = False,
    dtype: str | None = None,
    shard: int = SHARD,
) -> None:
    """Writes config.json and model.safetensors, or several files of at most `shard` bytes with their index.

    values: the config.json that the model was imported with; without it one is written where a family has the decoder. A
    corrected model (LoRA) is merged first. A ScalarModel becomes *ForSequenceClassification with one label; its bias, which
    those do not have, stands in config.json, where load_pretrained finds it. dtype None keeps the parameters'.
    InputError: a decoder that no config.json can say, or another one than `values` says; a folder with weights in it.
    """
    folder = Path(folder)
    values = dict(write_transformer_config(config) if values is None else values)
    if computed(read_transformer_config(values, "config.json")) != computed(config):
        raise InputError(
            "the model is another one than its config.json says; leave values out, or give those it came with"
        )
    if any(folder.glob("*.safetensors")):
        raise InputError(f"{folder} holds a model already; name another folder")
    family = family_of(values, "config.json")
    if config.scan:
        params = {**params, "transformer": unstack_blocks(params["transformer"], config.layers)}
    flat, tensors = _flat(params), {}
    for tensor in _tensors(config, values, scalar):
        parts = [flat.pop(path, None) for path in tensor.paths]
        if all(part is not None for part in parts):
            arrays = [np.asarray(jax.device_get(part), dtype=dtype) for part in parts]
            tensors[tensor.name] = np.ascontiguousarray(tensor.join(arrays, config))
    values["architectures"] = [f"{family.classes}{'ForSequenceClassification' if scalar else family.head}"]
    values["dtype"] = str(next(iter(tensors.values())).dtype)
    values.pop("torch_dtype", None)
    values.pop(SCORE_BIAS, None)
    if scalar:
        bias = float(flat.pop(("bias",)))
        values |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}} | ({SCORE_BIAS: bias} if bias else {})
    assert not flat, f"no family's table takes {sorted(flat)}"
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, tensors, shard)
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _placed(array: np.ndarray, path: ParamPath, place: Callable | None) -> jax.Array:
    return jax.device_put(array, None if place is None else place(path, array.shape))


def _write(folder: Path, tensors: dict[str, np.ndarray], shard: int) -> None:
    groups: list[dict[str, np.ndarray]] = [{}]
    for name, array in tensors.items():
        if groups[-1] and sum(x.nbytes for x in groups[-1].values()) + array.nbytes > shard:
            groups.append({})
        groups[-1][name] = array
    names = [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    names = [SINGLE] if len(groups) == 1 else names
    for name, group in zip(names, groups, strict=True):
        save_file(group, folder / name, metadata={"format": "pt"})
    if len(groups) > 1:
        where = {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group}
        total = {"total_size": sum(x.nbytes for x in tensors.values())}
        (folder / INDEX).write_text(json.dumps({"metadata": total, "weight_map": where}, indent=2))


class OurTensor(NamedTuple):
    """A family's Tensor in one layer."""

    name: str
    paths: list[ParamPath]
    split: Callable
    join: Callable


def _tensors(config: TransformerConfig, values: dict, scalar: bool) -> Iterator[OurTensor]:
    table = list(family_of(values, "config.json").tensors)
    if scalar:
        table = [tensor for tensor in table if tensor.paths != ("unembedding",)] + [SCORE]
    for tensor in table:
        for i in range(config.layers if "{i}" in tensor.name else 1):
            paths = [tuple(path.format(i=i).split("/")) for path in tensor.paths]
            yield OurTensor(tensor.name.format(i=i), paths, tensor.split, tensor.join)


def _shapes(config: TransformerConfig, scalar: bool) -> dict[ParamPath, tuple[int, ...]]:
    model: Any = ScalarModel(config) if scalar else LanguageModel(config)
    one = jnp.ones((1, 1), jnp.int32)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), one, one > 0))["params"]
    return {path: leaf.shape for path, leaf in _flat(params).items()}


def _flat(params: PyTree) -> dict[ParamPath, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {tuple(key.key for key in path): leaf for path, leaf in leaves}


def _put(tree: dict, path: ParamPath, leaf: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf


def _json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; name a folder with config.json and .safetensors files") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): copy it anew") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no map of keys and values: copy it anew")
    return values


class Stored(NamedTuple):
    """A tensor in a file, of which no more than the file's header was read."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def check(self, shape: tuple[int, ...]) -> None:
        if self.shape != shape:
            raise InputError(
                f"{self.path}: {self.name} has the shape {self.shape} and config.json says {shape}: they do not belong "
                "together"
            )
        if self.dtype not in FLOATS:
            raise InputError(f"{self.path}: {self.name} is of type {self.dtype}, not {', '.join(FLOATS)}: convert it")

    def read(self) -> np.ndarray:
        try:
            return _opened(self.path).get_tensor(self.name)
        except SafetensorError as error:
            raise InputError(f"{self.path} is broken ({error}): copy it anew") from None


def _stored(folder: Path) -> dict[str, Stored]:
    """What the files of a folder hold, by name."""
    if (folder / INDEX).exists():
        index = _json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
            raise InputError(f"{folder / INDEX} has no weight_map: copy it anew")
    elif (folder / SINGLE).exists():
        index = dict.fromkeys(_opened(folder / SINGLE).keys(), SINGLE)
    else:
        raise InputError(f"{folder} has neither {SINGLE} nor {INDEX}; convert its weights to safetensors")
    files = {name: _opened(folder / name) for name in set(index.values())}
    held = {name: set(file.keys()) for name, file in files.items()}
    stored = {}
    for tensor, name in index.items():
        if tensor not in held[name]:
            raise InputError(f"{folder / name} has no tensor {tensor}, and the index beside it says so: copy both anew")
        header = files[name].get_slice(tensor)
        stored[tensor] = Stored(folder / name, tensor, tuple(header.get_shape()), header.get_dtype())
    return stored


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist, and the index beside it names it: copy it anew") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is broken or cut off ({error}): copy it anew") from None


def _with_prefix(stored: dict[str, Stored], values: dict) -> dict[str, Stored]:
    """By our names, of which bare transformers' lack a prefix and those that read images too have others; what they read
    images with is left out."""
    if any(TEXT.match(name) for name in stored):
        named = {TEXT.sub("model.", name).removeprefix("language_model."): each for name, each in stored.items()}
        return {name: each for name, each in named.items() if not name.removeprefix("model.").startswith(IMAGES)}
    prefix = family_of(values, "config.json").tensors[0].name.split(".")[0] + "."
    if any(name.startswith(prefix) for name in stored):
        return stored
    heads = ("lm_head.", "embed_out.", "score.")
    return {name if name.startswith(heads) else prefix + name: each for name, each in stored.items()}


def _head(values: dict) -> Tensor:
    """The family's unembedding."""
    return next(each for each in family_of(values, "config.json").tensors if each.paths == ("unembedding",))


SCORE = Tensor("score.weight", ("kernel",), lambda x, c: (x[0],), lambda xs, c: xs[0][None])
