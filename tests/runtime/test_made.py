"""A folder of data knows what it was made from and what is in it."""

import hashlib
import json

import pytest

from rlhf_jax.errors import InputError
from rlhf_jax.runtime import Made, Origin

ORIGIN = Origin({"K": 4}, {"model": "a" * 64}, {}, {})


def finished(folder):
    made = Made(folder, ORIGIN)
    folder.mkdir(exist_ok=True)
    (folder / "answers.jsonl").write_text("one")
    (folder / "prompts.jsonl").write_text("two")
    made.finish("prompts.jsonl", "answers.jsonl")
    return made


def test_it_is_complete_once_it_is_finished(tmp_path):
    folder = tmp_path / "answers"
    made = Made(folder, ORIGIN)
    assert not made.complete and not made.begun and not folder.exists()  # looking writes nothing
    with pytest.raises(InputError, match="answers: it is not complete"):
        _ = made.sha256
    made.start()
    assert not made.complete and not Made(folder, ORIGIN).complete and made.begun and Made(folder, ORIGIN).begun
    made = finished(folder)
    again = Made(folder, ORIGIN)
    assert made.complete and again.complete and again.begun
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"one", b"two"))
    assert again.sha256 == made.sha256
    assert again.sha256 == hashlib.sha256(f"{one} answers.jsonl\n{two} prompts.jsonl\n".encode()).hexdigest()
    assert json.loads((folder / "made.json").read_text())["files"] == {"answers.jsonl": one, "prompts.jsonl": two}


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize(
    ("origin", "sentence"),
    [
        (
            ORIGIN._replace(settings={"K": 9}),
            r"it was made with another K \(4, not 9\); set it back, choose another folder",
        ),
        (
            ORIGIN._replace(inputs={"model": "b"}),
            r"it was made from another model; choose another folder, or --anew answers",
        ),
        (ORIGIN._replace(code={"ask": len}), r"it was made with another ask \(none, not builtins.len\)"),
    ],
)
def test_what_it_was_made_from_may_not_change(tmp_path, start, origin, sentence):
    folder = tmp_path / "answers"
    Made(folder, ORIGIN).start() if start else finished(folder)
    with pytest.raises(InputError, match=f"{folder}: {sentence}"):
        Made(folder, origin)


def test_a_file_may_not_change_nor_go(tmp_path):
    folder = tmp_path / "answers"
    finished(folder)
    (folder / "answers.jsonl").write_text("ONE")
    with pytest.raises(
        InputError,
        match=r"answers/answers.jsonl has changed since it was written; choose another folder, or --anew answers",
    ):
        Made(folder, ORIGIN)
    (folder / "answers.jsonl").unlink()
    with pytest.raises(InputError, match=r"answers/answers.jsonl is missing; .* --anew answers .*makes it"):
        Made(folder, ORIGIN)


@pytest.mark.parametrize("text", ["{", "3"])
def test_a_record_that_is_no_json_is_named(tmp_path, text):
    (tmp_path / "made.json").write_text(text)
    with pytest.raises(InputError, match=r"made.json is damaged; choose another folder, or --anew"):
        Made(tmp_path, ORIGIN)
