"""docs/from_trl.md: every argument and default on it is TRL's, every key and default ours."""

import ast
import dataclasses
import math
import re
import typing
from types import SimpleNamespace

import pytest

from experiments import dpo, grpo, instructgpt
from tests.small_run import ROOT

PAGE = (ROOT / "docs" / "from_trl.md").read_text()
ARGUMENTS, DIFFERENCES, MISSING = (
    PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    for title in ("Arguments", "What differs, and by how much", "No counterpart")
)
TRAINERS = ("SFT", "Reward", "DPO", "GRPO", "RLOO", "PPO")


def quoted(cell: str) -> str | None:
    found = re.fullmatch(r"`(.+)`", cell.strip())
    return found[1] if found else None


def literal(cell: str):
    text = quoted(cell)
    return "" if text is None else math.inf if text == "inf" else ast.literal_eval(text)


ROWS = [
    SimpleNamespace(argument=quoted(c[0]), of=c[1].strip(), theirs=c[2], key=quoted(c[3]), ours=c[4])
    for c in (line.strip("|").split("|") for line in ARGUMENTS.splitlines() if line.startswith("| `"))
]


def defaults() -> dict[str, object]:
    """Every key of the programs' configs and what it is where nothing is said."""
    found: dict[str, object] = {}
    for config in (instructgpt.Config, grpo.Config, dpo.Config):
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            kinds = [k for k in (hints[field.name], *typing.get_args(hints[field.name])) if dataclasses.is_dataclass(k)]
            if not kinds:
                found[field.name] = field.default
                continue
            instance = field.default if dataclasses.is_dataclass(field.default) else kinds[0]
            for inner in dataclasses.fields(kinds[0]):
                found[f"{field.name}.{inner.name}"] = getattr(instance, inner.name, dataclasses.MISSING)
    return found


OURS = defaults()
SECTIONS = {key.split(".")[0] for key in OURS if "." in key}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.argument} of {row.of}")
def test_the_key_is_ours(row):
    assert row.key in OURS
    if quoted(row.ours):
        assert literal(row.ours) == OURS[row.key] and type(literal(row.ours)) is type(OURS[row.key])


def test_keys_anywhere_on_the_page_are_ours():
    keys = {key for key in re.findall(r"`([a-z_]+\.[a-z_0-9]+)[ `]", PAGE) if key.split(".")[0] in SECTIONS}
    assert len(keys) > 50 and keys <= set(OURS)


def test_a_row_says_where_it_is_from():
    assert len(ROWS) > 60
    for row in ROWS:
        assert row.argument and row.key and (row.of in ("all", "Model") or set(row.of.split(", ")) <= set(TRAINERS)), (
            row
        )


@pytest.fixture(scope="module")
def trl_fields():
    """trainer → its config's fields with their defaults. PPO's where TRL still has it."""
    trl = pytest.importorskip("trl", minversion="1.12", reason="TRL is not installed: pip install trl")
    patch = pytest.MonkeyPatch()
    patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    configs = {name: getattr(trl, f"{name}Config") for name in (*TRAINERS[:-1], "Model")}
    if trl.__version__ < "1.16":  # the page is of 1.16
        configs = {}
    try:
        from trl.experimental.ppo import PPOConfig
    except ImportError:
        pass
    else:
        configs["PPO"] = PPOConfig
    patch.undo()

    def value(field: dataclasses.Field):
        return field.default if field.default is not dataclasses.MISSING else field.default_factory()

    return {name: {f.name: value(f) for f in dataclasses.fields(config) if f.init} for name, config in configs.items()}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.argument} of {row.of}")
def test_the_argument_is_trl_s(row, trl_fields):
    for name in TRAINERS if row.of == "all" else row.of.split(", "):
        if name not in trl_fields:
            continue
        assert row.argument in trl_fields[name], f"{name}Config has no {row.argument}"
        if quoted(row.theirs):
            found = trl_fields[name][row.argument]
            assert getattr(found, "value", found) == literal(row.theirs), f"{name}Config.{row.argument} is {found!r}"


def test_what_has_no_counterpart_is_there_and_nothing_is_left_out(trl_fields):
    transformers = pytest.importorskip("transformers")
    common = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    named = set(re.findall(r"`([a-z_0-9]+\*?)`", MISSING)) - {"centre_on", "mesh"}
    theirs = {name for fields in trl_fields.values() for name in fields}
    pattern = {word: re.compile(word.replace("*", ".*")) for word in named}
    if len(trl_fields) > 5:  # with PPO's as well, or without them, every name is somebody's
        ppo = "PPO" in trl_fields
        nobody = {w for w, p in pattern.items() if not any(p.fullmatch(name) for name in theirs)}
        assert not nobody or (not ppo and nobody <= PPO_ALONE), nobody
    table = {row.argument for row in ROWS}
    for trainer, fields in trl_fields.items():
        own = set() if trainer == "Model" else set(fields) - common - table
        left_out = {name for name in own if not any(p.fullmatch(name) for p in pattern.values())}
        assert not left_out, f"{trainer}Config's {left_out} is not on the page"


PPO_ALONE = {
    *("stop_token", "stop_token_id", "num_sample_generations", "local_rollout_forward_batch_size", "batch_size"),
    *("micro_batch_size", "mini_batch_size", "local_batch_size", "local_mini_batch_size", "num_total_batches"),
    *("world_size", "sft_model_path", "reward_model_path", "model_adapter_name", "ref_adapter_name"),
}
