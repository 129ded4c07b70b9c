"""The whole recipe, as Figure 2 of the paper has it: what is made from what, from top to bottom.

    python experiments/instructgpt.py configs/tiny.toml

InstructGPT (Ouyang et al. 2022, arXiv:2203.02155). configs/tiny.toml takes 5 to 8 minutes on two cores. Each stage
continues where it stopped, and one that is done stays as it is: run the same command again after an interruption.

Differences from the paper: 1. one size of model for policy, value and reward; 2. configs/tiny.toml has 1 pretraining row an
episode where the paper has 8; 3. labelers and, in the built-in world, their gold preference are simulated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rlhf_jax.config import Count
from rlhf_jax.data import Ranking
from rlhf_jax.runtime import run
from rlhf_jax.stages import (
    PPO,
    RL_INIT,
    AnswersToRank,
    DataSets,
    Decoder,
    Evaluate,
    Files,
    Format,
    Imported,
    Lora,
    Memory,
    Pretrain,
    Program,
    Reward,
    Stream,
    Supervised,
    TokenizerSettings,
    Trained,
    World,
    ask,
    begin,
    best_epoch,
    choose_epoch,
    data_sets,
    data_that_fit,
    evaluate,
    policy,
    pretrain,
    require_figure,
    reward_model,
    sample_answers,
    simulated,
    starting_model,
    supervised,
    with_lora,
)


@dataclass(frozen=True)
class Config(Program):
    world: World = World()  # the built-in world
    files: Files | None = None  # the user's own data, in its place
    tokenizer: TokenizerSettings = TokenizerSettings()
    model: Decoder = Decoder()  # of random parameters
    imported: Imported | None = None  # a Hugging Face folder, in its place
    format: Format = Format()
    memory: Memory = Memory()
    lora: Lora | None = None  # without this section all parameters are trained
    pretrain: Pretrain = Pretrain()
    stream: Stream | None = None  # pretraining text in files of any size, in the place of the data set's own
    sft: Supervised = Supervised()  # the SFT baseline
    rl_init: Supervised = RL_INIT  # where RL starts, and its KL reference
    answers: AnswersToRank = AnswersToRank()
    reward: Reward = Reward()
    reward_models: Count = 1  # an ensemble of so many; the value network starts as the first
    ppo: PPO = PPO()  # the stage "ppo" runs it with gamma = 0, "ppo_ptx" as it stands
    evaluate: Evaluate = Evaluate()


class Before(NamedTuple):
    """Everything that PPO starts from."""

    data: DataSets
    base: Trained
    writer: Trained  # whose answers labelers rank
    rankings: Sequence[Ranking]
    rewards: list[Trained]
    sft: Trained  # the baseline
    rl_init: Trained


def before_ppo(c: Config) -> Before:
    """Step 1 and step 2 of the figure, and the model that step 3 starts from."""
    out, run, data = c.folder, c.run, data_sets(c.files or c.world, c.seed)
    start = starting_model(out, c.model, c.imported, c.tokenizer, c.format, c.memory, data)
    data = data_that_fit(data, start)  # what is missing or too long is said now
    require_figure(run.runtime.best, data)

    base = with_lora(pretrain(out / "pretrain", start, c.stream or data.text.train, c.pretrain, run), c.lora)
    # 1. Demonstrations: people write answers, and the model learns from them
    epochs = supervised(out / "sft", base, data.demonstrations, c.sft, run, text=data.text.train)
    writer = best_epoch(epochs) if data.demonstrations.valid else epochs
    # 2. Comparisons: the model answers, people rank, and a reward model learns from that
    if data.truth:
        answers = sample_answers(out / "comparisons", writer, data.prompts.train, c.answers, run)
        rankings = ask(out / "rankings", answers, simulated(data.truth), run)
    else:
        rankings = data.rankings.train
    names = ["reward_model", *(f"reward_model_{i}" for i in range(2, c.reward_models + 1))]
    rewards = [
        reward_model(
            out / name,
            writer,
            rankings,
            c.reward,
            run,
            valid=data.rankings.valid,
            centre_on=data.demonstrations.train,
        )
        for name in names
    ]
    sft = choose_epoch(epochs, rewards[0], data.prompts.valid, run) if data.demonstrations.valid else epochs
    rl_init = supervised(out / "rl_init", base, data.demonstrations, c.rl_init, run, text=data.text.train)
    return Before(data, base, writer, rankings, rewards, sft, rl_init)


def recipe(c: Config) -> None:
    """The figure's three steps, and the evaluation."""
    out, run = c.folder, c.run
    data, base, writer, _, rewards, sft, rl_init = before_ppo(c)
    # 3. PPO against the reward model: without the pretraining mix, and with it
    judge = data.truth.judge if data.truth else None
    ppo = policy(out / "ppo", rl_init, rewards, data.prompts, c.ppo.plain(), run, text=data.text, judge=judge)
    ppo_ptx = policy(out / "ppo_ptx", rl_init, rewards, data.prompts, c.ppo, run, text=data.text, judge=judge)

    models = {"base": base, "sft": sft, "ppo": ppo, "ppo_ptx": ppo_ptx, "rl_init": rl_init}
    evaluate(out, models, data, rewards[0], writer, c.answers, c.evaluate, run, about=c.about())
    print(f"The report is at {out / 'report.html'}")


if __name__ == "__main__":
    run(lambda: recipe(begin(Config, __file__, __doc__)))
