"""Models, trained here or imported, measured by the paper's evaluations: helpful, truthful, harmless, and alignment tax.

    python experiments/evaluate.py configs/evaluate.toml --tasks.truthfulqa TruthfulQA.csv --tasks.crows-pairs crows_pairs.csv

InstructGPT (Ouyang et al. 2022), §4 and App. D. Each task that names a file is asked of each of given.models; the first of
these is the one that the others are compared with, item by item. Each task's rows and figures go into a folder of their own,
evaluation.json has all figures, evaluation.md tables of the differences; a call that was stopped goes on. docs/evaluation.md
says what each figure is. `rlhf-report OUT` makes a page of them.

Differences from the paper: 1. judges are a reward model, rules or functions where it has people and Perspective; 2. data are
what you name: their sizes are yours.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlhf_jax.config import Checked, Count, Natural
from rlhf_jax.data import read_prompts
from rlhf_jax.errors import InputError
from rlhf_jax.evals import (
    INSTRUCTIONS,
    OPENINGS,
    Task,
    answering,
    closed_domain,
    crows_pairs,
    drop,
    held_out,
    hellaswag,
    lambada,
    read_closed_domain,
    read_crows_pairs,
    read_drop,
    read_hellaswag,
    read_lambada,
    read_pieces,
    read_squad,
    read_toxicity_prompts,
    read_truthfulqa,
    read_winogender,
    squad,
    tax_table,
    toxicity,
    truthfulqa_answers,
    truthfulqa_choices,
    winogender_pronouns,
    winogender_resolution,
)
from rlhf_jax.moderation import Rules, read_rules
from rlhf_jax.runtime import first_process, run, write_atomically
from rlhf_jax.stages import (
    Format,
    Measured,
    Memory,
    Program,
    begin,
    by_reward_model,
    loaded,
    measure,
    model_in,
    told_apart,
    trained,
    win_rate,
)


@dataclass(frozen=True)
class Given:
    """Folders of trained models, of any run, or of Hugging Face."""

    models: str = "runs/tiny/sft, runs/tiny/ppo_ptx"  # the first is what the others are compared with
    judge: str = ""  # of a reward model that none of them was trained on; needed where tasks.prompts is given


@dataclass(frozen=True)
class Tasks(Checked):
    """Files, or hub ids; "" leaves a task out."""

    chat: bool = False  # prompts are a user's turns; else beginnings of documents, as the paper's are
    limit: Natural = 0  # the first so many items of each; 0 is all
    shots: Natural = 0  # examples before each item, the file's first (HellaSwag, LAMBADA, SQuAD, DROP)
    prompts: str = ""  # that the models answer, for the judge to compare: helpful
    truthfulqa: str = ""  # TruthfulQA.csv
    closed_domain: str = ""  # {prompt, reference} of which an answer may say what the prompt holds alone
    toxicity: str = ""  # RealToxicityPrompts' prompts.jsonl, or others
    rules: str = ""  # a TOML file of moderation rules, which say what is toxic; needed where toxicity is given
    draws: Count = 25  # continuations of each of these prompts
    crows_pairs: str = ""  # crows_pairs_anonymized.csv
    winogender: str = ""  # the folder of its two .tsv files
    hellaswag: str = ""  # hellaswag_val.jsonl
    lambada: str = ""  # passages, one a line
    squad: str = ""  # dev-v2.0.json
    drop: str = ""  # drop_dataset_dev.json
    text: str = ""  # held-out pretraining text


@dataclass(frozen=True)
class Config(Program):
    given: Given = Given()
    format: Format = Format()  # of models from Hugging Face folders; a stage's has its own
    memory: Memory = Memory()
    tasks: Tasks = Tasks()


def flagged(rules: Rules, texts: Sequence[str]) -> list[float]:
    """How toxic each text is, by rules."""
    return [float(rules(text).flagged) for text in texts]


def tasks_of(c: Tasks) -> dict[str, Task]:
    """By the name of their folder."""

    def some(items: Sequence[Any]) -> Sequence[Any]:
        return items[: c.limit] if c.limit else items

    def few_shot(source: str, read: Callable[[str], list[Any]], task: Callable[..., Task]) -> Task:
        items = read(source)
        return task(some(items[c.shots :]), items[: c.shots], c.chat)

    if c.toxicity and not c.rules:
        raise InputError("tasks.toxicity needs somebody who says what is toxic; name a file of rules in tasks.rules")
    found: dict[str, Task] = {}
    if c.truthfulqa:
        questions = some(read_truthfulqa(c.truthfulqa))
        found["truthfulqa"] = truthfulqa_choices(questions, c.chat)
        for prompt in OPENINGS:
            found[f"truthfulqa_{prompt}"] = truthfulqa_answers(questions, None, prompt, c.chat)
    if c.closed_domain:
        found["closed_domain"] = closed_domain(some(read_closed_domain(c.closed_domain)), None, c.chat)
    for instruction in INSTRUCTIONS:
        if c.toxicity:
            prompts, score = some(read_toxicity_prompts(c.toxicity)), partial(flagged, read_rules(c.rules))
            task = toxicity(prompts, score, instruction=instruction, draws=c.draws, chat=c.chat)
            found[f"toxicity_{instruction}"] = task
        if c.crows_pairs and not (c.chat and instruction == "none"):
            found[f"crows_pairs_{instruction}"] = crows_pairs(
                some(read_crows_pairs(c.crows_pairs)), instruction, c.chat
            )
        if c.winogender:
            sentences = read_winogender(c.winogender)
            if not (c.chat and instruction == "none"):
                found[f"winogender_{instruction}"] = winogender_pronouns(some(sentences), instruction, c.chat)
            found[f"winogender_whom_{instruction}"] = winogender_resolution(some(sentences), instruction, c.chat)
    if c.hellaswag:
        found["hellaswag"] = few_shot(c.hellaswag, read_hellaswag, hellaswag)
    if c.lambada:
        found["lambada"] = few_shot(c.lambada, read_lambada, lambada)
    if c.squad:
        found["squad"] = few_shot(c.squad, read_squad, squad)
    if c.drop:
        found["drop"] = few_shot(c.drop, read_drop, drop)
    if c.text:
        found["text"] = held_out(some(read_pieces(c.text)))
    return found


def main(c: Config) -> None:
    tasks, folders = tasks_of(c.tasks), [name.strip() for name in c.given.models.split(",") if name.strip()]
    if not folders or not (tasks or c.tasks.prompts):
        raise InputError("there is nothing to measure: name models in given.models, and a file in [tasks]")
    if c.tasks.prompts:
        prompts = read_prompts(c.tasks.prompts)
        tasks["answers"] = answering(prompts[: c.tasks.limit] if c.tasks.limit else prompts)
        if not c.given.judge and len(folders) > 1:
            raise InputError("tasks.prompts needs a judge; name the folder of a reward model in given.judge")
    models = told_apart([model_in(folder, c.format, c.memory) for folder in folders], "")
    found: dict[str, dict[str, Measured]] = {}
    for name, model in models.items():
        this = loaded(model)
        found[name] = {key: measure(c.folder / name / key, this, task, c.run) for key, task in tasks.items()}
    (first, before), *others = found.items()
    figures = {
        name: {f"{key}/{k}": e for key, m in each.items() for k, e in m.figures.items()} for name, each in found.items()
    }
    pages = []
    for name, after in others:
        if c.tasks.prompts:
            rows, pair = (after["answers"].rows, before["answers"].rows), (models[name], models[first])
            judge = by_reward_model(Path(c.given.judge).name, trained(c.given.judge), c.run)
            won = win_rate(c.folder / name / f"over_{first}", *rows, judge, models=pair, both_orders=False, run=c.run)
            figures[name] |= {f"over_{first}/{k}": e for k, e in won.figures.items()}
        pages.append(f"# {name}, beside {first}\n\n{tax_table(before, after)}")
    if first_process():
        as_json = {name: {k: e._asdict() for k, e in each.items()} for name, each in figures.items()}
        write_atomically(c.folder / "evaluation.json", json.dumps(as_json, indent=1))
        write_atomically(c.folder / "evaluation.md", "\n".join(pages))
    for name, each in figures.items():
        print(f"{name}\n" + "".join(f"  {k} {e}\n" for k, e in each.items()))


if __name__ == "__main__":
    run(lambda: main(begin(Config, __file__, __doc__)))
