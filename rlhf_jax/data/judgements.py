"""What may judge an answer: names of columns, and the cells in them."""

import re
from functools import cache
from typing import Any

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
# A name with one of these words in it judges what stands beside it.
JUDGES = re.compile(
    r"labels?|rating|ratings|rated|score|scores|rank|ranks|stars?|rewards?|grades?|graded|marks?|points|karma|votes?|upvotes?|"
    r"downvotes?|upvoted|downvoted|thumbs?\w*|(?:dis)?lik(?:es?|ed)|prefer\w*|(?:in)?correct\w*|wrong|right|(?:un)?safe\w*|"
    r"(?:non)?tox\w*|harm\w*|hate\w*|offensive|(?:un)?help\w*|quality|good|bad|poor|best|better|worse|worst|"
    r"(?:un)?desir\w*|(?:un)?accept\w*|reject\w*|(?:dis)?approv\w*|chosen|select\w*|pass|passed|passes|passing|fail\w*|success\w*|"
    r"(?:in)?valid|verdicts?|judge?ments?|judged|feedback|reviews?|reviewed|critique|eval\w*|assess\w*|outcome|solved|resolved|"
    r"verif\w*|hallucinat\w*|refus\w*|(?:un)?truth\w*|(?:un)?factual\w*|(?:dis)?honest\w*|(?:in)?coheren\w*|(?:ir)?relevan\w*|"
    r"following|flag|flags|flagged|moderation|violat\w*|winner|wins?|won|lost|(?:dis|un)?satisf\w*|usable|useful\w*|truncated|spam|"
    r"deleted|discarded|reported|wanted|unwanted|(?:un)?ethical|opinion|sentiment|reaction|agree\w*|disagree\w*|ok|okay|"
    r"accura\w*|inaccura\w*|compliant|compliance|bias\w*|unbiased|trust\w*|fluen\w*|happy|positive|negative|overall|nsfw|nps|"
    r"advantage|keep|include|exclude|skip|learn|errors?|decision|choice|results?|consensus|match|matches|severity|"
    r"appropriate\w*|inappropriate"
)
SCALE = re.compile(
    r"ratings?|scores?|rank|rewards?|quality|helpful\w*|preferences?|stars|grades?|points|votes|upvotes|likes|overall|win|"
    r"correct\w*"
)
WORSE = re.compile(  # words of what is bad where it is true, or large
    r"(?:tox|harm(?!less)|hate|unsafe|bias|violat|bad|wrong|error|downvote|dislike|perplex|risk|loss|flag|spam|delet|discard|fail|"
    r"refus|reject|halluc|nsfw|offens|incorrect|invalid|truncat|report|unwanted|exclude|skip|swap|flip|nois|mislabel)\w*"
)
# Unless the name ends in one of these, or begins as what is said of the prompt does.
OTHERWISE = re.compile(
    r"id|ids|model|models|name|names|url|version|source|date|time|timestamp|prompt|prompts|template|answers?|responses?|"
    r"completions?|outputs?|explanation|guidelines?|rubrics?|type|tag"
)
PROMPTS = {"prompt", "question", "query", "input", "instruction"}
HARMLESS = {  # columns of truth values that say nothing of an answer
    *(
        "parallel_tool_calls",
        "store",
        "stream",
        "streaming",
        "redacted",
        "english",
        "is_english",
        "multi_turn",
        "is_multi_turn",
    ),
    *("multiturn", "synthetic", "is_synthetic", "has_code", "has_tools", "tool_use", "has_system", "good_natured"),
    *("custom_instruction", "skip_prompt_formatting", "in_gsm8k_train", "thinking", "enable_thinking", "reasoning"),
    *("has_reasoning", "is_translated", "translated", "add_generation_prompt", "continue_final_message"),
}
BAD = {
    *(
        "bad",
        "wrong",
        "down",
        "incorrect",
        "rejected",
        "reject",
        "fail",
        "failed",
        "failure",
        "unsafe",
        "poor",
        "dislike",
    ),
    *("disliked", "negative", "thumbs_down", "thumbs down", "thumbsdown", "thumb_down", "👎", "👎🏻", "discarded"),
    *(
        "worse",
        "worst",
        "toxic",
        "harmful",
        "undesirable",
        "unacceptable",
        "invalid",
        "unhelpful",
        "not helpful",
        "downvote",
    ),
    *(
        "downvoted",
        "error",
        "refused",
        "not ok",
        "nok",
        "terrible",
        "awful",
        "not preferred",
        "dispreferred",
        "loser",
        "lose",
    ),
}


@cache
def words_in(name: str) -> tuple[str, ...]:
    """The words of a name, small: of "isChosen" and "is_chosen" is and chosen."""
    return tuple(word.lower() for word in WORD.findall(name))


@cache
def judges(name: str) -> bool:
    """Whether a column of this name may say of an answer that it is good or bad."""
    words = words_in(name)
    if not words or name.lower() in HARMLESS or (OTHERWISE.fullmatch(words[-1]) and words[0] not in ("is", "was")):
        return False
    if words[0] in PROMPTS and "following" not in words:
        return False
    return any(JUDGES.fullmatch(word) for word in words)


@cache
def is_worse(name: str) -> bool:
    """Whether a column of this name says that an answer is bad where it is true or large."""
    return any(map(WORSE.fullmatch, words_in(name)))


@cache
def rates(name: str) -> bool:
    """Whether numbers of this name are larger for the better answer, or are ranks."""
    words = words_in(name)
    return any(map(SCALE.fullmatch, words)) and not is_worse(name)


def is_harmless(name: str) -> bool:
    """Whether a column of truth values is known to say nothing of an answer."""
    return name.lower() in HARMLESS or words_in(name)[:1] in [(word,) for word in PROMPTS]


def is_truth(value: Any) -> bool:
    """True or false, or the text of one."""
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false"))


def is_bad(value: Any) -> bool:
    """Whether a cell holds nothing but a word that calls something bad."""
    return isinstance(value, str) and value.strip().casefold() in BAD


def is_number(value: Any) -> bool:
    """A number, or a text that reads as one."""
    if isinstance(value, bool) or value is None:
        return False
    try:
        return float(value) == float(value)
    except (TypeError, ValueError, OverflowError):
        return False
