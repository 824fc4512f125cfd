"""Check the grammar of Hindi sentences on the surface of the text: word lists and endings, no code
of nano_hindi.sample.

`mistakes(text)` names what breaks a rule. `counted` is how often each rule applied, so that a test
cannot pass because none did. Chandrabindu and anusvara count as the same sign, since stories are
spelt with either.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter


def listed(text: str) -> list[str]:
    return text.replace("ँ", "ं").split()


MEN = listed("""मोहन राजू गोपाल दीपक रवि अमन किशन सोनू हरि विनय अर्जुन मनोहर सुरेश रामू श्याम करन नंदू चेतन बिरजू मुकेश नरेश लखन माधव केशव सलीम रहीम गोविंद जगदीश
अनिल दिनेश मनीष संजय राकेश आदित्य निखिल वरुण अभिषेक रोहन इमरान आरिफ़ यूसुफ़ करीम इरफ़ान बशीर कबीर अनवर ज़ुबैर नसीर रशीद हामिद गुलज़ार बलबीर जसपाल
सतनाम करतार सुखदेव हरभजन जोसेफ़ थॉमस डेविड पीटर एंथनी जॉर्ज सैमुअल पारस जिनेश भावेश हितेश रुस्तम सोहराब बिरसा मंगरू बुधराम लखीराम तपन सुब्रत बिमल
सौरव अनिर्बान मुरुगन सेल्वम कुमारन वेलु उन्नी राजन बिजू वेंकट बसवराज रंगनाथ तुकाराम विट्ठल नामदेव भूपेन प्रांजल बिपिन तेनज़िंग दोरजी तोम्बा बनमाली
दिलीप""")
WOMEN = listed("""मीना सीता गीता राधा कमला सुनीता लक्ष्मी गौरी पूजा नेहा चंपा तारा जया मुन्नी ललिता रुक्मिणी सुधा विमला पार्वती रजनी मालती सलमा फ़ातिमा सरला इंद्राणी मधु उमा
निशा शीला जमुना अंजलि अनुराधा सरिता अनिता नंदिता प्रिया सोनाली रश्मि वंदना शकुंतला सावित्री गायत्री शारदा माधुरी आयशा ज़ैनब शबाना नसीमा ज़ोया मरियम
हलीमा  रज़िया सकीना परवीन ज़ूनी हाजरा हरलीन जसलीन सिमरन हरनूर मैरी एलिज़ा रोज़ी सूज़न टेरेसा एंजेला ग्रेसी हेतल कोकिला भाविका हंसा शिरीन फूलो झानो
बुधनी मंगली  सुमरी सुचित्रा शर्मिला पियाली अपर्णा तृषा मीनाक्षी सेल्वी वल्ली अमुदा शोभना लीला बीना पद्मा सरोजा देवयानी सुलोचना अश्विनी शांता जोनाकी
निरुपमा रूपाली  डोलमा पेमा थोइबी सुभद्रा मिनती""")
HONOURED_WOMEN = ["दादी", "नानी", "मां", "बुआ जी", "मौसी जी", "ताई जी", "मामी जी", "अध्यापिका जी", "अम्मा", "रानी"]
HONOURED_MEN = ["दादा जी", "नाना जी", "पिता जी", "चाचा जी", "मामा जी", "ताऊ जी", "गुरु जी", "मास्टर जी", "मुखिया जी", "बाबा", "राजा"]
# things and animals, in the direct singular
MASCULINE = listed("""तोता कबूतर मोर हिरन खरगोश बंदर नेवला सियार भालू हाथी शेर चूहा टिड्डा मेंढक गिरगिट कछुआ कौआ कुत्ता साँप शिकारी चोर सिपाही लड़का बच्चा
थैला जाल हथौड़ा खिलौना डमरू लट्टू घड़ा मटका प्याला शीशा आम अमरूद लड्डू अनार पपीता सेब पौधा पेड़ कुआँ पानी खाना घर मन दरवाज़ा सिर पैर हाथ दिल घमंड
डर काम नाम गाँव मेला पुरस्कार अभ्यास धन्यवाद आशीर्वाद सहारा कंबल बिस्तर शोर फल केला सिक्का ज़ोर भरोसा बोझ इनाम खर्च स्थान साथ समय रास्ता मित्र
किसान लकड़हारा कुम्हार दर्ज़ी माली मछुआरा लोहार बढ़ई मोची चरवाहा ग्वाला हलवाई सामान
लंगूर जुगनू झींगुर घोंघा गैंडा बाघ तेंदुआ भैंसा बारहसिंगा सूअर तीतर भौंरा शकरखोरा गुबरैला सारस ऊदबिलाव बटुआ झूला पिंजरा तराज़ू कागज़ अखबार दीया
अक्षर बुखार अनाज चावल गेहूं बाजरा चना गुड़ आटा नमक आंवला शहतूत जामुन अंजीर सीताफल गुलदान मर्तबान आईना गमला दर्पण झुनझुना मुखौटा इकतारा
बैग झोला सूटकेस पिट्ठू बक्सा
कंचा शरीफ़ा चूल्हा वर्षामापी छन्ना कंपास रोबोट मॉडल पेट रास्ता कुआं चाकू पेचकस आला चश्मा प्लास खरल हंसिया दीपक पत्थर पंख कांटा गड्ढा बांस गड़बड़झाला""")
FEMININE = listed("""मैना कोयल गौरैया बुलबुल लोमड़ी चींटी मधुमक्खी गिलहरी मछली बत्तख चील तितली बकरी लड़की बच्ची कुम्हारिन दर्ज़िन मालिन ग्वालिन
कुदाल कुल्हाड़ी कैंची खुरपी आरी हथौड़ी कूची बाँसुरी बाल्टी करछी पतंग गुड़िया गेंद ढोलक सीटी सुराही गुल्लक प्याली तश्तरी शीशी नारंगी नाशपाती
मदद बात आँख नींद जान हिम्मत बाड़ हल्दी पट्टी पीठ सेवा माफ़ी मेहनत खोज डुबकी थैली चाबी अँगूठी आवाज़ राह आग बारिश बरसात घोषणा पढ़ाई ईमानदारी मिसाल
खुशी मित्रता भूल रोटी चट्टान कोंपल छाया डाली भीड़ तारीफ़ चाह उम्र खाद कहानी
बाघिन हथिनी नीलगाय साही चुहिया बटेर दीमक कुतिया मुनिया बया फ़ाख्ता चिट्ठी दवा लालटेन टोकरी लड़ी बत्ती बिजली दुकान दाल हल्दी चीनी चाय सूजी
फिरकी कठपुतली डफली टोपी पिचकारी बरनी हांडी पवनचक्की दूरबीन घंटी नाव नली परत सुई मशीन कीप दोस्ती चालाकी ताकत केतली छुरी छेनी सुईदानी
खिचड़ी चारपाई चादर रस्सी गांठ टहनी पीठ गंध अटैची संदूकची""")
GENDER = dict.fromkeys([*MEN, *MASCULINE], "m") | dict.fromkeys([*WOMEN, *FEMININE], "f")
NAMES = {*MEN, *WOMEN}
POSTPOSITIONS = {"ने", "को", "से", "में", "पर", "का", "के", "की", "तक", "सा", "सी"}
HONORIFIC = {name.split()[0] for name in [*HONOURED_WOMEN, *HONOURED_MEN]}
# perfective forms of verbs that do not take ने
INTRANSITIVE = {stem + e for stem in ("ग", "आ", "सो", "रो") for e in ("या", "ए", "ई", "ईं")} | {
    stem + e for stem in ("बोल", "लग", "रह", "पहुंच", "निकल", "बैठ", "चल", "भूल", "लौट", "हंस", "डर", "घबरा", "चिल्ला", "दौड़", "झुक", "उठ", "पड़", "मुस्कुरा") for e in ("ा", "े", "ी", "ीं")
}  # fmt: skip
PREDICATES = {*listed("ओझल खुश उदास चुप चुपचाप धीरे तुरंत ज़ोर फिर वहीं वहां घर बाहर भीतर खड़ा खड़ी")}
ADJECTIVES = {"बड़": 1, "छोट": 1, "प्यार": 1, "अपन": 1, "मेर": 1, "तुम्हार": 1, "घन": 1, "वैस": 1}  # stems before ा, े, ी
NEW = {"नया": "m", "नई": "f"}

ACTORS = NAMES | {
    *listed("""तोता कबूतर मोर हिरन खरगोश बंदर नेवला सियार भालू हाथी शेर चूहा टिड्डा मेंढक गिरगिट कछुआ कौआ कुत्ता मैना कोयल लोमड़ी चींटी मधुमक्खी
गिलहरी मछली बत्तख चील तितली लंगूर जुगनू झींगुर घोंघा गैंडा बाघ तेंदुआ बारहसिंगा तीतर भौंरा शकरखोरा गुबरैला सारस ऊदबिलाव
बाघिन हथिनी नीलगाय साही चुहिया बटेर कुतिया मुनिया बुलबुल गौरैया""")
}
WITH_NE = {"ने", "उसने", "उन्होंने", "मैंने", "तुमने", "हमने", "किसने"}
TRANSITIVE = {stem + e for stem in ("दि", "कि", "लि", "बता", "बना", "उठा", "लगा", "खा", "पा", "छिपा") for e in ("या", "ए", "ई", "ईं")} | {
    stem + e for stem in ("कह", "पूछ", "देख", "रख", "सोच", "निकाल", "खरीद", "सुन", "बांध", "मांग") for e in ("ा", "े", "ी", "ीं")
} | {"दी", "दीं", "की", "कीं", "ली", "लीं"}  # fmt: skip

# a bare stem has no gender or number: गा रही, उठा ली, ले आई, खा लिए (but चिट्ठी ली गई is a passive)
INFLECTED_STEM = re.compile(
    r"(?<!\S)(?:(?:गी|खी|जी|उठी|बनी|बताई|लगाई|दिखी|घबरी) (?:रही|ली|दी|गई|सकती|पाई|चुकी)|(?:ली|दी|गी|खी) (?:आई|आईं|लाई|भागी|चली|पाई|सकी)"
    r"|(?:गे|खे|उठे|बते|दिखे|लौटे) (?:रहे|लिए|दिए|सके|पाए|चुके))(?![^\s।,])"
)
# a participle agrees like its auxiliary: देखती रह गईं, not देखते
PARTICIPLE = re.compile(
    r"(?<!\S)(?<!नाम )\S+(?:ते (?:रह )?(?:गई|गईं|रही|रहीं|थी|थीं)|ती (?:रह )?(?:गए|रहे|थे|था|रहा)|ता (?:रह )?(?:थे|गए|रहे|थी|गई|रही))(?![^\s।,])"
)
BETWEEN = re.compile(r"(?<!\S)(?:दो|दोनों) (?!\S*[ोओ]ं )\S+ के बीच")  # of two is plural: दोनों लेंसों के बीच
PLURAL = ("े", "ए", "ीं", "ईं", "हैं")
LIKE_PARTICIPLES = NAMES | {"मित्रता", "चिंता", "एकता"}
NOUNS = {*GENDER, *HONORIFIC, "जी", "तांबे", "पंखे"}  # और after one of them joins nouns, not clauses
SOLVED = "बुझा"  # one solves (बूझता है) a riddle, and puts out (बुझाता है) a lamp

counted: Counter = Counter()


def form(word: str) -> str | None:
    """Return ms, mp, fs or fp for the ending of a word, None if the ending shows neither gender nor
    number."""
    if word in ("है", "हैं", "हूं", "हो", "नहीं", "में", "कि", "भी", "ही", "की"):
        return None
    for ending, name in (("ीं", "fp"), ("ईं", "fp"), ("ी", "fs"), ("ई", "fs"), ("ा", "ms"), ("या", "ms"), ("आ", "ms"), ("े", "mp"), ("ए", "mp")):
        if word.endswith(ending):
            return name
    return None


def sentences(text: str) -> list[list[list[str]]]:
    """Split a text into sentences, these into the clauses that और joins, and these into words. और
    between two nouns does not join clauses."""
    out = []
    for piece in re.split(r"[।?!,:“”\n]| (?:तो|कि) ", text.replace("ँ", "ं")):
        joined = [[]]
        for word in re.sub(r"^\s*(पर|तो|कि|इसलिए|फिर|तभी|तब) ", "", piece).split():
            if word == "और" and joined[-1] and joined[-1][-1] not in NOUNS and joined[-1][-2:-1] != ["एक"]:
                joined.append([])
            else:
                joined[-1].append(word)
        out.append([words for words in joined if words])
    return [clauses for clauses in out if clauses]


def mistakes(text: str) -> list[str]:
    """Return the mistakes in `text`, as `rule: words`."""
    text = text.replace("ँ", "ं")
    found = []
    for clauses in sentences(text):
        for words in clauses:
            found += _case(words) + _possession(words) + _attribute(words) + _ergative(words)
            agreement = _subject(words) + _honour(words)
            if words is clauses[0] or not words[-1].endswith(PLURAL):  # after और, a plural verb may have a subject before it too
                found += agreement
        for first, second in itertools.pairwise(clauses):
            found += _joined(first, second)
    found += [("stem", [match.group()]) for match in INFLECTED_STEM.finditer(text)]
    found += [("between", [match.group()]) for match in BETWEEN.finditer(text)]
    found += [("participle", [match.group()]) for match in PARTICIPLE.finditer(text) if match.group().split()[0] not in LIKE_PARTICIPLES]
    for sentence in re.split(r"[।?!\n]", re.sub(r"“[^”]*”", " ", text)):
        found += _wording(sentence.split()) + _introduced(sentence, text)
    return [f"{rule}: {' '.join(words)}" for rule, words in found]


def _wording(words: list[str]) -> list:
    """Check that उसने is said of one person in a sentence, and that riddles are not put out like
    lamps."""
    counted["wording"] += 1
    put_out = any(word.startswith("पहेल") for word in words) and any(SOLVED in word for word in words)
    wrong = put_out or words.count("उसने") > 1
    return [("wording", words)] if wrong else []


def _introduced(sentence: str, text: str) -> list:
    """Check that all verbs with a person as their subject agree with the first that is said of the
    person (X नाम की एक लड़की), whatever the name."""
    match = re.search(r"(\S+) नाम (का|की) एक|(\S+) \S+ गांव (का|की) एक", sentence)
    if not match:
        return []
    name, marker = [group for group in match.groups() if group]
    out = []
    for said, verb in re.findall(rf"(?:^|[।”\n]) ?{name} (?!ने|को|से|पर|का|के|की|और|नाम|\S+ गांव)([^।“”,?!]*? )?(\S+(?:ा|ी)) ?(?=[।,])", text):
        counted["introduced"] += 1
        if not verb.endswith("ना") and "ने " not in said and verb.endswith("ी") != (marker == "की"):
            out.append(("introduced", [name, verb]))
    return out


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
    """Check that adjectives in -ा agree with the noun after them; वैसा ही is one too."""
    out = []
    for word, noun in itertools.pairwise(word for word in words if word != "ही"):
        gender = NEW.get(word) or ({"ा": "m", "ी": "f"}.get(word[-1]) if word[:-1] in ADJECTIVES else None)
        if gender and noun in GENDER and noun not in NAMES:
            counted["attribute"] += 1
            if gender != GENDER[noun]:
                out.append(("attribute", words))
    return out


def _subject(words: list[str]) -> list:
    """Check that the verb of a clause without ने agrees with the person or animal in the direct
    case at its start, or with the two that और joins."""
    words = [word for word in words if word != "एक"]
    if not words or WITH_NE & {*words}:
        return []
    if len(words) > 3 and words[1] == "और" and words[0] in ACTORS and words[2] in ACTORS:
        expected, rest = ("f" if GENDER[words[0]] == GENDER[words[2]] == "f" else "m") + "p", words[3:]
    elif words[0] == "दोनों":
        expected, rest = "p", words[1:]
    elif words[0] in ACTORS:
        expected, rest = GENDER[words[0]] + "s", words[1:]
    else:
        return []
    if (
        not rest
        or rest[0] in POSTPOSITIONS | {"और", "नाम", "लेकर", "ही"}
        or rest[0].endswith(("ों", "ने"))
        or (expected == "p" and len({*rest} & ACTORS) > 0)
    ):
        return []
    verbs = rest[-2:-1] if rest[-1] in ("है", "हैं", "हूं", "हो") else rest[-1:]
    if (
        len(rest) > 1
        and rest[-1] in ("था", "थी", "थे", "थीं", "गया", "गई", "गए", "गईं")
        and rest[-2].endswith(("ता", "ती", "ते", "रहा", "रही", "रहे", "चला", "चली"))
    ):
        verbs = rest[-2:]
    forms = [form(verb) for verb in verbs if verb != "हो"]
    if not forms or None in forms or rest[-1].endswith(("कर", "ना", "ने")) or rest[-1] in GENDER:
        return []
    counted["subject"] += 1
    *inner, last = forms
    if expected == "p":
        return [] if last in ("mp", "fp") or (rest[-1] == "हैं" and last == "fs") else [("subject", words)]
    if expected == "fp":
        inner, last = [name.replace("fs", "fp") for name in inner], "fp" if rest[-1] == "हैं" and last == "fs" else last
    return [("subject", words)] if {*inner, last} != {expected} else []


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
        if noun in GENDER and noun not in NAMES and after not in POSTPOSITIONS | {"लेकर", "लिए"} and not after.endswith(("कर", "ते")):
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
        free = [word for word, after in itertools.pairwise(second) if after not in POSTPOSITIONS and word not in POSTPOSITIONS]
        subjectless = all(word.endswith(("कर", "ने", "ते", "हो", "पास", "पीछे", "आगे")) or word in PREDICATES for word in free)
        return [("a new subject is missing", both)] if second[-1] in INTRANSITIVE and subjectless else []
    return [("ने is missing", both)] if second[-1] in TRANSITIVE - {"लिए"} and first[0] in ACTORS | {"वह", "वे"} else []


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
