"""A reward model alone, from a language model and rankings or pairs: step 2 of the paper's Figure 2.

    python experiments/reward_model.py configs/reward_model.toml --given.start models/llama --files.rankings pairs.jsonl

InstructGPT, §3.5 and App. C.2. A minute on two cores, from the models and rankings of configs/tiny.toml. A part of the
rankings is held out, by user where users are named and by prompt; how often the model orders these as people did is in
reward_model.json.

Differences from the paper: one answer of each prompt without its end ranks below all others (reward.cut_off).
"""

import json
from dataclasses import dataclass

from rlhf_jax.runtime import run, write_atomically
from rlhf_jax.stages import (
    AnswersToRank,
    Evaluate,
    Files,
    Format,
    Lora,
    Memory,
    Program,
    Reward,
    agreement_on,
    begin,
    data_sets,
    loaded,
    model_in,
    reward_model,
)


@dataclass(frozen=True)
class Given:
    """What the reward model is made from."""

    start: str = "runs/tiny/sft"  # the folder of a language model, of a stage or from Hugging Face


@dataclass(frozen=True)
class Config(Program):
    files: Files = Files(rankings="runs/tiny/rankings/rankings.jsonl")  # of which nothing else is read
    given: Given = Given()
    format: Format = Format()  # of models from Hugging Face folders; a stage's has its own
    memory: Memory = Memory()
    lora: Lora | None = None
    reward: Reward = Reward()


def main(c: Config) -> None:
    start, data = model_in(c.given.start, c.format, c.memory, c.lora), data_sets(c.files, c.seed)
    reward = reward_model(
        c.folder / "reward_model", start, data.rankings.train, c.reward, c.run, valid=data.rankings.valid
    )
    figures = agreement_on(data, loaded(reward), start, AnswersToRank(), Evaluate(), c.run)
    as_json = {name: figure._asdict() for name, figure in figures.items()}
    write_atomically(c.folder / "reward_model.json", json.dumps(as_json, indent=1))
    for name, figure in figures.items():
        print(f"{name} {figure}")


if __name__ == "__main__":
    run(lambda: main(begin(Config, __file__, __doc__)))
