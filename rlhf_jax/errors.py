"""What the user can mend: one sentence, no traceback, exit code 2."""


class InputError(Exception):
    """Something outside the program is wrong: a file, a line, a key, a folder, a checkpoint.

    The message is one sentence that names the culprit and says what to do.
    """


class DivergenceError(Exception):
    """A number stopped being finite during training. The message names the stage, the step and the term."""


def shortened(value: object) -> str:
    """A value as it stands in a sentence: on one line, of at most 80 characters."""
    try:
        text = repr(value)
    except Exception:  # of a class that is a user's, or a number of thousands of digits
        text = f"<{type(value).__name__}, which cannot be written>"
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
