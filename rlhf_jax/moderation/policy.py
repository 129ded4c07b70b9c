"""What becomes of a text that is flagged, before the model and behind it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from rlhf_jax.errors import InputError
from rlhf_jax.moderation.verdict import Moderator, Verdict, verdicts_of

Action = Literal["pass", "filler", "refuse"]


@dataclass(frozen=True)
class Policy:
    """What happens to a flagged text: it passes, a filler stands in its place, or there is no answer at all."""

    on_input: Action = "filler"  # the filler is the answer, and the model is not asked
    on_output: Action = "filler"
    filler: str = "I would rather not talk about that."

    def __post_init__(self) -> None:
        """InputError: an action that is none, a filler that says nothing."""
        for name, action in (("on_input", self.on_input), ("on_output", self.on_output)):
            if action not in ("pass", "filler", "refuse"):
                raise InputError(f"{name} is {action!r}: make it 'pass', 'filler' or 'refuse'")
        if not self.filler.strip():
            raise InputError("the filler is empty: write what stands in the place of a flagged text")


class Decision(NamedTuple):
    """What became of a prompt and its answer."""

    answer: str | None  # what the user gets; None where it is refused
    on_input: Verdict
    on_output: Verdict | None  # of what the model said; None where it was not asked


def moderated(
    respond: Callable[[list[str]], Sequence[str]],
    moderator: Moderator,
    policy: Policy = Policy(),
    log: Path | str | None = None,
) -> Callable[[Sequence[str]], list[Decision]]:
    """respond (prompts → answers) with a moderator before and behind it. Prompts that are flagged do not reach it, unless the
    policy lets them pass.

    log: a .jsonl file, to which the verdicts of all prompts are added before respond is called and those of the answers after
    it: when, on which side, what was done, the text, the scores and the reasons. InputError: as many answers as prompts did
    not come; a moderator that gives no Verdict.
    """

    def looked_at(texts: Sequence[str], side: Literal["input", "output"]) -> list[tuple[Verdict, Action]]:
        return [acted(text, verdict, side) for text, verdict in zip(texts, verdicts_of(moderator, texts), strict=True)]

    def acted(text: str, verdict: Verdict, side: Literal["input", "output"]) -> tuple[Verdict, Action]:
        on = policy.on_input if side == "input" else policy.on_output
        action: Action = on if verdict.flagged else "pass"
        if log is not None:
            _write(Path(log), side, action, text, verdict)
        return verdict, action

    def of(action: Action, text: str) -> str | None:
        return {"pass": text, "filler": policy.filler, "refuse": None}[action]

    def decide(prompts: Sequence[str]) -> list[Decision]:
        before = looked_at(prompts, "input")
        asked = [prompt for prompt, (_, action) in zip(prompts, before, strict=True) if action == "pass"]
        answers = list(respond(asked)) if asked else []
        if len(answers) != len(asked):
            raise InputError(f"{len(asked)} prompts got {len(answers)} answers: let respond give one for each")
        left, found = iter(zip(answers, looked_at(answers, "output"), strict=True)), []
        for verdict, action in before:
            if action != "pass":
                found.append(Decision(of(action, ""), verdict, None))
                continue
            answer, (behind, then) = next(left)
            found.append(Decision(of(then, answer), verdict, behind))
        return found

    return decide


def _write(log: Path, side: str, action: Action, text: str, verdict: Verdict) -> None:
    row = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "side": side,
        "action": action,
        "text": text,
        **verdict.as_result(),
        "reasons": [reason._asdict() for reason in verdict.reasons],
    }
    try:
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise InputError(
            f"{log} cannot be written ({error.strerror}): make its folder, or name another file"
        ) from error
