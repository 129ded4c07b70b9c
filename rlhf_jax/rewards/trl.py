"""Reward functions that were written for TRL's reward_funcs."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from rlhf_jax.data import KWARGS, Columns, Conversation, Message, Messages, Prompt, messages_of
from rlhf_jax.errors import InputError
from rlhf_jax.rewards.answer import AnswerText

RESERVED = ("prompt", "completion", "completion_ids")  # columns that TRL does not hand on


@dataclass(frozen=True)
class FromTRL:
    """See `from_trl`."""

    function: Callable
    conversational: bool | None

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, prompts: list[Prompt], answers: list[str], rows: list[Columns]) -> Any:
        spoken = self.conversational
        if spoken is None:
            spoken = _wants_messages(self.function) or any(isinstance(p.conversation, Messages) for p in prompts)
        columns = dict.fromkeys(name for row in rows for name in row if name not in RESERVED)
        return self.function(
            prompts=[_bare(p.conversation) for p in prompts] if spoken else [p.text for p in prompts],
            completions=[[{"role": "assistant", "content": str(a)}] for a in answers] if spoken else list(answers),
            completion_ids=[list(_ids(answer)) for answer in answers],
            **{name: [row.get(name) for row in rows] for name in columns},
            trainer_state=SimpleNamespace(global_step=getattr(answers[0], "iteration", 0) if answers else 0),
            log_extra=_not_logged,
            log_metric=_not_logged,
        )


def from_trl(function: Callable, conversational: bool | None = None) -> FromTRL:
    """A reward function of TRL's as one of ours, plain or async: it gets prompts, completions, completion_ids (with the end),
    the columns of the rows and trainer_state by name.

    conversational: whether prompts and completions are lists of messages, or texts. None: messages where the function's
    annotation of `completions` says so, as that of TRL's own does, or where prompts are messages. trainer_state has
    global_step, the iterations before this one; what a function gives to log_extra and log_metric goes nowhere.
    """
    return FromTRL(function, conversational)


def _wants_messages(function: Callable) -> bool:
    try:
        annotation = inspect.signature(function).parameters["completions"].annotation
    except (KeyError, TypeError, ValueError):
        return False
    return "dict" in str(annotation)


def _bare(conversation: Conversation) -> list[Message]:
    """The messages without what the chat template is given beside them."""
    return [{key: value for key, value in m.items() if key != KWARGS} for m in messages_of(conversation)]


def _ids(answer: str) -> tuple[int, ...]:
    if not isinstance(answer, AnswerText):
        raise InputError("TRL's reward functions get an answer's tokens, and were given plain text; give AnswerTexts")
    return answer.ids


def _not_logged(*given: Any) -> None:
    """TRL has tables and figures of the function's own."""
