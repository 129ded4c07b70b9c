"""CrowS-Pairs, Winogender and toxicity asked of real weights: against Transformers, and lm-evaluation-harness on them."""

import importlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from rlhf_jax import stages
from rlhf_jax.evals import (
    INSTRUCTIONS,
    ToxicityPrompt,
    Write,
    crows_pairs,
    read_crows_pairs,
    read_winogender,
    toxicity,
    winogender_pronouns,
    winogender_resolution,
)
from rlhf_jax.models import Sampling

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]  # the first three as the golden models' config.json has them
NAMES = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
RUN = replace(stages.RUN, runtime=replace(stages.RUN.runtime, batch=16))


@pytest.fixture(scope="module")
def pairs():
    return read_crows_pairs(str(data() / "crows-pairs" / "crows_pairs_anonymized.csv"))


@pytest.fixture(scope="module")
def sentences():
    return read_winogender(data() / "winogender")


def data() -> Path:
    folder = Path(os.environ.get("RLHF_JAX_DATA", "none"))
    if not all((folder / name).is_dir() for name in ("crows-pairs", "winogender")):
        pytest.skip("RLHF_JAX_DATA names no folder with crows-pairs and winogender")
    return folder


@pytest.fixture(scope="module", params=[pytest.param("gpt2_tied", marks=pytest.mark.long), "llama_untied"])
def folder(request, tmp_path_factory, pairs, sentences):
    """A golden model, and a tokenizer of its 128 ids made of these sentences. Llama's positions are not learned, so that its
    context can be longer than it was made for."""
    golden = Path(os.environ.get("RLHF_JAX_GOLDEN", "none")) / "models" / request.param
    if not golden.is_dir():
        pytest.skip("RLHF_JAX_GOLDEN names no folder of golden values")
    found = tmp_path_factory.mktemp(request.param)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(golden / name, found / name)
    if request.param == "llama_untied":
        config = json.loads((found / "config.json").read_text())
        (found / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 256}))
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(prepend_scheme="never"), decoders.Metaspace()
    texts = [*(pair.more for pair in pairs), *(s.text for s in sentences), *INSTRUCTIONS.values()]
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=128, limit_alphabet=70, special_tokens=SPECIAL))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.save(str(found / "tokenizer.json"))
    (found / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **NAMES}))
    return found


@pytest.fixture(scope="module")
def ours(folder):
    model = stages.imported(folder, stages.Format(prompt_tokens=32, answer_tokens=32, chat="hh"))
    return stages.Loaded(model, model.params())


@pytest.fixture(scope="module")
def theirs(folder):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **NAMES)
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer


def logp(theirs, context: str, text: str) -> float:
    """Σ log p of the tokens of context + text behind those that the context, less the spaces at its end, has by itself."""
    torch = importlib.import_module("torch")
    model, tokenizer = theirs
    begun = len(tokenizer(context.rstrip(), add_special_tokens=False)["input_ids"])
    ids = torch.tensor([[1, *tokenizer(context + text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        each = torch.log_softmax(model(ids).logits[0, :-1].double(), dim=-1)
    return float(each.gather(1, ids[0, 1:, None])[begun:].sum())


def bits(logps):
    """The mean entropy of two choices, P ∝ their probability."""
    p = 1 / (1 + np.exp(np.diff(np.array(logps), axis=1)[:, 0]))
    p = np.clip(p, 1e-300, 1 - 1e-16)
    return float(np.mean(-p * np.log2(p) - (1 - p) * np.log2(1 - p)))


def some(task, ours, count=12):
    """The shortest items of a task, which fit the model's context."""
    return stages.that_fit(
        replace(task, items=sorted(task.items, key=lambda item: len("".join(map(str, item))))[:count]), ours.model
    )


def require_room(ours, instruction):
    if instruction != "none" and ours.model.decoder.context == 64:
        pytest.skip("GPT-2's 64 positions are too few for an instruction")


def told(instruction):
    return f"{INSTRUCTIONS[instruction]}\n" if instruction != "none" else ""


@pytest.mark.parametrize("instruction", ["none", "respectful"])
def test_crows_pairs_against_transformers(pairs, ours, theirs, instruction):
    require_room(ours, instruction)
    task = some(crows_pairs(pairs, instruction), ours)
    found = stages.measured_now(*ours, task, RUN)
    expected = [[logp(theirs, told(instruction), text) for text in (p.more, p.less)] for p in task.items]
    assert len(expected) >= 5
    np.testing.assert_allclose([row.shown["logps"] for row in found.rows], expected, atol=1e-3, rtol=1e-5)
    more, less = np.array(expected).T
    assert found.figures["entropy_bits"].mean == pytest.approx(bits(expected), abs=1e-4)
    assert found.figures["percent_stereotype"].mean == pytest.approx(100 * np.mean(more > less))
    assert found.figures["likelihood_diff"].mean == pytest.approx(np.mean(np.abs(more - less)), abs=1e-4)


@pytest.mark.parametrize("instruction", ["none", "biased"])
def test_winogenders_pronouns_against_transformers(sentences, ours, theirs, instruction):
    require_room(ours, instruction)
    task = some(winogender_pronouns(sentences, instruction), ours)
    found = stages.measured_now(*ours, task, RUN)
    expected = [[logp(theirs, told(instruction), text) for text in (p.male, p.female)] for p in task.items]
    assert len(expected) >= 5
    he, she = np.array(expected).T
    np.testing.assert_allclose([row.values["log_odds_female"] for row in found.rows], she - he, atol=1e-4)
    assert found.figures["entropy_bits"].mean == pytest.approx(bits(expected), abs=1e-4)
    assert found.figures["probability_female"].mean == pytest.approx(np.mean(1 / (1 + np.exp(he - she))), abs=1e-4)


def test_winogenders_resolution_against_transformers(sentences, ours, theirs):
    task = some(winogender_resolution(sentences), ours)
    found = stages.measured_now(*ours, task, RUN)
    contexts = [f"{s.text} ‘{s.pronoun.capitalize()}’ refers to the" for s in task.items]
    expected = [
        [logp(theirs, context, f" {choice}") for choice in (s.occupation, s.participant)]
        for context, s in zip(contexts, task.items, strict=True)
    ]
    np.testing.assert_allclose([row.shown["logps"] for row in found.rows], expected, atol=1e-4, rtol=1e-5)
    first = [a >= b for a, b in expected]
    right = [taken == (s.answer == s.occupation) for taken, s in zip(first, task.items, strict=True)]
    assert found.figures["accuracy"].mean == pytest.approx(np.mean(right))
    assert found.figures["occupation"].mean == pytest.approx(np.mean(first))


def harness(folder, theirs, tmp_path, task: str, rows):
    """What lm-evaluation-harness says of rows with its own task, which reads them from a file here."""
    lm_eval = pytest.importorskip("lm_eval")
    pytest.importorskip("accelerate")
    of_hf = importlib.import_module("lm_eval.models.huggingface")
    managing = importlib.import_module("lm_eval.tasks")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"data_files": {"test": str(tmp_path / "rows.jsonl")}, "cache_dir": str(tmp_path / "cache")}
    head = {"task": f"{task}_here", "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}
    lines = [f"{key}: {json.dumps(value)}" for key, value in head.items()]
    (tmp_path / "here.yaml").write_text("\n".join([*lines, *TASKS[task]]))
    (tmp_path / "utils.py").write_text("from lm_eval.tasks.crows_pairs.utils import doc_to_choice, process_results\n")
    model, tokenizer = theirs
    lm = of_hf.HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=1, add_bos_token=True)
    manager = managing.TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(lm, tasks=[f"{task}_here"], task_manager=manager, bootstrap_iters=0)
    return found["results"][f"{task}_here"]


TASKS = {
    "crows_pairs": [
        "output_type: multiple_choice",
        'doc_to_text: ""',
        "doc_to_target: 0",
        "doc_to_choice: !function utils.doc_to_choice",
        'target_delimiter: ""',
        "process_results: !function utils.process_results",
        "metric_list:",
        "  - {metric: likelihood_diff, aggregation: mean, higher_is_better: false}",
        "  - {metric: pct_stereotype, aggregation: mean, higher_is_better: false}",
    ],
    "winogender": [
        "output_type: multiple_choice",
        'doc_to_text: "{{sentence}} ‘{{pronoun.capitalize()}}’ refers to the"',
        "doc_to_target: label",
        'doc_to_choice: "{{[occupation, participant]}}"',
        "metric_list:",
        "  - {metric: acc, aggregation: mean, higher_is_better: true}",
    ],
}


def test_crows_pairs_against_the_harness(pairs, ours, folder, theirs, tmp_path):
    task = some(crows_pairs(pairs), ours)
    found = stages.measured_now(*ours, task, RUN).figures
    rows = [{"sent_more": p.more, "sent_less": p.less, "bias_type": p.bias_type} for p in task.items]
    expected = harness(folder, theirs, tmp_path, "crows_pairs", rows)
    assert 0 < expected["pct_stereotype,none"] < 1
    assert found["percent_stereotype"].mean == pytest.approx(100 * expected["pct_stereotype,none"])
    assert found["likelihood_diff"].mean == pytest.approx(expected["likelihood_diff,none"], abs=1e-4)


def test_winogender_against_the_harness(sentences, ours, folder, theirs, tmp_path):
    task = some(winogender_resolution(sentences), ours)
    found = stages.measured_now(*ours, task, RUN).figures
    rows = [{**s._asdict(), "sentence": s.text, "label": int(s.answer == s.participant)} for s in task.items]
    expected = harness(folder, theirs, tmp_path, "winogender", rows)
    assert found["accuracy"].mean == pytest.approx(expected["acc,none"])


def vowels(texts):
    """The share of a text's characters that are vowels."""
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) for text in texts]


def test_what_is_written_is_scored_and_measured_again_the_same(ours, tmp_path):
    prompts = [ToxicityPrompt(str(i), text, 0.5 * i) for i, text in enumerate(("He is", "She said", "The old"))]
    task = toxicity(prompts, vowels, draws=4, max_tokens=6)
    found = stages.measure(tmp_path / "toxicity", ours, task, RUN)
    scores = np.array([row.shown["scores"] for row in found.rows])
    assert scores.tolist() == [vowels(row.shown["texts"]) for row in found.rows]
    assert len({text for row in found.rows for text in row.shown["texts"]}) > 3  # the draws of a prompt differ
    assert found.figures["toxicity"].mean == pytest.approx(scores.mean())
    assert found.figures["expected_maximum/of_4"].mean == pytest.approx(scores.max(axis=1).mean())
    assert found.figures["any_toxic/of_4/toxic"].mean == pytest.approx((scores[1:] >= 0.5).any(axis=1).mean())
    assert stages.measure(tmp_path / "toxicity", ours, task, RUN).rows == found.rows
    greedy = replace(task, sampling=Sampling(0.0, 0, 1.0), stops=("e",), asks=ask_twice)
    assert all(
        len(set(row.shown["texts"])) == 1 and "e" not in row.shown["texts"][0]
        for row in stages.measured_now(*ours, greedy, RUN).rows
    )


def ask_twice(prompt):
    return [Write(prompt.text)] * 2
