"""rlhf-label: from files to a store, links, and files again; and what it says of what is wrong."""

import builtins
import http.client
import socket
import threading
import time
import urllib.parse

import pytest

from rlhf_jax.data import read_demonstrations, read_prompts, read_rankings
from rlhf_jax.labelers import FLAGS, Judgement, Store, comparison, read_judgements, write_comparisons, write_judgements
from rlhf_jax.labeling import __main__ as command
from rlhf_jax.labeling import app
from rlhf_jax.labeling.app import server

TEXTS = ["Yes.", "No.", "Perhaps."]


def tasks(count, source=""):
    return [comparison(f"Question {i}?", TEXTS, source=source) for i in range(count)]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*line):
        command.main([str(each) for each in line])
        return capsys.readouterr().out.strip()

    return call


@pytest.fixture
def refused(run, capsys):
    def call(*line):
        with pytest.raises(SystemExit) as exit:
            run(*line)
        assert exit.value.code == 2
        return capsys.readouterr().err.strip()

    return call


def test_comparisons_go_in_and_judgements_come_out(run):
    write_comparisons("c.jsonl", tasks(3))
    assert run("add", "s.sqlite", "c.jsonl", "--wanted", 2) == (
        "3 new tasks, 0 that were there; 2 submissions are wanted to each"
    )
    assert run("add", "s.sqlite", "c.jsonl", "--wanted", 1).startswith("0 new tasks, 3")
    link = run("labeler", "s.sqlite", "Ann", "--group", "a", "--at", "https://label.example")
    at, _, token = link.partition("?token=")
    assert at == "https://label.example/visit"
    with Store("s.sqlite") as store:
        assert store.labeler_of(token).group == "a"
        lease = store.lease("Ann")
        store.submit(lease.task.judged("Ann", ranks=(1, 2, 2), id="1", flags=[dict.fromkeys(FLAGS, False)] * 3))
        assert store.progress().wanted == 3
    for name in ("out.jsonl", "out.parquet"):
        assert run("export", "s.sqlite", name) == f"1 judgements in {name}"
        (found,) = read_judgements(name)
        assert (found.labeler, found.ranks) == ("Ann", (1, 2, 2))
        assert [one.ranks for one in read_rankings(name)] == [(1, 2, 2)]
    renewed = run("labeler", "s.sqlite", "Ann", "--renew").partition("=")[2]
    with Store("s.sqlite") as store:
        assert store.labeler_of(token) is None and store.labeler_of(renewed).name == "Ann"
        assert store.is_owner(run("owner", "s.sqlite").partition("=")[2])


def test_a_store_that_was_not_there_is_said_to_be_new(tmp_path, capsys):
    for new in (True, False):
        command.main(["labeler", str(tmp_path / "typo.sqlite"), f"Ann {new}"])
        assert ("typo.sqlite is a new store" in capsys.readouterr().err) == new


def test_what_screens(run):
    known = [task.judged("me", ranks=(1, 2, 3), id=task.id) for task in tasks(2, "screening")]
    write_judgements("known.jsonl", known)
    assert run("screen", "s.sqlite", "known.jsonl") == "2 new tasks that screen"
    assert run("screen", "s.sqlite", "known.jsonl") == "0 new tasks that screen"
    run("labeler", "s.sqlite", "Ann")
    with Store("s.sqlite") as store:
        store.submit(store.lease("Ann").task.judged("Ann", ranks=(2, 1, 3), id="1"))
        (pair,) = store.screening()
        assert isinstance(pair[0], Judgement) and pair[0].ranks == (1, 2, 3) and pair[1].ranks == (2, 1, 3)


def test_what_is_to_be_written_goes_in_and_comes_out(run, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "Name a fruit.", "user": "u"}\n')
    (tmp_path / "u.jsonl").write_text('{"about": "Drafting e-mails"}\n' * 2)
    (tmp_path / "f.jsonl").write_text('{"about": ""}\n')
    assert run("add", "s.sqlite", "p.jsonl", "--kind", "demonstration").startswith("1 new tasks")
    assert run("add", "s.sqlite", "u.jsonl", "--kind", "user_based").startswith("2 new tasks")
    assert run("add", "s.sqlite", "u.jsonl", "--kind", "user_based").startswith("0 new tasks, 2")
    assert run("add", "s.sqlite", "f.jsonl", "--kind", "few_shot").startswith("1 new tasks")
    run("labeler", "s.sqlite", "Ann")
    with Store("s.sqlite") as store:
        for number in range(4):
            task = store.lease("Ann").task
            examples = (("2+2", "4"), ("3+3", "6")) if task.kind == "few_shot" else ()
            store.submit(task.written("Ann", text=f"Text {number}.", examples=examples, id=str(number)))
    assert run("export", "s.sqlite", "d.jsonl", "--what", "demonstrations") == "3 demonstrations in d.jsonl"
    assert [one.answer for one in read_demonstrations("d.jsonl")] == ["Text 0.", "4", "6"]
    assert run("export", "s.sqlite", "w.jsonl", "--what", "prompts") == "2 prompts in w.jsonl"
    assert [(one.text, one.user) for one in read_prompts("w.jsonl")] == [
        (f"\n\nHuman: Text {n}.\n\nAssistant:", "Ann") for n in (1, 2)
    ]


def test_what_is_wrong_is_one_sentence(refused, run, tmp_path, monkeypatch):
    assert refused("serve", "none.sqlite") == "rlhf-label: none.sqlite: no such store: check the path"
    assert "nowhere.jsonl" in refused("add", "s.sqlite", "nowhere.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"about": 5}\n')
    assert "bad.jsonl" in refused("add", "s.sqlite", "bad.jsonl", "--kind", "plain")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n')
    assert "the key 'text'" in refused("add", "s.sqlite", "bad.jsonl", "--kind", "plain")
    write_comparisons("c.jsonl", tasks(1))
    assert "wanted is 0" in refused("add", "s.sqlite", "c.jsonl", "--wanted", 0)
    run("labeler", "s.sqlite", "Ann")
    assert "a labeler called Ann already" in refused("labeler", "s.sqlite", "Ann")
    assert "unknown ending" in refused("export", "s.sqlite", "out.csv")
    assert "let it be .jsonl" in refused("export", "s.sqlite", "out.csv", "--what", "prompts")
    assert "none/out.jsonl cannot be written" in refused("export", "s.sqlite", "none/out.jsonl")
    assert "say by --name" in refused("serve", "s.sqlite", "--host", "0.0.0.0")
    assert "port 70000" in refused("serve", "s.sqlite", "--port", 70000)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}, cannot be used" in refused("serve", "s.sqlite", "--port", port)


def test_a_package_that_is_missing_is_named(refused, run, monkeypatch):
    run("labeler", "s.sqlite", "Ann")
    real = builtins.__import__

    def without(name, *more):
        if name == "krippendorff":
            raise ModuleNotFoundError("No module named 'krippendorff'", name=name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert refused("serve", "s.sqlite") == (
        "rlhf-label: the page needs the package krippendorff: pip install 'rlhf_jax[label]'"
    )


def test_the_page_is_served_and_tokens_are_in_no_log(run, tmp_path, capsys, monkeypatch):
    token, made = run("labeler", "s.sqlite", "Ann").partition("=")[2], []
    monkeypatch.setattr(app, "server", lambda *given: made.append(server(*given)) or made[-1])
    thread = threading.Thread(target=command.main, args=(["serve", "s.sqlite", "--port", "0"],))
    thread.start()
    try:
        while not made or not made[0].started:
            time.sleep(0.01)
        said = capsys.readouterr().out
        at = urllib.parse.urlsplit(said.split()[1])
        assert at.hostname == "127.0.0.1"
        for path, status in (
            (f"/visit?token={token}", 303),
            ("/visit?token=wrong", 403),
            ("/", 200),
            ("/nowhere", 404),
        ):
            connection = http.client.HTTPConnection(at.netloc)
            connection.request("GET", path)
            assert connection.getresponse().status == status
            connection.close()
    finally:
        made[0].should_exit = True
        thread.join()
    out, err = capsys.readouterr()
    assert token not in said + out + err and "visit" not in out + err
    for path in tmp_path.iterdir():
        assert token.encode() not in path.read_bytes()
