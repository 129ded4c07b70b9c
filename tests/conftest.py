"""Tests run on 8 fake CPU devices, with rank promotion an error."""

import os
import signal

# Before jax is imported. PJRT_NPROC: collectives of many fake devices deadlock on fewer threads than this. The tests compile
# far longer than they compute, so the compiler optimises nothing.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault("PJRT_NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


LONGEST = ("test_experiments.py", "test_optimum.py", "test_mappings.py", "test_ppo_options.py")


def pytest_collection_modifyitems(items):
    """The longest files go first, so that two workers end together."""
    items.sort(key=lambda item: next((i for i, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_heard():
    """Also by the processes that tests start: a shell that runs the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
