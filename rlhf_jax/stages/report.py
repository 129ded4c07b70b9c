"""The evaluation of a run: its models side by side on held-out data, as figures, samples and a page."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

from rlhf_jax.data import content_sha256
from rlhf_jax.data.world import follow_ups
from rlhf_jax.evals import MODELS, Estimate, table_text, write_report
from rlhf_jax.labelers import rating
from rlhf_jax.runtime import (
    first_process,
    info,
    made_with,
    read_metrics,
    values_sha256,
    write_atomically,
)
from rlhf_jax.stages.agreement import agreement_on
from rlhf_jax.stages.answers import AnswersToRank
from rlhf_jax.stages.datasets import DataSets, Parts
from rlhf_jax.stages.episodes import Environment, Episodes, play, positions_for, world_dialogue
from rlhf_jax.stages.evaluation import (
    Evaluate,
    Figures,
    Judge,
    Loaded,
    Written,
    alignment_tax,
    distance,
    drawing_turns,
    harmless,
    helpful,
    judge_of,
    loaded,
    truthful,
    write,
)
from rlhf_jax.stages.history import in_words, stages_below
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.rewards import Rewards, rewards_of
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.text_reward import read_as_text
from rlhf_jax.stages.training import checked_rankings, require_belonging, require_prompts

MARK = "evaluated.json"  # what an evaluation was made from
ON_TEXT = ("pretrain/loss", "closed/last_word")  # figures that have a row even where there are no data for them
ON_RANKINGS = ("accuracy/valid", "accuracy/test")
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

    models: by name; "base", "sft", "ppo", "ppo_ptx" and "rl_init", where RL started and the KL is taken from. writer: the
    model whose answers labelers rank. about: the settings that the page shows, and by which runs are put together
    (experiments/seeds.py). Nothing is done where nothing has changed since the last time and its files are there.
    InputError: no prompt fits; models that do not belong together; a held-out ranking is broken.
    """
    c, out = settings, Path(out)
    for model in (*models.values(), writer):
        require_belonging(model, [reward])
    require_prompts(data.prompts.test, models["rl_init"])
    held = (checked_rankings(part) for part in (data.rankings.valid, data.rankings.test))
    data = replace(data, rankings=Parts(data.rankings.train, *held))
    origin = {
        "config": dict(about or {}),
        "models": {name: model.sha256 for name, model in models.items()},
        "reward_model": reward.sha256,
        "writer": writer.sha256,
        "prompts": content_sha256(data.prompts.test),
        "text": content_sha256(data.text.valid),
        "rankings": [content_sha256(part) for part in (data.rankings.valid, data.rankings.test)],
        "truth": data.truth and values_sha256(data.truth),
        "settings": asdict(c),
        "answers": asdict(answers),
        "seed": run.seed,
        "batch": run.runtime.batch,
    }
    if (done := evaluated(out, origin)) is not None:
        info(f"evaluation: done, {out / 'report.html'}")
        return done
    judge, start = judge_of(data, models["rl_init"], reward, c), loaded(models["rl_init"])
    compared = {name: start if name == "rl_init" else loaded(model) for name, model in models.items()}
    written = {name: write(this, judge, c, run) for name, this in compared.items()}
    evaluation: dict[str, Figures] = {}
    for name, this in compared.items():
        info(f"evaluate: {name}")
        evaluation[name] = helpful(judge, written, name)
        evaluation[name] |= distance(this, written[name], start, "rl_init", c, run)
        evaluation[name] |= alignment_tax(this, data, run)
        if data.truth is not None:
            evaluation[name] |= truthful(this, data.truth, c, run) | harmless(this, data.truth, c, run)
    assert judge.reward is not None
    evaluation["reward_model"] = agreement_on(data, judge.reward, writer, answers, c, run)
    as_json = {model: {k: e._asdict() for k, e in figures.items()} for model, figures in evaluation.items()}
    chosen = shown_prompts(judge, c, run)
    again = {name: drawn_again(this, judge, chosen, c, run) for name, this in compared.items()}
    samples = samples_of(judge, written, again, chosen)
    speaker = "ppo_ptx" if "ppo_ptx" in compared else next(iter(compared))
    session = session_of(speaker, compared[speaker], judge, c, run)
    if first_process():
        (out / MARK).unlink(missing_ok=True)  # what it says is true of all files or of none
    write_atomically(out / "evaluation.json", json.dumps(as_json, indent=1))
    write_atomically(out / "samples.json", json.dumps(samples, indent=1))
    page(out, judge, models, as_json, samples, run, about or {}, session)
    write_atomically(out / MARK, json.dumps(origin))
    return evaluation


def evaluated(out: Path, origin: Mapping[str, Any]) -> dict[str, Figures] | None:
    """What an earlier call found; None where it was made from something else, or a file is missing or torn."""
    try:
        same = json.loads((out / MARK).read_text()) == json.loads(json.dumps(origin))
        if not same or not all((out / name).is_file() for name in ("samples.json", "report.html")):
            return None
        found = json.loads((out / "evaluation.json").read_text())
        return {
            model: {name: Estimate(**figure) for name, figure in figures.items()} for model, figures in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def compare(
    path: Path,
    name: str,
    model: Trained,
    others: Sequence[Trained],
    start: Trained,
    data: DataSets,
    reward: Trained | Rewards,
    settings: Evaluate = Evaluate(),
    run: Run = RUN,
    *,
    environment: Environment | None = None,
    episodes: Episodes = Episodes(),
) -> Figures:
    """How one model stands against others on held-out prompts, how far it is from the one that it started from, and what it
    cost on pretraining text; written to `path` as JSON, and printed. All go by their folders' names, and by more of the path
    where two have one name. With an environment they are compared by what whole episodes earn. InputError: no prompt fits;
    models that do not belong together."""
    rewards = read_as_text(rewards_of(reward, needed=environment is None), model, None)
    models = rewards.models
    for each in (model, start):
        require_belonging(each, models)
    for other in others:
        require_belonging(other, () if data.truth and not environment else models)  # the world's judge reads text
    require_prompts(data.prompts.test, model)
    judge = judge_of(data, model, rewards, settings, environment, episodes)
    rivals = {key: loaded(other) for key, other in told_apart(others, name).items()}
    this = loaded(model)
    written = {key: write(each, judge, settings, run) for key, each in (rivals | {name: this}).items()}
    figures = helpful(judge, written, name, list(rivals))
    figures |= distance(this, written[name], loaded(start), name_among(others, start, name), settings, run)
    figures |= alignment_tax(this, data, run)
    as_json = {key: e._asdict() for key, e in figures.items()}
    write_atomically(path, json.dumps(as_json, indent=1))
    print(table_text({name: as_json}, judge.reward_name))
    return figures


def evaluate_in_turn(
    out: Path | str,
    models: Mapping[str, Trained],
    start: Trained,
    data: DataSets,
    reward: Trained,
    writer: Trained,
    answers: AnswersToRank,
    settings: Evaluate = Evaluate(),
    run: Run = RUN,
    *,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Figures]:
    """How each of several models stands against those before it on held-out prompts, and how far it is from `start`; and how
    a reward model orders the answers of `writer`. Written into `out` as evaluation.json, with evaluated.json beside it, which
    has what it is about, by which runs are put together (experiments/seeds.py); and printed. InputError: no prompt fits;
    models that do not belong together; a held-out ranking is broken."""
    out = Path(out)
    for model in (*models.values(), start, writer):
        require_belonging(model, [reward])
    require_prompts(data.prompts.test, start)
    judge, reference = judge_of(data, start, reward, settings), loaded(start)
    written, evaluation = dict[str, Written](), dict[str, Figures]()
    for name, model in models.items():
        this = loaded(model)
        written[name] = write(this, judge, settings, run)
        evaluation[name] = helpful(judge, written, name, [*written][:-1])
        evaluation[name] |= distance(this, written[name], reference, start.folder.name, settings, run)
    assert judge.reward is not None
    evaluation["reward_model"] = agreement_on(data, judge.reward, writer, answers, settings, run)
    as_json = {name: {key: e._asdict() for key, e in figures.items()} for name, figures in evaluation.items()}
    if first_process():
        (out / MARK).unlink(missing_ok=True)
    write_atomically(out / "evaluation.json", json.dumps(as_json, indent=1))
    write_atomically(out / MARK, json.dumps({"config": dict(about or {})}))
    last = as_json.pop("reward_model")
    print(table_text(as_json))
    print(table_text({"reward_model": last}))
    return evaluation


def told_apart(models: Sequence[Trained], taken: str) -> dict[str, Trained]:
    """The models by the shortest end of their folder's path that no other one's has, and that is not `taken`. Of several
    checkpoints of a folder the step belongs to the name. A model that is given twice is there once."""
    each = {(Path(os.path.abspath(model.folder)), model.step): model for model in models}
    folders = [folder for folder, _ in each]
    paths = [f"{folder} step {step}" if folders.count(folder) > 1 else f"{folder}" for folder, step in each]

    def end(path: str) -> str:
        parts = path.split(os.sep)
        for n in range(1, len(parts)):
            name = "/".join(parts[-n:])
            if name != taken and sum(other.endswith(f"/{name}") for other in paths) == 1:
                return name
        return path

    return dict(zip(map(end, paths), each.values(), strict=True))


def name_among(others: Sequence[Trained], start: Trained, taken: str) -> str:
    """The name of the model that RL started from, told apart from the others."""
    named = told_apart([*others, start], taken)
    (name,) = (key for key, model in named.items() if (model.folder, model.step) == (start.folder, start.step))
    return name


def shown_prompts(judge: Judge, c: Evaluate, run: Run) -> list[int]:
    """A dozen prompts, of different use-cases where there are such."""
    order = list(range(len(judge.prompts)))
    Random(run.seed).shuffle(order)
    found: list[int] = []
    seen: dict[str, int] = {}
    for i in order:
        category = judge.prompts[i].category
        seen[category] = seen.get(category, 0) + 1
        if category and seen[category] > 2:
            continue
        found.append(i)
    return found[: c.shown]


def drawn_again(this: Loaded, judge: Judge, chosen: Sequence[int], c: Evaluate, run: Run) -> list[Written]:
    """The further draws of a model's answers to these prompts, each with random numbers of its own; none at temperature 0, at
    which all are alike."""
    if not chosen or c.temperature == 0:
        return []
    questions = [judge.questions[i] for i in chosen] if judge.questions is not None else None
    these = judge._replace(prompts=[judge.prompts[i] for i in chosen], questions=questions)
    return [write(this, these, c, run, f"evaluate draw {number}") for number in range(2, c.draws + 1)]


def samples_of(
    judge: Judge, written: Mapping[str, Written], again: Mapping[str, Sequence[Written]], chosen: Sequence[int]
) -> list[dict]:
    """The chosen prompts with the models' answers side by side. again: of these prompts, further draws."""

    def one(w: Written, i: int) -> dict[str, Any]:
        rated = rating(float(w.verdict[i])) if judge.questions else None
        return {"text": w.texts[i], "rating": rated, "reward": float(w.reward[i])}

    rows: list[dict] = []
    for place, i in enumerate(chosen):
        answers = {
            name: one(w, i) | ({"more": [one(draw, place) for draw in again[name]]} if again.get(name) else {})
            for name, w in written.items()
        }
        category = judge.prompts[i].category
        text = judge.questions[i].text if judge.questions else judge.prompts[i].text
        rows.append({"prompt": text.strip(), "category": category, "answers": answers})
    return rows


def session_of(name: str, this: Loaded, judge: Judge, c: Evaluate, run: Run) -> dict | None:
    """A dialogue of a model with a user of the built-in world who asks on, each answer rated by its exact truth; None where
    there is no such world, or no such question among the held-out ones. Its draws are its own."""
    if judge.questions is None or judge.truth is None:
        return None
    lengths = [len(follow_ups(judge.truth.world, q)) * (q.category == "open_qa") for q in judge.questions]
    if not any(lengths):
        return None
    model, draw = this.model, drawing_turns(this, run.key("session"), c, 1, [])
    longest = Episodes(turns=1 + max(lengths), reply_tokens=model.format.context)
    row = judge.prompts[lengths.index(max(lengths))]
    (episode,) = play([row], world_dialogue(judge.truth), draw, model, longest, positions_for(model.decoder))
    scores, messages = iter(episode.rewards), []
    for message in episode.messages:
        rated = {"rating": rating(next(scores))} if message["role"] == "assistant" else {}
        messages.append({**message, **rated})
    return {"model": name, "messages": messages}


def page(
    out: Path,
    judge: Judge,
    models: Mapping[str, Trained],
    evaluation: dict,
    samples: list[dict],
    run: Run,
    about: Mapping[str, Any],
    session: dict | None = None,
) -> None:
    """report.html, and its tables on the terminal."""
    curves = {name: read_metrics(out / name) for name in STAGES}
    columns = {name: shown(figures, ON_TEXT) for name, figures in evaluation.items() if name != "reward_model"}
    notes = {
        "judge": judge.name,
        "seed": str(run.seed),
        "evaluated with": in_words(made_with()),
        "stages": stages_below(out),
        "config": json.dumps(about, indent=1),
        "findings": [*findings(judge, evaluation), *lags(models, curves)],
        "reward_model": shown(evaluation["reward_model"], () if judge.truth else ON_RANKINGS),
        "session": session,
    }
    write_report(out / "report.html", f"rlhf_jax: {out.name}", columns, curves, samples, notes)
    print(table_text(columns))
    print(table_text({"reward_model": notes["reward_model"]}))


def shown(figures: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """The figures, and an empty cell for each wanted one that there is not."""
    return {name: {} for name in wanted} | dict(figures)


def lags(models: Mapping[str, Trained], curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Which models are moving averages, and how far behind their policies these are at the end."""
    ends = {name: rows[-1]["policy/ema_lag"] for name, rows in curves.items() if rows and "policy/ema_lag" in rows[-1]}
    return [
        f"{MODELS.get(name, name)} is the moving average of its policy, which at the end is ahead of it by {100 * lag:.0f} % "
        "of its way from where RL started."
        for name, lag in ends.items()
        if name in models and models[name].part == "ema"
    ]


def findings(judge: Judge, evaluation: dict) -> list[str]:
    """The run in a few sentences, each with its figures."""

    def percent(model: str, metric: str) -> str:
        e = evaluation[model][metric]
        return f"{100 * e['mean']:.0f} % ({100 * e['low']:.0f} to {100 * e['high']:.0f})"

    kl = evaluation["ppo_ptx"].get("kl/from_rl_init")
    sentences = [
        f"PPO-ptx is preferred to SFT on {percent('ppo_ptx', 'win_rate/vs_sft')} of the held-out prompts and to base on "
        f"{percent('ppo_ptx', 'win_rate/vs_base')}; the judge is {judge.name}.",
        *([f"It is {kl['mean']:.1f} nats per answer away from the model that RL started from."] if kl else []),
    ]
    if "pretrain/loss" in evaluation["rl_init"]:
        five = ("base", "sft", "rl_init", "ppo", "ppo_ptx")
        base, sft, start, ppo, ptx = (evaluation[model]["pretrain/loss"]["mean"] for model in five)
        sentences.append(
            f"Pretraining loss in nats a token: base {base:.3f}, SFT {sft:.3f}; RL starts at {start:.3f}, PPO ends at "
            f"{ppo:.3f} and PPO-ptx at {ptx:.3f}."
        )
    accuracy, agreement = (f"{what}/heldout_labelers" for what in ("accuracy", "agreement"))
    found = evaluation["reward_model"]
    if accuracy in found:
        among = f"; they agree among themselves on {percent('reward_model', agreement)}" if agreement in found else ""
        sentences.append(
            f"The reward model orders {percent('reward_model', accuracy)} of the pairs as labelers do who ranked nothing for "
            f"training{among}."
        )
    elif "accuracy/test" in found:
        sentences.append(
            f"The reward model orders {percent('reward_model', 'accuracy/test')} of the held-out pairs right."
        )
    return sentences
