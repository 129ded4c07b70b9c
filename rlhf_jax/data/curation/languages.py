"""Prompts in other languages than those asked for."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache

from rlhf_jax.data.curation.curated import Curated, Dropped, library, written
from rlhf_jax.data.dialogue import TURN
from rlhf_jax.data.prompts import Prompt
from rlhf_jax.errors import InputError

OTHER = "are in another language"
SURE = 0.5  # the probability below which a guess drops nothing


def drop_other_languages(prompts: Iterable[Prompt], languages: Sequence[str]) -> Curated:
    """The prompts that are in one of these languages (ISO 639 codes, such as "en"), or may be.

    By py3langid, offline, a fork of langid.py, which InstructGPT's App. A.4 used: it found 96 % of the paper's prompts
    English, and the authors think that 99 % or more are. So only a language that it finds likelier than all others together
    drops a prompt, and text without words (its class "zxx") does not. InputError: it is not installed, a code that it does
    not know.
    """
    guess = identifier()
    known = codes()
    for code in languages:
        if code not in known:
            raise InputError(f"the language {code!r} is not known; name some of {', '.join(sorted(known - {'zxx'}))}")
    kept, dropped = [], []
    for prompt in prompts:
        code, sure = guess(prompt)
        if code in (*languages, "zxx") or sure <= SURE:
            kept.append(prompt)
        else:
            dropped.append(Dropped(prompt, OTHER, code))
    return Curated(kept, dropped)


def identifier() -> Callable[[Prompt], tuple[str, float]]:
    """prompt → (ISO 639 code, or "zxx" where there are no words; its probability), by what is written from the first human
    turn on. InputError: py3langid is not installed."""
    model = _model()
    return lambda prompt: model.classify(TURN.sub("\n\n", written(prompt)[1]))


def codes() -> set[str]:
    """Those that the identifier knows."""
    return set(map(str, _model().labels))


@cache
def _model():
    langid = library("py3langid.langid", "py3langid")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
