"""From an imported folder with a chat template to a policy, on rows that are messages: all stages read and end one format."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import (
    Demonstration,
    Messages,
    Prompt,
    Ranking,
    encode_prompt,
    encode_turn,
    load_chat_template,
    load_tokenizer,
)
from rlhf_jax.models import LanguageModel, Sampling, save_pretrained, write_transformer_config
from rlhf_jax.runtime import read_metrics
from rlhf_jax.stages.answers import answers_of, texts_of
from rlhf_jax.stages.policy import batches
from tests.data.conftest import write_bytes_tokenizer
from tests.models.conftest import wild
from tests.refusals import refusal

pytestmark = [pytest.mark.usefixtures("types_are_not_checked"), pytest.mark.long]
SPECIAL = ("</s>", "<|im_start|>", "<|im_end|>", "<pad>")
EOS, END = 256, 258
RUN, FORMAT = stages.Run(seed=0), stages.Format(96, 16)
SUPERVISED = stages.Supervised(epochs=2, batch=6, lr=3e-3, dropout=0.0, turns="all")
GREEDY = Sampling(0.0, 0, 1.0)
COLOURS = {"apple": "red", "lemon": "yellow", "leaf": "green"}


def talk(thing: str) -> Messages:
    said = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", f"Colour of a {thing}?")]
    return Messages({"role": role, "content": text} for role, text in said)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Llama with a chat template of its own."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = load_tokenizer(write_bytes_tokenizer(folder / "tokenizer.json", SPECIAL))
    (folder / "chat_template.jinja").write_text(load_chat_template("chatml").source)
    llama = stages.Decoder(width=64, layers=2, heads=4, kv_heads=2, hidden=128, norm="rmsnorm", position="rope")
    decoder = stages.described(replace(llama, mlp="swiglu", bias=False), tokenizer, FORMAT).decoder
    save_pretrained(folder, decoder, wild(LanguageModel(decoder), 0), write_transformer_config(decoder))
    return folder


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """SFT, reward model and policy, and the folder that they are in."""
    out, start = tmp_path_factory.mktemp("talks"), stages.imported(folder, FORMAT)
    rows = [Demonstration(talk(thing), colour) for thing, colour in COLOURS.items()]
    sft = stages.supervised(out / "sft", start, 100 * rows, SUPERVISED, RUN)
    pairs = [Ranking(talk(thing), (colour, "Hello"), (1, 2)) for thing, colour in COLOURS.items()]
    reward = stages.reward_model(out / "reward_model", sft, 30 * pairs, stages.Reward(batch=3, lr=1e-3), RUN)
    ppo = stages.PPO(iterations=2, batch=6, minibatches=2, gamma=0.0, pretrain_examples=0, lr=1e-5, value_lr=1e-4)
    policy = stages.policy(out / "ppo", sft, reward, [Prompt(talk(thing)) for thing in COLOURS], ppo, RUN)
    return out, sft, reward, policy


def test_answers_end_where_the_template_ends_a_turn(trained):
    _, sft, _, policy = trained
    assert sft.tokenizer.ends == policy.tokenizer.ends == (END, EOS)
    prompts = [Prompt(talk(thing)) for thing in COLOURS]
    assert texts_of(sft, sft.params(), prompts, jax.random.key(0), GREEDY, 3) == list(COLOURS.values())
    batch = batches(prompts, None, sft, stages.PPO(batch=3, minibatches=1), RUN, 1, "ppo")(0)[1].prompts
    rows = {tuple(row[here].tolist()) for row, here in zip(batch.tokens, batch.mask, strict=True)}
    assert rows == {tuple(encode_prompt(p.conversation, sft.tokenizer)) for p in prompts}
    answers = answers_of(sft, sft.params(), batch, jax.random.key(0), GREEDY, 3)
    said = {tuple(y[m].tolist()) for y, m in zip(answers.response.tokens, answers.response.mask, strict=True)}
    assert said == {(*colour.encode(), END) for colour in COLOURS.values()} and answers.ended(sft.tokenizer.ends).all()


def test_earlier_answers_were_learned_too(trained):
    """turns="all": asked with the first turn alone, the model says what it said there."""
    _, sft, _, _ = trained
    assert texts_of(sft, sft.params(), [Prompt(Messages(talk("")[:2]))], jax.random.key(0), GREEDY, 1) == ["Hello"]


def test_ppo_s_answers_come_to_their_end(trained):
    out, *_ = trained
    assert [row["answer/ended"] for row in read_metrics(out / "ppo")] == [1.0, 1.0]


def test_the_reward_model_ranks_them(trained):
    *_, reward, _ = trained
    ask = stages.ReadsText((reward,))
    prompts = [Prompt(talk(thing)) for thing in COLOURS]
    good, bad = (
        ask(prompts, answers, [p.columns for p in prompts]) for answers in (list(COLOURS.values()), ["Hello"] * 3)
    )
    assert (good > bad).all()


def test_another_template_is_another_model(trained, folder):
    """What was trained in one template is not continued or valued in another."""
    out, _, reward, _ = trained
    plain, prompts = stages.imported(folder, replace(FORMAT, chat="hh")), [Prompt(talk("leaf"))]
    refusal(
        lambda: stages.policy(
            out / "other", plain, lambda p, a, r: a, prompts, stages.PPO().plain(), RUN, value=reward
        ),
        "different chat templates",
    )
    rows = 100 * [Demonstration(talk(thing), colour) for thing, colour in COLOURS.items()]
    start = stages.imported(folder, replace(FORMAT, chat="zephyr"))
    refusal(lambda: stages.supervised(out / "sft", start, rows, SUPERVISED, RUN), "chat")


def test_the_template_goes_with_the_model(trained):
    out, sft, *_ = trained
    again = stages.trained(out / "sft")
    assert again.tokenizer.chat == sft.tokenizer.chat and again.tokenizer.ends == (END, EOS)
    assert encode_turn(talk("leaf"), "green", again.tokenizer) == encode_turn(talk("leaf"), "green", sft.tokenizer)


def test_what_is_too_long_loses_its_oldest_turns(folder, capsys):
    """The prompt takes 99 tokens here; 70 are enough for the system message and the last turn."""
    short = stages.imported(folder, stages.Format(70, 16, too_long="cut"))
    prompt = Prompt(talk("leaf"))
    (kept,) = stages.prompts_that_fit([prompt], short, "train")
    assert kept.conversation == Messages([prompt.conversation[0], prompt.conversation[-1]])
    assert (
        "1 of 1 train prompts are longer than format.prompt_tokens = 70 and lose their oldest turns"
        in capsys.readouterr().err
    )


def test_the_export_talks_in_transformers(trained, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    *_, policy = trained
    stages.export(policy, tmp_path / "exported")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    for thing in COLOURS:
        ids = tokenizer.apply_chat_template(
            list(talk(thing)), add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        assert ids[0].tolist() == encode_prompt(talk(thing), policy.tokenizer)
        with torch.no_grad():
            said = theirs.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :].tolist()
        ours = texts_of(policy, policy.params(), [Prompt(talk(thing))], jax.random.key(0), GREEDY, 1)
        assert said[-1] == END and tokenizer.decode(said[:-1]) == ours[0]
    assert np.isfinite(float(theirs(ids).logits.sum()))


def test_a_reward_model_that_reads_text_says_what_it_says_inside(trained, tmp_path, capsys):
    """Of another size it is a function of the text, and of the same kind too where it is told to be; here answers decode to
    the bytes that they were, so that the numbers are the same."""
    _, sft, reward, _ = trained
    prompts, ppo = (
        [Prompt(talk(thing)) for thing in COLOURS],
        stages.PPO(iterations=1, batch=6, minibatches=2, gamma=0.0, pretrain_examples=0, lr=1e-5, value_lr=1e-4),
    )
    run_of = {"prompts": prompts, "settings": ppo, "run": RUN, "value": reward}
    inside = stages.policy(tmp_path / "inside" / "ppo", sft, reward, **run_of)
    outside = stages.policy(tmp_path / "outside" / "ppo", sft, stages.ReadsText((reward,)), **run_of)
    for a, b in zip(jax.tree.leaves(inside.params()), jax.tree.leaves(outside.params()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert "reads text" not in capsys.readouterr().err
    other = replace(reward, decoder=replace(reward.decoder, context=500))
    found = stages.read_as_text(stages.Rewards((other,)), sft, reward)
    assert "is of another kind than" in capsys.readouterr().err
    assert not found.models and found.inputs == {"reward": reward.sha256} and found.code == {}
