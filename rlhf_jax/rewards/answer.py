"""An answer as reward functions are given it: its text, which knows the tokens that it was written in."""

from collections.abc import Sequence


class AnswerText(str):
    """A str. ids: the tokens that the model wrote, with the end where it came to one. ended: whether it did. iteration: of
    RL, from 0, in which it was written."""

    ids: tuple[int, ...]
    ended: bool
    iteration: int

    def __new__(cls, text: str, ids: Sequence[int], ended: bool, iteration: int = 0) -> "AnswerText":
        made = super().__new__(cls, text)
        made.ids, made.ended, made.iteration = tuple(ids), ended, iteration
        return made
