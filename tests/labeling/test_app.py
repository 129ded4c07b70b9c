"""The page's server: who is let in, what a labeler is shown, and what becomes of what they send."""

import json

import pytest

from rlhf_jax.data import Messages
from rlhf_jax.labelers import FLAGS, Assignment, Store, comparison
from rlhf_jax.labeling import app
from rlhf_jax.labeling.submission import letter, submission
from tests.labeling.served import judged, served
from tests.refusals import refusal

SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(1)> {{7*7}} ' OR 1=1 --"
TEXTS = ["Yes.", "No.", "Perhaps.", "Never.", "Always."]


def tasks(count, model="gpt-secret", source="the source", user="the user"):
    return [comparison(f"Question {i}?", TEXTS, model=model, source=source, user=user) for i in range(count)]


class Place:
    """A store with Ann, Bob and an owner, and its server."""

    def __init__(self, store, server):
        self.store, self.server = store, server
        self.ann, self.bob = store.add_labeler("Ann", "a"), store.add_labeler("Bob", "b")
        self.owner = store.renew_owner()

    def next(self, token):
        answer = self.server.post("/api/next", token, {})
        assert answer.status == 200, answer.body
        return answer.json


@pytest.fixture
def place(tmp_path):
    with Store(tmp_path / "s.sqlite") as store, served(store, "label.example") as server:
        yield Place(store, server)
        assert server.traces() == []


# Who is let in.


def test_the_first_visit_exchanges_the_token_for_a_cookie_and_leads_away_from_it(place):
    answer = place.server.get(f"/visit?token={place.ann}")
    assert answer.status == 303 and answer.header("location") == "/" and not answer.body
    cookie, *attributes = answer.header("set-cookie").split("; ")
    assert cookie == f"rlhf_labeler={place.ann}"
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(attributes) and "Secure" not in attributes
    owner = place.server.get(f"/visit?token={place.owner}")
    assert owner.header("location") == "/overview"
    assert owner.header("set-cookie").startswith(f"rlhf_owner={place.owner}; HttpOnly")
    behind = place.server.get(f"/visit?token={place.ann}", X_Forwarded_Proto="https")
    assert "Secure" in behind.header("set-cookie").split("; ")


def test_who_is_not_known_sees_the_empty_page_and_no_task(place):
    place.store.add_tasks(tasks(1))
    for token in ("", "x", place.ann[:-1], place.ann + "x", place.owner):
        assert place.server.post("/api/next", token, {}).status == 401
        assert place.server.get(f"/visit?token={token[1:]}").status == 403
    assert place.store.progress().leased == 0
    empty = place.server.get("/")
    assert empty.status == 200 and empty.body == (app.STATIC / "label.html").read_bytes()


def test_only_the_owner_sees_others(place):
    request = place.server.request("GET", "/api/overview", place.owner, cookie=app.OWNER)
    assert place.server.raw(request).json["labelers"][0]["name"] == "Ann"
    for token, cookie in (
        (place.ann, app.OWNER),
        (place.ann, app.LABELER),
        (place.owner, app.LABELER),
        ("", app.OWNER),
    ):
        answer = place.server.raw(place.server.request("GET", "/api/overview", token, cookie=cookie))
        assert answer.status == 401 and b"Ann" not in answer.body
    again = place.store.renew_owner()
    assert place.server.raw(request).status == 401
    assert place.server.get(f"/visit?token={again}").status == 303


def test_every_answer_has_the_headers_that_keep_scripts_out(place):
    for path in ("/", "/overview", "/static/label.js", "/static/page.css", "/visit", "/nowhere", "/api/next"):
        require_safe(place.server.get(path))
    require_safe(place.server.post("/api/next", place.ann, {}))
    require_safe(place.server.post("/api/next", place.ann, {}, Host="evil.example"))


def require_safe(answer):
    policy = dict(part.split(" ", 1) for part in answer.header("content-security-policy").split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("referrer-policy") == "no-referrer"
    assert answer.header("cache-control") == "no-store"
    assert not answer.header("access-control-allow-origin") and not answer.header("server")


def test_pages_have_no_inline_script_or_style():
    for path in app.STATIC.glob("*.html"):
        text = path.read_text()
        assert "<style" not in text and "style=" not in text and " on" + "click" not in text
        assert text.count("<script") == text.count('<script type="module" src="/static/')
    for path in app.STATIC.glob("*.js"):
        assert not any(
            word in path.read_text()
            for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
        )


def test_it_answers_to_the_names_that_it_was_given(place):
    for host in (
        "localhost",
        "localhost:1",
        "LOCALHOST",
        "127.0.0.1",
        "[::1]:8000",
        "[::1]",
        "label.example",
        "label.example:443",
    ):
        assert place.server.get("/", Host=host).status == 200, host
    for host in (
        "evil.example",
        "localhost.evil.example",
        "evil.example:8000",
        "",
        "127.0.0.1.nip.io",
        "localhost:x",
        "a@localhost",
    ):
        assert place.server.get("/", Host=host).status == 421, host


# What a labeler is shown.


def test_a_labeler_sees_texts_and_nothing_of_where_they_come_from(place):
    place.store.add_screening([tasks(1)[0].judged("me", ranks=(1, 2, 3, 4, 5))])
    place.store.add_tasks(tasks(3)[1:])
    for number in range(3):
        answer = place.next(place.ann)
        for hidden in ("gpt-secret", "the source", "the user", tasks(3)[number].id, "Bob", "known", "wanted", "model"):
            assert hidden not in json.dumps(answer)
        assert answer["task"].keys() == {"key", "kind", "conversation", "answers"}
        assert answer["task"]["conversation"] == [{"role": "user", "text": f"Question {number}?"}]
        assert sorted(answer["task"]["answers"]) == sorted(TEXTS)
        assert place.server.post("/api/submit", place.ann, judged(answer["task"]["key"], [1, 2, 3, 4, 5])).status == 200
    assert place.next(place.ann)["task"] is None
    assert len(place.store.screening()) == 1 and len(place.store.judgements()) == 2


def test_answers_are_shuffled_once_for_each_labeler_and_the_order_is_recorded(place):
    place.store.add_tasks(tasks(12), wanted=2)
    orders = []
    for token in (place.ann, place.bob):
        for _ in range(12):
            task = place.next(token)["task"]
            assert place.next(token)["task"] == task  # as after a reload
            ranks = [TEXTS.index(text) + 1 for text in task["answers"]]
            assert place.server.post("/api/submit", token, judged(task["key"], ranks)).json == {"kept": True}
            orders.append(tuple(TEXTS.index(text) for text in task["answers"]))
    found = sorted(place.store.judgements(), key=lambda one: one.labeler)
    assert [one.order for one in found] == orders
    assert len(set(orders)) > 12  # of 120 orders, 24 draws
    for one in found:
        assert one.ranks == (1, 2, 3, 4, 5)
        first = one.order[0]  # shown as A, which `judged` rates 7 and says has an opinion
        assert one.ratings[first] == 7 and one.flags[first]["opinion"] and sum(f["opinion"] for f in one.flags) == 1
        assert [one.ratings[i] for i in one.order] == [7, 6, 5, 4, 3]
        assert (one.seconds, one.session, one.group) == (12.5, "s" * 32, "a" if one.labeler == "Ann" else "b")


def test_conversations_travel_as_messages(place):
    messages = Messages([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is 2+2?"}]},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "add"}]},
        {"role": "tool", "content": "4"},
        {"role": "user", "content": SCRIPT},
    ])  # fmt: skip
    place.store.add_tasks([comparison(messages, ["4", "5"])])
    assert place.next(place.ann)["task"]["conversation"] == [
        {"role": "system", "text": "Be brief."},
        {"role": "user", "text": "What is 2+2?"},
        {"role": "assistant", "text": '{"name": "add"}'},
        {"role": "tool", "text": "4"},
        {"role": "user", "text": SCRIPT},
    ]


def test_two_labelers_are_not_given_one_place(place):
    place.store.add_tasks(tasks(1))
    assert place.next(place.ann)["task"] and place.next(place.ann)["share"] == {"done": 0, "left": 1}
    assert place.next(place.bob)["task"] is None and place.next(place.bob)["share"] == {"done": 0, "left": 0}


# What they send.


def test_a_submission_that_comes_twice_is_kept_once(place):
    place.store.add_tasks(tasks(1))
    given = judged(place.next(place.ann)["task"]["key"], [1, 1, 2, 2, 3])
    assert place.server.post("/api/submit", place.ann, given).json == {"kept": True}
    assert place.server.post("/api/submit", place.ann, given).json == {"kept": False}
    assert len(place.store.judgements()) == 1


def test_undo_gives_the_same_view_again(place):
    place.store.add_tasks(tasks(2))
    assert place.server.post("/api/undo", place.ann, {}).json["undone"] is False
    task = place.next(place.ann)["task"]
    given = judged(task["key"], [1, 1, 2, 2, 3])
    place.server.post("/api/submit", place.ann, given)
    assert place.next(place.ann)["share"] == {"done": 1, "left": 1}
    back = place.server.post("/api/undo", place.ann, {}).json
    assert back["undone"] and back["task"] == task and back["share"] == {"done": 0, "left": 2}
    assert place.server.post("/api/undo", place.bob, {}).json["undone"] is False
    assert place.store.judgements() == []


def test_script_in_every_text_field_stays_a_text(place):
    pairs = [[SCRIPT, SCRIPT + "1"], ["2", SCRIPT]]
    place.store.add_tasks([
        comparison(SCRIPT, [SCRIPT, "No."], model=SCRIPT, source=SCRIPT, user=SCRIPT)._replace(id=SCRIPT),
        Assignment("d", "demonstration", SCRIPT),
        Assignment("f", "few_shot", SCRIPT),
    ])  # fmt: skip
    about = {"session": "s" * 32, "seconds": 0}
    for number, said in enumerate([{"skipped": SCRIPT}, {"text": SCRIPT}, {"text": SCRIPT, "examples": pairs}]):
        shown = place.server.post("/api/next", place.ann, {})
        assert shown.header("content-type") == "application/json" and SCRIPT in json.dumps(
            shown.json, ensure_ascii=False
        )
        given = {**about, "id": f"{number}" * 16, "task": shown.json["task"]["key"], **said}
        assert place.server.post("/api/submit", place.ann, given).json == {"kept": True}
    assert [one.skipped for one in place.store.judgements()] == [SCRIPT]
    assert [one.text for one in place.store.written()] == [SCRIPT, SCRIPT]
    assert place.store.written()[1].examples == tuple(map(tuple, pairs))
    overview = place.server.raw(place.server.request("GET", "/api/overview", place.owner, cookie=app.OWNER))
    assert overview.header("content-type") == "application/json"


def test_what_the_disk_does_is_no_answer_and_is_said_to_the_owner_alone(place, capsys):
    place.store.add_tasks(tasks(1))
    given = judged(place.next(place.ann)["task"]["key"], [1, 2, 3, 4, 5])
    place.store._db.execute("PRAGMA query_only = ON")
    answer = place.server.post("/api/submit", place.ann, given)
    assert answer.status == 503 and b"sent again" in answer.body and b"sqlite" not in answer.body
    assert "s.sqlite cannot be used" in capsys.readouterr().out
    place.store._db.execute("PRAGMA query_only = OFF")
    assert place.server.post("/api/submit", place.ann, given).json == {"kept": True}


def test_flags_and_the_scale_are_the_stores(place):
    answer = place.next(place.ann)
    assert answer["flags"] == FLAGS and answer["scale"] == [1, 7]


def test_a_refusal_names_an_answer_as_the_page_does(tmp_path):
    with Store(tmp_path / "labels.sqlite") as store:
        store.add_tasks([comparison("Name a fruit.", ("An apple.", "A pear.", "A plum."))], 1)
        store.add_labeler("Ann")
        lease = store.lease("Ann")
        assert lease is not None
        flags = dict.fromkeys(FLAGS, False)
        given = {"id": "i" * 20, "task": lease.key, "session": "s" * 20, "seconds": 3.0}
        given |= {"ranks": [1, 2, 3], "ratings": [7, 6, 5], "flags": [flags] * 3}
        for wrong in ({"ranks": [1, 2, 4]}, {"ratings": [1, 2, 8]}, {"flags": [flags, flags, {}]}):
            refusal(lambda given=given | wrong: submission(store, "Ann", given), "answer C has")
        assert submission(store, "Ann", given).ranks
    assert [letter(n) for n in (1, 26, 27, 52, 53, 702, 703)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
