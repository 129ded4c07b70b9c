"""The stage: it learns, goes on bit for bit where it stopped, reads every part of a text, and says what is wrong."""

import importlib
import json
import signal
from dataclasses import replace

import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import LabelledText, load_tokenizer
from rlhf_jax.models import LanguageModel, save_pretrained, write_transformer_config
from rlhf_jax.moderation import Policy, moderated
from rlhf_jax.runtime import read_metrics
from rlhf_jax.stages import Parts
from tests.data.conftest import write_bytes_tokenizer
from tests.models.conftest import wild
from tests.refusals import refusal
from tests.small_run import final_hash

pytestmark = pytest.mark.usefixtures("types_are_not_checked")
FORMAT = stages.Format(16, 8, too_long="cut")
RUN = stages.Run(seed=0, runtime=stages.Runtime(batch=8))
SETTINGS = stages.Classify(categories="rude, wet", epochs=5, batch=6, lr=2e-2, dropout=0.1)
RUDE = ["you zonk", "zonk!", "what a zonk", "zonk off"]
KIND = ["you dear", "dear!", "what a dear", "dear me"]
ROWS = [LabelledText(text, {"rude": text in RUDE}) for text in RUDE + KIND]
ROWS += [LabelledText(f"{text} rain", {"rude": text in RUDE, "wet": True}) for text in RUDE + KIND]
ROWS += [LabelledText(f"{text} sun", {"wet": False}) for text in KIND]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A small language model in a folder."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer(write_bytes_tokenizer(folder / "tokenizer.json", ("</s>", "<pad>")))
    shape = stages.Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=32, position="rope")
    decoder = stages.described(shape, tokenizer, FORMAT).decoder
    save_pretrained(folder, decoder, wild(LanguageModel(decoder), 0), write_transformer_config(decoder))
    return stages.imported(folder, FORMAT)


@pytest.fixture(scope="module")
def trained(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "judge"
    return stages.classifier(folder, start, Parts(ROWS, ROWS[::2]), SETTINGS, RUN)


def test_it_learns_and_looks_at_held_out_texts_after_each_epoch(trained):
    rows = read_metrics(trained.folder)
    assert len(rows) == 17  # ⌈5 · 20 / 6⌉
    assert {"loss/train", "accuracy/train", "grad_norm", "lr"} <= set(rows[0])
    looks = [row for row in rows if "loss/valid" in row]
    assert len(looks) == 5 and {"auprc/rude", "auprc/wet"} <= set(looks[-1])
    assert looks[-1]["loss/valid"] < 0.9 * looks[0]["loss/valid"]
    best = stages.best_epoch(trained)
    assert best.categories == ("rude", "wet")
    losses = {row["step"]: row["loss/valid"] for row in looks}
    assert best.step == min(losses, key=losses.get)


@pytest.mark.long
def test_a_stage_that_was_stopped_goes_on_bit_for_bit(start, trained, tmp_path):
    """With dropout, in the middle of an epoch."""
    calls, folder, module = [], tmp_path / "judge", importlib.import_module("rlhf_jax.stages.classifier")
    as_before = module.shard_rows

    def counted(batch, mesh):
        calls.append(int(batch.known.sum()))
        if len(calls) == 5:
            signal.raise_signal(signal.SIGTERM)
        return as_before(batch, mesh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "shard_rows", counted)
        with pytest.raises(SystemExit):
            stages.classifier(folder, start, Parts(ROWS, ROWS[::2]), SETTINGS, RUN)
        assert len(calls) == 5
        stages.classifier(folder, start, Parts(ROWS, ROWS[::2]), SETTINGS, RUN)
    assert len(calls) == 17 and sum(calls) == 5 * sum(len(row.labels) for row in ROWS)  # fillers count for nothing
    assert final_hash(folder) == final_hash(trained.folder)
    stopped, whole = ([row["loss/train"] for row in read_metrics(each)] for each in (folder, trained.folder))
    assert stopped == whole


def test_a_long_text_is_read_in_pieces_of_which_the_worst_counts(trained):
    params, filler = trained.params(), "dear me dear me dear me "
    assert len(trained.tokenizer.encode(filler)) > 20
    long = filler + "you zonk"
    ids = trained.tokenizer.encode(long)
    pieces = [trained.tokenizer.decode(ids[at : at + 23]) for at in range(0, len(ids), 23)]
    found = stages.text_logits(trained, params, [long, *pieces], 8)
    np.testing.assert_allclose(found[0], found[1:].max(axis=0), atol=1e-5)
    alone = [stages.text_logits(trained, params, [text], 8)[0] for text in RUDE]
    np.testing.assert_allclose(stages.text_logits(trained, params, RUDE, 8), alone, atol=1e-5)


def test_as_a_moderator_with_what_was_calibrated(trained, capsys):
    best = trained
    plain = stages.moderator(best, RUN)
    assert plain.name == "judge" and not plain.calibration
    rows = [*ROWS, LabelledText("more", {})]
    fitted = stages.calibrate(best, rows, "temperature", "recall", 1.0, RUN)
    judge = stages.moderator(stages.trained(best.folder), RUN)
    assert judge.calibration == fitted
    assert all(judge(text).categories["rude"] for text in RUDE)
    decided = moderated(lambda prompts: prompts, judge, Policy(filler="…"))(["zonk!", "dear!"])
    assert decided[0].answer == "…" and decided[0].on_input.reasons[0].name == "judge"
    said = json.loads((best.folder / "calibration.json").read_text())
    assert said["made_from"]["model"] == best.sha256
    stages.calibrate(best, [row for row in ROWS if "wet" not in row.labels], run=RUN)
    assert "wet is never flagged: n too small: no text of it among 0 labels" in capsys.readouterr().err
    refusal(lambda: stages.moderator(stages.trained(best.folder, 4), RUN), "is of another model or epoch than step 4")
    (best.folder / "calibration.json").write_text("{}")
    refusal(lambda: stages.moderator(best, RUN), "holds no calibration")
    (best.folder / "calibration.json").unlink()


def test_what_it_cannot_learn_from_is_said(start, trained, tmp_path, capsys):
    def learn(rows, start=start, **settings):
        return lambda: stages.classifier(tmp_path / "judge", start, rows, replace(SETTINGS, **settings), RUN)

    refusal(
        learn([LabelledText("x", {"other": True})]), "train text 1, 'x', has a label of 'other'; these are", "rude, wet"
    )
    refusal(learn([("x", {})]), "is not a text with labels")
    refusal(learn([LabelledText("x", {})]), "no text is left to learn from")
    assert "1 of 1 train texts have no label and are left out" in capsys.readouterr().err
    strict = replace(start, format=replace(FORMAT, too_long="error"))
    refusal(
        learn([LabelledText("x" * 40, {"wet": True})], strict), "1 of 1 train texts are longer than the context of 24"
    )
    refusal(learn(ROWS, trained), "is a classifier; start from a language model")
    refusal(lambda: stages.moderator(start), "is a language model; give a classifier")
    refusal(lambda: stages.export(trained, tmp_path / "exported"), "is a classifier, which is read here alone")
    refusal(lambda: stages.ReadsText((trained,)), "is a classifier; give a reward model")
    refusal(lambda: replace(SETTINGS, categories="a, a"), "name each category once")
