"""Hindi agreement for the sample stories: nouns with their cases, and words that take a noun's
gender and number.

A story is a template in which every word that agrees is in the masculine singular, with the noun
that it agrees with:

    "{h:ने} {x} {x:देखा}। {h:वह} {h:खड़ा हो गया}।"

`{h}` is the noun in the direct case, `{h:ने}` (को, से, में, पर, का, ...) its oblique case with that
postposition, `{h:गया था}` a verb and `{h:वह}` a pronoun that agree with it, `{x:+अपना} {x}` an
attribute before it. Agreement is computed here and nowhere else. The rules are in any grammar of
Hindi, for example R. S. McGregor, Outline of Hindi Grammar, Oxford 1995.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass

POSTPOSITIONS = ("ने", "को", "से", "में", "पर", "का", "के", "की", "तक")
# In a verb phrase, a word in ा or े agrees if it stands before one of these (फँसा हुआ है, खड़ा हो
# गया) or ends like a participle (सोचता रहा, चला गया). Any other is a bare stem, which never changes
# (उठा लिया, ले आया).
AFTER_A_PARTICIPLE = ("हुआ", "हुए", "है", "हैं", "हूँ", "हो", "था", "थे", "होगा", "सा", "ही", "भी", "नहीं")
PARTICIPLES = ("ता", "ते", "चला", "रहा")
STEMS = ("बता", "बिता", "जता", "सता")  # although they end like participles
STEM = re.compile(r"आ|(?!का|के|सा|से|था|थे).़?[ाे]")  # जा, खा, ले, दे: no word of one syllable agrees but these

# masculine singular -> masculine plural, feminine singular, feminine plural, where the rules of
# `agree` would be wrong
IRREGULAR = {
    "है": ("हैं", "है", "हैं"),
    "था": ("थे", "थी", "थीं"),
    "हुआ": ("हुए", "हुई", "हुईं"),
    "किया": ("किए", "की", "कीं"),
    "लिया": ("लिए", "ली", "लीं"),
    "दिया": ("दिए", "दी", "दीं"),
    "पिया": ("पिए", "पी", "पीं"),
    # pronouns have number, but no gender
    "वह": ("वे", "वह", "वे"),
    "उसने": ("उन्होंने", "उसने", "उन्होंने"),
    "उसे": ("उन्हें", "उसे", "उन्हें"),
    "उससे": ("उनसे", "उससे", "उनसे"),
    "उसका": ("उनका", "उसका", "उनका"),
    "उसके": ("उनके", "उसके", "उनके"),
    "उसकी": ("उनकी", "उसकी", "उनकी"),
    "उस": ("उन", "उस", "उन"),
}


def agree(word: str, gender: str, plural: bool, *, finite: bool) -> str:
    """Return a word in another gender and number, given its masculine singular (or, for तुम, its
    plural: रहे).

    `finite` verbs in the feminine plural end in ीं. Raises `ValueError` for a bare stem (जा, ले),
    which agrees with nothing.
    """
    if STEM.fullmatch(word):
        raise ValueError(f"{word} is a bare stem, which agrees with nothing; write it in front of the braces")
    if word in IRREGULAR and (finite or word in ("किया", "लिया", "दिया", "पिया", "हुआ")):
        masculine_plural, feminine, feminine_plural = IRREGULAR[word]
        if not plural:
            return feminine if gender == "f" else word
        return masculine_plural if gender == "m" else feminine_plural if finite else feminine
    for ending, masculine_plural, feminine, feminine_plural in (
        ("ऊँगा", "ऊँगा", "ऊँगी", "ऊँगी"),
        ("ूँगा", "ूँगा", "ूँगी", "ूँगी"),
        ("एगा", "एँगे", "एगी", "एँगी"),
        ("ेगा", "ेंगे", "ेगी", "ेंगी"),
        ("या", "ए", "ई", "ईं"),
        ("आ", "ए", "ई", "ईं"),
        ("ा", "े", "ी", "ीं"),
        ("ए", "ए", "ई", "ईं"),
        ("े", "े", "ी", "ीं"),
    ):
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            if gender == "f":
                return stem + (feminine_plural if plural and (finite or "ग" in ending) else feminine)
            return stem + masculine_plural if plural else word
    return word


@dataclass(frozen=True)
class Noun:
    """A noun or a name. A `fixed` noun never changes its form (names, राजा, and nouns with जी). An
    `honorific` noun is singular and agrees as a plural.

    `plural` is its number. `traits` are facts about it (`flies light`), and `needs` the facts
    without which it is in no story (`summer` for mangoes); world.py explains both.
    """

    word: str
    gender: str  # m, f
    fixed: bool = False
    honorific: bool = False
    plural: bool = False
    traits: str = ""
    needs: str = ""

    @property
    def many(self) -> Noun:
        """Return the plural of the noun."""
        return dataclasses.replace(self, plural=True)

    @property
    def one(self) -> Noun:
        """Return the noun without the honorific, as elders use it of themselves (मैं ... हूँ)."""
        return dataclasses.replace(self, honorific=False)

    @property
    def direct(self) -> str:
        return self.word if self.fixed or not self.plural else self._inflected(1)

    @property
    def oblique(self) -> str:
        return self.word if self.fixed else self._inflected(2 if self.plural else 0)

    def _inflected(self, case: int) -> str:
        """Return the oblique singular (0), direct plural (1) or oblique plural (2)."""
        for gender, ending, *forms in (
            ("m", "आँ", "एँ", "एँ", "ओं"),
            ("m", "िया", "िए", "िए", "ियों"),
            ("m", "आ", "ए", "ए", "ओं"),
            ("m", "ा", "े", "े", "ों"),
            ("f", "िया", "िया", "ियाँ", "ियों"),
            ("f", "ा", "ा", "ाएँ", "ाओं"),
            ("f", "ी", "ी", "ियाँ", "ियों"),
            ("m", "ी", "ी", "ी", "ियों"),
            ("f", "ई", "ई", "इयाँ", "इयों"),
            ("m", "ई", "ई", "ई", "इयों"),
            ("f", "ू", "ू", "ुएँ", "ुओं"),
            ("m", "ू", "ू", "ू", "ुओं"),
            ("f", "ु", "ु", "ुएँ", "ुओं"),
            ("m", "ु", "ु", "ु", "ुओं"),
            ("f", "", "", "ें", "ों"),
            ("m", "", "", "", "ों"),
        ):
            if gender == self.gender and self.word.endswith(ending):
                return self.word.removesuffix(ending) + forms[case]
        raise ValueError(f"{self.word}: the gender is {self.gender!r}, not m or f")

    def __format__(self, spec: str) -> str:
        words = spec.split(" ")
        if not spec:
            return self.direct
        if words[0] in POSTPOSITIONS:
            return f"{self.oblique} {spec}"
        plural = self.plural or self.honorific
        if spec.startswith("+"):
            return " ".join(agree(word, self.gender, plural, finite=False) for word in spec[1:].split(" "))
        for word, auxiliary in itertools.pairwise(words):
            agrees = auxiliary in AFTER_A_PARTICIPLE or word in IRREGULAR or (word.endswith(PARTICIPLES) and word not in STEMS)
            if word.endswith(("ा", "े", "आ", "ए")) and not agrees:
                raise ValueError(f"{spec}: a bare stem agrees with nothing; write {word} in front of the braces, a participle as +{word} in its own")
        *first, last = words
        return " ".join([*(agree(word, self.gender, plural, finite=False) for word in first), agree(last, self.gender, plural, finite=True)])

    def __str__(self) -> str:
        return self.direct
