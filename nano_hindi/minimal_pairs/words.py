"""The nouns of the pairs, by the sentences that they fit. Every name is of one sex only, and every
noun has an undisputed gender."""

from __future__ import annotations

from nano_hindi.sample.grammar import Noun


def masculine(words: str) -> list[Noun]:
    return [Noun(word, "m") for word in words.split()]


def feminine(words: str) -> list[Noun]:
    return [Noun(word, "f") for word in words.split()]


def names(words: str, gender: str) -> list[Noun]:
    return [Noun(word, gender, fixed=True) for word in words.split()]


BOYS = names("राजू मोहन गोपाल रवि अमन श्याम अनिल दीपक सुरेश रामू मुकेश", "m")
GIRLS = names("सीता मीना राधा गीता सुनीता कमला रेखा सरला नेहा ललिता", "f")

# animals that walk, drink and sleep; the counted ones show their number in their form
BEASTS_M = masculine("तोता बंदर हिरन हाथी चूहा कबूतर घोड़ा")
BEASTS_F = feminine("लोमड़ी मैना गिलहरी चींटी कोयल बकरी")
COUNTED_BEASTS_M = masculine("तोता घोड़ा कुत्ता चूहा कछुआ बकरा")

# household things that can be bought, found, lost and given
THINGS_M = masculine("थैला डिब्बा घड़ा खिलौना प्याला ताला सिक्का पंखा कंबल")
THINGS_F = feminine("टोकरी किताब घड़ी चादर थाली चाबी छतरी गुड़िया बाल्टी")
COUNTED_THINGS_M = masculine("थैला डिब्बा घड़ा खिलौना प्याला ताला पंखा गमला")

# objects for the ergative: verb -> masculine nouns, feminine nouns
OBJECTS = {
    "खाया": (masculine("आम केला लड्डू समोसा अमरूद"), feminine("रोटी मूली जलेबी मिठाई नाशपाती")),
    "पिया": (masculine("दूध शरबत पानी"), feminine("लस्सी छाछ शिकंजी")),
    "देखा": (masculine("मेला नाटक मोर"), feminine("नदी झील तितली")),
    "खरीदा": (masculine("थैला खिलौना पंखा घड़ा"), feminine("किताब घड़ी चादर गुड़िया")),
    "पढ़ा": (masculine("पाठ पत्र निबंध"), feminine("कहानी कविता चिट्ठी")),
    "लिखा": (masculine("पत्र संदेश गीत"), feminine("चिट्ठी कविता कहानी")),
    "सुना": (masculine("गीत भजन गाना"), feminine("कहानी कविता बात")),
    "तोड़ा": (masculine("फूल अमरूद पत्ता"), feminine("कली टहनी नारंगी")),
    "बनाया": (masculine("चित्र हलवा मुखौटा"), feminine("चाय खीर माला")),
    "उठाया": (masculine("पत्थर थैला डिब्बा"), feminine("लाठी टोकरी बाल्टी")),
    "धोया": (masculine("कुरता प्याला कंबल"), feminine("चादर थाली कमीज़")),
}
