"""Learning from rankings without a reward model: DPO, IPO, SLiC's hinge, SimPO, ORPO, KTO."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rlhf_jax.config import Checked, Count, Natural, NotNegative, Positive, Share
from rlhf_jax.data import (
    Demonstration,
    Ranking,
    content_sha256,
    encode_demonstrations,
    exchange_answers,
)
from rlhf_jax.equations import Mean, values
from rlhf_jax.errors import InputError
from rlhf_jax.models import LanguageModel
from rlhf_jax.runtime import mapped, place, shard_rows
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.training import (
    Epochs,
    open_stage,
    parents,
    rankings_that_fit,
    rankings_to_learn,
    require_belonging,
    result,
    schedule_ends,
    settings_without,
    supervised_watch,
)
from rlhf_jax.steps import (
    KTOCoef,
    PreferenceCoef,
    TextCoef,
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


@dataclass(frozen=True)
class Preference(Checked):
    """DPO's values (Rafailov et al. 2023, arXiv:2305.18290, App. B), with Adam in the place of RMSprop."""

    objective: Literal["dpo", "ipo", "slic", "simpo", "orpo", "kto"] = "dpo"  # the loss
    beta: Positive = 0.1  # of the log-ratio, per nat (App. B)
    smoothing: Share = 0.0  # share of labels thought to be flipped
    margin: NotNegative = 0.0  # that SimPO's pairs should keep
    sft: NotNegative = 0.0  # on the preferred answer's own loss; ORPO has 1
    desirable: NotNegative = 1.0  # weight of KTO's liked answers
    undesirable: NotNegative = 1.0  # and of its disliked ones
    epochs: Count = 1  # of one pair from each ranking; not printed
    batch: Count = 64  # pairs (App. B)
    lr: Positive = 1e-6  # at the peak (App. B)
    floor: Share = 1.0  # share of lr that the schedule ends at; 1 is no decay (App. B)
    warmup: Natural = 150  # steps (App. B)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"  # of the learning rate


def preference(
    folder: Path | str,
    start: Trained,
    rankings: Sequence[Ranking],
    settings: Preference = Preference(),
    run: Run = RUN,
    *,
    objective: Callable | None = None,
) -> Trained:
    """Trains a language model on pairs of ranked answers, itself being the reference.

    Of each ranking one pair is drawn anew in each epoch; KTO takes it as a liked and a disliked answer. objective: a loss on
    pairs of one's own in the place of settings.objective, as rlhf_jax.steps.dpo. The folder's name deals out the order.
    Rankings with nothing but ties are left out. With LoRA corrections are trained, and the reference is the model with those
    that it starts from. InputError: the folder was made from something else; a ranking is broken; a reward model to start
    from.
    """
    c, folder = settings, Path(folder)
    require_belonging(start)
    rankings = rankings_to_learn(rankings)
    if c.objective == "kto" and c.batch < 2:
        raise InputError("KTO pairs each prompt with another's answer; set preference.batch to at least 2")
    fit = rankings_that_fit(rankings, start)
    passes = Epochs(c.epochs, len(fit), c.batch)
    stage = open_stage(
        folder,
        passes.steps,
        start,
        {"preference": settings_without(c, "epochs")},
        {**parents(start=start), "rankings": content_sha256(rankings)},
        {"objective": objective} if objective else {},
        run,
        fixed_length=schedule_ends(c.schedule, folder) or passes.filled_up(folder),
    )
    if stage.done():
        return result(stage, start)
    mesh, role = run.mesh.mesh(), folder.name
    pairs_of = pairs(fit, start, passes, run, role)
    first, base = start.start(run, mesh, "policy", run.key(f"{role} corrections"))
    reference = place(first, mesh, run.mesh.rule("reference"))
    optimiser = run.optimiser.make()
    state = TrainState(jnp.int32(0), reference, optimiser.init(reference), run.key(role))
    state = stage.resume(place(state, mesh, run.mesh.rule("policy")))
    rate = text_coef(c.lr, stage.total, c.floor, c.warmup)
    kto = c.objective == "kto" and objective is None
    one, coef = (kto_step if kto else pair_step)(c, start, run, optimiser, rate, objective)
    program, coef = mapped(one, mesh, run.mesh.pmap), place(coef, mesh)
    for i in stage.steps(int(state.step), supervised_watch()):
        (chosen, rejected), counts = pairs_of(i), passes.counts(i)
        if kto:
            chosen = jax.tree.map(lambda a, b: np.concatenate([a, b]), chosen, rejected)
            rejected, counts = exchange_answers(chosen, start.tokenizer.pad), np.tile(counts, 2)
        # Of a pair that does not count no token is predicted: its loss is a number that no parameter moves.
        both = [replace(rows, predict=rows.predict & counts[:, None]) for rows in (chosen, rejected)]
        state, metrics = program(state, shard_rows(tuple(both), mesh), coef, (reference, base))
        stage.log(i, values(metrics))
        stage.save(i, state, run.runtime.save_every)
    return result(stage, start)


def pairs(
    rankings: Sequence[Ranking], model: Trained, passes: Epochs, run: Run, role: str
) -> Callable[[int], tuple[TextBatch, TextBatch]]:
    """The pairs of step i: of each ranking two answers of different rank, the preferred ones first."""
    t, length, number = model.tokenizer, model.format.context, run.numpy_seed(role)

    def of_step(i: int) -> tuple[TextBatch, TextBatch]:
        rng = np.random.default_rng([number, i])
        drawn = []
        for index in passes.indices(number, i):
            prompt, answers, ranks = rankings[index][:3]
            ordered = [(a, b) for a, b in permutations(range(len(ranks)), 2) if ranks[a] < ranks[b]]
            better, worse = ordered[rng.integers(len(ordered))]
            drawn.append((Demonstration(prompt, answers[better]), Demonstration(prompt, answers[worse])))
        chosen, rejected = (encode_demonstrations(list(side), t, length) for side in zip(*drawn, strict=True))
        return chosen, rejected

    return of_step


Step = Callable[[TrainState, tuple[TextBatch, TextBatch], Any, PyTree], tuple[TrainState, dict[str, Mean]]]


def pair_step(
    c: Preference, start: Trained, run: Run, optimiser, rate: TextCoef, objective: Callable | None
) -> tuple[Step, PreferenceCoef]:
    """(state, (chosen, rejected), coef, (reference, LoRA's base)) → (state, metrics); and coef."""
    decoder = LanguageModel(start.training(run.mesh))
    function, per_token = (objective, False) if objective else OBJECTIVES[c.objective]
    of_loss = (np.float32(x) for x in (c.beta, c.smoothing, c.margin, c.sft))

    def step(state: TrainState, both: tuple[TextBatch, TextBatch], coef: PreferenceCoef, frozen: tuple[PyTree, PyTree]):
        reference, base = frozen
        model = start.on_base(decoder, base)
        chosen, rejected = both
        of = partial(answer_logps, reference, model=model, per_token=per_token)
        batch = PairBatch(chosen, rejected, of(chosen)[0], of(rejected)[0])
        fixed = {"model": model, "optimiser": optimiser, "objective": function, "per_token": per_token}
        return preference_step(state, batch, coef, schedule=c.schedule, **fixed)

    return step, PreferenceCoef(*of_loss, rate=rate)


def kto_step(
    c: Preference, start: Trained, run: Run, optimiser, rate: TextCoef, objective: Callable | None
) -> tuple[Step, KTOCoef]:
    """(state, (rows, mismatched rows), coef, (reference, LoRA's base)) → (state, metrics), the first half
    of the rows liked; and coef."""
    decoder = LanguageModel(start.training(run.mesh))
    of_loss = (np.float32(x) for x in (c.beta, c.desirable, c.undesirable))

    def step(state: TrainState, both: tuple[TextBatch, TextBatch], coef: KTOCoef, frozen: tuple[PyTree, PyTree]):
        reference, base = frozen
        model = start.on_base(decoder, base)
        rows, mismatched = both
        of = partial(answer_logps, reference, model=model, per_token=False)
        liked = jnp.arange(len(rows.tokens)) < len(rows.tokens) // 2
        batch = JudgedBatch(rows, liked, of(rows)[0], mismatched, of(mismatched)[0])
        return judged_step(state, batch, coef, model=model, optimiser=optimiser, schedule=c.schedule)

    return step, KTOCoef(*of_loss, rate=rate)
