"""How much memory an update takes, as the compiler reports it: nothing is run."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.models import LanguageModel, ScalarModel
from rlhf_jax.steps import Models, initial_state, ppo_step
from rlhf_jax.types import Experience, Response, TextBatch

B, P, T = 8, 128, 128  # answers, and tokens of a prompt and of an answer


def abstract(make):
    """The leaves of what a function returns, as shapes, and how to put them together: our types hold arrays only."""
    structure = []

    def leaves():
        found, how = jax.tree.flatten(make())
        structure.append(how)
        return found

    shapes = jax.eval_shape(leaves)
    return shapes, partial(jax.tree.unflatten, structure[0])


def update_bytes(tiny, logit_rows):
    """Temporary memory of one update from 8 answers and a pretraining row for each, the KL in the loss the exact one."""
    sizes = {
        "vocab_size": 131_072,
        "context": 256,
        "width": 256,
        "layers": 2,
        "heads": 4,
        "kv_heads": 4,
        "hidden": 1024,
    }
    config = replace(tiny.models.policy.config, **sizes, position="rope", mlp="swiglu", logit_rows=logit_rows)
    models = Models(LanguageModel(config), ScalarModel(config))
    form = tiny.form._replace(kl_loss="exact")

    def first_state():
        tokens = jnp.zeros((1, 2), jnp.int32)
        policy, value = (m.init(jax.random.key(0), tokens, tokens == 0)["params"] for m in models)
        return initial_state(policy, value, tiny.optimisers, jax.random.key(0))

    def experience():
        tokens, mask, each = jnp.zeros((B, P + T), jnp.int32), jnp.ones((B, P + T), bool), jnp.zeros((B, T))
        y = Response(tokens[:, P:], mask[:, P:], each, temperature=jnp.ones(B), support=None)
        rows = TextBatch(tokens[:, None, :], mask[:, None, :])
        return Experience(tokens, mask, y, each, each, each, each, rows)

    def step(state, batch):
        state, batch = whole_state(state), whole_batch(batch)
        step = partial(ppo_step, models=models, optimisers=tiny.optimisers, form=form)
        return jax.tree.leaves(step(state, batch, tiny.coef, reference=state.ema))

    (state, whole_state), (batch, whole_batch) = abstract(first_state), abstract(experience)
    return jax.jit(step).lower(state, batch).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.long
def test_chunks_of_tokens_take_a_third_of_the_memory_at_most(tiny):
    """131,072 words: the logits of 8 · 128 tokens are 0.5 GiB, of 256 tokens an eighth of a GiB."""
    whole, chunked = (update_bytes(tiny, rows) for rows in (0, 256))
    print(f"temporary memory of an update: {whole:,} bytes; {chunked:,} in chunks of 256 tokens")
    assert chunked < whole / 3
