import json
import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden_folder():
    folder = os.environ.get("RLHF_JAX_GOLDEN")
    if not folder or not Path(folder).is_dir():
        pytest.skip("RLHF_JAX_GOLDEN names no folder of golden values")
    return Path(folder)


@pytest.fixture(scope="session")
def golden(golden_folder):
    """Arrays written down by TRL and Transformers, by the name of their file (see the README beside them)."""
    return lambda name: dict(np.load(golden_folder / f"{name}.npz"))


@pytest.fixture(scope="session")
def golden_meta(golden_folder):
    """The settings that they were made with, by the name of their folder."""
    return lambda name: json.loads((golden_folder / name / "meta.json").read_text())


@pytest.fixture
def agree(request):
    """Fails above a relative error, in norm, of 1e-5; prints the test's largest (shown by pytest -s)."""
    errors = []

    def agree(ours, theirs):
        theirs = np.asarray(theirs, np.float64)
        distance, size = np.linalg.norm(np.ravel(ours - theirs)), np.linalg.norm(np.ravel(theirs))
        errors.append(distance / size if size else distance)
        assert np.shape(ours) == theirs.shape and errors[-1] <= 1e-5, f"relative error {errors[-1]:.1e}"

    yield agree
    print(f"\n{request.node.name}: largest relative error {max(errors, default=np.nan):.1e}")
