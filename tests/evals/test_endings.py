"""HellaSwag's endings, LAMBADA's last words, held-out loss and the table of differences, by hand."""

import gzip
import json
import os
from math import exp, log
from pathlib import Path
from typing import NamedTuple

import pytest

from rlhf_jax.data import Prompt
from rlhf_jax.errors import InputError
from rlhf_jax.evals import (
    Estimate,
    Likely,
    LogProb,
    Row,
    differences,
    figures_of,
    held_out,
    hellaswag,
    lambada,
    read_hellaswag,
    read_lambada,
    read_pieces,
    tax_table,
)
from rlhf_jax.evals.held_out import cut
from rlhf_jax.evals.hellaswag import prepared

SWAG = {
    "ind": 4, "activity_label": "Baking", "ctx_a": "[header] How to bake [title] Heat it.", "ctx_b": "then the DOUGH",
    "endings": ["rises [substeps] well.", "x", "falls", "is"], "label": 0, "source_id": "wikihow~1",
}  # fmt: skip


def lines(folder, *rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_hellaswag_is_prepared():
    assert prepared(" [header] Ice [title] Melt it [step] now ") == " Ice. Melt it now"


def test_hellaswag_by_hand(tmp_path):
    items = read_hellaswag(lines(tmp_path, SWAG, {**SWAG, "label": "3"}))
    assert items[0].context == "Baking:  How to bake. Heat it. Then the dough".replace("  ", " ")
    assert items[0].endings == ("rises well.", "x", "falls", "is")
    task = hellaswag(items)
    assert task.asks(items[0])[0] == (items[0].context, " rises well.")
    # characters 11, 1, 5, 2. Totals: the last is highest. Per character: −6/11 is. Per token: −6/4 = −1.5 and −1/1 = −1
    found = [LogProb(-6.0, 4, False), LogProb(-4.0, 1, False), LogProb(-9.0, 1, False), LogProb(-1.4, 1, False)]
    first, last = task.rows(items, [found, found])
    assert list(first.values.values()) == [0, 1, 0]
    assert list(last.values.values()) == [1, 0, 1]
    assert first.cluster == last.cluster == "wikihow~1" and first.id != last.id
    (shown, *_) = hellaswag(items, shots=[items[1]]).asks(items[0])
    assert shown.context == f"{items[1].context} is\n\n{items[0].context}"
    assert isinstance(hellaswag(items, chat=True).asks(items[0])[0].context, Prompt)


@pytest.mark.parametrize("label", ["", 4, None])
def test_a_label_that_is_no_ending(tmp_path, label):
    with pytest.raises(InputError, match="line 1: the label is"):
        read_hellaswag(lines(tmp_path, {**SWAG, "label": label}))


def test_lambada_of_lines_and_rows(tmp_path):
    path = tmp_path / "lambada.txt.gz"
    path.write_bytes(gzip.compress(b"he ate the cake\n\nshe saw it too\n"))
    assert [(i.context, i.word) for i in read_lambada(str(path))] == [("he ate the", "cake"), ("she saw it", "too")]
    rows = lines(tmp_path, {"text": "“Go,”\nhe said"})
    assert [(i.context, i.word) for i in read_lambada(rows)] == [("“Go,”\nhe", "said")]
    path.write_bytes(gzip.compress(b"he ate\nword\n"))
    with pytest.raises(InputError, match="line 2: a passage needs a last word"):
        read_lambada(str(path))


def test_lambada_by_hand(tmp_path):
    items = read_lambada(lines(tmp_path, {"text": "a b c"}, {"text": "d e f"}))
    task = lambada(items)
    assert task.asks(items[0])[0][:2] == ("a b", " c")
    rows = task.rows(items, [[LogProb(log(0.5), 2, True)], [LogProb(log(0.125), 1, False)]])
    assert task.more is not None
    found = figures_of(rows, task.scales) | task.more(rows)
    assert found["lambada/acc"].mean == 0.5
    assert found["lambada/perplexity"].mean == pytest.approx(4)  # (0.5 · 0.125)^(−1/2)
    assert found["lambada/perplexity"].low == pytest.approx(exp(found["lambada/nats_per_word"].low or 0))
    (ask,) = lambada(items, shots=[items[1]]).asks(items[0])
    assert ask == ("Fill in blank:\n\nd e _____. -> f\n\na b _____. ->", " c")
    (ask,) = lambada(items, chat=True).asks(items[0])
    assert isinstance(ask, Likely) and isinstance(ask.context, Prompt) and ask.text == "c"


def test_the_file_of_lambada():
    path = Path(os.environ.get("RLHF_JAX_DATA", "none")) / "lambada" / "lambada_development_plain_text.txt.gz"
    if not path.is_file():
        pytest.skip("RLHF_JAX_DATA names no folder with lambada")
    items = read_lambada(str(path))
    assert len(items) == 4869 and items[0].word == "cake"  # Paperno et al. 2016, Table 2: 4,869 passages


@pytest.mark.parametrize("characters", [1, 4, 7, 100])
def test_pieces_joined_are_the_document(characters):
    text = "  One two\n\nthree verylongword é. \n"
    pieces = cut(text, characters)
    assert "".join(pieces) == text
    assert all(len(piece.rstrip()) <= characters for piece in pieces)
    assert cut(" \n", characters) == []


def test_held_out_loss_by_hand(tmp_path):
    items = read_pieces(lines(tmp_path, {"text": "ab cd"}, {"text": " "}, {"text": "é"}), characters=3)
    assert [(i.id, i.cluster, i.context, i.text) for i in items] == [
        ("1.1", "1", "", "ab"), ("1.2", "1", "ab", " cd"), ("3.1", "3", "", "é"),
    ]  # fmt: skip
    task = held_out(items)
    assert task.asks(items[1]) == [("ab", " cd")]
    rows = task.rows(items, [[LogProb(-3.0, 2, False)], [LogProb(-2.0, 3, False)], [LogProb(-1.0, 1, False)]])
    found = figures_of(rows, task.scales)
    assert found["pretrain/loss"].mean == pytest.approx(6 / 6)
    assert found["pretrain/bits_per_byte"].mean == pytest.approx(6 / log(2) / 7)  # 2 + 3 + 2 bytes
    # another tokenizer: bits per byte are compared, nats per token are not
    other = task.rows(items, [[LogProb(-2.0, 1, False)], [LogProb(-2.0, 1, False)], [LogProb(-1.0, 1, False)]])
    assert differences(rows, other, task.scales).keys() == {"pretrain/bits_per_byte"}
    assert differences(rows, other, task.scales)["pretrain/bits_per_byte"].mean == pytest.approx(1 / log(2) / 7)


class Measured(NamedTuple):
    rows: list[Row]
    figures: dict[str, Estimate]

    def minus(self, other):
        return differences(self.rows, other.rows, {"hits": (0.0, 1.0)})


def measured(*hits):
    rows = [Row(str(i), str(i), {"hits": float(hit)}) for i, hit in enumerate(hits)]
    return Measured(rows, figures_of(rows, {"hits": (0.0, 1.0)}) | {"alone": Estimate(2.0, None, None, 2)})


def test_the_table_of_differences():
    before, after = measured(1, 1, 0, 1), measured(0, 1, 0, 1)
    table = tax_table({"task": before}, {"task": after}).splitlines()
    assert len(table) == 4
    cells = [cell.strip() for cell in table[2].strip("|").split("|")]
    assert cells[:2] == ["task", "hits"] and cells[5] == "4"
    assert cells[2].startswith("0.750 (") and cells[4].startswith("−0.250 (")
    assert [cell.strip() for cell in table[3].strip("|").split("|")] == ["task", "alone", "2.000", "2.000", "–", "2"]
    with pytest.raises(InputError, match="'other' was measured of one"):
        tax_table({"task": before}, {"task": after, "other": after})
