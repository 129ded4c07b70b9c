"""Exports by what is in them; tests/stages/test_opened.py opens them with Transformers."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from rlhf_jax.data import load_chat_template, load_tokenizer
from rlhf_jax.models import ScalarModel, load_pretrained, scalars
from rlhf_jax.stages import Format, export
from tests.stages.exported import LLAMA, NEOX, Held, held, made


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return made("tokenizer.model", tmp_path_factory.mktemp("ours") / "from")


def test_an_export_of_an_export_is_the_same(ours, tmp_path):
    export(held(ours, NEOX), tmp_path / "to")
    tokenizer = load_tokenizer(tmp_path / "to")
    assert tokenizer.sha256 == ours.sha256 and tokenizer.encode("The sky") == ours.encode("The sky")
    config, params, values = load_pretrained(tmp_path / "to")
    export(Held(config, tokenizer, Format(48, 48), values, held=params), tmp_path / "again")
    for path in (tmp_path / "to").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_ids_in_the_configs(ours, tmp_path):
    export(held(ours, NEOX), tmp_path / "to")
    for name in ("config.json", "generation_config.json"):
        said = json.loads((tmp_path / "to" / name).read_text())
        assert (said["pad_token_id"], said["bos_token_id"], said["eos_token_id"]) == (0, 1, 2)


def test_the_heads_bias_goes_into_the_last_norm(ours, tmp_path):
    """w·(h + b·w/|w|²) = w·h + b."""
    model = held(ours, NEOX, scalar=True)
    assert abs(float(model.held["bias"])) > 0.01
    export(model, tmp_path / "to")
    config, params, values = load_pretrained(tmp_path / "to", scalar=True)
    assert float(params["bias"]) == 0 and "rlhf_jax_score_bias" not in values
    tokens = jnp.asarray([[5, 9, 20, 2]])
    found, expected = (scalars(ScalarModel(config), p, tokens, tokens > 0) for p in (params, model.held))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_reward_models_pad_is_one_row_more(tmp_path):
    tokenizer = made("a tokenizer.json alone", tmp_path / "from")
    assert (tokenizer.vocab_size, tokenizer.pad) == (260, 260)
    model = held(tokenizer, LLAMA, rows=260, scalar=True)
    export(model, tmp_path / "to")
    config, params, values = load_pretrained(tmp_path / "to", scalar=True)
    assert config.vocab_size == 261 and values["pad_token_id"] == 260 == load_tokenizer(tmp_path / "to").named["pad"]
    table = params["transformer"]["embedding"]["embedding"]
    np.testing.assert_array_equal(table[:260], model.held["transformer"]["embedding"]["embedding"])
    assert not table[260:].any()


def test_the_template_is_the_models_own(ours, tmp_path):
    zephyr = load_chat_template("zephyr")
    export(held(replace(ours, chat=zephyr), NEOX), tmp_path / "to")
    assert load_chat_template(tmp_path / "to") == load_chat_template(tmp_path / "to" / "chat_template.jinja")
    assert load_chat_template(tmp_path / "to").source == zephyr.source
    said = json.loads((tmp_path / "to" / "tokenizer_config.json").read_text())
    assert said["split_special_tokens"] is False  # the template's have to be read
    export(held(ours, NEOX), tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "tokenizer_config.json").read_text())["split_special_tokens"] is True
    assert not (tmp_path / "plain" / "chat_template.jinja").exists()


def test_a_text_of_a_reward_models_ends_in_eos(ours, tmp_path):
    for scalar in (False, True):
        export(held(ours, NEOX, scalar=scalar), tmp_path / str(scalar))
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / str(scalar) / "tokenizer.json"))
        assert theirs.encode("The sky").ids == [*ours.encode("The sky"), *([ours.eos] if scalar else [])]
