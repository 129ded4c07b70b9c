"""The overview's figures, from judgements of which they can be counted by hand."""

import pytest

from rlhf_jax.labelers import FLAGS, Assignment, Store, comparison
from rlhf_jax.labeling import overview

NO = dict.fromkeys(FLAGS, False)


def tasks(count, source=""):
    return [comparison(f"Question {i}?", ["Yes.", "No.", "Perhaps."], model="m", source=source) for i in range(count)]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "s.sqlite", clock=lambda: 1000.0) as store:
        for name, group in (("Ann", "a"), ("Bob", "b"), ("Cay", "")):
            store.add_labeler(name, group)
        yield store


def say(store, name, ranks=(), **more):
    lease = store.lease(name)
    more = {"id": f"{name}/{lease.task.id}", **more}
    store.submit(
        lease.task.judged(name, ranks=ranks, **more)
        if lease.task[1] not in ("plain",)
        else lease.task.written(name, **more)
    )


def test_of_nothing_there_are_no_figures(store):
    found = overview(store)
    assert found["pairs"] == {"agreed": 0, "pairs": 0} and found["disagreements"] == []
    assert {one["alpha"] for one in found["figures"]} == {one["kappa"] for one in found["figures"]} == {None}
    assert [(one["name"], one["done"], one["median"], one["hourly"]) for one in found["labelers"]] == [
        (name, 0, None, None) for name in ("Ann", "Bob", "Cay")
    ]


def test_who_agrees_with_whom_and_on_what_they_do_not(store):
    store.add_tasks(tasks(2), wanted=3)
    opinion = NO | {"opinion": True}
    for name, first, second, flags in (
        ("Ann", (1, 2, 3), (1, 2, 3), [opinion, NO, NO]),
        ("Bob", (1, 2, 3), (3, 2, 1), [opinion, NO, NO]),
        ("Cay", (1, 2, 2), (1, 2, 3), [opinion, NO, NO]),
    ):
        say(store, name, first, ratings=(7, 4, 1), flags=flags)
        say(store, name, second)
    found = overview(store)
    # First task: A and B 3 of 3, each with C 2 of 2. Second: A and C 3 of 3, B with either 0 of 3.
    assert found["pairs"] == {"agreed": 10, "pairs": 16}
    assert {one["name"]: (one["agreed"], one["pairs"]) for one in found["labelers"]} == {
        "Ann": (3 + 2 + 3, 11), "Bob": (3 + 2, 11), "Cay": (2 + 2 + 3, 10),
    }  # fmt: skip
    figures = {one["name"]: one for one in found["figures"]}
    assert (
        figures["Ratings"]["alpha"]
        == figures["Expresses opinion"]["alpha"]
        == figures["Expresses opinion"]["kappa"]
        == 1
    )
    assert figures["Ratings"]["kappa"] is None and figures["Hallucination"]["alpha"] is None
    assert -1 < figures["Ranks"]["alpha"] < 1
    (least,) = found["disagreements"]
    assert (least["task"], least["agreed"], least["pairs"]) == (tasks(2)[1].id, 3, 9)
    assert least["conversation"] == [{"role": "user", "text": "Question 1?"}]
    assert least["answers"] == [{"text": text, "model": "m"} for text in ("Yes.", "No.", "Perhaps.")]
    assert [one["ranks"] for one in least["labelers"]] == [(1, 2, 3), (3, 2, 1), (1, 2, 3)]


def test_throughput_counts_all_that_somebody_did_and_screening_is_apart(store):
    known = [task.judged("me", ranks=(1, 2, 3), flags=[{"sexual": False}] * 3) for task in tasks(4, "known")]
    store.add_screening(known)
    store.add_tasks([*tasks(2), Assignment("w", "plain", "fruit")])
    flags = [NO, NO, NO | {"sexual": True}]
    for _ in range(4):
        say(store, "Ann", (1, 2, 3), flags=[NO] * 3, seconds=10.0)
        say(store, "Bob", (1, 3, 2), flags=flags, seconds=20.0)
    say(store, "Ann", (1, 2, 3), seconds=40.0, time=2000.0)
    say(store, "Ann", skipped="not mine")
    say(store, "Bob", (1, 2, 3), seconds=20.0)
    say(store, "Ann", text="Name a fruit.", seconds=10.0)
    ann, bob, cay = overview(store)["labelers"]
    assert (ann["done"], ann["skipped"], ann["median"], ann["hourly"], ann["last"]) == (
        6,
        1,
        10.0,
        3600 * 6 / 90,
        2000.0,
    )
    assert (bob["done"], bob["skipped"], bob["median"], bob["hourly"]) == (5, 0, 20.0, 180.0)
    assert ann["screened"]["passes"] and ann["screened"]["agreed"] == ann["screened"]["pairs"] == 12
    # 2 of 3 pairs and 2 of 3 flags are below the paper's 75 %.
    assert not bob["screened"]["passes"] and (bob["screened"]["agreed"], bob["screened"]["same_flags"]) == (8, 8)
    assert cay["screened"] is None and (ann["pairs"], bob["pairs"]) == (0, 0)
