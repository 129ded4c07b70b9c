"""The recipe up to the end of one of its stages: `python tests/one_stage.py sft configs/tiny.toml …`.

So a test that interrupts a stage pays for none after it.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from experiments import instructgpt
from rlhf_jax.runtime import run
from rlhf_jax.stages import begin


def ending(stage: Callable, last: str) -> Callable:
    """The stage, which ends the program where its folder has that name."""

    def call(folder: Path, *given, **more):
        made = stage(folder, *given, **more)
        if folder.name == last:
            raise SystemExit(0)
        return made

    return call


if __name__ == "__main__":
    for name in ("pretrain", "supervised", "reward_model", "policy"):
        setattr(instructgpt, name, ending(getattr(instructgpt, name), sys.argv[1]))
    run(lambda: instructgpt.recipe(begin(instructgpt.Config, instructgpt.__file__, "", sys.argv[2:])))
