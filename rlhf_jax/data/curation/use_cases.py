"""Which of the paper's ten use-cases a prompt is."""

import re

from rlhf_jax.data.curation.curated import written
from rlhf_jax.data.dialogue import HUMAN
from rlhf_jax.data.prompts import Prompt

# InstructGPT's Table 1: % of the prompts from the API, in the order of the table.
TABLE_1 = {
    "generation": 45.6, "open_qa": 12.4, "brainstorming": 11.2, "chat": 8.4, "rewrite": 6.6,
    "summarization": 4.2, "classification": 3.5, "other": 3.5, "closed_qa": 2.6, "extract": 1.9,
}  # fmt: skip
PASSAGE = 300  # characters from which on a text that ends in a question is more than the question
CHAT = re.compile(
    r"following is (?:a|an) (?:\w+ )?(?:conversation|dialogue|chat)|^(?:hi|hello|hey)\b[^.?]{0,20}[.!?,]?$"
)
QUESTION = re.compile(
    r"^(?:who|whom|whose|what|which|when|where|why|how|is|are|was|were|do|does|did|can|could|will|would|should|explain|define|"
    r"describe|tell me)\b"
)
TEXTS = "article|context|email|excerpt|information|list|paragraph|passage|review|sentence|story|table|text"
# The first that holds of a text in lower case is the use-case.
RULES = {
    "summarization": (
        r"\bsummar(?:i[sz]e|y|ies)\b|\btl;? ?dr\b",
        r"\bsum (?:it |this |that )?up\b|\b(?:main|key) points? of\b",
    ),
    "rewrite": (
        r"\b(?:re-?write|re-?phrase|paraphrase|translat(?:e|ion)|proofread|reword|shorten|simplify)\b",
        r"\bconvert (?:this|the|each|it|these)\b|\b(?:fix|correct|improve) (?:the|this|my|any)\b",
        r"\bmake (?:this|it) (?:sound|more)\b|\b(?:in|into) (?:the )?(?:passive|active|past|present|third person)\b",
    ),
    "extract": (
        r"\bextract\b",
        r"\b(?:list|find|identify|pull out|give) (?:all|every|each|the) [^.?]{0,60}\b(?:mentioned|in|from) "
        rf"(?:the|this|these) (?:\w+ )?(?:{TEXTS})\b",
    ),
    "classification": (
        r"\b(?:classify|categori[sz]e|sentiment|spam)\b|\b(?:positive|negative) or (?:negative|positive|neutral)\b",
        r"\b(?:which|what) (?:category|class|label|genre|topic) (?:does|do|is|best|of)\b|\btrue or false\b",
        r"\brate (?:the|this|each)\b",
    ),
    "closed_qa": (
        rf"\b(?:according to|based on|given|using|read) (?:only )?(?:the|this|that) (?:\w+ )?(?:{TEXTS})\b",
        rf"^(?:{TEXTS}):",
    ),
    "brainstorming": (
        r"\bbrainstorm\b|\bideas?\b|\b(?:come up with|suggest|recommend)\b|\bways (?:to|in which)\b",
        r"\b(?:list|give me|name|tell me|think of) (?:\d+|a few|some|several|two|three|four|five|six|seven|eight|nine|ten)\b",
        r"^(?:what are|list) (?:some|\d+|a few|ten|five|good)\b",
    ),
    "generation": (
        r"^(?:please )?(?:can you |could you )?(?:write|compose|create|generate|draft|make up|continue|finish|complete|"
        r"design|invent|imagine|produce|tell (?:me|us) a (?:\w+ )?(?:story|joke))\b",
        r"\b(?:essay|poem|story|letter|script|lyrics) (?:about|on|to)\b",
    ),
}
COMPILED = {name: re.compile("|".join(rules)) for name, rules in RULES.items()}


def use_case(prompt: Prompt) -> str:
    """One of TABLE_1, by the first rule that the prompt's words meet: several human turns or the words of a dialogue are
    chat, "summarize" is summarization, …, a question behind a passage closed QA, a question without one open QA, and what no
    rule knows is other. In English only; the paper's were given by labelers, who read."""
    transcript = written(prompt)[1]
    first, *more = transcript.split(HUMAN)
    text = " ".join(first.lower().split())
    if more or CHAT.search(text):
        return "chat"
    asked = next((name for name, rule in COMPILED.items() if rule.search(text)), "")
    if asked:
        return asked
    if text.endswith("?") and len(text) > PASSAGE:
        return "closed_qa"
    return "open_qa" if QUESTION.search(text) or text.endswith("?") else "other"


def with_use_case(prompt: Prompt) -> Prompt:
    """The prompt, whose category is its use-case where it has none."""
    return prompt if prompt.category else prompt._replace(category=use_case(prompt))
