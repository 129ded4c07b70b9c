"""Personal data in prompts: what a pattern, a check digit or a list can find of it."""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

from rlhf_jax.data.curation.curated import Curated, Dropped, library
from rlhf_jax.data.curation.names import FAMILY, GIVEN
from rlhf_jax.data.prompts import Prompt
from rlhf_jax.errors import InputError

PERSONAL = "hold personal data"
KINDS = ("e-mail", "IBAN", "card", "national number", "IP", "phone", "address", "name")


class Personal(NamedTuple):
    kind: str  # one of KINDS
    text: str


def drop_personal(prompts: Iterable[Prompt], region: str = "US") -> Curated:
    """The prompts in which `personal_data` finds nothing. InstructGPT (§3.2) filters the training split alone."""
    kept, dropped = [], []
    for prompt in prompts:
        found = personal_data(prompt.text, region)
        if found:
            kinds = dict.fromkeys(personal.kind for personal in found)
            dropped.append(Dropped(prompt, PERSONAL, ", ".join(kinds)))
        else:
            kept.append(prompt)
    return Curated(kept, dropped)


def personal_data(text: str, region: str = "US") -> list[Personal]:
    """What is found in a text, each stretch of it once.

    - e-mail: an address whose domain has an ending, less the domains that are reserved for examples (RFC 2606) and `git@`.
    - IBAN, card and national number: by form, length and check digits (python-stdnum); cards begin as an issuer's do.
      National numbers are those of NATIONAL, of which the USA's (SSN) has no check digit and is known by its hyphens and the
      numbers that are never given. ISBNs are none of them.
    - IP: of a public network, less the resolvers that everybody names; four numbers behind "version" are none.
    - phone: what libphonenumber holds for a valid number of {region} (an ISO 3166 code, such as "GB"), or behind "+" of any;
      digits without any grouping only behind a word such as "call"; numbers that are free to call or cost extra are no one's.
    - address: a number beside a street, by the words that streets of English, German, French, Spanish and Italian have; a
      post office box; a city with state and ZIP code; a British postcode.
    - name: a common given name before a common family name, a title or "my name is" before either.

    Left out, because it takes a model that reads (as of named entities): names that are not on the list or are written small,
    whether a name is a private person's or a public one's, addresses without such a form, user names and links to accounts,
    passports, plates and other numbers without check digits, dates of birth, and facts that tell who somebody is only
    together. InputError: phonenumbers or python-stdnum is not installed; a region that there is not.
    """
    _check_region(region)
    found: list[Personal] = []
    left = ISBN.sub(lambda match: _blank(match) if _number("isbn").is_valid(match["digits"]) else match[0], text)
    for kind, finder in FINDERS.items():
        seen = left
        for start, end in finder(seen, region):
            if left[start:end] == seen[start:end]:  # no other pattern of this kind has found it
                found.append(Personal(kind, text[start:end]))
                left = f"{left[:start]}{' ' * (end - start)}{left[end:]}"
    return found


# A tenth of all phone numbers has an ISBN's check digit, so one of ten digits has to say what it is.
ISBN = re.compile(r"(?:ISBN(?:-1[03])?:?\s*|(?<![\w-])(?=97[89]))(?P<digits>(?:\d[ -]?){9,12}[\dX])(?![\w-])")
EMAIL = re.compile(r"(?<![\w.+%@/-])[\w.+%-]+@(?:[\w-]+\.)+[^\W\d_]{2,}(?![\w@(]|:[\w/])")
RESERVED = re.compile(r"(?:^git@|[@.]example(?:\.(?:com|net|org))?$|\.(?:test|invalid|localhost)$)", re.IGNORECASE)
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
CARD = re.compile(r"(?<![\w.-])\d{4}(?:[ -]?\d{2,6}){2,4}(?![\w-]|\.\d)")
ISSUERS = (  # the first digits of a card's number, and how many it has
    (re.compile(r"4"), (13, 16, 19)),
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"6011|65|64[4-9]"), (16,)),
    (re.compile(r"35(?:2[89]|[3-8])"), (16,)),
    (re.compile(r"30[0-5]|3[689]"), (14,)),
)
# python-stdnum's module, and the form in which a number is written. What many other numbers look like has to say its name.
NATIONAL = tuple(
    (module, re.compile(rf"(?<![\w.-]){form}(?![\w-]|\.\d)"))
    for module, form in (
        ("us.ssn", r"\d{3}-\d{2}-\d{4}"),
        ("gb.nhs", r"\d{3} \d{3} \d{4}"),
        ("ca.sin", r"\d{3}[ -]\d{3}[ -]\d{3}"),
        ("in_.aadhaar", r"\d{4} \d{4} \d{4}"),
        ("de.idnr", r"\d{2} \d{3} \d{3} \d{3}"),
        ("fr.nir", r"[1278] ?\d{2} ?(?:0[1-9]|1[0-2]|[2-9]\d) ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}"),
        ("es.dni", r"\d{8}-?[A-Z]"),
        ("es.nie", r"[XYZ]-?\d{7}-?[A-Z]"),
        ("it.codicefiscale", r"[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]"),
        ("br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}"),
        ("se.personnummer", r"\d{6}(?:\d{2})?[-+]\d{4}"),
        ("fi.hetu", r"\d{6}[-+A]\d{3}[0-9A-Y]"),
        ("pl.pesel", r"(?<=PESEL )\d{11}"),
        ("nl.bsn", r"(?<=BSN )\d{9}"),
        ("ch.ssn", r"756\.\d{4}\.\d{4}\.\d{2}"),
        ("be.nn", r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}"),
        ("cn.ric", r"\d{17}[\dX]"),
        ("kr.rrn", r"\d{6}-\d{7}"),
        ("mx.curp", r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z\d]\d"),
    )
)
IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:.])")
VERSION = re.compile(r"(?:\bv|version|release|build|firmware|section|chapter)[.:]?\s*$", re.IGNORECASE)
RESOLVERS = frozenset(("1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9"))
CALL = re.compile(
    r"\b(?:call|phone|telephone|tel|mobile|cell|text|sms|fax|whatsapp|reach|contact|ring|dial)\b\D{0,24}$",
    re.IGNORECASE,
)
WORD = r"[A-Z][\w'’.-]*\s+"
STREETS = "Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Place|Pl|Way|Terrace|Close|Crescent"
STREETS += "|Square|Sq|Parkway|Pkwy|Highway|Hwy|Circle|Grove|Gardens|Row"
ADDRESSES = tuple(
    re.compile(form)
    for form in (
        rf"(?<![\w.,$-])(?<![Ii]n )\d{{1,5}}[A-Za-z]?\s+(?:[NSEW]\.?\s+)?(?:{WORD}|\d+(?:st|nd|rd|th)\s+){{1,4}}"
        rf"(?:{STREETS})\b",
        r"\bP\.?\s?O\.?\s?Box\s+\d+",
        r"\b[A-Z][a-z]+(?: [A-Z][a-z]+)*,\s+[A-Z]{2}\s+\d{5}(?:-\d{4})?(?!\w)",
        r"\b[A-Z]{1,2}\d[A-Z\d]?\s\d[ABD-HJLNP-UW-Z]{2}\b",
        r"\b[A-ZÄÖÜ][\wäöüß-]*(?:straße|strasse|str\.|weg|allee|platz|gasse)\s+\d{1,4}[a-z]?\b",
        r"\b\d{1,4}(?:\s?(?:bis|ter))?,?\s+(?:rue|avenue|boulevard|place|chemin|impasse|allée|quai)\s+"
        r"(?:(?:de la|de|du|des|la|le)\s+|d[e]?['’]|l['’])*[A-ZÉÈ]\w+",
        r"\b(?:Calle|Avenida|Via|Viale|Piazza|Plaza|Rua)\s+(?:(?:de|del|della|la|las|los|dei)\s+)*[A-Z]\w+(?:\s[A-Z]\w+)?,?\s+\d{1,4}\b",
    )
)
PAIR = re.compile(r"\b(?=(?P<given>[A-Z][a-z]+)(?: [A-Z]\.)? (?P<family>[A-Z][A-Za-z]+)(?:-[A-Z][a-z]+)?\b)")
TITLED = re.compile(r"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Herr|Frau|Monsieur|Madame|Señora?)\b\.? (?P<named>[A-Z][A-Za-z]+)\b")
CALLED = re.compile(r"\b[Mm]y name(?:'s| is) (?P<named>[A-Z][a-z]+)\b")

Spans = Iterator[tuple[int, int]]


def _emails(text: str, region: str) -> Spans:
    if "@" in text:
        yield from (match.span() for match in EMAIL.finditer(text) if not RESERVED.search(match[0]))


def _ibans(text: str, region: str) -> Spans:
    yield from (match.span() for match in IBAN.finditer(text) if _number("iban").is_valid(match[0]))


def _cards(text: str, region: str) -> Spans:
    for match in CARD.finditer(text):
        digits = re.sub(r"[ -]", "", match[0])
        issued = any(len(digits) in lengths and first.match(digits) for first, lengths in ISSUERS)
        if issued and _number("luhn").is_valid(digits):
            yield match.span()


def _nationals(text: str, region: str) -> Spans:
    for module, form in NATIONAL if _has_number(text) else ():
        yield from (match.span() for match in form.finditer(text) if _number(module).is_valid(match[0]))


def _ips(text: str, region: str) -> Spans:
    for form in (IPV4, IPV6):
        for match in form.finditer(text):
            if _is_public(match[0]) and not VERSION.search(text[max(match.start() - 12, 0) : match.start()]):
                yield match.span()


def _is_public(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    routed = address.version == 4 or address in ipaddress.ip_network("2000::/3")
    return address.is_global and routed and text not in RESOLVERS


def _phones(text: str, region: str) -> Spans:
    if not _has_number(text):
        return
    phonenumbers = _phonenumbers()
    kind = phonenumbers.PhoneNumberType
    no_ones = (kind.TOLL_FREE, kind.PREMIUM_RATE, kind.SHARED_COST, kind.UAN)
    for match in phonenumbers.PhoneNumberMatcher(text, region):
        grouped = not match.raw_string.isdigit() or CALL.search(text[max(match.start - 40, 0) : match.start])
        if grouped and phonenumbers.number_type(match.number) not in no_ones:
            yield match.start, match.end


def _addresses(text: str, region: str) -> Spans:
    for form in ADDRESSES:
        yield from (match.span() for match in form.finditer(text))


def _names(text: str, region: str) -> Spans:
    for match in PAIR.finditer(text):
        if match["given"] in GIVEN and match["family"] in FAMILY:
            yield match.start(), match.end("family")
    yield from (match.span() for match in TITLED.finditer(text) if match["named"] in GIVEN | FAMILY)
    yield from (match.span() for match in CALLED.finditer(text) if match["named"] in GIVEN | FAMILY)


# In the order of KINDS: what one has found the next do not see.
FINDERS: dict[str, Callable[[str, str], Spans]] = dict(
    zip(KINDS, (_emails, _ibans, _cards, _nationals, _ips, _phones, _addresses, _names), strict=True)
)


def _has_number(text: str) -> bool:
    """Whether there are the seven digits that a telephone number and the shortest of NATIONAL have. Most texts have not, and
    patterns take time."""
    return len(re.findall(r"\d", text)) >= 7


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


@cache
def _number(module: str) -> ModuleType:
    return library(f"stdnum.{module}", "python-stdnum")


@cache
def _phonenumbers() -> Any:
    return library("phonenumbers", "phonenumbers")


@cache
def _check_region(region: str) -> None:
    regions = _phonenumbers().SUPPORTED_REGIONS
    if region not in regions:
        raise InputError(f"the region {region!r} is not known; name an ISO 3166 code, such as US, GB or DE")
