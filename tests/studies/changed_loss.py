"""PPO with another loss: SPO's penalty in the place of the clip (Xie et al. 2024, arXiv:2401.16025).

python tests/studies/changed_loss.py runs/tiny/rl_init runs/tiny/reward_model runs/proximal
"""

import sys
from functools import partial
from pathlib import Path

import jax.numpy as jnp

from rlhf_jax import runtime, stages, steps
from rlhf_jax.equations import masked_mean


def proximal(logp, logp_old, adv, mask, coef):
    """−Âρ + |Â|/(2ε)·(ρ − 1)²: its gradient is 0 at the edge of the clip, and turns beyond it."""
    ratio = jnp.exp(logp - logp_old)
    losses = -adv * ratio + jnp.abs(adv) / (2 * coef.clip_high) * (ratio - 1) ** 2
    return losses, {"val/ratio": masked_mean(ratio, mask)}


def study(out: Path, sft, reward, data, ppo=stages.PPO(), run=stages.RUN, c=stages.Evaluate()) -> dict:
    mine = steps.Iteration(steps.sample, partial(steps.learn, objective=proximal))
    policy = stages.policy(out / "proximal", sft, reward, data.prompts, ppo.plain(), run, iteration=mine)
    return stages.compare(out / "proximal.json", "proximal", policy, [sft], sft, data, reward, c, run)


if __name__ == "__main__":
    start, reward_model = map(stages.trained, sys.argv[1:3])
    runtime.run(partial(study, Path(sys.argv[3]), start, reward_model, stages.from_world(stages.World(), seed=0)))
