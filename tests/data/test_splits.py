"""What is held out: no user and no text of a held-out conversation is in training, in whichever file it stands."""

import random
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data import (
    Demonstration,
    Messages,
    Prompt,
    Ranking,
    Split,
    not_held_out,
    read_demonstrations,
    read_prompts,
    read_rankings,
    split_documents,
    split_of,
)
from rlhf_jax.data.dialogue import parse_transcript
from rlhf_jax.data.splits import human_turns, normalised, openings
from rlhf_jax.errors import InputError

SHARES = (0.5, 0.25, 0.25)
SAID = ("Why?", "Name a fruit.", "Wie groß?", "ﬁne", "Café", "What is it?")  # the fourth has one character for "fi"
AS_TYPED = (str, str.upper, str.title, lambda words: f" {words.replace(' ', '  ')} ", lambda words: f"{words}\n")

Conversation = Prompt | Demonstration | Ranking
words = st.builds(lambda said, typed: typed(said), st.sampled_from(SAID), st.sampled_from(AS_TYPED))
transcripts = st.lists(words, min_size=1, max_size=3).map(
    lambda turns: "".join(f"\n\nHuman: {turn}\n\nAssistant: Yes." for turn in turns).removesuffix(" Yes.")
)
users = st.sampled_from(["", "u", "v", "w", "x"])
prompts = st.lists(st.builds(Prompt, transcripts, st.just(""), users), max_size=8)
demonstrations = st.lists(st.builds(Demonstration, transcripts, st.just("Yes."), users), max_size=8)
rankings = st.lists(
    st.builds(Ranking, transcripts, st.just(("Yes.", "No.")), st.just((1, 2)), st.just(""), users), max_size=8
)
seeds = st.integers(0, 5)


def plain(text: str) -> str:
    """Without case and white space, by another road than the one that is tested."""
    return "".join(text.casefold().split())


def said(row: Conversation) -> list[str]:
    text = row.text if isinstance(row, Prompt) else row.prompt
    return [m["content"] for m in parse_transcript(text) if m["role"] == "user"]


def turns(row: Conversation) -> list[str]:
    return list(map(plain, said(row)))


def parts_of(split: Split, files: Sequence[list]) -> list[list[Conversation]]:
    """Part → its rows of all files."""
    each = [split.rows(rows) for rows in files]
    return [[row for parts in each for row in parts[part]] for part in range(len(split.fractions))]


@settings(max_examples=50, deadline=None)
@given(prompts, demonstrations, rankings, seeds)
def test_no_opening_and_no_user_of_a_held_out_row_is_in_a_part_before_it(prompts, demonstrations, rankings, seed):
    files = (prompts, demonstrations, rankings)
    for earlier, later in combinations(parts_of(split_of(SHARES, seed, *files), files), 2):
        held = {turns(row)[0] for row in later}
        assert held.isdisjoint(turn for row in earlier for turn in turns(row))
        assert {row.user for row in earlier if row.user}.isdisjoint(row.user for row in later)
        assert {turns(row)[0] for row in earlier}.isdisjoint(held)


@settings(max_examples=50, deadline=None)
@given(prompts, demonstrations, rankings, seeds)
def test_a_row_is_left_out_exactly_where_a_turn_of_it_is_held_out_more_strictly(
    prompts, demonstrations, rankings, seed
):
    files, alone = (prompts, demonstrations, rankings), split_of(SHARES, seed, [])
    rows = [row for each in files for row in each]
    openings: dict[str, int] = {}
    for row in rows:
        if row.user or row in prompts:
            part = alone.part_of(row.user, normalised(said(row)[0]))
            openings[turns(row)[0]] = max(part, openings.get(turns(row)[0], 0))
    for row in rows:
        openings.setdefault(turns(row)[0], alone.part_of("", normalised(said(row)[0])))
    kept = parts_of(split_of(SHARES, seed, *files), files)
    for row in rows:
        home = alone.part_of(row.user, "") if row.user else openings[turns(row)[0]]
        above = any(openings.get(turn, 0) > home for turn in turns(row))
        assert [part for part, there in enumerate(kept) if row in there] == ([] if above else [home])


@settings(max_examples=50, deadline=None)
@given(prompts, prompts, demonstrations, rankings, seeds)
def test_more_rows_move_no_user_and_a_text_only_to_what_is_held_out_more(first, more, demonstrations, rankings, seed):
    before, after = (split_of(SHARES, seed, rows).rows(rows) for rows in (first, [*first, *more]))
    where = [{row: part for part, rows in enumerate(parts) for row in rows} for parts in (before, after)]
    for row in set(where[0]) & set(where[1]):
        assert where[1][row] == where[0][row] or (not row.user and where[1][row] > where[0][row])
    # Rows of other files that nobody's name is on move nothing at all.
    nameless = [[row._replace(user="") for row in rows] for rows in (demonstrations, rankings)]
    assert split_of(SHARES, seed, first).openings.items() <= split_of(SHARES, seed, first, *nameless).openings.items()


@settings(max_examples=50, deadline=None)
@given(prompts, demonstrations, rankings, seeds, st.randoms())
def test_the_order_of_rows_does_not_matter(prompts, demonstrations, rankings, seed, order: random.Random):
    files = (prompts, demonstrations, rankings)
    mixed = tuple(order.sample(rows, len(rows)) for rows in files)
    there, here = (parts_of(split_of(SHARES, seed, *each), each) for each in (files, mixed))
    assert [sorted(map(repr, part)) for part in there] == [sorted(map(repr, part)) for part in here]


def test_what_case_and_white_space_alone_tell_apart_is_one_text():
    """For every character that has a case or a form of compatibility, alone and among combining ones."""
    every = [c for c in map(chr, range(0x20000)) if c.casefold() != c or (not c.isascii() and c.isprintable())]
    for text in [before + c for c in every[::9] for before in ("", "α\u0345")] + ["ᾳ\u0300", "K", "㎧", "İ"]:
        assert normalised(text.casefold()) == normalised(normalised(text)) == normalised(text)
    assert normalised("\t Why\n is\u3000 it? ") == "why is it?"


def test_width_and_composition_of_characters_tell_no_texts_apart():
    assert normalised("Ｗhy\u00a0 is it ﬁne?") == "why is it fine?"
    assert normalised("Cafe\u0301") == normalised("CAFÉ") == "caf\u00e9"
    assert normalised("STRASSE") == normalised("Straße") and normalised("Σ") == normalised("ς")
    assert normalised("why") != normalised("why?")


def test_what_shows_nothing_tells_no_texts_apart():
    """Byte order mark, soft hyphen, joiners, directions, variation selector, and what is among combining marks."""
    for c in "\ufeff\u00ad\u200b\u200c\u200d\u2060\u200e\u202a\ufe0f\u034f\u3164":
        assert normalised(f"{c}Wh{c}y is{c} it? {c}") == "why is it?"
        assert normalised(f"Cafe{c}\u0301") == "caf\u00e9"


@pytest.mark.parametrize("user", ["", "{}"])
def test_parts_have_their_fractions_and_depend_on_the_seed(user):
    prompts = [Prompt(f"\n\nHuman: {i}\n\nAssistant:", user=user.format(i)) for i in range(4000)]
    shares = (0.8, 0.15, 0.05)
    parts = split_of(shares, 0, prompts).rows(prompts)
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5
    assert sum(map(len, parts)) == 4000
    assert split_of(shares, 1, prompts).rows(prompts) != parts
    assert split_of((0.0, 1.0, 0.0), 0, prompts).rows(prompts) == ([], prompts, [])


def test_fractions_that_are_none_are_refused():
    for fractions in ((0.5, 0.6), (1.5, -0.5), ()):
        with pytest.raises(InputError, match="of the split do not add up to 1"):
            split_of(fractions, 0, [])


def user_of(part: int, seed: int = 0) -> str:
    """A user of whom all is in this part."""
    split = split_of(SHARES, seed, [])
    return next(user for user in map(str, range(1000)) if split.part_of(user, "") == part)


def test_what_users_of_two_parts_typed_is_held_out_and_in_training_no_more():
    train, valid, test = map(user_of, range(3))
    hello, other = "\n\nHuman: Hello\n\nAssistant:", "\n\nHuman: Why?\n\nAssistant:"
    loud = "\n\nHuman:  HELLO \n\nAssistant:"
    prompts = [Prompt(hello, user=train), Prompt(other, user=train), Prompt(loud, user=test), Prompt(hello, user=valid)]
    rows = [Demonstration(hello + " Hi.\n\nHuman: Why?\n\nAssistant:", "No."), Demonstration(other, "So.")]
    split = split_of(SHARES, 0, prompts, rows)
    assert split.rows(prompts) == ([prompts[1]], [], [prompts[2]])
    assert split.rows(rows) == ([rows[1]], [], [rows[0]])
    # A training conversation that comes to a held-out prompt later on, in the prompt or in an answer that runs on
    later = Demonstration(other + " So.\n\nHuman: hello\n\nAssistant:", "Hi.")
    runs_on = Ranking(other, ("So.\n\nHuman: hello\n\nAssistant: Hi.", "No."), (1, 2))
    assert split.rows([later]) == split.rows([runs_on]) == ([], [], [])
    # But not one in which the assistant says it, or in which the human said nothing at first
    answered = Demonstration(other + " Hello\n\nHuman: Name a fruit.\n\nAssistant:", "A pear.")
    silent = Demonstration("\n\nHuman:\n\nAssistant: Yes?" + other, "So.")
    assert human_turns(silent.prompt) == ["why?"]
    assert split.rows([answered, silent]) == ([answered, silent], [], [])


def test_documents_that_are_equal_are_in_one_part_whatever_else_there_is():
    documents = [f"Piece {i // 2}." if i % 2 else f" piece  {i // 2}.\n" for i in range(8000)]
    train, valid = split_documents(documents, (0.95, 0.05), 0)
    assert {normalised(x) for x in train}.isdisjoint(normalised(x) for x in valid)
    assert abs(len(valid) / 8000 - 0.05) < 5 * (0.05 * 0.95 / 4000) ** 0.5
    assert split_documents(documents[4000:], (0.95, 0.05), 0)[1] == [
        x for x in valid if int(x.strip(" \n.")[5:]) >= 2000
    ]
    assert split_documents(documents, (0.95, 0.05), 1)[1] != valid


def test_documents_that_hold_a_held_out_prompt_are_told():
    test, train = user_of(2), user_of(0)
    asked = [
        Prompt("\n\nHuman: Who wrote the Book of Hours?\n\nAssistant:", user=test),
        Prompt("\n\nHuman: Hey you!\n\nAssistant:", user=test),
        Prompt("\n\nHuman: Where is the river today?\n\nAssistant:", user=train),
    ]
    split = split_of(SHARES, 0, asked)
    fine = [
        "He said: hey you!",
        "Where is the river today? There.",
        "Who wrote the Book?",
        "who, wrote the books of hours",
        "Of hours, who the book wrote.",
    ]
    held = [
        'They ask, "who wrote the book\nof hours?" and leave.',
        " HEY you! ",
        "Human: Hey you!\n\nAssistant: Hi.",
        "Human: Where?\n\nAssistant: There.\n\nHuman: hey  you!",
    ]
    assert split.without_held_out([*fine, *held]) == fine


def test_real_conversations(real_data):
    """HH's harmless-base: what is held out begins as nothing does that is trained on, and no row is lost."""
    hh = str(real_data / "hh-rlhf/harmless-base.jsonl.gz")
    files = (read_prompts(hh), read_demonstrations(hh, "drop"), read_rankings(hh, "drop"))
    train, valid, test = parts_of(split_of((0.8, 0.08, 0.12), 0, *files), files)
    trained_on = {turn for row in train for turn in turns(row)}
    assert {turns(row)[0] for row in (*valid, *test)}.isdisjoint(trained_on)
    count = sum(map(len, files))
    assert sum(map(len, (train, valid, test))) == count > 5000
    assert all(
        abs(len(part) / count - share) < 0.03
        for part, share in zip((train, valid, test), (0.8, 0.08, 0.12), strict=True)
    )


def test_rows_from_elsewhere_lose_what_is_held_out():
    """By its user, by the opening, however it is typed, and by a later turn."""
    held = [Prompt("\n\nHuman: Where is Dorn?\n\nAssistant:", user="ada"), Prompt("Who are you?")]

    def ranking(text, user=""):
        return Ranking(f"\n\nHuman: {text}\n\nAssistant:", ("Yes.", "No."), (1, 2), user=user)

    kept = [ranking("Where is Arvale?"), ranking("Where is Corvin?", "bruno")]
    later = ranking("Hello.\n\nAssistant: Hello.\n\nHuman: who are you?")
    gone = [ranking("where  is DORN?"), ranking("Who are you?", "bruno"), ranking("Something else.", "ada"), later]
    assert not_held_out([gone[0], kept[0], *gone[1:], kept[1]], held) == kept
    assert not_held_out(gone, []) == gone


@pytest.mark.parametrize(
    "more",
    [
        {"role": "tool", "content": "42"},
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be brief.\n\nHuman: Hey"},
    ],
)
@pytest.mark.parametrize("calls", [{}, {"tool_calls": [{"name": "f"}]}])
def test_a_tool_or_a_second_system_behind_the_first_turn_is_no_part_of_the_opening(more, calls):
    asked = {"role": "user", "content": "What is the answer?"}
    for told in ([{**asked, **calls}, more], [more, {**asked, **calls}], [asked, more, asked]):
        messages = Messages(told)
        assert openings([[Prompt("\n\nHuman: What is the answer?\n\nAssistant:")]]) == openings([[Prompt(messages)]])
        assert (
            not_held_out([Demonstration(messages, "42")], [Prompt("\n\nHuman: What is the answer?\n\nAssistant:")])
            == []
        )
        ranking = Ranking(Messages([{**asked, "content": "Hm"}]), (messages, "No"), (1, 2))
        assert not_held_out([ranking], [Prompt(messages)]) == []
