"""A moderation classifier beside rules and a bag of words, on texts that people labelled: five-fold.

    RLHF_JAX_DATA=/path/to/data python experiments/moderation.py configs/moderation.toml

Markov et al. 2022, "A Holistic Approach to Undesired Content Detection" (arXiv:2208.03274). A small decoder is pretrained,
and from it one classifier is trained in each fold: on three fifths of the texts, its epoch, temperatures and thresholds are
chosen on a fourth, and it is measured on the last. Texts that are nearly the same are in one fold. The rules are a list of
words, which flag a text in every category; the bag of words is a logistic regression on words and pairs of words, its penalty
chosen on the same fourth. moderation.json and moderation.md have average precision by category, with intervals, and of
whether a text is of any category at all; docs/moderation.md has what was measured. Some ten minutes on two cores.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_jax.config import Checked, Count
from rlhf_jax.data import LabelledText, alike, dealt, read_labelled_texts, read_texts
from rlhf_jax.evals import Estimate
from rlhf_jax.moderation import (
    Calibrated,
    Classifier,
    Rule,
    Rules,
    auprc,
    auprc_gain,
    figure_text,
    fit_bag_of_words,
    fit_temperature,
    precision_at,
    read_words,
    recall_at,
)
from rlhf_jax.runtime import run, write_atomically
from rlhf_jax.stages import (
    Classify,
    Decoder,
    Format,
    Parts,
    Pretrain,
    Program,
    TokenizerSettings,
    begin,
    best_epoch,
    calibrate,
    classifier,
    described,
    moderator,
    pretrain,
    run_tokenizer,
)

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Given(Checked):
    """What is read."""

    texts: str = ""  # rows of a "prompt" and 0 or 1 under categories; a category that is missing is unknown
    words: str = ""  # the rules: a word or phrase a line
    pretrain: str = ""  # text for the decoder's pretraining
    documents: Count = 20  # of it, the first so many
    folds: Count = 5


@dataclass(frozen=True)
class Config(Program):
    given: Given = Given()
    tokenizer: TokenizerSettings = TokenizerSettings()
    model: Decoder = Decoder()
    format: Format = Format()
    pretrain: Pretrain = Pretrain()
    classifier: Classify = Classify()


def main(c: Config) -> None:
    names, rows = c.classifier.names, read_labelled_texts(c.given.texts, c.classifier.names)
    groups = alike([row.text for row in rows])
    fold, documents = dealt(groups, c.given.folds, c.seed), read_texts(c.given.pretrain)[: c.given.documents]
    tokenizer = run_tokenizer(c.tokenizer, c.folder, lambda: documents)
    base = pretrain(c.folder / "pretrain", described(c.model, tokenizer, c.format), documents, c.pretrain, c.run)
    rules = Rules((Rule("words", "any", tuple(read_words(c.given.words))),))
    rude = np.array([rules(row.text).category_scores["any"] for row in rows])
    learned, bag, flagged = (np.zeros((len(rows), len(names))) for _ in range(3))
    for k in range(c.given.folds):
        test, held = fold == k, fold == (k + 1) % c.given.folds
        parts = Parts([rows[i] for i in np.flatnonzero(~test & ~held)], [rows[i] for i in np.flatnonzero(held)])
        model = best_epoch(classifier(c.folder / f"classifier_{k}", base, parts, c.classifier, c.run))
        calibrate(model, parts.valid, run=c.run)
        texts, found = [rows[i].text for i in np.flatnonzero(test)], moderator(model, c.run)
        learned[test], bag[test] = found.probabilities(texts), bag_of_words(parts, names).probabilities(texts)
        flagged[test] = [[one.categories[name] for name in names] for one in found.verdicts(texts)]
    scores = {"rules": np.tile(rude[:, None], len(names)), "classifier": learned, "bag of words": bag}
    scores["both"] = np.maximum(scores["rules"], learned)
    table = measured(rows, names, groups, scores, flagged > 0)
    as_json = {
        name: {what: x._asdict() if isinstance(x, Estimate) else x for what, x in row.items()}
        for name, row in table.items()
    }
    write_atomically(c.folder / "moderation.json", json.dumps(as_json, indent=1))
    write_atomically(c.folder / "moderation.md", text := as_markdown(table))
    print(text)


def bag_of_words(parts: Parts[LabelledText], names: Sequence[str]) -> Classifier:
    """With the penalty of the least held-out loss, and its temperatures by the same texts."""
    (train, y, known), (held, v, seen) = (labels_of(part, names) for part in (parts.train, parts.valid))

    def loss(logits: Callable) -> float:
        return float(np.logaddexp(0.0, np.where(v, -1, 1) * logits(held))[seen].mean())

    best = min((fit_bag_of_words(train, y, known, penalty) for penalty in PENALTIES), key=loss)
    z = best(held)
    each = {n: Calibrated(fit_temperature(z[seen[:, i], i], v[seen[:, i], i])) for i, n in enumerate(names)}
    return Classifier("bag of words", tuple(names), best, each)


def labels_of(rows: Sequence[LabelledText], names: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    known = np.array([[name in row.labels for name in names] for row in rows])
    return [row.text for row in rows], np.array([[row.labels.get(n, False) for n in names] for row in rows]), known


def measured(rows, names, groups, scores: dict[str, np.ndarray], flagged: np.ndarray) -> dict[str, dict[str, Any]]:
    """Category → how many labels, how many positive, and the figures; "any" is whether any label says so, of all texts."""
    _, labels, known = labels_of(rows, names)
    table = {}
    for i, name in enumerate([*names, "any"]):
        at = slice(None) if name == "any" else [i]
        here = known[:, at].any(axis=1) | (name == "any")
        y, clusters = labels[here][:, at].any(axis=1), groups[here]
        each = {how: x[here][:, at].max(axis=1) for how, x in scores.items()}
        over = flagged[here][:, at].any(axis=1)
        table[name] = {
            "labels": int(here.sum()),
            "positive": int(y.sum()),
            **{how: auprc(x, y, clusters) for how, x in each.items()},
            "classifier − bag of words": auprc_gain(each["classifier"], each["bag of words"], y, clusters),
            "precision": precision_at(over, y, clusters),
            "recall": recall_at(over, y, clusters),
        }
    return table


def as_markdown(table: dict[str, dict[str, Any]]) -> str:
    head = ["category", *next(iter(table.values()))]
    lines = [
        [name, *(str(x) if isinstance(x, int) else figure_text(x) for x in row.values())] for name, row in table.items()
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, ["---"] * len(head), *lines])


if __name__ == "__main__":
    run(lambda: main(begin(Config, __file__, __doc__)))
