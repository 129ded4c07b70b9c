"""Reward models that read text: of another tokenizer, chat template or size than the policy's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlhf_jax.data import Columns, Messages, Prompt, encode_turn, encode_whole, located, messages_of, place_of
from rlhf_jax.equations import ensemble_score
from rlhf_jax.errors import InputError
from rlhf_jax.runtime import info
from rlhf_jax.stages.answers import scores_of
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.rewards import Rewards

STEP = 32  # tokens that rows are padded to a multiple of, so that a few programs serve all lengths


@dataclass(frozen=True)
class ReadsText:
    """A reward model, or an ensemble, as a reward function, each in its own tokenizer and chat format.

    A model that was trained here reads a turn as it learned to, up to the token that ends the answer, if it came to its end.
    One from a Hugging Face folder reads what its template makes of the conversation, to its last token, as
    `apply_chat_template` and a *ForSequenceClassification do. Parameters stay on one device.
    InputError: a language model; when it is asked, a conversation with more tokens than a decoder reads, or that a template
    refuses.
    """

    models: tuple[Trained, ...]
    ensemble: Literal["mean", "minimum"] = "mean"  # what several say together; see `ensemble_score`
    uncertainty: float = 0.0
    batch: int = 64  # rows at a time

    def __post_init__(self) -> None:
        for model in self.models:
            if not model.scalar:
                raise InputError(f"{model.folder} is {model.kind}; give a reward model, or a function, as the reward")

    @property
    def __name__(self) -> str:
        return self.models[0].folder.name

    @property
    def sha256(self) -> str:
        """What a stage that learns from it records."""
        return ", ".join(model.sha256 for model in self.models)

    @cached_property
    def _params(self) -> list[Any]:
        return [model.params() for model in self.models]

    def __call__(
        self, prompts: Sequence[Prompt], answers: Sequence[str], rows: Sequence[Columns]
    ) -> Float[ndarray, " N"]:
        each = [
            scores_of(model, *_encoded(model, prompts, answers), batch=self.batch, params=params)
            for model, params in zip(self.models, self._params, strict=True)
        ]
        return np.asarray(ensemble_score(jnp.stack(each), self.ensemble, np.float32(self.uncertainty)))


def read_as_text(rewards: Rewards, start: Trained, value: Trained | None, **ensemble: Any) -> Rewards:
    """The same rewards, in which reward models are a function of text where one has another tokenizer, chat template or base
    of corrections than the policy's start, or another shape than the value network or the first of them; which is said.
    ensemble: see `ReadsText`."""
    if not rewards.models:
        return rewards
    shape = (value if isinstance(value, Trained) else rewards.models[0]).decoder
    other = [model for model in rewards.models if not _alike(model, start) or model.decoder != shape]
    if not other:
        return rewards
    info(f"the reward model in {other[0].folder} is of another kind than {start.folder}, and reads text")
    functions = (ReadsText(tuple(rewards.models), **ensemble), *rewards.functions)
    names = (rewards.models[0].folder.name, *rewards.named) if rewards.names else ()
    return replace(rewards, models=(), functions=functions, names=names)


def _alike(model: Trained, start: Trained) -> bool:
    ours, theirs = ((each.tokenizer.sha256, each.tokenizer.chat) for each in (start, model))
    bases = [each.lora_base and each.lora_base.sha256 for each in (start, model)]
    return ours == theirs and bases[0] == bases[1]


def _encoded(model: Trained, prompts: Sequence[Prompt], answers: Sequence[str]) -> tuple[ndarray, ndarray]:
    """Tokens [N, L] and their mask."""
    ids = [_tokens(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, ids))
    if longest > model.decoder.context:
        raise InputError(
            f"a conversation takes {longest} tokens of the reward model in {model.folder}, which reads "
            f"{model.decoder.context}; lower format.prompt_tokens or format.answer_tokens"
        )
    length = min(-(-longest // STEP) * STEP, model.decoder.context)
    tokens = np.full((len(ids), length), model.tokenizer.pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, line in enumerate(ids):
        tokens[row, : len(line)], mask[row, : len(line)] = line, True
    return tokens, mask


def _tokens(model: Trained, prompt: Prompt, answer: str) -> list[int]:
    t = model.tokenizer
    with located(place_of(prompt.conversation)):
        if model.step is None and t.chat is not None:
            return encode_whole(
                Messages([*messages_of(prompt.conversation), {"role": "assistant", "content": str(answer)}]), t
            )
        begun, said = encode_turn(prompt.conversation, str(answer), t)
    return begun + (said if getattr(answer, "ended", True) else said[:-1])
