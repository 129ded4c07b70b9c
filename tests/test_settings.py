"""Every number of the settings has a range, and a value outside it is one sentence when the settings are made."""

import dataclasses
import importlib
import typing
from functools import partial
from math import inf, nan
from pathlib import Path

import jax
import jaxtyping
import pytest

from experiments import grpo, instructgpt, rl_loop, sweep
from rlhf_jax.config import Checked, Range, load_config, read_config
from rlhf_jax.errors import InputError
from rlhf_jax.runtime import Origin, Stage
from rlhf_jax.stages import (
    PPO,
    AnswersToRank,
    Decoder,
    Devices,
    Evaluate,
    Format,
    Lora,
    Memory,
    Optimiser,
    Parts,
    Preference,
    Pretrain,
    Program,
    Reward,
    Run,
    Runtime,
    Supervised,
    TokenizerSettings,
    World,
    begin,
    policy,
)

ROOT = Path(__file__).parents[1]
SHAPE = {"width": 128, "heads": 4, "kv_heads": 4, "position": "rope"}
COUNT, NATURAL, POSITIVE, SHARE = "1 or more", "0 or more", "a number above 0", "a number from 0 to 1"
BELOW_ONE = "0 or more and below 1"


@pytest.fixture(autouse=True)
def _without_beartype(monkeypatch):
    """Which would refuse what is of another type before the settings do. Users have none."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# (class, what departs from its defaults, the sentence)
WRONG = [
    (PPO, {"minibatches": 0}, "minibatches is 0; set it to 1 or more"),
    (
        PPO,
        {"batch": 8, "minibatches": 3},
        "batch is 8 and minibatches 3, which does not divide it; set minibatches to a ",
    ),
    (
        PPO,
        {"temperature": 0},
        "temperature is 0: greedy answers have no other ones to be compared with; set it above 0",
    ),
    (PPO, {"pretrain_examples": 0}, "gamma is 27.8 and pretrain_examples 0, which is no mix; set gamma to 0, or "),
    (PPO, {"result": "x"}, "result is 'x' and must be one of average, policy"),
    (PPO, {"whiten": "x"}, "whiten is 'x' and must be one of biased, unbiased, off"),
    (PPO, {"schedule": "bogus"}, "schedule is 'bogus' and must be one of constant, linear, cosine"),
    (PPO, {"kl_reward": "k9"}, "kl_reward is 'k9' and must be one of k1, k2, k3, exact"),
    (PPO, {"whiten_rewards": 1}, "whiten_rewards is 1 and must be true or false"),
    (PPO, {"batch": 8.0}, "batch is 8.0 and must be of type int"),
    (PPO, {"batch": True}, "batch is True and must be of type int"),
    (PPO, {"lr": True}, "lr is True and must be of type float"),
    (PPO, {"lr": None}, "lr is None and must be of type float"),
    (PPO, {"lr": "1"}, "lr is '1' and must be of type float"),
    (PPO, {"lr": 1e39}, "lr is 1e+39, which 32 bits cannot hold; set it closer to 0"),
    (PPO, {"lr": 10**400}, f"lr is {10**400} and must be of type float"),
    (PPO, {"batch": 10**41}, f"batch is {10**41}, which 32 bits cannot hold; set it closer to 0"),
    (AnswersToRank, {"fewest": 5, "most": 4}, "fewest is 5 and most 4; set fewest to most or less"),
    (AnswersToRank, {"fewest": 1}, "fewest is 1; set it to 2 or more"),
    (
        Supervised,
        {"batch": 2, "pretrain_share": 0.9},
        "pretrain_share is 0.9 and batch 2, which leaves no demonstrations; ",
    ),
    (Preference, {"objective": "xyz"}, "objective is 'xyz' and must be one of dpo, ipo, slic, simpo, orpo, kto"),
    (Decoder, {**SHAPE, "heads": 3}, "width is 128 and heads 3, which does not divide it; set heads to a divisor"),
    (
        Decoder,
        {**SHAPE, "kv_heads": 3},
        "heads is 4 and kv_heads 3, which does not divide it; set kv_heads to a divisor",
    ),
    (
        Decoder,
        {**SHAPE, "width": 12},
        "heads is 4 and width 12; rope turns pairs and a head has 3 numbers: make width / ",
    ),
    (grpo.Group, {"answers": 1}, "answers is 1; set it to 2 or more"),
    (rl_loop.Settings, {"answers": 3}, "batch is 64 and answers 3, which does not divide it; set answers to a divisor"),
    (rl_loop.Settings, {"minibatches": 0}, "minibatches is 0; set it to 1 or more"),
    *(
        (kind, {name: value}, f"{name} is {value!r}; set it to {words}")
        for kind, names, values, words in (
            (PPO, "iterations batch epochs lr_steps", (0, -3), COUNT),
            (PPO, "top_k beta_steps pretrain_examples value_warmup warmup", (-1, -5), NATURAL),
            (PPO, "beta beta_loss beta_end gamma clip_low clip_high value_coef uncertainty", (-1.0, inf, nan), NATURAL),
            (PPO, "missing_eos_penalty temperature", (-1.0, inf), NATURAL),
            (PPO, "kl_target lr value_lr", (0.0, -1.0, inf), POSITIVE),
            (PPO, "kl_horizon stop_kl score_clip", (0.0, -1.0), "a number above 0, or inf"),
            (PPO, "value_clip", (-1.0, nan), "0 or more, or inf"),
            (PPO, "dual_clip", (1.0, -1.0), "a number above 1, or inf"),
            (PPO, "entropy", (inf, nan), "a finite number"),
            (PPO, "discount lam lr_floor", (-1.0, 2.0, 5.0), SHARE),
            (PPO, "ema", (2.0, -1.0, 1.0), BELOW_ONE),
            (PPO, "top_p", (0.0, 2.0), "a number above 0, 1 at most"),
            (Runtime, "save_every evaluate_every keep batch", (0, -1), COUNT),
            (Runtime, "record_every", (-1,), NATURAL),
            (Optimiser, "b1 b2", (2.0, 1.0, -0.1), BELOW_ONE),
            (Optimiser, "eps", (-1.0, 0.0), POSITIVE),
            (Optimiser, "clip_norm", (-1.0, 0.0), "a number above 0, or inf"),
            (Optimiser, "weight_decay", (-1.0,), NATURAL),
            (Devices, "data fsdp tensor", (0, -1), COUNT),
            (Run, "seed", (-1, 2**32, 10**41), "a number from 0 to 4294967295"),
            (partial(Program, "out"), "seed", (-1, 10**41), "a number from 0 to 4294967295"),
            (partial(Program, "out"), "processes", (0,), COUNT),
            (partial(Program, "out"), "process", (-1,), NATURAL),
            (Format, "prompt_tokens answer_tokens", (0, -5), COUNT),
            (Decoder, "width layers heads kv_heads hidden", (0,), COUNT),
            (Memory, "logit_rows", (-1,), NATURAL),
            (Lora, "rank", (0,), COUNT),
            (Lora, "alpha", (0.0,), POSITIVE),
            (TokenizerSettings, "vocab_size", (0,), COUNT),
            (World, "documents prompts demonstrations labelers heldout_labelers", (0, -1), COUNT),
            (Pretrain, "steps warmup", (-1,), NATURAL),
            (Pretrain, "batch", (0,), COUNT),
            (Supervised, "epochs batch", (0,), COUNT),
            (Supervised, "lr", (0.0, -1.0), POSITIVE),
            (Supervised, "floor", (1.1,), SHARE),
            (Supervised, "dropout pretrain_share", (2.0, 1.0, -0.5), BELOW_ONE),
            (Reward, "epochs batch", (0,), COUNT),
            (AnswersToRank, "prompts", (0, -2), COUNT),
            (AnswersToRank, "temperature", (0.0,), POSITIVE),
            (Preference, "epochs batch", (0,), COUNT),
            (Preference, "beta", (0.0, -1.0), POSITIVE),
            (Preference, "smoothing", (1.5,), SHARE),
            (Preference, "margin sft desirable undesirable", (-1.0,), NATURAL),
            (Evaluate, "prompts", (0,), COUNT),
            (Evaluate, "shown top_k", (-1,), NATURAL),
            (Evaluate, "temperature", (-1.0,), NATURAL),
            (partial(sweep.Sweep, "t"), "seeds together devices", (0,), COUNT),
            (rl_loop.Settings, "iterations fresh_steps batch", (0,), COUNT),
        )
        for name in names.split()
        for value in values
    ),
]


@pytest.mark.parametrize(("kind", "fields", "sentence"), WRONG)
def test_a_wrong_value_is_a_sentence(kind, fields, sentence):
    with pytest.raises(InputError) as refused:
        kind(**fields)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        partial(PPO, lr=1, beta=0, temperature=0.5, top_k=5, top_p=0.1, beta_steps=0, warmup=0),
        partial(PPO, stop_kl=inf, score_clip=inf, value_clip=inf, dual_clip=inf, entropy=-0.1, clip_low=0),
        partial(PPO, gamma=0),  # a grid of γ has 0 in it
        partial(PPO, pretrain_examples=0, gamma=0, ema=0, lam=1, discount=0),
        partial(Optimiser, clip_norm=inf, b1=0),
        partial(Pretrain, steps=0),
        partial(Run, seed=2**32 - 1),
        partial(Evaluate, temperature=0, shown=0),
        partial(Decoder, width=12, heads=4, kv_heads=2),  # learned positions may be odd
        partial(Supervised, batch=1, pretrain_share=0.5),
    ],
)
def test_a_value_at_the_edge_passes(settings):
    settings()


def test_the_largest_seed_is_jax_s():
    assert jax.random.key_data(Run(seed=2**32 - 1).key("x")).shape == (2,)


# All of them.


def settings_classes() -> dict[str, type]:
    """Those of every program, with all sections."""
    found: dict[str, type] = {}
    waiting: list[type] = [rl_loop.Settings]
    for path in (ROOT / "experiments").glob("*.py"):
        config = getattr(importlib.import_module(f"experiments.{path.stem}"), "Config", None)
        waiting += [config] if config else []
    while waiting:
        kind = waiting.pop()
        found[f"{kind.__module__}.{kind.__name__}"] = kind
        hints = typing.get_type_hints(kind).values()
        inner = [part for hint in hints for part in (hint, *typing.get_args(hint))]
        waiting += [part for part in inner if dataclasses.is_dataclass(part) and isinstance(part, type)]
    return found


CLASSES = settings_classes()
# Not those of rl_loop's tokens, which Format holds to its own.
NUMBERS = [
    (kind, name, hint)
    for kind in CLASSES.values()
    for name, hint in typing.get_type_hints(kind, include_extras=True).items()
    if typing.get_origin(hint) is not tuple
    and {int, float} & {hint, *typing.get_args(hint), *(a for h in typing.get_args(hint) for a in typing.get_args(h))}
]


def test_every_class_of_them_is_found():
    assert len(NUMBERS) > 100
    assert {PPO, World, Lora, sweep.Sweep, grpo.Group, Optimiser, Preference, rl_loop.Settings} <= set(CLASSES.values())


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: f"{n[0].__name__}.{n[1]}")
def test_every_number_has_a_range_and_refuses_nan(number):
    kind, name, hint = number
    assert issubclass(kind, Checked)
    parts = [hint, *typing.get_args(hint)]
    assert any(isinstance(mark, Range) for part in parts for mark in getattr(part, "__metadata__", ()))
    needed = {f.name: "x" for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
    if "sweep" in needed:
        needed["sweep"] = sweep.Sweep("prod beta=1")
    kind(**needed)  # the defaults pass
    with pytest.raises(InputError, match=f"^{name} is nan"):
        kind(**needed, **{name: nan})


CONFIGS = {"ablation": "sweep", "tiny": "instructgpt", "hh": "instructgpt", "imported": "instructgpt"}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_that_ships_passes(path):
    program = importlib.import_module(f"experiments.{CONFIGS.get(path.stem, path.stem)}")
    assert isinstance(read_config(program.Config, path), Program)


# In a config.


def refusal(*words: str, path: Path = ROOT / "configs" / "tiny.toml", kind: type = instructgpt.Config) -> str:
    with pytest.raises(InputError) as refused:
        load_config(kind, [str(path), *words])
    return str(refused.value)


def test_a_wrong_value_is_named_with_its_section_and_where_it_stands(tmp_path):
    assert refusal("--ppo.minibatches", "0") == "command line: ppo.minibatches is 0; set it to 1 or more"
    assert refusal("--seed", "-1").startswith("command line: seed is -1; set it to ")
    assert refusal("--ppo.temperature", "0").startswith("command line: ppo.temperature is 0: greedy")
    assert refusal("--runtime.keep=0") == "command line: runtime.keep is 0; set it to 1 or more"
    assert refusal("--optimiser.eps", "nan") == "command line: optimiser.eps is nan; set it to a number above 0"
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "tiny.toml"\nseed = 7\n[sft]\nlr = -1')
    assert refusal(path=mine) == f"{mine}: sft.lr is -1.0; set it to a number above 0"


def test_two_fields_that_do_not_go_together_are_named_with_both_places(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "tiny.toml"\n[ppo]\nbatch = 16')
    wrong = "ppo.batch is 16 and minibatches 3, which does not divide it; set minibatches to a divisor"
    assert refusal("--ppo.minibatches", "3", path=mine) == f"command line and {mine}: {wrong}"
    wrong = "ppo.batch is 12 and minibatches 8, which does not divide it; set minibatches to a divisor"
    assert refusal("--ppo.batch", "12") == f"command line: {wrong}"


def test_help_minds_no_range(capsys):
    with pytest.raises(SystemExit) as stopped:
        load_config(instructgpt.Config, [str(ROOT / "configs" / "tiny.toml"), "--ppo.batch", "0", "--help"])
    assert stopped.value.code == 0
    assert "--ppo.minibatches INT" in capsys.readouterr().out


def test_a_table_of_a_sweep_is_held_to_the_ranges_too():
    path, words = ROOT / "configs" / "ablation.toml", ["--sweep.table", "prod warmup=0,5 lam=0.9,2"]
    c = load_config(sweep.Config, [str(path), *words]).config
    with pytest.raises(InputError, match=r"^sweep\.table: lam is 2\.0; set it to a number from 0 to 1$"):
        sweep.table_of(c)
    assert sweep.table_of(dataclasses.replace(c, sweep=sweep.Sweep("zip warmup=0,5 stop_kl=inf,1")))


def test_what_a_sweep_cannot_spread_is_said_before_anything_is_trained(tmp_path):
    words = ["--out", str(tmp_path / "out"), "--sweep.table", "prod beta=0,1", "--sweep.devices", "4"]
    c = load_config(sweep.Config, [str(ROOT / "configs" / "ablation.toml"), *words]).config
    with pytest.raises(
        InputError, match=r"^6 members do not divide into groups of sweep\.together = 1 on sweep\.devices"
    ):
        sweep.sweep(c)
    with pytest.raises(InputError, match=r"^mesh\.pmap spreads one run over the devices"):
        sweep.sweep(dataclasses.replace(c, mesh=Devices(pmap=True)))
    assert not (tmp_path / "out").exists()


# Where it is no setting.


@pytest.mark.parametrize("answers", [0, 3])
def test_answers_to_a_prompt_divide_the_batch(answers, tmp_path):
    nothing: typing.Any = None
    with pytest.raises(InputError, match=f"^ppo.batch is 512 and answers {answers}, which does not divide it; "):
        policy(tmp_path / "ppo", nothing, nothing, Parts(()), PPO(), answers=answers)


@pytest.mark.parametrize("steps", [0, -1])
def test_a_stage_has_a_step(steps, tmp_path):
    with pytest.raises(InputError, match=f"toy: {steps} steps are asked for; ask for 1 or more"):
        Stage(tmp_path / "toy", steps, Origin({}, {}, {}, {}))


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        (
            "--mesh.data 3",
            [
                "the 28 rows of pretrain's batch do not divide over 3 devices: where it is not trained yet, change "
                "pretrain.batch, mesh.data or mesh.fsdp",
                *("sft", "rl_init", "reward", "ppo"),
            ],
        ),
        (
            "--mesh.data 2 --mesh.fsdp 2 --rl-init.batch 10",
            ["the 10 rows of rl_init's batch do not divide over 4 devices"],
        ),
        (
            "--mesh.data 4 --mesh.pmap --ppo.minibatches 64",
            ["the 2 rows of ppo's minibatch do not divide over 4 devices"],
        ),
        ("--mesh.data 4 --ppo.minibatches 64", []),
        ("--mesh.data 2 --mesh.pmap", []),
    ],
)
def test_batches_that_do_not_divide_over_the_devices_are_said_before_anything_is_trained(
    tmp_path, line, sentences, capfd
):
    base = ["configs/tiny.toml", "--out", str(tmp_path / "run"), "--rl-init.batch", "8", "--sft.batch", "8"]
    begin(instructgpt.Config, "instructgpt.py", "What it does.", [str(ROOT / base[0]), *base[1:], *line.split()])
    said = [each for each in capfd.readouterr().err.splitlines() if "divide" in each]
    assert len(said) == len(sentences)
    assert all(sentence in each for sentence, each in zip(sentences, said, strict=True))
