"""Tasks of EleutherAI's lm-evaluation-harness on a trained model.

    python experiments/harness.py runs/tiny/ppo_ptx --tasks lambada_openai,truthfulqa_mc2 --out harness.json
    python experiments/harness.py gpt2 --tasks mine --include-path my_tasks --limit 100 --num-fewshot 5 --out harness.json

The first argument is a stage's folder, or a Hugging Face folder. Prints the harness's own table; the file gets all that it
found, with a row of each sample. A task of your own is a YAML file in --include-path, and runs offline if its data_files are
on this machine. Needs the extra: pip install 'rlhf_jax[eval]'.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from rlhf_jax.config import Checked, Count, Natural, Seed
from rlhf_jax.errors import InputError
from rlhf_jax.evals import harness, harness_model
from rlhf_jax.models import LanguageModel, read_decoder
from rlhf_jax.runtime import require_writable, run, write_atomically
from rlhf_jax.stages import Format, Trained, model_in


@dataclass(frozen=True)
class Settings(Checked):
    model: Annotated[str, tyro.conf.Positional]  # a stage's folder, such as runs/tiny/sft, or a Hugging Face folder
    tasks: str  # names of tasks, groups or tags, with commas between
    out: str  # the JSON file that is written
    include_path: str = ""  # a folder of tasks, beside those that lm_eval has
    limit: Count | None = None  # documents of each task; None: all
    num_fewshot: Natural | None = None  # examples before each document; None: as the task says
    chat: bool = False  # documents are asked as a user's turns, in the model's chat template
    batch: Count = 8  # rows that the model reads at a time
    seed: Seed = 0  # of what is drawn


def opened(folder: Path) -> Trained:
    """The language model of a folder."""
    if not (folder / "config.json").is_file():
        found = model_in(folder, Format())
    else:
        context = read_decoder(folder)[0].context
        found = model_in(folder, Format(prompt_tokens=context - 1, answer_tokens=1))
    if found.scalar:
        raise InputError(f"{folder} holds a reward model, which writes nothing: name a language model")
    return found


def named_tasks(c: Settings, manager: Any) -> list[str]:
    """InputError: there is no such task."""
    names = [name.strip() for name in c.tasks.split(",") if name.strip()]
    if not names:
        raise InputError("--tasks names none: give names with commas between")
    if unknown := [name for name in names if name not in manager.all_tasks]:
        where = f" and {c.include_path} has none" if c.include_path else "; --include-path names a folder of your own"
        raise InputError(f"lm-evaluation-harness has no task {unknown[0]!r}{where}")
    return names


def main(c: Settings) -> None:
    """Measures, prints and writes."""
    library = harness()
    if c.include_path and not Path(c.include_path).is_dir():
        raise InputError(f"--include-path {c.include_path} is no folder: name one that holds .yaml files")
    require_writable(Path(c.out).parent)
    os.environ["DISABLE_MULTIPROC"] = "1"  # lm_eval's standard errors would fork a process in which JAX has threads
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    from lm_eval.utils import handle_non_serializable, make_table  # pyright: ignore[reportMissingImports]

    manager = TaskManager(include_path=c.include_path or None)
    tasks, found = named_tasks(c, manager), opened(Path(c.model))
    room, model = found.decoder.context, LanguageModel(found.decoder)
    results = library.simple_evaluate(
        harness_model(model, found.params(), found.tokenizer, context=room, batch=c.batch, seed=c.seed),
        tasks=tasks,
        task_manager=manager,
        limit=c.limit,
        num_fewshot=c.num_fewshot,
        apply_chat_template=c.chat,
        batch_size=c.batch,
    )
    results["config"] |= {"model": c.model, "model_sha256": found.sha256, "step": found.step}
    text = json.dumps(results, indent=1, ensure_ascii=False, default=handle_non_serializable)
    write_atomically(Path(c.out), text + "\n")
    print(make_table(results))
    if results.get("groups"):
        print(make_table(results, "groups"))
    print(f"All of it, and each sample, is in {c.out}")


if __name__ == "__main__":
    run(lambda: main(tyro.cli(Settings, description=__doc__)))
