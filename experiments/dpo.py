"""Learning from the labelers' rankings without a reward model: DPO, IPO, SLiC's hinge, SimPO, ORPO, KTO.

    python experiments/dpo.py configs/tiny.toml --preference.objective ipo

Rafailov et al. 2023 (arXiv:2305.18290). Starts from the model that RL starts from, which is the reference as well, and learns
from one pair of each ranking an epoch, drawn anew; KTO takes it as a liked and a disliked answer. Writes the stage
"preference" and preference.json: how the model stands against SFT and base on held-out prompts, beside what it costs on
pretraining text.
"""

import json
from collections.abc import Callable
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from experiments.decoder import language_model
from experiments.devices import mesh_of, rule
from experiments.evaluate import alignment_tax, distance, helpful, judge_of, write
from experiments.pretrain import pretrained, random_params
from experiments.recipe import Config, Preference, configured, kept_by_length, role_key, role_seed, stage, tokenizer
from experiments.reward_model import training_rankings
from experiments.sft import best_epoch, fine_tuned, sft_stage, trained
from rlhf_jax.data import Demonstration, batch_indices, encode_demonstrations, exchange_answers, ranking_fits
from rlhf_jax.equations import Mean, values
from rlhf_jax.errors import InputError
from rlhf_jax.evals import Estimate, table_text
from rlhf_jax.runtime import Stage, Watch, mapped, place, run, shard_rows, write_atomically
from rlhf_jax.steps import (
    KTOCoef,
    PreferenceCoef,
    TextCoef,
    adam,
    answer_logps,
    dpo,
    ipo,
    judged_step,
    orpo,
    preference_step,
    simpo,
    slic,
    text_coef,
)
from rlhf_jax.types import JudgedBatch, PairBatch, TextBatch, TrainState

# objective → its function, and whether an answer counts by the mean of its tokens' log-probabilities or by their sum
OBJECTIVES = {
    "dpo": (dpo, False),
    "ipo": (ipo, False),
    "slic": (slic, False),
    "simpo": (simpo, True),
    "orpo": (orpo, True),
}


def section(config: Config) -> Preference:
    c = config.preference
    if c is None:
        raise InputError("the config has no [preference] section; add one, see configs/tiny.toml")
    if config.lora:
        raise InputError("dpo.py trains all parameters; remove [lora]")
    if c.objective == "kto" and c.batch < 2:
        raise InputError("KTO pairs each prompt with another's answer; set preference.batch to at least 2")
    return c


def preference_stage(config: Config) -> Stage:
    c = section(config)
    steps = max(c.epochs * len(training_rankings(config)) // c.batch, 1)
    sections = config.sections("pretrain", "sft", "rl_init", "reward", "preference")
    return stage(config, "preference", steps, sections, {"rl_init": sft_stage(config, "rl_init").sha256})


def pairs_of(config: Config) -> Callable[[int], tuple[TextBatch, TextBatch]]:
    """The pairs of step i: of each ranking two answers of different rank, the preferred ones first."""
    c, t, length, seed = section(config), tokenizer(config), config.model.context, role_seed(config, "preference")
    rankings = kept_by_length(config, training_rankings(config), lambda r, t: ranking_fits(r, t, length), "rankings")

    def pairs(i: int) -> tuple[TextBatch, TextBatch]:
        rng = np.random.default_rng([seed, i])
        drawn = []
        for index in batch_indices(len(rankings), c.batch, seed, i):
            prompt, answers, ranks, _ = rankings[index]
            ordered = [(a, b) for a, b in permutations(range(len(ranks)), 2) if ranks[a] < ranks[b]]
            better, worse = ordered[rng.integers(len(ordered))]
            drawn.append((Demonstration(prompt, answers[better]), Demonstration(prompt, answers[worse])))
        chosen, rejected = (encode_demonstrations(list(side), t, length) for side in zip(*drawn, strict=True))
        return chosen, rejected

    return pairs


def first_state(config: Config, params: dict) -> TrainState:
    optimiser = adam(config.optimiser.eps, config.optimiser.clip_norm)
    return TrainState(jnp.int32(0), params, optimiser.init(params), role_key(config, "preference"))


def tuned(config: Config) -> dict:
    """The parameters at the end of the stage."""
    shapes = jax.eval_shape(lambda: first_state(config, random_params(config)))
    return preference_stage(config).load(shapes)[0].params


def train(config: Config) -> None:
    this, c = preference_stage(config), section(config)
    if this.finished:
        return
    mesh, pairs = mesh_of(config), pairs_of(config)
    reference = place(trained(config, "rl_init", mesh=mesh), mesh, rule(config, "reference"))
    state = this.resume(place(first_state(config, reference), mesh, rule(config, "policy")))
    rate = text_coef(c.lr, this.total, c.floor)
    step, coef = kto_step(config, rate) if c.objective == "kto" else pair_step(config, rate)
    step, coef = mapped(step, mesh, config.mesh.pmap), place(coef, mesh)
    for i in this.steps(int(state.step), Watch(kl=np.inf, entropy=-np.inf, factor=4.0, window=50)):
        chosen, rejected = pairs(i)
        if c.objective == "kto":
            rows = jax.tree.map(lambda a, b: np.concatenate([a, b]), chosen, rejected)
            first, second = rows, exchange_answers(rows, tokenizer(config).pad)
        else:
            first, second = chosen, rejected
        state, metrics = step(state, shard_rows((first, second), mesh), coef, reference)
        this.log(i, values(metrics))
        this.save(i, state, config.runtime.save_every)


Step = Callable[[TrainState, tuple[TextBatch, TextBatch], Any, PyTree], tuple[TrainState, dict[str, Mean]]]


def pair_step(config: Config, rate: TextCoef) -> tuple[Step, PreferenceCoef]:
    """(state, (chosen, rejected), coef, reference) → (state, metrics), by the config's objective; and coef."""
    c, model = section(config), language_model(config, training=True)
    objective, per_token = OBJECTIVES[c.objective]
    optimiser = adam(config.optimiser.eps, config.optimiser.clip_norm)
    of_loss = (np.float32(x) for x in (c.beta, c.smoothing, c.margin, c.sft))

    def step(state: TrainState, pairs: tuple[TextBatch, TextBatch], coef: PreferenceCoef, reference: PyTree):
        chosen, rejected = pairs
        of = partial(answer_logps, reference, model=model, per_token=per_token)
        batch = PairBatch(chosen, rejected, of(chosen)[0], of(rejected)[0])
        return preference_step(
            state, batch, coef, model=model, optimiser=optimiser, objective=objective, per_token=per_token
        )

    return step, PreferenceCoef(*of_loss, rate=rate)


def kto_step(config: Config, rate: TextCoef) -> tuple[Step, KTOCoef]:
    """(state, (rows, mismatched rows), coef, reference) → (state, metrics), the first half of the rows liked; and coef."""
    c, model = section(config), language_model(config, training=True)
    optimiser = adam(config.optimiser.eps, config.optimiser.clip_norm)
    of_loss = (np.float32(x) for x in (c.beta, c.desirable, c.undesirable))

    def step(state: TrainState, both: tuple[TextBatch, TextBatch], coef: KTOCoef, reference: PyTree):
        rows, mismatched = both
        of = partial(answer_logps, reference, model=model, per_token=False)
        liked = jnp.arange(len(rows.tokens)) < len(rows.tokens) // 2
        batch = JudgedBatch(rows, liked, of(rows)[0], mismatched, of(mismatched)[0])
        return judged_step(state, batch, coef, model=model, optimiser=optimiser)

    return step, KTOCoef(*of_loss, rate=rate)


def measure(config: Config) -> dict[str, Estimate]:
    judge, params = judge_of(config), tuned(config)
    models = {"base": pretrained(config), "sft": fine_tuned(config, "sft", best_epoch(config)), "preference": params}
    written = {name: write(config, judge, each) for name, each in models.items()}
    figures = helpful(judge, written, "preference") | distance(config, params, written["preference"])
    return figures | alignment_tax(config, params, judge.truth)


def main() -> None:
    config = configured()
    train(config)
    figures = measure(config)
    as_json = {name: e._asdict() for name, e in figures.items()}
    write_atomically(Path(config.out) / "preference.json", json.dumps(as_json, indent=1))
    print(table_text({section(config).objective: as_json}))


if __name__ == "__main__":
    run(main)
