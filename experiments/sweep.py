"""PPO-ptx under a table of coefficients and several seeds, as one program.

    python experiments/sweep.py configs/ablation.toml --sweep.table "zip lr=1e-4,2e-4 value_lr=1e-3,2e-3"

Every setting runs with every seed; a member is one of both. All members share what comes before PPO (pretraining, SFT,
reward model, RL initialisation): the seeds differ in the prompts' order and in sampling, not in the world. Coefficients and
seeds are arguments: one compilation serves all members, `sweep.together` of them vmapped at a time, spread over
`sweep.devices`. What comes before PPO runs on [mesh].
Writes sweep.csv (a line a member) and sweep.json (the mean over the seeds that did not diverge, which n counts, and its 95 %
t interval, a setting).
"""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from experiments import instructgpt
from rlhf_jax.config import Checked, Count
from rlhf_jax.data import Table, coefficient_table, content_sha256
from rlhf_jax.equations import values
from rlhf_jax.errors import InputError
from rlhf_jax.evals import Estimate, over_seeds, scale_of
from rlhf_jax.models import LanguageModel, ScalarModel
from rlhf_jax.runtime import Stage, cores_as_devices, info, make_mesh, place, run, shard_rows, write_atomically
from rlhf_jax.stages import (
    PPO,
    Judge,
    Loaded,
    alignment_tax,
    batches,
    begin,
    distance,
    helpful,
    judge_of,
    loaded,
    networks,
    open_stage,
    parents,
    reference_moments,
    whole,
    write,
)
from rlhf_jax.steps import Frozen, Models, PPOCoef, initial_state, iteration
from rlhf_jax.types import PPOBatch, PPOState

LOGGED = (
    "objective/kl",
    "objective/kl_exact",
    "objective/reward_model",
    "objective/rlhf_reward",
    "objective/entropy",
    "answer/length",
    "loss/pretrain",
    "policy/grad_cosine",
    "policy/ema_lag",
)


@dataclass(frozen=True)
class Sweep(Checked):
    """A table of coefficients, each row of which runs with every seed."""

    table: (
        str  # of coefficients of [ppo]: "prod beta=0,0.1 gamma=0,1", "zip lr=1e-4,2e-4 value_lr=1e-3,2e-3", or a .csv
    )
    seeds: Count = 3  # of PPO; the members share everything before it
    together: Count = 1  # members that are vmapped at a time
    devices: Count = 2  # that the members are spread over; where there is no accelerator, so many cores


@dataclass(frozen=True, kw_only=True)
class Config(instructgpt.Config):
    sweep: Sweep


class Member(NamedTuple):
    """One setting with one seed. index: its row of every leaf."""

    index: int
    setting: int
    seed: int
    coefficients: dict[str, float]

    @property
    def label(self) -> str:
        return " ".join(f"{name}={value:g}" for name, value in (self.coefficients | {"seed": self.seed}).items())


def table_of(c: Config) -> Table:
    table = coefficient_table(c.sweep.table, PPOCoef._fields)
    if c.ppo.schedule == "constant" and {"lr_steps", "lr_floor"} & table.keys():
        raise InputError(
            'lr_steps and lr_floor mean nothing to a constant rate; set ppo.schedule to "linear" or "cosine"'
        )
    for row in zip(*(column.tolist() for column in table.values()), strict=True):
        require_coefficients(c.ppo, dict(zip(table, row, strict=True)))
    return table


def require_coefficients(ppo: PPO, row: dict[str, float]) -> None:
    """InputError: what [ppo] would refuse."""
    whole = {name: int(x) for name, x in row.items() if isinstance(getattr(ppo, name), int) and x.is_integer()}
    try:
        replace(ppo, **row | whole)
    except InputError as error:
        raise InputError(f"sweep.table: {error}") from None


def members_of(c: Config) -> list[Member]:
    table, seeds = table_of(c), c.sweep.seeds
    settings = [
        dict(zip(table, row, strict=True)) for row in zip(*(column.tolist() for column in table.values()), strict=True)
    ]
    return [Member(i * seeds + s, i, s, setting) for i, setting in enumerate(settings) for s in range(seeds)]


def require_sweep(c: Config) -> None:
    """InputError: a table that cannot be read, members that do not divide over the devices, or mesh.pmap."""
    members, devices, together = len(members_of(c)), c.sweep.devices, c.sweep.together
    if c.mesh.pmap:
        raise InputError("mesh.pmap spreads one run over the devices, and a sweep spreads its members; set it to false")
    if members % (devices * together):
        raise InputError(
            f"{members} members do not divide into groups of sweep.together = {together} on sweep.devices = {devices}; "
            "choose divisors"
        )


Iterate = Callable[..., tuple[PPOState, dict[str, Any]]]


def program(one: Iterate, together: int, mesh: Mesh) -> Iterate:
    """(states, batches, coefficients, frozen) → (states, metrics), all but frozen with an axis of members in front, which
    is spread over the mesh; each device goes through its members so many at a time."""

    def members(states: PPOState, batches: PPOBatch, coefs: PPOCoef, frozen: Frozen):
        return jax.lax.map(lambda member: one(*member, frozen), (states, batches, coefs), batch_size=together)

    each, whole = PartitionSpec("data"), PartitionSpec()
    spread = jax.shard_map(members, mesh=mesh, in_specs=(each, each, each, whole), out_specs=each, check_vma=False)
    one_core_each = {"xla_cpu_multi_thread_eigen": False} if mesh.size > 1 and jax.default_backend() == "cpu" else None
    return jax.jit(spread, donate_argnums=0, compiler_options=one_core_each)


def copied(state: PPOState, members: Sequence[Member]) -> PPOState:
    """The state of every member: the same but for its key, which its seed deals out."""
    keys = jax.vmap(lambda seed: jax.random.fold_in(state.key, seed))(jnp.array([m.seed for m in members]))
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(members), *x.shape)), replace(state, key=None))
    return replace(copies, key=keys)


def member_coefficients(c: Config, members: Sequence[Member]) -> PPOCoef:
    each = [c.ppo.coefficients._replace(**m.coefficients) for m in members]
    return jax.tree.map(lambda *leaves: np.array(leaves, np.float32), *each)


def member_batches(c: Config, before: instructgpt.Before, members: Sequence[Member]) -> Callable[[int], PPOBatch]:
    data, start = before.data, before.rl_init
    of_seed = [
        batches(data.prompts.train, data.text, start, c.ppo, c.run, 1, f"sweep {seed}") for seed in range(c.sweep.seeds)
    ]

    def of_step(i: int) -> PPOBatch:
        drawn = [batch(i)[1] for batch in of_seed]
        return jax.tree.map(lambda *leaves: np.stack([leaves[m.seed] for m in members]), *drawn)

    return of_step


def sweep_stage(c: Config, before: instructgpt.Before) -> Stage:
    ppo = {name: value for name, value in asdict(c.ppo).items() if name != "iterations"}
    table = {name: column.tolist() for name, column in table_of(c).items()}
    rewards = {f"reward_{i}": model.sha256 for i, model in enumerate(before.rewards)}
    inputs = {
        **parents(start=before.rl_init),
        **rewards,
        "prompts": content_sha256(before.data.prompts.train),
        "text": content_sha256(before.data.text.train),
    }
    settings = {"ppo": ppo, "sweep": {"table": table, "seeds": c.sweep.seeds}}
    return open_stage(c.folder / "sweep", c.ppo.iterations, before.rl_init, settings, inputs, {}, c.run, part="")


def train(c: Config, before: instructgpt.Before) -> None:
    stage, members, start = sweep_stage(c, before), members_of(c), before.rl_init
    if stage.done():
        return
    devices, together = c.sweep.devices, c.sweep.together
    info(f"sweep: {len(members)} members, {len(members) // c.sweep.seeds} settings")
    mesh, run = make_mesh(devices), c.run
    frozen, value, value_model = networks(start, before.rewards, None, run, make_mesh(1), "sweep")
    models = Models(LanguageModel(start.decoder), ScalarModel(value_model.decoder))
    optimisers = run.optimisers()
    one = partial(iteration, models=models, optimisers=optimisers, plan=c.ppo.plan(start), form=c.ppo.form)
    step, coefs = program(one, together, mesh), shard_rows(member_coefficients(c, members), mesh)
    state = initial_state(frozen.sft, value, optimisers, run.key("sweep"))
    if c.ppo.score_norm == "fixed":
        fit = before.data.prompts.train
        moments = reference_moments(start, frozen, before.rewards, fit, c.ppo, run, make_mesh(1))
        state = replace(state, scores=moments)
    state = stage.resume(shard_rows(copied(state, members), mesh))
    frozen, batch_of = place(frozen, mesh), member_batches(c, before, members)
    for i in stage.steps(int(state.step[0])):
        state, metrics = step(state, shard_rows(batch_of(i), mesh), coefs, frozen)
        stage.log(i, by_member(members, values(metrics)))
        stage.save(i, state, run.runtime.save_every)


def by_member(members: Sequence[Member], metrics: dict[str, jax.Array]) -> dict[str, float]:
    """Figures by "loss/pretrain/beta=0.1 seed=0". A diverged member is left out, so that it does not end the others."""
    logged = {name: np.asarray(metrics[name]) for name in LOGGED if name in metrics}
    return {
        f"{name}/{m.label}": float(each[m.index])
        for name, each in logged.items()
        for m in members
        if math.isfinite(each[m.index])
    }


def measure(c: Config, before: instructgpt.Before) -> list[dict[str, float]]:
    """Of each member its figures on held-out prompts and text, as means; none for one that has diverged.

    Written to sweep/figures.jsonl one by one, so that an interruption costs one member.
    """
    stage, members, run = sweep_stage(c, before), members_of(c), c.run
    path = stage.folder / "figures.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = [row["figures"] for row in rows if row["sweep"] == stage.sha256]
    if len(done) == len(members):
        return done
    results, _ = stage.checkpoints.read(c.ppo.part, stage.total)
    start = before.rl_init
    base = start.lora_base.learned() if start.lora_base else None
    judge, reference = judge_of(before.data, start, before.rewards[0], c.evaluate), loaded(start)
    others = {"base": before.base, "sft": before.sft}
    written = {name: write(loaded(model), judge, c.evaluate, run) for name, model in others.items()}
    for m in members[len(done) :]:
        info(f"sweep: evaluates {m.label}")
        params = whole(jax.tree.map(lambda x, m=m: x[m.index], results), base, start.lora)
        done.append(figures_of(c, before, judge, written, Loaded(start, params), reference))
        lines = (json.dumps({"sweep": stage.sha256, "member": i, "figures": f}) for i, f in enumerate(done))
        write_atomically(path, "".join(f"{line}\n" for line in lines))
    return done


def figures_of(
    c: Config, before: instructgpt.Before, judge: Judge, written: dict, this: Loaded, reference: Loaded
) -> dict[str, float]:
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(this.params)):
        return {}
    mine = write(this, judge, c.evaluate, c.run)
    figures = helpful(judge, written | {"member": mine}, "member")
    figures |= distance(this, mine, reference, "rl_init", c.evaluate, c.run)
    figures |= alignment_tax(this, before.data, c.run)
    return {name: figure.mean for name, figure in figures.items()}


class Setting(NamedTuple):
    """A row of the table over its seeds."""

    coefficients: dict[str, float]
    figures: dict[str, Estimate]  # over the seeds
    by_seed: list[dict[str, float]]  # metric → figure of the seeds that did not diverge; {} for one that did


def sweep(c: Config) -> tuple[list[Setting], instructgpt.Before]:
    """Everything before PPO where it is not done, the sweep, and its figures."""
    cores_as_devices(c.sweep.devices)
    require_sweep(c)  # before anything is trained
    before = instructgpt.before_ppo(c)
    train(c, before)
    measured, members = measure(c, before), members_of(c)
    settings = []
    for i in range(len(members) // c.sweep.seeds):
        mine = [m for m in members if m.setting == i]
        by_seed = [measured[m.index] for m in mine]
        finite = [row for row in by_seed if row]
        names = finite[0] if finite else {}
        figures = {name: over_seeds([alone(row[name]) for row in finite], scale_of(name)) for name in names}
        settings.append(Setting(mine[0].coefficients, figures, by_seed))
    as_json = [s._asdict() | {"figures": {k: e._asdict() for k, e in s.figures.items()}} for s in settings]
    write_atomically(c.folder / "sweep.json", json.dumps(as_json, indent=1))
    write_atomically(c.folder / "sweep.csv", as_csv(members, measured))
    return settings, before


def alone(figure: float) -> Estimate:
    """Of one member, whose own interval was not kept."""
    return Estimate(figure, None, None, 1)


def as_csv(members: Sequence[Member], measured: Sequence[dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in measured for name in row))
    buffer = io.StringIO()
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow([*members[0].coefficients, "seed", *names])
    for m in members:
        lines.writerow([*m.coefficients.values(), m.seed, *(measured[m.index].get(name, "") for name in names)])
    return buffer.getvalue()


SHOWN = ("rating", "reward", "win_rate/vs_sft", "kl/from_rl_init", "pretrain/loss", "closed/facts")


def as_text(settings: Sequence[Setting]) -> str:
    shown = [name for name in SHOWN if any(name in s.figures for s in settings)]
    rows = [[*settings[0].coefficients, *shown]]
    for s in settings:
        cells = [str(s.figures[name]) if name in s.figures else "diverged" for name in shown]
        rows.append([*(f"{value:g}" for value in s.coefficients.values()), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


if __name__ == "__main__":
    run(lambda: print(as_text(sweep(begin(Config, __file__, __doc__))[0])))
