"""Rankings of every shape, what is no ranking, and their slots."""

import gzip
import json

import numpy as np
import pytest

from rlhf_jax.data import (
    ASSISTANT,
    Messages,
    Ranking,
    encode_rankings,
    parse_transcript,
    ranking_fits,
    read_rankings,
    write_rankings,
)
from rlhf_jax.errors import InputError

PROMPT = "\n\nHuman: Name a fruit.\n\nAssistant:"
QUESTION = {"role": "user", "content": "Name a fruit."}
PAIR = Ranking(PROMPT, ("A pear.", "A dog."), (1, 2))


def answer(content):
    return {"role": "assistant", "content": content}


def ranked(*pairs):
    return {"prompt": "q", "completions": [{"text": text, "rank": rank} for text, rank in pairs]}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a fruit.", "chosen": " A pear.", "rejected": "A dog.\n"},
        {"prompt": [QUESTION], "chosen": [answer("A pear.")], "rejected": [answer("A dog.")]},
        {
            "prompt": "Name a fruit.",
            "chosen": [QUESTION, answer("A pear.")],
            "rejected": [QUESTION, answer("A dog.")],
        },
        {"chosen": [QUESTION, answer("A pear.")], "rejected": [QUESTION, answer("A dog.")]},
        {"chosen": PROMPT + " A pear.", "rejected": PROMPT + " A dog."},
        {**ranked(("A pear.", 1), ("A dog.", 2)), "prompt": PROMPT, "labeler": None},
    ],
)
def test_every_shape_of_row(jsonl, row):
    of_messages = isinstance(row.get("prompt"), list) or isinstance(row.get("chosen"), list)
    assert read_rankings(jsonl(row)) == [PAIR._replace(prompt=Messages([QUESTION])) if of_messages else PAIR]


def test_rankings_survive_a_file(tmp_path):
    rankings = [
        Ranking(PROMPT, ("é 😀", "b\n\nHuman: c", "d"), (2, 1, 2), "Ann"),
        Ranking("Be kind." + PROMPT, ("a\u2028a", "b"), (3, 1), user="7"),
        # What a model wrote may look like anything.
        Ranking(PROMPT, ("[{'role': 'user', 'content': 'a'}]", '[{"role": "assistant", "content": "b"}]'), (1, 2)),
        Ranking(Messages([QUESTION]), (Messages([answer("a"), QUESTION, answer(" b ")]), "c"), (1, 2)),
    ]
    path = tmp_path / "rankings.jsonl"
    write_rankings(path, rankings)
    assert read_rankings(str(path)) == rankings
    assert [file.name for file in tmp_path.iterdir()] == ["rankings.jsonl"]
    with pytest.raises(InputError, match="let the name end in"):
        write_rankings(tmp_path / "rankings.json", rankings)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (ranked(("a", 1), ("", 2)), "answer 2 is empty: write one"),
        ({"chosen": PROMPT, "rejected": PROMPT + " A dog."}, "answer 1 is empty"),
        (ranked(("a", 1)), "a ranking needs two answers and has 1"),
        (ranked(), "a ranking needs two answers and has 0"),
        (ranked(("a", 1), ("b", 1)), "all answers tie"),
        (ranked(("a", 1), ("b", 2), ("a", 3)), "one and the same answer has two ranks"),
        ({"prompt": "q", "chosen": "a", "rejected": "a "}, "one and the same answer has two ranks"),
        (ranked(("a", 1), ("b", None)), "completion 2 has no 'rank'"),
        (ranked(("a", 1), ("b", 1.5)), "completion 2 has the rank 1.5: use whole numbers from 1 on"),
        (ranked(("a", 1), ("b", "2")), "completion 2 has the rank '2'"),
        (ranked(("a", True), ("b", 2)), "completion 1 has the rank True"),
        (ranked(("a", 0), ("b", 2)), "completion 1 has the rank 0"),
        (ranked(("a", 1), ("b", 2**31)), "completion 2 has the rank 2147483648: use numbers below 2,147,483,648"),
        (ranked((None, 1), ("b", 2)), "completion 1 has no 'text'"),
        ({"prompt": "q", "completions": ["a", 3]}, "'completions' is no list of objects"),
        ({"prompt": "q", "completions": ["a", "b"]}, "'completions' holds texts and nothing ranks them"),
        ({"completions": []}, "there is 'completions' but no 'prompt'"),
        ({"prompt": "q", "chosen": "a"}, r"no ranking \(found: prompt, chosen\): give chosen and rejected"),
        (
            {"prompt": "q", "chosen": "a", "rejected": PROMPT + " b"},
            "one of 'chosen' and 'rejected' is a conv",
        ),
        ({"chosen": "a", "rejected": "b"}, "there are answers and no prompt: give it, or name its column"),
        ({**ranked(("a", 1), ("b", 2)), "labeler": 7.5}, "'labeler' holds a number"),
    ],
)
def test_a_bad_row_is_named_once(jsonl, row, sentence):
    with pytest.raises(InputError, match=f"rows.jsonl, line 2: .*{sentence}") as error:
        read_rankings(jsonl(ranked(("a", 1), ("b", 2)), row))
    assert str(error.value).count("line 2") == 1


def test_empty_answers_are_dropped_only_on_request_and_said(jsonl, caplog):
    source = jsonl(ranked(("a", 1), ("", 2)), ranked(("a", 1), ("b", 2)))
    assert len(read_rankings(source, unusable="drop")) == 1
    assert "dropped 1 of 2 rows: 1 with an empty answer" in caplog.text
    with pytest.raises(InputError, match=r"none is left: .*all answers tie"):
        read_rankings(jsonl(ranked(("a", 1), ("b", 1))), unusable="drop")


def test_slots(tokenizer):
    prompt, pear, dog = (tokenizer.encode(text) for text in (PROMPT, "A pear.", "A dog."))
    length = len(prompt) + len(pear) + len(dog)
    three = Ranking(PROMPT, ("A pear.", "A dog.", "A cat."), (2, 1, 2))
    batch = encode_rankings([PAIR, three], tokenizer, length, 4)
    assert batch.tokens.shape == batch.mask.shape == (2, 4, length)
    assert batch.ranks.tolist() == [[1, 2, 0, 0], [2, 1, 2, 0]]
    for slot, ids in enumerate((prompt + pear + [tokenizer.eos], prompt + dog + [tokenizer.eos])):
        assert batch.tokens[0, slot].tolist() == ids + (length - len(ids)) * [tokenizer.pad]
        assert batch.mask[0, slot].tolist() == [i < len(ids) for i in range(length)]
    assert not batch.mask[0, 2:].any()
    assert (batch.tokens[0, 2:] == tokenizer.pad).all()


def test_too_many_answers_and_too_short_a_context(tokenizer):
    p, a = len(tokenizer.encode(PROMPT)), len(tokenizer.encode("A pear.")) + 1
    with pytest.raises(InputError, match="ranking 1 has 2 answers and there are 1 slots"):
        encode_rankings([PAIR], tokenizer, 99, 1)
    short = PAIR._replace(answers=("A", "A pear."))
    assert ranking_fits(short, tokenizer, p + a)
    assert not ranking_fits(short, tokenizer, p + a - 1)
    sentence = f"ranking 1, answer 2: a prompt of {p} tokens and an answer of {a} with EOS exceed the context of"
    with pytest.raises(InputError, match=sentence):
        encode_rankings([short], tokenizer, p + a - 1, 2)


def test_hh_rlhf(real_data, caplog):
    source = str(real_data / "hh-rlhf/harmless-base.jsonl.gz")
    rankings = read_rankings(source, unusable="drop")
    assert len(rankings) == 1878 - 4
    assert "dropped 4 of 1878 rows" in caplog.text
    with gzip.open(source, "rt") as lines:
        pairs = [json.loads(line) for line in lines]
    parted = [i for i, pair in enumerate(pairs) if len({text.rpartition(ASSISTANT)[0] for text in pair.values()}) == 2]
    assert len(parted) == 3
    run_on = [ranking for ranking in rankings if any(isinstance(answer, Messages) for answer in ranking.answers)]
    assert len(run_on) == 3
    for ranking, pair in zip(run_on, (pairs[i] for i in parted), strict=True):
        for said, text in zip(ranking.answers, (pair["chosen"], pair["rejected"]), strict=True):
            assert text.startswith(ranking.prompt)
            rest = text.removeprefix(ranking.prompt).strip()  # all that was compared is there
            assert said == (rest if isinstance(said, str) else Messages(parse_transcript(f"{ASSISTANT} {rest}")))
    assert all(r.prompt.endswith("\n\nAssistant:") and r.ranks == (1, 2) for r in rankings)


def test_an_answer_without_its_end_is_made_up(tokenizer):
    """Each ranking gets one, of rank −1: the beginning of one of its answers, of any length, without EOS. The rest stays."""
    three = Ranking(PROMPT, ("A ripe pear.", "A dog.", "Two plums."), (2, 3, 1))
    whole = encode_rankings([PAIR, three] * 40, tokenizer, 64, 3)
    more = encode_rankings([PAIR, three] * 40, tokenizer, 64, 3, np.random.default_rng(0))
    assert more.tokens.shape == (80, 4, 64)
    lengths = set()
    for row, count in zip(range(80), [2, 3] * 40, strict=True):
        assert (more.tokens[row, :count] == whole.tokens[row, :count]).all()
        assert (more.mask[row, :count] == whole.mask[row, :count]).all()
        assert more.ranks[row].tolist() == [*whole.ranks[row, :count], -1, *[0] * (3 - count)]
        kept = more.tokens[row, count][more.mask[row, count]].tolist()
        answers = [whole.tokens[row, i][whole.mask[row, i]].tolist() for i in range(count)]
        begun = [ids for ids in answers if ids[: len(kept)] == kept and len(ids) > len(kept)]
        assert begun and tokenizer.eos not in kept
        lengths.add(len(kept) - len(tokenizer.encode(PROMPT)))
    assert min(lengths) == 1 and len(lengths) > 2


def test_an_answer_to_another_prompt_is_made_up(tokenizer):
    """Each ranking gets one of another's answers, whole, unless that has the same prompt, is one of its own, or too long."""
    three = Ranking(PROMPT.replace("fruit", "plant"), ("A ripe pear.", "A dog.", "Two plums."), (2, 3, 1))
    again = Ranking(three.prompt, ("Nuts.", "Figs."), (1, 2))
    long = Ranking("\n\nHuman: And?\n\nAssistant:", ("A ripe pear.", "A dog. " * 10), (1, 2))
    given, draws = [PAIR, three, long, again] * 40, lambda: np.random.default_rng(0)
    length = (
        len(tokenizer.encode(long.prompt)) + len(tokenizer.encode(long.answers[1])) + 1
    )  # the other prompt is longer
    whole = encode_rankings(given, tokenizer, length, 3)
    more = encode_rankings(given, tokenizer, length, 3, off_topic=draws())
    assert more.tokens.shape == (160, 4, length)
    taken = [set(), set(), set(), set()]
    for row, ranking in enumerate(given):
        count = len(ranking.answers)
        assert (more.tokens[row, :count] == whole.tokens[row, :count]).all()
        assert (more.ranks[row, :count] == whole.ranks[row, :count]).all()
        kept = more.tokens[row, count][more.mask[row, count]]
        assert more.ranks[row, count:].tolist() == [-1 if len(kept) else 0, *[0] * (3 - count)]
        if len(kept):
            text = tokenizer.decode(kept.tolist())
            assert kept[-1] == tokenizer.eos and text.startswith(ranking.prompt)
            taken[row % 4].add(text.rpartition("Assistant:")[2].strip())
    assert taken[0] == {"A ripe pear.", "Two plums.", "Nuts.", "Figs."}
    assert taken[1] == {"A pear."}
    assert taken[2] == {"A pear.", "A dog.", "Two plums.", "Nuts.", "Figs."}
    assert taken[3] == {"A pear.", "A dog.", "A ripe pear."}
    both = encode_rankings(given, tokenizer, length, 3, draws(), draws())
    assert both.tokens.shape == (160, 5, length)
    for row, ranking in enumerate(given):
        others = both.ranks[row, len(ranking.answers) :].tolist()
        assert others[0] == -1 and others.count(-1) == both.mask[row, len(ranking.answers) :].any(axis=1).sum()
