"""Defaults ◄ base ◄ file ◄ command line: what wins, what is said to the user, and what the resolved config holds."""

import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal

import pytest

from rlhf_jax import config as module
from rlhf_jax.config import Loaded, load_config, read_config
from rlhf_jax.errors import InputError

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class PPO:
    """The policy's settings."""

    beta: float = 0.02  # of the KL, per nat (Sec. 3.5)
    value_clip: float = 0.2
    """The clip of the value. Infinity is off."""
    batch: int = 512
    whiten: Literal["biased", "off"] = "biased"
    best: str = "gold/mean"


@dataclass(frozen=True)
class Lora:
    alpha: float = 16.0  # the corrections are scaled by alpha / rank
    rank: int = 4
    matrices: str | None = None


@dataclass(frozen=True)
class Sweep:
    table: str  # of coefficients
    seeds: int = 3


@dataclass(frozen=True)
class Mesh:
    pmap: bool = False  # over data
    scan: bool = True


@dataclass(frozen=True)
class Config:
    out: str  # the run's folder
    ppo: PPO = PPO()
    rl_init: PPO = PPO(batch=10)
    seed: int = 0  # of everything random
    coordinator: str | None = None  # host:port
    horizon: int | None = 7
    lora: Lora | None = None  # corrections of low rank
    sweep: Sweep | None = None
    mesh: Mesh = field(default_factory=Mesh)


@dataclass(frozen=True)
class Small:
    """Another program's, which shares configs with the first."""

    out: str = "runs/small"
    lora: Lora | None = None


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")  # in a wider terminal --help has the sections side by side
    return tmp_path


def write(name: str, text: str = "") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def load(text: str, *words: str) -> Config:
    return load_config(Config, [write("a.toml", text), *words]).config


def refusal(*argv: str, config_type: type = Config) -> str:
    """The sentence."""
    with pytest.raises(InputError) as refused:
        load_config(config_type, argv)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


# A file is a list of departures.


def test_what_a_file_does_not_say_keeps_its_default():
    config = load('out = "x"\n[ppo]\nbeta = 0.3')
    assert config == Config(out="x", ppo=PPO(beta=0.3))


def test_a_section_starts_from_its_own_default_instance():
    config = load('out = "x"\n[rl_init]\nbeta = 1')
    assert config.rl_init == PPO(beta=1.0, batch=10)
    assert type(config.rl_init.beta) is float


@pytest.mark.parametrize(
    ("text", "key"),
    [("", "out"), ('out = "x"\n[sweep]', "sweep.table"), ('out = "x"\n[sweep]\nseeds = 1', "sweep.table")],
)
def test_a_key_that_nobody_gives_is_missing(text, key):
    assert refusal(write("a.toml", text)) == f"{key} is missing; add it to a.toml or give --{key}"


def test_the_command_line_gives_what_is_missing():
    assert load("", "--out", "y") == Config(out="y")


def test_read_config_reads_a_file_and_its_bases():
    write("b.toml", 'out = "x"\nseed = 3')
    config = read_config(Config, Path(write("a.toml", 'base = "b.toml"\nseed = 4')))
    assert config == Config(out="x", seed=4)
    with pytest.raises(InputError, match=r"out is missing; add it to a.toml"):
        read_config(Config, write("a.toml"))


# Bases.


def test_the_nearer_file_wins_key_by_key():
    write("far.toml", 'out = "far"\nseed = 1\n[ppo]\nbeta = 1.0\nbatch = 1\nbest = "far"')
    write("mid.toml", 'base = "far.toml"\nseed = 2\n[ppo]\nbeta = 2.0\nbatch = 2')
    config = load('base = "mid.toml"\n[ppo]\nbeta = 3.0')
    assert config == Config(out="far", seed=2, ppo=PPO(beta=3.0, batch=2, best="far"))


def test_a_base_lies_beside_the_file_that_names_it():
    write("deep/b.toml", 'out = "beside"')
    write("b.toml", 'out = "here"')
    write("deep/a.toml", 'base = "b.toml"')
    assert load_config(Config, ["deep/a.toml"]).config.out == "beside"


@pytest.mark.parametrize("text", ['base = "a.toml"', 'base = "b.toml"', 'base = "../a.toml"'])
def test_a_circle_of_bases_is_a_sentence(text, folder, monkeypatch):
    write("w/b.toml", 'base = "../w/a.toml"')
    write("a.toml", 'base = "w/a.toml"')
    write("w/a.toml", text)
    monkeypatch.chdir(folder / "w")
    assert "leads back to a file that builds on it (a.toml → " in refusal("a.toml")


def test_a_base_that_is_missing_or_no_name_is_a_sentence():
    assert refusal(write("a.toml", 'base = "none.toml"')).startswith("a.toml: its base none.toml does not exist; name")
    assert refusal(write("a.toml", "base = 3")) == 'a.toml: base is 3 and must name a file, as in base = "tiny.toml"'
    assert "base is '' and must name a file" in refusal(write("a.toml", "base = ''"))
    assert r"base is 'a\x00b' and must name a file" in refusal(write("a.toml", r'base = "a\u0000b"'))


# Bad files.


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("seed = 'one'", "seed is 'one' and must be of type int"),
        ("seed = true", "seed is True and must be of type int"),
        ("seed = 1.0", "seed is 1.0 and must be of type int"),
        ("out = 1", "out is 1 and must be of type str"),
        ("coordinator = 1", "coordinator is 1 and must be of type str"),
        ("[seed]\na = 1", "seed is {'a': 1} and must be of type int"),
        ("ppo = 1", "ppo is a section, [ppo], and cannot be 1"),
        ("lora = 1", "lora is a section, [lora], and cannot be 1"),
        ("[ppo]\nbeta = 'a'", "ppo.beta is 'a' and must be of type float"),
        ("[ppo]\nbeta = true", "ppo.beta is True and must be of type float"),
        ("[ppo]\nwhiten = 'no'", "ppo.whiten is 'no' and must be one of biased, off"),
        ("[ppo]\nwhiten = []", "ppo.whiten is [] and must be one of biased, off"),
        ("[ppo]\nbta = 1.0", "unknown key ppo.bta; did you mean beta?"),
        ("[mesh]\nzzz = 1.0", "unknown key mesh.zzz; it may have pmap, scan"),
        ("[mesh]\npmap = 'yes'", "mesh.pmap is 'yes' and must be true or false"),
        ("[mesh.zzz]", "unknown key mesh.zzz; it may have pmap, scan"),
        ("[lora]\nranc = 1", "unknown key lora.ranc; did you mean rank?"),
    ],
)
@pytest.mark.parametrize("is_base", [False, True])
def test_a_wrong_key_is_named_with_the_file_in_which_it_stands(line, words, is_base):
    write("wrong.toml", line)
    # The nearer file says the same keys rightly: what is wrong in the base is an error even so.
    write(
        "near.toml", 'base = "wrong.toml"\nout = "x"\nseed = 1\n[ppo]\nbeta = 1.0\nwhiten = "off"\n[mesh]\npmap = true'
    )
    assert refusal("near.toml" if is_base else "wrong.toml") == f"wrong.toml: {words}"


def test_a_choice_of_numbers_is_no_bool():
    @dataclass(frozen=True)
    class Choice:
        level: Literal[0, 1] = 0

    assert read_config(Choice, write("a.toml", "level = 1")).level == 1
    assert load_config(Choice, ["a.toml", "--level", "0"]).config.level == 0
    assert (
        refusal(write("a.toml", "level = true"), config_type=Choice) == "a.toml: level is True and must be one of 0, 1"
    )


def test_an_integer_too_large_for_a_float_is_refused():
    assert "and must be of type float" in refusal(write("a.toml", f"[ppo]\nbeta = 1{'0' * 400}"))


@pytest.mark.parametrize("text", ["seed = ", "seed = 1\nseed = 2", f"seed = {'1' * 5000}", "seed = " + "[" * 5000])
def test_broken_toml_is_a_sentence(text):
    write("broken.toml", text)
    assert refusal("broken.toml").startswith("broken.toml is not valid TOML: ")
    assert refusal(write("a.toml", 'base = "broken.toml"')).startswith("broken.toml is not valid TOML: ")


def test_a_file_that_is_missing_or_cannot_be_read_is_a_sentence(folder):
    missing = "none.toml does not exist; name a config file, for example configs/tiny.toml"
    assert refusal("none.toml") == missing
    (folder / "a.toml").mkdir()
    assert refusal("a.toml").startswith("a.toml cannot be read: ")
    (folder / "latin.toml").write_bytes(b'out = "\xe9"')
    assert refusal("latin.toml").startswith("latin.toml cannot be read: ")


# One base serves several programs.


def test_a_base_may_hold_what_this_program_does_not_read():
    write("shared.toml", 'seed = 1\n[ppo]\nbeta = "not looked at"\n[lora]\nrank = 2')
    assert load_config(Small, [write("a.toml", 'base = "shared.toml"')]).config == Small(lora=Lora(rank=2))


@pytest.mark.parametrize(("line", "words"), [("outt = 1", "did you mean out"), ("[lorra]\nrank = 1", "[lora]")])
def test_a_slip_in_a_base_is_an_error(line, words):
    write("shared.toml", line)
    with pytest.raises(InputError) as error:
        load_config(Small, [write("a.toml", 'base = "shared.toml"')])
    assert words in str(error.value)


def test_the_named_file_may_not():
    write("deep/shared.toml", "[pppo]\nbeta = 1.0")
    assert refusal("deep/shared.toml", config_type=Small) == (
        "deep/shared.toml: this program does not read [pppo]; give it a file with "
        'base = "shared.toml", which takes from it what this program reads'
    )
    assert "does not read [pppo] (did you mean [ppo]?); give" in refusal("deep/shared.toml")
    assert refusal(write("a.toml", "sed = 1")) == "a.toml: unknown key sed; did you mean seed?"


# Optional sections.


def test_an_optional_section_is_there_if_somebody_says_it():
    assert load('out = "x"').lora is None
    assert load('out = "x"\n[lora]').lora == Lora()
    assert load('out = "x"', "--lora.rank", "8").lora == Lora(rank=8)
    assert load('out = "x"\n[lora]\nalpha = 1.0', "--lora.rank", "8").lora == Lora(alpha=1.0, rank=8)
    write("b.toml", "[lora]\nrank = 2")
    assert load('base = "b.toml"\nout = "x"').lora == Lora(rank=2)


def test_an_optional_section_of_the_command_line_must_be_whole():
    a = write("a.toml", 'out = "x"')
    assert refusal(a, "--sweep.seeds", "1") == "sweep.table is missing; add it to a.toml or give --sweep.table"
    assert load('out = "x"', "--sweep.table", "t").sweep == Sweep("t")


# The command line.


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seed", "-1"], Config("x", seed=-1)),
        (["--seed=-1"], Config("x", seed=-1)),
        (["--seed", "1", "--seed", "2"], Config("x", seed=2)),
        (["--ppo.beta", "-inf"], Config("x", ppo=PPO(beta=-inf))),
        (["--ppo.beta", "inf"], Config("x", ppo=PPO(beta=inf))),
        (["--ppo.beta", "1e-3"], Config("x", ppo=PPO(beta=0.001))),
        (["--ppo.value-clip", "1"], Config("x", ppo=PPO(value_clip=1.0))),
        (["--ppo.value_clip", "1"], Config("x", ppo=PPO(value_clip=1.0))),
        (["--rl-init.batch", "1"], Config("x", rl_init=PPO(batch=1))),
        (["--ppo.whiten", "off"], Config("x", ppo=PPO(whiten="off"))),
        (["--out", ""], Config("")),
        (["--out", "a = b"], Config("a = b")),
        (["--out=--a=b"], Config("--a=b")),
        (["--out", "-a"], Config("-a")),
        (["--out", "None"], Config("None")),
        (["--coordinator", "host:1"], Config("x", coordinator="host:1")),
        (["--coordinator", "None"], Config("x")),
        (["--mesh.pmap"], Config("x", mesh=Mesh(pmap=True))),
        (["--mesh.pmap", "--seed", "1"], Config("x", seed=1, mesh=Mesh(pmap=True))),
        (["--mesh.pmap", "true"], Config("x", mesh=Mesh(pmap=True))),
        (["--mesh.scan", "False"], Config("x", mesh=Mesh(scan=False))),
        (["--mesh.scan=false"], Config("x", mesh=Mesh(scan=False))),
        (["--mesh.no-scan"], Config("x", mesh=Mesh(scan=False))),
        (["--mesh.no_scan", "--mesh.no-pmap"], Config("x", mesh=Mesh(scan=False))),
    ],
)
def test_values_of_the_command_line(words, expected):
    assert load('out = "x"', *words) == expected


def test_the_command_line_wins_over_the_file():
    assert load('out = "x"\nseed = 1\ncoordinator = "a"', "--seed", "2", "--coordinator", "None") == Config("x", seed=2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ppo.beta", "abc"], "ppo.beta is 'abc' and must be of type float"),
        (["--seed", "1.5"], "seed is '1.5' and must be of type int"),
        (["--ppo.whiten", "no"], "ppo.whiten is 'no' and must be one of biased, off"),
        (["--mesh.pmap", "yes"], "mesh.pmap is 'yes' and must be true or false"),
        (["--mesh.no-pmap=true"], "--mesh.no-pmap takes no value; write --mesh.pmap true"),
        (["--ppo.bta", "1"], "unknown option --ppo.bta; did you mean --ppo.beta?"),
        (["--beta", "1"], "unknown option --beta; did you mean --ppo.beta?"),
        (["--no-seed"], "unknown option --no-seed; did you mean --seed?"),
        (["--zzzzzzzz"], "unknown option --zzzzzzzz; --help lists what there is"),
        (["--seed"], "--seed needs a value; if it begins with --, write --seed=VALUE"),
        (["--seed", "--mesh.pmap"], "--seed needs a value; if it begins with --, write --seed=VALUE"),
        (["7"], "'7' stands alone; a value follows its key, as in --section.key value"),
        (["--horizon", "None"], "horizon cannot be None, which no file can say; give it another value"),
        (["--out", "\udcff"], r"'\udcff' is not valid UTF-8; write it in UTF-8"),
        (["--anew", "\udcff"], r"'\udcff' is not valid UTF-8; write it in UTF-8"),
        (["--anew"], "--anew needs the name of what is to be made anew, as in --anew STAGE"),
        (["--anew", "--show"], "--anew needs the name of what is to be made anew, as in --anew STAGE"),
    ],
)
def test_a_wrong_command_line_is_a_sentence(words, sentence):
    assert refusal(write("a.toml", 'out = "x"'), *words) == f"command line: {sentence}"


@pytest.mark.parametrize("argv", [[], ["--seed", "1"], ["--show"], ["-x"]])
def test_a_config_file_comes_first(argv):
    assert refusal(*argv) == (
        "name a config file first, for example configs/tiny.toml, and then any --section.key value"
    )


def test_show_and_anew_may_stand_anywhere():
    a = write("a.toml", 'out = "x"')
    loaded = load_config(Config, ["--show", a, "--anew", "sft", "--seed", "1", "--anew=reward model"])
    assert isinstance(loaded, Loaded)
    assert (loaded.config, loaded.anew, loaded.show) == (Config("x", seed=1), ("sft", "reward model"), True)
    loaded = load_config(Config, [a])
    assert (loaded.anew, loaded.show) == ((), False)


def test_the_command_line_is_the_process_s_own_if_none_is_given(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/program.py", write("a.toml", 'out = "x"'), "--seed", "5"])
    loaded = load_config(Config)
    assert loaded.config.seed == 5
    assert "program.py a.toml --seed 5" in loaded.resolved.splitlines()[0]


# Configs that ship.


@pytest.fixture
def shipped(folder, monkeypatch):
    monkeypatch.setattr(module, "SHIPPED", (folder / "wheel", folder / "checkout"))
    write("checkout/t.toml", 'out = "checkout"')
    (folder / "work").mkdir()
    monkeypatch.chdir(folder / "work")


def test_a_bare_name_is_looked_up_among_the_configs_that_ship(shipped):
    assert load_config(Config, ["t.toml"]).config.out == "checkout"
    assert load_config(Config, ["configs/t.toml"]).config.out == "checkout"
    assert load('base = "t.toml"').out == "checkout"
    assert load('base = "configs/t.toml"').out == "checkout"
    write("../wheel/t.toml", 'out = "wheel"')
    assert load_config(Config, ["t.toml"]).config.out == "wheel"
    assert read_config(Config, "t.toml").out == "wheel"
    write("t.toml", 'out = "here"')
    assert load_config(Config, ["t.toml"]).config.out == "here"
    assert load_config(Config, ["configs/t.toml"]).config.out == "wheel"
    assert refusal("other/t.toml").startswith("other/t.toml does not exist")


def test_the_checkout_s_configs_ship():
    assert ROOT / "configs" in module.SHIPPED and ROOT / "rlhf_jax" / "configs" in module.SHIPPED


# The resolved config.


def test_each_line_of_the_resolved_config_says_where_its_value_comes_from():
    write("b.toml", "[ppo]\nbatch = 8\n[lora]\nrank = 2")
    write("deep/a.toml", 'base = "../b.toml"\nout = "x"\n[ppo]\nbeta = 0.3')
    argv = ["deep/a.toml", "--mesh.pmap", "--out", "it's"]
    header, *lines = load_config(Config, argv, program="prog").resolved.splitlines()
    assert header.startswith("#") and """prog deep/a.toml --mesh.pmap --out 'it'"'"'s'""" in header
    beside = "deep/../b.toml"
    assert "\n".join(lines).strip() == (
        f"""out = "it's"  # command line
seed = 0  # default
# coordinator = None  # default
horizon = 7  # default

[ppo]
beta = 0.3  # deep/a.toml
value_clip = 0.2  # default
batch = 8  # {beside}
whiten = "biased"  # default
best = "gold/mean"  # default

[rl_init]
beta = 0.02  # default
value_clip = 0.2  # default
batch = 10  # default
whiten = "biased"  # default
best = "gold/mean"  # default

[lora]
alpha = 16.0  # default
rank = 2  # {beside}
# matrices = None  # default

[mesh]
pmap = true  # command line
scan = true  # default"""
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--ppo.beta", "inf", "--ppo.value_clip", "-inf", "--rl_init.beta", "1e-300", "--rl-init.value-clip", "1e22"],
        ["--out", 'a "quoted" \\ back\\slash\nand a\r\nnew line # no comment\t\x7f\x00\x1b é 😀 \u2028'],
        ["--lora.matrices", "", "--sweep.table", "'''\"\"\"", "--mesh.pmap", "--mesh.no-scan", "--horizon", "-3"],
        ["--coordinator", "None", "--lora.alpha", "3"],
    ],
)
def test_the_resolved_config_reads_back_as_the_same_config(words):
    a = write("a.toml", 'out = "x"\nseed = 9\ncoordinator = "host"')
    loaded = load_config(Config, [a, "--show", "--anew", "sft", *words])
    assert "base" not in tomllib.loads(loaded.resolved)
    assert read_config(Config, write("back.toml", loaded.resolved)) == loaded.config


def test_nothing_in_a_value_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/elsewhere")
    assert load('out = "${HOME}/x"', "--coordinator", "$HOME").coordinator == "$HOME"
    assert load('out = "${HOME}/x"').out == "${HOME}/x"


# --help.


def help_of(capsys, *argv: str, config_type: type = Config) -> str:
    """What --help prints, boxes and line breaks taken out."""
    with pytest.raises(SystemExit) as stopped:
        load_config(config_type, argv, doc="Does a thing.\n\nAnd more.", program="prog.py")
    assert stopped.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[0] == ("usage: prog.py CONFIG.toml [--section.key value …] [--show] [--anew STAGE]")
    return " ".join(printed.out.replace("│", " ").split())


def test_help_lists_every_key_with_its_sentence_and_default(capsys):
    text = help_of(capsys, "--help")
    assert "Does a thing. And more." in text
    for line in (
        "--out STR the run's folder (required)",
        "--seed INT of everything random (default: 0)",
        "--ppo.beta FLOAT of the KL, per nat (Sec. 3.5) (default: 0.02)",
        "--ppo.value_clip FLOAT The clip of the value. Infinity is off. (default: 0.2)",
        "--ppo.whiten {biased,off} (default: biased)",
        "--rl_init.batch INT (default: 10)",
        "--lora.rank INT (default: 4)",
        "--lora.alpha FLOAT the corrections are scaled by alpha / rank (default: 16.0)",
        "--sweep.table STR of coefficients (required)",
        "--mesh.pmap, --mesh.no_pmap over data (default: False)",
        "off until one of their keys is given: lora, sweep.",
    ):
        assert line in text


@pytest.mark.parametrize("argv", [["a.toml", "--help"], ["-h", "a.toml"], ["a.toml", "--seed", "3", "--help"]])
def test_help_with_a_file_has_the_file_s_values(argv, capsys):
    write("a.toml", "[ppo]\nbeta = 0.75\n[lora]")
    text = help_of(capsys, *argv)
    assert "the values of a.toml" in text
    assert "per nat (Sec. 3.5) (default: 0.75)" in text
    assert "--ppo.batch INT (default: 512)" in text
    assert "off until one of their keys is given: sweep." in text


@dataclass(frozen=True)
class Strict:
    batch: int  # rows
    lora: Lora | None = None

    def __post_init__(self):
        if self.batch % 2 or self.lora:
            raise InputError("batch must be even, and lora off")


def test_help_minds_no_check_of_values_and_a_run_does(capsys):
    assert "--batch INT rows (required)" in help_of(capsys, "--help", config_type=Strict)
    assert refusal(write("a.toml", "batch = 3"), config_type=Strict) == "batch must be even, and lora off"


def test_help_of_a_program_is_its_docstring(folder):
    (folder / "program.py").write_text(
        '"""Counts to ten.\n\n  python program.py x\n\nIt ends.\n"""\n'  # else 3.13 takes the indent away
        "from dataclasses import dataclass\nfrom rlhf_jax.config import load_config\n"
        "@dataclass(frozen=True)\nclass Config:\n    seed: int = 0  # of the count\nload_config(Config)\n"
    )
    done = subprocess.run([sys.executable, "program.py", "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("usage: program.py CONFIG.toml ")
    assert "\nCounts to ten.\n\n  python program.py x\n\n" in done.stdout and "of the count" in done.stdout
