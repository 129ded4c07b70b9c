"""Do two halves of the rankings make two policies? Two arms in one program, on a very small world.

    python tests/studies/two_arms.py runs/two_arms

Half a minute on two cores. Each arm has its folder; in it stages have the same names, so both arms get the same draws.
"""

import sys
from pathlib import Path

from rlhf_jax import runtime, stages
from rlhf_jax.evals import table_text

SHAPE = stages.Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=32, position="rope")
FORMAT = stages.Format(prompt_tokens=24, answer_tokens=16)
PRETRAIN = stages.Pretrain(steps=40, batch=16, lr=1e-2, warmup=2)
SFT = stages.Supervised(epochs=20, batch=16, lr=1e-2, dropout=0.0)
ANSWERS = stages.AnswersToRank(prompts=32, fewest=2, most=4)
REWARD = stages.Reward(epochs=2, batch=4, lr=3e-3)
PPO = stages.PPO(iterations=2, batch=16, minibatches=2, beta=0.1, warmup=0, lr=3e-3, value_lr=3e-3).plain()
RUN = stages.Run(seed=0, runtime=stages.Runtime(batch=32))
EVALUATE = stages.Evaluate(prompts=16)


def before(out: Path) -> tuple:
    """What both arms share: the data, the model that RL starts from, and rankings of its answers."""
    data = stages.from_world(
        stages.World(120, prompts=150, demonstrations=60, labelers=2, heldout_labelers=1), RUN.seed
    )
    tokenizer = stages.run_tokenizer(stages.TokenizerSettings(vocab_size=700), out, data.tokenizer_text)
    random = stages.described(SHAPE, tokenizer, FORMAT)
    base = stages.pretrain(out / "pretrain", random, data.text.train, PRETRAIN, RUN)
    sft = stages.supervised(out / "sft", base, data.demonstrations, SFT, RUN)
    answers = stages.sample_answers(out / "answers", sft, data.prompts.train, ANSWERS, RUN)
    return data, sft, stages.ask(out / "rankings", answers, stages.simulated(data.truth), RUN)


def study(out: Path) -> dict:
    data, sft, rankings = before(out)
    half, figures = len(rankings) // 2, {}
    for arm, its in {"first": rankings[:half], "second": rankings[half:]}.items():
        here = out / arm
        reward = stages.reward_model(here / "reward_model", sft, its, REWARD, RUN)
        policy = stages.policy(here / "policy", sft, reward, data.prompts, PPO, RUN)
        figures[arm] = stages.compare(here / "policy.json", arm, policy, [sft], sft, data, reward, EVALUATE, RUN)
    return figures


def main() -> None:
    figures = study(Path(sys.argv[1]))
    print(table_text({arm: {name: each._asdict() for name, each in its.items()} for arm, its in figures.items()}))


if __name__ == "__main__":
    runtime.run(main)
