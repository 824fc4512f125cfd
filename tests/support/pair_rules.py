"""Check the minimal pairs with a second grammar that works on the surface of a sentence: word lists
and endings, no code of nano_hindi.

`faults(kind, sentence)` names the rules that a sentence breaks; unknown words and endings are never
reported. A wrong case hides other errors: a noun without a valid case has no number either.
"""

from __future__ import annotations

import itertools
import re


def listed(text: str) -> list[str]:
    return text.split()


IN_AA = listed("""घोड़ा कुत्ता चूहा बकरा बछड़ा मुर्गा तोता कछुआ थैला डिब्बा घड़ा खिलौना प्याला ताला सिक्का पंखा गमला केला समोसा बेटा लड़का बच्चा ग्वाला लकड़हारा
मछुआरा कमरा बक्सा झूला खंभा ठेला दरवाज़ा लोटा मटका रास्ता कपड़ा पत्ता हलवा मुखौटा कुरता मेला गाना तना
जूता दीया शीशा पन्ना छल्ला""")
MASCULINE = listed("""राजू मोहन गोपाल रवि अमन श्याम अनिल दीपक सुरेश रामू मुकेश बंदर हाथी हिरन कबूतर कंबल आम लड्डू अमरूद दूध शरबत पानी नाटक मोर पाठ पत्र निबंध संदेश
गीत भजन फूल चित्र पत्थर भाई घर गाँव पेड़ मकान खेत सच काम मंदिर पुल बैल आदमी गणित रस साँप उपाय आराम""")
FEMININE = listed("""सीता मीना राधा गीता सुनीता कमला रेखा सरला नेहा ललिता गाय भैंस किताब चादर गेंद छाछ झील कविता बात चाय खीर माला कमीज़ बहन मैना कोयल नाव मदद
चिड़िया गुड़िया सहेली सड़क दीवार दवा डाल""")
IN_II = listed("""बिल्ली बकरी लोमड़ी गिलहरी मुर्गी चींटी टोकरी घड़ी थाली चाबी छतरी बाल्टी रोटी मूली जलेबी मिठाई नाशपाती लस्सी शिकंजी नदी तितली कहानी चिट्ठी कली टहनी नारंगी
लाठी लड़की बच्ची कुर्सी मछली रस्सी बेटी सब्ज़ी खिड़की घंटी चटनी मिट्टी गाड़ी हिंदी""")
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
    | {"माँ": ("f", None)}  # singular or honorific
)
# pronouns: their form of होना in the present (1 हूँ, 2 हो, 3 है, p हैं), number
PRONOUNS = {"मैं": ("1", "s"), "हम": ("p", "p"), "तू": ("3", "s"), "तुम": ("2", "p"), "आप": ("p", "p"), "वह": ("3", "s"), "वे": ("p", "p")}
POSTPOSITIONS = {"ने", "को", "से", "में", "पर", "का", "के", "की"}
AGENTS = {"उसने", "मैंने", "हमने", "उन्होंने", "तुमने"}
POSSESSIVES = listed("मेर हमार तुम्हार उसक आपक")
ADJECTIVES = listed("बड़ छोट पुरान गंद काल बूढ़ मोट प्यास")
TRANSITIVE = listed("खा देख खरीद पढ़ लिख सुन तोड़ बना उठा धो पकड़ छिपा काट खोल")
TONES = {"तू": "तू", "तेर": "तू", "तुम": "तुम", "तुम्हार": "तुम", "आप": "आप", "आपक": "आप"}
STEMS = listed("जा बैठ सुन कर आ खा पढ़ लिख")
RELATIONAL = listed("पास ऊपर नीचे बाहर अंदर सामने पीछे बाद बीच साथ पहले")
NO_NOUNS = listed("गहरी नई सफ़ेद भूखे अपनी")
NUMERALS = listed("दो तीन चार पाँच दस सौ")
PARTICIPLES = listed("खाए बताए रुके सोचे किए डरे पूछे हिले लगाए थके")
COPULAS = {"हूँ": "1", "हो": "2", "है": "3", "हैं": "p"}
# endings of a verb -> person, gender, number; None if the ending does not show it
FUTURE = [
    ("ूँगा|ऊँगा", "1", "m", "s"), ("ूँगी|ऊँगी", "1", "f", "s"), ("ोगे|ओगे", "2", "m", "p"), ("ोगी|ओगी", "2", "f", "p"),
    ("ेंगे|एँगे", "p", "m", "p"), ("ेगा|एगा", "3", "m", "s"), ("ेगी|एगी", "3", "f", "s"),
]  # fmt: skip
WISH = [("ूँ|ऊँ", "1", None, None), ("ो|ओ", "2", None, None), ("ें|एँ", "p", None, None), ("े|ए", "3", None, None)]
PAST = [("थी", None, "f", "s"), ("ीं|ईं", None, "f", "p"), ("ी|ई", None, "f", None), ("ा|या|आ", None, "m", "s"), ("े|ए", None, "m", "p")]


def faults(kind: str, sentence: str) -> set[str]:
    """Return the rules that a sentence of a kind breaks: that of the kind, or case, ergative, tone,
    gender, number, person."""
    text = re.sub(" जी(?= |$)", "_जी", sentence.rstrip("।"))
    if kind in RULES:
        return {kind} if RULES[kind](text) else set()
    text = text.replace(",", "")
    found = _tone(text.split())
    for clause in re.split(r"(?: |^)(?:कि|इसलिए|क्योंकि|जब|तब)(?: |$)|(?<= हो) और |(?<= हैं) और ", text):
        words = clause.split()
        if words:
            wish = "चाह" in text or "इच्छा" in text
            found |= _case(words) or ((not wish and _ergative(words)) or _subject(words, wish=wish))
    return found


def _before_postposition(words: list[str], i: int) -> bool:
    return i + 1 < len(words) and words[i + 1] in POSTPOSITIONS


def _case(words: list[str]) -> set[str]:
    """Check that a noun and the words that describe it are oblique before a postposition and
    nowhere else."""
    for i, word in enumerate(words):
        oblique = _before_postposition(words, i)
        if word.endswith("ों"):
            if not oblique and word != "दिनों":
                return {"case"}
        elif word in DIRECT:
            before = words[i - 1] if i else ""
            plural = DIRECT[word][1] == "p"
            if oblique and (word in IN_AA or (plural and (before in ("दो", "सारे") or word.endswith(("ें", "ाँ"))))):
                return {"case"}
            if not oblique and DIRECT[word] == ("m", "p") and {"एक", "यह"} & {*words[max(0, i - 2) : i]}:
                return {"case"}
            if not oblique and DIRECT[word] == ("m", "p") and (before == "का" or before[:-1] in [*POSSESSIVES, *ADJECTIVES]) and before.endswith("ा"):
                return {"number"}
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
    visiting = words[i] in ("घर", "गाँव") and words[-1].startswith(("जा", "आ", "लौट", "पहुँच"))  # हमारे घर आया: to our place
    singular = words[-1] in ("है", "था") or words[-1].endswith("ा")
    return before.endswith(("े", "ए", "स")) and singular and DIRECT[words[i]][1] == "s" and not visiting


def _read(word: str, endings: list) -> tuple[str | None, str | None, str | None] | None:
    return next(((person, gender, number) for ending, person, gender, number in endings if re.search(f"({ending})$", word)), None)


def _gender_and_number(words: list[str], i: int) -> tuple[str, str]:
    gender, number = DIRECT[words[i]]
    counted = i > 0 and (words[i - 1] in NUMERALS or words[i - 1] == "के")  # लड़की के भाई: several
    return gender, "p" if counted else number


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
        return {"ergative"}
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
        person = {"s": "3", "p": "p", None: None}[number]
    if "और" in words[max(0, start - 1) : start + 2] and start + 1 < len(words):
        genders = {DIRECT[word][0] for word in words[: words.index("और") + 3] if word in DIRECT}
        person, number, gender = "p", "p", None if {*words} & {"मैं", "तुम"} else "m" if "m" in genders else "f"
    found = set()
    wants = [(COPULAS[words[-1]], None, None)] if words[-1] in COPULAS else [_read(words[-1], [*FUTURE, *(WISH if wish else PAST)])]
    before = words[-2] if len(words) > 1 else ""
    if words[-1] in (*COPULAS, "था", "थे", "थी", "थीं") and before not in {*DIRECT, *RELATIONAL} and before not in ("भी", "ही", "नहीं", "खाली"):
        wants.append(_read(before, PAST))
    if start and (words[start - 1] in ("का", "की") or words[start - 1][:-1] in [*ADJECTIVES, *POSSESSIVES, "ऐस", "दूसर"]):
        wants.append(_read(words[start - 1], PAST))
    if re.fullmatch("रह(ा|ी|े)|चल(ा|ी|े)|अकेल(ा|ी)", before):
        wants.append(_read(before, PAST))
    for wanted_person, wanted_gender, wanted_number in filter(None, wants):
        if None not in (gender, wanted_gender) and gender != wanted_gender:
            found.add("gender")
        if None not in (number, wanted_number) and number != wanted_number:
            found.add("number")
        if None not in (person, wanted_person) and person != wanted_person:
            found.add("number" if {wanted_person, person} == {"3", "p"} else "person")
    return {"person"} if "person" in found else found  # another person may have another number


def _tone(words: list[str]) -> set[str]:
    """Check that pronoun, possessive and command address a person at the same honorific level."""
    tones = {TONES[word if word in TONES else word[:-1]] for word in words if word in TONES or (word[:-1] in TONES and word[-1] in "ाेी")}
    if tones and "कि" not in words:
        tones |= {"आप" for word in words if re.search("(इए|िए)$", word) and word not in ("लिए", "इसलिए")} | ({"तू"} if words[-1] in STEMS else set())
    return {"tone"} if len(tones) > 1 else set()


def _order(text: str) -> bool:
    """Check that a postposition follows a noun or an oblique pronoun, and not another postposition
    or an adjective; पास and the like follow के or begin a phrase."""
    words = text.split()
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        described = before in {*PRONOUNS, *AGENTS, *NO_NOUNS} or before[:-1] in [*POSSESSIVES, *ADJECTIVES]
        if word in {*POSTPOSITIONS, "तक"} and (described or before in POSTPOSITIONS):
            return True
        misplaced = (word in RELATIONAL and after in ("के", "से")) or (word == "लिए" and before.endswith("ने"))
        if misplaced and before not in {*POSTPOSITIONS, *PRONOUNS, *AGENTS}:
            return True
    return False


def _negation(text: str) -> bool:
    """Check मत in commands, नहीं in statements, न twice, बिना with a participle; नहीं after the
    postposition, कि between clauses."""
    words = text.split()
    last = words[-1]
    command = last.endswith(("ो", "ओ", "इए", "िए", "ना", "छीन")) and last not in COPULAS
    wrong = ["मत" in words and not command, "नहीं" in words and command and "मत" not in words]
    wrong.append(words.count("न") == 1)
    wrong.append("बिना" in words and not {*words} & {*PARTICIPLES, "कारण", "कुछ"})
    wrong.append("बिना" not in words and bool({*words} & {*PARTICIPLES}))
    wrong.append(re.search("(?<!तो|कि) नहीं पर |तो पर नहीं |नहीं कि (पर|और|तो) |कि नहीं (?!पर |और |तो )", text) is not None)
    return any(wrong)


# words that look alike, and what each stands beside: a word of which the sentence must have one
BESIDE = """
पता घर सच/पत्ता पेड़ नीम; पते सही इसी/पत्ते हरे सारे; बचा पानी बाल-बाल/बच्चा रो सो; बची रोटी नाव/बच्ची हँस प्यारी; बचे आम रुपये/बच्चे प्यारे छोटे
पका दाल चावल/पक्का मित्र वादे; गदा भीम हनुमान_जी/गद्दा नरम रुई; कथा राम रोज़/कत्था पान; मिटी प्यास भूख/मिट्टी गीली खेत; बला टल कैसी/बल्ला नया गेंद
पिला दूध ठंडा/पिल्ला कुतिया भौंक; चुनी मुखिया नाटक/चुन्नी लाल धुल; समान कद भार/सम्मान करते करना; पार नदी सड़क/प्यार करती मिलता
पास घर माँ/प्यास लगी बुझ; पाला तोता कुत्ता/प्याला चाय दूध; धान किसान फ़सल/ध्यान बात पढ़ने; जाला मकड़ी/ज्वाला आग यज्ञ; बसता ईश्वर नहीं/बस्ता भारी घर
अन्न उगाता पैदा/अन्य बच्चे दूर; क्रम लंबाई रखी/कर्म अच्छे अपने; पुत्र राजा रानी/पत्र डाकिया पढ़ा; गोद माँ बिठाया/गोंद कागज़ जोड़; जग पानी/जंग जीत छिड़
रग दौड़ दब/रंग नीला भरा; बगला मछली उड़ा/बंगला नया सुंदर; चल दिया रही/चाल धीमी कछुए; हर सुबह बच्चा/हार फूलों मोतियों; जल ठंडा प्यासे/जाल मकड़ी चूहे
कम लोग बारिश/काम अपना माँ; दल हिरनों बंदरों/दाल रोटी नमक; बल भुजाओं पूरा/बाल लंबे नाई; मन मेरा दुखी/मान बात भूल; खोल दरवाज़ा डिब्बा/खौल पानी खून
मेल रंगों आपस/मैल साबुन बर्तन; लोटा पीतल दादी/लौटा शाम शहर; बोना बीज गेहूँ/बौना आदमी सर्कस; बेल अंगूर लौकी/बैल हल गाड़ी; मेला गाँव देखना/मैला कुरता नदी
"""
COMPANY = [[(word, {*company}) for word, *company in map(str.split, entry.split("/"))] for entry in re.split("[;\n]", BESIDE.strip())]


def _spelling(text: str) -> bool:
    """Check that no word stands beside a word that goes with its lookalike, and none of its own."""
    words = {*text.split()}
    looks = [look for one, other in COMPANY for look in ((*one, *other), (*other, *one))]
    return any(word in words and lookalikes & words and not company & words for word, company, _, lookalikes in looks)


PEOPLE = {*MASCULINE[:11], *FEMININE[:10]}
DATIVE = listed("मुझे उसे हमें तुम्हें उन्हें")
THROUGH = listed("मुझसे उससे हमसे तुमसे उनसे")
WENT = "ग(या|ई|ए)|जा(ता|ती|एगा|एगी)"
PERFECTIVE = f"({'|'.join(TRANSITIVE)}|खोज|बता)(या|ा|ई|ी|ए|े|ईं|ीं)|पिया|पी|किया|की|गाया"
# predicates that a person experiences
FELT = "(प्यास|भूख|ठंड|चोट|नींद|याद) (लगी|आई)|(लगी|आता) है|मालूम है|पसंद (आया|है)|हुआ|सूझा|दिखा|मिला|चाहिए|ना पड़(ेगा|ता है)|ना (आता )?है"


def _is_perfective(words: list[str]) -> bool:
    return re.fullmatch(PERFECTIVE, words[-1]) is not None


def _passive(text: str) -> bool:
    """Check that a participle with जाना and जाना itself agree with the object, and that से names
    the agent of a passive and ने that of an active verb."""
    words = text.split()
    last = words[:-1] if words[-1] == "है" else words
    is_passive = re.fullmatch(WENT, last[-1]) is not None
    if words[0] in THROUGH and re.fullmatch("पढ़ा|सुना|खोला|काटा", last[-1]):  # correct without मैंने too: तुमसे पढ़ा, उससे खोला
        return False
    agent = "से" if words[0] in THROUGH or (words[0] in PEOPLE and words[1] == "से") else "ने" if words[0] in AGENTS or "ने" in words else None
    if agent is not None and is_passive != (agent == "से"):
        return True
    wanted = _object(words)
    for verb in last[-2:] if is_passive else ():
        _, gender, number = _read(verb, [*FUTURE, *PAST])
        if gender != wanted[0] or number not in (None, wanted[1]):
            return True
    return False


GOVERNED_BY = {
    "से": "बात की|लड़ता है|डरती है|सीखा|तोड़ा|उधार ली|छीना|झगड़ा किया|बचता है|जलती है|काटी|थक गया|निकाली",
    "पर": "भरोसा करता है|दया की|नाराज़ है|शक किया|हँसते हैं",
    "की": "सेवा की|तारीफ़ करते हैं",
    "का": "इंतज़ार करता है|पीछा करता है",
}


def _government(text: str) -> bool:
    """Check that the last postposition is the one that the verb demands: को, if no other."""
    demanded = next((postposition for postposition, verbs in GOVERNED_BY.items() if re.search(f" ({verbs})$", text)), "को")
    return [word for word in text.split()[:-1] if word in (*GOVERNED_BY, "को")][-1] != demanded


def _dative(text: str) -> bool:
    """Check that the subject has को with a predicate that a person experiences, ने with a
    transitive perfective verb, and no postposition else."""
    words = text.split()
    subject = next(i for i, word in enumerate(words) if word in {*PEOPLE, *PRONOUNS, *DATIVE, *AGENTS})
    after = words[subject + 1]
    case = "को" if words[subject] in DATIVE or after == "को" else "ने" if words[subject] in AGENTS or after == "ने" else None
    return case != ("को" if re.search(f"({FELT})$", text) else "ने" if _is_perfective(words) else None)


def _infinitive(text: str) -> bool:
    """Check an infinitive by the word after it: ना before चाहना and जानना, ने before लगना, देना and
    postpositions; before चाहिए, पड़ना and होना it agrees with the object, and so do they."""
    words = text.split()
    for word, after in itertools.pairwise(words):
        if not re.search("न(ा|े|ी)$", word) or not re.match("चाह|जान|लग|दो$|के$|में$|से$|पड़|हो|थ", after):
            continue
        if re.match("चाह(ता|ती)|जानती|जानता", after):
            return not word.endswith("ना")
        if re.fullmatch("लग(ा|ी)|दो|के|में|से", after):
            return not word.endswith("ने")
        gender, number = _object(words)
        ending = "ी" if gender == "f" else "े" if number == "p" else "ा"
        agreeing = [word] if after == "चाहिए" else [word, after]
        return any(re.search("(ी|ेगी|ोगी)$" if ending == "ी" else "(े|ेंगे|ोंगे)$", verb) is None for verb in agreeing)
    return True


def _conjunctive(text: str) -> bool:
    """Check that के before an infinitive follows a noun, and that no other subject comes after
    -कर."""
    words = text.split()
    if "के" in words:
        return words[words.index("के") - 1] in POSTPOSITIONS
    rest = words[next(i for i, word in enumerate(words) if word.endswith("कर")) + 1 :]
    first = rest[1] if rest[0] == "सब" else rest[0]
    is_goal = first in ("घर", "बाज़ार") or rest[1] in POSTPOSITIONS
    begins = re.match("लग", rest[-1]) is not None and rest[-2].endswith("ने") and rest[-2] in (first, "पीने")
    return (first in DIRECT or first in ("लोग", "खेल")) and not (is_goal or begins)


def _tense(text: str) -> bool:
    """Check that all adverbs and clauses of a sentence are about the past, or all about the
    future."""
    future = {re.search("ेग(ा|ी)$|एग(ा|ी)$|एँगी$|होगी$", clause) is not None for clause in text.split(",")}
    future |= {False for adverb in ("पहले", "बीते") if adverb in text} | {True for adverb in ("बाद", "आने वाले") if adverb in text}
    return len(future) > 1


def _relative(text: str) -> bool:
    """Check the relative word by its clause, and the correlative by the relative word and its own
    clause."""
    clause, main = (part.split() for part in text.split(", "))
    relative, correlative = clause[0], main[0]
    adverbs = {"जब": "तब", "जहाँ": "वहाँ", "जितना": "उतना", "जैसा": "वैसा"}
    if relative in adverbs:
        return correlative != adverbs[relative]
    if clause[1] in {*PEOPLE, *PRONOUNS, *AGENTS}:  # another subject: the relative is an object
        relative_wanted = "जिससे" if re.search("(बात की|डरता है|लड़ते हो|सीखा)$", " ".join(clause)) else "जिसे"
    elif clause[2:3] and clause[2] in POSTPOSITIONS and clause[1] in {word[:-1] + "े" for word in IN_AA}:
        relative_wanted = "जिस"
    else:
        relative_wanted = "जिसने" if _is_perfective(clause) else "जिसे" if re.search(f"({FELT})( थी)?$", " ".join(clause)) else "जो"
        if relative_wanted == "जिसे" and clause[1] in ("कमरा", "डिब्बा"):
            relative_wanted = "जो"
    correlative_wanted = "उसने" if _is_perfective(main) else "उसे" if re.search("(मिला|लगी)$", main[-1]) else "वह"
    return relative != relative_wanted or correlative != correlative_wanted


def _reflexive(text: str) -> bool:
    """Check that आप follows अपने, and that अपने does not begin a clause as the subject's owner."""
    return re.search("(उस|उन|इस)के आप |पर अपने (?!आप)", text) is not None


def _indefinite(text: str) -> bool:
    """Check that किसी stands before a postposition, or before a noun with one, and कोई does not;
    that कुछ is an object, and कोई without a noun a subject."""
    words = text.split()
    i = next(i for i, word in enumerate(words) if word in ("कोई", "किसी", "कुछ"))
    oblique = any(word in POSTPOSITIONS for word in words[i + 1 : i + 3])
    has_agent = "ने" in words[:i]
    return {"किसी": not oblique, "कोई": oblique or has_agent, "कुछ": not has_agent}[words[i]]


RULES = {
    "negation": _negation, "order": _order, "passive": _passive, "government": _government, "dative": _dative, "infinitive": _infinitive,
    "conjunctive": _conjunctive, "spelling": _spelling, "tense": _tense, "relative": _relative, "reflexive": _reflexive, "indefinite": _indefinite,
}  # fmt: skip
