"""What is sent by who means ill, or by a page that is broken: none is accepted, none is kept, none leaves a traceback."""

import hashlib
import json
from contextlib import ExitStack

import pytest

from rlhf_jax.labelers import FLAGS, Assignment, Store, comparison
from rlhf_jax.labeling import app
from tests.labeling.served import judged, served

SCRIPT = "<script>alert(1)</script>"
FULL = dict.fromkeys(FLAGS, False)
HUGE, LIMIT = 10**400, 256 * 1024
LONE = "\ud800"  # half a character


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Place:
    """Ann has done one task, was late at another that went to Bob, and holds three; Bob holds one."""

    def __init__(self, store, server, clock):
        self.store, self.server = store, server
        self.ann, self.bob, self.owner = store.add_labeler("Ann"), store.add_labeler("Bob"), store.renew_owner()
        self.lost = store.add_labeler("Lost")
        store.renew_token("Lost")
        store.add_tasks([comparison(f"Question {i}?", ["Yes.", "No.", "Perhaps."]) for i in range(4)])
        store.add_tasks([Assignment("d", "demonstration", "Name a fruit."), Assignment("f", "few_shot", "Numbers")])
        self.done = judged(store.lease("Ann").key, [1, 2, 3])
        assert server.post("/api/submit", self.ann, self.done).json == {"kept": True}
        self.late = store.lease("Ann").key
        clock.now += 1e6
        self.of_bob = judged(store.lease("Bob").key, [1, 2, 3])
        assert server.post("/api/submit", self.bob, self.of_bob).json == {"kept": True}
        lease = store.lease("Ann")
        self.key, self.task_id, self.bobs = lease.key, lease.task.id, store.lease("Bob").key
        self.writing, self.few_shot = store.lease("Ann", ["demonstration"]).key, store.lease("Ann", ["few_shot"]).key
        self.kept = self.submissions()

    def submissions(self):
        return self.store._rows("SELECT * FROM submissions")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with ExitStack() as stack:
        clock = Clock()
        store = stack.enter_context(Store(tmp_path_factory.mktemp("hostile") / "s.sqlite", clock=clock))
        yield Place(store, stack.enter_context(served(store)), clock)


def with_(**changes):
    """A good judgement of Ann's, changed; None removes a key, a function is called with the place."""

    def given(place):
        found = judged(place.key, [1, 2, 3], id="a-new-submission-of-ann")
        for key, value in changes.items():
            found[key] = value(place) if callable(value) else value
        return {key: value for key, value in found.items() if value != "absent"}

    return given


def skipping(reason):
    return lambda place: {**with_(ranks="absent", ratings="absent", flags="absent")(place), "skipped": reason}


def writes(key, **said):
    return lambda place: {**skipping("")(place), "task": getattr(place, key), **said, "skipped": "absent"}


def without_absent(given):
    return {key: value for key, value in given.items() if value != "absent"}


SUBMITTED = {
    "no ranks": with_(ranks=[]),
    "a rank short": with_(ranks=[1, 2]),
    "a rank too many": with_(ranks=[1, 2, 3, 3]),
    "rank 0": with_(ranks=[0, 1, 2]),
    "rank 4 of 3": with_(ranks=[1, 2, 4]),
    "a negative rank": with_(ranks=[1, 2, -1]),
    "nothing is best": with_(ranks=[2, 3, 3]),
    "a rank that is a text": with_(ranks=[1, 2, "3"]),
    "a rank that is null": with_(ranks=[1, 2, None]),
    "a rank that is a fraction": with_(ranks=[1, 2, 2.5]),
    "a rank that is a float": with_(ranks=[1, 2, 3.0]),
    "a rank that is true": with_(ranks=[True, 2, 3]),
    "a rank of 400 digits": with_(ranks=[1, 2, HUGE]),
    "ranks in a text": with_(ranks="123"),
    "ranks in an object": with_(ranks={"0": 1, "1": 2, "2": 3}),
    "ranks that are null": with_(ranks=None),
    "ranks in lists": with_(ranks=[[1], [2], [3]]),
    "rating 0": with_(ratings=[0, 1, 2]),
    "rating 8": with_(ratings=[8, 1, 2]),
    "no ratings": with_(ratings=[]),
    "a rating short": with_(ratings=[7, 7]),
    "ratings in a text": with_(ratings="777"),
    "a rating that is a float": with_(ratings=[7.0, 1, 2]),
    "a rating that is true": with_(ratings=[True, 1, 2]),
    "ratings that are null": with_(ratings=None),
    "a rating of 400 digits": with_(ratings=[HUGE, 1, 2]),
    "no flags": with_(flags=[]),
    "flags of two": with_(flags=[FULL, FULL]),
    "flags not all answered": with_(flags=[FULL, FULL, {"sexual": True}]),
    "empty flags": with_(flags=[{}, {}, {}]),
    "an unknown flag": with_(flags=[FULL, FULL, FULL | {SCRIPT: True}]),
    "a flag that is 1": with_(flags=[FULL, FULL, FULL | {"sexual": 1}]),
    "a flag that is a text": with_(flags=[FULL, FULL, FULL | {"sexual": "true"}]),
    "a flag that is null": with_(flags=[FULL, FULL, FULL | {"sexual": None}]),
    "flags in lists": with_(flags=[list(FLAGS)] * 3),
    "flags that are null": with_(flags=[None] * 3),
    "flags in a text": with_(flags="yes"),
    "seconds below 0": with_(seconds=-1),
    "seconds in a text": with_(seconds="12"),
    "seconds that are null": with_(seconds=None),
    "seconds that are true": with_(seconds=True),
    "more than a day": with_(seconds=86401),
    "seconds of 400 digits": with_(seconds=HUGE),
    "seconds in a list": with_(seconds=[1]),
    "an empty id": with_(id=""),
    "a short id": with_(id="short"),
    "a long id": with_(id="x" * 65),
    "an id of other letters": with_(id="é" * 20),
    "an id with a line's end": with_(id="a" * 20 + "\n"),
    "an id that is null": with_(id=None),
    "an id that is a number": with_(id=10**20),
    "an id that is script": with_(id=SCRIPT),
    "an id that is a path": with_(id="../../../../etc/passwd"),
    "the id of another's submission": with_(id=lambda place: place.of_bob["id"]),
    "the id of an own submission": with_(id=lambda place: place.done["id"]),
    "a session that is script": with_(session=SCRIPT),
    "an empty session": with_(session=""),
    "no session": with_(session="absent"),
    "no id": with_(id="absent"),
    "no task": with_(task="absent"),
    "no seconds": with_(seconds="absent"),
    "ranks are missing": with_(ranks="absent"),
    "ratings are missing": with_(ratings="absent"),
    "flags are missing": with_(flags="absent"),
    "a task of nobody's": with_(task="nowhere"),
    "an empty task": with_(task=""),
    "a task that is null": with_(task=None),
    "a task that is an object": with_(task={"$ne": ""}),
    "a task that is SQL": with_(task="' OR 1=1 --"),
    "a task that is half a character": with_(task=LONE),
    "the task's own id": with_(task=lambda place: place.task_id),
    "another's task": with_(task=lambda place: place.bobs),
    "a task that went to another": with_(task=lambda place: place.late),
    "a task that is done": with_(task=lambda place: place.done["task"]),
    "done, with other ranks": lambda place: {**place.done, "ranks": [3, 2, 1]},
    "another's submission": lambda place: place.of_bob,
    "a forged labeler": with_(labeler="Bob"),
    "a forged group": with_(group="owners"),
    "a forged time": with_(time=0),
    "a forged order": with_(order=[0, 1, 2]),
    "a forged prompt": with_(prompt="Name a fruit."),
    "forged completions": with_(completions=[{"text": "Yes."}, {"text": SCRIPT}]),
    "a forged user": with_(user="somebody"),
    "a forged source": with_(source="screening"),
    "a prototype": with_(__proto__={"ranks": [1, 2, 3]}),
    "ranks and a reason to skip": with_(skipped="not mine"),
    "an empty reason": skipping(""),
    "a blank reason": skipping(" \n"),
    "a reason that is a number": skipping(5),
    "a reason that is null": skipping(None),
    "a reason that is half a character": skipping(LONE),
    "a comparison answered by a text": lambda place: {**skipping("")(place), "text": "An apple.", "skipped": "absent"},
    "a demonstration ranked": with_(task=lambda place: place.writing),
    "an empty answer": writes("writing", text=""),
    "a blank answer": writes("writing", text=" \t\n"),
    "an answer that is a number": writes("writing", text=5),
    "an answer that is null": writes("writing", text=None),
    "an answer with half a character": writes("writing", text=f"a{LONE}"),
    "an answer and examples": writes("writing", text="An apple.", examples=[["1", "2"], ["3", "4"]]),
    "one example": writes("few_shot", text="Add.", examples=[["1", "2"]]),
    "no examples": writes("few_shot", text="Add."),
    "an empty query": writes("few_shot", text="Add.", examples=[["1", "2"], ["", "4"]]),
    "a triple": writes("few_shot", text="Add.", examples=[["1", "2"], ["3", "4", "5"]]),
    "examples that are texts": writes("few_shot", text="Add.", examples=["12", "34"]),
    "examples in an object": writes("few_shot", text="Add.", examples={"1": "2", "3": "4"}),
    "65 examples": writes("few_shot", text="Add.", examples=[["1", "2"]] * 65),
    "an example with half a character": writes("few_shot", text="Add.", examples=[["1", "2"], ["3", LONE]]),
}  # fmt: skip


def good(place) -> bytes:
    return json.dumps(with_()(place)).encode()


def with_literal(name, literal):
    """A good judgement in which a field is something that json.dumps would not write."""
    return lambda place: good(place).replace(json.dumps(with_()(place)[name]).encode(), literal, 1)


BODIES = {
    "nothing": lambda place: b"",
    "half an object": lambda place: good(place)[:-9],
    "a list": lambda place: b"[" + good(place) + b"]",
    "null": lambda place: b"null",
    "a text": lambda place: b'"ranks"',
    "two objects": lambda place: good(place) * 2,
    "no UTF-8": lambda place: good(place).replace(b"sss", b"\xff\xfe\xff", 1),
    "UTF-16": lambda place: good(place).decode().encode("utf-16"),
    "a byte order mark": lambda place: b"\xef\xbb\xbf" + good(place),
    "a key twice": lambda place: good(place)[:-1] + b', "ranks": [3, 2, 1]}',
    "NaN seconds": with_literal("seconds", b"NaN"),
    "infinite seconds": with_literal("seconds", b"-Infinity"),
    "seconds beyond floats": with_literal("seconds", b"1e999"),
    "a number of 5000 digits": with_literal("seconds", b"1" * 5000),
    "NaN ranks": with_literal("ranks", b"[1, 2, NaN]"),
    "100000 brackets": lambda place: b"[" * 100_000,
    "100000 objects": lambda place: b'{"a":' * 50_000,
    "a form": lambda place: b"id=1&ranks=1",
    "XML": lambda place: b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>',
    "a byte more than is read": lambda place: good(place).ljust(LIMIT + 1),
    "four times what is read": lambda place: good(place)[:-1] + b', "x": "' + b"x" * (4 * LIMIT) + b'"}',
}


def sent(path="/api/submit", method="POST", token="ann", body=good, cookie=app.LABELER, **headers):
    def request(place):
        given = getattr(place, token) if token in vars(place) else token(place) if callable(token) else token
        own = {name: value(place) if callable(value) else value for name, value in headers.items()}
        return place.server.request(method, path, given, body and body(place), own, cookie)

    return request


def raw(text: bytes):
    return lambda place: text.replace(b"HOST", place.server.host.encode())


def chunked(place):
    body = good(place)[:-1] + b', "x": "' + b"x" * LIMIT + b'"}'
    pieces = [body[i : i + 8000] for i in range(0, len(body), 8000)]
    plain = sent(body=lambda place: b"", Content_Length=None, Transfer_Encoding="chunked")(place)
    return plain + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


REQUESTS = {
    "no token": sent(token=""),
    "a token cut short": sent(token=lambda place: place.ann[:-1]),
    "a token with more": sent(token=lambda place: place.ann + "A"),
    "a token in capitals": sent(token=lambda place: place.ann.swapcase()),
    "a token's hash, as the store has it": sent(token=lambda place: hashlib.sha256(place.ann.encode()).hexdigest()),
    "a token that was renewed": sent(token="lost"),
    "the owner's token": sent(token="owner"),
    "a token of SQL": sent(token="' OR '1'='1"),
    "a token of bytes": sent(token="\udcff\udcfe"),
    "a name for a token": sent(token="Ann"),
    "a long token": sent(token="x" * 9000),
    "another cookie": sent(cookie="token"),
    "the owner's cookie": sent(cookie=app.OWNER),
    "the token as a bearer": sent(token="", Authorization=lambda place: f"Bearer {place.ann}"),
    "the token in the address": lambda place: sent(f"/api/submit?token={place.ann}", token="")(place),
    "no origin": sent(Origin=None),
    "another site": sent(Origin="http://evil.example"),
    "another port": sent(Origin="http://127.0.0.1:1"),
    "a sandbox": sent(Origin="null"),
    "a name that begins alike": sent(Origin=lambda place: f"http://{place.server.host}.evil.example"),
    "said to be cross-site": sent(Sec_Fetch_Site="cross-site"),
    "said to be of the same site": sent(Sec_Fetch_Site="same-site"),
    "said to be typed": sent(Sec_Fetch_Site="none"),
    "another host": sent(Host="evil.example", Origin="http://evil.example"),
    "no host": raw(b"POST /api/submit HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}"),
    "two hosts": raw(b"POST /api/submit HTTP/1.1\r\nHost: HOST\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{}"),
    "no content type": sent(Content_Type=None),
    "a plain text": sent(Content_Type="text/plain"),
    "a form's type": sent(Content_Type="application/x-www-form-urlencoded"),
    "a multipart form": sent(Content_Type="multipart/form-data; boundary=application/json"),
    "a type that begins alike": sent(Content_Type="application/json-seq"),
    "chunks without end": chunked,
    "a negative length": sent(Content_Length="-5"),
    "a length of words": sent(Content_Length="all"),
    "a request in a request": sent(body=lambda place: b"0\r\n\r\n" + sent()(place), Transfer_Encoding="chunked"),
    "a chunk of no size": sent(body=lambda place: b"zz\r\n{}\r\n0\r\n\r\n", Content_Length=None, Transfer_Encoding="chunked"),
    "no HTTP": raw(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
    "no version": raw(b"GET /api/submit\r\n\r\n"),
    "a header without end": raw(b"GET / HTTP/1.1\r\nHost: HOST\r\nX: " + b"x" * 100_000),
    "a submission by GET": sent(method="GET"),
    "a submission by PUT": sent(method="PUT"),
    "a submission by DELETE": sent(method="DELETE"),
    "a submission by another name": sent(method="submit"),
    "a preflight": sent(method="OPTIONS", Origin="http://evil.example", Access_Control_Request_Method="POST"),
    "a post to the page": sent("/"),
    "a post to the visit": sent("/visit"),
    "undo from another site": sent("/api/undo", Origin="http://evil.example"),
    "a task of somebody's choice": sent("/api/next", body=lambda place: b'{"kinds": ["comparison"]}'),
    "undo for another": sent("/api/undo", body=lambda place: b'{"labeler": "Bob"}'),
    "undo by GET": sent("/api/undo", method="GET", body=None),
    "undo by nobody": sent("/api/undo", token=""),
    "a task for nobody": sent("/api/next", token=""),
    "the overview by a labeler": sent("/api/overview", method="GET", cookie=app.OWNER, body=None),
    "the overview by nobody": sent("/api/overview", method="GET", token="", body=None),
    "the source": sent("/static/../app.py", method="GET", body=None),
    "the source, encoded": sent("/static/%2e%2e/app.py", method="GET", body=None),
    "the store": sent("/static/s.sqlite", method="GET", body=None),
    "a path with a zero": sent("/static/%00label.js", method="GET", body=None),
    "a visit without token": sent("/visit", method="GET", body=None),
    "a visit with script": sent("/visit?token=%3Cscript%3Ealert(1)%3C/script%3E", method="GET", body=None),
    "a visit with half a character": sent("/visit?token=%ED%A0%80", method="GET", body=None),
}  # fmt: skip


def refused(place, request: bytes) -> None:
    place.server.log.clear()
    answer = place.server.raw(request)
    assert 400 <= answer.status < 500, answer
    said = answer.body.decode()
    assert "Traceback" not in said and (SCRIPT not in said or answer.header("content-type") == "application/json")
    assert place.submissions() == place.kept
    assert place.server.traces() == []


@pytest.mark.parametrize("name", SUBMITTED)
def test_a_submission(place, name):
    refused(place, sent(body=lambda place: json.dumps(without_absent(SUBMITTED[name](place))).encode())(place))


@pytest.mark.parametrize("name", BODIES)
def test_a_body(place, name):
    refused(place, sent(body=BODIES[name])(place))


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request(place, name):
    refused(place, REQUESTS[name](place))


def test_a_body_that_does_not_come(place, monkeypatch):
    monkeypatch.setattr(app, "LONGEST", 0.05)
    answer = place.server.raw(sent(Content_Length="100000")(place))
    assert answer.status == 408
    assert place.submissions() == place.kept


def test_there_are_many_and_each_differs_in_one_thing_from_what_is_accepted(place):
    assert len(SUBMITTED) + len(BODIES) + len(REQUESTS) >= 100
    for said in (with_(), skipping("not mine"), writes("writing", text="An apple."),
                 writes("few_shot", text="Add.", examples=[["1", "2"], ["3", "4"]])):  # fmt: skip
        answer = place.server.raw(
            sent(body=lambda place, said=said: json.dumps(without_absent(said(place))).encode())(place)
        )
        assert answer.json == {"kept": True}
        assert place.store.undo("Ann") is not None
        place.store._db.execute("DELETE FROM submissions WHERE undone = 1")
        (
            place.store.lease("Ann", ["comparison"]),
            place.store.lease("Ann", ["demonstration"]),
            place.store.lease("Ann", ["few_shot"]),
        )
