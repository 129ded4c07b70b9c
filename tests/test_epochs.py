"""An epoch is a pass over the rows that are trained on: of those that are left, each counts once, whatever the batch."""

import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import Demonstration, Judged, Ranking, prompt_text, train_tokenizer
from rlhf_jax.equations import mean
from rlhf_jax.errors import InputError
from rlhf_jax.runtime import Checkpoints, read_metrics
from rlhf_jax.stages import preference, pretrain, reward_model, supervised
from rlhf_jax.stages.training import Epochs
from tests.refusals import refusal

SHAPE = stages.Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=32)
FORMAT = stages.Format(prompt_tokens=24, answer_tokens=16, too_long="drop")
RUN = stages.Run(seed=0)
P = prompt_text("Name a fruit.")
FRUITS = ("apple", "pear", "plum", "lemon", "cherry", "grape", "fig")
TOO_LONG = "A plum and a pear and a lemon and a cherry. " * 9


@pytest.mark.parametrize(
    ("count", "rows", "batch", "steps"), [(1, 8, 4, 2), (2, 7, 3, 5), (3, 2, 16, 1), (16, 3, 32, 2), (1, 1, 1, 1)]
)
def test_each_row_counts_once_a_pass(count, rows, batch, steps):
    passes = Epochs(count, rows, batch)
    assert passes.steps == steps  # the quotient, rounded up
    seen = np.concatenate([passes.indices(5, i)[passes.counts(i)] for i in range(steps)])
    assert seen.size == count * rows
    for one in range(count):
        assert sorted(seen[one * rows : (one + 1) * rows]) == list(range(rows))
    # A pass ends in the step with its last row, which may be that of several.
    assert [i for i in range(steps) if passes.end_in(i)] == sorted(
        {-(-e * rows // batch) - 1 for e in range(1, count + 1)}
    )


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        folder, text = tmp_path_factory.mktemp("start"), [f"{P} A {fruit} is a fruit." for fruit in FRUITS] * 20
        tokenizer = train_tokenizer(text, 320, folder / "small.model")
        patch.setattr(sys.modules[pretrain.__module__], "mapped", lambda step, mesh, pmap: unchanged([]))
        of = stages.described(SHAPE, tokenizer, FORMAT)
        return pretrain(folder / "base", of, text, stages.Pretrain(steps=1, batch=4), RUN)


def unchanged(seen, stop_in=None):
    """In the place of a step: it notes the batch, and learns nothing."""

    def step(state, batch, *_):
        seen.append(batch)
        if len(seen) == stop_in:
            raise KeyboardInterrupt
        return state.replace(step=state.step + 1), {"loss/train": mean(jnp.float32(1.0))}

    return step


@pytest.fixture
def trained_on(start, monkeypatch, tmp_path):
    """The batches that a stage trains on, and what it returns."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)

    def trained_on(stage, rows, settings, run=RUN, stop_in=None):
        seen = []
        module = sys.modules[stage.__module__]
        monkeypatch.setattr(module, "mapped", lambda step, mesh, pmap: unchanged(seen, stop_in))
        made = stage(tmp_path / "made", start, rows, settings, run)
        return SimpleNamespace(batches=seen, made=made)

    return trained_on


def answers(start, tokens, counts):
    """How often each fruit's answer counts."""
    each = Counter()
    for row, one in zip(np.asarray(tokens), np.asarray(counts), strict=True):
        if one.any():
            said = start.tokenizer.decode([int(t) for t in row if t not in (start.tokenizer.eos, start.tokenizer.pad)])
            each.update(fruit for fruit in FRUITS if f"A {fruit}" in said)
    return each


@pytest.mark.parametrize(("batch", "epochs"), [(3, 2), (16, 3)])
def test_of_demonstrations(start, trained_on, batch, epochs):
    rows = [Demonstration(P, f"A {fruit}.") for fruit in FRUITS] + 11 * [Demonstration(P, TOO_LONG)]
    valid = rows[:2]
    found = trained_on(supervised, stages.Parts(rows, valid), stages.Supervised(epochs, batch, dropout=0.0))
    each = sum((answers(start, b.tokens, b.predict) for b in found.batches), Counter())
    assert each == dict.fromkeys(FRUITS, epochs)
    assert found.made.step == len(found.batches) == -(-epochs * 7 // batch)
    assert all(b.predict[:, -8:].any() for b in found.batches)  # without columns that no row needs


def test_what_does_not_fit_a_given_model_makes_its_data_no_others(start, trained_on, monkeypatch):
    """A program leaves out what is too long before it trains; another program finds the data whole."""
    rows, valid = ([Demonstration(P, f"A {fruit}.") for fruit in some] for some in (FRUITS[2:], FRUITS[:2]))
    made = trained_on(supervised, stages.Parts(rows, valid), stages.Supervised(1, 4, dropout=0.0)).made
    for held, same in ([*valid, Demonstration(P, TOO_LONG)], True), ([*valid, rows[0]], False), (valid[:1], False):
        data = stages.DataSets(stages.Parts(()), stages.Parts(rows, held), stages.Parts(()))
        monkeypatch.setattr(sys.modules[stages.data_of.__module__], "data_sets", lambda *_, data=data: data)
        if same:
            assert stages.data_of(made, stages.World(), 0) is data
        else:
            refusal(
                lambda: stages.data_of(made, stages.World(), 0), "was trained with other data than [world] says here"
            )


def test_of_rankings(start, trained_on):
    batch, epochs = 3, 2
    rows = [Ranking(P, (f"A {fruit}.", "A dog."), (1, 2)) for fruit in FRUITS]
    rows += 5 * [Ranking(P, (TOO_LONG, "A dog."), (1, 2))] + 6 * [Ranking(P, ("A cat.", "A dog."), (1, 1))]
    found = trained_on(reward_model, rows, stages.Reward(epochs, batch))
    each = sum((answers(start, b.tokens[:, 0], b.mask[:, 0]) for b in found.batches), Counter())
    assert each == dict.fromkeys(FRUITS, epochs)
    for b in found.batches:
        np.testing.assert_array_equal(np.any(b.mask, axis=-1), np.asarray(b.ranks) != 0)
        assert b.mask[..., -8:].any()


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_of_pairs(start, trained_on, objective):
    batch, epochs = 3, 2
    rows = [Ranking(P, (f"A {fruit}.", "A dog."), (1, 2)) for fruit in FRUITS]
    rows += 5 * [Ranking(P, (TOO_LONG, "A dog."), (1, 2))] + 6 * [Ranking(P, ("A cat.", "A dog."), (1, 1))]
    found = trained_on(preference, rows, stages.Preference(objective=objective, epochs=epochs, batch=batch))
    each = sum((answers(start, b[0].tokens, b[0].predict) for b in found.batches), Counter())
    assert each == dict.fromkeys(FRUITS, epochs)


LABELS = [Judged(P, f"A {fruit}.", liked=fruit < "g") for fruit in FRUITS]  # of one prompt, no two in a pair


def test_of_labels(start, trained_on):
    """Each answer is in a batch by itself, with its own label, whatever else there is of its prompt."""
    batch, epochs = 3, 2
    rows = LABELS + 5 * [Judged(P, TOO_LONG, False)]
    found = trained_on(preference, rows, stages.Preference(objective="kto", epochs=epochs, batch=batch))
    for liked in (True, False):
        each = (answers(start, b[0].tokens, b[0].predict & (np.asarray(b[2]) == liked)[:, None]) for b in found.batches)
        assert sum(each, Counter()) == {row.answer[2:-1]: epochs for row in LABELS if row.liked == liked}
    assert all(len(b[0].tokens) == batch for b in found.batches)


@pytest.mark.usefixtures("types_are_not_checked")
@pytest.mark.parametrize(
    "kinds", [(True, False), *(pytest.param((kind,), marks=pytest.mark.long) for kind in (True, False))]
)
def test_kto_of_labels_without_pairs(start, tmp_path, kinds):
    """In the first step, where r = z = 0, an answer costs half of its weight (Ethayarajh et al. 2024, Eq. 8); then what was
    liked is likelier than what was not."""
    rows = [row for row in LABELS if row.liked in kinds]
    c = stages.Preference(
        objective="kto", epochs=3, batch=len(rows), lr=3e-3, warmup=0, floor=1.0, desirable=1.5, undesirable=0.5
    )
    first, _, last = read_metrics(preference(tmp_path / "kto", start, rows, c, RUN).folder)
    weights = [1.5 if row.liked else 0.5 for row in rows]
    assert first["loss/train"] == pytest.approx(sum(weights) / 2 / len(rows), rel=1e-5)
    assert last["rewards/chosen"] > last["rewards/rejected"]  # of none the reward is 0


def test_labels_are_for_kto_alone(start, trained_on):
    refusal(lambda: trained_on(preference, LABELS, stages.Preference()), "are in no pairs; set preference.objective to")
    kto, pair = stages.Preference(objective="kto"), Ranking(P, ("A fig.", "A dog."), (1, 2))
    refusal(lambda: trained_on(preference, [*LABELS, pair], kto), "answers with labels come with rankings")
    refusal(lambda: trained_on(preference, [LABELS[0]._replace(liked=1)], kto), "row 1: liked is 1; give True or False")


def test_every_epoch_stays_and_between_them_is_saved_too(start, trained_on, tmp_path):
    """7 rows by 2: the epochs end in the steps 4 and 7. Stopped in step 3, step 2 is there; at the end the epochs."""
    run = replace(RUN, runtime=replace(RUN.runtime, save_every=2, keep=1))
    rows, c = stages.Parts([Demonstration(P, f"A {fruit}.") for fruit in FRUITS]), stages.Supervised(2, 2, dropout=0.0)
    with pytest.raises(KeyboardInterrupt):
        trained_on(supervised, rows, c, run, stop_in=3)
    checkpoints = Checkpoints(tmp_path / "made" / "checkpoints", None)
    assert checkpoints.steps() == [2]
    trained_on(supervised, rows, c, run)
    assert checkpoints.steps() == [4, 7]
    assert [checkpoints.record(step)["epoch"] for step in (4, 7)] == [1, 2]


def test_what_was_filled_up_does_not_go_on(start, trained_on, tmp_path):
    """Seven rows by four end in a batch of three, also where four passes would make whole batches."""
    rows = stages.Parts([Demonstration(P, f"A {fruit}.") for fruit in FRUITS])
    c = stages.Supervised(1, 4, dropout=0.0, schedule="constant")
    trained_on(supervised, rows, c)
    for epochs in (2, 4):
        with pytest.raises(
            InputError, match="its last batch was filled up with rows that do not count: --anew made starts it"
        ):
            supervised(tmp_path / "made", start, rows, replace(c, epochs=epochs), RUN)
