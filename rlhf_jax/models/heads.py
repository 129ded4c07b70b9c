"""What is read off the decoder: a distribution over the vocabulary, or one number a token (reward, value)."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from rlhf_jax.models.linear import matmul
from rlhf_jax.models.transformer import Cache, Transformer, TransformerConfig
from rlhf_jax.types import AnyArray


class LanguageModel(nn.Module):
    """params = {"transformer": …} and, where the head is not tied, {"unembedding": [D, V]}."""

    config: TransformerConfig

    def setup(self):
        self.transformer = Transformer(self.config)
        if not self.config.tied:
            shape = (self.config.out_width, self.config.vocab_size)
            self.unembedding = self.param("unembedding", nn.initializers.normal(0.02), shape)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B S"],
        cache: Cache | None = None,
        start: int | Int[Array, ""] = 0,
        causal: bool = True,
        deterministic: bool = True,
        row_b: Int[AnyArray, " B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Hidden states and the cache. Read `logits` off the states that need them: [B, T, V] is the largest array."""
        hidden = self.transformer(tokens, mask, cache, start, causal, deterministic, row_b)
        if self.is_initializing():
            self.logits(hidden[0])
        return hidden

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """In float32 from the sums on: rounded to half precision a logit of 8 to 16 would be off by up to 1/32, and so would
        every log-probability, KL and ratio that is read off it."""
        c = self.config
        if c.tied:
            unembedding = self.transformer.variables["params"]["embedding"]["embedding"].T
        else:
            unembedding = self.unembedding
        logits = matmul(hidden, unembedding.astype(c.compute), jnp.float32)
        logits = logits if c.logit_scale == 1.0 else logits * c.logit_scale
        return logits if c.logit_cap is None else c.logit_cap * jnp.tanh(logits / c.logit_cap)


class ScalarModel(nn.Module):
    """The unembedding replaced by a projection to one number (InstructGPT, App. C): reward and value models.

    The projection starts as N(0, 1/√(d+1)) with bias 0 (Stiennon et al. 2020, code; Huang et al. 2024, RM detail 2).
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], deterministic: bool = True
    ) -> Float[Array, "B T"]:
        hidden, _ = Transformer(self.config, name="transformer")(tokens, mask, deterministic=deterministic)
        init = nn.initializers.normal((self.config.out_width + 1) ** -0.5)
        kernel = self.param("kernel", init, (self.config.out_width,))
        bias = self.param("bias", nn.initializers.zeros, ())
        return jnp.einsum("btd,d->bt", hidden.astype(jnp.float32), kernel) + bias


class LabelModel(nn.Module):
    """The unembedding replaced by a projection to one logit a category, read off a row's last token: one decoder for all
    categories, a head for each (Markov et al. 2022, arXiv:2208.03274, §3.3). Starts as a ScalarModel does."""

    config: TransformerConfig
    categories: int

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
        deterministic: bool = True,
        row_b: Int[AnyArray, " B"] | None = None,
    ) -> Float[Array, "B C"]:
        transformer = Transformer(self.config, name="transformer")
        hidden, _ = transformer(tokens, mask, deterministic=deterministic, row_b=row_b)
        init = nn.initializers.normal((self.config.out_width + 1) ** -0.5)
        kernel = self.param("kernel", init, (self.config.out_width, self.categories))
        bias = self.param("bias", nn.initializers.zeros, (self.categories,))
        last = jnp.take_along_axis(hidden, last_token(mask)[:, None, None], axis=1)[:, 0]
        return jnp.einsum("bd,dc->bc", last.astype(jnp.float32), kernel) + bias[None]


class Adapted(NamedTuple):
    """A model whose matrices are frozen and only corrected, so that several models share them in memory (LoRA, Hu et al.
    2021, arXiv:2106.09685). Stands wherever a model does; the parameters beside it are then {"lora", "head"}, see
    rlhf_jax/models/lora.py. base: a LanguageModel's parameters. scale: alpha / rank."""

    model: Any
    base: PyTree
    scale: float

    @property
    def config(self) -> TransformerConfig:
        return self.model.config


AnyLanguageModel = LanguageModel | Adapted
AnyScalarModel = ScalarModel | Adapted
AnyLabelModel = LabelModel | Adapted
AnyModel = LanguageModel | ScalarModel | LabelModel | Adapted


def _apply(model: AnyModel, params: PyTree, *args, **kwargs) -> Any:
    if isinstance(model, Adapted):
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, x: x * model.scale if path[-1].key == "b" else x, params["lora"]
        )
        apply: Any = model.model.apply
        return apply({"params": {**model.base, **params["head"]}, "lora": scaled}, *args, **kwargs)
    apply = model.apply
    return apply({"params": params}, *args, **kwargs)


def hidden_states(
    model: AnyLanguageModel,
    params: PyTree,
    tokens: Int[AnyArray, "B T"],
    mask: Bool[AnyArray, "B S"],
    cache: Cache | None = None,
    start: int | Int[Array, ""] = 0,
    *,
    causal: bool = True,
    dropout_key: Key[Array, ""] | None = None,
    rows: Int[AnyArray, " B"] | None = None,
) -> tuple[Float[Array, "B T D"], Cache | None]:
    """What the decoder makes of tokens, and its cache. Without a key there is no dropout; rows are the numbers that these
    have in their batch, by which it is drawn, and None is 0, 1, …"""
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    return _apply(model, params, tokens, mask, cache, start, causal, dropout_key is None, rows, rngs=rngs)


def logits(model: AnyLanguageModel, params: PyTree, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
    """The unembedding of hidden states."""
    return _apply(model, params, hidden, method=LanguageModel.logits)


def scalars(
    model: AnyScalarModel, params: PyTree, tokens: Int[AnyArray, "B T"], mask: Bool[AnyArray, "B T"]
) -> Float[Array, "B T"]:
    """The scalar model's number at every token."""
    return _apply(model, params, tokens, mask)


def label_logits(
    model: AnyLabelModel,
    params: PyTree,
    tokens: Int[AnyArray, "B T"],
    mask: Bool[AnyArray, "B T"],
    *,
    dropout_key: Key[Array, ""] | None = None,
    rows: Int[AnyArray, " B"] | None = None,
) -> Float[Array, "B C"]:
    """A logit for each category of each row. Dropout as in `hidden_states`."""
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    return _apply(model, params, tokens, mask, dropout_key is None, rows, rngs=rngs)


def scalar_head(config: TransformerConfig, key: Key[Array, ""]) -> PyTree:
    """A fresh projection {"kernel": [D], "bias": []}: what ScalarModel(config).init draws from the key beside its
    transformer, which is not made here."""
    return _head(ScalarModel(_without(config)), key)


def label_head(config: TransformerConfig, categories: int, key: Key[Array, ""]) -> PyTree:
    """A fresh projection {"kernel": [D, C], "bias": [C]} of a LabelModel, likewise."""
    return _head(LabelModel(_without(config), categories), key)


def _without(config: TransformerConfig) -> TransformerConfig:
    return replace(config, layers=0, vocab_size=2, scan=False)


def _head(without: ScalarModel | LabelModel, key: Key[Array, ""]) -> PyTree:
    row = jnp.zeros((1, 2), jnp.int32)
    params = without.init(key, row, row == 0)["params"]
    return {name: leaf for name, leaf in params.items() if name != "transformer"}


def scalar_from_language_model(language_params: PyTree, head: PyTree) -> PyTree:
    """The scalar model, or with such a head the label model, that starts from a language model: its transformer, a fresh
    projection."""
    return {**head, "transformer": language_params["transformer"]}


def last_token_score(scores: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, " B"]:
    """The score of a row: the number at its last real token, wherever the padding stands."""
    return jnp.take_along_axis(scores, last_token(mask)[:, None], axis=1)[:, 0]


def last_token(mask: Bool[Array, "B T"]) -> Int[Array, " B"]:
    """The column of each row's last real token."""
    return mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
