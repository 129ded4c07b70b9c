from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import LanguageModel, Sampling, ScalarModel, TransformerConfig
from rlhf_jax.steps import Form, Frozen, Models, Optimisers, Plan, PPOCoef, adam, initial_state, iteration
from rlhf_jax.types import PPOBatch, PromptBatch, TextBatch
from tests.models.conftest import wild

EOS, PAD = 1, 0
CONFIG = TransformerConfig(
    vocab_size=11,
    context=16,
    width=8,
    layers=1,
    heads=2,
    kv_heads=1,
    hidden=16,
    norm="rmsnorm",
    position="learned",
    mlp="gelu",
    bias=False,
    tied=True,
    dropout=0.0,
)

FORM = Form(
    kl_reward="k1",
    kl_loss="k2",
    policy_mean="token",
    pretrain_mean="token",
    whiten="biased",
    whiten_rewards=False,
    score_norm="off",
    ensemble="mean",
)
COEF = PPOCoef(
    beta=0.1,
    beta_loss=0.0,
    beta_end=1.0,
    beta_steps=1.0,
    kl_target=1.0,
    kl_horizon=100.0,
    gamma=0.5,
    clip_low=0.2,
    clip_high=0.2,
    dual_clip=np.inf,
    entropy=0.0,
    stop_kl=np.inf,
    value_clip=0.2,
    value_coef=1.0,
    value_warmup=0.0,
    discount=1.0,
    lam=0.95,
    lr=0.01,
    value_lr=0.01,
    warmup=2.0,
    ema=0.9,
    missing_eos_penalty=0.0,
    score_clip=np.inf,
    uncertainty=0.0,
)


@pytest.fixture(scope="session")
def tiny():
    """A PPO run in miniature: models, a state, a batch of 8 prompts with 2 pretraining rows each, coefficients."""
    models = Models(LanguageModel(CONFIG), ScalarModel(CONFIG))
    optimisers = Optimisers(adam(1e-8, 1.0), adam(1e-8, 1.0))
    plan = Plan(max_tokens=5, sampling=Sampling(0.7, 0, 1.0), epochs=2, minibatches=2, eos=EOS, pad=PAD)
    policy, value = wild(models.policy, 1), wild(models.value, 2)
    state = initial_state(policy, value, optimisers, jax.random.key(7))
    rng = np.random.default_rng(0)
    lengths = np.array([4, 2, 3, 4, 1, 4, 2, 3])
    mask = np.arange(4) >= 4 - lengths[:, None]
    tokens = np.where(mask, rng.integers(2, 11, (8, 4)), PAD).astype(np.int32)
    text = rng.integers(2, 11, (8, 2, 6)).astype(np.int32)
    predict = np.ones((8, 2, 6), bool)
    predict[3:, 0, 4:] = False
    step = partial(iteration, models=models, optimisers=optimisers, plan=plan, form=FORM)
    traces = []

    def traced(*arguments):
        traces.append(1)
        return step(*arguments)

    return SimpleNamespace(
        models=models,
        optimisers=optimisers,
        plan=plan,
        form=FORM,
        state=state,
        frozen=Frozen(sft=wild(models.policy, 3), reward=(wild(models.value, 4),)),
        batch=PPOBatch(PromptBatch(tokens, mask), TextBatch(text, predict)),
        coef=PPOCoef(*(jnp.float32(c) for c in COEF)),
        iteration=step,
        jitted=jax.jit(traced),
        traces=traces,
    )


def flat(tree):
    """Every leaf as a NumPy array, keys as their data."""

    def leaf(x):
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return np.asarray(x)

    return [leaf(x) for x in jax.tree.leaves(tree)]


@pytest.fixture(scope="session")
def assert_equal():
    """Two trees agree leaf by leaf: bit for bit, or to a tolerance."""

    def check(a, b, atol=0.0):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(flat(a), flat(b), strict=True):
            np.testing.assert_allclose(x, y, atol=atol, rtol=atol)

    return check
