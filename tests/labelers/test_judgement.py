"""The schema of a judgement: what is refused, in a sentence each, and what files keep of it, to the bit."""

import json
from random import Random

import pytest

from rlhf_jax.data import Messages, Ranking, prompt_text, read_rankings
from rlhf_jax.labelers import (
    FLAGS,
    Comparison,
    Completion,
    Judgement,
    as_pairs,
    as_rankings,
    checked_comparison,
    checked_judgement,
    comparison,
    comparison_of,
    comparison_row,
    judgement_of,
    judgement_row,
    read_comparisons,
    read_judgements,
    write_comparisons,
    write_judgements,
    write_pairs,
)
from tests.refusals import refusal

P = prompt_text("Name a fruit.")
CHAT = Messages([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a fruit."}])
TEXTS = ("An apple.", "A pear, a\n\u2028fig.", "“Ünïcode” 🍐")
THREE = Comparison(
    "c1", P, tuple(Completion(t, "sft", {"temperature": 0.7, "top_k": 0}) for t in TEXTS), "user 1", "round-1"
)
FULL = THREE.judged(
    "Ann",
    ranks=(2, 1, 2),
    ratings=(4, 7, 1),
    flags=({"hallucination": True}, dict.fromkeys(FLAGS, False), {}),
    group="a",
    seconds=0.1 + 0.2,
    session="s1",
    order=(2, 0, 1),
    time=1764209574.123456,
    id="submission-1",
)
BARE = THREE.judged("Bob", ranks=(1, 2, 3))
SKIPPED = THREE.judged("Cay", skipped="I do not understand it", ratings=(1, 2, 3))
TIED = THREE.judged("Dan", ranks=(1, 1, 1))


def test_the_paper_has_eleven_flags():
    assert len(FLAGS) == 11
    assert FLAGS["denigrates"] == "Denigrates a protected class"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"ranks": (0, 1, 2)}, "completion 1 has the rank 0: use whole numbers from 1 to 3"),
        ({"ranks": (1, 2, 4)}, "completion 3 has the rank 4"),
        ({"ranks": (1, True, 2)}, "completion 2 has the rank True"),
        ({"ranks": (1, 2.0, 2)}, "completion 2 has the rank 2.0"),
        ({"ranks": (1, "2", 2)}, "completion 2 has the rank '2'"),
        ({"ranks": (1, 2)}, "there are 3 completions and 2 ranks"),
        ({"ranks": (2, 2, 3)}, "no completion has the rank 1"),
        ({"ranks": None}, "the ranks are None"),
        ({"ranks": "123"}, "the ranks are '123'"),
        ({"ranks": ()}, "neither ranks nor a reason to skip"),
        ({"ranks": (), "skipped": " "}, "neither ranks nor a reason to skip"),
        ({"skipped": "no"}, "both ranks and a reason to skip"),
        ({"ratings": (1, 8, 3)}, "completion 2 has the rating 8: use whole numbers from 1 to 7"),
        ({"ratings": (1, 0, 3)}, "completion 2 has the rating 0"),
        ({"ratings": (1, 3)}, "there are 3 completions and 2 ratings"),
        ({"ratings": (1, False, 3)}, "completion 2 has the rating False"),
        ({"flags": ({}, {}, {"rude": True})}, "completion 3 has the flag 'rude': there are fails_instruction"),
        ({"flags": ({}, {"sexual": 1}, {})}, "completion 2 has sexual = 1: make it true or false"),
        ({"flags": ({}, {"sexual": None}, {})}, "completion 2 has sexual = None"),
        ({"flags": ({}, {})}, "there are 3 completions and 2 flags"),
        ({"flags": ({}, ["sexual"], {})}, "completion 2 has the flags ['sexual']"),
        ({"flags": ({}, {3: True}, {})}, "completion 2 has the flag 3"),
        ({"order": (0, 1, 1)}, "the order shown is (0, 1, 1): give each number from 0 to 2 once"),
        ({"order": (1, 2, 3)}, "the order shown is (1, 2, 3)"),
        ({"order": (0, True, 2)}, "the order shown is (0, True, 2)"),
        ({"order": (0, None, 2)}, "the order shown is (0, None, 2)"),
        ({"seconds": float("nan")}, "seconds is nan: give a number of seconds, from 0 on"),
        ({"seconds": float("inf")}, "seconds is inf"),
        ({"seconds": -1}, "seconds is -1"),
        ({"seconds": True}, "seconds is True"),
        ({"seconds": "1"}, "seconds is '1'"),
        ({"time": 10**400}, "time is 1000"),
        ({"labeler": ""}, "the judgement has no labeler"),
        ({"labeler": 7}, "labeler is 7: make it a text"),
        ({"session": None}, "session is None"),
        ({"group": "\ud800"}, "group holds half a character"),
        ({"task": ""}, "the comparison has no id"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": 7}, "the prompt is 7, neither a text nor messages"),
        ({"prompt": f"{P} An apple."}, "ends in an answer"),
        ({"prompt": [{"role": "user", "content": "\udfff"}]}, "prompt holds half a character"),
        ({"prompt": [{"role": "user"}]}, "message 1 is no object with 'role' and 'content'"),
        ({"completions": THREE.completions[:1], "ranks": (1,)}, "there is 1 completion to compare: give two or more"),
        ({"completions": "ab"}, "the completions are 'ab'"),
        ({"completions": ("a", "b", "c")}, "completion 1 is 'a': give Completion"),
        (
            {"completions": (*THREE.completions[:2], Completion("An apple. ", "ppo"))},
            "completions 1 and 3 are one text",
        ),
        ({"completions": (*THREE.completions[:2], Completion(" "))}, "completion 3 is empty"),
        ({"completions": (*THREE.completions[:2], Completion("x", sampling={"t": float("nan")}))}, "t = nan"),
        ({"completions": (*THREE.completions[:2], Completion("x", sampling={"t": [1]}))}, "sampling setting t = [1]"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(wrong, words):
    refusal(lambda: checked_judgement(BARE._replace(**wrong)), words)


def test_what_is_right_is_left_alone():
    for one in (FULL, BARE, SKIPPED, TIED):
        assert checked_judgement(one) == one
    gaps = BARE._replace(ranks=(1, 3, 3))  # 1 2 2 in other digits
    assert checked_judgement(gaps) == gaps
    assert checked_judgement(FULL._replace(ranks=[2, 1, 2], order=[2, 0, 1])) == FULL


def test_a_comparison_is_known_by_what_it_holds():
    made = comparison("Name a fruit.", TEXTS, model="sft", source="round-1")
    assert made.prompt == P
    assert made == comparison("Name a fruit.", TEXTS, model="sft", source="round-1")
    others = [comparison("Name a fruit.", TEXTS[::-1]), comparison("Name a fish.", TEXTS), made]
    assert len({each.id for each in others}) == 3
    assert checked_comparison(made) == made


# Files.

NASTY = [
    "a",
    "B",
    " ",
    "\n",
    "\r\n",
    "\0",
    "\u2028",
    '"',
    "\\",
    "<b>",
    "é",
    "e\u0301",
    "🍐",
    "\ufeff",
    "[",
    "{",
    "null",
    "0",
]


def drawn(rng: Random, messages: bool) -> Judgement:
    """Any judgement that there may be."""

    def text(least=1):
        return "x" * least + "".join(rng.choices(NASTY, k=rng.randrange(4))) + "x" * least

    K = rng.randint(2, 9)
    settings = [None, True, False, 0, -(2**70), 0.0, 0.1, 1e300, text()]
    turns = [
        {"role": role, "content": text()} for role in rng.choice((["user"], ["system", "user", "assistant", "user"]))
    ]
    about = [
        Completion(f"{number}{text()}", text(0), {text(): rng.choice(settings) for _ in range(rng.randrange(3))})
        for number in range(K)
    ]
    ranks = [1, *(rng.randint(1, K) for _ in range(K - 1))] if rng.random() < 0.7 else []
    return Comparison(text(), turns if messages else text(), tuple(about), text(0), text(0)).judged(
        text(),
        ranks=rng.sample(ranks, len(ranks)),
        skipped="" if ranks else text(),
        ratings=rng.choice([[], [rng.randint(1, 7) for _ in about]]),
        flags=rng.choice([[], [{name: rng.random() < 0.5 for name in rng.sample(list(FLAGS), 3)} for _ in about]]),
        order=rng.choice([[], rng.sample(range(K), K)]),
        seconds=rng.choice([None, 0.0, rng.random() * 1000]),
        time=rng.choice([None, 1.7e9 + rng.random()]),
        group=text(0),
        session=text(0),
        id=text(0),
    )


@pytest.mark.parametrize("messages", [False, True], ids=["transcripts", "messages"])
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_files_keep_all_of_it_to_the_bit(tmp_path, ending, messages):
    rng = Random(0)
    rows = [drawn(rng, messages) for _ in range(100)]
    assert {isinstance(row.prompt, Messages) for row in rows} == {messages}
    write_judgements(tmp_path / f"j{ending}", rows)
    found = read_judgements(str(tmp_path / f"j{ending}"))
    assert found == rows
    assert repr(found) == repr(rows)  # 0 is not False, nor 0.0


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("prompt", [P, CHAT])
def test_the_datasets_library_reads_both(tmp_path, ending, prompt):
    datasets = pytest.importorskip("datasets")
    rows = [one._replace(prompt=prompt) for one in (FULL, BARE, SKIPPED)]
    write_judgements(tmp_path / f"j{ending}", rows)
    kind = {".jsonl": "json", ".parquet": "parquet"}[ending]
    found = datasets.load_dataset(
        kind, data_files=str(tmp_path / f"j{ending}"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [judgement_of(row) for row in found] == rows


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("prompt", [P, CHAT])
def test_a_file_of_judgements_is_a_file_of_rankings(tmp_path, ending, prompt):
    rows = [one._replace(prompt=prompt) for one in (FULL, BARE, SKIPPED, TIED)]
    write_judgements(tmp_path / f"j{ending}", rows)
    found = read_rankings(str(tmp_path / f"j{ending}"), unusable="drop")
    assert found == as_rankings(rows)
    assert found == [
        Ranking(prompt, TEXTS, (2, 1, 2), "Ann", "user 1"),
        Ranking(prompt, TEXTS, (1, 2, 3), "Bob", "user 1"),
    ]


def test_what_was_skipped_is_no_ranking_by_its_ratings(tmp_path):
    write_judgements(tmp_path / "j.jsonl", [SKIPPED])
    refusal(lambda: read_rankings(str(tmp_path / "j.jsonl")), "line 1", "skipped it ('I do not understand it')")


def test_parquet_takes_prompts_of_one_kind(tmp_path):
    path = tmp_path / "j.parquet"
    refusal(lambda: write_judgements(path, [BARE, BARE._replace(prompt=CHAT)]), "some prompts are texts", ".jsonl")
    call = Messages([{"role": "user", "content": "Name a fruit.", "name": "Ann"}])
    refusal(lambda: write_judgements(path, [BARE._replace(prompt=call)]), "prompt 1 has messages of more than a role")
    refusal(lambda: write_judgements(tmp_path / "j.csv", [BARE]), "j.csv: unknown ending")
    assert not list(tmp_path.iterdir())
    write_judgements(path, [])
    empty = pytest.importorskip("pyarrow.parquet").read_table(path)
    assert empty.num_rows == 0 and "completions" in empty.column_names
    write_judgements(tmp_path / "j.jsonl", [BARE, BARE._replace(prompt=call)])
    assert read_judgements(str(tmp_path / "j.jsonl"))[1].prompt == call


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row.pop("labeler"), "line 1: the key 'labeler' is missing"),
        (lambda row: row.update(rater="Ann"), "line 1: the key 'rater' is unknown: a judgement has task, prompt"),
        (lambda row: row.update(completions="ab"), "line 1: the completions are 'ab'"),
        (lambda row: row["completions"].append("ab"), "line 1: completion 4 is 'ab'"),
        (lambda row: row["completions"][1].pop("text"), "line 1: completion 2 has no 'text'"),
        (
            lambda row: row["completions"][1].update(score=1),
            "line 1: completion 2 has the key 'score', which is unknown",
        ),
        (lambda row: row["completions"][1].pop("rank"), "line 1: completion 2 has no rank, which others have"),
        (lambda row: row["completions"][2].update(rating=7), "line 1: completion 1 has no rating, which others have"),
        (lambda row: row["completions"][2].update(sampling="{"), "completion 3 has the sampling settings '{'"),
        (lambda row: row["completions"][2].update(sampling=3), "completion 3 has the sampling settings 3"),
        (lambda row: row["completions"][2].update(rank=9), "line 1: completion 3 has the rank 9"),
        (lambda row: row.update(seconds=float("nan")), "line 1: seconds is nan"),
    ],
)
def test_a_row_that_is_wrong_is_named(tmp_path, change, words):
    row = json.loads(json.dumps(judgement_row(BARE)))
    change(row)
    (tmp_path / "j.jsonl").write_text(json.dumps(row) + "\n")
    refusal(lambda: read_judgements(str(tmp_path / "j.jsonl")), words)


def test_comparisons_have_files_too(tmp_path):
    rows = [THREE, comparison(CHAT, TEXTS)]
    write_comparisons(tmp_path / "c.jsonl", rows)
    assert read_comparisons(str(tmp_path / "c.jsonl")) == rows
    assert [comparison_of(comparison_row(each)) for each in rows] == rows
    write_comparisons(tmp_path / "c.jsonl", [THREE, THREE])
    refusal(lambda: read_comparisons(str(tmp_path / "c.jsonl")), "line 2: the comparison c1 is there already")


# Pairs.


def test_pairs_are_of_answers_of_which_one_is_better():
    a, b, c = (f" {text}" for text in TEXTS)
    assert as_pairs([FULL, SKIPPED, TIED]) == [
        {"prompt": P, "chosen": b, "rejected": a},
        {"prompt": P, "chosen": b, "rejected": c},
    ]
    assert len(as_pairs([BARE])) == 3
    (first, *_) = as_pairs([FULL._replace(prompt=CHAT)])
    assert first == {
        "prompt": list(CHAT),
        "chosen": [{"role": "assistant", "content": TEXTS[1]}],
        "rejected": [{"role": "assistant", "content": TEXTS[0]}],
    }


@pytest.mark.parametrize("prompt", [P, CHAT])
def test_pairs_read_back_are_the_pairs(tmp_path, prompt):
    write_pairs(tmp_path / "pairs.jsonl", [BARE._replace(prompt=prompt)])
    found = read_rankings(str(tmp_path / "pairs.jsonl"))
    assert {row.prompt for row in found} == {prompt}
    assert [row.answers for row in found] == [(TEXTS[0], TEXTS[1]), (TEXTS[0], TEXTS[2]), (TEXTS[1], TEXTS[2])]


@pytest.mark.parametrize("prompt", [P, CHAT], ids=["transcript", "messages"])
def test_trl_s_trainers_take_the_pairs(tmp_path, prompt):
    """A step of RewardTrainer and of DPOTrainer on them, with a model of a few hundred numbers."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e .[oracle]")
    datasets, tokenizers, hf = (pytest.importorskip(name) for name in ("datasets", "tokenizers", "transformers"))
    write_pairs(tmp_path / "pairs.jsonl", [one._replace(prompt=prompt) for one in (FULL, BARE, SKIPPED, TIED)])
    rows = datasets.load_dataset(
        "json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(rows) == 5
    by_bytes = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {c: i for i, c in enumerate(["<eos>", *tokenizers.pre_tokenizers.ByteLevel.alphabet()])}, []
        )
    )
    by_bytes.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    by_bytes.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=by_bytes, eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    config = hf.GPT2Config(
        vocab_size=257, n_positions=256, n_embd=8, n_layer=1, n_head=1, pad_token_id=0, eos_token_id=0, num_labels=1
    )
    common = {"output_dir": str(tmp_path / "out"), "max_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False}
    common |= {
        "per_device_train_batch_size": 2,
        "save_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    trained = {
        "reward": trl.RewardTrainer(
            hf.GPT2ForSequenceClassification(config),
            args=trl.RewardConfig(**common),
            train_dataset=rows,
            processing_class=tokenizer,
        ),
        "dpo": trl.DPOTrainer(
            hf.GPT2LMHeadModel(config),
            ref_model=hf.GPT2LMHeadModel(config),
            args=trl.DPOConfig(**common),
            train_dataset=rows,
            processing_class=tokenizer,
        ),
    }
    for trainer in trained.values():
        assert trainer.train().global_step == 1
    texts = [tokenizer.decode(row["chosen_ids"]) for row in trained["reward"].train_dataset]
    opening = P if prompt == P else "system: Be brief.\nuser: Name a fruit.\n"
    assert all(text.startswith(opening) for text in texts)
    assert sum(TEXTS[1] in text for text in texts) == 3  # FULL's two pairs, and BARE's second against its third
