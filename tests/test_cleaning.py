"""The rules of --clean: what each repairs or drops, what none may change, and the counts."""

import itertools
import random
import re
import unicodedata

import pytest

from nano_hindi.corpus import cleaning
from nano_hindi.corpus.cleaning import DROPS, Cleaner, Count, Seen
from nano_hindi.corpus.cleaning.letters import SIGN
from nano_hindi.corpus.cleaning.repairs import REPAIRS, compose
from nano_hindi.corpus.cleaning.report import page
from nano_hindi.corpus.cleaning.seen import BANDS, MIN_BANDS, ROWS, SHINGLE, NearlySeen, hash_key
from nano_hindi.errors import UserError
from nano_hindi.sample import stories

GOOD = "एक गाँव में मोहन नाम का एक लड़का रहता था। वह रोज़ नदी के किनारे जाता था और मछलियों को दाना डालता था।"
MOJIBAKE = GOOD.encode().decode("latin-1")
SIGN_CHARACTERS = [chr(code) for code in range(0x900, 0x980) if unicodedata.category(chr(code)) in ("Mn", "Mc")]


def clean(text: str) -> tuple[str | None, dict[str, int]]:
    cleaner = Cleaner()
    result = cleaner(text)
    return result, {rule: count.documents for rule, count in cleaner.counts.items() if count.documents}


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD + "\n\n\tक्‍या और न्‌ह, 2024 में १२३ रुपये 👩‍🌾 €!",  # joiners, an emoji of three code points, both kinds of digits, tab and empty line
        GOOD + " The river is long.",
        GOOD.replace("।", "॥"),
        "ॐ " * 40 + GOOD,
    ],
)
def test_good_hindi_is_unchanged(text):
    assert clean(text) == (text, {})


# ---- repairs


@pytest.mark.parametrize(
    ("text", "mended", "rule"),
    [
        ("\ufeff" + GOOD, GOOD, "control characters"),
        (GOOD + "\r\nदो\rतीन", GOOD + "\nदो\nतीन", "control characters"),
        (GOOD + "\x0cदो\x0bतीन\x85चार\x1cपाँच", GOOD + "\nदो\nतीन\nचार\nपाँच", "control characters"),
        (GOOD[:20] + "\x00\x1b\u200b\u200e\u00ad" + GOOD[20:], GOOD, "control characters"),
        (GOOD.replace("ड़", "\u095c"), GOOD, "not NFC"),  # a letter that NFC decomposes
        (unicodedata.normalize("NFD", GOOD + " café"), GOOD + " café", "not NFC"),
    ],
)
def test_text_is_repaired(text, mended, rule):
    assert clean(text) == (mended, {rule: 1})


@pytest.mark.parametrize(
    ("rule", "text", "mended"),
    [
        ("HTML entities", "राम &amp; श्याम &lt;b&gt;", "राम & श्याम <b>"),
        ("HTML entities", "राम &amp;amp; &quot;श्याम&quot; &amp;#2325;", 'राम & "श्याम" क'),  # escaped twice
        ("HTML entities", "&#2354;&#x921;&#X93C;का", "लड़का"),
        ("HTML entities", "AT&T और R&D; ?a=1&copy=2&lt=3 &कख; &none;", None),
        ("nukta after matra", "लडा़का पढा़ई घोडे़ गाडी़", "लड़ाका पढ़ाई घोड़े गाड़ी"),
        ("nukta after matra", "फि़क्र खु़शी आखि़री लडाँ़", "फ़िक्र ख़ुशी आख़िरी लड़ाँ"),
        ("nukta after matra", "जो़ड़ गा़ड़ी", "जोड़ गाड़ी"),  # the nukta is that of ड़
        ("nukta after matra", "लड़का बा़ अ़", None),  # no letter that has a nukta
        ("doubled signs", "हुुई मेंं मैैं सााथ क््या ज़़रा प्रायःः", "हुई में मैं साथ क्या ज़रा प्रायः"),
        ("doubled signs", "उत्स्ााह धारण्ाा व्ाास्तविक म्ाानसिक", "उत्साह धारणा वास्तविक मानसिक"),
        ("doubled signs", "दीदी काका सत्ता हँसी", None),
        ("vowels in two parts", "अाम अोर अौरत अाॅफिस एेसा उुन", "आम ओर औरत ऑफिस ऐसा ऊन"),
        ("vowels in two parts", "काे लाैट डाॅक्टर लेाग उन्हांेने कोर्इ", "को लौट डॉक्टर लोग उन्होंने कोई"),
        ("vowels in two parts", "कोर्इ", "कोई"),
        ("control characters", "क\u202aख\u202e ग\u2060घ\u2069\u061c ङ\ufff9च\ufffb", "कख गघ ङच"),
        ("vowels in two parts", "अेक अि जाएे ऐसा गाए", None),  # another spelling of ए, and what may be ए or ऐ
        ("dotted circles", "क◌ि मी◌ल ◌राम ◌", "कि मील राम "),
        ("dotted circles", "इ की मात्रा ◌ि है", None),  # a sign shown by itself
        ("stray joiners", "त\u200dो न\u200cदी र\u200d\u200dहे \u200dराम\u200c है\u200d।", "तो नदी रहे राम है।"),
        ("stray joiners", "क्\u200d\u200dया अर्थात्\u200c वह", "क्\u200dया अर्थात् वह"),
        ("stray joiners", "क्\u200dया न्\u200cह र्\u200dय र\u200d्य ड़\u200d्य 👩\u200d। 👩\u200d🌾 می\u200cخواهم", None),
        ("pipe for danda", "राम घर गया| वह सो गया|", "राम घर गया। वह सो गया।"),
        ("pipe for danda", "मैं घर जा रहा हूँ | क्या तुम भी जाओगे |", "मैं घर जा रहा हूँ । क्या तुम भी जाओगे ।"),
        ("pipe for danda", "राम घर गया है।| वह थका|। बस", "राम घर गया है। वह थका। बस"),
        ("pipe for danda", 'उसने कहा "मैं जाऊँगा"| फिर वह उठा और चला गया|', 'उसने कहा "मैं जाऊँगा"। फिर वह उठा और चला गया।'),
        ("pipe for danda", "a | b | c", None),
        ("pipe for danda", "होम | संपर्क | हमारे बारे में", None),
        ("pipe for danda", "नाम | उम्र | शहर\nराम | दस | दिल्ली", None),
        ("pipe for danda", "| राम घर गया था | वह वापस आया था |", None),
        ("pipe for danda", "मुख्यमंत्री ने कहा कि वे आएंगे | आज तक", None),  # a title and its site
        ("pipe for danda", "grep राम | wc; x = a|b", None),
        ("pipe for danda", "जय श्री राम ||१||", None),
        ("pipe for danda", "उसने मुझे बताया था | कि वह कल आएगा।", None),
        ("pipe for danda", " | राम घर गया था | वह वापस आया था |", None),
        ("pipe for danda", "राम घर गया था | नाम और पता | वह आया।", None),  # half of the pipes
        ("pipe for danda", "राम घर गया था| नाम और पता| वह आया।", "राम घर गया था। नाम और पता| वह आया।"),
        ("pipe for danda", "राम घर गया| था और सो गया|", "राम घर गया| था और सो गया।"),
        ("pipe for danda", "उस पेड़ की छाया|", None),
        ("pipe for danda", "राम घर गया। वह था|", None),
        ("pipe for danda", "राम घर गया था|| वह भी सो गया||", None),
        ("colon for visarga", "अत: वह प्राय: दु:ख में पुन: आया (वस्तुत:)।", "अतः वह प्रायः दुःख में पुनः आया (वस्तुतः)।"),
        ("colon for visarga", "नि:शुल्क अंत:करण प्रात:काल सुख-दु:ख मन:स्थिति", "निःशुल्क अंतःकरण प्रातःकाल सुख-दुःख मनःस्थिति"),
        ("colon for visarga", "उसने छ: आने माँगे", "उसने छः आने माँगे"),
        ("colon for visarga", "राम: मैं आता हूँ", None),
        ("colon for visarga", "समय 10:30 या १०:३०, नाम: राम, नाम:राम, अंत: सुखद", None),
        ("colon for visarga", "छ: छाता\nमन: शांत std::अत:: x", None),
        ("replacement characters", GOOD * 10 + " \ufffd " + GOOD, GOOD * 10 + "  " + GOOD),
        ("replacement characters", GOOD * 10 + " रा\ufffdम", None),  # a letter is missing there
    ],
)
def test_rule_repairs_what_it_names_and_nothing_else(rule, text, mended):
    assert REPAIRS[rule](text) == (text if mended is None else mended)
    if mended is not None:
        cleaner = Cleaner()
        assert cleaner(f"{GOOD}\n{text}") == f"{GOOD}\n{mended}"
        assert cleaner.counts[rule].documents == 1


def test_pipes_of_a_text_that_has_them_for_danda_end_any_sentence():
    sentences = ["राम रोज़ बाज़ार जाता है", "वह फल लाता है", "सीता घर पर रहती थी", "उसे पसंद थे केवल आम", "अब सब ठीक लगा उसे"]
    assert REPAIRS["pipe for danda"]("| ".join(sentences)) == "। ".join(sentences)
    for verbs, others, is_habit in ((3, 3, True), (3, 4, False), (2, 2, False)):  # lines whose pipe is after a verb, and not
        lines = [f"{sentence}|" for sentence in [*sentences[:verbs], *sentences[3:4] * others]]
        assert REPAIRS["pipe for danda"]("\n".join(lines)).count("।") == (len(lines) if is_habit else verbs)
    for kept in ("राम ने सीता को", "नया पता"):  # no sentence, in such a text either
        text = "| ".join([*sentences[:3], "वह गया", kept, "एक फल।"])
        assert REPAIRS["pipe for danda"](text) == "। ".join([*sentences[:3], "वह गया", f"{kept}| एक फल।"])


def test_rules_work_on_what_other_rules_uncover():
    mended, counts = clean(GOOD + " &am\u200dp;#x200b; लडा\u00ad़का अ\u200dाम")
    assert mended == GOOD + "  लड़ाका आम"
    assert counts == dict.fromkeys(["HTML entities", "control characters", "nukta after matra", "vowels in two parts", "stray joiners"], 1)
    assert clean(GOOD + " दु&#58;ख")[0] == GOOD + " दुःख"


def test_cleaning_a_cleaned_text_changes_nothing():
    rng = random.Random(3)
    parts = [
        *SIGN_CHARACTERS,
        *"कड़रतछअआएउ|:।◌&; \n",
        "\u200d",
        "\u200c",
        "\u00ad",
        "\ufffd",
        "&amp;",
        "amp;",
        "#58;",
        "राम",
        "वह घर गया",
        "दु",
        "अत",
        "है",
        "कि",
    ]
    changed = 0
    for _ in range(400):
        text = GOOD * 12 + "".join(rng.choices(parts, k=rng.randrange(1, 40)))
        once = Cleaner()(text)
        if once is not None:
            changed += once != text
            assert clean(once) == (once, {}), ascii(text[len(GOOD) * 12 :])
    assert changed > 150


def test_signs_are_those_of_unicode_except_vedic_accents():
    assert {c for c in SIGN_CHARACTERS if not re.match(f"[{SIGN}]", c)} == {chr(code) for code in range(0x951, 0x955)}


def test_text_is_normalized_where_nfc_changes_it():
    rng = random.Random(2)
    alphabet = [chr(code) for code in [*range(0x20, 0x370), *range(0x900, 0x980), 0xAC00, 0x1100, 0x1161, 0x2126, 0x200D]] + list(
        "नरळड" + "\u093c\u094d"
    ) * 30
    texts = ["".join(rng.choices(alphabet, k=5)) for _ in range(20_000)]
    assert [compose(text) for text in texts] == [unicodedata.normalize("NFC", text) for text in texts]
    assert sum(unicodedata.normalize("NFC", text) != text for text in texts) > 1000


# ---- drops

MARATHI = "एका गावात मोहन नावाचा एक मुलगा राहत होता. तो रोज नदीच्या काठी जात असे आणि माशांना दाणे टाकत असे. त्याची आई त्याच्यावर खूप प्रेम करत होती."
NEPALI = "एउटा गाउँमा मोहन नाम गरेको एक जना केटा बस्थ्यो। ऊ दिनहुँ नदीको किनारमा जान्थ्यो र माछाहरूलाई दाना हाल्थ्यो। उसकी आमाले उसलाई धेरै माया गर्नुहुन्थ्यो।"
SANSKRIT = "अस्त्युत्तरस्यां दिशि देवतात्मा हिमालयो नाम नगाधिराजः। पूर्वापरौ तोयनिधी वगाह्य स्थितः पृथिव्या इव मानदण्डः॥"
KRUTI_DEV = "Hkkjr ,d fo'kky ns'k gS vkSj ;gk¡ vusd Hkk\"kk,¡ cksyh tkrh gSaA ns'k esa dbZ ufn;k¡ gSa vkSj fdlku [ksrh djrs gSaA"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (MOJIBAKE, "broken encoding"),
        (GOOD[:30] + "\ufffd" + GOOD[30:], "broken encoding"),
        (f"रा\ufffdम {GOOD * 10}"[:999], "broken encoding"),
        (GOOD + " \ufffd", "broken encoding"),
        (GOOD + "\uffff", "broken encoding"),
        ("The river is long, and the farmer sells mangoes at the market. " * 3 + GOOD[:40], "not Devanagari"),
        (f"{GOOD} {'abcd ' * 23}{'१२३।' * 30}", "not Devanagari"),  # 45 % of the letters are
        ("12345 67890 !!! " * 10, "not Devanagari"),
        ("আমার সোনার বাংলা, আমি তোমায় ভালোবাসি। চিরদিন তোমার আকাশ, তোমার বাতাস", "not Devanagari"),
        ("", "not Devanagari"),
        ("होम | संपर्क", "too short"),
        (f"\n{GOOD[:49]} \n", "too short"),
        (GOOD * 4 + "\n" + KRUTI_DEV + "\n" + GOOD, "legacy font"),
        (GOOD + " gS vkSj esa", "legacy font"),
        (MARATHI, "not Hindi"),
        (NEPALI, "not Hindi"),
        (SANSKRIT, "not Hindi"),
    ],
)
def test_text_is_dropped(text, rule):
    result, counts = clean(text)
    assert result is None
    assert counts[rule] == 1


@pytest.mark.parametrize(
    "text",
    [
        GOOD + " 1234567890" * 30,  # neither digits nor punctuation are another script
        GOOD * 60 + "\n" + KRUTI_DEV,  # a small fraction
        GOOD + " Contact us: ls -l, gS is the stiffness; vkSj",
        "सूर्य अस्त हो गया, चिड़ियाँ लौट आईं अपने घोंसले की ओर। दिन भर की थकान, रात की गोद, मीठी नींद, नए सपने।",  # few of the common words
        GOOD + " " + SANSKRIT,
        f"{GOOD} {('abcd ' * 15).strip()}",  # 56 % of the letters are Devanagari
        GOOD[1:51],
        f"रा\ufffdम {GOOD * 10}"[:1000],
        GOOD + " gS + gS = 2 gS" * 3,  # a single word of a legacy font
        GOOD + " xgS xvkSj xesa",
        GOOD * 6 + " gS vkSj esa",  # 1.5 % of the characters
    ],
)
def test_text_is_kept(text):
    assert clean(text) == (text, {})


def test_only_the_model_and_the_words_together_drop_a_language(monkeypatch):
    import py3langid

    asked = []
    monkeypatch.setattr(py3langid, "classify", lambda text: asked.append(text) or ("mr", 0.0))
    assert clean(GOOD)[0] == GOOD
    assert not asked
    assert clean(MARATHI)[0] is None
    monkeypatch.setattr(py3langid, "classify", lambda text: ("hi", 0.0))
    assert clean(MARATHI)[0] == MARATHI


# ---- duplicates


def test_duplicates_are_found_after_cleaning_and_across_a_resume():
    cleaner = Cleaner()
    assert [cleaner(text) is None for text in (GOOD, GOOD + "\r", GOOD)] == [False, True, True]
    assert cleaner("\ufeff" + GOOD) is None
    assert cleaner.counts["duplicate"].documents == 2
    assert cleaner.counts["near duplicate"].documents == 1  # another end of line
    again = Cleaner()
    again.remember(GOOD)
    assert again(GOOD) is None
    assert again(GOOD + "\n") is None
    assert [again.counts[rule].documents for rule in DROPS[-2:]] == [1, 1]


def test_a_dropped_near_duplicate_is_no_duplicate_of_later_texts():
    cleaner = Cleaner()
    assert [cleaner(text) is None for text in (GOOD, GOOD + "\n", GOOD + "\n")] == [False, True, True]
    assert cleaner.counts["near duplicate"].documents == 2  # as after a resume, which remembers only what was kept


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


def test_near_duplicates_are_found_as_often_as_the_bands_predict():
    rng = random.Random(4)
    vocabulary = [f"शब्द{i}" for i in range(3000)]
    found, expected, variance = 0.0, 0.0, 0.0
    above, near, below = [], [], []
    for _ in range(600):
        words = rng.choices(vocabulary, k=rng.randrange(50, 300))
        changes = rng.random() * 0.12
        other = [rng.choice(vocabulary) if rng.random() < changes else word for word in words]
        first, second = " ".join(words), "\n".join(other)
        nearly = NearlySeen()
        nearly.add(nearly.keys(first))
        known = nearly.knows(nearly.keys(second))
        jaccard = len(shingles(first) & shingles(second)) / len(shingles(first) | shingles(second))
        band = jaccard**ROWS
        rate = 1 - sum(binomial(BANDS, k) * band**k * (1 - band) ** (BANDS - k) for k in range(MIN_BANDS))
        found, expected, variance = found + known, expected + rate, variance + rate * (1 - rate)
        (above if jaccard >= 0.9 else near if jaccard >= 0.8 else below if jaccard <= 0.5 else []).append(known)
    assert abs(found - expected) < 4 * variance**0.5
    assert len(above) > 30
    assert sum(above) >= 0.98 * len(above)  # recall
    assert len(near) > 30
    assert sum(near) >= 0.92 * len(near)
    assert len(below) > 100
    assert sum(below) <= 0.02 * len(below)  # precision


def binomial(n: int, k: int) -> int:
    return 1 if k == 0 else binomial(n, k - 1) * (n - k + 1) // k


def test_different_stories_are_no_near_duplicates():
    cleaner = Cleaner()
    texts = list(itertools.islice(stories(7), 300))
    assert sum(cleaner(text) is not None for text in texts) >= 297
    assert all(cleaner(text.replace("।", " ।", 1)) is None for text in texts)


def test_text_set_behaves_like_a_set():
    rng, seen, known = random.Random(1), Seen(), set()
    for _ in range(20_000):
        text = str(rng.randrange(9_000))
        key = hash_key(text.encode())
        assert (key in seen) == (text in known)
        seen.add(key)
        known.add(text)


# ---- counts


def test_byte_counts_of_all_rules_add_up_to_the_bytes_removed():
    rng = random.Random(0)
    tails = ["", "\x00", "\u095c", MOJIBAKE, "\r\n", " hello" * 60, " &amp;", " अत: हम", " लडा़का"]
    starts = [story[:400] for story in itertools.islice(stories(1), 60)]
    texts = [rng.choice(starts) + rng.choice(tails) for _ in range(300)]
    cleaner = Cleaner()
    kept = [cleaned for text in texts if (cleaned := cleaner(text)) is not None]
    size, left = (sum(len(text.encode()) for text in some) for some in (texts, kept))
    assert sum(count.bytes for count in cleaner.counts.values()) == size - left
    assert sum(cleaner.counts[rule].documents for rule in DROPS) == len(texts) - len(kept)
    assert cleaner.counts["colon for visarga"].bytes == -2 * cleaner.counts["colon for visarga"].documents < 0  # ः has three bytes
    assert len(kept) == len(set(kept)) > 50
    steps = cleaner.steps(Count(len(kept), left))
    assert steps[0][2] == Count(len(texts), size)
    assert steps[-1][2] == Count(len(kept), left)
    assert all(n.bytes >= 0 and n.documents >= 0 for _, _, n in steps)
    assert len(cleaner.lines(Count(len(kept), left))) == len(cleaner.counts) + 2


def test_counts_and_examples_survive_a_record():
    cleaner = Cleaner()
    for text in (GOOD + "\x00", GOOD, GOOD + "\ufffd दु:ख", MARATHI, GOOD + "\n\u2028 लडा़का"):
        cleaner(text)
    recorded = {key: str(value) for key, value in cleaner.metadata().items()}
    again = Cleaner.from_metadata(recorded)
    assert again.counts == cleaner.counts
    assert again.examples == cleaner.examples
    assert all("\n" not in value for value in recorded.values())
    assert Cleaner.from_metadata({}).counts == Cleaner().counts


def test_page_shows_the_first_three_examples_of_each_rule_in_their_context():
    cleaner = Cleaner()
    texts = [f"{story}\nचौथा शब्द दु:ख <{i}> है।" for i, story in enumerate(itertools.islice(stories(5), 5))]
    texts[3] += "\ufffd" * 5
    for text in texts:
        cleaner(text)
    shown = page(cleaner, Count(4, 1000))
    before, after = (f"चौथा शब्द <mark>{word}</mark> &lt;{{}}&gt; है।" for word in ("दु:ख", "दुःख"))
    assert [before.format(i) in shown and after.format(i) in shown for i in range(5)] == [True, True, True, False, False]
    assert shown.count("<i>dropped</i>") == 1
    assert "<td>colon for visarga (repaired)</td><td class='number'>5</td><td class='number'>-10</td>" in shown


def test_missing_library_is_one_line(monkeypatch):
    assert cleaning.rules_version().startswith("rules 4, rensa 0.5")
    monkeypatch.setattr(cleaning, "LIBRARIES", ("rensa", "not_installed"))
    with pytest.raises(UserError, match="python -m pip install not_installed"):
        cleaning.rules_version()
