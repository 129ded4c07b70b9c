"""Sampling of answers: several to each prompt, for labelers to rank."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree
from numpy import ndarray

from rlhf_jax.config import Checked, Count, Natural, Positive, PositiveShare, SettingError, Several
from rlhf_jax.data import Columns, Demonstration, Messages, Prompt, content_sha256, encode_prompts, fits
from rlhf_jax.errors import InputError
from rlhf_jax.evals import Answers, answer, scores
from rlhf_jax.models import LanguageModel, Sampling, ScalarModel, TransformerConfig
from rlhf_jax.rewards import AnswerText
from rlhf_jax.runtime import Made, Origin, write_atomically
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.training import parents, prompts_that_fit, require_belonging, require_prompts
from rlhf_jax.steps import reward
from rlhf_jax.types import PromptBatch


@dataclass(frozen=True)
class AnswersToRank(Checked):
    """How many answers labelers see."""

    prompts: Count = 33_207  # the last so many training prompts (Table 6: 6,623 of labelers and 26,584 of customers)
    fewest: Several = 4  # answers drawn for a prompt: K = 4..9 (§3.5); of those that are alike people see one
    most: Several = 9
    temperature: Positive = 1.0  # that they are drawn at; not printed
    top_k: Natural = 0  # 0 is off
    top_p: PositiveShare = 1.0  # 1 is off

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fewest > self.most:
            sentence = f"fewest is {self.fewest} and most {self.most}; set fewest to most or less"
            raise SettingError(sentence, "fewest", "most")

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p)


class Candidates(NamedTuple):
    """A prompt with different answers to it, which nobody has ranked yet; none where there were no two."""

    prompt: Prompt
    answers: tuple[str, ...]


class CandidateRows(NamedTuple):
    """What a stage sampled, and the hash by which its children know it."""

    rows: list[Candidates]
    sha256: str


def sample_answers(
    folder: Path | str,
    model: Trained,
    prompts: Sequence[Prompt],
    settings: AnswersToRank = AnswersToRank(),
    run: Run = RUN,
) -> CandidateRows:
    """Up to K different answers of a model to each of the last settings.prompts prompts, in answers.jsonl.

    A prompt to which the model writes one and the same each time has none. The folder's name deals out the draws.
    InputError: the folder was made from something else; a reward model; no prompt fits.
    """
    c, folder = settings, Path(folder)
    require_belonging(model)
    require_prompts(prompts, model)
    settings_of = {"seed": run.seed, "batch": run.runtime.batch, "format": asdict(model.format), "answers": asdict(c)}
    made = Made(
        folder, Origin(settings_of, {**parents(model=model), "prompts": content_sha256(prompts)}, code={}, model={})
    )
    path = folder / "answers.jsonl"
    if not made.complete:
        given = prompts_that_fit(prompts, model, "train")[-c.prompts :]
        found = draw_answers(model, given, c, run, folder.name)
        rows = zip(given, found, strict=True)
        folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps({"prompt": p._asdict(), "answers": texts}) + "\n" for p, texts in rows)
        write_atomically(path, "".join(lines))
        made.finish(path.name)
    read = [json.loads(line) for line in path.read_text().splitlines()]
    return CandidateRows([Candidates(_prompt(**row["prompt"]), tuple(row["answers"])) for row in read], made.sha256)


def in_rounds(prompts: Sequence[Prompt], count: int, each: int) -> list[Sequence[Prompt]]:
    """`each` prompts for each of `count` rounds, which no other has. The first round's are the last ones, as those of
    `sample_answers`, so that more rounds leave the earlier ones as they are. InputError: there are too few."""
    if count * each > len(prompts):
        raise InputError(
            f"{count} rounds of {each} prompts each are more than the {len(prompts)} prompts for training: lower "
            "rounds.count or answers.prompts, or give more prompts"
        )
    ends = range(len(prompts), len(prompts) - count * each, -each)
    return [prompts[end - each : end] for end in ends]


def _prompt(conversation: str | list, columns: dict, **fields: str) -> Prompt:
    """As it was before it became JSON."""
    given = conversation if isinstance(conversation, str) else Messages(conversation)
    return Prompt(given, columns=Columns(columns), **fields)


def draw_answers(
    model: Trained, prompts: Sequence[Prompt], c: AnswersToRank, run: Run, role: str
) -> list[tuple[str, ...]]:
    """Up to K different answers to each prompt, out of K + 2 that are drawn, with K drawn evenly from fewest..most. Where all
    are alike the row is ()."""
    rng = np.random.default_rng(run.numpy_seed(role))
    Ks = rng.integers(c.fewest, c.most + 1, len(prompts))
    asked = [p for p, K in zip(prompts, Ks, strict=True) for _ in range(K + 2)]
    written = texts_of(model, model.params(), asked, run.key(role), c.sampling, run.runtime.batch)
    rows, start = [], 0
    for prompt, K in zip(prompts, Ks, strict=True):
        # What a barely trained model writes can take more tokens when it is read again.
        drawn = [text for text in written[start : start + K + 2] if text]
        t, length = model.tokenizer, model.format.context
        texts = dict.fromkeys(text for text in drawn if fits(Demonstration(prompt.conversation, text), t, length))
        rows.append(tuple(texts)[:K] if len(texts) > 1 else ())
        start += K + 2
    return rows


def texts_of(
    model: Trained, params: PyTree, prompts: Sequence[Prompt], key: Key[Array, ""], sampling: Sampling, batch: int
) -> list[AnswerText]:
    """An answer to each prompt, as text."""
    encoded = encode_prompts(prompts, model.tokenizer, model.format.prompt_tokens)
    return decoded(model, answers_of(model, params, encoded, key, sampling, batch))


def decoded(model: Trained, answers: Answers) -> list[AnswerText]:
    """The text of each answer, without its EOS and the white space around it, with its tokens."""
    return written(answers.ids(()), model)


def written(ids: Sequence[list[int]], model: Trained, iteration: int = 0) -> list[AnswerText]:
    """The same of tokens, with the EOS where the model came to one."""
    t = model.tokenizer
    texts = [t.decode([i for i in row if i not in t.ends]).strip() for row in ids]
    return [
        AnswerText(text, row, any(i in t.ends for i in row), iteration) for text, row in zip(texts, ids, strict=True)
    ]


def answers_of(
    model: Trained, params: PyTree, prompts: PromptBatch, key: Key[Array, ""], sampling: Sampling, batch: int
) -> Answers:
    """An answer to each prompt, `batch` at a time."""
    return answer(
        LanguageModel(model.decoder),
        params,
        prompts,
        key,
        batch=batch,
        max_tokens=model.format.answer_tokens,
        sampling=sampling,
        eos=model.tokenizer.ends,
        pad=model.tokenizer.pad,
    )


def scores_of(
    model: Trained, tokens: Int[ndarray, "N L"], mask: Bool[ndarray, "N L"], *, batch: int, params: PyTree = None
) -> Float[ndarray, " N"]:
    """r_θ of rows x ⊕ y, `batch` at a time. params: of the reward model, where they are at hand."""
    return scores(score_rows(model.decoder), model.params() if params is None else params, tokens, mask, batch=batch)


@cache
def score_rows(decoder: TransformerConfig):
    """r_θ of rows x ⊕ y, jitted."""
    return jax.jit(partial(reward, model=ScalarModel(decoder)))
