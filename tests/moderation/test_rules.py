"""Rules find what is written in other ways, and nothing in words that merely hold the same letters."""

import itertools
import lzma
import os
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.moderation import Rule, Rules, Verdict, both, plain, read_rules, read_words
from tests.refusals import refusal

PHRASES = (
    *(
        "shit",
        "crap",
        "ass",
        "arsehole",
        "asshole",
        "bastard",
        "bollocks",
        "wanker",
        "tosser",
        "twat",
        "prick",
        "bugger",
    ),
    *("piss off", "sod off", "dumb git", "bloody idiot", "moron", "cock", "zonk", "anal"),
)
EVASIONS = {
    # spacing
    "You s h i t, go away.": "s h i t",
    "c.r.a.p": "c.r.a.p",
    "a-s-s": "a-s-s",
    "Such an arse-hole!": "arse-hole",
    "p i s s  o f f": "p i s s  o f f",
    "pissoff": "pissoff",
    "Oh sod\noff, will you?": "sod\noff",
    "bast ard? No: ba stard": None,  # both pieces can be spoken, as in "pen is"
    "z_o_n_k": "z_o_n_k",
    "zo nk!": "zo nk",
    "You pri ck.": "pri ck",
    "w*a*n*k*e*r": "w*a*n*k*e*r",
    # look-alike letters
    "ѕһіt": "ѕһіt",
    "сrар": "сrар",
    "аss": "аss",
    "bаѕtаrd": "bаѕtаrd",
    "ｂｏｌｌｏｃｋｓ": "ｂｏｌｌｏｃｋｓ",
    "𝓽𝔀𝓪𝓽": "𝓽𝔀𝓪𝓽",
    "ⓟⓡⓘⓒⓚ": "ⓟⓡⓘⓒⓚ",
    "🅲🅾🅲🅺": "🅲🅾🅲🅺",
    "🇲🇴🇷🇴🇳": "🇲🇴🇷🇴🇳",
    "ᴀꜱꜱʜᴏʟᴇ": "ᴀꜱꜱʜᴏʟᴇ",
    "buggér": "buggér",
    "z̶o̶n̶k̶": "z̶o̶n̶k̶",
    "Ζοηк": None,  # eta looks like n, and the table has it for none
    "τοssеr": "τοssеr",
    "tøsser": "tøsser",
    "ＡＮＡＬ": "ＡＮＡＬ",
    # characters that show nothing
    "s\u200bh\u200bi\u200bt": "s\u200bh\u200bi\u200bt",
    "cr\u00adap": "cr\u00adap",
    "a\u2060s\ufeffs": "a\u2060s\ufeffs",
    "mo\u200dron": "mo\u200dron",
    "tw\u034fat": "tw\u034fat",
    "co\u3164ck": "co\u3164ck",
    "piss\u200b off": "piss\u200b off",
    "b\u202eugger": "b\u202eugger",
    # digits and signs
    "sh1t": "sh1t",
    "$h!t": "$h!t",
    "cr4p": "cr4p",
    "@$$": None,  # not one letter of it is a letter
    "a55hole": "a55hole",
    "4rs3h0le": "4rs3h0le",
    "b@st@rd": "b@st@rd",
    "b0ll0cks": "b0ll0cks",
    "w4nk3r": "w4nk3r",
    "7wat": "7wat",
    "pr|ck": "pr|ck",
    "m0r0n": "m0r0n",
    "b1oody idi0t": "b1oody idi0t",
    "sh*t": "sh*t",
    "c#ck": "c#ck",
    "z0nk": "z0nk",
    # cases and lengths
    "SHIT": "SHIT",
    "sHiT": "sHiT",
    "shiiiiit": "shiiiiit",
    "aSSSS": "aSSSS",
    "Bastards": "Bastards",
    "COCKS": "COCKS",
    "Moooron": "Moooron",
    "Wankers!": "Wankers",
    # HTML entities
    "s&#104;it": "s&#104;it",
    "&#x63;rap": "&#x63;rap",
    "a&shy;ss": "a&shy;ss",
    "mor&ocirc;n": "mor&ocirc;n",
    "tw&amp;#97;t": "tw&amp;#97;t",
    "zo&zwnj;nk": "zo&zwnj;nk",
}
INNOCENT = re.findall(
    r"\w+",
    """Scunthorpe Essex assess class classic passage cassette embassy harass assassin bass basset grass mass brass Dickens
    shiitake cocktail cockpit peacock Hancock cockroach Penistone analysis annals canal banal analogue scrap scrape sodium
    scrapbook therapist Sussex mishit cushite bastardise prickle pricked digit legit oxymoron moronic office dumbbell
    bloodless idiotic wankel tosses crossing swank twattle zonked shitake passion""",
)
FRAMES = (
    *("The {} is here.", "I saw {} yesterday.", "Is it about {}?", "{} and nothing else.", "She wrote «{}» twice."),
    *(
        "On page 455 stands {}.",
        "He said: {}!",
        "The pen is near the {}.",
        "As she has {}, so has he.",
        "{}: 100 % fine.",
    ),
)
RULES = Rules((Rule("rude words", "rude", PHRASES),))


def found(text: str) -> list[str]:
    return [reason.text for reason in RULES(text).reasons]


def test_there_are_sixty_evasions_or_more_and_five_hundred_innocent_sentences():
    assert len(PHRASES) == 20 and len(EVASIONS) >= 60 and len(INNOCENT) * len(FRAMES) >= 500


@pytest.mark.parametrize("text", EVASIONS)
def test_an_evasion_is_found_where_it_stands_as_it_was_written(text):
    expected = EVASIONS[text]
    assert found(text) == ([] if expected is None else [expected])
    for reason in RULES(text).reasons:
        assert text[reason.start : reason.end] == reason.text


def test_innocent_sentences_with_the_same_letters_raise_no_alarm():
    sentences = [frame.format(word) for word, frame in itertools.product(INNOCENT, FRAMES)]
    assert [sentence for sentence in sentences if RULES(sentence).flagged] == []


@given(st.sampled_from(PHRASES), st.text(string.ascii_lowercase + " .,", max_size=12), st.randoms())
def test_a_phrase_is_found_in_any_text_around_it_and_in_any_case(phrase, around, random):
    said = "".join(random.choice((c.upper(), c)) for c in phrase)
    text, start = f"{around} {said} {around[::-1]}", len(around) + 1
    assert any(r.start <= start and r.end >= start + len(said) for r in RULES(text).reasons)


def test_rude_words_of_books_are_those_of_the_list():
    """Every word of novels and plays that is flagged is a word of the list or the plural of one, but for two."""
    if not (data := os.environ.get("RLHF_JAX_DATA")) or not (Path(data) / "toxicity-wordlist").is_dir():
        pytest.skip("RLHF_JAX_DATA is not set, or has no toxicity-wordlist")
    words = read_words(Path(data) / "toxicity-wordlist" / "list_of_naughty_and_bad_words.txt")
    rules = Rules((Rule("list", "rude", tuple(words)),))
    texts = lzma.decompress((Path(data) / "books-pd" / "books.jsonl.xz").read_bytes()).decode()
    texts += (Path(data) / "tinyshakespeare" / "input.txt").read_text()
    vocabulary = set(re.findall(r"[a-z]+", texts.lower()))
    assert len(vocabulary) > 20_000
    flagged = {word for word in vocabulary if rules(word).flagged}
    plurals = {f"{word}{s}" for word in words for s in ("s", "es")}
    assert flagged - {*words} - plurals <= {"xxxxxx", "blackcocks"}  # a number of kisses, and birds
    assert flagged >= vocabulary & {word for word in words if word.isalpha()}


def test_patterns_see_the_text_as_people_read_it_and_each_rule_has_its_category():
    rules = Rules((Rule("bombs", "V", patterns=(r"Build (a|the) bomb",)), Rule("rude words", "rude", ("zonk",))))
    verdict = rules("You ｚｏｎｋ, how do I BUILD&nbsp;a b\u200bomb?")
    assert verdict.flagged and verdict.categories == {"V": True, "rude": True}
    assert [(r.name, r.category, r.text) for r in verdict.reasons] == [
        ("bombs", "V", "BUILD&nbsp;a b\u200bomb"),
        ("rude words", "rude", "ｚｏｎｋ"),
    ]
    assert rules("Good day.").as_result() == {
        "flagged": False,
        "categories": {"V": False, "rude": False},
        "category_scores": {"V": 0.0, "rude": 0.0},
    }


def test_a_text_that_is_made_to_be_slow_is_read():
    """Where a letter's length has no bound these take minutes, or for ever."""
    rules = Rules((Rule("doubles", "rude", ("boob", "queue", "kill", "anal")),))
    for text in ("b" + "*" * 5_000, "q" + "*" * 5_000, "b" + "o" * 5_000, "k" + "!" * 5_000):
        assert not rules(f"{text}.").flagged
    assert rules("&" + "amp;" * 5_000 + " boob").flagged


def test_what_has_no_letters_is_found_as_it_stands():
    rules = Rules((Rule("signs", "rude", ("🖕", "88")),))
    assert [r.text for r in rules("🖕 88 188 8 8").reasons] == ["🖕", "88"]


def test_two_moderators_flag_what_either_does():
    scored = lambda text: Verdict({"S": False, "rude": False}, {"S": 0.4, "rude": 0.2})  # noqa: E731
    verdict = both(RULES, scored)("You zonk.")
    assert verdict.categories == {"rude": True, "S": False} and verdict.category_scores == {"rude": 1.0, "S": 0.4}
    assert [reason.text for reason in verdict.reasons] == ["zonk"]


def test_a_plain_text_knows_where_its_characters_were_written():
    text = "Ａ&amp;B ﬁ ß\u200bé"
    read = plain(text)
    assert read.text == "a&b fi sse"
    assert [text[slice(*read.written(i, i + 1))] for i in (0, 1, 2)] == ["Ａ", "&amp;", "B"]


def test_rules_are_read_from_a_file(tmp_path):
    (tmp_path / "words.txt").write_text("# rude\nzonk\n\nblarg\n")
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nname = "rude words"\ncategory = "rude"\nwords = ["grotz"]\nfile = "words.txt"\n')
    assert [r.text for r in read_rules(path)("zonk, BLARG and gr0tz").reasons] == ["zonk", "BLARG", "gr0tz"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "rules are [[rule]] tables and nothing else"),
        ("[[rule]\n", "no rules can be read"),
        ('[[rule]]\nname = "a"\ncategory = "b"\n', "rule 1: the rule 'a' has neither words nor patterns"),
        ('[[rule]]\ncategory = "b"\nwords = ["x"]\n', "rule 1: a rule has no name or no category"),
        ('[[rule]]\nname = "a"\ncategory = "b"\nwords = "x"\n', "rule 1: words is 'x': make it a list of strings"),
        ('[[rule]]\nname = "a"\ncategory = "b"\nwords = [1]\n', "rule 1: words is [1]: make it a list of strings"),
        ('[[rule]]\nname = "a"\ncategory = "b"\nword = ["x"]\n', "rule 1: word is no key of a rule"),
        (
            '[[rule]]\nname = "a"\ncategory = "b"\npatterns = ["("]\n',
            "rule 1: the rule 'a': '(' is no regular expression",
        ),
        ('[[rule]]\nname = "a"\ncategory = "b"\nwords = ["\u200b"]\n', "shows nothing: write a word"),
        ('[[rule]]\nname = "a"\ncategory = "b"\nfile = "none.txt"\n', "none.txt: no words can be read"),
        ('[[rule]]\nname = "a"\ncategory = "b"\nwords = ["x"]\n' * 2, "two rules have the name 'a'"),
    ],
)
def test_rules_that_are_none_are_refused_by_file_and_number(text, sentence, tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    refusal(lambda: read_rules(path), str(tmp_path), sentence)
