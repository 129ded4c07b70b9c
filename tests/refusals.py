"""What the tests ask of a refusal."""

from collections.abc import Callable
from typing import Any

import pytest

from rlhf_jax.errors import InputError


def refusal(call: Callable[[], Any], *words: str) -> str:
    """The one sentence of the InputError that a call ends with, which has these words."""
    with pytest.raises(InputError) as refused:
        call()
    sentence = str(refused.value)
    assert "\n" not in sentence
    for each in words:
        assert each in sentence
    return sentence
