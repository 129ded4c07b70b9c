"""A decoder as a model of EleutherAI's lm-evaluation-harness, so that its tasks measure it as they measure others."""

import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import PyTree

from rlhf_jax.data import ChatTemplate, Tokenizer, encode_rendered, load_chat_template, render_chat
from rlhf_jax.data.model_folder import Configs
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.models import LanguageModel, Sampling

MAX_TOKENS = 256  # that are written where a task does not say; of lm_eval's hf model
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is there counts
NUMBERS = {"top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}  # Transformers' own, where a task draws
KNOWN = ("until", *LENGTHS, "do_sample", "temperature", *NUMBERS)


class Writing(NamedTuple):
    """How a task has texts written."""

    sampling: Sampling
    max_tokens: int
    stops: tuple[str, ...]


def harness() -> Any:
    """The library lm_eval. InputError: it is not installed."""
    try:
        return importlib.import_module("lm_eval")
    except ImportError as error:
        raise InputError("lm-evaluation-harness is not installed; run: pip install 'rlhf_jax[eval]'") from error


def harness_model(
    model: LanguageModel, params: PyTree, tokenizer: Tokenizer, *, context: int, batch: int, seed: int = 0
) -> Any:
    """The decoder as an lm_eval.api.model.TemplateLM: `lm_eval.simple_evaluate(harness_model(…), tasks=[…])`.

    It gives what lm_eval's own `hf` model gives of the same weights: the same tokens, cut where they are longer than the
    context, the same defaults of generation_kwargs. `seed`: of what is drawn, where a task draws; the same seed, the same
    texts, whichever process asks.

    InputError: lm_eval is not installed. What a task asks for and no model can do is an InputError as well, when it asks.
    """
    harness()
    return importlib.import_module("rlhf_jax.evals.harness_adapter").HarnessModel(
        model, params, tokenizer, context=context, batch=batch, seed=seed
    )


def prefix_of(tokenizer: Tokenizer) -> int:
    """The token that a text without a context follows, as lm_eval's hf model has it: BOS, or EOS where there is none."""
    folder = tokenizer.path if tokenizer.path.is_dir() else tokenizer.path.parent
    denied = Configs(folder).denies("bos")  # config.json alone may name one, which Transformers does not ask
    return tokenizer.eos if denied else tokenizer.named.get("bos", tokenizer.eos)


def encode_as_hf(text: str, tokenizer: Tokenizer, special: bool | None = None) -> list[int]:
    """The tokens of a text as lm_eval's hf model has them: special tokens that are written in it are themselves.

    special: whether it begins with what the tokenizer opens a text with (BOS of Llama, nothing of GPT-2). None: unless the
    prefix token is written there already, as chat templates do. InputError: as `Tokenizer.encode`.
    """
    ids = encode_rendered(text, tokenizer)
    if special is None:
        special = not text.startswith(tokenizer.vocabulary.name(prefix_of(tokenizer)))
    return [*tokenizer.opening, *ids] if special else ids


def template_of_tokenizer(tokenizer: Tokenizer) -> ChatTemplate:
    """How the model's conversations are written: its chat template, or transcripts."""
    return tokenizer.chat or load_chat_template("hh")


def conversation_text(messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, asks: bool) -> str:
    """A conversation as a text. asks: up to where the assistant's next answer begins; else up to the end of the last
    message's content, which is the beginning of an answer that the model goes on with. InputError: as `render_chat`."""
    template = template_of_tokenizer(tokenizer)
    text = render_chat(list(messages), tokenizer, template, asks)
    if asks:
        return text
    content = str(messages[-1]["content"])
    last = content if content in text else content.strip()  # a template may take the space around it away
    return text[: text.rindex(last) + len(last)]


def writing_of(asked: Mapping[str, Any], eos: str) -> Writing:
    """What generation_kwargs say, as lm_eval's hf model reads them.

    A temperature above 0 draws unless do_sample is false, and do_sample without one is refused; what is drawn is drawn from
    the 50 most likely tokens unless top_k says otherwise. eos: a text at which it is cut off too.

    InputError: a key that is none of KNOWN, a number outside its range.
    """
    said = {key: value for key, value in asked.items() if value is not None}
    if said.get("num_beams") == 1:
        del said["num_beams"]
    if unknown := [key for key in said if key not in KNOWN]:
        raise InputError(f"generation_kwargs say {unknown[0]!r}, which is none of {', '.join(KNOWN)}: leave it out")
    until = said.get("until", [])
    until = [until] if isinstance(until, str) else until
    if not isinstance(until, list) or not all(isinstance(stop, str) for stop in until):
        raise InputError(f"until in generation_kwargs is {shortened(until)}: give a text or a list of texts")
    lengths = [said[name] for name in LENGTHS if name in said]
    most, temperature = lengths[0] if lengths else MAX_TOKENS, said.get("temperature", 0.0)
    draws = said.get("do_sample", _number("temperature", temperature) > 0)
    if draws and temperature == 0:
        raise InputError(
            "generation_kwargs say do_sample: true and no temperature: give one above 0, or do_sample: false"
        )
    if not draws and temperature != 0:
        logging.getLogger(__name__).warning("do_sample is false, so that temperature %s is not read", temperature)
    if _number("max_gen_toks", most) < 1:
        raise InputError(f"generation_kwargs ask for {most} tokens: give 1 or more")
    usual = NUMBERS if draws else {**NUMBERS, "top_k": 0}
    numbers = {name: _number(name, said.get(name, number)) for name, number in usual.items()}
    if not draws:  # the most likely token is in every truncation
        numbers |= {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    try:
        sampling = Sampling(float(temperature) if draws else 0.0, **{**numbers, "top_k": int(numbers["top_k"])})
    except ValueError as error:
        raise InputError(f"generation_kwargs: {error}") from None
    return Writing(sampling, int(most), tuple(dict.fromkeys(stop for stop in (*until, eos) if stop)))


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} in generation_kwargs is {shortened(value)}: give a number") from None


def texts_of(found: Sequence[tuple[list[int], bool]], tokenizer: Tokenizer, stops: Sequence[str]) -> list[str]:
    """What a model wrote, up to the first of the stops."""
    unknown = tokenizer.named.get("unk")  # a special token to Transformers, which leaves it out
    return [_until(tokenizer.decode(i for i in row if i != unknown), stops) for row, _ in found]


def _until(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text
