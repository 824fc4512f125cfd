"""The words of the sample stories: people, animals, trades, places and things. The stories are in
plots.py, the grammar in grammar.py."""

from __future__ import annotations

from dataclasses import dataclass

from nano_hindi.sample.grammar import Noun


@dataclass(frozen=True)
class Person(Noun):
    """A person with a name: a child or an adult of the village, never addressed with an
    honorific."""

    @property
    def kid(self) -> str:
        return "लड़का" if self.gender == "m" else "लड़की"

    @property
    def child(self) -> str:
        """Return the word by which elders address a child."""
        return "बेटा" if self.gender == "m" else "बेटी"


@dataclass(frozen=True)
class Animal(Noun):
    """An animal with its food (as an object: `{a.food} खाना`), and what it may be proud of (before
    पर)."""

    food: str = "दाने"
    pride: str = "अपनी चतुराई"
    mouth: str = "मुँह"


@dataclass(frozen=True)
class Trade(Noun):
    """A trade: `{k.work} {h:{k.verb} था}`, with a tool that can be lost and goods that can be
    sold."""

    work: str = ""
    verb: str = ""
    tool: Noun | None = None
    goods: Noun | None = None


def masculine(*words: str) -> list[Noun]:
    return [Noun(word, "m") for word in words]


def feminine(*words: str) -> list[Noun]:
    return [Noun(word, "f") for word in words]


PEOPLE = [
    *(
        Person(name, "m", fixed=True)
        for name in (
            "मोहन", "राजू", "गोपाल", "दीपक", "रवि", "अमन", "किशन", "सोनू", "हरि", "विनय", "अर्जुन", "मनोहर", "सुरेश", "रामू", "श्याम", "करन", "नंदू", "चेतन",
            "बिरजू", "मुकेश", "नरेश", "लखन", "माधव", "केशव", "सलीम", "रहीम", "गोविंद", "जगदीश", "अनिल", "दिनेश",
        )
    ),
    *(
        Person(name, "f", fixed=True)
        for name in (
            "मीना", "सीता", "गीता", "राधा", "कमला", "सुनीता", "लक्ष्मी", "गौरी", "पूजा", "नेहा", "चंपा", "तारा", "जया", "मुन्नी", "ललिता", "रेखा", "सुधा",
            "विमला", "पार्वती", "रजनी", "मालती", "सलमा", "फ़ातिमा", "सरला", "चंदा", "मधु", "उमा", "निशा", "शीला", "जमुना",
        )
    ),
]  # fmt: skip

TRADES = [
    Trade("किसान", "m", work="अपने खेत में सब्ज़ियाँ", verb="उगाता", tool=Noun("कुदाल", "f"), goods=Noun("सब्ज़ी", "f", plural=True)),
    Trade("लकड़हारा", "m", work="जंगल से सूखी लकड़ियाँ", verb="लाता", tool=Noun("कुल्हाड़ी", "f"), goods=Noun("लकड़ी", "f", plural=True)),
    Trade("कुम्हार", "m", work="मिट्टी के बर्तन", verb="बनाता", tool=Noun("थैला", "m"), goods=Noun("घड़ा", "m", plural=True)),
    Trade("कुम्हारिन", "f", work="मिट्टी के बर्तन", verb="बनाता", tool=Noun("थैला", "m"), goods=Noun("घड़ा", "m", plural=True)),
    Trade("दर्ज़ी", "m", work="लोगों के कपड़े", verb="सिलता", tool=Noun("कैंची", "f"), goods=Noun("कुरता", "m", plural=True)),
    Trade("दर्ज़िन", "f", work="लोगों के कपड़े", verb="सिलता", tool=Noun("कैंची", "f"), goods=Noun("कुरता", "m", plural=True)),
    Trade("माली", "m", work="बगीचे में रंग-बिरंगे फूल", verb="उगाता", tool=Noun("खुरपी", "f"), goods=Noun("माला", "f", plural=True)),
    Trade("मालिन", "f", work="बगीचे में रंग-बिरंगे फूल", verb="उगाता", tool=Noun("खुरपी", "f"), goods=Noun("माला", "f", plural=True)),
    Trade("मछुआरा", "m", work="नदी से मछलियाँ", verb="पकड़ता", tool=Noun("जाल", "m"), goods=Noun("मछली", "f", plural=True)),
    Trade("लोहार", "m", work="लोहे के औज़ार", verb="बनाता", tool=Noun("हथौड़ा", "m"), goods=Noun("औज़ार", "m", plural=True)),
    Trade("बढ़ई", "m", work="लकड़ी के खिलौने", verb="बनाता", tool=Noun("आरी", "f"), goods=Noun("खिलौना", "m", plural=True)),
    Trade("मोची", "m", work="लोगों के जूते", verb="बनाता", tool=Noun("हथौड़ी", "f"), goods=Noun("जूता", "m", plural=True)),
    Trade("चित्रकार", "m", work="सुंदर चित्र", verb="बनाता", tool=Noun("कूची", "f"), goods=Noun("चित्र", "m", plural=True)),
    Trade("चित्रकार", "f", work="सुंदर चित्र", verb="बनाता", tool=Noun("कूची", "f"), goods=Noun("चित्र", "m", plural=True)),
    Trade("चरवाहा", "m", work="गाँव की भेड़ें", verb="चराता", tool=Noun("बाँसुरी", "f"), goods=Noun("कंबल", "m", plural=True)),
    Trade("ग्वाला", "m", work="गायों की देखभाल", verb="करता", tool=Noun("बाल्टी", "f"), goods=Noun("दूध", "m")),
    Trade("ग्वालिन", "f", work="गायों की देखभाल", verb="करता", tool=Noun("बाल्टी", "f"), goods=Noun("दूध", "m")),
    Trade("हलवाई", "m", work="ताज़ी मिठाइयाँ", verb="बनाता", tool=Noun("करछी", "f"), goods=Noun("मिठाई", "f", plural=True)),
]

# people who take the honorific
FAMILY = [
    *(Noun(word, "f", fixed=True, honorific=True) for word in ("दादी", "नानी", "माँ", "बुआ जी")),
    *(Noun(word, "m", fixed=True, honorific=True) for word in ("दादा जी", "नाना जी", "पिता जी", "चाचा जी")),
]
TEACHERS = [
    Noun("गुरु जी", "m", fixed=True, honorific=True),
    Noun("मास्टर जी", "m", fixed=True, honorific=True),
    Noun("अध्यापिका जी", "f", fixed=True, honorific=True),
]
ELDERS = [
    *(e for e in FAMILY if e.word in ("दादी", "दादा जी")),
    Noun("मुखिया जी", "m", fixed=True, honorific=True),
    Noun("गुरु जी", "m", fixed=True, honorific=True),
]

BIRDS = [
    Animal("तोता", "m", food="हरी मिर्च", pride="अपने हरे पंखों", mouth="चोंच"),
    Animal("मैना", "f", food="बाजरे के दाने", pride="अपनी मीठी बोली", mouth="चोंच"),
    Animal("कबूतर", "m", food="ज्वार के दाने", pride="अपनी ऊँची उड़ान", mouth="चोंच"),
    Animal("मोर", "m", food="मकई के दाने", pride="अपने सुंदर पंखों", mouth="चोंच"),
]
WILD = [
    Animal("हिरन", "m", food="हरी घास", pride="अपनी तेज़ चाल"),
    Animal("खरगोश", "m", food="ताज़ी गाजर", pride="अपनी तेज़ दौड़"),
    Animal("बंदर", "m", food="पके केले", pride="अपनी लंबी छलाँग"),
    Animal("नेवला", "m", food="दूध-रोटी", pride="अपनी फुर्ती"),
]
PREDATORS = [
    Animal("लोमड़ी", "f", food="जंगली बेर", pride="अपनी चतुराई"),
    Animal("सियार", "m", food="जंगली बेर", pride="अपनी चालाकी"),
    Animal("भालू", "m", food="मीठा शहद", pride="अपनी ताकत"),
]
GIANTS = [Animal("हाथी", "m", food="मीठे गन्ने", pride="अपनी ताकत"), Animal("शेर", "m", pride="अपनी गरज")]
SQUIRREL = Animal("गिलहरी", "f", food="मूँगफली", pride="अपनी सुंदर पूँछ")
DILIGENT = [Animal("चींटी", "f", food="चीनी के दाने"), Animal("चूहा", "m", food="अनाज के दाने"), Animal("मधुमक्खी", "f", food="फूलों का रस"), SQUIRREL]
LAZY = [Animal("टिड्डा", "m"), Animal("मेंढक", "m"), Animal("गिरगिट", "m"), Animal("तितली", "f"), Animal("कोयल", "f"), *WILD]
HUMBLE = [*DILIGENT, Animal("कछुआ", "m")]
SWIMMERS = [Animal("कछुआ", "m", food="हरे पत्ते"), Animal("मछली", "f", food="आटे की गोलियाँ"), Animal("बत्तख", "f", food="भीगे चने")]
THIEVES = [Animal("बंदर", "m"), Animal("कौआ", "m"), Animal("चील", "f"), Animal("कुत्ता", "m")]
CAGED = [Animal("तोता", "m"), Animal("मैना", "f"), Animal("बुलबुल", "f")]
NESTERS = [Animal("मैना", "f"), Animal("कबूतर", "m"), Animal("कौआ", "m"), Animal("गौरैया", "f"), Animal("बुलबुल", "f")]

TOYS = [*feminine("पतंग", "गुड़िया", "बाँसुरी", "गेंद", "ढोलक", "सीटी"), *masculine("खिलौना", "डमरू", "लट्टू")]
FRAGILE = [*masculine("घड़ा", "मटका", "प्याला", "शीशा"), *feminine("सुराही", "गुल्लक", "प्याली", "तश्तरी", "शीशी")]
FINDS = [*masculine("आम", "अमरूद", "लड्डू", "अनार", "पपीता", "सेब"), *feminine("नारंगी", "पतंग", "गेंद", "नाशपाती", "गुड़िया")]
TREES = ("आम", "नीम", "जामुन", "अमरूद", "इमली", "पीपल", "बरगद", "कटहल", "अनार", "बेर")

VILLAGES = (
    "रामपुर", "सोनपुर", "माधोपुर", "किशनगढ़", "चंदनपुर", "हरिपुर", "फूलपुर", "बेलापुर", "सूरजगढ़", "मधुबन", "केशवपुर", "धनपुर", "शिवपुर",
)  # fmt: skip
PLACES = (
    "एक छोटे से गाँव में", "नदी के किनारे बसे एक गाँव में", "पहाड़ों के बीच बसे एक गाँव में", "घने जंगल के पास एक गाँव में", "{v} गाँव में", "{v} नाम के एक गाँव में",
    "एक हरे-भरे गाँव में", "एक शांत गाँव में", "झील के किनारे एक बस्ती में", "एक पुराने नगर में", "भारत के एक छोटे से गाँव में", "रेत के टीलों के बीच एक गाँव में",
)  # fmt: skip
FORESTS = ("एक घने जंगल में", "एक हरे-भरे वन में", "नदी के पास एक जंगल में", "पहाड़ की तलहटी में", "{v} के पास एक जंगल में")
VIRTUES = ("मेहनती", "दयालु", "समझदार", "ईमानदार", "हँसमुख", "होनहार", "बहादुर", "विनम्र")
AGES = ("सात", "आठ", "नौ", "दस", "ग्यारह", "बारह")


@dataclass(frozen=True)
class Contest:
    """A contest for children: `{contest.name} होगी`, `{contest.skill} अभ्यास`."""

    name: str
    skill: str


CONTESTS = [
    Contest("दौड़ की प्रतियोगिता", "दौड़ने का"),
    Contest("गाने की प्रतियोगिता", "गाने का"),
    Contest("चित्र बनाने की प्रतियोगिता", "चित्र बनाने का"),
    Contest("भाषण की प्रतियोगिता", "बोलने का"),
    Contest("कविता सुनाने की प्रतियोगिता", "कविता सुनाने का"),
    Contest("पहेलियों की प्रतियोगिता", "पहेलियाँ बुझाने का"),
    Contest("कुश्ती की प्रतियोगिता", "कुश्ती का"),
    Contest("सुंदर लिखावट की प्रतियोगिता", "लिखने का"),
]


@dataclass(frozen=True)
class Riddle:
    """A question of the king, two wrong answers, the right one, and the reason for it."""

    question: str
    wrong: str
    wrong2: str
    answer: str
    reason: str


RIDDLES = [
    Riddle(
        "सबसे मीठी चीज़ क्या है?",
        "शहद",
        "गन्ने का रस",
        "सबसे मीठी चीज़ मीठी बोली है",
        "मिठाई का स्वाद थोड़ी देर में चला जाता है, पर मीठी बोली सदा याद रहती है।",
    ),
    Riddle("सबसे बड़ा धन क्या है?", "सोना", "हीरे-मोती", "सबसे बड़ा धन संतोष है", "जिसके मन में संतोष है, वह कभी गरीब नहीं होता।"),
    Riddle("सबसे तेज़ कौन चलता है?", "घोड़ा", "हवा", "सबसे तेज़ मन चलता है", "मन एक पल में सात समुद्र पार कर लेता है।"),
    Riddle("सबसे भारी क्या होता है?", "पहाड़", "लोहा", "सबसे भारी झूठ का बोझ होता है", "पहाड़ अपनी जगह रहता है, पर झूठ का बोझ हर जगह साथ जाता है।"),
    Riddle("सबसे बड़ी रोशनी किसकी है?", "सूरज की", "चाँद की", "सबसे बड़ी रोशनी ज्ञान की है", "सूरज शाम को डूब जाता है, पर ज्ञान की रोशनी कभी नहीं बुझती।"),
    Riddle(
        "सबसे अच्छा मित्र कौन है?",
        "भाई",
        "पड़ोसी",
        "सबसे अच्छा मित्र वह है जो संकट में साथ दे",
        "सुख में सब साथ होते हैं, पर दुख में सच्चा मित्र ही रुकता है।",
    ),
    Riddle("सबसे कीमती चीज़ क्या है?", "हीरा", "सोने का मुकुट", "सबसे कीमती चीज़ समय है", "खोया हुआ हीरा फिर मिल सकता है, पर बीता हुआ समय नहीं लौटता।"),
    Riddle("सबसे सुंदर फूल कौन सा है?", "गुलाब", "कमल", "सबसे सुंदर फूल कपास का है", "उसी की रुई से सबके कपड़े बनते हैं।"),
    Riddle("सबसे बलवान कौन है?", "शेर", "हाथी", "सबसे बलवान वह है जो अपने क्रोध को जीत ले", "शेर दूसरों को हराता है, पर क्रोध को जीतने वाला अपने आप को जीत लेता है।"),
]
