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


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def masculine(*words: str, needs: str = "", traits: str = "") -> list[Noun]:
    return [Noun(word, "m", needs=needs, traits=traits) for word in words]


def feminine(*words: str, needs: str = "", traits: str = "") -> list[Noun]:
    return [Noun(word, "f", needs=needs, traits=traits) for word in words]


MEN = (
    "मोहन राजू गोपाल दीपक रवि अमन किशन सोनू हरि विनय अर्जुन मनोहर सुरेश रामू श्याम करन नंदू चेतन बिरजू मुकेश नरेश लखन माधव केशव सलीम रहीम गोविंद जगदीश "
    "अनिल दिनेश मनीष संजय राकेश आदित्य निखिल वरुण अभिषेक रोहन इमरान आरिफ़ यूसुफ़ करीम इरफ़ान बशीर कबीर अनवर ज़ुबैर नसीर रशीद हामिद गुलज़ार बलबीर जसपाल "
    "सतनाम करतार सुखदेव हरभजन जोसेफ़ थॉमस डेविड पीटर एंथनी जॉर्ज सैमुअल पारस जिनेश भावेश हितेश रुस्तम सोहराब बिरसा मंगरू बुधराम लखीराम तपन सुब्रत बिमल "
    "सौरव अनिर्बान मुरुगन सेल्वम कुमारन वेलु उन्नी राजन बिजू वेंकट बसवराज रंगनाथ तुकाराम विट्ठल नामदेव भूपेन प्रांजल बिपिन तेनज़िंग दोरजी तोम्बा बनमाली दिलीप"
)
WOMEN = (
    "मीना सीता गीता राधा कमला सुनीता लक्ष्मी गौरी पूजा नेहा चंपा तारा जया मुन्नी ललिता रुक्मिणी सुधा विमला पार्वती रजनी मालती सलमा फ़ातिमा सरला इंद्राणी मधु उमा "
    "निशा शीला जमुना अंजलि अनुराधा सरिता अनिता नंदिता प्रिया सोनाली रश्मि वंदना शकुंतला सावित्री गायत्री शारदा माधुरी आयशा ज़ैनब शबाना नसीमा ज़ोया मरियम हलीमा "
    "रज़िया सकीना परवीन ज़ूनी हाजरा हरलीन जसलीन सिमरन हरनूर मैरी एलिज़ा रोज़ी सूज़न टेरेसा एंजेला ग्रेसी हेतल कोकिला भाविका हंसा शिरीन फूलो झानो बुधनी मंगली "
    "सुमरी सुचित्रा शर्मिला पियाली अपर्णा तृषा मीनाक्षी सेल्वी वल्ली अमुदा शोभना लीला बीना पद्मा सरोजा देवयानी सुलोचना अश्विनी शांता जोनाकी निरुपमा रूपाली "
    "डोलमा पेमा थोइबी सुभद्रा मिनती"
)
PEOPLE = [Person(name, gender, fixed=True) for gender, names in (("m", MEN), ("f", WOMEN)) for name in _listed(names)]


def _trade(man: str, woman: str, work: str, tool: Noun, goods: Noun, needs: str = "", traits: str = "") -> list[Trade]:
    """Return a trade for a man and for a woman. The last word of `work` is its verb; a tool sinks
    in water and is light enough for a monkey."""
    work, verb = work.rsplit(" ", 1)
    return [
        Trade(word, gender, needs=needs, traits=traits, work=work, verb=verb, tool=tool, goods=goods) for word, gender in ((man, "m"), (woman, "f"))
    ]


def _made(word: str, gender: str) -> Noun:
    return Noun(word, gender, plural=True)


TRADES = [
    *_trade("किसान", "किसान", "अपने खेत में सब्ज़ियाँ उगाता", Noun("कुदाल", "f"), _made("सब्ज़ी", "f"), needs="village"),
    *_trade("लकड़हारा", "लकड़हारिन", "जंगल से सूखी लकड़ियाँ लाता", Noun("कुल्हाड़ी", "f"), _made("लकड़ी", "f"), needs="village"),
    *_trade("कुम्हार", "कुम्हारिन", "मिट्टी के बर्तन बनाता", Noun("छलनी", "f"), _made("घड़ा", "m")),
    *_trade("दर्ज़ी", "दर्ज़िन", "लोगों के कपड़े सिलता", Noun("कैंची", "f"), _made("कुरता", "m")),
    *_trade("माली", "मालिन", "बगीचे में रंग-बिरंगे फूल उगाता", Noun("खुरपी", "f"), _made("माला", "f")),
    *_trade("मछुआरा", "मछुआरिन", "नदी से मछलियाँ पकड़ता", Noun("जाल", "m"), _made("मछली", "f"), needs="-city", traits="swims river"),
    *_trade("लोहार", "लोहारिन", "लोहे के औज़ार बनाता", Noun("हथौड़ा", "m"), _made("औज़ार", "m")),
    *_trade("बढ़ई", "बढ़ई", "लकड़ी के खिलौने बनाता", Noun("आरी", "f"), _made("खिलौना", "m")),
    *_trade("मोची", "मोची", "लोगों के जूते बनाता", Noun("हथौड़ी", "f"), _made("जूता", "m")),
    *_trade("चित्रकार", "चित्रकार", "सुंदर चित्र बनाता", Noun("दवात", "f"), _made("चित्र", "m")),
    *_trade("चरवाहा", "चरवाहिन", "गाँव की भेड़ें चराता", Noun("हँसिया", "m"), Noun("ऊन", "f"), needs="village"),
    *_trade("ग्वाला", "ग्वालिन", "गायों की देखभाल करता", Noun("बाल्टी", "f"), Noun("दूध", "m"), needs="-city"),
    *_trade("हलवाई", "हलवाइन", "ताज़ी मिठाइयाँ बनाता", Noun("करछी", "f"), _made("मिठाई", "f")),
    *_trade("सुनार", "सुनारिन", "सोने-चाँदी के गहने बनाता", Noun("चिमटी", "f"), _made("गहना", "m")),
    *_trade("जुलाहा", "जुलाहिन", "करघे पर सूती चादरें बुनता", Noun("कैंची", "f"), _made("चादर", "f")),
    *_trade("रंगरेज़", "रंगरेज़िन", "चुनरियों पर पक्का रंग चढ़ाता", Noun("चिमटा", "m"), _made("चुनरी", "f")),
    *_trade("ठठेरा", "ठठेरिन", "ताँबे और पीतल के बर्तन बनाता", Noun("हथौड़ी", "f"), _made("थाली", "f")),
    *_trade("मूर्तिकार", "मूर्तिकार", "पत्थर की प्रतिमाएँ गढ़ता", Noun("छेनी", "f"), _made("प्रतिमा", "f")),
    *_trade("मनिहार", "मनिहारिन", "लाख की चूड़ियाँ बनाता", Noun("चिमटी", "f"), _made("चूड़ी", "f")),
    *_trade("कशीदाकार", "कशीदाकार", "शॉलों पर बारीक कढ़ाई करता", Noun("कैंची", "f"), _made("शॉल", "f")),
    *_trade("वैद्य", "वैद्य", "जड़ी-बूटियों से दवाएँ बनाता", Noun("खरल", "m"), _made("दवा", "f"), needs="old"),
    *_trade("डॉक्टर", "डॉक्टर", "मरीज़ों का इलाज करता", Noun("आला", "m"), Noun("इलाज", "m"), needs="today", traits="schooled"),
    *_trade("अध्यापक", "अध्यापिका", "बच्चों को पढ़ाता", Noun("चश्मा", "m"), Noun("पढ़ाई", "f"), needs="today", traits="schooled"),
    *_trade("घड़ीसाज़", "घड़ीसाज़", "पुरानी घड़ियाँ ठीक करता", Noun("पेचकस", "m"), Noun("मरम्मत", "f"), needs="today"),
    *_trade("मिस्त्री", "मिस्त्री", "पंखे और रेडियो सुधारता", Noun("प्लास", "m"), Noun("मरम्मत", "f"), needs="today"),
    *_trade("फलवाला", "फलवाली", "ताज़े फल बेचता", Noun("तराज़ू", "m"), _made("फल", "m")),
    *_trade("मधुपालक", "मधुपालक", "मधुमक्खियाँ पालता", Noun("छुरी", "f"), Noun("शहद", "m"), needs="-city"),
    *_trade("नानबाई", "नानबाई", "तंदूर में रोटियाँ सेंकता", Noun("चिमटा", "m"), _made("रोटी", "f")),
    *_trade("चायवाला", "चायवाली", "अदरक वाली चाय बेचता", Noun("केतली", "f"), Noun("चाय", "f"), needs="today"),
    *_trade("पतंगसाज़", "पतंगसाज़", "रंगीन पतंगें बनाता", Noun("कैंची", "f"), _made("पतंग", "f")),
    *_trade("जिल्दसाज़", "जिल्दसाज़", "पुरानी किताबों पर जिल्द चढ़ाता", Noun("कैंची", "f"), _made("जिल्द", "f"), needs="-village"),
    *_trade("कारीगर", "कारीगर", "बेंत की कुर्सियाँ बनाता", Noun("चाकू", "m"), _made("कुर्सी", "f")),
    *_trade("बुनकर", "बुनकर", "नरम घास की चटाइयाँ बुनता", Noun("हँसिया", "m"), _made("चटाई", "f")),
    *_trade("बावर्ची", "बावर्ची", "दावतों के लिए पकवान पकाता", Noun("कलछी", "f"), _made("पकवान", "m")),
]


def _honoured(gender: str, *words: str, needs: str = "") -> list[Noun]:
    return [Noun(word, gender, fixed=True, honorific=True, needs=needs) for word in words]


# people who take the honorific
FAMILY = [
    *_honoured("f", "दादी", "नानी", "माँ", "बुआ जी", "मौसी जी", "ताई जी", "मामी जी"),
    *_honoured("m", "दादा जी", "नाना जी", "पिता जी", "चाचा जी", "मामा जी", "ताऊ जी"),
]
TEACHERS = [
    *_honoured("m", "गुरु जी", "मास्टर जी"),
    *_honoured("f", "अध्यापिका जी"),
    *_honoured("m", "आचार्य जी", needs="old"),
    *_honoured("m", "अध्यापक जी", needs="today"),
    *_honoured("f", "मैडम", "प्रधानाचार्या जी", needs="today"),
]
ELDERS = [
    *(e for e in FAMILY if e.word in ("दादी", "दादा जी")),
    *_honoured("m", "मुखिया जी", "गुरु जी"),
    *_honoured("f", "सरपंच जी", needs="today"),
]

BIRDS = [
    Animal("तोता", "m", food="हरी मिर्च", pride="अपने हरे पंखों", mouth="चोंच", traits="small flies"),
    Animal("मैना", "f", food="बाजरे के दाने", pride="अपनी मीठी बोली", mouth="चोंच", traits="small flies"),
    Animal("कबूतर", "m", food="ज्वार के दाने", pride="अपनी ऊँची उड़ान", mouth="चोंच", traits="small flies herd"),
    Animal("मोर", "m", food="मकई के दाने", pride="अपने सुंदर पंखों", mouth="चोंच", traits="flies"),
    Animal("तीतर", "m", food="तिल के दाने", pride="अपनी तेज़ बोली", mouth="चोंच", traits="small flies"),
    Animal("सारस", "m", food="धान के दाने", pride="अपने ऊँचे कद", mouth="चोंच", traits="flies"),
    Animal("बटेर", "f", food="राई के दाने", pride="अपने चितकबरे पंखों", mouth="चोंच", traits="small flies"),
]
WILD = [
    Animal("हिरन", "m", food="हरी घास", pride="अपनी तेज़ चाल", traits="herd"),
    Animal("खरगोश", "m", food="ताज़ी गाजर", pride="अपनी तेज़ दौड़", traits="small"),
    Animal("बंदर", "m", food="पके केले", pride="अपनी लंबी छलाँग", traits="herd climbs"),
    Animal("नेवला", "m", food="दूध-रोटी", pride="अपनी फुर्ती", traits="small"),
    Animal("लंगूर", "m", food="भुने चने", pride="अपनी लंबी पूँछ", traits="herd climbs"),
    Animal("साही", "f", food="कंद-मूल", pride="अपने नुकीले काँटों", traits="small night"),
    Animal("बारहसिंगा", "m", food="कोमल पत्ते", pride="अपने शानदार सींगों", traits="large herd"),
]
PREDATORS = [
    Animal("लोमड़ी", "f", food="जंगली बेर", pride="अपनी चतुराई"),
    Animal("सियार", "m", food="जंगली बेर", pride="अपनी चालाकी", traits="night herd"),
    Animal("भालू", "m", food="मीठा शहद", pride="अपनी ताकत", traits="large climbs"),
]
GIANTS = [
    Animal("हाथी", "m", food="मीठे गन्ने", pride="अपनी ताकत", traits="large herd"),
    Animal("शेर", "m", pride="अपनी गरज", traits="large"),
    Animal("बाघ", "m", pride="अपनी चमकती धारियों", traits="large night"),
    Animal("गैंडा", "m", food="हरी घास", pride="अपने मोटे सींग", traits="large"),
]
SQUIRREL = Animal("गिलहरी", "f", food="मूँगफली", pride="अपनी सुंदर पूँछ", traits="small climbs")
DILIGENT = [
    Animal("चींटी", "f", food="चीनी के दाने", traits="small tiny herd"),
    Animal("चूहा", "m", food="अनाज के दाने", traits="small night"),
    Animal("मधुमक्खी", "f", food="फूलों का रस", traits="small tiny flies herd"),
    SQUIRREL,
]
LAZY = [
    Animal("टिड्डा", "m", traits="small tiny"),
    Animal("झींगुर", "m", traits="small tiny night"),
    Animal("मेंढक", "m", traits="small swims"),
    Animal("गिरगिट", "m", traits="small climbs"),
    Animal("तितली", "f", traits="small tiny flies"),
    Animal("कोयल", "f", traits="small flies"),
    *WILD,
]
HUMBLE = [*DILIGENT, Animal("कछुआ", "m", traits="small swims")]
SWIMMERS = [
    Animal("कछुआ", "m", food="हरे पत्ते", traits="swims"),
    Animal("ऊदबिलाव", "m", food="ताज़ी मछलियाँ", traits="swims"),
]
# what they take is the x of their story: each takes only what it can carry and likes
THIEVES = [
    Animal("बंदर", "m", traits="climbs"),
    Animal("लंगूर", "m", traits="climbs"),
    Animal("कौआ", "m", traits="small flies", needs="x.light"),
    Animal("नीलकंठ", "m", traits="small flies", needs="x.light -x.fruit"),
    Animal("चील", "f", traits="flies", needs="x.light"),
    Animal("कुत्ता", "m", needs="-x.fruit"),
]
CAGED = [
    Animal("तोता", "m", traits="small flies"),
    Animal("मैना", "f", traits="small flies"),
    Animal("बुलबुल", "f", traits="small flies"),
    Animal("मुनिया", "f", traits="small flies"),
    Animal("कोयल", "f", traits="small flies"),
]
NESTERS = [
    Animal("मैना", "f", traits="small flies"),
    Animal("कबूतर", "m", traits="small flies"),
    Animal("कौआ", "m", traits="small flies"),
    Animal("गौरैया", "f", traits="small flies"),
    Animal("बुलबुल", "f", traits="small flies"),
    Animal("बया", "f", traits="small flies"),
    Animal("फ़ाख्ता", "f", traits="small flies"),
]

TOYS = [  # each can be bought at a fair and made at home
    *feminine("पतंग", "गुड़िया", "बाँसुरी", "गेंद", "ढोलक", "सीटी", "फिरकी", "कठपुतली", "डफली", "टोपी"),
    *masculine("खिलौना", "डमरू", "लट्टू", "झुनझुना", "मुखौटा", "इकतारा"),
    *feminine("पिचकारी", needs="spring"),
]
FRAGILE = [
    *masculine("घड़ा", "मटका", "प्याला", "शीशा", "गुलदान", "मर्तबान", "आईना", "गमला", "दर्पण"),
    *feminine("सुराही", "गुल्लक", "प्याली", "तश्तरी", "शीशी", "लालटेन", "बरनी", "हाँडी"),
]
FINDS = [
    *masculine("आम", needs="summer", traits="fruit"),
    *masculine("अमरूद", needs="-summer -spring", traits="fruit"),
    *masculine("अनार", "शरीफ़ा", needs="-summer -spring", traits="fruit"),
    *masculine("पपीता", traits="fruit heavy"),
    *masculine("सेब", needs="-summer -spring", traits="fruit"),
    *feminine("नारंगी", needs="winter", traits="fruit"),
    *feminine("नाशपाती", needs="rains", traits="fruit"),
    *masculine("लड्डू", "सिक्का", "लट्टू", "कंचा", traits="light"),
    *feminine("सीटी", "फिरकी", traits="light"),
    *feminine("गेंद", "गुड़िया", "टोपी", "बाँसुरी"),
]
TREES = (
    "आम", "नीम", "जामुन", "अमरूद", "इमली", "पीपल", "बरगद", "कटहल", "शीशम", "अशोक", "गुलमोहर", "अमलतास", "शहतूत", "कदंब", "पलाश", "मौलसिरी", "चीकू", "बेल",
)  # fmt: skip

VILLAGES = _listed(
    "रामपुर सोनपुर माधोपुर किशनगढ़ चंदनपुर हरिपुर फूलपुर बेलापुर सूरजगढ़ मधुबन केशवपुर धनपुर शिवपुर मानकपुर इस्लामनगर रहीमाबाद शेरगढ़ "  # the north
    "भैणी कोटली जंडियाली रायकोट अचबल तंगमर्ग दाचीगाम बारीपुर कौसानी बिनसर चितकुल देवलगढ़ "  # Punjab, Kashmir, the hills
    "शांतिपुर कुसुमपुर पलाशडांगी बकुलपुर कमलाबाड़ी सोनारीगुड़ी जोनाईगुड़ी माजुलीबाड़ी लाचुंग दावकी मोइरांग खोनोमा "  # Bengal, Assam, the North-East
    "उलीहातू तोरपा मुरहू झिरपानी अमराडीह कोरापुट बालिगढ़ "  # Jharkhand, Chhattisgarh, Odisha
    "रतनपर भुजपर कुकमा खिमसर बीदासर मंडावर पैठण नेवासा शिरपुर "  # Gujarat, Rajasthan, Maharashtra
    "नल्लूर मेलूर पुदूर कुमरकम कोट्टापुरम पुन्नापुर मेलकोटे श्रीरंगपुर पेनुगोंडा"  # Tamil Nadu, Kerala, Karnataka, Andhra
)
PLACES = (
    "एक छोटे से गाँव में", "नदी के किनारे बसे एक गाँव में", "पहाड़ों के बीच बसे एक गाँव में", "घने जंगल के पास एक गाँव में", "{v} गाँव में", "{v} नाम के एक गाँव में",
    "एक हरे-भरे गाँव में", "एक शांत गाँव में", "झील के किनारे एक बस्ती में", "एक पुराने नगर में", "भारत के एक छोटे से गाँव में", "रेत के टीलों के बीच एक गाँव में",
)  # fmt: skip
FORESTS = ("एक घने जंगल में", "एक हरे-भरे वन में", "नदी के पास एक जंगल में", "पहाड़ की तलहटी में", "{v} के पास एक जंगल में")
VIRTUES = _listed(  # of children and adults, without gender
    "मेहनती दयालु समझदार ईमानदार हँसमुख बहादुर विनम्र नेक धैर्यवान चतुर मिलनसार हिम्मती उदार जिज्ञासु खुशमिज़ाज परिश्रमी बुद्धिमान संतोषी विनोदी साहसी"
)
AGES = ("छह", "सात", "आठ", "नौ", "दस", "ग्यारह", "बारह", "तेरह")


@dataclass(frozen=True)
class Contest:
    """A contest for children: `{contest.name} होगी`, `{contest.skill} अभ्यास`."""

    name: str
    skill: str
    needs: str = ""


CONTESTS = [
    Contest("दौड़ की प्रतियोगिता", "दौड़ने का"),
    Contest("गाने की प्रतियोगिता", "गाने का"),
    Contest("चित्र बनाने की प्रतियोगिता", "चित्र बनाने का"),
    Contest("भाषण की प्रतियोगिता", "बोलने का"),
    Contest("कविता सुनाने की प्रतियोगिता", "कविता सुनाने का"),
    Contest("पहेलियों की प्रतियोगिता", "पहेलियाँ बूझने का"),
    Contest("कुश्ती की प्रतियोगिता", "कुश्ती का"),
    Contest("सुंदर लिखावट की प्रतियोगिता", "लिखने का"),
    Contest("तैराकी की प्रतियोगिता", "तैरने का", needs="summer"),
    Contest("शतरंज की प्रतियोगिता", "शतरंज खेलने का"),
    Contest("नृत्य की प्रतियोगिता", "नाचने का"),
    Contest("तीरंदाज़ी की प्रतियोगिता", "तीर चलाने का"),
    Contest("रस्सी कूदने की प्रतियोगिता", "रस्सी कूदने का"),
    Contest("रंगोली बनाने की प्रतियोगिता", "रंगोली बनाने का"),
    Contest("कहानी सुनाने की प्रतियोगिता", "कहानी सुनाने का"),
    Contest("तबला बजाने की प्रतियोगिता", "तबला बजाने का"),
    Contest("साइकिल चलाने की प्रतियोगिता", "साइकिल चलाने का", needs="today"),
    Contest("वाद-विवाद की प्रतियोगिता", "अपनी बात रखने का"),
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
    Riddle(
        "ऐसा कौन सा धन है, जिसे कोई चुरा नहीं सकता?",
        "ज़मीन में गड़ा हुआ सोना",
        "आपका खज़ाना",
        "वह धन विद्या है",
        "उसे न चोर ले जा सकता है, न आग जला सकती है।",
    ),
    Riddle("क्या बाँटने से बढ़ता है?", "अनाज", "धन", "खुशी बाँटने से बढ़ती है", "धन बाँटो तो घटता है, पर खुशी बाँटो तो दूनी हो जाती है।"),
    Riddle(
        "सबसे मुलायम चीज़ क्या है?",
        "रुई",
        "रेशम",
        "सबसे मुलायम माँ की गोद है",
        "रुई के बिस्तर पर नींद देर से आती है, पर माँ की गोद में तुरंत आ जाती है।",
    ),
    Riddle(
        "सबसे ऊँचा क्या है?",
        "पहाड़ की चोटी",
        "आपका महल",
        "सबसे ऊँचा माता-पिता का स्थान है",
        "उन्हीं के कंधों पर बैठकर हमने पहली बार दुनिया देखी।",
    ),
    Riddle(
        "सबसे अच्छा बिस्तर कौन सा है?",
        "मखमल का पलंग",
        "फूलों की सेज",
        "सबसे अच्छा बिस्तर थके हुए आदमी की चटाई है",
        "दिन भर की मेहनत के बाद पत्थर पर भी गहरी नींद आती है।",
    ),
    Riddle(
        "सबसे स्वादिष्ट भोजन कौन सा है?",
        "खीर",
        "शाही पुलाव",
        "सबसे स्वादिष्ट वह सूखी रोटी है जो भूख में मिले",
        "पेट भरा हो तो खीर भी अच्छी नहीं लगती।",
    ),
    Riddle(
        "किस आग को पानी नहीं बुझा सकता?",
        "जंगल की आग को",
        "तेल की आग को",
        "जलन की आग को पानी नहीं बुझा सकता",
        "जो दूसरों का सुख देखकर जलता है, वह नदी में बैठकर भी ठंडा नहीं होता।",
    ),
    Riddle("सबसे गहरा क्या है?", "समुद्र", "पुराना कुआँ", "सबसे गहरा मन है", "समुद्र की थाह मिल सकती है, पर किसी के मन की थाह नहीं मिलती।"),
    Riddle(
        "बिना पंखों के कौन उड़ता है?",
        "पतंग",
        "बादल",
        "बिना पंखों के खबर उड़ती है",
        "पतंग और बादल को हवा चाहिए, पर खबर तो बंद कमरे से भी उड़ जाती है।",
    ),
    Riddle(
        "कौन सा घाव सबसे देर में भरता है?",
        "तलवार का",
        "तीर का",
        "कड़वी बात का घाव सबसे देर में भरता है",
        "तलवार का घाव दवा से भर जाता है, पर कड़वी बात बरसों तक चुभती है।",
    ),
    Riddle("कौन सा दीया तेल के बिना जलता है?", "चाँद", "जुगनू", "आशा का दीया तेल के बिना जलता है", "वह आँधी में और सबसे अँधेरी रात में भी नहीं बुझता।"),
    Riddle(
        "राजा का सबसे सच्चा पहरेदार कौन है?",
        "सेनापति",
        "महल की ऊँची दीवार",
        "राजा का सबसे सच्चा पहरेदार प्रजा का प्यार है",
        "जिस राजा से प्रजा प्यार करती है, उसे किसी का डर नहीं होता।",
    ),
    Riddle(
        "सबसे बड़ा मूर्ख कौन है?",
        "जो हिसाब नहीं जानता",
        "जो रास्ता भूल जाता है",
        "सबसे बड़ा मूर्ख वह है जो पूछने में शर्माता है",
        "जो पूछता है, वह सीख जाता है, पर जो पूछता ही नहीं, वह कभी नहीं सीखता।",
    ),
    Riddle(
        "क्या एक बार जाकर कभी नहीं लौटता?",
        "नदी का पानी",
        "कमान से छूटा हुआ तीर",
        "मुँह से निकली हुई बात कभी नहीं लौटती",
        "तीर तो ढूँढकर लाया जा सकता है, पर कही हुई बात को कोई वापस नहीं ला सकता।",
    ),
    Riddle(
        "सबसे सुंदर गहना कौन सा है?",
        "मोतियों का हार",
        "हीरे की अँगूठी",
        "सबसे सुंदर गहना मुस्कान है",
        "उस पर कुछ खर्च नहीं होता और वह हर चेहरे पर सजती है।",
    ),
    Riddle("सबसे बड़ा दान कौन सा है?", "सोने का दान", "गाय का दान", "सबसे बड़ा दान भूखे को दी हुई रोटी है", "सोना चबाकर किसी का पेट नहीं भरता।"),
]
