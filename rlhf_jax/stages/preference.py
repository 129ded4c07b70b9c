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
from jaxtyping import Bool, PyTree
from numpy import ndarray

from rlhf_jax.config import Checked, Count, Natural, NotNegative, Positive, Share
from rlhf_jax.data import (
    Demonstration,
    Judged,
    Ranking,
    content_sha256,
    encode_demonstrations,
    exchange_answers,
)
from rlhf_jax.equations import Mean, values
from rlhf_jax.errors import InputError
from rlhf_jax.evals import Task
from rlhf_jax.models import LanguageModel
from rlhf_jax.runtime import mapped, place, shard_rows
from rlhf_jax.stages.measuring import looked
from rlhf_jax.stages.model import Trained, whole
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.training import (
    Epochs,
    judged_that_fit,
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
from rlhf_jax.types import AnyArray, JudgedBatch, PairBatch, TextBatch, TrainState

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
    batch: Count = 64  # pairs (App. B), or answers with labels
    lr: Positive = 1e-6  # at the peak (App. B)
    floor: Share = 1.0  # share of lr that the schedule ends at; 1 is no decay (App. B)
    warmup: Natural = 150  # steps (App. B)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"  # of the learning rate


def preference(
    folder: Path | str,
    start: Trained,
    rankings: Sequence[Ranking] | Sequence[Judged],
    settings: Preference = Preference(),
    run: Run = RUN,
    *,
    objective: Callable | None = None,
    looks: Sequence[Task] = (),
) -> Trained:
    """Trains a language model on pairs of ranked answers, itself being the reference.

    Of each ranking one pair is drawn anew in each epoch; KTO takes it as a liked and a disliked answer, or learns from
    answers that were liked or not, each by itself (`read_feedback`), settings.batch of them a step. objective: a loss on
    pairs of one's own in the place of settings.objective, as rlhf_jax.steps.dpo. looks: tasks, whose figures are logged at
    the end of each epoch, as task/figure. The folder's name deals out the order.
    Rankings with nothing but ties are left out. With LoRA corrections are trained, and the reference is the model with those
    that it starts from. InputError: the folder was made from something else; a ranking is broken; answers with labels for
    pairs; a reward model to start from.
    """
    c, folder = settings, Path(folder)
    require_belonging(start)
    kto = c.objective == "kto" and objective is None
    judged = [row for row in rankings if isinstance(row, Judged)]
    ranked = [row for row in rankings if not isinstance(row, Judged)]
    if judged and (ranked or not kto):
        alone = (
            "come with rankings; give one of the two"
            if ranked
            else 'are in no pairs; set preference.objective to "kto"'
        )
        raise InputError(f"answers with labels {alone}")
    if kto and c.batch < 2:
        raise InputError("KTO pairs each prompt with another's answer; set preference.batch to at least 2")
    if judged:
        rows, fit = judged, judged_that_fit(judged, start)
        drawing = partial(labels, fit)
    else:
        rows = rankings_to_learn(ranked)
        fit = rankings_that_fit(rows, start)
        drawing = partial(liked_or_not if kto else counted_pairs, fit)
    passes = Epochs(c.epochs, len(fit), c.batch)
    stage = open_stage(
        folder,
        passes.steps,
        start,
        {"preference": settings_without(c, "epochs")},
        {**parents(start=start), "rankings": content_sha256(rows)},
        {"objective": objective} if objective else {},
        run,
        fixed_length=schedule_ends(c.schedule, folder) or passes.filled_up(folder),
    )
    if stage.done():
        return result(stage, start)
    mesh, role = run.mesh.mesh(), folder.name
    batch_of = drawing(start, passes, run, role)
    first, base = start.start(run, mesh, "policy", run.key(f"{role} corrections"))
    reference = place(first, mesh, run.mesh.rule("reference"))
    optimiser = run.optimiser.make()
    state = TrainState(jnp.int32(0), reference, optimiser.init(reference), run.key(role))
    state = stage.resume(place(state, mesh, run.mesh.rule("policy")))
    rate = text_coef(c.lr, stage.total, c.floor, c.warmup)
    one, coef = (kto_step if kto else pair_step)(c, start, run, optimiser, rate, objective)
    program, coef = mapped(one, mesh, run.mesh.pmap), place(coef, mesh)
    for i in stage.steps(int(state.step), supervised_watch()):
        state, metrics = program(state, shard_rows(batch_of(i), mesh), coef, (reference, base))
        metrics = values(metrics)
        if looks and passes.end_in(i):
            with jax.set_mesh(mesh):
                metrics |= looked(looks, start, whole(state.params, base, start.lora), run)
        stage.log(i, metrics)
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


def counted_pairs(
    rankings: Sequence[Ranking], model: Trained, passes: Epochs, run: Run, role: str
) -> Callable[[int], tuple[TextBatch, TextBatch]]:
    """The same, of which some do not count."""
    of_step = pairs(rankings, model, passes, run, role)

    def batch(i: int) -> tuple[TextBatch, TextBatch]:
        chosen, rejected = of_step(i)
        return counted(chosen, passes.counts(i)), counted(rejected, passes.counts(i))

    return batch


# Answers, those of other prompts, and which of the former were liked.
Judgements = tuple[TextBatch, TextBatch, Bool[AnyArray, " B"]]


def liked_or_not(
    rankings: Sequence[Ranking], model: Trained, passes: Epochs, run: Run, role: str
) -> Callable[[int], Judgements]:
    """The same pairs for KTO: all that are preferred as liked answers, then the others."""
    of_step = pairs(rankings, model, passes, run, role)

    def batch(i: int) -> Judgements:
        rows = jax.tree.map(lambda a, b: np.concatenate([a, b]), *of_step(i))
        return judgements(rows, np.arange(2 * passes.batch) < passes.batch, np.tile(passes.counts(i), 2), model)

    return batch


def labels(
    answers: Sequence[Judged], model: Trained, passes: Epochs, run: Run, role: str
) -> Callable[[int], Judgements]:
    """The answers of step i with their labels, each by itself; any number of a batch may be liked."""
    number = run.numpy_seed(role)

    def batch(i: int) -> Judgements:
        drawn = [answers[index] for index in passes.indices(number, i)]
        of = [Demonstration(row.prompt, row.answer) for row in drawn]
        rows = encode_demonstrations(of, model.tokenizer, model.format.context)
        return judgements(rows, np.array([row.liked for row in drawn], bool), passes.counts(i), model)

    return batch


def judgements(rows: TextBatch, liked: Bool[ndarray, " B"], counts: Bool[ndarray, " B"], model: Trained) -> Judgements:
    """With the answers of other rows beside them, for the KL."""
    return counted(rows, counts), counted(exchange_answers(rows, model.tokenizer.pad), counts), liked


def counted(rows: TextBatch, counts: Bool[ndarray, " B"]) -> TextBatch:
    """Of rows that do not count no token is predicted: their loss is a number that no parameter moves."""
    return replace(rows, predict=rows.predict & counts[:, None])


Step = Callable[[TrainState, Any, Any, PyTree], tuple[TrainState, dict[str, Mean]]]


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
    """(state, (rows, mismatched rows, which were liked), coef, (reference, LoRA's base)) → (state, metrics); and coef."""
    decoder = LanguageModel(start.training(run.mesh))
    of_loss = (np.float32(x) for x in (c.beta, c.desirable, c.undesirable))

    def step(state: TrainState, given: Judgements, coef: KTOCoef, frozen: tuple[PyTree, PyTree]):
        reference, base = frozen
        model = start.on_base(decoder, base)
        rows, mismatched, liked = given
        of = partial(answer_logps, reference, model=model, per_token=False)
        batch = JudgedBatch(rows, liked, of(rows)[0], mismatched, of(mismatched)[0])
        return judged_step(state, batch, coef, model=model, optimiser=optimiser, schedule=c.schedule)

    return step, KTOCoef(*of_loss, rate=rate)
