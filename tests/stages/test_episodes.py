"""Episodes of several turns: what the policy reads and writes in each, what an environment may say, and what is learned."""

import json
import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import grpo, ppo_ptx
from rlhf_jax import stages, steps
from rlhf_jax.data import (
    Columns,
    Messages,
    Prompt,
    encode_prompt,
    encode_prompts,
    load_chat_template,
    prompt_text,
    train_tokenizer,
)
from rlhf_jax.data.world import follow_ups
from rlhf_jax.labelers import rating
from rlhf_jax.models import LanguageModel, Sampling, ScalarModel
from rlhf_jax.runtime import Checkpoints, read_metrics, source_sha256
from rlhf_jax.stages import Environment, Episodes, world_dialogue
from rlhf_jax.stages.episodes import DONE, FULL, LAST, play, positions_for, rows_of
from rlhf_jax.stages.named_rewards import environment_in, rewards_in
from rlhf_jax.stages.report import session_of
from rlhf_jax.types import PromptBatch
from tests.refusals import refusal

pytestmark = pytest.mark.usefixtures("types_are_not_checked")
SHAPE = stages.Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=32, position="rope")
FORMAT = stages.Format(prompt_tokens=40, answer_tokens=6)
RUN = stages.Run(seed=0, runtime=stages.Runtime(batch=4, save_every=1, keep=9, evaluate_every=9))
PPO = stages.PPO(iterations=3, batch=4, minibatches=2, warmup=0, lr=1e-2, value_lr=1e-2).plain()
GROUP = steps.Iteration(steps.sample, partial(grpo.learn, advantage="rloo", answers=2), has_value=False)
ROWS = [Prompt(prompt_text(f"Say {word}."), columns=Columns(word=word)) for word in ("red", "blue", "green", "black")]
TEXT = "Say red. Say blue. And green? Why black? I say white.\n\nHuman: Hello\n\nAssistant: Well, so it is."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer([TEXT] * 9, 300, tmp_path_factory.mktemp("tokenizer") / "small.model")


@pytest.fixture(scope="module")
def model(tokenizer):
    of = stages.described(SHAPE, tokenizer, FORMAT)
    return stages.Trained(of.decoder, tokenizer, FORMAT, sha256="start", step=1)


@pytest.fixture
def start(model, tmp_path, monkeypatch):
    """A model of random numbers, as if it had been trained."""
    one = jnp.ones((1, 2), jnp.int32)
    init = jax.jit(LanguageModel(model.decoder).init)
    params = jax.tree.map(lambda p: 3.0 * p, init(jax.random.key(1), one, one > 0)["params"])
    read = stages.Trained.learned
    monkeypatch.setattr(
        stages.Trained,
        "learned",
        lambda self, *where, **more: params if self.folder.name == "start" else read(self, *where, **more),
    )
    return replace(model, folder=tmp_path / "start")


def asks(turns, words="And green?"):
    """An environment that says one thing, in so many turns, each of which earns its number."""

    def reply(messages, row):
        number = sum(m["role"] == "assistant" for m in messages)
        return [{"role": "user", "content": words}], float(number), number == turns

    return Environment(lambda row: row.conversation, reply)


def writes(tokenizer, *turns, cut=()):
    """A policy that writes these texts, of which it does not end those of the numbers in `cut`; and what it read."""
    read = []

    def draw(context: PromptBatch, number: int):
        read.append([row[mask].tolist() for row, mask in zip(context.tokens, context.mask, strict=True)])
        ids = tokenizer.encode_continued(turns[number])[: FORMAT.answer_tokens - 1]
        ids = ids if number in cut else [*ids, tokenizer.eos]
        tokens = np.full((len(context.tokens), FORMAT.answer_tokens), tokenizer.pad, np.int32)
        tokens[:, : len(ids)] = ids
        return tokens, np.tile(np.arange(FORMAT.answer_tokens) < len(ids), (len(tokens), 1))

    return draw, read


def said(row, *contents):
    """A conversation of the row's prompt and what follows it."""
    roles = ("assistant", "user")
    first = {"role": "user", "content": f"Say {row.columns['word']}."}
    return Messages([first, *({"role": roles[i % 2], "content": c} for i, c in enumerate(contents))])


FORMS = {"transcript": None, "hh": "hh", "zephyr": "zephyr"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", [(), (0,)])
def test_a_turn_reads_what_the_format_writes(model, tokenizer, form, cut):
    """Whether or not the policy ended the turn before itself. In the row EOS stands where it was sampled."""
    speaks = replace(tokenizer, chat=FORMS[form] and load_chat_template(FORMS[form]))
    model, space = replace(model, tokenizer=speaks), "" if form == "zephyr" else " "
    draw, read = writes(tokenizer, f"{space}red", f"{space}so", cut=cut)
    for row, e, *turns in zip(ROWS, play(ROWS, asks(2), draw, model, Episodes(2, 40)), *read, strict=True):
        assert turns[0] == encode_prompt(said(row), speaks) == list(e.prompt)
        assert turns[1] == encode_prompt(said(row, "red", "And green?"), speaks)
        own = [id for id, own in zip(e.tokens, e.own, strict=True) if own]
        ids = [tokenizer.encode_continued(f"{space}{word}") for word in ("red", "so")]
        assert own == [*ids[0], *([] if cut else [tokenizer.eos]), *ids[1], tokenizer.eos]
        assert e.rewards == (1.0, 2.0) and e.over == DONE and e.ended == (not cut)
        hidden = [id for id, seen in zip(e.tokens, e.seen, strict=True) if not seen]
        assert hidden == ([] if cut or form == "zephyr" else [tokenizer.eos])
        assert e.messages == (*said(row, "red", "And green?", "so"),)
        assert e.text == "red\n\nHuman: And green?\n\nAssistant: so"


def test_sampled_text_is_not_read_again(model, tokenizer):
    """An answer in pieces that no tokenizer would cut it into."""
    pieces = [tokenizer.encode_continued(c)[0] for c in (" ", "r", "e", "d")]
    assert tokenizer.encode_continued(" red") != pieces

    def draw(context, number):
        tokens = np.array([[*pieces, tokenizer.eos]] * len(context.tokens), np.int32)
        return tokens, np.ones(tokens.shape, bool)

    (e,) = play(ROWS[:1], asks(2), draw, model, Episodes(2, 40))
    assert e.tokens[:4] == tuple(pieces) and e.messages[1]["content"] == "red"


def test_why_an_episode_is_over(model, tokenizer):
    draw, read = writes(tokenizer, " red", " so", " it")
    played = partial(play, ROWS, draw=draw, model=model)
    assert [(e.over, e.rewards) for e in played(asks(1), c=Episodes(3, 40))] == [(DONE, (1.0,))] * 4
    assert [(e.over, e.rewards) for e in played(asks(9), c=Episodes(3, 40))] == [(LAST, (1.0, 2.0, 3.0))] * 4
    read.clear()
    full = played(asks(9, "I say white. " * 9), c=Episodes(3, 40))
    assert [(e.over, e.rewards, e.tokens) for e in full] == [(FULL, (1.0,), tuple(full[0].tokens))] * 4
    assert all(e.own == (True,) * len(e.tokens) for e in full) and len(read) == 1
    reply = len(tokenizer.encode_continued("\n\nHuman: And green?\n\nAssistant:"))
    assert {e.over for e in played(asks(9), c=Episodes(3, reply))} == {LAST}
    assert {e.over for e in played(asks(9), c=Episodes(3, reply - 1))} == {FULL}
    # Positions for a prompt, an answer (whose EOS is hidden), a reply and another answer.
    prompt, answer = len(encode_prompt(said(ROWS[0]), tokenizer)), len(tokenizer.encode_continued(" red"))
    need = prompt + answer + 1 + reply + FORMAT.answer_tokens
    for positions, over in ((need - 1.0, LAST), (need - 2.0, FULL)):
        (e,) = play(ROWS[:1], asks(9), draw, model, Episodes(2, 40), positions)
        assert e.over == over
    learned = replace(model.decoder, position="learned", context=46)
    assert positions_for(learned, model.decoder) == 46 and positions_for(model.decoder) == np.inf


def test_episodes_of_different_lengths_share_a_batch(model, tokenizer):
    """The first two are over after a turn; the others' second turn is drawn for all, and not read for them."""

    def reply(messages, row):
        return [{"role": "user", "content": "Why black?"}], 1.0, row.columns["word"] in ("red", "blue")

    draw, _ = writes(tokenizer, " red", " so", " it")
    found = play(ROWS, Environment(lambda row: row.conversation, reply), draw, model, Episodes(3, 40))
    assert [len(e.rewards) for e in found] == [1, 1, 3, 3]


def raises(*given):
    raise KeyError("no such row")


USER = {"role": "user", "content": "And green?"}


async def later(*given):
    return [], 1.0, True


WRONG = {
    "start raises": ("start", raises, "raised KeyError: 'no such row' (test_episodes.py, line"),
    "start gives nothing": ("start", lambda row: [], "it gave []; let it give a transcript or a list of messages"),
    "start gives none": ("start", lambda row: None, "it gave None; let it give a transcript"),
    "start gives words": ("start", lambda row: [USER, "no"], "message 2 is no object with 'role' and 'content'"),
    "start answers": ("start", lambda row: [USER, {"role": "assistant", "content": "I"}], "end"),
    "start is long": (
        "start",
        lambda row: [{"role": "user", "content": "say " * 40}],
        "and format.prompt_tokens is 40",
    ),
    "reply raises": ("reply", raises, "raised KeyError: 'no such row' (test_episodes.py, line"),
    "reply gives two": ("reply", lambda m, row: ([USER], 1.0), "let it give (messages, reward, done)"),
    "reply gives nothing": ("reply", lambda m, row: None, "it gave None; let it give (messages, reward, done)"),
    "no reward": ("reply", lambda m, row: ([USER], None, False), "let it give (messages, reward, done)"),
    "nan": ("reply", lambda m, row: ([USER], float("nan"), False), "a finite number"),
    "words": ("reply", lambda m, row: ([USER], "good", False), "a finite number"),
    "beyond float32": ("reply", lambda m, row: ([USER], 1e300, False), "a finite number"),
    "digits": ("reply", lambda m, row: ([USER], 10**400, False), "a finite number"),
    "masked": ("reply", lambda m, row: ([USER], np.ma.masked, False), "a finite number"),
    "too much": (
        "reply",
        lambda m, row: ([USER], 3e38, False),
        "with the reward 3e+38 its turns earn more than float32",
    ),
    "start ends all": ("start", lambda row: sys.exit(3), "raised SystemExit: 3 (test_episodes.py, line"),
    "reply ends all": ("reply", lambda m, row: sys.exit(3), "raised SystemExit: 3 (test_episodes.py, line"),
    "not whether": ("reply", lambda m, row: ([USER], 1.0, "yes"), "True or False"),
    "a text": ("reply", lambda m, row: ("And green?", 1.0, False), "a list, a finite number"),
    "says nothing": ("reply", lambda m, row: ([], 1.0, False), "it gave no messages and the episode is not done"),
    "a coroutine": ("reply", lambda m, row: later(m, row), "it is async, which nobody awaits"),
    "says words": ("reply", lambda m, row: (["no"], 1.0, False), "message 1 is no object with 'role' and 'content'"),
    "the policy's": (
        "reply",
        lambda m, row: ([{"role": "assistant", "content": "I"}], 1.0, False),
        "which the policy writes",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_environment_that_goes_wrong_is_a_sentence(model, tokenizer, name):
    which, function, words = WRONG[name]
    draw, _ = writes(tokenizer, " red", " so")
    right = asks(2)
    broken = Environment(**(right._asdict() | {which: function}))
    sentence = refusal(lambda: play(ROWS, broken, draw, model, Episodes(2, 40)), words)
    assert sentence.startswith(f"environment.{which} on the row '\\n\\nHuman: Say red.\\n\\nAssistant:': ")


def test_done_at_once_needs_no_messages(model, tokenizer):
    draw, _ = writes(tokenizer, " red")
    quiet = Environment(lambda row: list(said(row)), lambda messages, row: ([], 2, np.bool_(True)))
    assert {(e.over, e.rewards) for e in play(ROWS, quiet, draw, model, Episodes(3, 40))} == {(DONE, (2.0,))}


def test_what_an_environment_does_to_its_copy_stays_there(model, tokenizer):
    def reply(messages, row):
        for message in messages:
            message["content"] = "changed"
        messages.clear()
        return [USER], 0.0, False

    draw, _ = writes(tokenizer, " red", " so")
    found = play(ROWS, Environment(lambda row: row.conversation, reply), draw, model, Episodes(2, 40))
    assert found[0].messages == (*said(ROWS[0], "red", "And green?", "so"),)


def test_rows_and_what_was_said_are_not_the_environment_s_to_change(model, tokenizer):
    mine = {"role": "user", "content": "Say red."}
    words = {"role": "user", "content": "And green?"}

    def start(row):
        row.columns.pop("n")
        row.columns["of"].append(2)
        return [mine]

    def reply(messages, row):
        row.columns["of"].append(2)
        mine["content"] = words["content"] = "changed"
        words["content"] = "And green?"
        return [words], 0.0, False

    def made():
        return [Prompt(ROWS[0].conversation, columns=Columns(n=1, of=[1]))]

    given, (draw, _) = made(), writes(tokenizer, " red", " so")
    found = play(given, Environment(start, reply), draw, model, Episodes(2, 40))
    assert given == made() and found[0].row == made()[0]
    assert [message["content"] for message in found[0].messages] == ["Say red.", "red", "And green?", "so"]


def test_rows_by_hand(model, tokenizer):
    """The reply's columns are nobody's own; EOS between the turns is own and hidden; truncation keeps all of a reply."""
    eos, pad, c = tokenizer.eos, tokenizer.pad, Episodes(2, 20)
    draw, _ = writes(tokenizer, " red", " so")
    played = play(ROWS[:1], asks(2), draw, model, c)
    V, R = tokenizer.size, FORMAT.answer_tokens
    supports = [np.random.default_rng(number).random((1, R, V)) < 0.5 for number in range(2)]
    plan = steps.Plan(R, Sampling(0.7, 5, 1.0), 1, 1, eos, pad)
    rows = rows_of(played, supports, model, plan, c)
    first, second = tokenizer.encode_continued(" red"), tokenizer.encode_continued(" so")
    reply = tokenizer.encode_continued("\n\nHuman: And green?\n\nAssistant:")
    whole = [*first, eos, *reply, *second, eos]
    a, b, e = len(first) + 1, len(second) + 1, len(reply)
    rest = c.columns(model) - len(whole)
    assert rows.y.tokens.tolist() == [[*whole, *[pad] * rest]]
    assert rows.y.mask.tolist() == [[*[True] * a, *[False] * e, *[True] * b, *[False] * rest]]
    assert rows.context.tolist() == [[*[True] * (a - 1), False, *[True] * (e + b), *[False] * rest]]
    assert rows.earned.tolist() == [[1.0, 2.0]] and rows.y.temperature.tolist() == pytest.approx([0.7])
    assert rows.prompts.tokens[0][rows.prompts.mask[0]].tolist() == encode_prompt(ROWS[0].conversation, tokenizer)
    np.testing.assert_array_equal(rows.y.support[:, :a], supports[0][:, :a])
    np.testing.assert_array_equal(rows.y.support[:, a + e : a + e + b], supports[1][:, :b])
    assert rows.y.support[:, a : a + e].all() and rows.y.support[:, a + e + b :].all()


# Learning.


def short(text):
    """A reward that is not the same for all."""
    return 1.0 - len(text) / 10


def talks(turns):
    def reply(messages, row):
        number = sum(m["role"] == "assistant" for m in messages)
        return [USER], short(messages[-1]["content"]), number == turns

    return Environment(lambda row: row.conversation, reply)


def learned(folder):
    return Checkpoints(folder / "checkpoints", None).read("policy", 3)[0]


@pytest.mark.long
def test_an_episode_of_one_turn_is_an_answer(start, tmp_path):
    """What its environment gives, a reward function gives: one and the same numbers."""
    outer = stages.policy(
        tmp_path / "a" / "policy", start, lambda prompts, texts, rows: [short(text) for text in texts], ROWS, PPO, RUN
    )
    inner = stages.policy(
        tmp_path / "b" / "policy", start, None, ROWS, PPO, RUN, environment=talks(1), episodes=Episodes(1, 9)
    )
    for a, b in zip(read_metrics(outer.folder), read_metrics(inner.folder), strict=True):
        assert b["environment/reward"] == pytest.approx(a["objective/scores"], abs=1e-5)
        same = {name: value for name, value in a.items() if not name.startswith(("reward/", "time/"))}
        assert {name: b[name] for name in same} == pytest.approx(same, rel=1e-4, abs=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *map(learned, (outer.folder, inner.folder)))


@pytest.mark.long
@pytest.mark.parametrize("beside", [False, True])
def test_a_policy_learns_from_episodes_and_a_failure_loses_nothing(start, tmp_path, beside):
    """The environment raises in the third iteration; mended, the same call goes on to the bits of a run that never failed."""
    right, calls = talks(2), []

    def reply(messages, row):
        calls.append(row)
        if len(calls) == 18:  # 4 rows of 2 turns an iteration
            raise OSError("gone")
        return right.reply(messages, row)

    def whole(prompts, texts, rows):
        assert all(prompt in ROWS for prompt in prompts) and all("\n\nHuman: And green?" in text for text in texts)
        return [0.5] * len(texts)

    reward = whole if beside else None
    call = partial(
        stages.policy,
        **{"start": start, "reward": reward, "prompts": ROWS, "settings": PPO, "episodes": Episodes(2, 30)},
        run=replace(RUN, runtime=replace(RUN.runtime, record_every=3)),
    )
    broken = right._replace(reply=reply)
    refusal(
        lambda: call(tmp_path / "a" / "policy", environment=broken), "environment.reply on the row", "OSError: gone"
    )
    failed = json.loads((tmp_path / "a" / "policy" / "failed.json").read_text())
    assert failed == {"step": 3, "code": "environment"}
    one = call(tmp_path / "a" / "policy", environment=right)
    other = call(tmp_path / "b" / "policy", environment=right)
    jax.tree.map(np.testing.assert_array_equal, *map(learned, (one.folder, other.folder)))
    for row in read_metrics(one.folder):
        assert row["environment/turns"] == 2 and row["environment/done"] == 1 and row["environment/full"] == 0
        assert row["objective/scores"] == pytest.approx(row["environment/reward"] + 0.5 * beside, abs=1e-5)
        assert row["answer/length"] <= 2 * FORMAT.answer_tokens
    for row in stages.recorded(one.folder).rows(3):  # the dialogue as it was, not the row that it began from
        assert row["prompt"] in {prompt.text for prompt in ROWS} and "\nuser: And green?\nassistant:" in row["answer"]
        assert set(row["reward"]) == {"environment", *(["whole"] if beside else [])}
    assert read_metrics(one.folder)[0]["val/ratio"] == pytest.approx(1.0, abs=0.3)
    refusal(lambda: call(tmp_path / "b" / "policy", environment=asks(2)), "environment")
    refusal(
        lambda: call(tmp_path / "b" / "policy", environment=right, episodes=Episodes(3, 30)), "another episodes.turns"
    )


def opens(turns):
    """The same, that begins in words of its own."""
    return talks(turns)._replace(start=lambda row: [{"role": "user", "content": f"So, {row.columns['word']}?"}])


def length(prompts, texts, rows):
    return [len(text) / 10 for text in texts]


TWO = replace(PPO, iterations=2)
REPLAYED = {
    "with a reward and top-p": ({"reward": length, "settings": replace(TWO, top_p=0.9)}, RUN),
    "in groups": ({"settings": TWO, "iteration": GROUP, "answers": 2}, RUN),
    "on two devices": ({"settings": TWO}, replace(RUN, mesh=stages.Devices(data=2))),
}


@pytest.mark.long
@pytest.mark.parametrize("name", REPLAYED)
def test_a_replay_learns_to_the_bit_what_the_run_learned_from_episodes(start, tmp_path, name):
    """Nothing is drawn, neither the environment nor a reward is asked, and what is recorded again has the same bytes."""
    more, run = REPLAYED[name]
    call = partial(
        stages.policy,
        **{"start": start, "reward": None, "prompts": ROWS, "episodes": Episodes(2, 30)} | more,
        run=replace(run, runtime=replace(run.runtime, record_every=1)),
    )
    one = call(tmp_path / "a" / "policy", environment=opens(2))
    reward = {"reward": raises} if "reward" in more else {}
    other = call(tmp_path / "b" / "again", environment=Environment(one_raises, raises), replay=one.folder, **reward)
    states = [Checkpoints(each.folder / "checkpoints", None).record(2)["sha256"] for each in (one, other)]
    assert states[0] == states[1]
    assert list(read_metrics(one.folder)) == list(read_metrics(other.folder))
    for step in (1, 2):
        files = [each.folder / "rollouts" / f"{step:06d}.jsonl" for each in (one, other)]
        assert files[0].read_bytes() == files[1].read_bytes()
    row = stages.recorded(one.folder).rows(1)[0]
    assert row["row"] in {prompt.text for prompt in ROWS} and row["messages"][0]["content"].startswith("So, ")
    assert len(row["rewards"]) == 2 and sum(row["rewards"]) == pytest.approx(row["reward"]["environment"])
    assert row["over"] == "done"


def one_raises(row):
    raise KeyError("a replay asks no environment")


@pytest.mark.long
def test_a_record_of_episodes_that_does_not_fit_is_a_sentence(start, tmp_path):
    run = replace(RUN, runtime=replace(RUN.runtime, record_every=1))
    c = replace(PPO, iterations=1)
    call = partial(stages.policy, start=start, reward=None, prompts=ROWS, settings=c, run=run)
    made = call(tmp_path / "a" / "policy", environment=opens(2), episodes=Episodes(2, 30))
    path = made.folder / "rollouts" / "000001.jsonl"
    lines, again = path.read_text().splitlines(), partial(call, tmp_path / "b" / "policy", replay=made.folder)
    with_it = partial(again, environment=opens(2), episodes=Episodes(2, 30))

    def refused(words, **changed):
        row = json.loads(lines[1]) | changed
        row = {key: value for key, value in row.items() if value is not None}
        path.write_text("\n".join([lines[0], json.dumps(row), *lines[2:], ""]))
        refusal(with_it, "000001.jsonl, line 2", words)

    refused("is about another row than this run's there", row="Say nothing.")
    refused("rewards is [], not a number for each of 1 to 2 turns", rewards=[])
    refused("rewards is [1, 2, 3], not a number", rewards=[1, 2, 3])
    refused("rewards is [True], not a number", rewards=[True])
    refused("prompt_ids is [], which are not 1 to 40 tokens", prompt_ids=[])
    refused("has the token 1000000, and the model a vocabulary of", prompt_ids=[1000000])
    refused("messages, answer or over is missing", over=None)
    refused("messages, answer or over is missing", messages=None)
    refused("messages is [None], not a list of objects with a role", messages=[None])
    refused("reward has other parts than in line 1", reward=None)
    refused("reward has other parts than in line 1", reward={"length": 1.0})
    refusal(
        lambda: again(environment=opens(2), episodes=Episodes(3, 30)), "another episodes.turns (2, not 3); set it back"
    )
    refusal(lambda: again(reward=length), "these rollouts are episodes with an environment; give it, or replay others")


def test_what_is_drawn_is_what_the_learner_reads(start, tmp_path):
    """Each token's log-probability in a whole row, with EOS hidden between the turns, is the one that it was drawn with,
    after a context without it."""
    seen, R, c = [], FORMAT.answer_tokens, Episodes(2, 30)
    params, rows = start.learned(), ROWS * 4
    plan = steps.Plan(R, Sampling(1.3, 0, 1.0), 1, 1, start.tokenizer.eos, start.tokenizer.pad)
    models = steps.Models(LanguageModel(start.decoder), ScalarModel(start.decoder))
    state = steps.initial_state(params, None, RUN.optimisers(), jax.random.key(3))

    def turn(context, number):
        return jax.jit(partial(steps.sample_turn, models=models, plan=plan))(
            state, context, steps.Frozen(params), number
        )

    # A token that is often drawn, and that no text here has, in the place of EOS.
    texts = {id for row in ROWS for id in start.tokenizer.encode(f"{row.text} And green?")}
    often = Counter(i for i in np.ravel(turn(rows_of_prompts(start), 0).tokens).tolist() if i not in texts and i > 3)
    eos = often.most_common(1)[0][0]
    plan = plan._replace(eos=eos)
    start = replace(start, tokenizer=replace(start.tokenizer, named={**start.tokenizer.named, "eos": eos}))

    def draw(context, number):
        y = turn(context, number)
        seen.append((np.asarray(y.logp), np.asarray(y.mask)))
        return np.asarray(y.tokens), np.asarray(y.mask)

    played = play(rows, asks(2), draw, start, c)
    assert 0 < sum(not all(e.seen) for e in played) < len(played)  # EOS was hidden in some
    made = rows_of(played, [], start, plan, c)
    read = jax.jit(partial(steps.read_episodes, models=models, plan=plan._replace(max_tokens=c.columns(start))))
    x = read(state, *made, steps.Frozen(params))
    for i, own in enumerate(np.asarray(x.y.mask)):
        drawn = np.concatenate([logp[i][mask[i]] for logp, mask in seen])
        np.testing.assert_allclose(np.asarray(x.y.logp)[i][own], drawn, atol=2e-5)
    assert np.all(np.asarray(x.y.logp)[~np.asarray(x.y.mask)] == 0)
    assert np.all(np.asarray(x.kl["k1"]) == 0)
    np.testing.assert_array_equal(x.ended, [e.ended for e in played])
    first, later = (np.asarray(turn(made.prompts, number).tokens) for number in (0, 1))
    assert (later != first).any()  # turns have draws of their own


def rows_of_prompts(model):
    return encode_prompts(ROWS * 4, model.tokenizer, FORMAT.prompt_tokens)


def test_a_reward_is_earned_at_the_turn_that_it_is_of(start, tmp_path, monkeypatch):
    """With β = 0 and values of 0 a token's return is what is earned from its turn on: 3 in the first, 2 in the second."""
    seen, learner = [], sys.modules["rlhf_jax.steps.ppo_ptx"]
    minibatches = learner.minibatches

    def looked_at(key, experience, *rest):
        jax.debug.callback(lambda *arrays: seen.append(arrays), experience.returns, experience.response.mask)
        return minibatches(key, experience, *rest)

    monkeypatch.setattr(learner, "minibatches", looked_at)
    monkeypatch.setattr(learner, "response_values", lambda params, tokens, mask, T, model: jnp.zeros((len(tokens), T)))
    c = replace(PPO, iterations=1, beta=0.0, lam=1.0)
    stages.policy(tmp_path / "policy", start, None, ROWS, c, RUN, environment=asks(2), episodes=Episodes(2, 30))
    jax.effects_barrier()
    for returns, own in zip(*map(np.asarray, seen[0]), strict=True):
        second = np.flatnonzero(own)[-1] - np.argmin(own[: np.flatnonzero(own)[-1] + 1][::-1]) + 1
        np.testing.assert_allclose(returns[:second][own[:second]], 3.0, atol=1e-5)
        np.testing.assert_allclose(returns[second:][own[second:]], 2.0, atol=1e-5)
        assert own[:second].any() and not returns[~own].any()


def test_settings_that_mean_nothing_with_an_environment_are_refused(start, tmp_path):
    call = partial(
        stages.policy, tmp_path / "policy", start=start, reward=None, prompts=ROWS, environment=talks(2), run=RUN
    )
    refusal(lambda: call(settings=replace(PPO, score_norm="running")), "ppo.score_norm is 'running'", "set it to 'off'")
    refusal(lambda: call(settings=PPO, iteration=steps.Iteration(writes, steps.learn)), "leave it as steps.sample")
    named = stages.Rewards(functions=[length], names=["environment"])
    refusal(lambda: call(settings=PPO, reward=named), "a reward is named environment", "give it another name")
    refusal(lambda: call(settings=PPO, environment=None), "the reward is None; give a reward model")
    for wrong in ((lambda row: "x", lambda m, row: ([], 0.0, True)), asks, (), Environment(asks, "x")):
        refusal(lambda wrong=wrong: call(settings=PPO, environment=wrong), "the environment is ", "give a stages.Env")

    async def async_start(row):
        return row.conversation

    async def async_reply(messages, row):
        return [], 0.0, True

    for name, function in (("start", async_start), ("reply", partial(async_reply))):
        wrong = talks(2)._replace(**{name: function})
        refusal(lambda wrong=wrong: call(settings=PPO, environment=wrong), f"environment.{name} is async, and")


# From a config, and in a comparison.

FILE = """from helper import short


def start(row):
    return row.conversation


def reply(messages, row):
    number = sum(m["role"] == "assistant" for m in messages)
    return [{"role": "user", "content": "And green?"}], short(messages[-1]["content"]), number == 2
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a user's files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_env.py").write_text(FILE)
    (tmp_path / "helper.py").write_text("def short(text):\n    return 1.0 - len(text) / 10\n")
    yield tmp_path
    for name in ("helper", "my_env", *(f"{each}_py" for each in ("my_env", "half", "number", "few", "many"))):
        sys.modules.pop(name, None)


NAMED = {
    "none.py": "given.environment: there is no file none.py in ",
    "no_such_module": "given.environment: there is no module no_such_module; install it, or name a file by its path",
    "half.py": "given.environment: half.py has no function 'reply'; it has start",
    "number.py": "given.environment: number.py:reply is of type int and cannot be called",
    "few.py": "environment.start takes () (too many positional arguments); let it take (row)",
    "many.py": "reply takes (messages, row, more) (missing a required argument: 'more'); let it take (messages, row)",
    "my_env.py:Env": "given.environment is my_env.py:Env; name the file or the module alone, my_env.py, which has start",
}


@pytest.mark.parametrize("name", NAMED)
def test_what_a_config_cannot_find_is_a_sentence(name, here):
    (here / "half.py").write_text("def start(row):\n    return ''\n")
    (here / "number.py").write_text("reply = 3\n\n\ndef start(row):\n    return ''\n")
    (here / "few.py").write_text(FILE.replace("start(row)", "start()"))
    (here / "many.py").write_text(FILE.replace("reply(messages, row)", "reply(messages, row, more)"))
    refusal(lambda: environment_in(name), NAMED[name])


def test_a_line_of_a_config_is_an_environment(here):
    """As a file or a module; another helper beside it is another environment. With one there may be no reward."""
    hashes = []
    for name in ("my_env.py", "my_env"):
        found, messages = environment_in(name), [*said(ROWS[0], "red")]
        assert found.start(ROWS[0]) == ROWS[0].conversation
        assert found.reply(messages, ROWS[0]) == ([{"role": "user", "content": "And green?"}], 0.7, False)
        hashes.append(source_sha256(partial(play, environment=found)))
    (here / "helper.py").write_text("def short(text):\n    return 1.0 - len(text) / 9\n")
    for name in ("helper", "my_env_py"):
        del sys.modules[name]
    assert source_sha256(partial(play, environment=environment_in("my_env.py"))) not in hashes
    assert environment_in("") is None
    assert not rewards_in("", "", None, environment=found).recorded
    refusal(lambda: rewards_in("", "", None), "there is no reward")


@pytest.mark.long
@pytest.mark.parametrize("program", [ppo_ptx, grpo], ids=["ppo_ptx", "grpo"])
def test_a_line_of_a_config_is_the_run_of_the_argument(program, here, start, monkeypatch):
    """And the comparison at its end is by what whole episodes earn."""
    data = stages.DataSets(stages.Parts([]), stages.Parts([]), stages.Parts(ROWS, [], ROWS), stages.Parts([]))
    for name, fake in (("model_in", start), ("data_of", data), ("trained_in", [start])):
        monkeypatch.setattr(program, name, lambda *given, fake=fake: fake)
    asked = {}
    monkeypatch.setattr(program, "policy", lambda *given, **more: asked.update(more) or stages.policy(*given, **more))
    given = program.Given(reward="", environment="my_env.py")
    of_run = {"runtime": RUN.runtime, "evaluate": stages.Evaluate(prompts=4), "ppo": PPO, "episodes": Episodes(2, 30)}
    program.main(program.Config(out=str(here / "a"), given=given, **of_run))
    (one,) = (path.parent for path in (here / "a").glob("*/checkpoints"))
    other = here / "b" / one.name
    stages.policy(other, start, None, data.prompts, PPO, RUN, **asked | {"environment": talks(2)})
    jax.tree.map(np.testing.assert_array_equal, *map(learned, (one, other)))
    (figures,) = (json.loads(path.read_text()) for path in (here / "a").glob("*.json"))
    assert {"reward", "reward/minus_start", "win_rate/vs_start"} <= figures.keys() and figures["reward"]["mean"] < 2


@pytest.mark.parametrize("beside", [None, lambda prompts, texts, rows: [0.5 * text.count("Human:") for text in texts]])
def test_models_are_compared_by_what_whole_episodes_earn(start, beside):
    data = stages.DataSets(*(stages.Parts([]),) * 2, stages.Parts([], [], ROWS), stages.Parts([]))
    rewards = stages.Rewards() if beside is None else stages.Rewards(functions=[beside], weights=[3], names=["asked"])
    judge = stages.judge_of(data, start, rewards, stages.Evaluate(), asks(2), Episodes(2, 30))
    written = stages.write(stages.Loaded(start, start.learned()), judge, stages.Evaluate(), RUN)
    assert written.reward.tolist() == written.verdict.tolist() == [3.0 + 3 * 0.5 * (beside is not None)] * 4
    assert all("\n\nHuman: And green?\n\nAssistant:" in text for text in written.texts)
    assert judge.reward_name == ("environment" if beside is None else "environment + 3·asked")
    first = written.answers.prompts
    assert [ids[mask].tolist() for ids, mask in zip(first.tokens, first.mask, strict=True)] == [
        encode_prompt(row.conversation, start.tokenizer) for row in ROWS
    ]


# The built-in world.


def test_a_dialogue_of_the_world_has_an_exact_truth():
    data = stages.from_world(stages.World(20, prompts=150, demonstrations=10, labelers=1, heldout_labelers=1), 0)
    environment, lengths = world_dialogue(data.truth), set()
    for row in data.prompts.train:
        question = data.truth.question(row)
        asked = [question, *follow_ups(data.truth.world, question)]
        messages = [{"role": "user", "content": question.text}]
        assert environment.start(row) == row.conversation
        for number, each in enumerate(asked):
            right = (
                ", ".join(each.wanted[: each.count]) + "."
                if each.separator == ","
                else " ".join(each.wanted[: each.count])
            )
            messages.append({"role": "assistant", "content": right})
            more, reward, done = environment.reply(messages, row)
            assert reward == data.truth.gold(each, right) == 5.0 and done == (number + 1 == len(asked))
            assert [m["content"] for m in more] == [q.text for q in asked[number + 1 : number + 2]]
            wrong = [*messages[:-1], {"role": "assistant", "content": "You zonk."}]
            assert environment.reply(wrong, row)[1] <= 0
            messages += more
        lengths.add(len(asked))
    assert lengths == {1, 2, 3}


def test_the_report_s_session_is_rated_by_the_exact_truth(start):
    """Of the first held-out question that is followed by as many as any; it has draws of its own, the same each time."""
    truth = stages.from_world(stages.World(20, 150, 10, 1, 1), 0).truth
    questions = [q for part in truth.questions.each().values() for q in part]
    judge = stages.Judge("gold", [Prompt(prompt_text(q.text)) for q in questions], questions, truth, None)
    wide = replace(start, format=stages.Format(120, 6))
    made = partial(session_of, "ppo", stages.Loaded(wide, wide.learned()), c=stages.Evaluate(), run=RUN)
    session = made(judge)
    asked = next(q for q in questions if q.category == "open_qa" and len(follow_ups(truth.world, q)) == 2)
    chain, said = [asked, *follow_ups(truth.world, asked)], session["messages"]
    assert [m["content"] for m in said[::2]] == [q.text for q in chain] and session["model"] == "ppo"
    rated = [rating(truth.gold(q, m["content"])) for q, m in zip(chain, said[1::2], strict=True)]
    assert [m["rating"] for m in said[1::2]] == rated and made(judge) == session
    assert made(judge._replace(truth=None, questions=None)) is None
    strangers = [q for q in questions if not follow_ups(truth.world, q)]
    assert made(judge._replace(questions=strangers)) is None
