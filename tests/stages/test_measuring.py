"""A task asked of a small model: replies against the model itself, resumption, refusals."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import Prompt, encode_prompt, prompt_text
from rlhf_jax.errors import InputError
from rlhf_jax.evals import SHARE, Likely, Row, Task, Write, width_of
from rlhf_jax.models import LanguageModel, Sampling, hidden_states, logits
from rlhf_jax.stages import RUN, Loaded, continuation, measure, measured_now, that_fit
from rlhf_jax.stages.measuring import cut_off

QUESTIONS = [
    ("Where is the cat?", " The cat is here.", " It is not."),
    ("The cat sat on", " the mat.", " a very large and old piece of the mat in the house."),
    ("A", " pear", " an apple is"),
    ("Who is here?", " Ann.", " Bob is here now."),
    ("Name a fruit that is not a pear, but an apple, or a plum.", " It is a plum.", " pear"),
]
RUN2 = replace(RUN, runtime=replace(RUN.runtime, batch=2))


def asks(item):
    """Two choices, the second question's in a conversation, and what the model writes by itself."""
    text, *choices = item
    context = Prompt(prompt_text(text)) if text.endswith("?") else text
    return [*(Likely(context, choice) for choice in choices), Write(context)]


def rows(items, replies):
    found = []
    for (text, *_), (first, second, said) in zip(items, replies, strict=True):
        values = {"right": float(first.logp > second.logp), "nats": (-first.logp, float(first.tokens))}
        shown = {"logp": [first.logp, second.logp], "greedy": first.greedy, "said": said.text, "ended": said.ended}
        found.append(Row(text, text, values, shown))
    return found


TASK = Task("choices", QUESTIONS, asks, rows, {"right": SHARE, "nats": None}, Sampling(1.0, 0, 1.0), max_tokens=5)


@pytest.fixture(scope="module")
def this(tokenizer):
    shape = stages.Decoder(
        width=16, layers=1, heads=2, kv_heads=2, hidden=16, norm="rmsnorm", position="rope", mlp="swiglu"
    )
    of = stages.described(shape, tokenizer, stages.Format(48, 16))
    params = LanguageModel(of.decoder).init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32), jnp.ones((1, 8), bool))
    model = stages.Trained(of.decoder, tokenizer, of.format, sha256="m", step=1)
    return Loaded(model, jax.tree.map(lambda p: 8.0 * p, params["params"]))


@partial(jax.jit, static_argnums=0)
def next_logps(model, params, row, mask):
    return jax.nn.log_softmax(logits(model, params, hidden_states(model, params, row, mask)[0])[0])


def after(this, row):
    """[T, V]: of each token of a row, log p of what follows; in one program for all rows, which are padded behind."""
    padded = np.zeros((1, 64), np.int32)
    padded[0, : len(row)] = row
    mask = np.arange(64)[None] < len(row)
    return np.asarray(next_logps(LanguageModel(this.model.decoder), this.params, padded, mask))[: len(row)]


def by_hand(this, context, target):
    logp = after(this, [*context, *target])[len(context) - 1 : -1]
    return float(logp[np.arange(len(target)), target].sum()), bool((logp.argmax(-1) == target).all())


def test_replies_are_the_model_s_own(this, tmp_path):
    found, t = measure(tmp_path / "m", this, TASK, RUN2), this.model.tokenizer
    for row, (text, *choices) in zip(found.rows, QUESTIONS, strict=True):
        pairs = []
        for choice in choices:
            if text.endswith("?"):
                context, target = encode_prompt(prompt_text(text), t), t.encode_continued(choice)
            else:
                whole = t.encode(text + choice)
                context, target = [*t.begins, *whole[: len(t.encode(text))]], whole[len(t.encode(text)) :]
            pairs.append(by_hand(this, context, target))
        np.testing.assert_allclose(row.shown["logp"], [logp for logp, _ in pairs], rtol=1e-4)
        assert row.shown["greedy"] == pairs[0][1]
        assert row.values["right"] == (pairs[0][0] > pairs[1][0])
    assert {row.values["right"] for row in found.rows} == {0.0, 1.0}
    assert found.figures["right"].mean == np.mean([row.values["right"] for row in found.rows])


def test_what_is_written_greedily_is_the_likeliest_whatever_shares_its_batch(this, tmp_path):
    greedy = replace(TASK, sampling=Sampling(0.0, 0, 1.0))
    two, four = (
        measure(tmp_path / str(batch), this, greedy, replace(RUN, runtime=replace(RUN.runtime, batch=batch)))
        for batch in (2, 4)
    )
    assert [row.shown["said"] for row in two.rows] == [row.shown["said"] for row in four.rows]
    t, row = this.model.tokenizer, [*this.model.tokenizer.begins, *this.model.tokenizer.encode("The cat sat on")]
    for _ in range(5):
        row.append(int(after(this, row)[-1].argmax()))
        if row[-1] in t.ends:
            break
    begun = len(t.begins) + len(t.encode("The cat sat on"))
    assert two.rows[1].shown["said"] == t.decode(row[begun:])


@pytest.mark.parametrize("stop", [2, *(pytest.param(at, marks=pytest.mark.long) for at in (1, 3))])
@pytest.mark.parametrize("torn", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_call_that_was_stopped_goes_on_to_the_bit(this, tmp_path, stop, torn):
    whole = measure(tmp_path / "whole", this, TASK, RUN2)
    calls = []

    class StoppedError(Exception):
        pass

    def broken(items, replies):
        calls.append(items)
        if len(calls) == stop:
            raise StoppedError
        return rows(items, replies)

    folder = tmp_path / "begun"
    with pytest.raises(StoppedError):
        measure(folder, this, replace(TASK, rows=broken), RUN2)
    made = json.loads((folder / "made.json").read_text())  # its function is another one's, up to here
    made["code"] = json.loads((tmp_path / "whole" / "made.json").read_text())["code"]
    (folder / "made.json").write_text(json.dumps(made))
    if torn and stop > 1:
        with (folder / "rows.jsonl").open("a") as file:
            file.write('{"id": "Name a fr')
    again = measure(folder, this, TASK, RUN2)
    assert again == whole
    assert (folder / "rows.jsonl").read_bytes() == (tmp_path / "whole" / "rows.jsonl").read_bytes()
    assert measure(folder, this.model, TASK, RUN2) == whole  # done: no parameters are read


def test_a_look_in_memory_finds_what_a_folder_has(this, tmp_path):
    assert measured_now(*this, TASK, RUN2) == measure(tmp_path / "m", this, TASK, RUN2)


def test_a_model_stands_beside_another_item_by_item(this, tmp_path):
    other = Loaded(replace(this.model, sha256="n"), jax.tree.map(lambda p: 0.9 * p, this.params))
    ours, theirs = measure(tmp_path / "a", this, TASK, RUN2), measure(tmp_path / "b", other, TASK, RUN2)
    minus = ours.minus(theirs)["nats"].mean
    assert minus == pytest.approx(ours.figures["nats"].mean - theirs.figures["nats"].mean, rel=1e-5)


def test_documents_are_cut_and_conversations_refused(this, tmp_path, capsys):
    long = " ".join(["the cat is here and"] * 30)
    cut = replace(TASK, items=[(long, *QUESTIONS[0][1:]), *QUESTIONS])
    found, capacity = measure(tmp_path / "cut", this, cut, RUN2), this.model.decoder.context
    assert f"3 documents are longer than the {capacity} tokens" in capsys.readouterr().err
    pair = continuation(Likely(long, " The cat is here."), this.model)
    kept = [*pair.context, *pair.target][-capacity:]
    n = len(pair.target)
    assert found.rows[0].shown["logp"][0] == pytest.approx(by_hand(this, kept[:-n], kept[-n:])[0], rel=1e-4)
    asked = replace(cut, items=[(f"{long}?", *QUESTIONS[0][1:]), *QUESTIONS])
    with pytest.raises(InputError, match="shorten it"):
        measure(tmp_path / "asked", this, asked, RUN2)
    assert that_fit(asked, this.model).items == QUESTIONS
    assert "1 of 6 items do not fit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (replace(TASK, items=[]), "there are no items"),
        (replace(TASK, max_tokens=64), "writes 64 tokens and the model's context is 64"),
        (replace(TASK, rows=lambda items, replies: []), "2 items made 0 rows"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(this, tmp_path, task, sentence):
    with pytest.raises(InputError, match=sentence):
        measure(tmp_path / "m", this, task, RUN2)


@pytest.mark.parametrize(
    "other",
    [
        replace(TASK, items=QUESTIONS[:4]),
        replace(TASK, sampling=Sampling(0.5, 0, 1.0)),
        replace(TASK, max_tokens=4),
        replace(TASK, stops=("\n",)),
        replace(TASK, asks=lambda item: asks(item)),
    ],
)
def test_a_folder_of_another_task_is_refused(this, tmp_path, other):
    measure(tmp_path / "m", this, TASK, RUN2)
    with pytest.raises(InputError, match="--anew m"):
        measure(tmp_path / "m", this, other, RUN2)


def test_a_text_ends_at_the_first_of_its_stops():
    assert cut_off("one\ntwo. three", ("two", "\n"), False) == ("one", True)
    assert cut_off("one", ("\n",), False) == ("one", False)


def test_widths_are_few_and_wide_enough():
    widths = [width_of(n, 1000) for n in range(1, 1001)]
    assert all(w >= n for n, w in enumerate(widths, 1)) and max(widths) == 1000
    assert all(w <= max(16, 1.5 * n) for n, w in enumerate(widths, 1))
    assert sorted(set(widths)) == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000]
