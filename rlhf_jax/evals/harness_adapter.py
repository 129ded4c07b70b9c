"""The class that lm-evaluation-harness calls; `harness_model` makes one, and imports this file, and so lm_eval, only then."""

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import PyTree
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # pyright: ignore[reportMissingImports]
from tqdm import tqdm

from rlhf_jax.data import Tokenizer, located
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.evals.answers import continued
from rlhf_jax.evals.harness import (
    conversation_text,
    encode_as_hf,
    prefix_of,
    template_of_tokenizer,
    texts_of,
    writing_of,
)
from rlhf_jax.evals.likelihood import Continuation, likelihood
from rlhf_jax.models import LanguageModel

Pair = tuple[tuple[str, str] | None, list[int], list[int]]  # the texts, where a result is theirs; context; continuation


class HarnessModel(TemplateLM):
    """See `harness_model`."""

    def __init__(
        self, model: LanguageModel, params: PyTree, tokenizer: Tokenizer, *, context: int, batch: int, seed: int
    ):
        super().__init__()
        self.model, self.params, self.vocabulary = model, params, tokenizer
        self.max_length, self.batch_size, self.seed = context, batch, seed

    @property
    def eot_token_id(self) -> int:
        return self.vocabulary.eos

    @property
    def prefix_token_id(self) -> int:
        return prefix_of(self.vocabulary)

    @property
    def tokenizer_name(self) -> str:
        """What a cache of requests is told apart by: vocabulary and template, wherever they lie."""
        source = template_of_tokenizer(self.vocabulary).source
        return hashlib.sha256(f"{self.vocabulary.sha256}{source}".encode()).hexdigest()[:16]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return template_of_tokenizer(self.vocabulary).source if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return conversation_text(chat_history, self.vocabulary, add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return encode_as_hf(string, self.vocabulary, add_special_tokens)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        for request in requests:
            if not any(request.args):
                raise InputError(f"{request.task_name}: a request has neither context nor continuation: give it one")
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Pairs that are alike are asked once."""
        places: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for place, (texts, context, target) in enumerate(requests):
            self._require_room(texts, len(target))
            # A context that is nothing but spaces, which went to the continuation, is an empty one.
            pair = tuple(context) or (self.prefix_token_id,), tuple(target)
            places.setdefault(pair, []).append(place)
        self._say_cut(sum(len(a) + len(b) > self.max_length + 1 for a, b in places), len(places), self.max_length)
        order = sorted(places, key=lambda pair: -len(pair[0]) - len(pair[1]))
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            for start in range(0, len(order), self.batch_size):
                here = order[start : start + self.batch_size]
                rows = [Continuation(list(context), list(target)) for context, target in here]
                # The last token is predicted and not read.
                room = self.max_length + 1
                found = likelihood(self.model, self.params, rows, batch=self.batch_size, length=room)
                for pair, total, greedy in zip(here, found.total.tolist(), found.greedy.tolist(), strict=True):
                    for place in places[pair]:
                        answers[place] = total, greedy
                        if (texts := requests[place][0]) is not None:
                            self.cache_hook.add_partial("loglikelihood", texts, answers[place])
                        bar.update()
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        windows = [self._windows(request.args[0]) for request in requests]
        pairs = [(None, *window) for of_one in windows for window in of_one]
        found = iter(self._loglikelihood_tokens(pairs, disable_tqdm))
        totals = [sum((next(found)[0] for _ in of_one), 0.0) for of_one in windows]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        """Each token of a text is predicted once, by a window that is as long as the model's context allows."""
        tokens, most = self.tok_encode(text), self.max_length
        windows = get_rolling_token_windows(tokens, prefix_token=self.prefix_token_id, max_seq_len=most, context_len=1)
        return [make_disjoint_window(window) for window in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Requests with the same generation_kwargs share batches."""
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(place)
        texts = [""] * len(requests)
        key = jax.random.key(self.seed)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for number, places in enumerate(groups.values()):
                self._write(requests, places, texts, jax.random.fold_in(key, number), bar)
        return texts

    def _write(self, requests: Sequence[Any], places: list[int], texts: list[str], key: jax.Array, bar: tqdm) -> None:
        first = requests[places[0]]
        with located(str(first.task_name)):
            writing = writing_of(first.args[1], self.vocabulary.vocabulary.name(self.eot_token_id))
            room = self.max_length - writing.max_tokens
            if room < 1:
                raise InputError(
                    f"generation_kwargs ask for {writing.max_tokens} tokens and the model's context has "
                    f"{self.max_length}: lower max_gen_toks"
                )
        ids = {i: self.tok_encode(requests[i].args[0]) or [self.prefix_token_id] for i in places}
        self._say_cut(sum(len(row) > room for row in ids.values()), len(ids), room)
        order = sorted(places, key=lambda i: -len(ids[i]))
        for start in range(0, len(order), self.batch_size):
            here = order[start : start + self.batch_size]
            found = continued(
                self.model,
                self.params,
                [ids[i] for i in here],
                jax.random.fold_in(key, start),
                room=room,
                batch=self.batch_size,
                max_tokens=writing.max_tokens,
                sampling=writing.sampling,
                eos=self.vocabulary.ends,
                pad=self.vocabulary.pad,
            )
            said = texts_of(found, self.vocabulary, writing.stops)
            for i, text in zip(here, said, strict=True):
                texts[i] = text
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
                bar.update()

    def _require_room(self, texts: tuple[str, str] | None, tokens: int) -> None:
        """InputError: there is nothing to predict, or more than the context holds."""
        if not 0 < tokens <= self.max_length:
            context, continuation = texts or ("", "")
            raise InputError(
                f"the continuation {shortened(continuation)} of {shortened(context[-60:])} takes {tokens} tokens and "
                f"the model predicts 1 to {self.max_length} at once: change the task, or leave the document out"
            )

    def _say_cut(self, cut: int, of: int, room: int) -> None:
        if cut:
            sentence = (
                "%d of %d contexts are longer than the %d tokens that there is room for, and lose their beginning"
            )
            logging.getLogger(__name__).warning(sentence, cut, of, room)
