"""The adapter of lm-evaluation-harness: against its own hf model on the same weights, and against the definition."""

import csv
import gzip
import importlib
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tokenizers

from rlhf_jax.data import load_tokenizer, own_chat_template, with_chat
from rlhf_jax.errors import InputError
from rlhf_jax.evals import harness_model
from rlhf_jax.evals.harness import encode_as_hf, prefix_of, writing_of
from rlhf_jax.models import LanguageModel, Sampling, TransformerConfig, hidden_states, load_pretrained, logits

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]  # 0, 1, 2, 3, as the golden models' config.json has the first three
LETTERS = ["\n", *map(chr, range(32, 127))]
MERGES = [(" ", "t"), ("h", "e"), (" t", "he"), ("i", "n"), (" ", "a"), ("e", "r"), ("o", "u"), ("a", "n")]
CHATML = (
    "{% for message in messages %}{{ '<s>' + message.role + '\n' + message.content + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
CONTEXT = 64  # of the golden models


def with_tokenizer(folder: Path, opens: bool) -> Path:
    """A tokenizer of letters and a few merges, beside a model's weights. opens: texts begin with <s>, as Llama's do."""
    pieces = [*SPECIAL, *LETTERS, *("".join(merge) for merge in MERGES)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, MERGES, unk_token="<unk>"))
    made.decoder = tokenizers.decoders.Fuse()
    made.add_special_tokens(SPECIAL)
    if opens:
        made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHATML, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(params=["gpt2_tied", pytest.param("llama_untied", marks=pytest.mark.long)])
def folder(request, tmp_path):
    models = Path(os.environ.get("RLHF_JAX_GOLDEN", "none")) / "models"
    if not models.is_dir():
        pytest.skip("RLHF_JAX_GOLDEN names no folder of golden values")
    shutil.copytree(models / request.param, tmp_path / request.param, copy_function=shutil.copyfile)
    (tmp_path / request.param).chmod(0o755)
    return with_tokenizer(tmp_path / request.param, opens=request.param == "llama_untied")


@pytest.fixture
def letters(tmp_path):
    return load_tokenizer(with_tokenizer(tmp_path, opens=False))


@pytest.fixture
def data():
    path = Path(os.environ.get("RLHF_JAX_DATA", "none"))
    if not (path / "truthfulqa").is_dir():
        pytest.skip("RLHF_JAX_DATA names no folder of real data")
    return path


def ours(folder: Path, batch: int = 4):
    pytest.importorskip("lm_eval")
    model, params, _ = load_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    talking = with_chat(tokenizer, own_chat_template(folder))
    return harness_model(LanguageModel(model), params, talking, context=model.context, batch=batch)


def theirs(folder: Path):
    """One row at a time: of several that are to be gone on with it asks the first alone whether it begins with BOS."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    of_hf = importlib.import_module("lm_eval.models.huggingface")
    return of_hf.HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)


def asked(*arguments: tuple) -> list:
    return [SimpleNamespace(args=args, task_name="a_task") for args in arguments]


# What needs no lm_eval.


def test_without_lm_eval_there_is_a_sentence(monkeypatch, letters):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    small = TransformerConfig(128, 8, 8, 1, 2, 2, 16, "layernorm", "rope", "gelu", True, True, 0.0)
    with pytest.raises(InputError, match=r"pip install 'rlhf_jax\[eval\]'"):
        harness_model(LanguageModel(small), {}, letters, context=8, batch=1)


GREEDY = Sampling(0.0, 0, 1.0)


@pytest.mark.parametrize(
    ("said", "sampling", "most", "stops"),
    [
        ({}, GREEDY, 256, ("</s>",)),
        ({"until": "\n\n", "max_gen_toks": 5}, GREEDY, 5, ("\n\n", "</s>")),
        ({"until": ["a", "", "</s>"], "do_sample": False}, GREEDY, 256, ("a", "</s>")),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.5}, GREEDY, 256, ("</s>",)),
        ({"temperature": 0.7}, Sampling(0.7, 50, 1.0), 256, ("</s>",)),
        ({"do_sample": True, "temperature": 1, "top_k": 0, "top_p": 0.9}, Sampling(1.0, 0, 0.9), 256, ("</s>",)),
        ({"do_sample": False, "repetition_penalty": 1.2}, Sampling(0.0, 0, 1.0, 0.0, 1.2), 256, ("</s>",)),
        ({"max_tokens": 3, "max_new_tokens": 4, "num_beams": 1}, GREEDY, 4, ("</s>",)),
    ],
)
def test_generation_kwargs_are_read_as_hf_reads_them(said, sampling, most, stops):
    assert writing_of(said, "</s>") == (sampling, most, stops)


@pytest.mark.parametrize(
    ("said", "culprit"),
    [
        ({"num_beams": 4}, "num_beams"),
        ({"do_sample": True}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": 1.0, "top_p": 2.0}, "top_p"),
        ({"until": 3}, "until"),
        ({"max_gen_toks": 0}, "0 tokens"),
    ],
)
def test_generation_kwargs_that_no_model_can_follow_are_refused(said, culprit):
    with pytest.raises(InputError, match=culprit):
        writing_of(said, "</s>")


def test_a_text_opens_as_its_tokenizer_says(tmp_path, letters):
    llama = tmp_path / "llama"
    llama.mkdir()
    opening = load_tokenizer(with_tokenizer(llama, opens=True))
    a, b = (4 + LETTERS.index(letter) for letter in "AB")
    assert encode_as_hf("AB", letters) == [a, b]
    assert encode_as_hf("AB", opening) == [1, a, b]
    assert encode_as_hf("AB", opening, special=False) == [a, b]
    assert encode_as_hf("<s>A</s>B", opening) == [1, a, 2, b]  # it begins so already
    assert prefix_of(letters) == prefix_of(opening) == 1


def test_the_prefix_of_a_tokenizer_that_denies_bos_is_eos(tmp_path):
    """Qwen's: tokenizer_config.json says null, config.json names one."""
    config = json.loads((with_tokenizer(tmp_path, opens=False) / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": None}))
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 1}))
    assert prefix_of(load_tokenizer(tmp_path)) == 2


# Against the definition.


def by_hand(folder: Path, *pairs: tuple[list[int], list[int]]) -> list[tuple[float, bool]]:
    """Σ log softmax at the target's tokens of one forward pass over all but the last of context ⊕ target."""
    config, params, _ = load_pretrained(folder)
    after = jax.jit(partial(next_logps, LanguageModel(config), params))
    found = []
    for context, target in pairs:
        row = [*context, *target][:-1]
        tokens = np.zeros((1, CONTEXT), np.int32)  # what stands behind the row says nothing of it
        tokens[0, : len(row)] = row
        logp = np.asarray(after(tokens))[len(row) - len(target) : len(row)]
        found.append((float(logp[np.arange(len(target)), target].sum()), logp.argmax(1).tolist() == target))
    return found


def next_logps(model, params, tokens):
    return jax.nn.log_softmax(logits(model, params, hidden_states(model, params, tokens, tokens >= 0)[0])[0])


def ids(text: str) -> list[int]:
    """Of letters that no merge joins."""
    return [4 + LETTERS.index(letter) for letter in text]


def test_what_is_read_and_what_is_predicted(folder):
    """Each kind of request, and the tokens that it is to become; GPT-2's way has no BOS before a context."""
    bos = [1] if folder.name == "llama_untied" else []
    long = "QWXYZ" * 20
    cases = {
        ("QW", "XY"): ([*bos, *ids("QW")], ids("XY")),
        ("QW ", "XY"): ([*bos, *ids("QW")], ids(" XY")),  # the space goes to the continuation
        ("", "XY"): ([1], ids("XY")),
        ("", "<s>XY"): ([1], ids("XY")),  # it begins with the prefix
        ("<s>QW", "XY"): ([1, *ids("QW")], ids("XY")),
        ("Q", "é☃"): ([*bos, *ids("Q")], [3, 3]),
        (long, "XY"): (ids(long)[-(CONTEXT - 1) :], ids("XY")),  # CONTEXT tokens are read, all but the last of these
        ("Q", long[:CONTEXT]): ([*bos, *ids("Q")][-1:], ids(long[:CONTEXT])),
        ("the ca", "t in the"): ([*bos, *ids("t"), 4 + 96 + 1, *ids(" ca")], [*ids("t "), 4 + 96 + 3, 4 + 96 + 2]),
    }
    found = ours(folder).loglikelihood(asked(*cases), disable_tqdm=True)
    wanted = by_hand(folder, *cases.values())
    np.testing.assert_allclose([f[0] for f in found], [w[0] for w in wanted], atol=1e-4)
    assert [f[1] for f in found] == [w[1] for w in wanted]


def test_a_long_text_is_predicted_window_by_window(folder):
    """64 tokens behind the prefix, 64 behind the 64th, and the rest behind as many as fit."""
    text = "QWXYZVK" * 20
    tokens = [*([1] if folder.name == "llama_untied" else []), *ids(text)]
    rest = len(tokens) - 2 * CONTEXT
    windows = [([1], tokens[:64]), (tokens[63:64], tokens[64:128]), (tokens[-CONTEXT - 1 : -rest], tokens[-rest:])]
    wanted = sum(total for total, _ in by_hand(folder, *windows))
    assert ours(folder).loglikelihood_rolling(asked((text,)), disable_tqdm=True) == pytest.approx([wanted])


def test_equal_requests_have_one_answer_whatever_the_batch(folder):
    pairs = [(text[:n], text[n:]) for text in ("The cat", "A dog ran") for n in (0, 2, 4, 6, 1)] * 2
    one, eight = (ours(folder, batch) for batch in (1, 8))
    a, b = (m.loglikelihood(asked(*pairs), disable_tqdm=True) for m in (one, eight))
    np.testing.assert_allclose([x[0] for x in a], [x[0] for x in b], atol=1e-4)
    assert a[:10] == a[10:]
    prompts = [(pair[0], {"until": ["\n"], "max_gen_toks": 8}) for pair in pairs]
    assert one.generate_until(asked(*prompts), disable_tqdm=True) == eight.generate_until(asked(*prompts), True)


def test_each_result_goes_to_the_cache(folder):
    kept = []
    model = ours(folder)
    model.set_cache_hook(SimpleNamespace(add_partial=lambda *entry: kept.append(entry)))
    found = model.loglikelihood(asked(("a", "b"), ("", "b"), ("a", "b")), disable_tqdm=True)
    rolling = model.loglikelihood_rolling(asked(("abc",)), disable_tqdm=True)
    how = {"until": ["z"], "max_gen_toks": 2}
    said = model.generate_until(asked(("a", how)), disable_tqdm=True)
    expected = [("loglikelihood", pair, found[i]) for i, pair in enumerate([("a", "b"), ("", "b"), ("a", "b")])]
    expected += [("loglikelihood_rolling", ("abc",), rolling[0]), ("generate_until", ("a", how), said[0])]
    assert sorted(map(repr, kept)) == sorted(map(repr, expected))


@pytest.mark.parametrize(
    ("pair", "culprit"), [(("a", "Q" * 65), "65 tokens"), (("", ""), "a_task"), (("", "<s>"), "0 tokens")]
)
def test_what_cannot_be_asked_is_one_sentence(folder, pair, culprit):
    with pytest.raises(InputError, match=culprit):
        ours(folder).loglikelihood(asked(("a", "b"), pair), disable_tqdm=True)


def test_more_tokens_than_the_context_are_refused(folder):
    with pytest.raises(InputError, match=r"a_task: .*max_gen_toks"):
        ours(folder).generate_until(asked(("a", {"max_gen_toks": CONTEXT})), disable_tqdm=True)


def test_what_is_drawn_depends_on_the_seed(folder):
    model, params, _ = load_pretrained(folder)
    pytest.importorskip("lm_eval")
    how = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 16}

    def said(seed):
        made = harness_model(LanguageModel(model), params, load_tokenizer(folder), context=64, batch=4, seed=seed)
        return made.generate_until(asked(*[("Q", how)] * 6), disable_tqdm=True)

    assert said(0) == said(0) != said(1)
    assert len(set(said(0))) == 6


# Against lm_eval's hf model.

MERGED = "the theory in another inner banner"


@pytest.mark.long
@pytest.mark.slow
def test_requests_are_answered_as_by_hf(folder):
    a, b = ours(folder), theirs(folder)
    pairs = [
        ("", "a"),
        ("The ", "cat"),
        ("Q: what?\nA:", " the"),
        ("é", "ü the"),
        ("x" * 100, "y" * 30),
        ("a", "a" * 64),
    ]
    pairs += [
        ("", "<s>in"),
        ("<s>in", " the"),
        (MERGED, " the"),
        (MERGED[:7], MERGED[7:]),
        ("Q</s>", "A</s>"),
        ("The ", "cat"),
    ]
    pairs += [("the t", "he cat"), ("", "y" * 64), ("The", " cat"), ("The", " cau"), ("a\n", "\nb")]
    got, wanted = (m.loglikelihood(asked(*pairs), disable_tqdm=True) for m in (a, b))
    np.testing.assert_allclose([g[0] for g in got], [w[0] for w in wanted], atol=1e-4)
    assert [g[1] for g in got] == [w[1] for w in wanted]
    texts = [("",), ("a",), (MERGED,), ("Q" * 64,), ("Q" * 65,), (MERGED * 9,), ("ünïcode ☃ " * 12,), ("<s>" + MERGED,)]
    got, wanted = (m.loglikelihood_rolling(asked(*texts), disable_tqdm=True) for m in (a, b))
    np.testing.assert_allclose(got, wanted, atol=1e-3)  # of hundreds of nats
    how = [{"until": ["\n\n", "z"], "max_gen_toks": 24}, {"until": "e", "do_sample": False, "max_gen_toks": 24}]
    how += [{"until": [], "max_gen_toks": 24, "temperature": 0.0, "repetition_penalty": 1.3}]
    prompts = [(text, kwargs) for kwargs in how for text in ("The cat", MERGED * 4, "<s>Q", "é☃", "Q: who?\nA:", "a ")]
    got, wanted = (m.generate_until(asked(*prompts), disable_tqdm=True) for m in (a, b))
    assert got == wanted
    assert len(set(got)) > 6


def test_conversations_are_written_as_by_hf(folder):
    a, b = ours(folder), theirs(folder)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    begun = [*chat, {"role": "assistant", "content": "Hello the "}]
    for messages, asks in ((chat, True), (begun, False)):
        text = b.apply_chat_template(messages, asks)
        assert a.apply_chat_template(messages, asks) == text
        assert a.tok_encode(text) == b.tok_encode(text)
    assert a.chat_template(True) == b.chat_template(True) == CHATML


def rows_of(data: Path) -> dict[str, list[dict]]:
    """The first documents of each set whose parts fit a context of 64 letters, in the fields of the stock tasks."""
    with open(data / "truthfulqa" / "TruthfulQA.csv", newline="", encoding="utf-8") as file:
        questions = [
            (
                row["Question"],
                row["Best Answer"],
                row["Correct Answers"].split("; "),
                row["Incorrect Answers"].split("; "),
            )
            for row in csv.DictReader(file)
        ]

    def choices(right: list[str], wrong: list[str]) -> dict:
        return {"choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)}

    truth = [
        {"question": q, "mc1_targets": choices([best], wrong), "mc2_targets": choices(right, wrong)}
        for q, best, right, wrong in questions
        if max(map(len, [best, *right, *wrong])) < 60
    ]
    with open(data / "crows-pairs" / "crows_pairs_anonymized.csv", newline="", encoding="utf-8") as file:
        crows = [
            {key: row[key] for key in ("sent_more", "sent_less")}
            for row in csv.DictReader(file)
            if max(len(row["sent_more"]), len(row["sent_less"])) < 60
        ]
    with gzip.open(data / "lambada" / "lambada_development_plain_text.txt.gz", "rt", encoding="utf-8") as file:
        lambada = [{"text": line.strip()} for line, _ in zip(file, range(8), strict=False)]
    winogender = []
    with open(data / "winogender" / "templates.tsv", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            parts = {"occupation": row["occupation(0)"], "participant": row["other-participant(1)"]}
            sentence = row["sentence"].replace("$OCCUPATION", parts["occupation"])
            sentence = sentence.replace("$PARTICIPANT", parts["participant"])
            if "$NOM_PRONOUN" in sentence:
                sentence = sentence.replace("$NOM_PRONOUN", "she")
                winogender.append({**parts, "sentence": sentence, "pronoun": "she", "label": int(row["answer"])})
    pages = (data / "tinyshakespeare" / "input.txt").read_text()
    plays = [{"page": pages[i : i + 400]} for i in range(0, 1200, 400)]
    return {
        "truth": truth[:8],
        "crows": crows[:8],
        "lambada": lambada,
        "winogender": winogender[:8],
        "plays": plays,
    }


STOCK = {  # lm_eval's own tasks, but for where their documents come from
    "mc1": ("truth", "include: {lm_eval}/truthfulqa/truthfulqa_mc1.yaml\n"),
    "mc2": ("truth", "include: {lm_eval}/truthfulqa/truthfulqa_mc2.yaml\n"),
    "crows": ("crows", "include: {lm_eval}/crows_pairs/crows_pairs_english.yaml\n"),
    "lambada": ("lambada", "include: {lm_eval}/lambada/lambada_openai.yaml\n"),
    "winogender": ("winogender", "include: {lm_eval}/winogender/winogender.yaml\nmetadata: {{version: 1.0}}\n"),
    "pages": ("plays", "include: {lm_eval}/wikitext/wikitext.yaml\n"),
    "answers": (
        "truth",
        "output_type: generate_until\ndoc_to_text: 'Q: {{{{question}}}}\\nA:'\n"
        "doc_to_target: '{{{{mc1_targets.choices[0]}}}}'\n"
        "generation_kwargs: {{until: ['\\n', 'Q:', 'ee'], max_gen_toks: 20, do_sample: false}}\n"
        "metric_list: [{{metric: exact_match}}]\n",
    ),
}


def tasks_in(folder: Path, data: Path) -> Path:
    """A folder of tasks that read documents beside them."""
    folder.mkdir()
    home = Path(pytest.importorskip("lm_eval").__file__).parent / "tasks"
    for name, documents in rows_of(data).items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    for name, (documents, text) in STOCK.items():
        files = {"data_files": {"test": str(folder / f"{documents}.jsonl")}, "cache_dir": str(folder / "cache")}
        own = f"task: local_{name}\ndataset_path: json\ndataset_name: null\ndataset_kwargs: {json.dumps(files)}\n"
        own += "training_split: null\nvalidation_split: null\ntest_split: test\n"
        (folder / f"{name}.yaml").write_text(text.format(lm_eval=home) + own)
    return folder


@pytest.mark.slow
def test_tasks_are_measured_as_by_hf(folder, data, tmp_path):
    lm_eval = pytest.importorskip("lm_eval")
    manager = importlib.import_module("lm_eval.tasks").TaskManager(
        include_path=str(tasks_in(tmp_path / "tasks", data)), include_defaults=False
    )
    names = [f"local_{name}" for name in STOCK]
    got, wanted = (
        lm_eval.simple_evaluate(model, tasks=names, task_manager=manager, bootstrap_iters=0)
        for model in (ours(folder), theirs(folder))
    )
    for name in names:
        figures = [
            {key: value for key, value in results["results"][name].items() if "," in key and "stderr" not in key}
            for results in (got, wanted)
        ]
        assert figures[0]
        assert figures[0] == pytest.approx(figures[1], rel=1e-4), name
        for a, b in zip(got["samples"][name], wanted["samples"][name], strict=True):
            assert a["doc_hash"] == b["doc_hash"]
            for mine, other in zip(flat(a["resps"]), flat(b["resps"]), strict=True):
                assert mine == (pytest.approx(other, abs=1e-3) if isinstance(other, float) else other), name


def flat(value) -> list:
    return [leaf for part in value for leaf in flat(part)] if isinstance(value, (list, tuple)) else [value]


@pytest.mark.long
@pytest.mark.slow
def test_the_program_writes_each_sample(folder, data, tmp_path, capsys):
    pytest.importorskip("lm_eval")
    program = importlib.import_module("experiments.harness")
    out, tasks = tmp_path / "out" / "found.json", tasks_in(tmp_path / "tasks", data)
    settings = program.Settings(
        str(folder), "local_mc1,local_answers", str(out), include_path=str(tasks), limit=3, chat=True
    )
    program.main(settings)
    assert "local_mc1" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert {name: len(rows) for name, rows in found["samples"].items()} == {"local_mc1": 3, "local_answers": 3}
    asked = found["samples"]["local_answers"][0]["arguments"][0][0]
    assert asked.startswith("<s>user\nQ: ") and asked.endswith("A:</s>\n<s>assistant\n")
    with pytest.raises(InputError, match="no_such_task"):
        program.named_tasks(
            program.Settings(str(folder), "mine,no_such_task", str(out)), SimpleNamespace(all_tasks=["mine"])
        )
