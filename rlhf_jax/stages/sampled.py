"""Sampling without learning: rollouts of a model and what they earn, as an iteration of RL would have them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.data import Prompt, content_sha256
from rlhf_jax.equations import nothing_seen
from rlhf_jax.errors import InputError
from rlhf_jax.models import LanguageModel, ScalarModel
from rlhf_jax.runtime import Made, Origin, info, meet, place, progress, shard_rows
from rlhf_jax.stages.iterations import drawing, on_host, recording
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.policy import PPO, batches, networks
from rlhf_jax.stages.rewards import RewardFunction, Rewards, opinions_for_all, parts_earned, rewards_of, together
from rlhf_jax.stages.rollouts import ROLLOUTS, Drawn, few, path_of, say, texts_of
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.text_reward import read_as_text
from rlhf_jax.stages.training import open_stage, parents, prompts_that_fit, require_belonging, settings_without
from rlhf_jax.steps import PPO_PTX, Iteration, Models
from rlhf_jax.types import PPOState


def sample_rollouts(
    folder: Path | str,
    model: Trained,
    reward: Trained | RewardFunction | Sequence[Trained | RewardFunction] | Rewards,
    prompts: Sequence[Prompt],
    settings: PPO = PPO(),
    run: Run = RUN,
    *,
    reference: Trained | None = None,
    iteration: Iteration = PPO_PTX,
    answers: int = 1,
    order: str = "ppo",
) -> Path:
    """Lets a model answer prompts for settings.iterations batches, and records the answers with their rewards in
    folder/rollouts, as `policy` does; nothing is trained. It returns the folder.

    reference: what the KL is taken from; without it the model itself, and `policy` can learn from the rollouts (replay): in
    its first iteration what it learns from its own. The other arguments are those of `policy`; of the settings it reads how
    to sample. Calling it again continues, and where it is done it returns at once. InputError: the folder was made from
    something else; models that do not belong together; what reward did wrong.
    """
    c, folder = settings, Path(folder)
    if answers < 1 or c.batch % answers:
        raise InputError(
            f"ppo.batch is {c.batch} and answers {answers}, which does not divide it; set answers to a divisor"
        )
    rewards = read_as_text(rewards_of(reward), model, None)
    models = tuple(rewards.models)
    require_belonging(model, models)
    require_reference(model, reference)
    fit = prompts_that_fit(prompts, model, "train")
    weights = {"weights": list(rewards.weights)} if len(rewards.weights) else {}
    more = {} if reference is None else {"reference": reference}
    code = {"sample": iteration.sample, **rewards.code}
    record: dict[str, Any] = open_stage(
        folder,
        c.iterations,
        model,
        {"ppo": settings_without(c, "iterations"), "answers": answers, "order": order, **weights},
        {**parents(start=model, **more), **rewards.inputs, "prompts": content_sha256(fit)},
        code,
        run,
    ).record
    about = {**record["settings"], "iterations": c.iterations}
    made = Made(folder, Origin(about, record["inputs"], code, record["model"]))
    if made.complete:
        info(f"{folder.name}: done, {c.iterations} iterations")
        return folder
    made.start()
    mesh, plan = run.mesh.mesh(), c.plan(model)
    batch_of = batches(fit, None, model, c.plain(), run, answers, order)
    frozen, _, like = networks(model, models, None, run, mesh, folder.name, has_value=False)
    state = place(at_step(0, frozen.sft, run.key(folder.name)), mesh, run.mesh.rule())
    if reference is not None:
        frozen = frozen._replace(sft=reference.start(run, mesh, "reference", run.key("reference corrections"))[0])
    frozen = place(frozen, mesh, run.mesh.rule())
    nets = Models(LanguageModel(model.training(run.mesh)), ScalarModel(like.training(run.mesh)))
    draw = drawing(iteration, {"models": nets, "plan": plan}, mesh, run)
    write = recording(folder / ROLLOUTS, folder.name, record, c.iterations, 1)
    files = [path_of(folder / ROLLOUTS, i + 1) for i in range(c.iterations)]
    todo = [i for i, path in enumerate(files) if not path.is_file()]
    meet("which rollouts are there")
    with progress(folder.name, c.iterations, c.iterations - len(todo)) as advance:
        for i in todo:
            chosen, batch = batch_of(i)
            x, scores = draw(replace(state, step=place(jnp.int32(i), mesh)), shard_rows(batch.prompts, mesh), frozen)
            x, scores = on_host((x, scores), mesh)
            if rewards.functions:
                texts = texts_of((x.y.tokens, x.y.mask), model, i)
                said = opinions_for_all(rewards, chosen, texts, run.runtime.reward_seconds)
                scores, earned = together(rewards, said, scores), parts_earned(rewards, said, scores)
            else:
                assert scores is not None
                earned = dict(zip(rewards.recorded, scores, strict=True))
            write(i + 1, chosen, batch.prompts, Drawn(x, scores, {}), earned, model)
            if i == todo[0]:
                say(folder.name, i + 1, few(chosen, Drawn(x, scores, {}), earned, model))
            advance(**{name: part.mean() for name, part in earned.items()})
    meet("the rollouts are written")
    made.finish(*(str(path.relative_to(folder)) for path in files))
    return folder


def require_reference(model: Trained, reference: Trained | None) -> None:
    """InputError: the KL cannot be taken from this one."""
    if reference is None:
        return
    require_belonging(reference)
    bases = [each.lora_base and each.lora_base.sha256 for each in (model, reference)]
    if reference.tokenizer.sha256 != model.tokenizer.sha256 or reference.decoder != model.decoder or len({*bases}) > 1:
        raise InputError(
            f"{reference.folder} and {model.folder} have different tokenizers, shapes or bases, and no KL from each other; "
            "give the model that training started from as the reference"
        )


def at_step(i: int, policy, key: jax.Array) -> PPOState:
    """A state of RL in which nothing learns."""
    no, one = jnp.bool_(False), jnp.float32(1.0)
    return PPOState(jnp.int32(i), policy, None, None, None, None, one, one, nothing_seen(), no, key)
