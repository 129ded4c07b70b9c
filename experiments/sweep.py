"""PPO-ptx under a table of coefficients and several seeds, as one program.

    python experiments/sweep.py configs/ablation.toml --sweep.table "zip lr=1e-4,2e-4 value_lr=1e-3,2e-3"

Every setting runs with every seed; a member is one of both. All members share what comes before PPO (pretraining, SFT,
reward model, RL initialisation): the seeds differ in the prompts' order and in sampling, not in the world. Coefficients and
seeds are arguments: one compilation serves all members, `sweep.together` of them vmapped at a time, spread over
`sweep.devices`. What comes before PPO runs on [mesh].
Writes sweep.csv (a line a member) and sweep.json (the mean over the seeds and its 95 % t interval, a setting).
"""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from experiments.evaluate import Judge, alignment_tax, distance, helpful, judge_of, write
from experiments.instructgpt import before_ppo
from experiments.lora import frozen_base, whole
from experiments.ppo_ptx import (
    Frozen,
    batches_of,
    coefficients,
    first_state,
    frozen_of,
    iteration_of,
    parents_of,
    starting_state,
    untrained,
)
from experiments.pretrain import pretrained
from experiments.recipe import Config, Sweep, configured, stage
from experiments.sft import best_epoch, fine_tuned
from rlhf_jax.data import Table, coefficient_table
from rlhf_jax.equations import Mean, values
from rlhf_jax.errors import InputError
from rlhf_jax.evals import Estimate, mean_interval
from rlhf_jax.runtime import Stage, cores_as_devices, make_mesh, place, run, say, shard_rows, write_atomically
from rlhf_jax.steps import PPOCoef
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
)


class Member(NamedTuple):
    """One setting with one seed. index: its row of every leaf."""

    index: int
    setting: int
    seed: int
    coefficients: dict[str, float]

    @property
    def label(self) -> str:
        return " ".join(f"{name}={value:g}" for name, value in (self.coefficients | {"seed": self.seed}).items())


def section(config: Config) -> Sweep:
    if config.sweep is None:
        raise InputError("the config has no [sweep] section; add one, see configs/ablation.toml")
    return config.sweep


def table_of(config: Config) -> Table:
    table = coefficient_table(section(config).table, PPOCoef._fields)
    if not config.ppo.pretrain_examples and np.any(table.get("gamma", config.ppo.gamma)):
        raise InputError("gamma needs pretraining rows; set ppo.pretrain_examples above 0")
    return table


def members_of(config: Config) -> list[Member]:
    table, seeds = table_of(config), section(config).seeds
    settings = [dict(zip(table, row, strict=True)) for row in zip(*(c.tolist() for c in table.values()), strict=True)]
    return [Member(i * seeds + s, i, s, setting) for i, setting in enumerate(settings) for s in range(seeds)]


Iteration = Callable[..., tuple[PPOState, dict[str, Mean]]]


def program(one: Iteration, together: int, mesh: Mesh) -> Iteration:
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


def member_coefficients(config: Config, members: Sequence[Member]) -> PPOCoef:
    each = [coefficients(config.ppo)._replace(**m.coefficients) for m in members]
    return jax.tree.map(lambda *leaves: np.array(leaves, np.float32), *each)


def member_batches(config: Config, members: Sequence[Member]) -> Callable[[int], PPOBatch]:
    of_seed = [batches_of(config, f"sweep {seed}") for seed in range(section(config).seeds)]

    def batches(i: int) -> PPOBatch:
        drawn = [batch(i) for batch in of_seed]
        return jax.tree.map(lambda *leaves: np.stack([leaves[m.seed] for m in members]), *drawn)

    return batches


def sweep_stage(config: Config) -> Stage:
    sections = config.sections("pretrain", "sft", "rl_init", "reward", "ppo")
    sections["sweep"] = {"table": {k: v.tolist() for k, v in table_of(config).items()}, "seeds": section(config).seeds}
    return stage(config, "sweep", config.ppo.iterations, sections, parents_of(config))


def train(config: Config) -> None:
    this, members = sweep_stage(config), members_of(config)
    if this.finished:
        return
    devices, together = section(config).devices, section(config).together
    if config.mesh.pmap:
        raise InputError("mesh.pmap spreads one run over the devices, and a sweep spreads its members; set it to false")
    if len(members) % (devices * together):
        raise InputError(
            f"{len(members)} members do not divide into groups of sweep.together = {together} on sweep.devices = {devices}; "
            "choose divisors"
        )
    say(f"sweep: {len(members)} members, {len(members) // section(config).seeds} settings")
    mesh, frozen, batches = make_mesh(devices), frozen_of(config), member_batches(config, members)
    step, coefs = program(iteration_of(config), together, mesh), shard_rows(member_coefficients(config, members), mesh)
    state = this.resume(shard_rows(copied(starting_state(config, "sweep", frozen, make_mesh(1)), members), mesh))
    frozen = place(frozen, mesh)
    for i in this.steps(int(state.step[0])):
        state, metrics = step(state, shard_rows(batches(i), mesh), coefs, frozen)
        this.log(i, by_member(members, values(metrics)))
        this.save(i, state, config.runtime.save_every)


def by_member(members: Sequence[Member], metrics: dict[str, jax.Array]) -> dict[str, float]:
    """Figures by "loss/pretrain/beta=0.1 seed=0". A diverged member is left out, so that it does not end the others."""
    logged = {name: np.asarray(metrics[name]) for name in LOGGED if name in metrics}
    return {
        f"{name}/{m.label}": float(each[m.index])
        for name, each in logged.items()
        for m in members
        if math.isfinite(each[m.index])
    }


def measure(config: Config) -> list[dict[str, float]]:
    """Of each member its figures on held-out prompts and text, as means; none for one that has diverged.

    Written to sweep/figures.jsonl one by one, so that an interruption costs one member.
    """
    this, members = sweep_stage(config), members_of(config)
    path = this.folder / "figures.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = [row["figures"] for row in rows if row["sweep"] == this.sha256]
    if len(done) == len(members):
        return done
    shapes = jax.eval_shape(lambda: copied(first_state(config, "sweep", untrained(config)), members))
    ema = this.load(shapes)[0].ema
    judge, base = judge_of(config), frozen_base(config)
    others = {"base": pretrained(config), "sft": fine_tuned(config, "sft", best_epoch(config))}
    written = {name: write(config, judge, params) for name, params in others.items()}
    for m in members[len(done) :]:
        say(f"sweep: evaluates {m.label}")
        params = whole(config, jax.tree.map(lambda x, m=m: x[m.index], ema), base)
        done.append(figures_of(config, judge, written, params))
        lines = (json.dumps({"sweep": this.sha256, "member": i, "figures": f}) for i, f in enumerate(done))
        write_atomically(path, "".join(f"{line}\n" for line in lines))
    return done


def figures_of(config: Config, judge: Judge, written: dict, params: PyTree) -> dict[str, float]:
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)):
        return {}
    mine = write(config, judge, params)
    figures = helpful(judge, written | {"member": mine}, "member") | distance(config, params, mine)
    figures |= alignment_tax(config, params, judge.truth)
    return {name: figure.mean for name, figure in figures.items()}


class Setting(NamedTuple):
    """A row of the table over its seeds."""

    coefficients: dict[str, float]
    figures: dict[str, Estimate]  # over the seeds
    by_seed: list[dict[str, float]]  # metric → figure of the seeds that did not diverge; {} for one that did


def sweep(config: Config) -> list[Setting]:
    """Everything before PPO where it is not done, the sweep, and its figures."""
    cores_as_devices(section(config).devices)
    before_ppo(config)
    train(config)
    measured, members = measure(config), members_of(config)
    settings = []
    for i in range(len(members) // section(config).seeds):
        mine = [m for m in members if m.setting == i]
        by_seed = [measured[m.index] for m in mine]
        whole = [row for row in by_seed if row]
        figures = {name: mean_interval([row[name] for row in whole]) for name in (whole[0] if whole else {})}
        settings.append(Setting(mine[0].coefficients, figures, by_seed))
    out = Path(config.out)
    as_json = [s._asdict() | {"figures": {k: e._asdict() for k, e in s.figures.items()}} for s in settings]
    write_atomically(out / "sweep.json", json.dumps(as_json, indent=1))
    write_atomically(out / "sweep.csv", as_csv(members, measured))
    return settings


def as_csv(members: Sequence[Member], measured: Sequence[dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in measured for name in row))
    buffer = io.StringIO()
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow([*members[0].coefficients, "seed", *names])
    for m in members:
        lines.writerow([*m.coefficients.values(), m.seed, *(measured[m.index].get(name, "") for name in names)])
    return buffer.getvalue()


SHOWN = ("rating", "reward", "win_rate/vs_sft", "kl/from_sft", "pretrain/loss", "closed/facts")


def as_text(settings: Sequence[Setting]) -> str:
    shown = [name for name in SHOWN if any(name in s.figures for s in settings)]
    rows = [[*settings[0].coefficients, *shown]]
    for s in settings:
        cells = [str(s.figures[name]) if name in s.figures else "diverged" for name in shown]
        rows.append([*(f"{value:g}" for value in s.coefficients.values()), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


if __name__ == "__main__":
    run(lambda: print(as_text(sweep(configured()))))
