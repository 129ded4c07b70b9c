"""The InstructGPT training recipe as pure functions in JAX and Flax."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rlhf_jax")
except PackageNotFoundError:  # a checkout on the path, which nobody installed
    __version__ = "unknown"

__all__ = ["__version__"]
