"""Check the grammar of Hindi sentences on the surface of the text: word lists and endings, no code
of nano_hindi.sample.

`mistakes(text)` names what breaks a rule. `counted` is how often each rule applied, so that a test
cannot pass because none did.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter


def listed(text: str) -> list[str]:
    return text.split()


MEN = listed("""मोहन राजू गोपाल दीपक रवि अमन किशन सोनू हरि विनय अर्जुन मनोहर सुरेश रामू श्याम करन नंदू चेतन बिरजू मुकेश नरेश लखन माधव केशव सलीम रहीम गोविंद जगदीश
अनिल दिनेश""")
WOMEN = listed("""मीना सीता गीता राधा कमला सुनीता लक्ष्मी गौरी पूजा नेहा चंपा तारा जया मुन्नी ललिता रेखा सुधा विमला पार्वती रजनी मालती सलमा फ़ातिमा सरला चंदा मधु उमा
निशा शीला जमुना""")
HONOURED_WOMEN = ["दादी", "नानी", "माँ", "बुआ जी", "अध्यापिका जी", "अम्मा", "रानी"]
HONOURED_MEN = ["दादा जी", "नाना जी", "पिता जी", "चाचा जी", "गुरु जी", "मास्टर जी", "मुखिया जी", "बाबा", "राजा"]
# things and animals, in the direct singular
MASCULINE = listed("""तोता कबूतर मोर हिरन खरगोश बंदर नेवला सियार भालू हाथी शेर चूहा टिड्डा मेंढक गिरगिट कछुआ कौआ कुत्ता साँप शिकारी चोर सिपाही लड़का बच्चा
थैला जाल हथौड़ा खिलौना डमरू लट्टू घड़ा मटका प्याला शीशा आम अमरूद लड्डू अनार पपीता सेब पौधा पेड़ कुआँ पानी खाना घर मन दरवाज़ा सिर पैर हाथ दिल घमंड
डर काम नाम गाँव मेला पुरस्कार अभ्यास धन्यवाद आशीर्वाद सहारा कंबल बिस्तर शोर फल केला सिक्का ज़ोर भरोसा बोझ इनाम खर्च स्थान साथ समय रास्ता मित्र
किसान लकड़हारा कुम्हार दर्ज़ी माली मछुआरा लोहार बढ़ई मोची चरवाहा ग्वाला हलवाई सामान""")
FEMININE = listed("""मैना कोयल गौरैया बुलबुल लोमड़ी चींटी मधुमक्खी गिलहरी मछली बत्तख चील तितली बकरी लड़की बच्ची कुम्हारिन दर्ज़िन मालिन ग्वालिन
कुदाल कुल्हाड़ी कैंची खुरपी आरी हथौड़ी कूची बाँसुरी बाल्टी करछी पतंग गुड़िया गेंद ढोलक सीटी सुराही गुल्लक प्याली तश्तरी शीशी नारंगी नाशपाती
मदद बात आँख नींद जान हिम्मत बाड़ हल्दी पट्टी पीठ सेवा माफ़ी मेहनत खोज डुबकी थैली चाबी अँगूठी आवाज़ राह आग बारिश बरसात घोषणा पढ़ाई ईमानदारी मिसाल
खुशी मित्रता भूल रोटी चट्टान कोंपल छाया डाली भीड़ तारीफ़ चाह उम्र खाद कहानी""")
GENDER = dict.fromkeys([*MEN, *MASCULINE], "m") | dict.fromkeys([*WOMEN, *FEMININE], "f")
NAMES = {*MEN, *WOMEN}
POSTPOSITIONS = {"ने", "को", "से", "में", "पर", "का", "के", "की", "तक", "सा", "सी"}
# perfective forms of verbs that do not take ने
INTRANSITIVE = {stem + e for stem in ("ग", "आ", "सो", "रो") for e in ("या", "ए", "ई", "ईं")} | {
    stem + e for stem in ("बोल", "लग", "रह", "पहुँच", "निकल", "बैठ", "चल", "भूल", "लौट", "हँस", "डर", "घबरा", "चिल्ला", "दौड़", "झुक", "उठ", "पड़", "मुस्कुरा") for e in ("ा", "े", "ी", "ीं")
}  # fmt: skip
ADJECTIVES = {"बड़": 1, "छोट": 1, "प्यार": 1, "अपन": 1, "मेर": 1, "तुम्हार": 1, "घन": 1}  # stems before ा, े, ी
NEW = {"नया": "m", "नई": "f"}

ACTORS = NAMES | {
    *listed("""तोता कबूतर मोर हिरन खरगोश बंदर नेवला सियार भालू हाथी शेर चूहा टिड्डा मेंढक गिरगिट कछुआ कौआ कुत्ता मैना कोयल लोमड़ी चींटी मधुमक्खी
गिलहरी मछली बत्तख चील तितली""")
}
WITH_NE = {"ने", "उसने", "उन्होंने", "मैंने", "तुमने", "हमने", "किसने"}
TRANSITIVE = {stem + e for stem in ("दि", "कि", "लि", "बता", "बना", "उठा", "लगा", "खा", "पा", "छिपा") for e in ("या", "ए", "ई", "ईं")} | {
    stem + e for stem in ("कह", "पूछ", "देख", "रख", "सोच", "निकाल", "खरीद", "सुन", "बाँध", "माँग") for e in ("ा", "े", "ी", "ीं")
} | {"दी", "दीं", "की", "कीं", "ली", "लीं"}  # fmt: skip

FEMININE_STEM = re.compile(
    r"(?<!\S)(गी|खी|जी|ली|उठी|बनी|बताई|लगाई|दिखी|घबरी) (रही|ली|दी|गई|सकती|पाई|चुकी)(?![^\s।,])"
)  # a bare stem has no gender: गा रही, उठा ली

counted: Counter = Counter()


def form(word: str) -> str | None:
    """Return ms, mp, fs or fp for the ending of a word, None if the ending shows neither gender nor
    number."""
    if word in ("है", "हैं", "हूँ", "हो", "नहीं", "में", "कि", "भी", "ही", "की"):
        return None
    for ending, name in (("ीं", "fp"), ("ईं", "fp"), ("ी", "fs"), ("ई", "fs"), ("ा", "ms"), ("या", "ms"), ("आ", "ms"), ("े", "mp"), ("ए", "mp")):
        if word.endswith(ending):
            return name
    return None


def sentences(text: str) -> list[list[list[str]]]:
    """Split a text into sentences, these into the clauses that और joins, and these into words. और
    between two nouns does not join clauses."""
    out = []
    for piece in re.split(r"[।?!,:“”\n]| (?:तो|कि) ", text):
        joined = [[]]
        for word in re.sub(r"^\s*(पर|तो|कि|इसलिए|फिर|तभी|तब) ", "", piece).split():
            if word == "और" and joined[-1] and joined[-1][-1] not in GENDER:
                joined.append([])
            else:
                joined[-1].append(word)
        out.append([words for words in joined if words])
    return [clauses for clauses in out if clauses]


def mistakes(text: str) -> list[str]:
    """Return the mistakes in `text`, as `rule: words`."""
    found = []
    for clauses in sentences(text):
        for words in clauses:
            found += _case(words) + _possession(words) + _attribute(words) + _subject(words) + _ergative(words) + _honour(words)
        for first, second in itertools.pairwise(clauses):
            found += _joined(first, second)
    found += [("stem", [match.group()]) for match in FEMININE_STEM.finditer(text)]
    return [f"{rule}: {' '.join(words)}" for rule, words in found]


def _case(words: list[str]) -> list:
    """Check that a masculine noun in -ा is oblique before a postposition."""
    out = []
    for noun, after in itertools.pairwise(words):
        if GENDER.get(noun) == "m" and noun not in NAMES and after in POSTPOSITIONS - {"सा"}:
            counted["case"] += 1
            if noun.endswith(("ा", "आ", "आँ")):
                out.append(("case", words))
    return out


def _possession(words: list[str]) -> list:
    """Check का before masculine and की before feminine nouns."""
    out = []
    for marker, noun, after in zip(words, words[1:], [*words[2:], ""], strict=False):
        if marker in ("का", "की") and noun in GENDER and noun not in NAMES and after != "और":
            counted["possession"] += 1
            if (marker == "की") != (GENDER[noun] == "f"):
                out.append(("possession", words))
    return out


def _attribute(words: list[str]) -> list:
    """Check that adjectives in -ा agree with the noun after them."""
    out = []
    for word, noun in itertools.pairwise(words):
        gender = NEW.get(word) or ({"ा": "m", "ी": "f"}.get(word[-1]) if word[:-1] in ADJECTIVES else None)
        if gender and noun in GENDER and noun not in NAMES:
            counted["attribute"] += 1
            if gender != GENDER[noun]:
                out.append(("attribute", words))
    return out


def _subject(words: list[str]) -> list:
    """Check that the verb of a clause without ने agrees with a person or animal in the direct case
    at its start."""
    subject, rest = (words[1], words[2:]) if words[0] == "एक" and len(words) > 1 else (words[0], words[1:])
    if subject not in ACTORS or not rest or WITH_NE & {*words} or rest[0] in POSTPOSITIONS | {"और", "नाम", "लेकर"}:
        return []
    verbs = words[-2:-1] if words[-1] in ("है", "हूँ", "हो") else words[-1:]
    if words[-1] in ("था", "थी", "थे", "थीं", "गया", "गई", "गए") and words[-2].endswith(("ता", "ती", "ते", "रहा", "रही", "रहे", "हो", "चला", "चली")):
        verbs = words[-2:]
    forms = [form(verb) for verb in verbs if verb != "हो"]
    if not forms or None in forms or words[-1].endswith(("कर", "ना")):
        return []
    counted["subject"] += 1
    return [("subject", words)] if {*forms} != {GENDER[subject] + "s"} else []


def _ergative(words: list[str]) -> list:
    """Check that after ने the verb is transitive and agrees with its object: the last noun before
    it without a postposition."""
    marker = next((i for i, word in enumerate(words) if word in WITH_NE), None)
    if marker is None or words[-1].endswith(("कर", "ना")):
        return []
    end = len(words) - (words[-1] in ("है", "हैं", "था", "थी", "थे"))
    verb = words[end - 1]
    if form(verb) is None or end - 1 <= marker or verb in GENDER:
        return []
    counted["ergative"] += 1
    if verb in INTRANSITIVE and "झूठ" not in words:
        return [("ने with an intransitive verb", words)]
    span = words[marker + 1 : end - 1]
    for noun, after in reversed(list(zip(span, [*span, verb][1:], strict=True))):
        if noun in GENDER and noun not in NAMES and after not in POSTPOSITIONS | {"लेकर", "उठाकर", "लिए"}:
            counted["object"] += 1
            return [("object", words)] if form(verb)[0] != GENDER[noun] else []
        if noun in ("को", "उसे", "उन्हें"):
            break
    return []


def _joined(first: list[str], second: list[str]) -> list:
    """Check that two clauses share a subject only if both verbs take it in the same case."""
    if {*second} & (WITH_NE | ACTORS | {"वह", "वे", "दोनों", "लोग"}):
        return []
    counted["joined"] += 1
    both = [*first, "और", *second]
    if WITH_NE & {*first}:
        return [("a new subject is missing", both)] if second[-1] in INTRANSITIVE and second[0] not in GENDER else []
    return [("ने is missing", both)] if second[-1] in TRANSITIVE and first[0] in ACTORS | {"वह", "वे"} else []


def _honour(words: list[str]) -> list:
    """Check that an honorific subject has a plural verb."""
    sentence = " ".join(words)
    for names, expected in ((HONOURED_WOMEN, "fp"), (HONOURED_MEN, "mp")):
        for name in names:
            if re.match(rf"(एक )?(बूढ़ी |बूढ़े |दयालु |थके हुए )?{name} (?!{'|'.join(POSTPOSITIONS)}|और)", sentence) and "ने" not in words:
                present = words[-1] in ("है", "हैं")  # बैठी हैं: only हैं shows the plural
                last = form(words[-2] if present else words[-1])
                if last and not words[-1].endswith(("कर", "ना")):
                    counted["honour"] += 1
                    if words[-1] == "है" or last != ("fs" if present and expected == "fp" else expected):
                        return [("honour", words)]
    return []
