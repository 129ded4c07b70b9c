"""The commit that a result was made at."""

import shutil
import subprocess

import pytest

from rlhf_jax.runtime import commit_of


def git(folder, *line):
    named = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x", *line]
    return subprocess.run(named, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_commit_is_that_of_the_checkout_in_which_the_file_is_known(tmp_path):
    file, stranger = tmp_path / "known.py", tmp_path / "stranger.py"
    for each in (file, stranger):
        each.write_text("x = 1\n")
    assert commit_of(file) == ""  # no repository
    commit_of.cache_clear()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "known.py")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "v1")
    assert commit_of(file) == git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert commit_of(stranger) == ""  # of an environment that stands inside somebody's repository
    file.write_text("x = 2\n")
    commit_of.cache_clear()
    assert commit_of(file) == git(tmp_path, "rev-parse", "--short=12", "HEAD") + "-dirty"


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit_of(tmp_path / "file.py") == ""
