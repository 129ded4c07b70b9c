"""The store: who is given what, what is kept of what they say, and what many processes at once, or a killed one, do to it."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from rlhf_jax.data import prompt_text
from rlhf_jax.labelers import (
    Assignment,
    Judgement,
    Person,
    Progress,
    RefusedError,
    Share,
    Store,
    comparison,
    read_judgements,
    write_judgements,
)
from tests.refusals import refusal
from tests.small_run import ROOT

PEOPLE = ("Ann", "Bob", "Cay", "Dan")


def tasks(count, source=""):
    return [comparison(f"Question {i}?", ["Yes.", "No.", f"Perhaps {i}."], source=source) for i in range(count)]


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    with Store(tmp_path / "store.sqlite", lease=60.0, clock=clock) as store:
        for name in PEOPLE:
            store.add_labeler(name, "a" if name < "C" else "b")
        yield store


def said(lease, labeler, **more) -> Judgement:
    more = {"ranks": (1, 2, 2), "id": f"{labeler}/{lease.task.id}"} | more
    return lease.task.judged(labeler, **more)


# Handing out.


def test_each_task_goes_to_as_many_different_labelers_as_wanted(store):
    store.add_tasks(tasks(3), wanted=2)
    given = {name: store.lease(name) for name in PEOPLE}
    first, second, _ = tasks(3)
    assert [given[name].task for name in PEOPLE] == [first, first, second, second]
    assert store.lease("Ann") == given["Ann"]  # who asks again has it still
    assert store.progress() == Progress(wanted=6, done=0, missing=6, leased=4, skipped=0, stuck=0)
    while any(given.values()):
        for name, lease in given.items():
            if lease:
                assert store.submit(said(lease, name))
        given = {name: store.lease(name) for name in PEOPLE}
    kept = store.judgements()
    assert Counter(one.task for one in kept) == dict.fromkeys((t.id for t in tasks(3)), 2)
    assert len({(one.task, one.labeler) for one in kept}) == 6
    assert store.progress() == Progress(wanted=6, done=6, missing=0, leased=0, skipped=0, stuck=0)


def test_a_labeler_never_has_a_task_twice_and_nothing_is_left_then(store):
    store.add_tasks(tasks(2), wanted=4)
    for _ in range(2):
        store.submit(said(store.lease("Ann"), "Ann"))
    assert store.lease("Ann") is None
    assert len({one.task for one in store.judgements()}) == 2


def test_what_is_abandoned_returns(store, clock):
    store.add_tasks(tasks(1))
    lease = store.lease("Ann")
    assert lease.until == 1060.0
    clock.now = 1059.9
    assert store.lease("Bob") is None
    clock.now = 1060.0
    assert store.lease("Bob").task == lease.task
    assert store.lease("Ann") is None


def test_who_is_late_is_heard_while_the_place_is_free(store, clock):
    store.add_tasks(tasks(2))
    late = store.lease("Ann")
    clock.now = 2000.0
    assert store.submit(said(late, "Ann"))
    other = store.lease("Ann")
    clock.now = 3000.0
    taken = store.lease("Bob")
    assert taken.task == other.task
    refusal(lambda: store.submit(said(other, "Ann")), "went to others after its time had run out")
    assert store.submit(said(taken, "Bob"))
    refusal(lambda: store.submit(said(other, "Ann")), "went to others")
    assert [one.labeler for one in store.judgements()] == ["Ann", "Bob"]


def test_asking_for_more_opens_a_task_again(store):
    assert store.add_tasks(tasks(2)) == 2
    store.submit(said(store.lease("Ann"), "Ann"))
    store.submit(said(store.lease("Ann"), "Ann"))
    assert store.lease("Bob") is None
    assert store.add_tasks(tasks(3), wanted=2) == 1
    assert store.lease("Bob").task == tasks(1)[0]
    other = tasks(1)[0]._replace(user="somebody")
    refusal(lambda: store.add_tasks([other]), "there is another task", other.id)
    refusal(lambda: store.add_tasks(tasks(1), wanted=0), "wanted is 0: ask for one submission or more")
    refusal(lambda: store.add_tasks(tasks(1), wanted=True), "wanted is True")


def test_all_or_none_of_the_tasks_are_added(store):
    wrong = tasks(1)[0]._replace(user="somebody")
    store.add_tasks(tasks(1))
    refusal(lambda: store.add_tasks([*tasks(3), wrong]), "there is another task")
    assert store.progress().wanted == 1


# Submitting.


def test_a_submission_that_comes_twice_is_kept_once(store, clock):
    store.add_tasks(tasks(2))
    lease = store.lease("Ann")
    one = said(lease, "Ann", seconds=3.0)
    assert store.submit(one)
    clock.now = 1001.0
    assert not store.submit(one)
    refusal(lambda: store.submit(one._replace(ranks=(2, 1, 2))), "there is another submission of this id")
    store.lease("Bob")
    refusal(lambda: store.submit(one._replace(labeler="Bob")), "there is another submission of this id")
    refusal(lambda: store.submit(one._replace(id="another")), "Ann has done", "already: undo that first")
    assert store.judgements() == [one._replace(group="a", time=1000.0)]


def test_what_was_not_asked_for_is_refused(store):
    store.add_tasks(tasks(2))
    lease = store.lease("Ann")
    for wrong, words in [
        ({"labeler": "Bob"}, "was not given to Bob"),
        ({"labeler": "Eve"}, "nobody is called 'Eve' here"),
        ({"task": "nowhere"}, "there is no such task as 'nowhere' here"),
        ({"user": "somebody"}, "there is no such task"),
        ({"completions": lease.task.completions[::-1]}, "there is no such task"),
        ({"id": " "}, "the submission has no id"),
    ]:
        with pytest.raises(RefusedError):
            store.submit(said(lease, "Ann")._replace(**wrong))
        refusal(lambda wrong=wrong: store.submit(said(lease, "Ann")._replace(**wrong)), words)
    refusal(lambda: store.submit(said(lease, "Ann")._replace(ranks=(1, 2, 4))), "has the rank 4")
    refusal(lambda: store.lease("Eve"), "nobody is called 'Eve' here: add them as a labeler")
    assert store.judgements() == [] and store.progress().done == 0


def test_a_skip_leaves_the_place_to_others(store):
    store.add_tasks(tasks(1))
    for name in PEOPLE[:3]:
        lease = store.lease(name)
        assert store.submit(said(lease, name, ranks=(), skipped="not mine"))
        assert store.lease(name) is None
    assert store.progress() == Progress(wanted=1, done=0, missing=1, leased=0, skipped=3, stuck=0)
    last = store.lease("Dan")
    store.submit(said(last, "Dan", ranks=(), skipped="nor mine"))
    assert store.progress().stuck == 1  # nobody is left
    store.add_labeler("Eve")
    assert store.progress().stuck == 0
    assert store.submit(said(store.lease("Eve"), "Eve"))
    assert [one.skipped for one in store.judgements()] == ["not mine"] * 3 + ["nor mine", ""]


def test_what_others_said_elsewhere_leaves_labelers_to_ask(store):
    """Judgements that come from a file are counted, and their labelers are not asked."""
    (task,) = tasks(1)
    store.add_judgements([task.judged(f"Stranger {i}", ranks=(1, 2, 2), id=f"s{i}") for i in range(4)])
    store.add_tasks([task], wanted=5)
    assert store.progress() == Progress(wanted=5, done=4, missing=1, leased=0, skipped=0, stuck=0)
    assert store.submit(said(store.lease("Ann"), "Ann")) and store.progress().missing == 0


def test_what_screens_is_something_to_agree_with_and_no_other_s_judgement(store):
    (task,) = tasks(1)
    known = task.judged("Expert", ranks=(1, 2, 2), id="k")
    alike = known._replace(ranks=(1, 1, 1))
    for useless in (alike, known._replace(ranks=(), skipped="no")):
        refusal(lambda given=useless: store.add_screening([given]), task.id[:8], "so that it screens nobody")
    assert store.add_screening([alike._replace(flags=({"opinion": True}, {}, {}), task="flags")]) == 1
    assert store.add_screening([known]) == 1
    refusal(lambda: store.add_judgements([known]), "screens labelers here, and no judgement of it is exported")
    assert store.judgements() == [] == store.screening()


def test_a_name_is_one_person_s_with_white_space_around_it_or_without(store):
    refusal(lambda: store.add_labeler("Ann "), "the labeler's name 'Ann ' has white space at an end")
    store.add_tasks(tasks(1))
    assert store.submit(said(store.lease("Ann"), "Ann")._replace(labeler=" Ann "))
    assert [one.labeler for one in store.judgements()] == ["Ann"]


def test_an_empty_file_is_no_store_unless_one_is_to_be_made(tmp_path):
    (path := tmp_path / "empty.sqlite").touch()
    refusal(lambda: Store(path, create=False), "empty.sqlite: no such store")
    assert not path.stat().st_size
    with Store(path) as made, Store(path) as again:
        assert made.is_new and not again.is_new


def test_undoing_gives_the_task_back_and_forgets_nothing_of_the_id(store):
    store.add_tasks(tasks(3))
    assert store.undo("Ann") is None
    first = store.lease("Ann")
    one = said(first, "Ann")
    store.submit(one)
    second = store.lease("Ann")
    assert second.task != first.task
    assert store.undo("Ann").task == first.task
    assert store.lease("Ann").task == first.task
    assert store.lease("Bob").task == second.task  # which Ann no longer has
    assert not store.submit(one)  # its copy that comes late brings it not back
    assert store.judgements() == [] and store.progress().done == 0
    again = one._replace(ranks=(2, 1, 1), id="again")
    assert store.submit(again)
    assert [j.ranks for j in store.judgements()] == [(2, 1, 1)]


def test_sources_are_told_apart(store):
    store.add_tasks(tasks(1, "round-1") + tasks(2, "round-2"))
    store.submit(said(store.lease("Ann"), "Ann"))
    assert [store.progress(source).missing for source in ("round-1", "round-2", "round-3")] == [0, 2, 0]
    assert len(store.judgements("round-1")) == 1 and store.judgements("round-2") == []


# Screening, and what is written.


def test_everybody_is_screened_first_and_is_not_told(store):
    known = [t.judged("me", ranks=(1, 2, 3), flags=[{"sexual": False}] * 3) for t in tasks(2, "screening")]
    store.add_tasks(tasks(1))
    assert store.add_screening(known) == 2 and store.add_screening(known) == 0
    for name in ("Ann", "Bob"):
        for wanted in known:
            lease = store.lease(name)
            assert lease.task.id == wanted.task and "known" not in repr(lease)
            store.submit(said(lease, name, ranks=(2, 1, 3)))
    assert store.lease("Ann").task == tasks(1)[0]
    found = store.screening()
    assert [(right.ranks, one.labeler, one.ranks) for right, one in found] == [
        ((1, 2, 3), name, (2, 1, 3)) for _ in range(2) for name in ("Ann", "Bob")
    ]
    assert found[0][0].flags == ({"sexual": False},) * 3
    assert store.judgements() == [] and store.progress().wanted == 1


def test_demonstrations_and_prompts_are_written_in_the_same_store(store):
    asked = [Assignment("d", "demonstration", "Name a fruit.", "user 1"), Assignment("p", "few_shot", "Something new")]
    store.add_tasks([*tasks(1), *asked])
    lease = store.lease("Ann", ["demonstration", "few_shot"])
    assert lease.task == asked[0]._replace(about=prompt_text("Name a fruit."))
    assert store.lease("Ann").task == lease.task
    assert store.submit(lease.task.written("Ann", text="An apple.", id="1"))
    other = store.lease("Ann", ["few_shot"])
    pairs = (("2+2", "4"), ("3+3", "6"))
    assert store.submit(other.task.written("Ann", text="Add.", examples=pairs, id="2"))
    assert store.lease("Ann", ["few_shot"]) is None
    assert [(w.text, w.examples, w.group) for w in store.written()] == [("An apple.", (), "a"), ("Add.", pairs, "a")]
    assert store.judgements() == []
    refusal(lambda: store.lease("Ann", ["songs"]), "there are no tasks of the kind 'songs'")


# What a labeler sees of a task.


def test_a_task_looks_the_same_to_a_labeler_whenever_they_are_given_it(store, clock):
    store.add_tasks([comparison(f"Question {i}?", [f"{n}" for n in range(9)]) for i in range(4)], wanted=2)
    first = store.lease("Ann")
    assert sorted(first.order) == list(range(9))
    assert store.given("Ann", first.key) == first
    clock.now += 61
    again = store.lease("Ann")
    assert (again.task, again.key, again.order) == first[:1] + first[2:]
    store.submit(said(again, "Ann", ranks=tuple(range(1, 10))))
    assert store.given("Ann", first.key) == first._replace(until=0.0)
    assert store.undo("Ann")[2:] == first[2:]
    other = store.lease("Bob")
    assert other.task == first.task and other.key != first.key
    orders = {first.order, other.order}
    for name in ("Ann", "Bob"):
        for _ in range(3):
            lease = store.lease(name)
            orders.add(lease.order)
            store.submit(said(lease, name, ranks=tuple(range(1, 10)), id=lease.key))
    assert len(orders) == 6  # drawn from 9! = 362880
    for wrong in ("", "nothing", first.task.id, other.key, "\ud800"):
        refusal(lambda wrong=wrong: store.given("Ann", wrong))


def test_a_labelers_share(store):
    store.add_tasks(tasks(3))
    store.add_screening([t.judged("me", ranks=(1, 2, 3)) for t in tasks(1, "known")])
    assert store.share("Ann") == store.share("Bob") == Share(done=0, left=4)
    store.submit(said(store.lease("Ann"), "Ann"))
    store.submit(said(store.lease("Ann"), "Ann", ranks=(), skipped="not mine"))
    store.lease("Bob")  # what screens; the place of nobody
    assert store.share("Ann") == Share(done=2, left=2) and store.share("Bob") == Share(done=0, left=4)
    store.lease("Ann")
    assert store.share("Ann") == Share(done=2, left=2) and store.share("Bob") == Share(done=0, left=3)


# Labelers.


def test_tokens_are_known_and_kept_nowhere(store, tmp_path):
    token = store.add_labeler("Eve", "b")
    assert store.labeler_of(token) == Person("Eve", "b")
    for wrong in ("", token[:-1], f"{token} ", token.swapcase(), "\ud800"):
        assert store.labeler_of(wrong) is None
    other = store.renew_token("Eve")
    assert store.labeler_of(token) is None and store.labeler_of(other) == Person("Eve", "b")
    for path in tmp_path.iterdir():
        assert token.encode() not in path.read_bytes() and other.encode() not in path.read_bytes()
    assert store.labelers() == [*(Person(n, "a" if n < "C" else "b") for n in PEOPLE), Person("Eve", "b")]
    refusal(lambda: store.add_labeler("Ann"), "there is a labeler called Ann already")
    refusal(lambda: store.add_labeler(" "), "the labeler has no name")
    refusal(lambda: store.renew_token("Zoe"), "nobody is called 'Zoe' here")


def test_there_is_one_owner(store, tmp_path):
    assert not store.is_owner("")
    first = store.renew_owner()
    assert store.is_owner(first) and store.labeler_of(first) is None
    second = store.renew_owner()
    assert store.is_owner(second) and not store.is_owner(first)
    assert not store.is_owner(store.renew_token("Ann"))
    assert all(second.encode() not in path.read_bytes() for path in tmp_path.iterdir())


# Files.


def test_what_one_store_has_another_takes_once(store, tmp_path):
    store.add_tasks(tasks(3))
    for _ in range(2):
        store.submit(said(store.lease("Ann"), "Ann", ratings=(7, 1, 2), order=(2, 0, 1)))
    write_judgements(tmp_path / "j.parquet", store.judgements())
    found = read_judgements(str(tmp_path / "j.parquet"))
    with Store(tmp_path / "other.sqlite") as other:
        assert other.add_judgements(found) == 2
        assert other.add_judgements(found) == 0
        assert other.judgements() == store.judgements()
        assert other.progress().missing == 0
        more = found[0]._replace(id="another")
        refusal(lambda: other.add_judgements([found[1]._replace(labeler="Bob", id="b"), more]), "Ann has judged")
        assert len(other.judgements()) == 2
        refusal(lambda: other.add_judgements([more._replace(id="")]), "Ann's judgement", "has no id")


def test_a_file_that_is_no_store_is_left_alone(tmp_path):
    refusal(lambda: Store(tmp_path / "none.sqlite", create=False), "none.sqlite: no such store")
    (tmp_path / "text").write_text("These are no labels. " * 100)
    refusal(lambda: Store(tmp_path / "text"), "text cannot be used (file is not a database)")
    with closing(sqlite3.connect(tmp_path / "other")) as db:
        db.execute("CREATE TABLE songs (name)")
    refusal(lambda: Store(tmp_path / "other"), "is a database and no store of labels")
    refusal(lambda: Store(tmp_path), "cannot be used (unable to open database file)")
    Store(tmp_path / "new").close()
    with closing(sqlite3.connect(tmp_path / "new")) as db:
        db.execute("PRAGMA user_version = 7")
    refusal(lambda: Store(tmp_path / "new"), "is a store of version 7, and this program reads 1")


def test_an_answer_is_on_the_disk_before_it_is_given(store):
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


# Many at once.


def work(store, name, rounds=10**6):
    """Takes tasks and submits, abandons or sends again, as it comes; the ids that were answered with yes."""
    kept = []
    for turn in range(rounds):
        lease = store.lease(name)
        if lease is None:
            if store.progress().missing == 0:
                break
            time.sleep(0.005)
            continue
        if turn % 7 == 3:
            time.sleep(0.02)  # longer than the lease
        one = said(lease, name, id=f"{name}/{lease.task.id}/{turn}")
        try:
            if store.submit(one):
                kept.append(one.id)
            assert not store.submit(one)
        except RefusedError:
            continue
    return kept


def watch(path, stop, most):
    """The largest number of places of a task that were ever filled or leased at once."""
    with closing(sqlite3.connect(path, timeout=30)) as db:
        while not stop.is_set():
            now = time.time()
            query = (
                "SELECT max((SELECT count(*) FROM submissions WHERE task = number AND NOT undone)"
                " + (SELECT count(*) FROM leases WHERE task = number AND until > ?)) FROM tasks"
            )
            most.append(db.execute(query, (now,)).fetchone()[0])
            time.sleep(0.002)


def require_exact(store, count, wanted, kept, most):
    """Nothing lost, nothing doubled, nothing handed out too often."""
    found = store.judgements()
    assert Counter(one.id for one in found) == Counter(kept)
    assert Counter(one.task for one in found) == dict.fromkeys((t.id for t in tasks(count)), wanted)
    assert len({(one.task, one.labeler) for one in found}) == len(found) == count * wanted
    assert max(most) <= wanted
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_threads_at_once(tmp_path):
    """Each opens the store, which none has made yet, at the same moment."""
    path, stop, most = tmp_path / "store.sqlite", threading.Event(), [0]
    begin, opened = threading.Barrier(4, timeout=20), threading.Barrier(5, timeout=20)

    def one(name):
        begin.wait()
        with Store(path, lease=0.01) as store:
            store.add_tasks(tasks(12), wanted=2)
            store.add_labeler(name)
            opened.wait()
            return work(store, name)

    with ThreadPoolExecutor(5) as pool:
        working = [pool.submit(one, name) for name in PEOPLE]
        opened.wait()
        watching = pool.submit(watch, path, stop, most)
        kept = [id for each in working for id in each.result()]
        stop.set()
        watching.result()
    with Store(path) as store:
        require_exact(store, 12, 2, kept, most)


def test_threads_share_a_store(tmp_path):
    with Store(tmp_path / "store.sqlite") as store, ThreadPoolExecutor(4) as pool:
        store.add_tasks(tasks(12), wanted=2)
        for name in PEOPLE:
            store.add_labeler(name)
        kept = [id for each in pool.map(work, [store] * 4, PEOPLE) for id in each]
        require_exact(store, 12, 2, kept, [0])


WORKERS = """
import os, sys, time
from rlhf_jax.labelers import RefusedError, Store
from tests.labelers.test_store import PEOPLE, said

def work(name):
    store = Store(sys.argv[1], lease=0.5)
    store.add_labeler(name)
    while store.progress().missing:
        lease = store.lease(name)
        try:
            if lease is None:
                time.sleep(0.01)
            elif store.submit(said(lease, name)):
                os.write(1, f"{name} {said(lease, name).id}\\n".encode())
        except RefusedError:
            pass  # it had waited longer than the lease

for name in PEOPLE:
    if (child := os.fork()) == 0:
        work(name)
        os._exit(0)
    os.write(1, f"pid {name} {child}\\n".encode())
for name in PEOPLE:
    os.wait()
"""


@pytest.mark.slow
@pytest.mark.long
def test_processes_at_once_of_which_two_are_killed(tmp_path):
    path, count = tmp_path / "store.sqlite", 100
    stop, most, kept, pids = threading.Event(), [0], [], {}
    with Store(path) as store:
        store.add_tasks(tasks(count), wanted=2)
    watching = threading.Thread(target=watch, args=(path, stop, most))
    watching.start()
    with subprocess.Popen(
        [sys.executable, "-c", WORKERS, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as workers:
        for line in workers.stdout:
            name, *rest = line.split()
            if name == "pid":
                pids[rest[0]] = int(rest[1])
                continue
            kept += rest
            # Whoever these are by: SQLite gives the lock to one more often than to another.
            if len(kept) in (40, 80):
                os.kill(pids.pop(PEOPLE[len(kept) // 40 - 1]), signal.SIGKILL)
    stop.set()
    watching.join()
    assert workers.returncode == 0 and set(pids) == set(PEOPLE[2:])
    with Store(path) as store:
        found = [one.id for one in store.judgements()]
        # Killed between the disk and the pipe: that one was not answered, and is kept all the same.
        unsaid = [one for one in found if one not in kept]
        assert len(unsaid) <= 2
        require_exact(store, count, 2, kept + unsaid, most)
