"""Exports as Transformers opens them: the same ids for every text, the same logits and scores, the same greedy answers."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data import (
    ASSISTANT,
    HUMAN,
    Messages,
    load_chat_template,
    load_tokenizer,
    train_tokenizer,
)
from rlhf_jax.data.chat import encode_prompt, encode_turn
from rlhf_jax.models import (
    LanguageModel,
    Sampling,
    ScalarModel,
    generate,
    hidden_states,
    load_pretrained,
    logits,
    save_pretrained,
    scalars,
)
from rlhf_jax.stages import export
from rlhf_jax.types import PromptBatch
from tests.stages.exported import GPT2, KINDS, LLAMA, NEOX, TEXTS, held, made

transformers = pytest.importorskip("transformers", reason="Transformers is not installed: pip install -e .[oracle]")
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return train_tokenizer(TEXTS, 345, tmp_path_factory.mktemp("ours") / "some.model")


@pytest.fixture(scope="module")
def demo(ours, tmp_path_factory):
    """The folder of a model as the demo's, and Transformers' tokenizer of it."""
    folder = tmp_path_factory.mktemp("demo") / "exported"
    export(held(ours, NEOX), folder)
    return folder, transformers.AutoTokenizer.from_pretrained(folder)


# --- our own vocabulary


@pytest.mark.parametrize(
    "text",
    ["", " ", "  a  b ", "\n", "\n</s>", "\n<0x41>\n", "<mask>", "\n<unk>", f"{HUMAN}{ASSISTANT}", "aaaaaaa ababababa"],
)
def test_by_hand(ours, demo, text):
    assert demo[1](text).input_ids == ours.encode(text)
    assert demo[1].decode(ours.encode(text)) == text


def test_the_special_tokens_of_our_own(ours, demo):
    folder, theirs = demo
    assert (
        (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (ours.pad, ours.bos, ours.eos) == (0, 1, 2)
    )
    assert len(theirs) == ours.size == 345
    text = [0, 1, *ours.encode("The sky"), 2]
    assert theirs.decode(text, skip_special_tokens=True) == ours.decode(text) == "The sky"
    config = transformers.AutoConfig.from_pretrained(folder)
    said = transformers.GenerationConfig.from_pretrained(folder)
    for each in (config, said):
        assert (each.pad_token_id, each.bos_token_id, each.eos_token_id) == (0, 1, 2)
    again = load_tokenizer(folder)
    assert again.sha256 == ours.sha256 and again.encode("The sky") == ours.encode("The sky")


# --- others' vocabularies


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "decoder", [pytest.param(GPT2, marks=pytest.mark.long, id="gpt2"), pytest.param(LLAMA, id="llama")]
)
def test_every_kind_of_tokenizer(tmp_path, kind, decoder):
    tokenizer = made(kind, tmp_path / "from")
    model = held(tokenizer, decoder)
    export(model, tmp_path / "to")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "to")
    texts = ["the then  that\n\n1234 é😀", " \n ", "", "A, b: c's \t", f"{HUMAN} Hi{ASSISTANT} Ho"]
    for text in texts:
        ids = tokenizer.encode(text)
        assert theirs(text).input_ids == ids
        assert theirs.decode(ids) == text
    assert theirs.eos_token_id == tokenizer.eos
    assert theirs.pad_token_id == tokenizer.pad < model.decoder.vocab_size
    assert load_tokenizer(tmp_path / "to").sha256 == tokenizer.sha256
    assert load_tokenizer(tmp_path / "to").pad == tokenizer.pad
    config = transformers.AutoConfig.from_pretrained(tmp_path / "to")
    assert (config.pad_token_id, config.eos_token_id) == (tokenizer.pad, tokenizer.eos)
    rows = theirs(texts[::4], return_tensors="pt", padding=True)
    assert rows.input_ids[rows.attention_mask == 0].tolist() == [tokenizer.pad] * int((rows.attention_mask == 0).sum())
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "to").eval()
    tokens = np.array([tokenizer.encode(texts[0])])
    with torch.no_grad():
        expected = network(torch.tensor(tokens)).logits.numpy()
    network = LanguageModel(model.decoder)

    @jax.jit
    def found(params):
        hidden, _ = hidden_states(network, params, jnp.asarray(tokens), jnp.ones_like(tokens, bool))
        return logits(network, params, hidden)

    np.testing.assert_allclose(found(model.held), expected, atol=1e-4)


def test_an_imported_language_model_gets_no_new_answer(tmp_path):
    """Where the embedding has no row for a pad, there is none; the ids that end an answer stay."""
    tokenizer = made("a tokenizer.json alone", tmp_path / "from")
    assert (tokenizer.eos, tokenizer.pad, tokenizer.vocab_size) == (257, 260, 260)
    values = {"eos_token_id": [258, 257], "pad_token_id": 257}
    model = held(tokenizer, LLAMA, rows=260)
    save_pretrained(tmp_path / "model", model.decoder, model.held)
    values = json.loads((tmp_path / "model" / "config.json").read_text()) | values
    export(replace(model, values=values), tmp_path / "to")
    config = json.loads((tmp_path / "to" / "config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"], config["pad_token_id"]) == (260, [257, 258], 257)
    said = json.loads((tmp_path / "to" / "generation_config.json").read_text())
    assert said["eos_token_id"] == [257, 258]


# --- reward models


def their_scores(folder, rows, side):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pad = model.config.pad_token_id
    length = max(map(len, rows))
    filled = [[pad] * (length - len(r)) + r if side == "left" else r + [pad] * (length - len(r)) for r in rows]
    mask = [
        [int((side == "right" and i < len(r)) or (side == "left" and i >= length - len(r))) for i in range(length)]
        for r in rows
    ]
    positions = torch.tensor(mask).cumsum(1).sub(1).clamp(min=0)
    with torch.no_grad():
        more = {"position_ids": positions}
        return model(torch.tensor(filled), attention_mask=torch.tensor(mask), **more).logits[:, 0].numpy()


def joined(prompt, answer, tokenizer):
    begun, said = encode_turn(prompt, answer, tokenizer)
    return begun + said


def our_scores(model, rows):
    length = max(map(len, rows))
    tokens = jnp.asarray([row + [model.tokenizer.pad] * (length - len(row)) for row in rows])
    mask = jnp.asarray(np.arange(length) < np.array([[len(row)] for row in rows]))
    found = jax.jit(lambda p: scalars(ScalarModel(model.decoder), p, tokens, mask))(model.held)
    return np.array([found[i, len(row) - 1] for i, row in enumerate(rows)])


ANSWERS = [("Hi there", "The sky"), ("What is it?", "A cat sat on the mat"), ("Why", "So")]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("decoder", [NEOX, GPT2], ids=["neox", "gpt2"])
def test_scores_of_transcripts(ours, tmp_path, decoder, side):
    """Text in, score out: EOS is added by the tokenizer, the bias is in the last norm."""
    model = held(ours, decoder, scalar=True)
    assert abs(float(model.held["bias"])) > 0.01
    export(model, tmp_path / "to")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "to")
    rows = [joined(f"{HUMAN} {x}{ASSISTANT}", y, ours) for x, y in ANSWERS]
    assert [theirs(f"{HUMAN} {x}{ASSISTANT} {y}").input_ids for x, y in ANSWERS] == rows
    np.testing.assert_allclose(their_scores(tmp_path / "to", rows, side), our_scores(model, rows), atol=1e-4)
    if side == theirs.padding_side:
        batch = theirs([f"{HUMAN} {x}{ASSISTANT} {y}" for x, y in ANSWERS], padding=True, return_tensors="pt")
        network = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "to").eval()
        with torch.no_grad():
            np.testing.assert_allclose(network(**batch).logits[:, 0].numpy(), our_scores(model, rows), atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_of_chats_where_the_tokenizer_has_no_pad(tmp_path, side, caplog):
    """A Llama-style model with no row for a pad gets both; its template stops where the score is read."""
    tokenizer = replace(made("a tokenizer.json alone", tmp_path / "from"), chat=load_chat_template("chatml"))
    model = held(tokenizer, LLAMA, rows=260, scalar=True)
    export(model, tmp_path / "to")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "to")
    assert theirs.pad_token_id == 260 and len(theirs) == 261 and theirs.padding_side == "right"
    talks = [[{"role": "user", "content": x}, {"role": "assistant", "content": y}] for x, y in ANSWERS]
    rows = [joined(Messages(talk[:1]), talk[1]["content"], tokenizer) for talk in talks]
    assert [theirs.apply_chat_template(talk, return_dict=False) for talk in talks] == rows
    bias = float(model.held["bias"])
    assert f"those of here {-bias:+.6g}" in caplog.text
    np.testing.assert_allclose(their_scores(tmp_path / "to", rows, side) + bias, our_scores(model, rows), atol=1e-4)
    back = load_pretrained(tmp_path / "to", scalar=True)
    again = replace(model, decoder=back.config, held=back.params)
    np.testing.assert_allclose(our_scores(again, rows), our_scores(model, rows), atol=1e-5)
    assert load_tokenizer(tmp_path / "to").pad == 260


# --- talking


@pytest.mark.parametrize("name", ["chatml", "zephyr"])
def test_generate_gives_our_greedy_answer(ours, tmp_path, name):
    """From messages to tokens to an answer, and where it ends."""
    if name == "chatml":
        tokenizer = made("tokenizer.json in a folder", tmp_path / "from")
        (tmp_path / "from" / "tokenizer_config.json").write_text(
            json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": "another"})
        )
        tokenizer = load_tokenizer(tmp_path / "from")
    else:
        tokenizer = ours
    tokenizer = replace(tokenizer, chat=load_chat_template(name))
    model = held(tokenizer, LLAMA, seed=2)
    export(model, tmp_path / "to")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "to")
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "to").eval()
    talks = [
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"The sky, {i}?"}] for i in range(4)
    ]
    prompts = [encode_prompt(Messages(talk), tokenizer) for talk in talks]
    length, answers = max(map(len, prompts)), []
    for talk, prompt in zip(talks, prompts, strict=True):
        given = theirs.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        assert given["input_ids"][0].tolist() == prompt
        answers.append(network.generate(**given, max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist())
    padded = [[tokenizer.pad] * (length - len(prompt)) + prompt for prompt in prompts]
    mask = jnp.asarray(np.arange(length) >= np.array([[length - len(prompt)] for prompt in prompts]))
    batch, greedy = PromptBatch(jnp.asarray(padded), mask), Sampling(temperature=0.0, top_k=0, top_p=1.0)
    ours_ends = {"eos": tokenizer.eos, "pad": tokenizer.pad}
    write = jax.jit(
        lambda p: generate(LanguageModel(model.decoder), p, batch, jax.random.key(0), 24, greedy, **ours_ends)
    )
    y = write(model.held)
    for row, answer in enumerate(answers):
        assert np.asarray(y.tokens[row])[np.asarray(y.mask[row])].tolist() == answer
    assert max(map(len, answers)) > 4
