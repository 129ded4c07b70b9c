"""The first half of an iteration of RL: a policy answers prompts, and frozen models say what they make of the answers."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from rlhf_jax.equations import Mean, mean, row_sums
from rlhf_jax.models import Adapted, AnyScalarModel, Sampling, generate, in_parts
from rlhf_jax.steps.ppo import Estimator, Models, divergences, join, reading
from rlhf_jax.steps.reward_model import reward
from rlhf_jax.types import PPOState, PromptBatch, Response, Scalar

SAMPLE, SHUFFLE = 0, 1  # what a key of an iteration is for


class Frozen(NamedTuple):
    """Models that do not learn: the reference π_SFT and the reward models r_θ, one or an ensemble (none where the reward is
    a function of the text). With LoRA also the base that these and the learning models are corrections of, and the factor
    on those."""

    sft: PyTree
    reward: tuple[PyTree, ...] = ()
    base: PyTree = None
    scale: Float[Scalar, ""] = np.float32(1.0)

    def adapt(self, models: Models) -> Models:
        """The models as parameters beside a frozen base belong to them; the same models without one."""
        return models if self.base is None else Models(*(Adapted(model, self.base, self.scale) for model in models))


class Plan(NamedTuple):
    """What fixes the shapes of an iteration; everything that is a number is in PPOCoef, every formula in Form."""

    max_tokens: int
    sampling: Sampling
    epochs: int
    minibatches: int
    eos: int | tuple[int, ...]  # an answer has ended where it comes to one of them
    pad: int


class Rollout(NamedTuple):
    """Answers to a batch of prompts, and how far each token is from what the reference would have said."""

    tokens: Int[Array, "B L"]  # x ⊕ y
    mask: Bool[Array, "B L"]
    y: Response
    ended: Bool[Array, " B"]  # came to its EOS
    kl: dict[Estimator, Float[Array, "B T"]]  # KL(π_RL‖π_SFT) of each token, nats
    logp_sft: Float[Array, "B T"]  # nats
    earned: Float[Array, "B N"] | None = None  # of an episode's score, what each of its turns but the last earned


def sample(state: PPOState, prompts: PromptBatch, frozen: Frozen, *, models: Models, plan: Plan) -> Rollout:
    """y ~ π_RL(·|x), and what `read_rollout` has of it."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), SAMPLE)
    model = frozen.adapt(models).policy
    y = generate(model, state.policy, prompts, key, plan.max_tokens, plan.sampling, plan.eos, plan.pad)
    tokens, mask = join(prompts, y)
    ended = jnp.any(jnp.isin(y.tokens, jnp.asarray(plan.eos)) & y.mask, axis=1)
    return read_rollout(state, tokens, mask, y, ended, frozen, models=models, plan=plan)


def read_rollout(
    state: PPOState,
    tokens: Int[Array, "B L"],
    mask: Bool[Array, "B L"],
    y: Response,
    ended: Bool[Array, " B"],
    frozen: Frozen,
    *,
    models: Models,
    plan: Plan,
) -> Rollout:
    """Rows x ⊕ y with the log-probabilities of y as the learner has them; log π_SFT and the KL of each token.

    The learner's, not those that it was drawn with: decoding token by token rounds elsewhere than reading a whole answer
    does, which in bfloat16 moves ratios by a few hundredths, of a clip at 0.2. The KL needs this reading anyway. Rows go
    through in parts of a minibatch's size, so that the ratio of the first minibatch is 1 in every precision.
    """
    model = frozen.adapt(models).policy
    read = reading(state.policy, tokens, mask, y, model=in_parts(model, plan.minibatches), reference=frozen.sft)
    return Rollout(tokens, mask, replace(y, logp=read.logp), ended, divergences(read, y.mask), read.logp_ref)


def reward_scores(x: Rollout, frozen: Frozen, *, model: AnyScalarModel) -> Float[Array, "E B"]:
    """r_θ(x, y) of each reward model."""
    return jnp.stack([reward(r, x.tokens, x.mask, model=model) for r in frozen.reward])


def rollout_metrics(x: Rollout, scores: Float[Array, "E B"], score: Float[Array, " B"]) -> dict[str, Mean]:
    """All estimates of the KL side by side, in nats an answer, whichever trains; the scores as they were given and as the
    answers are trained on."""
    nats = {name: mean(row_sums(each, x.y.mask)) for name, each in x.kl.items()}
    return {
        "objective/kl": nats["k1"],
        "objective/kl_k2": nats["k2"],
        "objective/kl_k3": nats["k3"],
        "objective/kl_exact": nats["exact"],
        "objective/entropy": mean(row_sums(-x.y.logp, x.y.mask)),
        "objective/reward_model": mean(scores),
        "objective/scores": mean(score),
        "answer/length": mean(jnp.sum(x.y.mask, axis=1)),
        "answer/ended": mean(x.ended),
    }
