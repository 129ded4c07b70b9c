"""Labelers that are functions, scores, or a model behind an endpoint, which a server on this machine plays."""

import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlhf_jax.data import Prompt, prompt_text
from rlhf_jax.labelers import Opinion, by_scores, chat_completions, ranks_of
from rlhf_jax.labelers.endpoint import places_in
from tests.refusals import refusal

P = Prompt(prompt_text("Name a fruit."))


def test_ranks_go_down_with_scores_and_equal_ones_tie():
    lost = by_scores("lost", lambda prompt, answers: [float("nan")] * len(answers))
    refusal(lambda: lost.rank(Prompt(""), ["a", "b"]), "the labeler lost: the scores are [nan, nan]")
    ranker = by_scores("length", lambda prompt, answers: [float(len(a)) for a in answers], "models")
    assert (ranker.name, ranker.group) == ("length", "models")
    assert ranker.rank(P, ["bb", "a", "cc", "dddd"]) == (2, 3, 2, 1)
    assert ranks_of([0.5, -1.0, 0.5]) == (1, 2, 1)
    refusal(lambda: ranks_of([0.0, float("nan")]), "the scores are [0.0, nan]: give a finite number for each answer")


@pytest.mark.parametrize(
    ("reply", "places"),
    [
        ("B > A > C", [2, 1, 3]),
        ("Because.\n\n**B > A = C**\n", [2.5, 1, 2.5]),
        ("A = B = C", [2, 2, 2]),
        ("A > B > C\nNo: C > B > A", [1, 2, 3]),  # the last line that is a ranking
        ("A > B > C\nC > B > A", [3, 2, 1]),
        ("A > B", None),
        ("A > B > B", None),
        ("A > B > C > D", None),
        ("I cannot compare them.", None),
        ("", None),
    ],
)
def test_replies_are_read(reply, places):
    assert places_in(reply, 3) == places


@contextmanager
def served(answer):
    """The URL of a server that answers each request's JSON by answer(json) → (status, body), and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers.get("Authorization"), body))
            status, said = answer(body)
            said = (
                said if isinstance(said, bytes) else json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            )
            self.send_response(status)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *args: None  # of a client that does not wait
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/chat/completions", asked
    finally:
        server.shutdown()
        server.server_close()


def shown(body):
    """The answers by their letters, as the judge is shown them."""
    return dict(re.findall(r"\[Answer (\w)\]\n(.*)", body["messages"][1]["content"]))


def longest_first(body):
    answers = shown(body)
    return 200, "I like much.\n" + " > ".join(sorted(answers, key=lambda letter: -len(answers[letter])))


ANSWERS = ("a pear", "fig", "a sweet apple")


def test_a_judge_ranks_what_it_is_shown_in_both_orders():
    with served(longest_first) as (url, asked):
        judge = chat_completions("judge", url, "some-model", group="models")
        assert judge.rank(P, ANSWERS) == Opinion(ranks=(2, 3, 1))
    (path, key, one), (_, _, other) = asked
    assert path == "/v1/chat/completions" and key is None
    assert one["model"] == "some-model" and one["temperature"] == 0.0
    assert list(shown(one).values()) == list(ANSWERS) == list(shown(other).values())[::-1]
    assert "Name a fruit." in one["messages"][1]["content"]


def test_a_liking_for_the_first_place_cancels():
    with served(lambda body: (200, " > ".join(shown(body)))) as (url, _):
        assert chat_completions("judge", url, "m").rank(P, ANSWERS) == Opinion(ranks=(1, 1, 1))


def test_what_fails_for_now_is_tried_again():
    statuses = [503, 429]
    with served(lambda body: (statuses.pop(), b"busy") if statuses else longest_first(body)) as (url, asked):
        assert chat_completions("judge", url, "m", pause=0.0).rank(P, ANSWERS).ranks == (2, 3, 1)
        assert len(asked) == 4


def test_a_judge_that_ranks_nothing_abstains():
    with served(lambda body: (200, "I would rather not.")) as (url, asked):
        assert chat_completions("judge", url, "m", tries=2).rank(P, ANSWERS) == Opinion(
            skipped="its reply ranks nothing"
        )
        assert len(asked) == 2


@pytest.mark.parametrize(
    ("answer", "words", "times"),
    [
        (lambda body: (500, b"oh\nno"), "does not answer (500 ", 2),
        (
            lambda body: (404, b"no such model"),
            "does not answer (404 'no such model'): check that it runs and has m",
            1,
        ),
        (lambda body: (200, b"<html>"), "gave b'<html>', which is no chat completion: check the URL", 1),
        (lambda body: (200, b'{"choices": []}'), "which is no chat completion", 1),
        (lambda body: (200, b'{"choices": [{"message": {"content": null}}]}'), "which is no chat completion", 1),
        (lambda body: (200, b"[" * 100_000), "which is no chat completion", 1),
        (lambda body: (time.sleep(0.3), (200, "A > B > C"))[1], "does not answer (timed out)", 2),
    ],
)
def test_an_endpoint_that_fails_is_named(answer, words, times):
    with served(answer) as (url, asked):
        judge = chat_completions("judge", url, "m", tries=2, pause=0.0, timeout=0.1)
        refusal(lambda: judge.rank(P, ANSWERS), url, words)
    assert len(asked) == times


def test_nobody_there():
    with served(longest_first) as (url, _):
        pass
    refusal(
        lambda: chat_completions("judge", url, "m", tries=1).rank(P, ANSWERS), "does not answer", "check that it runs"
    )


def test_the_key_is_of_the_environment_and_goes_nowhere_else(monkeypatch):
    with served(longest_first) as (url, asked):
        judge = chat_completions("judge", url, "m", key="JUDGE_KEY")
        monkeypatch.delenv("JUDGE_KEY", raising=False)
        refusal(lambda: judge.rank(P, ANSWERS), "the environment variable JUDGE_KEY holds no key")
        monkeypatch.setenv("JUDGE_KEY", "secret")
        judge.rank(P, ANSWERS)
        assert asked[0][1] == "Bearer secret"
        assert "secret" not in repr(judge)


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "http://", ""])
def test_a_url_is_one_of_http(url):
    refusal(lambda: chat_completions("judge", url, "m"), "is no URL: give one as http://localhost:8000")


def test_one_answer_is_nothing_to_compare():
    refusal(lambda: chat_completions("judge", "http://x/y", "m").rank(P, ["a"]), "there are 1 answers to compare")
    refusal(lambda: chat_completions("judge", "http://x/y", "m", tries=0), "there are 0 tries")
