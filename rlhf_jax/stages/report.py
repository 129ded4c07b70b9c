"""The evaluation of a run: its models side by side on held-out data, as figures, samples and a page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from rlhf_jax.data import content_sha256
from rlhf_jax.evals import Estimate, table_text, write_report
from rlhf_jax.labelers import rating
from rlhf_jax.runtime import info, read_metrics, write_atomically
from rlhf_jax.stages.agreement import agreement_on
from rlhf_jax.stages.answers import AnswersToRank
from rlhf_jax.stages.datasets import DataSets
from rlhf_jax.stages.evaluation import (
    Evaluate,
    Figures,
    Judge,
    Written,
    alignment_tax,
    distance,
    harmless,
    helpful,
    judge_of,
    loaded,
    packed_loss,
    truthful,
    write,
)
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.run import RUN, Run

STAGES = ("pretrain", "sft", "rl_init", "reward_model", "ppo", "ppo_ptx")  # whose curves the page has


def evaluate(
    out: Path | str,
    models: Mapping[str, Trained],
    data: DataSets,
    reward: Trained,
    writer: Trained,
    answers: AnswersToRank,
    settings: Evaluate = Evaluate(),
    run: Run = RUN,
    *,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Figures]:
    """Compares models on held-out prompts and text, and writes evaluation.json, samples.json and report.html into `out`.

    models: by name; those of "base", "sft", "ppo" and "ppo_ptx" are compared, and "rl_init" is where RL started and the KL
    is taken from. writer: the model whose answers labelers rank. about: the settings that the page shows, and by which runs
    are put together (experiments/seeds.py). Nothing is done where nothing has changed since the last time.
    """
    c, out = settings, Path(out)
    origin = {
        "config": dict(about or {}),
        "models": {name: model.sha256 for name, model in models.items()},
        "reward_model": reward.sha256,
        "prompts": content_sha256(data.prompts.test),
        "text": content_sha256(data.text.valid),
        "batch": run.runtime.batch,
    }
    mark = out / "evaluated.json"
    if mark.exists() and json.loads(mark.read_text()) == json.loads(json.dumps(origin)):
        info(f"evaluation: done, {out / 'report.html'}")
        return {
            model: {name: Estimate(**figure) for name, figure in figures.items()}
            for model, figures in json.loads((out / "evaluation.json").read_text()).items()
        }
    judge, start = judge_of(data, models["rl_init"], reward, c), loaded(models["rl_init"])
    compared = {name: loaded(model) for name, model in models.items() if name != "rl_init"}
    written = {name: write(this, judge, c, run) for name, this in compared.items()}
    evaluation: dict[str, Figures] = {}
    for name, this in compared.items():
        info(f"evaluate: {name}")
        evaluation[name] = helpful(judge, written, name) | distance(this, written[name], start, run)
        evaluation[name] |= alignment_tax(this, data, run)
        if data.truth is not None:
            evaluation[name] |= truthful(this, data.truth, c, run) | harmless(this, data.truth, c, run)
    evaluation["rl_init"] = {"pretrain/loss": packed_loss(start, data, run)}
    evaluation["reward_model"] = agreement_on(data, judge.reward, writer, answers, c, run)
    as_json = {model: {k: e._asdict() for k, e in figures.items()} for model, figures in evaluation.items()}
    samples = samples_of(judge, written, c, run)
    write_atomically(out / "evaluation.json", json.dumps(as_json, indent=1))
    write_atomically(out / "samples.json", json.dumps(samples, indent=1))
    page(out, judge, as_json, samples, run, about or {})
    write_atomically(mark, json.dumps(origin))
    return evaluation


def compare(
    path: Path,
    name: str,
    model: Trained,
    others: Sequence[Trained],
    start: Trained,
    data: DataSets,
    reward: Trained,
    settings: Evaluate = Evaluate(),
    run: Run = RUN,
) -> Figures:
    """How one model stands against others on held-out prompts, how far it is from the one that it started from, and what it
    cost on pretraining text; written to `path` as JSON, and printed."""
    judge = judge_of(data, model, reward, settings)
    rivals = {other.folder.name: loaded(other) for other in others}
    this = loaded(model)
    written = {key: write(each, judge, settings, run) for key, each in (rivals | {name: this}).items()}
    figures = helpful(judge, written, name, list(rivals)) | distance(this, written[name], loaded(start), run)
    figures |= alignment_tax(this, data, run)
    as_json = {key: e._asdict() for key, e in figures.items()}
    write_atomically(path, json.dumps(as_json, indent=1))
    print(table_text({name: as_json}))
    return figures


def samples_of(judge: Judge, written: dict[str, Written], c: Evaluate, run: Run) -> list[dict]:
    """A dozen prompts, of different use-cases where there are such, with the models' answers side by side."""
    order = list(range(len(judge.prompts)))
    Random(run.seed).shuffle(order)
    rows: list[dict] = []
    seen: dict[str, int] = {}
    for i in order:
        category = judge.prompts[i].category
        seen[category] = seen.get(category, 0) + 1
        if category and seen[category] > 2:
            continue
        answers = {
            name: {
                "text": w.texts[i],
                "rating": rating(float(w.verdict[i])) if judge.questions else None,
                "reward": float(w.reward[i]),
            }
            for name, w in written.items()
        }
        text = judge.questions[i].text if judge.questions else judge.prompts[i].text
        rows.append({"prompt": text.strip(), "category": category, "answers": answers})
    return rows[: c.shown]


def page(out: Path, judge: Judge, evaluation: dict, samples: list[dict], run: Run, about: Mapping[str, Any]) -> None:
    """report.html, and its tables on the terminal."""
    curves = {name: read_metrics(out / name) for name in STAGES}
    models = {name: figures for name, figures in evaluation.items() if name not in ("rl_init", "reward_model")}
    notes = {
        "judge": judge.name,
        "seed": str(run.seed),
        "config": json.dumps(about, indent=1),
        "findings": findings(judge, evaluation),
    }
    write_report(out / "report.html", f"rlhf_jax: {out.name}", models, curves, samples, notes)
    print(table_text(models))
    print(table_text({"reward_model": evaluation["reward_model"]}))


def findings(judge: Judge, evaluation: dict) -> list[str]:
    """The run in a few sentences, each with its figures."""

    def percent(model: str, metric: str) -> str:
        e = evaluation[model][metric]
        return f"{100 * e['mean']:.0f} % ({100 * e['low']:.0f} to {100 * e['high']:.0f})"

    base, sft, ppo, ptx = (evaluation[m]["pretrain/loss"]["mean"] for m in ("base", "sft", "ppo", "ppo_ptx"))
    start, kl = evaluation["rl_init"]["pretrain/loss"]["mean"], evaluation["ppo_ptx"]["kl/from_sft"]["mean"]
    sentences = [
        f"PPO-ptx is preferred to SFT on {percent('ppo_ptx', 'win_rate/vs_sft')} of the held-out prompts and to base on "
        f"{percent('ppo_ptx', 'win_rate/vs_base')}; the judge is {judge.name}.",
        f"It is {kl:.1f} nats per answer away from the model that RL started from.",
        f"Pretraining loss in nats a token: base {base:.3f}, SFT {sft:.3f}; RL starts at {start:.3f}, PPO ends at "
        f"{ppo:.3f} and PPO-ptx at {ptx:.3f}.",
    ]
    accuracy, agreement = (f"{what}/heldout_labelers" for what in ("accuracy", "agreement"))
    if agreement in evaluation["reward_model"]:
        sentences.append(
            f"The reward model orders {percent('reward_model', accuracy)} of the pairs as labelers do who ranked nothing for "
            f"training; they agree among themselves on {percent('reward_model', agreement)}."
        )
    else:
        sentences.append(
            f"The reward model orders {percent('reward_model', 'accuracy/test')} of the held-out pairs right."
        )
    return sentences
