"""Learning from the labelers' rankings without a reward model: DPO, IPO, SLiC's hinge, SimPO, ORPO, KTO.

    python experiments/dpo.py configs/dpo.toml --preference.objective ipo

Rafailov et al. 2023 (arXiv:2305.18290). Half a minute on two cores, from the models and rankings of configs/tiny.toml. Starts
from the model that RL starts from, which is the reference as well, and learns from one pair of each ranking an epoch, drawn
anew; KTO takes it as a liked and a disliked answer, or learns from a file of {prompt, completion, label}, in which a prompt
need not have both: given.rankings, or files.rankings where that is "". A loss of one's own goes to the stage:
preference(…, objective=mine).

Differences from the paper: 1. Adam in the place of RMSprop; 2. rankings of K = 4..9 answers in the place of pairs.
"""

from dataclasses import dataclass, replace

from rlhf_jax.data import read_feedback, read_rankings
from rlhf_jax.runtime import info, run
from rlhf_jax.stages import (
    Evaluate,
    Files,
    Format,
    Lora,
    Memory,
    Preference,
    Program,
    World,
    begin,
    compare,
    data_of,
    model_in,
    preference,
    prompts_that_fit_all,
    trained_in,
)


@dataclass(frozen=True)
class Given:
    """Folders of trained models, of any run, and the rankings."""

    start: str = "runs/tiny/rl_init"  # the folder of the model that learning starts from, and the reference
    rankings: str = "runs/tiny/rankings/rankings.jsonl"  # a file or hub id, of labels for KTO; "" is the data set's own
    reward: str = "runs/tiny/reward_model"  # that answers are scored by in the comparison; nothing is learned from it
    against: str = "runs/tiny/sft, runs/tiny/pretrain"  # of models that the result is compared with


@dataclass(frozen=True)
class Config(Program):
    given: Given = Given()
    format: Format = Format()  # of models from Hugging Face folders; a stage's has its own
    memory: Memory = Memory()
    lora: Lora | None = None
    world: World = World()  # the built-in world
    files: Files | None = None  # the user's own data, in its place
    preference: Preference = Preference()
    evaluate: Evaluate = Evaluate()


def main(c: Config) -> None:
    start = model_in(c.given.start, c.format, c.memory, c.lora)
    read = read_feedback if c.preference.objective == "kto" else read_rankings
    data = data_of(start, c.files or c.world, c.seed, rankings=read)
    if c.given.rankings and c.files and c.files.rankings:
        info(f"learns from given.rankings = {c.given.rankings!r}; for files.rankings set it to ''")
    rankings = data.to_learn_from(read(c.given.rankings)) if c.given.rankings else data.rankings.train
    data = replace(data, prompts=prompts_that_fit_all(data.prompts, start))
    found = preference(c.folder / "preference", start, rankings, c.preference, c.run)
    others = trained_in(c.given.against, c.format, c.memory)
    reward = model_in(c.given.reward, c.format, c.memory)
    compare(c.folder / "preference.json", c.preference.objective, found, others, start, data, reward, c.evaluate, c.run)


if __name__ == "__main__":
    run(lambda: main(begin(Config, __file__, __doc__)))
