import errno

import pytest

from rlhf_jax.errors import DivergenceError, InputError
from rlhf_jax.runtime import run


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("a.toml, line 3: no [key]"), 2, "error: a.toml, line 3: no [key]"),
        (DivergenceError("ppo, step 7: kl is nan"), 1, "error: ppo, step 7: kl is nan"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/runs/a"),
            2,
            "error: cannot open or write /runs/a: the disk is full; free some space",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/runs/a"),
            2,
            "error: cannot open or write /runs/a: it is on a read-only disk; make it writable or name another folder",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/runs/a"),
            2,
            "error: cannot open or write /runs/a: permission denied; change its owner or mode, or name another folder",
        ),
        (KeyboardInterrupt(), 130, "stopped; the same command continues from the last checkpoint"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence_and_an_exit_code(error, code, sentence, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == code
    output = capsys.readouterr()
    assert output.err == sentence + "\n"
    assert output.out == ""


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "No such file", "a")])
def test_everything_else_is_untouched(error):
    def main():
        raise error

    with pytest.raises(type(error)) as raised:
        run(main)
    assert raised.value is error


def test_a_main_that_returns_exits_with_nothing(capsys):
    run(lambda: None)
    assert capsys.readouterr().err == ""
