"""Each step of curation against a plain statement of what it keeps, and the libraries that some need."""

import sys
from collections import Counter
from itertools import takewhile
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data import Messages, Prompt, prompt_text, read_prompts
from rlhf_jax.data.curation import (
    Curated,
    drop_by_length,
    drop_near_duplicates,
    drop_other_languages,
    drop_personal,
    drop_repeats,
    drop_shared_prefixes,
    languages,
    limit_per_user,
    pii,
    written,
)
from tests.refusals import refusal

TEXTS = st.lists(st.text("ab", min_size=1, max_size=6), max_size=12)


def asked(*texts: str, user: str = "") -> list[Prompt]:
    return [Prompt(prompt_text(text), user=user) for text in texts]


def texts_of(prompts) -> list[str]:
    return [written(prompt)[1] for prompt in prompts]


def all_are_there(prompts: list[Prompt], found: Curated) -> bool:
    """Nothing is lost or doubled, and both lists are in the order given."""
    ids = [id(prompt) for prompt in prompts]
    kept, dropped = [ids.index(id(p)) for p in found.kept], [ids.index(id(d.prompt)) for d in found.dropped]
    return sorted(kept + dropped) == list(range(len(ids))) and kept == sorted(kept) and dropped == sorted(dropped)


# Shared prefixes.


@settings(deadline=None)
@given(TEXTS, TEXTS, st.integers(0, 5))
def test_prefixes_are_those_that_comparing_every_pair_finds(held_out, texts, longest):
    def alike(one: str, other: str) -> bool:
        same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
        return one == other or len(list(same)) > longest

    prompts, earlier = asked(*texts), asked(*held_out)
    found = drop_shared_prefixes(prompts, longest, earlier)
    assert all_are_there(prompts, found)
    before, expected = list(held_out), []
    for text in texts:
        near = next((other for other in before if alike(text, other)), None)
        if near is not None:
            expected.append((text, near))
        before.append(text)
    assert [(*texts_of([d.prompt]), *texts_of([d.near])) for d in found.dropped] == expected


def test_what_is_equal_is_told_from_what_begins_alike():
    found = drop_shared_prefixes(asked("abcd1", "abcd2", "abcd1", "abc", "abc"), 3)
    assert [d.reason for d in found.dropped] == [
        "begin as an earlier one does",
        "say what an earlier one says",
        "say what an earlier one says",
    ]


def test_a_system_text_in_common_is_no_shared_prefix_and_another_one_is_another_prompt():
    def prompt(system: str, question: str) -> Prompt:
        return Prompt(Messages([{"role": "system", "content": system}, {"role": "user", "content": question}]))

    rules = "Answer in one sentence. " * 20
    prompts = [prompt(rules, "Name a fruit."), prompt(rules, "Why?"), prompt(f"{rules} Be rude.", "Why?")]
    assert drop_shared_prefixes(prompts, 50).kept == prompts
    assert drop_near_duplicates(prompts, 0.8).kept == prompts
    assert len(drop_shared_prefixes([*prompts, prompt(rules, "Why?")], 50).dropped) == 1


# Users, repeats and lengths.


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b"])), st.lists(st.sampled_from("ab"), max_size=4), st.integers(1, 4))
def test_a_user_gives_no_more_than_the_limit(users, held_out, most):
    prompts = [Prompt(f"{i}", user=user) for i, user in enumerate(users)]
    found = limit_per_user(prompts, most, [Prompt("x", user=user) for user in held_out])
    assert all_are_there(prompts, found)
    for user in "ab":
        mine = [p for p in prompts if p.user == user]
        assert [p for p in found.kept if p.user == user] == mine[: max(most - held_out.count(user), 0)]
    assert sum(not p.user for p in found.kept) == users.count("")


def test_the_paper_allows_two_hundred():
    assert len(limit_per_user([Prompt("a", user="u")] * 201).kept) == 200


def test_repeats_are_one_users():
    prompts = [
        Prompt("a", user="u"),
        Prompt("a", user="v"),
        Prompt("a", user="u"),
        Prompt("a", "chat", "u"),
        Prompt("b"),
    ]
    found = drop_repeats(prompts)
    assert found.kept == [prompts[i] for i in (0, 1, 3, 4)]
    assert [(d.prompt is prompts[2], d.near) for d in found.dropped] == [(True, prompts[0])]


def test_lengths_count_what_is_written():
    found = drop_by_length(asked("a" * 4, "a" * 5, "a" * 8, "a" * 9), 5, 8)
    assert list(map(len, texts_of(found.kept))) == [5, 8]
    assert [(d.reason, d.detail) for d in found.dropped] == [
        ("are too short", "4 characters"),
        ("are too long", "9 characters"),
    ]
    assert len(drop_by_length(asked("a" * 999), 5).kept) == 1


# Near duplicates.


def pairs(count: int, shared: int, length: int, rng: Random) -> list[tuple[str, str]]:
    """Texts without any run of characters twice but for the first `shared` characters, which the two of a pair have in
    common: J = (shared − 4) / (2 (length − 4) − (shared − 4))."""
    made = []
    for _ in range(count):
        letters = [chr(c) for c in rng.sample(range(0x4E00, 0x9FA0), 2 * length)]
        common, one, other = letters[:shared], letters[shared:length], letters[length : 2 * length - shared]
        made.append(("".join(common + one), "".join(common + other)))
    return made


@pytest.mark.parametrize(("shared", "caught"), [(104, 1), (94, 1), (93, 0), (80, 0)])
def test_pairs_of_known_similarity(shared, caught):
    """Of 100 shingles each: 90 in common are J = 90 / 110 = 0.818, 89 are 89 / 111 = 0.802, 76 are 0.613; the threshold is
    between 90 and 89, and the 1 % that bands may miss is allowed for."""
    made = pairs(100, shared, 104, Random(shared))
    prompts = asked(*(text for pair in made for text in pair))
    found = drop_near_duplicates(prompts, 0.81)
    assert all_are_there(prompts, found)
    dropped = {texts_of([d.prompt])[0]: texts_of([d.near])[0] for d in found.dropped}
    if caught:
        assert len(dropped) >= 98 and all(dropped.get(other, one) == one for one, other in made)
        assert {d.detail for d in found.dropped} == {f"similarity {(shared - 4) / (204 - shared):.2f}"}
    else:
        assert not dropped


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.9])
def test_what_is_nearly_the_same_is_as_similar_as_is_said(similarity):
    rng = Random(f"{similarity}")
    words = ["apple", "pear", "plum", "quince", "fig", "grape", "lemon"]
    prompts = asked(*(" ".join(rng.choices(words, k=8)) for _ in range(60)))
    held_out, given_prompts = prompts[:5], prompts[5:]
    found = drop_near_duplicates(given_prompts, similarity, held_out)
    assert all_are_there(given_prompts, found)
    sets = {id(p): {t[i : i + 5] for i in range(len(t) - 4)} for p in prompts for t in texts_of([p])}

    def alike(one: Prompt, other: Prompt) -> float:
        a, b = sets[id(one)], sets[id(other)]
        return len(a & b) / len(a | b)

    there = [*held_out, *found.kept]
    for each in found.dropped:
        assert any(each.near is p for p in there) and alike(each.prompt, each.near) >= similarity
    missed = sum(alike(a, b) >= similarity for i, b in enumerate(there) for a in there[:i] if i >= 5)
    assert missed <= 0.01 * sum(alike(a, b) >= similarity for i, b in enumerate(prompts) for a in prompts[:i])


def test_case_and_white_space_make_no_difference():
    found = drop_near_duplicates(asked("Name a fruit.", "name  a FRUIT.", "Name a tree, please.", "hi"), 0.95)
    assert texts_of(found.kept) == ["Name a fruit.", "Name a tree, please.", "hi"]


# Languages.


def test_languages_that_are_not_asked_for():
    english = asked("What is the capital of France, and how many people live there?", "ok", "12 + 30 = ?")
    others = {
        "de": "Schreibe einen kurzen Brief an meinen Vermieter wegen der kaputten Heizung.",
        "fr": "Quelle est la capitale de l'Italie et combien d'habitants compte-t-elle ?",
        "es": "Escribe un poema corto sobre el mar y las montañas en invierno.",
        "ru": "Напиши короткое письмо моему соседу о громкой музыке ночью.",
        "zh": "请写一首关于春天的短诗，并解释其中的意思。",
    }
    foreign = asked(*others.values())
    found = drop_other_languages([*foreign, *english], ["en"])
    assert found.kept == english and [d.detail for d in found.dropped] == list(others)
    assert drop_other_languages(foreign, ["de", "zh"]).kept == [foreign[0], foreign[4]]
    refusal(lambda: drop_other_languages([], ["english"]), "the language 'english' is not known; name some of")


# What is not installed.


@pytest.mark.parametrize(
    ("module", "package", "step"),
    [
        ("rensa", "rensa", lambda: drop_near_duplicates(asked("a"), 0.8)),
        ("py3langid.langid", "py3langid", lambda: drop_other_languages(asked("a"), ["en"])),
        ("phonenumbers", "phonenumbers", lambda: drop_personal(asked("a"))),
        ("stdnum.luhn", "python-stdnum", lambda: drop_personal(asked("4111 1111 1111 1111"))),
    ],
)
def test_without_its_library_a_step_says_what_to_install(monkeypatch, module, package, step):
    for cached in (pii._number, pii._phonenumbers, pii._check_region, languages._model):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    refusal(step, f"{package} is not installed; run: pip install 'rlhf_jax[curation]'")


@pytest.mark.long
def test_fifty_thousand_real_prompts(real_data):
    """T0's, many of which come of one template, each by one of 300 users, some of whom wrote much."""
    rng = Random(0)
    users = rng.choices(range(300), [1 / (i + 1) for i in range(300)], k=60_000)
    source = str(real_data / "t0-50k/t0_train_per_template.jsonl.xz")
    prompts = [p._replace(user=f"u{u}") for p, u in zip(read_prompts(source, "drop"), users, strict=False)]
    assert len(prompts) == 55_185
    begun = drop_shared_prefixes(prompts, 200)
    assert all_are_there_by_count(prompts, begun) and len({t[:201] for t in texts_of(begun.kept)}) == len(begun.kept)
    few = limit_per_user(begun.kept)
    assert all_are_there_by_count(begun.kept, few) and max(Counter(p.user for p in few.kept).values()) == 200
    near = drop_near_duplicates(few.kept[:1_000], 0.8)
    assert all_are_there_by_count(few.kept[:1_000], near) and near.dropped


def all_are_there_by_count(prompts: list[Prompt], found: Curated) -> bool:
    return Counter(map(id, prompts)) == Counter(map(id, [*found.kept, *(d.prompt for d in found.dropped)]))
