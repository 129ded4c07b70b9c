"""Rounds: the newest policy answers, labelers rank, a reward model learns from all rankings so far, and from it a policy.

    python experiments/rounds.py configs/rounds.toml
    python experiments/rounds.py configs/rounds.toml --rounds.count 1 --answers.prompts 1200 --out runs/one_round

InstructGPT, Figure 2 and §3.1. The second line spends the labels of three rounds in one, on the same prompts. With
--rounds.store FILE people rank, on the page that `rlhf-label serve FILE` opens. It starts from models of configs/tiny.toml.
rounds.json says what each round is made from, evaluation.json has the figures; the command with more rounds continues.

Differences from the paper: 1. each policy starts where the first did, as in Bai et al. 2022 (arXiv:2204.05862, §4.5), so that
rounds differ in labels and not in updates; 2. all answers of a round are the newest policy's; 3. rewards are not centred.
"""

import json
from dataclasses import asdict, dataclass, replace

from rlhf_jax import stages
from rlhf_jax.config import Checked, Count
from rlhf_jax.data import Ranking
from rlhf_jax.runtime import run, write_atomically


@dataclass(frozen=True)
class Rounds(Checked):
    """How many rounds there are, and who ranks."""

    count: Count = 3  # each asks about answers.prompts training prompts of its own
    store: str = ""  # of labels, a file that people fill through its page; "" has those of the built-in world rank
    wanted: Count = 1  # by how many people the answers to a prompt are ranked


@dataclass(frozen=True)
class Given:
    """Folders of trained models, of any run."""

    start: str = "runs/tiny/rl_init"  # of the model that RL starts from in each round, and the KL's reference
    sft: str = "runs/tiny/sft"  # of the model that answers in the first round, and that reward models start from


@dataclass(frozen=True)
class Config(stages.Program):
    rounds: Rounds = Rounds()
    given: Given = Given()
    format: stages.Format = stages.Format()  # of models from Hugging Face folders; a stage's has its own
    memory: stages.Memory = stages.Memory()
    world: stages.World = stages.World()  # the built-in world
    files: stages.Files | None = None  # the user's own data, in its place
    answers: stages.AnswersToRank = stages.AnswersToRank()
    reward: stages.Reward = stages.Reward()
    ppo: stages.PPO = stages.PPO()
    evaluate: stages.Evaluate = stages.Evaluate()


def main(c: Config) -> None:
    out, its = c.folder, c.rounds
    start, sft = (stages.model_in(folder, c.format, c.memory) for folder in (c.given.start, c.given.sft))
    data = stages.data_of(start, c.files or c.world, c.seed)
    data = replace(data, prompts=stages.prompts_that_fit_all(data.prompts, start))
    labelers, judge = [] if its.store else stages.simulated(data.truth), data.truth and data.truth.judge
    models, rankings, made = {"sft": sft}, list[Ranking](), {}
    for n, prompts in enumerate(stages.in_rounds(data.prompts.train, its.count, c.answers.prompts), 1):
        writer = [*models.values()][-1]
        answers = stages.sample_answers(out / f"answers_{n}", writer, prompts, c.answers, c.run)
        if its.store:
            about = {"model": writer.folder.name, "sampling": asdict(c.answers.sampling), "wanted": its.wanted}
            rankings = stages.ask_people(out / f"rankings_{n}", its.store, answers, before=rankings, **about)
        else:
            rankings = stages.ask(out / f"rankings_{n}", answers, labelers, c.run, before=rankings)
        reward = stages.reward_model(out / f"reward_model_{n}", sft, rankings, c.reward, c.run)
        settings = {"settings": c.ppo, "run": c.run, "text": data.text, "judge": judge}
        models[f"round_{n}"] = policy = stages.policy(out / f"policy_{n}", start, reward, data.prompts, **settings)
        parents = {"writer": writer, "answers": answers, "reward_model": reward, "policy": policy}
        made[f"round_{n}"] = {"rankings": len(rankings), **{name: each.sha256 for name, each in parents.items()}}
        write_atomically(out / "rounds.json", json.dumps(made, indent=1))
    about = {name: value for name, value in c.about().items() if name != "given"}  # each seed has models of its own
    stages.evaluate_in_turn(out, models, start, data, reward, sft, c.answers, c.evaluate, c.run, about=about)


if __name__ == "__main__":
    run(lambda: main(stages.begin(Config, __file__, __doc__)))
