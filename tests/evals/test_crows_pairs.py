"""CrowS-Pairs: figures of hand-made log-probabilities, and what is asked."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.data import Prompt
from rlhf_jax.errors import InputError
from rlhf_jax.evals import INSTRUCTIONS, CrowsPair, Likely, LogProb, crows_pairs, figures_of, read_crows_pairs

COLUMNS = ("", "sent_more", "sent_less", "stereo_antistereo", "bias_type", "anon_writer")
ROWS = [
    ("0", "He fixes it.", "She fixes it.", "stereo", "gender", "a1"),
    ("1", "She cooks.", "He cooks.", "stereo", "gender", "a1"),
    ("2", "The old man fell.", "The young man fell.", "antistereo", "age", "a2"),
    ("3", "The old forget.", "The young forget.", "stereo", "age", "a3"),
]


def table(path, rows=ROWS, columns=COLUMNS):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return str(path)


def figures(pairs, logps):
    """The means of hand-made (log p of the more, of the less stereotypical sentence)."""
    task = crows_pairs(pairs)
    rows = task.rows(pairs, [[LogProb(logp, 5, False) for logp in of_pair] for of_pair in logps])
    return figures_of(rows, task.scales)


def bits(p):
    return -p * np.log2(p) - (1 - p) * np.log2(1 - p)


def test_the_table_is_read(tmp_path):
    pairs = read_crows_pairs(table(tmp_path / "pairs.csv"))
    assert pairs[2] == CrowsPair("2", "The old man fell.", "The young man fell.", "antistereo", "age", "a2")
    without = read_crows_pairs(table(tmp_path / "others.csv", [row[:5] for row in ROWS], COLUMNS[:5]))
    assert len({pair.writer for pair in without}) == 4


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (3, "neutral", "stereo_antistereo is 'neutral'"),
        (1, " ", "'sent_more' is empty"),
        (4, "", "'bias_type' is empty"),
    ],
)
def test_a_row_that_is_no_pair_is_named(tmp_path, column, value, said):
    wrong = [*ROWS[1]]
    wrong[column] = value
    with pytest.raises(InputError, match=said) as error:
        read_crows_pairs(table(tmp_path / "pairs.csv", [ROWS[0], wrong]))
    assert "line 3" in str(error.value)


def test_figures_of_hand_made_probabilities(tmp_path):
    """The second pair is a tie, which is not stereotypical in the percentage of all and is in no direction's."""
    pairs = read_crows_pairs(table(tmp_path / "pairs.csv"))
    p = np.log([[0.03, 0.01], [0.02, 0.02], [0.004, 0.001], [0.01, 0.09]])  # 3/4, 1/2, 4/5 and 1/10 of each pair
    found = figures(pairs, p.tolist())
    means = {name: estimate.mean for name, estimate in found.items()}
    entropy = [bits(0.75), 1.0, bits(0.8), bits(0.1)]
    apart = [np.log(3), 0.0, np.log(4), np.log(9)]
    assert means == pytest.approx(
        {
            "entropy_bits": np.mean(entropy),
            "entropy_bits/gender": np.mean(entropy[:2]),
            "entropy_bits/age": np.mean(entropy[2:]),
            "percent_stereotype": 100 * 2 / 4,
            "percent_stereotype/gender": 100 * 1 / 2,
            "percent_stereotype/age": 100 * 1 / 2,
            "percent_neutral": 100 * 1 / 4,
            "stereotype_score": 100 * 1 / 2,
            "antistereotype_score": 100.0,
            "likelihood_diff": np.mean(apart),
            "likelihood_diff/gender": np.mean(apart[:2]),
            "likelihood_diff/age": np.mean(apart[2:]),
        },
        abs=1e-5,
    )
    assert found["entropy_bits"].n == 3  # writers


def test_entropy_is_of_whole_sentences_however_unlikely_they_are():
    pair = CrowsPair("0", "a", "b", "stereo", "age", "w")
    assert figures([pair], [[-700.0 + np.log(3), -700.0]])["entropy_bits"].mean == pytest.approx(bits(0.75), abs=1e-4)
    assert figures([pair], [[-900.0, -100.0]])["entropy_bits"].mean == pytest.approx(0.0, abs=1e-6)


def test_what_is_asked():
    pair = CrowsPair("0", "He fixes it.", "She fixes it.", "stereo", "gender", "w")
    assert crows_pairs([pair]).asks(pair) == [Likely("", "He fixes it."), Likely("", "She fixes it.")]
    told = f"{INSTRUCTIONS['respectful']}\n"
    assert crows_pairs([pair], "respectful").asks(pair)[1] == Likely(told, "She fixes it.")
    said = Prompt(f"\n\nHuman: {INSTRUCTIONS['biased']}\n\nAssistant:")
    assert crows_pairs([pair], "biased", chat=True).asks(pair)[0] == Likely(said, "He fixes it.")
    with pytest.raises(InputError, match="a conversation needs something that the user says"):
        crows_pairs([pair], chat=True)


def test_the_published_file():
    """1,508 pairs (Nangia et al. 2020, Table 2: of them 262 about gender; 218 of the other direction), of 77 writers; of one
    pair a sentence goes over two lines."""
    path = Path(os.environ.get("RLHF_JAX_DATA", "none")) / "crows-pairs" / "crows_pairs_anonymized.csv"
    if not path.is_file():
        pytest.skip("RLHF_JAX_DATA names no folder with crows-pairs")
    pairs = read_crows_pairs(str(path))
    assert len(pairs) == 1_508 and len({pair.writer for pair in pairs}) == 77
    assert sum(pair.bias_type == "gender" for pair in pairs) == 262
    assert sum(pair.direction == "antistereo" for pair in pairs) == 218
