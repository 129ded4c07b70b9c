"""Episodes of several turns: what a policy says in one of them, and the whole of them as a learner reads it.

The policy and an environment speak in turn. What the environment said is in the context of the turns behind it, and outside
the response's mask: in no loss, KL, entropy or value target.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models import generate
from rlhf_jax.steps.ppo import Models
from rlhf_jax.steps.rollout import SAMPLE, Frozen, Plan, Rollout, read_rollout
from rlhf_jax.types import AnyArray, PPOState, PromptBatch, Response

LATER = 2  # what a key of an iteration is for, beside SAMPLE and SHUFFLE: the second turn of its episodes, and so on


def sample_turn(
    state: PPOState,
    context: PromptBatch,
    frozen: Frozen,
    number: int | Int[Array, ""],
    *,
    models: Models,
    plan: Plan,
) -> Response:
    """yₙ ~ π_RL(·|x, y₀, e₀, …, eₙ₋₁) in turn n = number, counted from 0; the first draws what `sample` draws.

    context: all that stands before it, padded on the left, whose mask may have holes.
    """
    role = jnp.where(number == 0, SAMPLE, LATER + number - 1)
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), role)
    model = frozen.adapt(models).policy
    return generate(model, state.policy, context, key, plan.max_tokens, plan.sampling, plan.eos, plan.pad)


def read_episodes(
    state: PPOState,
    prompts: PromptBatch,
    y: Response,
    context: Bool[AnyArray, "B T"],
    ended: Bool[AnyArray, " B"],
    earned: Float[AnyArray, "B N"],
    frozen: Frozen,
    *,
    models: Models,
    plan: Plan,
) -> Rollout:
    """Whole episodes as one rollout. y: everything behind the first prompt, of which the mask has the policy's own tokens.

    context: which of y's tokens those behind them see. An own token that is not among them, EOS where the format has none
    between turns, is in the loss all the same. ended: whether the policy ended each of its turns itself. earned: the rewards
    of turns but the last, see `equations.token_rewards`.
    """
    tokens = jnp.concatenate([jnp.asarray(prompts.tokens), jnp.asarray(y.tokens)], axis=1)
    mask = jnp.concatenate([jnp.asarray(prompts.mask), jnp.asarray(context)], axis=1)
    found = read_rollout(state, tokens, mask, y, jnp.asarray(ended), frozen, models=models, plan=plan)
    return found._replace(earned=jnp.asarray(earned))
