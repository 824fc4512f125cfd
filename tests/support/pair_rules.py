"""Check the minimal pairs with a second grammar that works on the surface of a sentence: word lists
and endings, no code of nano_hindi.

`faults(kind, sentence)` names the rules that a sentence breaks; unknown words and endings are never
reported. A wrong case hides other errors: a noun without a valid case has no number either.
"""

from __future__ import annotations

import re


def listed(text: str) -> list[str]:
    return text.split()


IN_AA = listed("""घोड़ा कुत्ता चूहा बकरा बछड़ा मुर्गा तोता कछुआ थैला डिब्बा घड़ा खिलौना प्याला ताला सिक्का पंखा गमला केला समोसा बेटा लड़का बच्चा ग्वाला लकड़हारा
मछुआरा कमरा बक्सा झूला खंभा ठेला दरवाज़ा लोटा मटका तारा रास्ता कपड़ा पत्ता हलवा मुखौटा कुरता मेला गाना तना""")
MASCULINE = listed("""राजू मोहन गोपाल रवि अमन श्याम अनिल दीपक सुरेश रामू मुकेश बंदर हाथी हिरन कबूतर कंबल आम लड्डू अमरूद दूध शरबत पानी नाटक मोर पाठ पत्र निबंध संदेश
गीत भजन फूल चित्र पत्थर भाई घर गाँव पेड़ मकान खेत सच काम""")
FEMININE = listed("""सीता मीना राधा गीता सुनीता कमला रेखा सरला नेहा ललिता गाय भैंस किताब चादर गेंद छाछ झील कविता बात चाय खीर माला कमीज़ बहन मैना कोयल नाव मदद
चिड़िया गुड़िया सहेली""")
IN_II = listed("""बिल्ली बकरी लोमड़ी गिलहरी मुर्गी चींटी टोकरी घड़ी थाली चाबी छतरी बाल्टी रोटी मूली जलेबी मिठाई नाशपाती लस्सी शिकंजी नदी तितली कहानी चिट्ठी कली टहनी नारंगी
लाठी लड़की बच्ची कुर्सी मछली रस्सी बेटी सब्ज़ी खिड़की""")
WITH_EN = listed("गाय भैंस किताब चादर गेंद")
HONOURED = {"पिता_जी": "m", "दादा_जी": "m", "गुरु_जी": "m", "दादी_जी": "f"}

# noun in the direct case -> gender, number
DIRECT = (
    {word: ("m", "s") for word in [*IN_AA, *MASCULINE]}
    | {word: ("f", "s") for word in [*FEMININE, *IN_II]}
    | {word[:-1] + "े": ("m", "p") for word in IN_AA}
    | {word[:-1] + "ियाँ": ("f", "p") for word in IN_II}
    | {"कछुए": ("m", "p"), "चिड़ियाँ": ("f", "p")}
    | {word + "ें": ("f", "p") for word in WITH_EN}
    | {word: (gender, "p") for word, gender in HONOURED.items()}
)
# pronouns: their form of होना in the present (1 हूँ, 2 हो, 3 है, p हैं), number
PRONOUNS = {"मैं": ("1", "s"), "हम": ("p", "p"), "तू": ("3", "s"), "तुम": ("2", "p"), "आप": ("p", "p"), "वह": ("3", "s"), "वे": ("p", "p")}
POSTPOSITIONS = {"ने", "को", "से", "में", "पर", "का", "के", "की"}
AGENTS = {"उसने", "मैंने", "हमने", "उन्होंने", "तुमने"}
POSSESSIVES = listed("मेर हमार तुम्हार उसक आपक")
ADJECTIVES = listed("बड़ छोट पुरान गंद")
TRANSITIVE = listed("खा देख खरीद पढ़ लिख सुन तोड़ बना उठा धो पकड़ छिपा काट खोल")
TONES = {"तू": "तू", "तेर": "तू", "तुम": "तुम", "तुम्हार": "तुम", "आप": "आप", "आपक": "आप"}
COMMANDS = {"जा": "तू", "बैठ": "तू", "सुन": "तू", "कर": "तू", "जाओ": "तुम", "करो": "तुम", "बैठिए": "आप", "सुनिए": "आप"}
RELATIONAL = listed("पास ऊपर नीचे बाहर अंदर सामने पीछे बाद बीच साथ पहले")
NO_NOUNS = listed("गहरी नई सफ़ेद भूखे अपनी")
NUMERALS = listed("दो तीन चार पाँच")
PARTICIPLES = listed("खाए बताए रुके सोचे किए डरे पूछे हिले लगाए थके")
COPULAS = {"हूँ": "1", "हो": "2", "है": "3", "हैं": "p"}
# endings of a verb -> person, gender, number; None if the ending does not show it
FUTURE = [
    ("ूँगा|ऊँगा", "1", "m", "s"), ("ूँगी|ऊँगी", "1", "f", "s"), ("ोगे|ओगे", "2", "m", "p"), ("ोगी|ओगी", "2", "f", "p"),
    ("ेंगे|एँगे", "p", "m", "p"), ("ेगा|एगा", "3", "m", "s"), ("ेगी|एगी", "3", "f", "s"),
]  # fmt: skip
WISH = [("जाऊँ|सीखूँ|रहूँ", "1", None, None), ("जाओ|सीखो", "2", None, None), ("जाए|सीखे|रहे", "3", None, None)]
PAST = [("थी", None, "f", "s"), ("ीं|ईं", None, "f", "p"), ("ी|ई", None, "f", None), ("ा|या|आ", None, "m", "s"), ("े|ए", None, "m", "p")]


def faults(kind: str, sentence: str) -> set[str]:
    """Return the rules that a sentence of a kind breaks: negation, order, or case, ergative, tone,
    gender, number, person."""
    text = re.sub(" जी(?= |$)", "_जी", sentence.rstrip("।"))
    if kind in ("negation", "order"):
        return {"negation": _negation, "order": _order}[kind](text.split())
    found = _tone(text.split())
    for clause in re.split(r"(?: |^)(?:कि|इसलिए|क्योंकि|जब|तब)(?: |$)|(?<= हो) और |(?<= हैं) और ", text):
        words = clause.split()
        if words:
            found |= _case(words) or _ergative(words) or _subject(words, wish="चाह" in text or "इच्छा" in text or "ने कहा" in text)
    return found


def _before_postposition(words: list[str], i: int) -> bool:
    return i + 1 < len(words) and words[i + 1] in POSTPOSITIONS


def _case(words: list[str]) -> set[str]:
    """Check that a noun and the words that describe it are oblique before a postposition and
    nowhere else."""
    for i, word in enumerate(words):
        oblique = _before_postposition(words, i)
        if word.endswith("ों"):
            if not oblique:
                return {"case"}
        elif word in DIRECT:
            before = words[i - 1] if i else ""
            plural = DIRECT[word][1] == "p"
            if oblique and (word in IN_AA or (plural and (before in ("दो", "सारे") or word.endswith(("ें", "ाँ"))))):
                return {"case"}
            if not oblique and DIRECT[word] == ("m", "p") and before in ("एक", "यह"):
                return {"case"}
            if DIRECT[word][0] == "m" and word not in HONOURED and _misdescribed(words, i, oblique):
                return {"case"}
    return set()


def _misdescribed(words: list[str], i: int, oblique: bool) -> bool:
    """Return whether the word before a masculine noun is direct although a postposition follows, or
    oblique although the noun is direct and singular."""
    before = words[i - 1] if i else ""
    if before[:-1] not in [*POSSESSIVES, *ADJECTIVES] and before not in ("का", "के", "नया", "नए", "यह", "वह", "इस", "उस"):
        return False
    if before in ("यह", "वह") and words[i + 1 : i + 2] in (["का"], ["की"]):  # यह गोपाल का थैला है
        return False
    if oblique:
        return not before.endswith(("े", "ए", "स"))
    visiting = words[i] == "घर" and words[-1].startswith(("जा", "आ", "लौट"))  # हमारे घर आया: to our place
    singular = words[-1] in ("है", "था") or words[-1].endswith("ा")
    return before.endswith(("े", "ए", "स")) and singular and DIRECT[words[i]][1] == "s" and not visiting


def _read(word: str, endings: list) -> tuple[str | None, str | None, str | None] | None:
    return next(((person, gender, number) for ending, person, gender, number in endings if re.search(f"({ending})$", word)), None)


def _gender_and_number(words: list[str], i: int) -> tuple[str, str]:
    gender, number = DIRECT[words[i]]
    return gender, "p" if i and words[i - 1] in NUMERALS else number


def _object(words: list[str]) -> tuple[str, str]:
    """Return gender and number of the last noun without a postposition; masculine singular if there
    is none."""
    direct = [_gender_and_number(words, i) for i, word in enumerate(words) if word in DIRECT and not _before_postposition(words, i)]
    return direct[-1] if direct else ("m", "s")


def _ergative(words: list[str]) -> set[str]:
    """Check that a perfective with an object has ने and agrees with the object, and that no other
    verb has ने."""
    verb = words[-1] if words[-1] not in ("था", "है") else words[-2]
    transitive = re.fullmatch(f"({'|'.join(TRANSITIVE)})(या|ा|ई|ी|ए|े|ईं|ीं)|पिया|पी|की|कहा|गाया", verb)
    marked = next((i for i, word in enumerate(words) if word in AGENTS or word == "ने"), None)
    if (marked is None) != (transitive is None):
        return {"ergative"} if marked is not None or {*words} & {*PRONOUNS} else set()
    if marked is None:
        return set()
    gender, number = _object(words[marked + 1 : -1])
    _, of_verb, number_of_verb = _read("पीई" if verb == "पी" else verb, PAST)
    return {"ergative"} if of_verb != gender or number_of_verb not in (None, number) else set()


def _subject(words: list[str], *, wish: bool) -> set[str]:
    """Check that the verb, the subject's attribute and the predicate agree with the subject: a
    pronoun, or the first noun without a postposition."""
    candidates = [i for i, word in enumerate(words) if (word in DIRECT or word in PRONOUNS) and not _before_postposition(words, i)]
    if not candidates:
        return set()
    start = next((i for i in candidates if words[i] in PRONOUNS), candidates[0])
    subject = words[start]
    if subject in ("वह", "यह") and start + 1 < len(words) and words[start + 1] in DIRECT:
        subject = words[start + 1]
    if subject in PRONOUNS:
        (person, number), gender = PRONOUNS[subject], None
    else:
        gender, number = _gender_and_number(words, words.index(subject))
        person = "3" if number == "s" else "p"
    found = set()
    wants = [(COPULAS[words[-1]], None, None)] if words[-1] in COPULAS else [_read(words[-1], [*FUTURE, *(WISH if wish else PAST)])]
    if words[-1] in (*COPULAS, "था", "थे", "थी", "थीं") and re.search("(ता|ते|ती|रहा|रहे|रही|पड़ा|पड़ी|पुरा(ना|नी))$", words[-2]):
        wants.append(_read(words[-2], [*PAST]))
    if start and (words[start - 1] in ("का", "की") or words[start - 1][:-1] in ("छोट", "बड़")):
        wants.append(_read(words[start - 1], PAST))
    if words[-2:-1] and words[-2] in ("रहा", "रही", "रहे", "चला", "चले", "चली"):
        wants.append(_read(words[-2], PAST))
    for wanted_person, wanted_gender, wanted_number in filter(None, wants):
        if None not in (gender, wanted_gender) and gender != wanted_gender:
            found.add("gender")
        if wanted_number not in (None, number):
            found.add("number")
        if wanted_person not in (None, person):
            found.add("number" if {wanted_person, person} == {"3", "p"} else "person")
    return {"person"} if "person" in found else found  # another person may have another number


def _tone(words: list[str]) -> set[str]:
    """Check that pronoun, possessive and command address a person at the same honorific level."""
    tones = {TONES[word if word in TONES else word[:-1]] for word in words if word in TONES or (word[:-1] in TONES and word[-1] in "ाेी")}
    if words[-1] in COMMANDS and tones and "कि" not in words:
        tones.add(COMMANDS[words[-1]])
    return {"tone"} if len(tones) > 1 else set()


def _order(words: list[str]) -> set[str]:
    """Check that a postposition follows a noun or an oblique pronoun, and not another postposition
    or an adjective; पास and the like follow के or begin a phrase."""
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        described = before in {*PRONOUNS, *AGENTS, *NO_NOUNS} or before[:-1] in [*POSSESSIVES, *ADJECTIVES]
        if word in {*POSTPOSITIONS, "तक"} and (described or before in POSTPOSITIONS):
            return {"order"}
        misplaced = (word in RELATIONAL and after in ("के", "से")) or (word == "लिए" and before.endswith("ने"))
        if misplaced and before not in {*POSTPOSITIONS, *PRONOUNS, *AGENTS}:
            return {"order"}
    return set()


def _negation(words: list[str]) -> set[str]:
    """Check मत in commands, नहीं in statements, न twice, बिना with a participle; नहीं after the
    postposition, कि between clauses."""
    text, last = " ".join(words), words[-1]
    command = last.endswith(("ो", "ओ", "इए", "िए", "ना", "छीन")) and last not in COPULAS
    wrong = ["मत" in words and not command, "नहीं" in words and command and "मत" not in words]
    wrong.append(words.count("न") == 1)
    wrong.append("बिना" in words and not {*words} & {*PARTICIPLES, "कारण", "कुछ"})
    wrong.append("बिना" not in words and bool({*words} & {*PARTICIPLES}))
    wrong.append(re.search("(?<!तो|कि) नहीं पर |तो पर नहीं |नहीं कि (पर|और|तो) |कि नहीं (?!पर |और |तो )", text) is not None)
    return {"negation"} if any(wrong) else set()
