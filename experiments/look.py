"""A page over the answers that a run has recorded.

    python experiments/ppo_ptx.py configs/ppo_ptx.toml --runtime.record-every 5
    python experiments/look.py configs/look.toml --look.at runs/ppo_ptx/ppo_ptx

Writes rollouts.html: all answers of the recorded iterations with their rewards, to be filtered by text, sorted by reward,
followed by prompt through the run, their tokens coloured by KL, value, advantage or log-probability. The folder is a stage's
that ran with runtime.record_every, at any time, or that of stages.sample_rollouts. Nothing is computed anew. Seconds.
"""

from dataclasses import dataclass
from pathlib import Path

from rlhf_jax.config import Checked, Count
from rlhf_jax.evals import write_browser
from rlhf_jax.runtime import info, run
from rlhf_jax.stages import Program, begin, browsed, recorded


@dataclass(frozen=True)
class Look(Checked):
    """What is looked at."""

    at: str = "runs/tiny/ppo_ptx"  # a folder with rollouts in it
    answers: Count = 10_000  # on the page at most; of more, iterations between the first and the last are left out


@dataclass(frozen=True)
class Config(Program):
    look: Look = Look()


def look(c: Config) -> Path:
    rollouts, path = recorded(c.look.at), c.folder / "rollouts.html"
    answers, left_out = browsed(rollouts, c.look.answers)
    if left_out:
        info(f"{left_out} iterations are left out: look.answers is {c.look.answers}")
    write_browser(path, f"{c.look.at}: rollouts", answers)
    return path


if __name__ == "__main__":
    run(lambda: print(f"The page is at {look(begin(Config, __file__, __doc__))}"))
