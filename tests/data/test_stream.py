"""What a stream gives depends on its arguments and on its position, and on nothing else."""

import json
import weakref
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_jax.data import Records, TextStream, weighted_sources
from rlhf_jax.errors import InputError

# Every document has tokens of its own, so that rows tell which documents they are from.
SIZES = {"a": 23, "b": 7, "c": 40}
TEXTS = {name: [f"{name}{i} " * (1 + i * 5 % 13) for i in range(n)] for name, n in SIZES.items()}
WEIGHTS = {"a": 0.6, "b": 0.1, "c": 0.3}
LENGTH, BATCH, SEED = 16, 8, 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for name, texts in TEXTS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture(scope="module")
def make(folder, tokenizer):
    """A stream of the named sources, with all its lanes unless told."""

    def make(names="abc", batch=BATCH, seed=SEED, lanes=None, length=LENGTH):
        sources = [Records(str(folder / f"{name}.jsonl"), "text", folder / "index") for name in names]
        weights = [WEIGHTS[name] for name in names]
        return TextStream(sources, weights, tokenizer, length, batch, seed, lanes or range(batch))

    return make


def rows(stream, steps):
    return np.stack([next(stream).tokens for _ in range(steps)])


def documents(lane, tokenizer):
    """The texts of a lane's rows, without the last, which may be cut."""
    ends = np.flatnonzero(lane == tokenizer.eos)
    return [tokenizer.decode(piece) for piece in np.split(lane, ends + 1)[: len(ends)]]


def test_a_batch_is_full_rows_of_which_all_but_the_first_token_are_predicted(make):
    batch = next(make())
    assert batch.tokens.shape == (BATCH, LENGTH)
    assert batch.tokens.dtype == np.int32
    assert batch.predict.tolist() == [[False] + [True] * (LENGTH - 1)] * BATCH


def test_an_epoch_of_one_lane_has_every_document_once_and_whole(make, tokenizer):
    n = SIZES["a"]
    lane = rows(make("a", batch=1), 3 * sum(len(tokenizer.encode(t)) + 1 for t in TEXTS["a"]) // LENGTH).ravel()
    read = documents(lane, tokenizer)
    first, second = read[:n], read[n : 2 * n]
    assert sorted(first) == sorted(second) == sorted(TEXTS["a"])
    assert first != second
    assert first != TEXTS["a"]


def test_lanes_deal_out_the_documents_of_one_stream(make, tokenizer):
    """Lane i has the documents i, i + 4, i + 8, … of what one lane reads."""
    one = documents(rows(make("c", batch=1), 200).ravel(), tokenizer)
    four = rows(make("c", batch=4), 40)
    for i in range(4):
        read = documents(four[:, i].ravel(), tokenizer)
        assert len(read) > 10
        assert read == one[i::4][: len(read)]


@pytest.mark.parametrize("bounds", [(0, 4, 8), (0, 2, 4, 6, 8), (0, 3, 8)], ids=["2", "4", "2 unequal"])
def test_processes_have_together_what_one_has(make, bounds):
    whole = rows(make(), 30)
    parts = [rows(make(lanes=range(a, b)), 30) for a, b in pairwise(bounds)]
    assert (np.concatenate(parts, axis=1) == whole).all()


def test_a_process_reads_the_documents_of_its_lanes_and_no_others(make, monkeypatch):
    read = Counter()
    text = Records.text
    monkeypatch.setattr(Records, "text", lambda self, i: read.update([(id(self), i)]) or text(self, i))
    rows(make("c", batch=4), 3)
    whole, parts = read.total(), []
    for i in range(4):
        read.clear()
        rows(make("c", batch=4, lanes=range(i, i + 1)), 3)
        parts.append(read.total())
    assert sum(parts) == whole
    assert max(parts) < whole


@given(before=st.integers(0, 25), names=st.sampled_from(["abc", "b"]), length=st.sampled_from([2, 16, 150]))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_seeking_is_going_there(make, before, names, length):
    stream = make(names, length=length)
    for _ in range(before):
        next(stream)
    position = json.loads(json.dumps(stream.position(stream.taken)))
    expected = rows(stream, 4)
    other = make(names, length=length)
    rows(other, 3)
    other.seek(position)
    assert other.position(other.taken) == position
    assert (rows(other, 4) == expected).all()
    assert other.position(other.taken) == stream.position(stream.taken) != position


def test_seeking_with_another_number_of_processes(make):
    """Saved by 4, continued by 2 and then by 1."""
    whole = rows(make(), 25)
    four = [make(lanes=range(a, a + 2)) for a in range(0, 8, 2)]
    for stream in four:
        rows(stream, 9)
    position = four[0].position(np.concatenate([stream.taken for stream in four]))
    two = [make(lanes=range(a, a + 4)) for a in (0, 4)]
    for stream in two:
        stream.seek(position)
    assert (np.concatenate([rows(stream, 8) for stream in two], axis=1) == whole[9:17]).all()
    one = make()
    one.seek(two[1].position(np.concatenate([stream.taken for stream in two])))
    assert (rows(one, 8) == whole[17:]).all()


def test_seeking_far_reads_one_document_of_each_lane_and_source(make, monkeypatch):
    stream = make()
    rows(stream, 80)
    position = stream.position(stream.taken)
    other, read, text = make(), [], Records.text
    monkeypatch.setattr(Records, "text", lambda self, i: read.append(i) or text(self, i))
    other.seek(position)
    assert read == []
    other.seek(position | {"lanes": [[10**12, 0] * 3] * BATCH})  # no way to get there by reading
    next(other)
    assert len(read) <= BATCH * (LENGTH // 2 + 1)


def test_the_position_is_small(make):
    stream = make()
    rows(stream, 50)
    position = stream.position(stream.taken)
    assert stream.taken.shape == (BATCH, 2 * 3)
    assert stream.taken.dtype == np.int64
    assert len(json.dumps(position)) < 12 * stream.taken.size + 200


def test_seeds_differ_and_so_do_two_sources_of_one_file(make, tokenizer):
    assert (rows(make(seed=0), 5) != rows(make(seed=1), 5)).any()
    stream = make("aa", batch=1)
    read = {0: [], 1: []}
    for step in range(60):
        read[stream.source(step)].append(next(stream).tokens[0])
    first, second = (documents(np.concatenate(read[s]), tokenizer) for s in (0, 1))
    assert first[:10] != second[:10]


def test_rows_are_dealt_out_by_weight(make):
    """Kuipers and Niederreiter 1974, ch. 2, th. 3.4, for the golden ratio: of N rows in a row the count that falls below
    any x differs from N·x by at most 3 + (1/ln ξ + 1/ln 2) ln N, ξ = (1 + √5)/2; between two such, by twice that."""
    stream, n = make(), 20_000
    of = np.array([stream.source(row) for row in range(n)])
    for start in (0, 1, 777):
        counts = np.cumsum(of[start:, None] == np.arange(3), axis=0)
        N = np.arange(1, len(counts) + 1)[:, None]
        bound = 2 * (3 + (1 / np.log((1 + 5**0.5) / 2) + 1 / np.log(2)) * np.log(N))
        expected = N * np.array([list(WEIGHTS.values())])
        assert (np.abs(counts - expected) <= bound).all()
    assert (np.abs(counts[-1] / len(counts) - list(WEIGHTS.values())) < 0.005).all()
    # The same far out, where floats would have no digits left for it.
    far = np.array([stream.source(10**15 + row) for row in range(n)])
    assert (np.abs(np.bincount(far) / n - list(WEIGHTS.values())) < 0.005).all()


def test_the_shares_are_of_tokens_and_each_row_is_of_its_source(make, tokenizer):
    """The documents of c are as many as those of b are few, and much longer or shorter: that does not matter."""
    stream, steps, tokens = make(), 150, Counter()
    for step in range(steps):
        for lane, row in enumerate(next(stream).tokens):
            source = "abc"[stream.source(step * BATCH + lane)]
            assert set(tokenizer.decode(row)) & set("abc") <= {source}
            tokens[source] += len(row)
    for name, weight in WEIGHTS.items():
        assert tokens[name] / tokens.total() == pytest.approx(weight, abs=0.02)


def test_no_text_is_held_and_of_tokens_one_document_a_lane_and_source(make, monkeypatch):
    class Tracked(str):
        __slots__ = ("__weakref__",)

    alive, most, text = weakref.WeakSet(), 0, Records.text

    def tracked(self, i):
        nonlocal most
        made = Tracked(text(self, i))
        alive.add(made)
        most = max(most, len(alive))
        return made

    monkeypatch.setattr(Records, "text", tracked)
    stream = make()
    longest = max(len(t) for texts in TEXTS.values() for t in texts) + 1
    for _ in range(60):
        next(stream)
        assert len(alive) == 0
        held = list(stream._rest.values())
        assert len(held) <= BATCH * 3
        assert sum(rest.size if rest.base is None else rest.base.size for rest in held) <= BATCH * 3 * longest
    assert 1 <= most <= 2


def test_texts_that_are_few_or_empty_still_make_full_rows(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    stream = TextStream([Records(str(tmp_path / "a.jsonl"), "text", tmp_path)], [1.0], tokenizer, 5, 3, 0, range(3))
    assert (rows(stream, 2) == tokenizer.eos).all()


def test_other_sources_or_another_batch_are_noticed(make, tmp_path, tokenizer):
    position = (stream := make("a")).position(stream.taken)
    with pytest.raises(InputError, match=r"source 1 of the stream has 7 texts .* and had 23 .*: put its files back"):
        make("b").seek(position)
    with pytest.raises(InputError, match=r"of a batch of 8 rows, not 4: set the batch back"):
        make("a", batch=4).seek(position)
    texts = [f"A{text[1:]}" for text in TEXTS["a"]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    same_size = Records(str(tmp_path / "a.jsonl"), "text", tmp_path)
    with pytest.raises(InputError, match=r"source 1 of the stream has 23 texts .* and had 23"):
        TextStream([same_size], [1.0], tokenizer, LENGTH, BATCH, SEED, range(BATCH)).seek(position)


def test_a_position_has_all_lanes(make):
    stream = make(lanes=range(2, 4))
    with pytest.raises(ValueError, match="a position has all 8 lanes, and these are 2"):
        stream.position(stream.taken)


def test_a_text_that_cannot_be_encoded_is_named_with_its_line(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n\n{"text": "\\ud800"}\n')
    stream = TextStream([Records(str(tmp_path / "a.jsonl"), "text", tmp_path)], [1.0], tokenizer, 8, 2, 0, range(2))
    with pytest.raises(InputError, match=r"a.jsonl, line 3: character 1 .* half of a surrogate pair"):
        next(stream)


def test_sources_and_weights_in_one_line():
    assert weighted_sources("web.jsonl 0.7, my books/*.parquet 3") == (["web.jsonl", "my books/*.parquet"], [0.7, 3.0])
    for text, culprit in [
        ("web.jsonl", "web.jsonl"),
        ("a.jsonl 1, b.jsonl", "b.jsonl"),
        ("a.jsonl 0", "a.jsonl 0"),
        ("a.jsonl -1", "a.jsonl -1"),
        ("a.jsonl nan", "a.jsonl nan"),
        ("a.jsonl inf", "a.jsonl inf"),
        ("a.jsonl 1,", ""),
        ("", ""),
        ("0.5", "0.5"),
    ]:
        with pytest.raises(InputError, match=f"the source '{culprit}' has no weight above 0"):
            weighted_sources(text)
