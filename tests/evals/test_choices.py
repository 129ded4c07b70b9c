"""TruthfulQA's three forms, HellaSwag and LAMBADA against lm-evaluation-harness with its own model, on the same rows."""

import importlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from rlhf_jax.evals import (
    hellaswag,
    lambada,
    read_hellaswag,
    read_lambada,
    read_truthfulqa,
    truthfulqa_choices,
)
from rlhf_jax.stages import RUN, Format, Run, Runtime, imported, loaded, measured_now

pytestmark = [pytest.mark.slow, pytest.mark.long]
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
PIECES = [*SPECIAL.values(), "\n", *map(chr, range(32, 127)), " t", "he", "in", " a", "on"]  # fewer than the 128 rows
CONTEXT = 2048


def environment(name: str, *parts: str) -> Path:
    path = Path(os.environ.get(name, "none")).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{name} names no folder with {'/'.join(parts)}")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A golden model whose positions are rotations, so that its context may be longer, with a tokenizer of letters."""
    found = tmp_path_factory.mktemp("model")
    for file in environment("RLHF_JAX_GOLDEN", "models", "llama_untied").iterdir():
        shutil.copyfile(file, found / file.name)
    config = json.loads((found / "config.json").read_text())
    (found / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT}))
    merges = [(piece[0], piece[1]) for piece in PIECES if len(piece) == 2]
    made = tokenizers.Tokenizer(tokenizers.models.BPE({p: i for i, p in enumerate(PIECES)}, merges, unk_token="<unk>"))
    made.decoder = tokenizers.decoders.Fuse()
    made.add_special_tokens(list(SPECIAL.values()))
    # With Llama's <s> before a text; without, lm_eval has nothing there and we the end of the document before.
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.save(str(found / "tokenizer.json"))
    (found / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL}))
    return found


@pytest.fixture(scope="module")
def theirs(folder, tmp_path_factory):
    """What lm_eval finds of each row: (task, its stock YAML, rows) → samples and figures."""
    pytest.importorskip("torch")
    evaluator = pytest.importorskip("lm_eval.evaluator")
    pytest.importorskip("accelerate")
    huggingface = importlib.import_module("lm_eval.models.huggingface")
    tasks = importlib.import_module("lm_eval.tasks")
    stock = Path(str(tasks.__file__)).parent
    model = huggingface.HFLM(str(folder), device="cpu", dtype="float32", batch_size=8, max_length=CONTEXT)

    def evaluate(name, yaml, rows, more=""):
        place = tmp_path_factory.mktemp("task")
        data = place / "rows.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)))
        (place / f"{name}.yaml").write_text(
            f"include: {stock / yaml}\ntask: {name}\ntag: null\ndataset_path: json\ndataset_name: null\ntest_split: null\n"
            f"validation_split: validation\ndataset_kwargs:\n  data_files:\n    validation: {data}\n{more}"
        )
        manager = tasks.TaskManager(include_path=str(place), include_defaults=False)
        found = evaluator.simple_evaluate(model, tasks=[name], task_manager=manager, bootstrap_iters=0)
        return sorted(found["samples"][name], key=lambda sample: sample["doc_id"]), found["results"][name]

    return evaluate


@pytest.fixture(scope="module")
def ours(folder):
    model = loaded(imported(folder, Format(CONTEXT // 2, CONTEXT // 2, chat="hh")))
    return lambda task: measured_now(*model, task, Run(seed=RUN.seed, runtime=Runtime(batch=8)))


def per_row(found, name):
    return [row.values[name] for row in found.rows]


ASCII = set(PIECES)


def readable(*texts):
    return all(set(text) <= ASCII for text in texts)


def test_truthfulqa(ours, theirs):
    """MC1 and MC2 by the stock files, binary by MC1's with the two answers."""
    path = environment("RLHF_JAX_DATA", "truthfulqa", "TruthfulQA.csv")
    questions = [q for q in read_truthfulqa(str(path))[::60] if readable(q.question, *q.correct, *q.incorrect)]
    found = ours(truthfulqa_choices(questions))

    def targets(right, wrong):
        return {"choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)}

    rows = [
        {
            "question": q.question,
            "mc1_targets": targets([q.best], q.incorrect),
            "mc2_targets": targets(q.correct, q.incorrect),
        }
        for q in questions
    ]
    samples, results = theirs("ours_mc1", "truthfulqa/truthfulqa_mc1.yaml", rows)
    assert per_row(found, "truthfulqa/mc1") == [sample["acc"] for sample in samples]
    assert 0 < results["acc,none"] < 1
    assert found.figures["truthfulqa/mc1"].mean == pytest.approx(results["acc,none"])
    samples, _ = theirs("ours_mc2", "truthfulqa/truthfulqa_mc2.yaml", rows)
    wanted = [sample["acc"] for sample in samples]
    np.testing.assert_allclose(per_row(found, "truthfulqa/mc2"), wanted, rtol=2e-3)
    pairs = [{**row, "mc1_targets": targets([q.best], q.incorrect[:1])} for row, q in zip(rows, questions, strict=True)]
    samples, _ = theirs("ours_binary", "truthfulqa/truthfulqa_mc1.yaml", pairs)
    assert per_row(found, "truthfulqa/binary") == [sample["acc"] for sample in samples]


def test_hellaswag(ours, theirs, tmp_path):
    activities = [
        ("Baking cookies", "[header] How to bake cookies [title] Heat the oven.", "then mix the DOUGH"),
        ("Roof shingle removal", "A man is sitting on a roof.", "he"),
        ("Clean and jerk", "A lady walks to a barbell.", "she bends down and"),
    ]
    endings = [
        [
            "is using wrap to wrap a pair of skis.",
            "pulls.",
            "starts [substeps] pulling up roofing on a roof.",
            "lifts it.",
        ],
        ["stands and lifts the weight over her head.", "swings.", "starts to run away from the crowd", "waits"],
    ]
    rows = [
        {
            "ind": i,
            "activity_label": a,
            "ctx_a": b,
            "ctx_b": c,
            "endings": end,
            "label": str(i % 4),
            "source_id": f"s~{i}",
        }
        for i, ((a, b, c), end) in enumerate((activity, end) for activity in activities for end in endings)
    ]
    path = tmp_path / "hellaswag.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = ours(hellaswag(read_hellaswag(str(path))))
    samples, _ = theirs("ours_hellaswag", "hellaswag/hellaswag.yaml", rows, "training_split: null\n")
    for name in ("acc", "acc_norm"):
        assert per_row(found, f"hellaswag/{name}") == [sample[name] for sample in samples]
    totals = [[response[0][0] for response in sample["resps"]] for sample in samples]
    np.testing.assert_allclose([row.shown["logp"] for row in found.rows], totals, rtol=1e-4)


def test_lambada(ours, theirs):
    path = environment("RLHF_JAX_DATA", "lambada", "lambada_development_plain_text.txt.gz")
    items = [item for item in read_lambada(str(path))[:30] if readable(item.context, item.word)]
    found = ours(lambada(items))
    rows = [{"text": f"{item.context} {item.word}"} for item in items]
    samples, results = theirs("ours_lambada", "lambada/lambada_openai.yaml", rows)
    assert per_row(found, "lambada/acc") == [sample["acc"] for sample in samples]
    np.testing.assert_allclose(per_row(found, "lambada/nats_per_word"), [-s["perplexity"] for s in samples], rtol=1e-4)
    assert found.figures["lambada/perplexity"].mean == pytest.approx(results["perplexity,none"], rel=1e-3)
