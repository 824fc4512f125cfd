"""Say why a document is not text for a Hindi model: broken encoding, another script or language, a
legacy font, too short.

Only what is wrong for any Hindi model; quality (bad words, style, boilerplate) is not judged.
"""

from __future__ import annotations

import re

from nano_hindi.corpus.cleaning.letters import words
from nano_hindi.corpus.cleaning.repairs import MAX_BROKEN, has_unusual

MIN_CHARACTERS = 50  # a shorter document is mostly a caption or a fragment of a menu
MIN_DEVANAGARI = 0.5  # of the letters and marks
MAX_LEGACY = 0.02  # of the characters, in lines of a legacy font
MIN_HINDI_WORDS = 0.03  # of the words; a text with fewer of HINDI_WORDS is classified by a model
CLASSIFIED = 2000  # characters that the model sees

# U+FFFD, noncharacters, and UTF-8 of Devanagari (E0 A4 .., E0 A5 ..) that was read as Latin-1 or
# cp1252
_BROKEN = re.compile("\ufffd|[\ufdd0-\ufdef\ufffe\uffff]|\u00e0[\u00a4\u00a5].")
_DEVANAGARI = re.compile("[\u0900-\u0963\u0970-\u097f]+")  # letters and their marks, no dandas and digits
_OTHER_LETTERS = re.compile(r"[^\W\d_\u0900-\u097f]+")


def why_not(text: str) -> str | None:
    """Return the rule that drops `text`, or None if it is kept."""
    if has_unusual(text) and _length(_BROKEN, text) > MAX_BROKEN * len(text):
        return "broken encoding"
    devanagari = _length(_DEVANAGARI, text)
    if devanagari == 0 or (devanagari < MIN_DEVANAGARI * len(text) and devanagari < MIN_DEVANAGARI * (devanagari + _length(_OTHER_LETTERS, text))):
        return "not Devanagari"
    if len(text.strip()) < MIN_CHARACTERS:
        return "too short"
    if has_legacy_font(text):
        return "legacy font"
    return None if is_hindi(text) else "not Hindi"


def _length(pattern: re.Pattern[str], text: str) -> int:
    """Return the number of characters of `text` that match `pattern`."""
    return sum(map(len, pattern.findall(text)))


# ---- legacy fonts

# है हैं और में नहीं था थे थी किया गया लिए होता भी द्वारा तथा साथ करने दिया and so on, as Kruti Dev and
# DevLys have them in ASCII. Those that are English too (us, ls, ds) are not here.
_KRUTI_DEV = words(
    "gS gSa gSA gSaA vkSj esa ugha Fkk Fks Fkh FkkA fd;k x;k x;h fy, fy;s gksrk gksrh gksrs Hkh }kjk rFkk lkFk djus djrs fn;k vius viuh gqvk gqbZ ;g ;k "
    "jgk jgh jgs tkrk tkrh tkus gksus fdlh dksbZ muds mUgksaus ckn vkt"
)
_TELLTALE = re.compile("(?<!\\S)(?:" + "|".join(map(re.escape, sorted(_KRUTI_DEV))) + ")(?!\\S)")


def has_legacy_font(text: str) -> bool:
    """Return whether more than a small fraction of `text` is Hindi in the ASCII codes of Kruti
    Dev."""
    if not any(word in text for word in ("gS", "vkSj", "esa")):  # है, और, में: a fast search, and no paragraph is without all three
        return False
    if len(set(_TELLTALE.findall(text))) < 3:
        return False
    lines = [line for line in text.split("\n") if _TELLTALE.search(line)]
    legacy = sum(len(word) for line in lines for word in line.split() if word.isascii())
    return legacy > MAX_LEGACY * len(text)


# ---- language

# Words that Hindi has in every paragraph, and Marathi, Nepali and Sanskrit do not have
HINDI_WORDS = words("है हैं में था थे थी थीं हूँ हूं और से यह वह इस उस नहीं है। हैं। था। थे। थी। हूँ।")


def is_hindi(text: str) -> bool:
    """Return False for Marathi, Nepali and Sanskrit, which have the script of Hindi: the text has
    few of the most common Hindi words, and the model says so too."""
    head = text[:CLASSIFIED]
    all_words = head.split()
    if sum(word in HINDI_WORDS for word in all_words) >= MIN_HINDI_WORDS * len(all_words):
        return True
    import py3langid

    return py3langid.classify(head)[0] not in ("mr", "ne", "sa")
