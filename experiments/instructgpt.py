"""The whole recipe: pretraining → SFT → reward model → PPO and PPO-ptx → evaluation.

    python experiments/instructgpt.py configs/tiny.toml

InstructGPT (Ouyang et al. 2022, arXiv:2203.02155), Figure 2. Each stage continues where it stopped, and one that is done
stays as it is: run the same command again after an interruption.

Differences from the paper: 1. one size of model for policy, value and reward; 2. configs/tiny.toml has 1 pretraining row an
episode where the paper has 8; 3. labelers and, in the built-in world, their gold preference are simulated.
"""

from pathlib import Path
from typing import get_args

from experiments.choose_sft import choose_sft
from experiments.evaluate import evaluate
from experiments.material import Part
from experiments.ppo_ptx import ppo
from experiments.pretrain import pretrain, pretrain_stage
from experiments.recipe import Config, configured, prompts_that_fit
from experiments.reward_model import reward_models
from experiments.sft import sft
from rlhf_jax.runtime import require_writable, run


def before_ppo(config: Config) -> None:
    """Everything that PPO starts from, where it is not done."""
    require_writable(Path(config.out))
    pretrain_stage(config)  # refuses a folder that was made with another config or tokenizer
    for part in get_args(Part):
        prompts_that_fit(config, part)  # what does not fit is said now, not after the stages that do not read it
    pretrain(config)
    sft(config, "sft")
    reward_models(config)
    choose_sft(config)
    sft(config, "rl_init")


def main() -> None:
    config = configured()
    before_ppo(config)
    ppo(config, "ppo")
    ppo(config, "ppo_ptx")
    evaluate(config)
    print(f"The report is at {Path(config.out) / 'report.html'}")


if __name__ == "__main__":
    run(main)
