"""What a stage or a program is given, and what it notices about it: another model in a folder, a figure that is not to be
had, texts of which none fits, a prompt of another world; and the entrance, which takes a model, a reward and --anew."""

import importlib
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import instructgpt, rl_loop
from rlhf_jax import stages
from rlhf_jax.data import Demonstration, Prompt, Ranking, prompt_text
from rlhf_jax.models import LanguageModel, save_pretrained, write_transformer_config
from rlhf_jax.runtime import read_metrics
from rlhf_jax.stages.model import folder_sha256
from rlhf_jax.types import PPOState, Response
from tests import small_run
from tests.models.conftest import wild
from tests.refusals import refusal

pytestmark = pytest.mark.usefixtures("types_are_not_checked")
SHAPE = stages.Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=32)
FORMAT = stages.Format(prompt_tokens=24, answer_tokens=16)
P = prompt_text("Name a fruit.")


@pytest.fixture(scope="module")
def world():
    return stages.from_world(stages.World(40, prompts=150, demonstrations=30, labelers=2, heldout_labelers=1), 0)


# A Hugging Face folder.


def write_weights(folder: Path, tokenizer, seed: int) -> None:
    decoder = stages.described(SHAPE, tokenizer, FORMAT).decoder
    save_pretrained(folder, decoder, wild(LanguageModel(decoder), seed), write_transformer_config(decoder))


@pytest.fixture
def huggingface(tokenizer, tmp_path):
    folder = tmp_path / "imported"
    folder.mkdir()
    write_weights(folder, tokenizer, 1)
    return folder


def rewritten(folder: Path, tokenizer) -> None:
    """Other weights in files that are as long as before."""
    new = folder.parent / "new"
    new.mkdir()
    write_weights(new, tokenizer, 2)
    (weights,) = folder.glob("*.safetensors")
    before = weights.stat()
    weights.write_bytes((new / weights.name).read_bytes())
    assert weights.stat().st_size == before.st_size
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def test_other_weights_in_a_folder_are_noticed_when_they_are_read(huggingface, tokenizer):
    model = stages.imported(huggingface, FORMAT, tokenizer=tokenizer)
    assert model.learned().keys() >= {"transformer"}
    rewritten(huggingface, tokenizer)
    refusal(model.learned, "holds another model than the one that was asked for")
    assert stages.imported(huggingface, FORMAT, tokenizer=tokenizer).learned()


def test_a_folder_that_is_refused_is_not_hashed_first(huggingface, tokenizer, monkeypatch):
    """Its files may be as large as a disk."""
    monkeypatch.setattr("rlhf_jax.stages.model.folder_sha256", lambda folder: pytest.fail("all weights were read"))
    values = json.loads((huggingface / "config.json").read_text())
    (huggingface / "config.json").write_text(json.dumps(values | {"quantization_config": {"bits": 4}}))
    refusal(lambda: stages.imported(huggingface, FORMAT, tokenizer=tokenizer), "quantization_config")


def test_the_hash_of_a_folder_is_of_what_its_files_hold_now(huggingface, tokenizer):
    before = folder_sha256(huggingface)
    assert folder_sha256(huggingface) == before
    rewritten(huggingface, tokenizer)
    after = folder_sha256(huggingface)
    assert after != before
    config = huggingface / "config.json"
    config.write_text(config.read_text() + "\n")
    assert folder_sha256(huggingface) not in (before, after)


def test_a_folder_is_a_stage_s_or_hugging_face_s(huggingface, tmp_path, monkeypatch):
    saved = importlib.import_module("rlhf_jax.stages.saved")
    monkeypatch.setattr(saved, "imported", lambda folder, format, memory: ("imported", folder, format))
    monkeypatch.setattr(saved, "trained", lambda folder: ("trained", folder))
    assert saved.model_in(huggingface, FORMAT) == ("imported", huggingface, FORMAT)
    assert saved.model_in(tmp_path / "sft", FORMAT) == ("trained", tmp_path / "sft")


# Data.


def test_a_figure_of_the_world_is_refused_for_files_before_anything_is_made(world, tmp_path, monkeypatch):
    files = replace(world, truth=None)
    words = "runtime.best is 'gold/mean', a figure of the built-in world, and the data are files"
    refusal(lambda: stages.require_figure("gold/mean", files), words)
    stages.require_figure("gold/mean", world)
    stages.require_figure("objective/scores", files)
    stages.require_figure("", files)
    # The recipe asks it of the rows that fit its model, whose parameters are not made yet.
    kept = iter([files, replace(world, prompts=replace(world.prompts, valid=[]))])
    monkeypatch.setattr(instructgpt, "data_sets", lambda settings, seed: world)
    monkeypatch.setattr(instructgpt, "starting_model", lambda *given: None)
    monkeypatch.setattr(instructgpt, "data_that_fit", lambda data, start: next(kept))
    monkeypatch.setattr(instructgpt, "pretrain", lambda *given: pytest.fail("it began"))
    for refused in (words, "runtime.best is 'gold/mean', a figure on validation rows, of which there are none"):
        refusal(lambda: instructgpt.recipe(small_run.recipe(tmp_path, "--runtime.best", "gold/mean")), refused)


def test_a_prompt_of_another_world_is_refused_and_one_of_this_has_its_question(world):
    for part in (world.prompts.train, world.prompts.valid, world.prompts.test):
        for prompt in part:
            assert prompt_text(world.truth.question(prompt).text) == prompt.text
    refusal(lambda: world.truth.question(Prompt(P)), "is no prompt of this built-in world; is it another seed's?")
    refusal(lambda: world.truth.judge([Prompt(P)], ["A pear."]), "is no prompt of this built-in world")


def test_the_judge_s_figure_is_the_mean_of_the_gold_scores(world):
    prompts = list(world.prompts.valid)[:3]
    answers = ["No.", "I do not know.", " ".join(world.truth.question(prompts[2]).wanted) or "Yes."]
    scores = [world.truth.gold(world.truth.question(p), a) for p, a in zip(prompts, answers, strict=True)]
    assert world.truth.judge(prompts, answers) == {"gold/mean": pytest.approx(sum(scores) / 3)}
    assert len(set(scores)) > 1


def test_where_no_row_of_a_part_fits_training_is_refused_and_looking_is_left_out(tokenizer, capsys):
    model, long = stages.described(SHAPE, tokenizer, FORMAT), [Prompt(prompt_text("many words " * 40))]
    words = "1 of 1 train prompts are longer than format.prompt_tokens = 24, and none is left"
    refusal(lambda: stages.prompts_that_fit(long, model, "train"), words)
    assert stages.prompts_that_fit(long, model, "valid") == []
    assert stages.prompts_that_fit([Prompt(P), *long], model, "train") == [Prompt(P)]
    assert capsys.readouterr().err.count("and left out") == 2
    strict = replace(model, format=replace(FORMAT, too_long="error"))
    refusal(lambda: stages.prompts_that_fit([Prompt(P), *long], strict, "train"), "1 of 2 train prompts", "many words")


def test_the_world_s_parts_share_no_prompt_and_its_demonstrations_are_of_their_own(world):
    parts = [{p.text for p in part} for part in world.prompts.each().values()]
    assert all(parts) and not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert {d.prompt for d in world.demonstrations.train} <= parts[0]
    assert {d.prompt for d in world.demonstrations.valid} <= parts[1]
    asked = world.truth.questions
    for questions, prompts in zip(asked.each().values(), world.prompts.each().values(), strict=True):
        assert [prompt_text(q.text) for q in questions] == [p.text for p in prompts]


def test_only_test_prompts_are_about_people_and_places_that_are_held_out():
    data = stages.from_world(stages.World(10, prompts=300, demonstrations=30, labelers=1, heldout_labelers=1), 1)
    held = set(data.truth.world.held_out)
    train, valid, test = ({data.truth.question(p).about for p in part} for part in data.prompts.each().values())
    assert not held & (train | valid) and held & test
    assert "" in train & valid & test and len(train) > 10


def test_no_held_out_prompt_is_in_a_file_s_training_rows(tmp_path):
    prompts = [f"question {i} about the weather" for i in range(80)]
    rows = [{"prompt": p, "chosen": f"it rains {p}", "rejected": f"no {p}"} for p in prompts]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paragraphs = [f"Chapter {i}. " + f"It rains on day {i}. " * 250 for i in range(30)]
    (tmp_path / "text.txt").write_text("\n\n".join(paragraphs))
    file = str(tmp_path / "rows.jsonl")
    data = stages.data_sets(stages.Files(str(tmp_path / "text.txt"), file, file, file), 0)
    held = {p.text for p in (*data.prompts.valid, *data.prompts.test)}
    assert held and len({p.text for p in data.prompts.train}) > len(held)
    for rows in (data.demonstrations, data.rankings):
        assert rows.train and not {row.prompt for row in rows.train} & held
        assert {row.prompt for row in rows.test} <= {p.text for p in data.prompts.test}
        assert {row.prompt for row in rows.valid} <= {p.text for p in data.prompts.valid}
    assert data.text.valid and not set(data.text.train) & set(data.text.valid)
    valid, train = ("".join(part) for part in (data.text.valid, data.text.train))
    assert any(name in valid and name not in train for name in (f"Chapter {i}." for i in range(30)))


# A centred reward model.


def test_a_centred_reward_model_does_not_go_on(tokenizer, tmp_path, monkeypatch):
    """Its bias was moved at its end; one that was not centred goes on. Its rows fill the last batch."""
    module = importlib.import_module("rlhf_jax.stages.reward_model")
    opened = []

    class OpenedError(Exception):
        pass

    def open_stage(*given, fixed_length, **more):
        opened.append(fixed_length)
        raise OpenedError

    monkeypatch.setattr(module, "open_stage", open_stage)
    of = stages.described(SHAPE, tokenizer, FORMAT)
    start = stages.Trained(of.decoder, tokenizer, FORMAT, folder=tmp_path / "sft", sha256="sft", step=1)
    c, pair = stages.Reward(schedule="constant", batch=1), [Ranking(P, ("A pear.", "A dog."), (1, 2))]
    for centre_on in ([Demonstration(P, "A pear.")], ()):
        with pytest.raises(OpenedError):
            stages.reward_model(tmp_path / "reward", start, pair, c, centre_on=centre_on)
    assert "centred at its end" in opened[0] and opened[1] == ""


# The entrance.


class Drawn(NamedTuple):
    y: Response


@pytest.fixture
def entrance(tokenizer, world, tmp_path, monkeypatch):
    """Its main with a sampler that repeats the end of the prompt and a learner that adds 1; what these were given."""
    of, seen = stages.described(SHAPE, tokenizer, FORMAT), SimpleNamespace(aside=[], asked=[], mixes=[])
    model = stages.Trained(of.decoder, tokenizer, FORMAT, folder=tmp_path / "start", sha256="start", step=1)
    monkeypatch.setattr(stages.Trained, "params", lambda self: {"transformer": {}, "bias": jnp.float32(3)})

    def sample(state, x, sft, *, c, m):
        tokens, mask = x.tokens[:, -16:], x.mask[:, -16:]
        return Drawn(Response(tokens, mask, tokens * 0.0, tokens[:, 0] * 0.0, None))

    def learn(state: PPOState, a, scores, text, *, c, m):
        jax.debug.callback(lambda tokens: seen.mixes.append(np.asarray(tokens)), text.tokens)
        after = replace(state, step=state.step + 1, ema=jax.tree.map(lambda p: p + 1, state.ema))
        return after, {
            "objective/scores": rl_loop.equations.mean(scores),
            "objective/kl": rl_loop.equations.mean(scores),
        }

    def reward(prompts, answers, rows):
        seen.asked += zip(prompts, answers, strict=True)
        return [float(len(answer)) for answer in answers]

    monkeypatch.setattr(rl_loop, "sample", sample)
    monkeypatch.setattr(rl_loop, "learn", learn)
    monkeypatch.setattr(rl_loop, "reward", reward)
    monkeypatch.setattr(rl_loop.runtime, "set_aside", lambda out, name: seen.aside.append((out, name)))
    monkeypatch.setattr(rl_loop.stages, "model_in", lambda folder, format: (seen.asked.clear(), model)[1])
    words = "dog cat pear mat fruit apple rat oat hat bat"
    prompts = [Prompt(prompt_text(f"Name a {word}.")) for word in words.split()]
    small = replace(world, prompts=stages.Parts(prompts[:8], prompts[8:9], prompts[9:]))
    monkeypatch.setattr(rl_loop.stages, "from_world", lambda settings, seed: small)
    c = rl_loop.Settings(start="given", out=str(tmp_path / "out"), iterations=2, batch=4, minibatches=2)
    return SimpleNamespace(c=c, seen=seen, world=small, folder=tmp_path / "out" / "ppo_ptx", tokenizer=tokenizer)


def test_the_entrance_learns_from_training_prompts_and_text_and_returns_its_average(entrance):
    rl_loop.main(entrance.c)
    train, seen = {p.text for p in entrance.world.prompts.train}, entrance.seen
    assert len(seen.asked) == 8 and {p.text for p, _ in seen.asked} <= train
    assert all(prompt.text.endswith(answer) for prompt, answer in seen.asked)  # each with its own answer
    assert len(seen.mixes) == 2 and not np.array_equal(*seen.mixes)
    known = {tuple(row) for row in stages.packed(entrance.world.text.train, stages.trained(entrance.folder)).tokens}
    assert all(tuple(row) in known for mix in seen.mixes for row in mix)
    made = stages.trained(entrance.folder)
    assert made.part == "ema" and made.step == 2
    written = [row["objective/scores"] for row in read_metrics(entrance.folder)]
    lengths = [len(answer) for _, answer in seen.asked]
    assert written == pytest.approx([np.mean(lengths[:4]), np.mean(lengths[4:])])


def test_the_entrance_refuses_a_reward_that_is_no_number_for_each_answer(entrance, monkeypatch):
    for given in ([float("nan")] * 4, [1.0], None):
        monkeypatch.setattr(rl_loop, "reward", lambda prompts, answers, rows, given=given: given)
        refusal(lambda: rl_loop.main(entrance.c), "the reward function lambda gave")


def test_the_entrance_sets_aside_what_it_is_told_to_and_nothing_else(entrance):
    rl_loop.main(entrance.c)
    assert entrance.seen.aside == []
    again = replace(entrance.c, out=f"{entrance.c.out}-again", anew="ppo_ptx")
    rl_loop.main(again)
    assert entrance.seen.aside == [(Path(again.out), "ppo_ptx")]


def test_the_entrance_takes_a_model_that_is_there_or_trains_one(entrance, monkeypatch):
    given = []
    monkeypatch.setattr(rl_loop.stages, "model_in", lambda folder, format: given.append((folder, format)) or "there")
    run, c = stages.Run(0), replace(entrance.c, tokens=(7, 9))
    assert rl_loop.starting_model(c, entrance.world, run) == "there"
    assert given == [("given", stages.Format(7, 9))]
    made = {}
    for name in ("run_tokenizer", "described", "pretrain", "supervised"):
        monkeypatch.setattr(rl_loop.stages, name, lambda *what, name=name: made.setdefault(name, what) and name)
    assert rl_loop.starting_model(replace(c, start=""), entrance.world, run) == "supervised"
    assert made["pretrain"][2] is entrance.world.text.train and made["supervised"][2] is entrance.world.demonstrations
    assert made["supervised"][1] == "pretrain"


def test_answers_to_one_prompt_are_neighbours_in_the_entrance(entrance):
    rl_loop.main(replace(entrance.c, answers=2))
    names = [p.text for p, _ in entrance.seen.asked]
    assert names[0::2] == names[1::2] and len(set(names)) == 4
