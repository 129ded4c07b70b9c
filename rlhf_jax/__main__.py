"""python -m rlhf_jax: what this package is, and where the configs that ship with it lie. --version prints its version."""

import sys
from importlib import import_module

from rlhf_jax.config import SHIPPED


def main() -> None:
    """Prints it."""
    package = import_module("rlhf_jax")
    if sys.argv[1:] not in ([], ["--version"], ["--help"], ["-h"]):
        sys.exit(f"python -m rlhf_jax takes --version or nothing, not {' '.join(sys.argv[1:])}")
    print(f"rlhf_jax {package.__version__}")
    if sys.argv[1:] == ["--version"]:
        return
    folder = next(folder for folder in SHIPPED if folder.is_dir())
    print(package.__doc__)
    print(f"The configs that ship with it, each of which yours may name as its base, are in {folder}:")
    print(", ".join(sorted(path.name for path in folder.glob("*.toml"))))


if __name__ == "__main__":
    main()
