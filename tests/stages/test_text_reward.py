"""A reward model as a function of text, compared with Transformers and with the model's own scores of tokens."""

from dataclasses import replace

import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import KWARGS, Columns, Messages, Prompt, load_chat_template, load_tokenizer, placed
from rlhf_jax.models import ScalarModel, save_pretrained, write_transformer_config
from rlhf_jax.stages.answers import scores_of
from tests.data.conftest import write_bytes_tokenizer
from tests.models.conftest import wild
from tests.refusals import refusal

SPECIAL = ("</s>", "<|im_start|>", "<|im_end|>", "<pad>")
SHAPE = {"width": 16, "layers": 2, "heads": 2, "kv_heads": 2, "hidden": 32}
FORMAT = stages.Format(100, 20, chat="model")
TALK = Messages(
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "Why?"}]
)
PROMPTS = [Prompt(TALK), Prompt("\n\nHuman: Name a fruit.\n\nAssistant:"), Prompt(TALK)]
ANSWERS = ["So.", "A pear, or an apple, or whatever there is.", ""]
ROWS = [Columns()] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A *ForSequenceClassification as Transformers would have saved it, with its tokenizer and template."""
    folder = tmp_path_factory.mktemp("reward")
    tokenizer = load_tokenizer(write_bytes_tokenizer(folder / "tokenizer.json", SPECIAL))
    source = load_chat_template("chatml").source.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    (folder / "chat_template.jinja").write_text(source)
    llama = stages.Decoder(**SHAPE, norm="rmsnorm", position="rope", mlp="swiglu", bias=False)
    decoder = stages.described(llama, tokenizer, stages.Format(140, 20)).decoder
    values = write_transformer_config(decoder) | {"pad_token_id": tokenizer.pad, "eos_token_id": tokenizer.eos}
    save_pretrained(folder, decoder, wild(ScalarModel(decoder), 0), values, scalar=True)
    return folder


def test_a_folder_s_architecture_says_that_it_is_a_reward_model(folder):
    model = stages.imported(folder, FORMAT)
    assert model.scalar and model.learned().keys() == {"transformer", "kernel", "bias"}
    refusal(lambda: stages.ReadsText((replace(model, scalar=False),)), "is a language model; give a reward model")


def test_it_scores_what_transformers_scores(folder):
    """To the last token of what the template writes, the line break behind <|im_end|> included."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), chat_template=(folder / "chat_template.jinja").read_text()
    )
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    said = [*TALK, {"role": "assistant", "content": "So."}]
    fruit = [{"role": "user", "content": "Name a fruit."}, {"role": "assistant", "content": ANSWERS[1]}]
    empty = [*TALK, {"role": "assistant", "content": ""}]
    bias = float(stages.imported(folder, FORMAT).learned()["bias"])
    with torch.no_grad():
        expected = [
            float(theirs(torch.tensor([tokenizer.apply_chat_template(each, return_dict=False)])).logits) + bias
            for each in (said, fruit, empty)
        ]
    found = stages.ReadsText((stages.imported(folder, FORMAT),))(PROMPTS, ANSWERS, ROWS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_model_of_a_stage_reads_up_to_the_end_of_the_answer(folder, monkeypatch):
    """By hand: the bytes of the turn, ended by <|im_end|>."""
    start, end = 257, 258
    model = stages.imported(folder, FORMAT)
    line = [
        start,
        *b"user\nHi",
        end,
        *b"\n",
        start,
        *b"assistant\nYes",
        end,
        *b"\n",
        start,
        *b"user\nWhy?",
        end,
        *b"\n",
    ]
    line += [start, *b"assistant\n", *b"So.", end]
    tokens, mask = np.array([line], np.int32), np.ones((1, len(line)), bool)
    expected, params = scores_of(model, tokens, mask, batch=1), model.params()
    monkeypatch.setattr(stages.Trained, "params", lambda self: params)
    score = stages.ReadsText((replace(model, step=7),), batch=2)
    assert score(PROMPTS[:1], ANSWERS[:1], ROWS[:1]) == pytest.approx(expected, rel=1e-5)


def test_a_conversation_that_the_reward_model_cannot_read(folder):
    score = stages.ReadsText((stages.imported(folder, FORMAT),))
    refusal(
        lambda: score(PROMPTS[:1], ["x" * 200], ROWS[:1]),
        "tokens of the reward model in",
        "which reads 160",
    )
    beside = placed(Messages([{**TALK[0], KWARGS: {"tools": [{"name": "look"}]}}]), "rows.jsonl, line 7")
    refusal(
        lambda: score([Prompt(beside)], ["So."], ROWS[:1]), "rows.jsonl, line 7: there is 'tools' beside the messages"
    )
