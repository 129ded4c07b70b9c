"""A reward model that reads text: of another tokenizer, chat template or size than the policy's."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlhf_jax.data import Columns, Messages, Prompt, encode_turn, encode_whole, messages_of
from rlhf_jax.errors import InputError
from rlhf_jax.stages.answers import scores_of
from rlhf_jax.stages.model import Trained

TextReward = Callable[[Sequence[Prompt], Sequence[str], Sequence[Columns]], Float[ndarray, " N"]]
STEP = 32  # tokens that rows are padded to a multiple of, so that a few programs serve all lengths


def reads_text(model: Trained, batch: int = 64) -> TextReward:
    """The reward model as a function of prompts and answers, in its own tokenizer and chat format; `batch` rows at a time.

    A model that was trained here reads a turn as it learned to, up to the token that ends the answer. One from a Hugging Face
    folder reads what its template makes of the conversation, to its last token, as `apply_chat_template` and a
    *ForSequenceClassification do. Its parameters stay on one device.
    InputError: a language model; when it is asked, a conversation with more tokens than its decoder reads, or that its
    template refuses.
    """
    if not model.scalar:
        raise InputError(f"{model.folder} is a language model; give a reward model, or a function, as the reward")
    params = model.params()

    def score(prompts: Sequence[Prompt], answers: Sequence[str], rows: Sequence[Columns]) -> Float[ndarray, " N"]:
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
        return scores_of(model, tokens, mask, batch=batch, params=params)

    return score


def _tokens(model: Trained, prompt: Prompt, answer: str) -> list[int]:
    t = model.tokenizer
    if model.step is None and t.chat is not None:
        return encode_whole(Messages([*messages_of(prompt.conversation), {"role": "assistant", "content": answer}]), t)
    begun, said = encode_turn(prompt.conversation, answer, t)
    return begun + said
