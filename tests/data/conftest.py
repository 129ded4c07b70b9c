"""A tokenizer trained on a few sentences, and the real data of RLHF_JAX_DATA."""

import json
import os
from pathlib import Path

import pytest

from rlhf_jax.data import train_tokenizer

TEXTS = [
    "\n\nHuman: What is the colour of the sky?\n\nAssistant: The sky is blue.",
    "\n\nHuman: Name a fruit.\n\nAssistant: An apple is a fruit.\nA pear is a fruit.",
    "The cat sat on the mat. The dog sat on the cat.",
] * 20


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return train_tokenizer(TEXTS, 330, tmp_path_factory.mktemp("tokenizer") / "small.model")


@pytest.fixture(scope="session")
def real_data():
    folder = os.environ.get("RLHF_JAX_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("RLHF_JAX_DATA does not name the folder of real data")
    return Path(folder)


@pytest.fixture
def jsonl(tmp_path):
    """Writes objects to rows.jsonl and gives its path as a string."""

    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write
