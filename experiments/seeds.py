"""Runs of one config with different seeds, as one table: the mean over the seeds and its 95 % t interval, which stays on the
figure's scale.

    python experiments/seeds.py runs/tiny runs/tiny-1 runs/tiny-2

The seed deals out the world and every draw after it, so the interval says how far a claim about the recipe holds; the
intervals of one run's own table only say how many prompts it was asked. Every run that is given counts; which seeds they are,
and which are missing between them, stands above the table.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.errors import InputError
from rlhf_jax.evals import Estimate, over_seeds, scale_of, table_text
from rlhf_jax.runtime import info, run

USAGE = "python experiments/seeds.py FOLDER FOLDER …, two or more folders of finished runs"


def seeds(folders: Sequence[Path]) -> dict[str, dict[str, Estimate]]:
    """model → metric → estimate over the runs, of the figures that all of them have.

    Raises InputError where a run is not evaluated, two have the same seed, or their configs differ in anything else.
    """
    require_one_config(folders)
    evaluations = [read(folder / "evaluation.json") for folder in folders]
    together: dict[str, dict[str, Estimate]] = {}
    for model, metrics in evaluations[0].items():
        together[model] = {
            name: over_seeds([Estimate(**evaluation[model][name]) for evaluation in evaluations], scale_of(name))
            for name in metrics
            if all(name in evaluation.get(model, {}) for evaluation in evaluations)
        }
    figures = {(model, name) for evaluation in evaluations for model in evaluation for name in evaluation[model]}
    shared = {(model, name) for model in together for name in together[model]}
    if figures != shared:
        info("not in every run, and left out: " + ", ".join(sorted(f"{m} {n}" for m, n in figures - shared)))
    return together


def require_one_config(folders: Sequence[Path]) -> list[int]:
    """Their seeds, in order."""
    configs = [read(folder / "evaluated.json")["config"] for folder in folders]
    of_seed: dict[int, Path] = {}
    for folder, config in zip(folders, configs, strict=True):
        seed = config.pop("seed")
        if seed in of_seed:
            raise InputError(f"{of_seed[seed]} and {folder} have the same seed, {seed}; leave one of them out")
        of_seed[seed] = folder
        for section in config:
            if config[section] != configs[0].get(section):
                raise InputError(f"{folders[0]} and {folder} differ in [{section}]; only the seed may differ")
    return sorted(of_seed)


def named(found: Sequence[int]) -> str:
    """Which seeds there are, and which are not among them, from 0 to the last."""
    missing = sorted(set(range(max(found))) - set(found))
    said = f"Seeds {', '.join(map(str, found))}"
    if not missing:
        return f"{said}."
    return f"{said}; not among them: {', '.join(map(str, missing))}."


def read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; run experiments/instructgpt.py to its end there first") from error


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    if len(sys.argv) < 3 or any(argument.startswith("-") for argument in sys.argv[1:]):
        raise InputError(f"usage: {USAGE}")
    folders = [Path(argument) for argument in sys.argv[1:]]
    together = seeds(folders)
    as_json = {model: {k: e._asdict() for k, e in figures.items()} for model, figures in together.items()}
    reward_model = as_json.pop("reward_model")
    print(named(require_one_config(folders)))
    print(table_text(as_json))
    print(table_text({"reward_model": reward_model}))


if __name__ == "__main__":
    run(main)
