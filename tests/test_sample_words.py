"""The people and things of the sample stories: who does what, and what can be when and carried by
whom."""

import random
import re
from collections import defaultdict

from nano_hindi import minimal_pairs, sample
from nano_hindi.sample import words
from nano_hindi.sample.plots import PLOTS
from nano_hindi.sample.world import GROUPS, Line

SEASONS = {
    "आम": "summer",
    "अमरूद": "winter rains",
    "अनार": "winter rains",
    "शरीफ़ा": "winter rains",
    "सेब": "winter rains",
    "नारंगी": "winter",
    "नाशपाती": "rains",
}
TOO_HEAVY_FOR_BIRDS = {"आम", "अमरूद", "अनार", "शरीफ़ा", "पपीता", "सेब", "नारंगी", "नाशपाती", "गेंद", "गुड़िया", "बाँसुरी", "टोपी"}
BIRDS = {"कौआ", "चील"}
DIFFERENT_WORDS = {"हँसा हंसा", "राज राज़", "जंग ज़ंग", "बसता बस्ता", "कर्म क्रम"}


def test_women_and_men_are_in_every_trade():
    genders = defaultdict(set)
    for trade in words.TRADES:
        genders[trade.work, trade.verb].add(trade.gender)
    assert len(genders) >= 30
    assert all(both == {"m", "f"} for both in genders.values())


def test_every_name_is_of_one_person_and_no_word_of_the_stories():
    names = [person.word for person in words.PEOPLE]
    assert len(set(names)) == len(names) >= 200
    assert len(set(words.VILLAGES)) == len(words.VILLAGES) >= 60
    assert not {*names} & {"कविता", "रेखा", "पूनम", "भारती", "विकास", "चंदा"}


def test_fruit_is_found_in_its_season_and_birds_steal_only_what_they_can_lift(monkeypatch):
    monkeypatch.setattr(sample, "PLOTS", [plot for plot in PLOTS if plot.name == "quarrel"])
    rng = random.Random(0)
    thefts = defaultdict(set)
    for _ in range(600):
        story = sample.compose(rng)
        thing = story.cast["x"].word
        thefts[thing].add(story.cast["a"].word)
        assert thing not in SEASONS or story.facts & {*SEASONS[thing].split()}, story.text
    assert thefts.keys() == {thing.word for thing in words.FINDS}
    assert all(not BIRDS & thieves for thing, thieves in thefts.items() if thing in TOO_HEAVY_FOR_BIRDS)
    assert set().union(*thefts.values()) >= BIRDS


def test_every_fact_and_trait_is_needed_somewhere():
    needed, brought = {fact for group in GROUPS for fact in group} | {"newday"}, set()

    def read(part):
        if isinstance(part, list | tuple):
            for inner in part:
                read(inner)
        elif not isinstance(part, str):
            needed.update(fact.removeprefix("-").rpartition(".")[2] for fact in getattr(part, "needs", "").split())
            facts = part.sets if isinstance(part, Line) else getattr(part, "traits", "")
            brought.update(fact.removeprefix("-") for fact in facts.split())

    for plot in PLOTS:
        read([plot.parts, words.TRADES, *sample.DEFAULT_CAST.values(), *plot.cast.values()])
    assert brought <= needed, brought - needed


def test_every_word_has_one_spelling():
    """No two words differ only in signs that writers vary: ँ and ं, nukta, virama, ये and ए, or a
    nasal within a long word."""
    rng, used = random.Random(1), {word for pair in minimal_pairs.pairs() for word in re.findall(r"[\u0900-\u0963]+", pair.good)}
    for story in (sample.compose(rng) for _ in range(3000)):
        if sample.ANUSVARA not in story.facts:
            used.update(re.findall(r"[\u0900-\u0963]+", story.text))
    spellings = defaultdict(set)
    for word in used:
        plain = re.sub("[\u093c\u094d]", "", word.replace("ँ", "ं").replace("ये", "ए").replace("यी", "ई"))
        oral = plain[:-1].replace("ं", "") + plain[-1]
        for form in (plain, oral) if len(oral) > 4 else (plain,):
            spellings[form].add(word)
    found = {" ".join(sorted(forms)) for forms in spellings.values() if len(forms) > 1}
    assert {pair for pair in found if not pair.endswith("गी")} == DIFFERENT_WORDS  # जाएगी and जाएँगी are both right
