"""Tests run on 8 fake CPU devices, with rank promotion an error."""

import gc
import os
import signal
from contextlib import contextmanager
from pathlib import Path

from tests.compiler import QUICK

# Before jax is imported. PJRT_NPROC: collectives of many fake devices deadlock on fewer threads than this.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}"
os.environ.setdefault("PJRT_NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes many objects and little garbage, in which Python would look for cycles for a tenth of the time.
gc.set_threshold(100_000, 50, 100)


LONGEST = (
    "test_experiments.py",
    "test_studies.py",
    "test_optimum.py",
    "test_mappings.py",
    "test_programs.py",
    "test_kills.py",
    "test_ppo_options.py",
    "test_experience.py",
    "test_ppo_iteration.py",
    "test_rollouts.py",
    "test_episodes.py",
    "test_dropout.py",
)


def pytest_collection_modifyitems(items):
    """The longest files go first, so that two workers end together."""
    items.sort(key=lambda item: next((i for i, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_heard():
    """Also by the processes that tests start: a shell that runs the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# The small run's imports stand inside, because here shapes are not checked yet in what is imported.


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory) -> Path:
    """A finished run of the small recipe, one for all workers. Tests read it, and write elsewhere."""
    from tests.small_run import command, compiled_in, done, once, shared

    folder = shared(tmp_path_factory)
    return once(folder / "whole", lambda out: done(command(out), **compiled_in(folder)))


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """The processes that tests start share their compiled programs: they differ in where they are interrupted, not in what
    they compute."""
    from tests.small_run import compiled_in, shared

    with pytest.MonkeyPatch.context() as patch:
        for name, value in compiled_in(shared(tmp_path_factory)).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """A folder into which the wheel is installed, without what it depends on."""
    from tests.small_run import once, shared, wheel

    pytest.importorskip("hatchling")
    return once(shared(tmp_path_factory) / "installed", wheel)


@pytest.fixture(scope="session")
def outside(installed, tmp_path_factory) -> dict[str, str]:
    """The environment of a process that has the wheel and cannot import the checkout."""
    from tests.small_run import ROOT, compiled_in, environment, shared

    path = tmp_path_factory.mktemp("path")
    # It runs after the .pth files are read, and takes the editable install's path away.
    (path / "sitecustomize.py").write_text(f"import sys; sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]\n")
    cache = compiled_in(shared(tmp_path_factory))
    return {**environment(), **cache, "PYTHONPATH": os.pathsep.join((str(path), str(installed)))}


@pytest.fixture
def shapes_are_not_checked():
    """Orbax builds a state of Nones on its way to the restored one."""
    with unchecked():
        yield


@pytest.fixture(scope="module")
def types_are_not_checked():
    """Of a whole file, where others stand in the place of arrays and of trained models."""
    with unchecked():
        yield


@contextmanager
def unchecked():
    import jaxtyping

    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A tokenizer for a handful of words about fruit and animals."""
    from rlhf_jax.data import prompt_text, train_tokenizer

    text = [f"{prompt_text('Name a fruit.')} An apple is a fruit. A pear is a fruit."] * 20
    text += ["The cat sat on the mat. The dog sat on the cat."] * 20
    return train_tokenizer(text, 320, tmp_path_factory.mktemp("tokenizer") / "small.model")
