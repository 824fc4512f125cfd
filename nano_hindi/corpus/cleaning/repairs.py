"""Repair what the web does to Hindi spelling: entities, controls, signs in the wrong order, and
ASCII characters for danda and visarga.

Each rule is a function from text to text that returns its argument if there is nothing to repair.
A rule repairs only what cannot be meant: a pipe in a table, a colon after a name and a joiner that
selects the form of a conjunct stay.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from html.entities import html5

from nano_hindi.corpus.cleaning.letters import BINDU, CONSONANT, LETTER, MATRA, NUKTA, SIGN, VIRAMA, WORD
from nano_hindi.corpus.cleaning.punctuation import restore_dandas, restore_visargas

# ---- HTML entities

# Only with a semicolon, unlike html.unescape: `&copy=1` is part of an address.
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z\d]{1,31});")
_ESCAPED_AGAIN = re.compile("&(?:(?:amp|#38|#x26);)+", re.IGNORECASE)  # in one pass, however often


def unescape_entities(text: str) -> str:
    """Replace `&amp;`, `&#2325;` and so on, also if they are escaped twice."""
    if "&" not in text:
        return text
    text = _ESCAPED_AGAIN.sub("&", text)
    while (after := _ENTITY.sub(_character, text)) != text:
        text = after
    return text


def _character(entity: re.Match[str]) -> str:
    name = entity[0][1:]
    return html.unescape(entity[0]) if name.startswith("#") else html5.get(name, entity[0])


# ---- control characters and NFC

# Where a text has only these, there are no controls, NFC changes nothing but nuktas, and nothing is
# broken: one search instead of five, which are half of the time of all repairs.
_USUAL = "\t\n\x20-\x7e\xa0-\xac\xae-\xdf\xe1-\u02ff\u0900-\u0950\u0955-\u0957\u0960-\u097f\u200c\u200d\u2010-\u2027\u20b9"
_UNUSUAL = re.compile(f"[^{_USUAL}]")

# C0 and C1 controls except tab and newline; soft hyphen, zero-width space, direction marks, byte
# order mark
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")  # those of str.splitlines, such as the form feeds of a PDF
_NUKTA_NFC = re.compile(f"[\u0928\u0930\u0933{VIRAMA}]{NUKTA}")  # composes (ऩ ऱ ऴ), or changes places with the virama


@lru_cache(maxsize=1)  # several rules ask for the same text
def has_unusual(text: str) -> bool:
    """Return whether there may be controls, broken characters, or text that is not NFC."""
    return _UNUSUAL.search(text) is not None


def remove_controls(text: str) -> str:
    """Remove control and direction characters; any line end becomes a newline."""
    return _CONTROL.sub("", _LINE_ENDS.sub("\n", text)) if has_unusual(text) else text


def compose(text: str) -> str:
    return unicodedata.normalize("NFC", text) if has_unusual(text) or _NUKTA_NFC.search(text) else text


# ---- signs: nukta, matras, dotted circle, joiners

# In correct spelling no matra or nukta follows a matra, bindu or these vowels, and no sign itself
_MISPLACED = re.compile(f"[अआएउ{MATRA}{BINDU}][{MATRA}{NUKTA}]|([{BINDU}{NUKTA}{VIRAMA}])\\1|र्इ")


@lru_cache(maxsize=1)
def has_misplaced_sign(text: str) -> bool:
    """Return whether one of the next three rules may repair `text`: one search instead of three."""
    return _MISPLACED.search(text) is not None


_LATE_NUKTA = re.compile(f"([कखगजडढफय]){NUKTA}?([{MATRA}{BINDU}]+){NUKTA}+(?![डढ]{NUKTA})")  # the letters that have a nukta in Hindi
_EARLY_NUKTA = re.compile(f"([{MATRA}{BINDU}]){NUKTA}+(?=[डढ]{NUKTA})")  # जो़ड़: of the ड़ that follows


def reorder_nuktas(text: str) -> str:
    """Put a nukta that was typed after the matra directly after its consonant; remove one that is
    typed twice, before and after ड or ढ."""
    return _EARLY_NUKTA.sub(r"\1", _LATE_NUKTA.sub(rf"\1{NUKTA}\2", text)) if has_misplaced_sign(text) else text


_DOUBLED = re.compile(f"([{SIGN}])\\1+")
_HALF_LETTER = re.compile(f"{VIRAMA}ा(?=ा)")  # legacy fonts write स as half स् and its stem, converted to ा: उत्स्ााह is उत्साह


def merge_doubled_signs(text: str) -> str:
    """Write a sign that was typed twice once."""
    return _DOUBLED.sub(r"\1", _HALF_LETTER.sub("", text)) if has_misplaced_sign(text) else text


# Sequences that look like one vowel: those that the Unicode Standard says not to use (table 12-1),
# and a matra made of two. अे for ए is left: some authors spell so.
_VOWELS = {
    **{"अा": "आ", "अो": "ओ", "अौ": "औ", "अॉ": "ऑ", "अॅ": "ॲ", "आे": "ओ", "आै": "औ", "आॅ": "ऑ", "एॅ": "ऍ", "उु": "ऊ", "र्इ": "ई"},
    **{"ाे": "ो", "ाै": "ौ", "ाॅ": "ॉ", "ेा": "ो", "ैा": "ौ", "ॅा": "ॉ", "ांे": "ों", "ांै": "ौं"},
    "एे": "ऐ",  # only at the start of a word: जाएे is not जाऐ
}
_SPLIT_VOWEL = re.compile("|".join(vowel if vowel != "एे" else f"(?<![{WORD}])एे" for vowel in _VOWELS))


def compose_vowels(text: str) -> str:
    """Replace a vowel that was typed in two parts (अा, ाे) by the letter or matra it looks like."""
    if not has_misplaced_sign(text):
        return text
    while (after := _SPLIT_VOWEL.sub(lambda parts: _VOWELS[parts[0]], text)) != text:  # अाे is in three parts
        text = after
    return text


_DOTTED_CIRCLE = re.compile(f"(?<=[{WORD}])\u25cc|\u25cc(?![{SIGN}])")


def remove_dotted_circles(text: str) -> str:
    """Remove U+25CC, except where it shows a sign by itself."""
    return _DOTTED_CIRCLE.sub("", text) if "\u25cc" in text else text


_JOINERS = re.compile("[\u200c\u200d]+")
_PLAIN = re.compile("[\\s\u0900-\u097f\x21-\x7e\u2010-\u2027]")  # next to these, a joiner has only its Devanagari meaning
_LETTER, _CONJUNCT_PART = re.compile(f"[{LETTER}]"), re.compile(f"[{CONSONANT}{NUKTA}]")


def remove_stray_joiners(text: str) -> str:
    """Remove ZWJ and ZWNJ that do not change a conjunct.

    One stays between virama and letter, and between consonant and virama; all stay in emoji and in
    other scripts.
    """
    return _JOINERS.sub(_joiner, text) if "\u200c" in text or "\u200d" in text else text


def _joiner(joiners: re.Match[str]) -> str:
    text, (begin, end) = joiners.string, joiners.span()
    before, after = text[max(0, begin - 1) : begin], text[end : end + 1]
    if (before == VIRAMA and _LETTER.match(after)) or (after == VIRAMA and _CONJUNCT_PART.match(before)):
        return joiners[0][0]
    return "" if all(not character or _PLAIN.match(character) for character in (before, after)) else joiners[0]


# ---- replacement characters

MAX_BROKEN = 0.001  # of the characters; a text with more is dropped
_REPLACED = re.compile("(?<![\\w{0}\ufffd])\ufffd+(?![\\w{0}\ufffd])".format("\u0900-\u097f"))


def remove_replacement_characters(text: str) -> str:
    """Remove U+FFFD that stands alone, for a lost bullet or emoji. In a word it stays, to not hide
    that a letter is missing."""
    return _REPLACED.sub("", text) if 0 < text.count("\ufffd") <= MAX_BROKEN * len(text) else text


# in the order in which they are applied: an entity may be a control character, and so on
REPAIRS: dict[str, Callable[[str], str]] = {
    "HTML entities": unescape_entities,
    "control characters": remove_controls,
    "not NFC": compose,
    "nukta after matra": reorder_nuktas,
    "doubled signs": merge_doubled_signs,
    "vowels in two parts": compose_vowels,
    "dotted circles": remove_dotted_circles,
    "stray joiners": remove_stray_joiners,
    "pipe for danda": restore_dandas,
    "colon for visarga": restore_visargas,
    "replacement characters": remove_replacement_characters,
}
