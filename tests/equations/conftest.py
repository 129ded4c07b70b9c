import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden():
    """Arrays written down by TRL and Transformers, by the name of their file (see the README beside them)."""
    folder = os.environ.get("RLHF_JAX_GOLDEN")
    if not folder or not Path(folder).is_dir():
        pytest.skip("RLHF_JAX_GOLDEN names no folder of golden values")
    return lambda name: dict(np.load(Path(folder) / f"{name}.npz"))
