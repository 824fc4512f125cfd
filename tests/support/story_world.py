"""Check on its surface that a Hindi story does not contradict itself: word classes and patterns, no
code of nano_hindi.sample.

`contradictions(text)` names what cannot be true together. `counted` is how often each rule had
something to judge, so that a test cannot pass because none did. Texts and word lists are compared
without nukta and with anusvara for chandrabindu and nasal letters.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

NUKTA = "\u093c"
NASAL = re.compile("ँ|न्(?=[तथदध])|म्(?=[पफबभ])|ण्(?=[टठडढ])|ञ्(?=[चछजझ])|ङ्(?=[कखगघ])")

WORD = re.compile(r"[\u0900-\u0963\u0970-\u097f]+")
WORD_OR_COMMA = re.compile(WORD.pattern + "|,")

counted: Counter[str] = Counter()


def spelled(text: str) -> str:
    """Return `text` in the one spelling in which texts and word lists are compared."""
    return NASAL.sub("ं", unicodedata.normalize("NFD", text).replace(NUKTA, ""))


plain = functools.cache(spelled)  # for the words and patterns of this file


@functools.cache
def rx(pattern: str) -> re.Pattern[str]:
    """Return a pattern for flat text: words with one space on each side."""
    return re.compile(plain(pattern))


def forms(word: str) -> set[str]:
    """Return the case and number forms that a noun may have, of any gender."""
    out = {word}
    if word.endswith("या"):
        out |= {word[:-1] + "े", word[:-2] + "ए", word + "ं", word[:-1] + "ों", word[:-2] + "ओं"}
    elif word.endswith(("ा", "ां")):
        stem = word.rstrip("ं")[:-1]
        out |= {stem + e for e in ("े", "ें", "ों", "ाएं", "ाओं")}
    elif word.endswith(("आ", "आं")):
        stem = word.rstrip("ं")[:-1]
        out |= {stem + e for e in ("ए", "एं", "ओं")}
    elif word.endswith("ी"):
        out |= {word[:-1] + "ियां", word[:-1] + "ियों"}
    elif word.endswith("ई"):
        out |= {word[:-1] + "इयां", word[:-1] + "इयों"}
    elif word.endswith(("ू", "ु")):
        out |= {word[:-1] + "ुओं", word[:-1] + "ुएं"}
    elif word.endswith(("े", "ो", "ि")):
        out |= {word + "यां", word + "यों"}
    else:
        out |= {word + "ें", word + "ों"}
    return out


CASES = {*plain("में को का की के से पर").split()}
POSTPOSITIONS = {*CASES, "ने"}


def lexicon(words: str) -> dict[str, str]:
    """Return the lemma of every form of the nouns in `words`."""
    return {form: lemma for lemma in plain(words).split() for form in forms(lemma) if form not in POSTPOSITIONS}


# ---- classes of words

SIZES = (
    "चींटी चींटा मक्खी मच्छर मधुमक्खी तितली टिड्डा टिड्डी भौंरा भँवरा जुगनू मकड़ी झींगुर दीमक केंचुआ इल्ली कीड़ा ततैया बर्र घोंघा पतंगा",
    "चूहा चुहिया गौरैया बुलबुल मेंढक मेंढकी छिपकली गिरगिट गिलहरी मछली चमगादड़ चूज़ा केकड़ा झींगा बया फ़ाख़्ता शकरखोरा चिड़िया",
    "मैना तोता कबूतर कोयल कौआ कौवा कठफोड़वा तीतर बटेर नीलकंठ मुर्गी मुर्गा उल्लू पिल्ला",
    "कछुआ खरगोश नेवला बिल्ली बिलाव बत्तख चील बाज बगुला साही साँप नाग ऊदबिलाव",
    "बंदर बंदरिया लंगूर लोमड़ी सियार गीदड़ कुत्ता कुतिया मेमना मोर मोरनी सारस गिद्ध",
    "हिरन हिरण हिरनी भेड़िया तेंदुआ बकरी बकरा भेड़ सूअर लकड़बग्घा चीता बछड़ा बछिया अजगर बारहसिंगा",
    "शेर शेरनी बाघ बाघिन सिंह भालू गाय बैल घोड़ा घोड़ी गधा ऊँट भैंस भैंसा मगरमच्छ नीलगाय खच्चर याक",
    "हाथी हथिनी गैंडा जिराफ़ व्हेल दरियाई",
)
SIZE = {form: size for size, words in enumerate(SIZES) for form in lexicon(words)}
ANIMAL = {form: lemma for words in SIZES for form, lemma in lexicon(words).items()}
BIRDS = lexicon("""गौरैया बुलबुल चूज़ा बया फ़ाख़्ता शकरखोरा चिड़िया मैना तोता कबूतर कोयल कौआ कौवा कठफोड़वा तीतर बटेर नीलकंठ मुर्गी मुर्गा उल्लू बत्तख चील बाज बगुला हंस
गिद्ध सारस मोर मोरनी""")
FLYERS = {**BIRDS, **lexicon("मक्खी मच्छर मधुमक्खी तितली टिड्डा टिड्डी भौंरा भँवरा जुगनू ततैया बर्र पतंगा चमगादड़ दीमक कीड़ा झींगुर")}

WOMEN = lexicon("""दादी नानी माँ मम्मी अम्मा अम्मी बुआ मौसी चाची मामी ताई भाभी बहन दीदी सास बहू पत्नी बेटी पोती नातिन भतीजी सहेली औरत महिला स्त्री लड़की बच्ची बुढ़िया
बालिका अध्यापिका शिक्षिका आचार्या रानी राजकुमारी महारानी किसानिन मालिन दर्ज़िन कुम्हारिन ग्वालिन धोबिन मछुआरिन नर्स दाई नानीजी गायिका लेखिका चित्रकारा नर्तकी नौकरानी
दुकानदारिन पड़ोसिन मालकिन सरपंचनी बेगम दुल्हन आपा परी""")
MEN = lexicon("""दादा नाना पिता पापा बाबा अब्बा चाचा मामा ताऊ मौसा फूफा भाई भैया जीजा देवर ससुर पति बेटा पोता नाती भतीजा भानजा आदमी पुरुष लड़का बच्चा बूढ़ा बालक
साधु राजा राजकुमार महाराज मास्टर गुरु मुखिया शिकारी चोर सिपाही दूल्हा""")
WORKERS = lexicon("""किसान लकड़हारा कुम्हार दर्ज़ी माली मछुआरा लोहार बढ़ई मोची चित्रकार चरवाहा ग्वाला हलवाई दुकानदार व्यापारी सौदागर वैद्य डॉक्टर हकीम डाकिया
पंडित मौलवी पादरी पुजारी ग्रंथी सरपंच मंत्री सेनापति सैनिक मल्लाह नाविक माँझी केवट बुनकर जुलाहा सुनार ठठेरा धोबी नाई रसोइया बावर्ची मिस्त्री राजमिस्त्री मज़दूर कुली
चालक ड्राइवर कंडक्टर इंजीनियर वैज्ञानिक शिक्षक अध्यापक प्रधानाचार्य वकील जज पुलिसवाला दरोगा चौकीदार पहरेदार संगीतकार गायक वादक बाँसुरीवाला जादूगर मदारी नट लेखक कवि
पत्रकार खिलाड़ी अंपायर कप्तान पहलवान मूर्तिकार यात्री मुसाफ़िर राहगीर पड़ोसी मेहमान अतिथि मालिक नौकर सेवक भिखारी ज़मींदार साहूकार सेठ चायवाला दूधवाला सब्ज़ीवाला फलवाला
कबाड़ी नाविका लुहार मधुपालक मुंशी सुबेदार फ़ौजी विद्यार्थी छात्र छात्रा दोस्त मित्र साथी""")
PERSON = {**WOMEN, **MEN, **WORKERS}
GROUPS = lexicon("""लोग भीड़ बच्चा गाँव नगर शहर कस्बा बस्ती मोहल्ला परिवार घर मेला बाज़ार कक्षा स्कूल पाठशाला विद्यालय दरबार सभा टोली दल टीम सेना जंगल वन जानवर पक्षी
चिड़िया दोस्त मित्र साथी सहेली औरत महिला पड़ोसी किसान मज़दूर मछुआरा यात्री मेहमान दर्शक छात्र विद्यार्थी समुद्र राजा देश पंडित आसपास पड़ोस कोई किसी सदस्य खिलाड़ी दुनिया
पंचायत गली मंच इमारत सोसाइटी छत ईद होली दीवाली त्योहार नमाज़ बस रेल नाव मंदिर मस्जिद गुरुद्वारा गिरजाघर खेत आँगन बारात तलहटी चौपाल""")

GIRLS = plain("""मीना सीता गीता राधा कमला सुनीता लक्ष्मी गौरी पूजा नेहा चंपा तारा जया मुन्नी ललिता रेखा सुधा विमला पार्वती रजनी मालती सलमा फ़ातिमा सरला चंदा मधु उमा निशा शीला
जमुना अनीता अंजलि अंजू अमृता अनुराधा अपर्णा अर्चना अलका आयशा आरती आशा इंदु इंदिरा ईशा उर्मिला उषा ऋतु कविता कल्पना कांता काजल किरण कुसुम कृष्णा कौशल्या गंगा
गुरप्रीत गुलाबो चित्रा जसप्रीत ज़ैनब ज़ोया जूली जेनी ज्योति तनुजा तबस्सुम तुलसी दमयंती दिव्या दीपा दीप्ति गायत्री नंदिता देवयानी इंद्राणी सुलोचना सुभद्रा पियाली तृषा अमुदा सेल्वी वल्ली मिनती जोनाकी हरलीन हरनूर भाविका हेतल कोकिला शिरीन हलीमा सकीना नसीमा
हाजरा टेरेसा एंजेला ग्रेसी सूज़न एलिज़ा दुर्गा देविका नंदिनी नलिनी नगमा नसीम नाज़िया निर्मला नीता नीलम नीलिमा
नूर परवीन पद्मा पल्लवी पायल पिंकी प्रभा प्रिया प्रीति फूलमती बबीता बानो बिन्नी भारती भावना मंजू मंजुला मनप्रीत ममता मरियम मल्लिका महिमा माधुरी माया मीनाक्षी मीरा मुमताज़ मेघा मैरी मोनिका
यमुना यशोदा यास्मीन रंजना रक्षा रज़िया रश्मि राखी राबिया रीता रीना रुखसाना रूपा रूबी रेणु रेशमा रोज़ी रोशनी लता लीला लीना वंदना वर्षा वसुधा विद्या वैशाली शकीला शकुंतला शबनम शबाना
शर्मिला शांति शारदा शालिनी शिखा शीतल शोभा श्रुति श्वेता संगीता संध्या सबीना समीरा सरस्वती सरिता सविता साक्षी सादिया सायरा सावित्री सीमा सुजाता सुमन सुमित्रा सुरभि सुशीला सुषमा सोनम सोनिया स्नेहा
स्वाति हरप्रीत हसीना हिना हेमा हेमलता एस्तेर ग्रेस मेरी लालरेम मणिमेखलै कावेरी मीनाक्षी पोन्नी कमली सोमारी फूलो बुधनी इमली दीपशिखा नवनीत सिमरन जसलीन अमरजीत बेला जूही चमेली गुड्डी रानू बिट्टी""").split()
BOYS = plain("""मोहन राजू गोपाल दीपक रवि अमन किशन सोनू हरि विनय अर्जुन मनोहर सुरेश रामू श्याम करन नंदू चेतन बिरजू मुकेश नरेश लखन माधव केशव सलीम रहीम गोविंद जगदीश अनिल दिनेश
अकबर अजय अजीत अतुल अनवर अब्दुल अभय अमर अमित अमजद अरविंद अरुण अली अशोक असलम अहमद आदित्य आनंद आमिर आरिफ़ इक़बाल इमरान इरफ़ान ईश्वर उमेश कन्हैया कबीर कमल करीम कल्लू कार्तिक
काशी कासिम किशोर कुंदन कुलदीप कृष्ण गगन गणेश गिरधर गिरीश गुरमीत गुरदीप गौतम घनश्याम चंदन चंदू चंद्र चमन छोटू जगन जतिन जमील जयंत जसबीर जसवंत ज़फ़र जावेद जितेंद्र जीतू जॉन जॉर्ज जोसेफ़
तन्मय तेजस थॉमस दयाराम दानिश दामोदर दिलीप दीनू दुर्गेश देव देवेंद्र धनराज धर्मेंद्र ध्रुव नकुल नरेंद्र नवीन नसीर नागेश नारायण निखिल नितिन निरंजन नीरज पंकज पप्पू परम पवन पीटर प्रकाश प्रताप प्रदीप प्रमोद
प्रवीण प्रेम फ़रहान फ़ारूक फ़िरोज़ बंसी बबलू बलदेव बलराम बलवंत बशीर बाबू बुधन बुधिया भरत भानु भीम भोला भोलू मंगल मंगरू मदन मनजीत मनीष मनोज महेंद्र महेश माइकल मानव मुन्ना मुरली मुस्तफ़ा मोती मोहित
यश यशपाल यूसुफ़ योगेश रंजीत रघु रघुवीर रजत रतन रफ़ीक रमन रमेश राकेश राघव राजेश राजीव राम राहुल रितेश रोहन रोहित ललित लालू वरुण वसंत वासु विकास विक्रम विजय विजेंद्र विपिन विमल विवेक विशाल
विष्णु वीर वेंकट वैभव शंकर शंभू शरद शशि शाहिद शिव शिवराम शेखर शैलेश संजय संतोष संदीप सचिन सतीश सत्यम समीर सरफ़राज़ साजिद सादिक सिकंदर सिराज सुखदेव सुखबीर सुधीर सुनील सुबोध सूरज सैमुअल सोमनाथ
सोहन हनीफ़ हरीश हर्ष हामिद हीरा हेमंत डेविड मुरुगन कुमारन अय्यप्पन बिपिन तपन सुब्रत पिंटू चिंटू गुड्डू बंटी टिंकू कालू रंगा बिस्वा लालथंगा""").split()
NAME_GENDER = dict.fromkeys(BOYS, "m") | dict.fromkeys(GIRLS, "f")
# names that are words too: names only where the text says so
AMBIGUOUS = {
    *plain("""पूजा तारा आशा शांति कविता किरण ज्योति प्रेम आनंद माया ममता वर्षा संध्या रोशनी शोभा भावना कल्पना विद्या दीपक कमल मोती हीरा सूरज चंदा प्रकाश पवन विजय विकास संतोष
वसंत मंगल देव वीर राम कृष्ण शिव गणेश विष्णु लक्ष्मी दुर्गा सरस्वती सीता गीता गंगा यमुना जमुना कावेरी तुलसी इमली चमेली जूही बेला चंपा मधु सीमा ऋतु नूर शीतल रक्षा रानू वंदना आरती
प्रीति प्रभा लता लीला मोहित सत्यम परम चंद्र रतन चंदन काशी शरद शशि हरि मानव चमन पायल काजल विनय विवेक उमा मुन्ना मुन्नी छोटू बाबू राखी महिमा कृष्णा निशा मेरी कबीर गुरु ईश्वर नारायण भारती
अमर अभय भोला कुसुम सुमन चित्रा करन बंसी मुरली उषा यश हर्ष अली विशाल विमल ललित रश्मि तेजस""").split()
}

TREES = lexicon("आम नीम जामुन अमरूद इमली पीपल बरगद कटहल अनार बेर शीशम देवदार चीड़ नारियल केला बबूल गुलमोहर अशोक पौधा पेड़ वृक्ष बाँस चंदन")
FRUITS = lexicon("आम अमरूद अनार पपीता सेब नारंगी संतरा नाशपाती केला जामुन बेर लीची अंगूर तरबूज़ खरबूज़ा कटहल नारियल अनानास नींबू फल आड़ू चीकू शरीफ़ा शहतूत")
LIGHTS = lexicon("आग दीया दीपक लालटेन मशाल लौ रोशनी उजाला मोमबत्ती बत्ती बल्ब टॉर्च अलाव तारा चाँद सूरज बिजली किरण लकड़ी चिराग़")
# concrete things: "that X" needs an X told before
SYNONYMS = (
    "चिट्ठी पत्र ख़त पोस्टकार्ड लिफ़ाफ़ा संदेश तार", "थैली थैला बटुआ पोटली पर्स झोला बस्ता बैग गठरी", "अँगूठी", "चाबी कुंजी", "हार माला कंगन चूड़ी पायल गहना ज़ेवर मोती हीरा रत्न मणि",
    "सिक्का पैसा रुपया अशर्फ़ी मोहर धन खज़ाना नोट", "किताब पुस्तक पोथी कापी कॉपी डायरी", "पतंग", "गुड़िया गुड्डा कठपुतली खिलौना", "गेंद", "ढोलक ढोल मृदंग तबला", "बाँसुरी मुरली सीटी",
    "लट्टू", "डमरू", "घड़ा मटका सुराही बर्तन", "प्याला प्याली कप गिलास", "शीशा शीशी बोतल दर्पण आईना", "गुल्लक डिब्बा डिबिया संदूक पिटारी बक्सा पेटी", "तश्तरी थाली थाल कटोरा कटोरी",
    "टोकरी टोकरा डलिया", "कुदाल फावड़ा खुरपी", "कुल्हाड़ी", "हथौड़ा हथौड़ी", "कैंची", "आरी", "कूची ब्रश", "बाल्टी डोल", "करछी कलछी चम्मच", "जाल", "रस्सी डोरी धागा", "नाव नौका नैया किश्ती",
    "साइकिल", "गाड़ी बैलगाड़ी ताँगा रथ", "छाता", "कंबल रजाई चादर शॉल दुपट्टा", "कुरता कुर्ता कमीज़ कपड़ा साड़ी वस्त्र पोशाक स्वेटर टोपी पगड़ी", "जूता चप्पल", "घड़ी", "चश्मा", "कलम पेंसिल पेन",
    "चित्र तस्वीर फ़ोटो पेंटिंग", "नक्शा", "रोटी पूरी पराठा", "लड्डू मिठाई पेड़ा बरफ़ी जलेबी हलवा खीर", "बीज दाना", "फूल गुलाब गेंदा कमल कली", "पिंजरा", "घोंसला अंडा", "कुआँ बावड़ी",
    "पुल", "मूर्ति", "दवा औषधि काढ़ा", "तराज़ू बाट", "चाकू छुरी तलवार धनुष तीर", "फ़ोन मोबाइल", "रेडियो", "मशीन यंत्र पंप इंजन", "दीवार", "दरवाज़ा", "झूला", "बीन सितार वीणा सारंगी हारमोनियम",
    "प्रतियोगिता मुक़ाबला होड़ दौड़ कुश्ती मैच परीक्षा खेल", "मेला हाट प्रदर्शनी उत्सव", "शादी विवाह ब्याह बारात", "नाटक", "इनाम पुरस्कार उपहार तोहफ़ा भेंट", "पहेली सवाल प्रश्न", "गाना गीत कविता धुन",
    "चोर", "शिकारी", "साधु बाबा फ़क़ीर", "जादूगर", "पत्थर चट्टान शिला", "गुफा खोह", "दाल चावल सब्ज़ी खिचड़ी खाना भोजन", "सपना स्वप्न", "नगर शहर",
)  # fmt: skip
THINGS = {form: group for group, words in enumerate(SYNONYMS) for form in lexicon(words)}
HYPERNYMS = (
    (lexicon("आदमी व्यक्ति इंसान औरत महिला स्त्री लड़का लड़की बच्चा बच्ची बूढ़ा बुढ़िया बालक बालिका अजनबी मेहमान यात्री"), "person"),
    (lexicon("जानवर जीव प्राणी पशु"), "animal"),
    (lexicon("पक्षी पंछी चिड़िया परिंदा"), "bird"),
    (lexicon("पेड़ पौधा वृक्ष"), "tree"),
    (lexicon("फल"), "fruit"),
    (lexicon("रोशनी उजाला लौ दीया"), "light"),
)
HYPERNYM = {form: kind for words, kind in HYPERNYMS for form in words}
KINDS = {"animal": ANIMAL, "bird": BIRDS, "tree": TREES, "fruit": FRUITS, "light": LIGHTS}
DESCRIBING = {
    *plain("छोटा छोटी छोटे बड़ा बड़ी बड़े नन्हा नन्ही नन्हे पुराना पुरानी पुराने नया नई नए सुंदर बूढ़ा बूढ़ी बूढ़े घायल प्यारा प्यारी प्यारे सुनहरी सुनहरा सा सी से").split()
}

MODERN = lexicon("""पुलिस थानेदार फ़ोन मोबाइल टेलीफ़ोन रेल रेलगाड़ी ट्रेन स्टेशन मोटर मोटरसाइकिल कार ट्रक साइकिल स्कूटर ऑटो रिक्शा मेट्रो टैक्सी टीवी टेलीविज़न रेडियो कंप्यूटर
लैपटॉप इंटरनेट ईमेल वीडियो कैमरा फ़ोटो फ़िल्म सिनेमा टॉर्च बैटरी बल्ब फ़्रिज कूलर लिफ़्ट फ़्लैट अपार्टमेंट अस्पताल एंबुलेंस नर्स डॉक्टर इंजेक्शन विज्ञान वैज्ञानिक तकनीक प्रयोगशाला माइक्रोस्कोप
रोबोट क्रिकेट फ़ुटबॉल हॉकी स्कूल पीरियड टाइमटेबल होमवर्क प्लास्टिक पॉलिथीन चॉकलेट बिस्कुट केक आइसक्रीम पेंसिल पेन इंजन मशीन पेट्रोल डीज़ल ट्रैफ़िक हेलमेट टिकट अख़बार लाइब्रेरी
हेलीकॉप्टर रॉकेट उपग्रह तिरंगा राष्ट्रगान गणतंत्र संविधान इंजीनियर ड्राइवर कंडक्टर किलो किलोग्राम किलोमीटर सेंटीमीटर लीटर मिनट ट्रैक्टर पंप सोलर बटन माइक स्पीकर ब्लैकबोर्ड अंपायर
प्रधानाचार्य कॉलेज ऑफ़िस दफ़्तर बैंक एटीएम वोट चुनाव गैस सिलेंडर कुकर
लाउडस्पीकर ट्रांसफ़ॉर्मर टेपरिकॉर्डर कैसेट टाइपराइटर कैलेंडर मैच ओवर स्टेडियम पायलट जीप बाइक बैडमिंटन टेनिस पिज़्ज़ा नूडल टूथब्रश शैंपू पेट्रोलपंप कारख़ाना फ़ैक्ट्री थर्मामीटर""")
MODERN_PHRASE = rx(
    r" बिजली (?!चमक|कड़क|गिर|कौंध|सी |सा |की तरह|की गति|की कड़क|की चमक|की तेज़ी| गरज)| बत्तियाँ | (?<!के )(?<!मेरे )(?<!अपने )(?<!उसके )(?<!तुम्हारे )बस (में|से|पर|आई|रुकी|चली|छूट|अड्डा|अड्डे|स्टॉप|चालक|का|के)(?! बात) | हवाई जहाज़ | पहली घंटी | समय सारणी | गृहकार्य "
)
OLD_OPENING = rx(
    r" (बहुत (ही )?(पुरानी|समय पहले|पहले|साल पहले|दिन पहले)|पुराने (समय|ज़माने|दिनों)|प्राचीन|सदियों पहले|सैकड़ों साल|एक समय|किसी समय|राजाओं के ज़माने)( की)?( बात)? "
)
ROYAL = rx(
    r"(?<! का| के| की) (राजा|(?<= एक )रानी|(?<= वहाँ की )रानी|रानी(?= ने| बोली| के पास)|महाराज|महाराजा|राजकुमार|राजकुमारी|सम्राट|बादशाह|सुल्तान|नवाब|दरबार|सिंहासन|राजमहल|सेनापति)(ों)? (?!मधुमक्खी|चींटी|नाम|बेटा|बेटी)"
)
STAGED = rx(r" (नाटक|मंच|भूमिका|अभिनय|शतरंज|कठपुतली|कठपुतलियाँ|कठपुतलियों|इतिहास|किताब|कहानी|किले|संग्रहालय|वेश|मुकुट) ")

# ---- sentences


@dataclass(eq=False)
class Sentence:
    """Hold a sentence: as it is written, its narration and its speech as flat text, its words."""

    text: str
    narration: str
    speech: list[str]

    def __post_init__(self) -> None:
        self.words = self.narration.split()
        self.flat = flatten(self.text)
        self.all = flatten(self.text, commas=True).split()  # with commas


def flatten(text: str, commas: bool = False) -> str:
    return " " + " ".join((WORD_OR_COMMA if commas else WORD).findall(spelled(text))) + " "


def sentences(text: str) -> list[Sentence]:
    """Split a text into sentences; speech belongs to the sentence that says who speaks."""
    out = []
    for line in text.split("\n"):
        start, inside, opened = 0, False, 0
        for i, char in enumerate(line):
            if char == "“":
                inside, opened = True, i
            elif char == "”":
                inside = False
                told = re.search(r"[\u0900-\u097f]", line[start:opened])  # speech at the beginning: its speaker follows
                if told and line[i - 1] in "।?!":
                    out.append(line[start : i + 1])
                    start = i + 1
            elif char in "।?!" and not inside:
                out.append(line[start : i + 1])
                start = i + 1
        if line[start:].strip():
            out.append(line[start:])
    return [Sentence(s.strip(), flatten(re.sub(r"“[^”]*”?", " ", s)), [flatten(q) for q in re.findall(r"“([^”]*)", s)]) for s in out if s.strip()]


NOT_NAMES = {*plain("जी जिस किस उस इस सब किसी कुछ एक दूसरे पहले हर परिवार भीड़ टीम हवा आँधी बारिश नदी पेड़ गाँव नगर शहर समय बाढ़ आग मन").split()}


def names_in(story: list[Sentence]) -> dict[str, str]:
    """Return the names of persons in a story with m, f or an empty text: the listed ones, and those
    that the story calls names."""
    flat = " ".join(s.flat for s in story)
    found = {}
    for match in rx(r" (\S+) नाम (का|की|के) ((?:\S+ ){1,5})").finditer(flat):
        if not PERSON.keys().isdisjoint(match[3].split()):  # not a book or a boat
            found[match[1]] = NAME_GENDER.get(match[1], {"का": "m", "की": "f"}.get(match[2], ""))
    for name in rx(r" नाम (\S+) (?:था|थी|है) ").findall(flat):
        if name in NAME_GENDER or f" {name} {plain('ने')} " in flat:
            found[name] = NAME_GENDER.get(name, "")
    for name in {*flat.split()} & NAME_GENDER.keys():
        if name not in AMBIGUOUS or f" {name} {plain('ने')} " in flat:
            found[name] = NAME_GENDER[name]
    for name, often in Counter(rx(r" (\S+) ने ").findall(flat)).items():  # who acts more than once and is no common noun
        if often > 1 and not name.endswith(plain("ों")) and name not in NOT_NAMES:
            found.setdefault(name, "")
    return {name: gender for name, gender in found.items() if name not in PERSON and name not in ANIMAL}


@functools.lru_cache(maxsize=1)
def parse(text: str) -> tuple[list[Sentence], dict[str, str]]:
    """Return the sentences and the names of a story without its moral, which has a line of its
    own."""
    story = sentences(text.split("\n")[0])
    return story, names_in(story)


HABIT = rx(r"(ता|ती|ते) (था|थी|थे|थीं|है|हैं) $| (रोज़|हर|प्रतिदिन|रोज़ाना|जब भी|हमेशा|अक्सर|कभी कभी) ")
BEFORE = rx(r"(ा|े|ी|ए|ई|या) (था|थी|थे|थीं) $")  # pluperfect or a state: may lie before what was told last


def happens(sentence: Sentence) -> bool:
    return not HABIT.search(sentence.narration)


# ---- rules: each yields the sentences that break it


Found = Iterator[Sentence]
Story = list[Sentence]


def era(story: Story, names: dict[str, str]) -> Found:
    """Find electricity, police, phones, buses and science in old times or under kings."""
    staged = any(STAGED.search(s.flat) for s in story)
    opening = any(OLD_OPENING.search(s.narration) for s in story[:4])
    kings = not staged and any(ROYAL.search(s.narration) for s in story)
    if not opening and not kings:
        return
    counted["era"] += 1
    for s in story:
        if {*s.all} & MODERN.keys() or MODERN_PHRASE.search(s.flat):
            yield s


DAYS = r"(दिन|दिनों|रोज़|सुबह|दोपहर|शाम|रात|भोर|हफ़्त\S+|सप्ताह|महीन\S+|साल|बरस|वर्ष|बार|इतवार|मौसम|गर्मी|गर्मियों|सर्दियों|बरसात|जाड़े)"
WHICH = r"(अगल\S|दूसर\S|तीसर\S|चौथ\S|पाँचव\S+|छठ\S|सातव\S+|आठव\S+|दसव\S+|आख़िरी|अंतिम|पिछल\S|एक|पहल\S|कुछ|कई|दो|तीन|चार|पाँच|सात|आठ|दस|पंद्रह|बीस|बहुत|थोड़े|उन|जिस|आने वाल\S|इस|इसी|अगले ही|कुछ ही|थोड़े ही)"
NEW_DAY = rx(
    rf" ({WHICH} {DAYS}|(महीन\S+|साल|साल\S+|हफ़्त\S+|दिन|दिनों|बरस\S*|घंट\S+) (बाद|बीत\S*|में)|दिन (आया|आ गया|आ पहुँचा|बीत\S+|गुज़र\S+)|वह दिन|समय (बीता|बीतता)|साल (भर|के)|अब|कभी|अंत में|आख़िरकार|एक दफ़ा|बचपन में|परसों|"
    rf"(दीवाली|होली|ईद|क्रिसमस|पोंगल|ओणम|बिहू|त्योहार|मेले|जन्मदिन|शादी|प्रतियोगिता|परीक्षा|नाटक|मैच|रवि|इत|सोम|मंगल|बुध|गुरु|शुक्र|शनि)(वार)? (के दिन|की सुबह|की शाम|की रात|की दोपहर|को|आ गई|आई|आया|का दिन)) "
)
TIMES = (  # morning, noon, evening, night; not as "since" or "until", nor as the night's sleep
    (0, rx(r" (सुबह(?! से| का| की| के| ही| तक)|सुबह ही|सवेरे|भोर|तड़के|पौ फटते|(सूरज|सूर्य) (निकल|उग)\S* ) ?")),
    (1, rx(r" (?<!पूरी )(?<!सारी )(दोपहर(?! से| का| की| तक)) ")),
    (2, rx(r" (शाम(?! से| का| की)|संध्या|साँझ|(सूरज|सूर्य) (डूब|ढल)\S*|गोधूलि) ")),
    (3, rx(r" (रात(?! से| का| की| भर)|आधी रात|रात्रि) ")),
)
RESTART = (  # what begins a time of day that was not before
    None,
    rx(r" दोपहर (को|में|के समय|हुई|हो गई) "),
    rx(r" शाम (को|में|के समय|हुई|हो गई|होते|तक) "),
    rx(r" (?<!उस )(?<!आधी )(?<!देर )(?<!इतनी )रात (को|हुई|हो गई|होते) "),
)
ALL_DAY = rx(r" (सारा दिन|दिन भर|पूरा दिन|पूरे दिन) ")
SUCH_NIGHT = rx(r" इतनी (रात|देर रात) ")
SUNSHINE = rx(r" (धूप (खिली|खिल|चमक|निकली|फैली|सेंक)|सूरज (चमक|तप|सिर)) ?")
STARS = rx(r" (तारे|चाँद|चाँदनी) (चमक|टिमटिमा|निकल|खिल|छिटक|फैल)\S* ")


def time_of_day(story: Story, names: dict[str, str]) -> Found:
    """Find a time of day that goes back or begins twice within a day, "so late at night" by day,
    and sunshine by night."""
    now = None
    for s in story:
        for speech in s.speech:
            if SUCH_NIGHT.search(speech):
                counted["time_of_day"] += 1
                if now is None or now < 2:
                    yield s
        flat = s.narration
        if SUCH_NIGHT.search(flat):
            counted["time_of_day"] += 1
            if now is None or now < 2:
                yield s
        if not happens(s):
            if NEW_DAY.search(flat) or rx(" उस दिन (से|के बाद) ").search(flat):
                now = None
            continue
        if NEW_DAY.search(flat):
            now = None
        at = None
        for time, pattern in TIMES:
            if pattern.search(flat):
                at = time if at is None else at if rx(r" (तक|से) ").search(flat) else time
        if now is not None and now >= 2 and ALL_DAY.search(flat):
            counted["time_of_day"] += 1
            yield s
            now = 2
        if at is not None:
            if now is not None:
                counted["time_of_day"] += 1
                again = RESTART[at]
                if at == 0 and (now >= 2 or rx(" सुबह (होते|हुई|तक) ").search(flat)):
                    now = 0  # the next morning
                elif (at < now and not BEFORE.search(flat)) or (at == now and again and again.search(flat)):
                    yield s
            now = at
        if rx(r" (रात भर|सारी रात|पूरी रात) ").search(flat):
            now = 3
        if now is not None and ((now >= 2 and SUNSHINE.search(flat)) or (now <= 1 and STARS.search(flat))):
            counted["time_of_day"] += 1
            yield s


SEASONS = {
    "winter": rx(r" (जाड़(ा|े|ों)|सर्दियों|सर्दियाँ|सर्दी (के|की|में)|शीत ऋतु|पूस|माघ|कड़ाके की (ठंड|सर्दी)) "),
    "summer": rx(r" (गर्मियों|गर्मियाँ|गर्मी (के|की|में|बहुत|थी)|जेठ|ग्रीष्म|लू) "),
    "rains": rx(r" (बरसात(?! के लिए| तो)|वर्षा ऋतु|मानसून|सावन|भादों|आषाढ़) "),
    "spring": rx(r" (वसंत|बसंत|फागुन|होली) "),
}
SIGNS = {
    "winter": rx(r" (बर्फ़ (गिर|पड़|से|पर|जम)\S*|कोहरा|पाला|अलाव|रज़ाई|रजाई|ठिठुर\S*|कड़ाके) "),
    "summer": rx(
        r" (लू|चिलचिलाती|तपती|झुलस\S*|तरबूज़|खरबूज़ा|लीची|(एक|पका|पके|मीठा|मीठे|रसीले|रसीला) आम|आम (मिला|पड़ा|खा\S*|तोड़\S*|लेकर|दिखाई|उठा\S*|मेरा|पके|बाँट\S*)|आमों|शरबत) "
    ),
    "rains": rx(r" (मूसलाधार|बाढ़|बरसाती|बादल फट\S*|इंद्रधनुष) "),
    "spring": rx(r" (टेसू|आम के बौर|पिचकारी|गुलाल) "),
}
CLASH = {"winter": ("summer", "rains"), "summer": ("winter",), "rains": ("winter",), "spring": ("winter",)}
LONG_AFTER = rx(
    r" (महीन\S+|साल|बरस|बरसों|मौसम|ऋतु|हफ़्त\S+|धीरे धीरे|दिन बीत\S*|समय बीत\S*|अगल[ेी] (साल|बार|गर्मी|सर्दी|बरसात)|(जाड़ा|बरसात|गर्मी|गर्मियाँ|सर्दियाँ|सर्दी|वसंत|वर्षा|जाड़े|सावन|होली|दीवाली) (आ|शुरू|बीत|आते|ख़त्म|खत्म)\S*|फिर (बरसात|जाड़ा|गर्मी|वसंत)|कई दिन) "
)


def season(story: Story, names: dict[str, str]) -> Found:
    """Find what belongs to another season, unless time has passed."""
    now = None
    for s in story:
        if LONG_AFTER.search(s.narration) or not happens(s):
            now = None
        stated = [name for name, pattern in SEASONS.items() if pattern.search(s.narration)]
        if now:
            counted["season"] += 1
            if any(SIGNS[other].search(s.flat) for other in CLASH[now]) or (stated and now not in stated and not NEW_DAY.search(s.narration)):
                yield s
        if stated:
            now = stated[-1]
            if not LONG_AFTER.search(s.narration) and any(SIGNS[other].search(s.narration) for other in CLASH[now]):
                yield s


DROUGHT = rx(
    r" (सूखा पड़\S*|सूखे (के|की|में|से)|बारिश नहीं हुई|वर्षा नहीं हुई|पानी नहीं बरसा|बूँद (भी )?नहीं (गिरी|बरसी)|(कुआँ|कुएँ|तालाब|पोखर) (भी )?सूख\S*|बादल नहीं (आते|आए|बरसे)) "
)
WET = rx(
    r" (नदी के किनारे|नदी (में|पर|के पार|पार|का पानी|के पानी|उफान|बह)|झील|बाढ़|बारिश (हो रही|थम\S*|के बाद|में)|बादल फट\S*|हरियाली|भीग\S*|कीचड़|झरना|झरने|लहलहा\S*|नाव) "
)
RELIEF = rx(
    r" ((बारिश|वर्षा|बूँदाबाँदी) (होने|शुरू|हुई|आ|बरस)\S*|(पानी|बादल) बरस\S*|बरसने|बूँदें|धार|पानी (चमक|निकल|आ|फूट|मिल)\S*|बरसात|मानसून|(महीन\S+|साल|बरस) बाद|अगले साल|कुएँ में) "
)


def drought(story: Story, names: dict[str, str]) -> Found:
    """Find rain, flood, mud and green land in a drought, and a river beside a dry village."""
    beside = [s for s in story[:6] if rx(r" (नदी|झील) के (किनारे|पास|तट) ").search(s.narration)]
    dry = False
    dried = any(rx(r" (नदी|नदियाँ|झील|सब) (भी |तक )?सूख").search(s.flat) for s in story)
    for s in story:
        if DROUGHT.search(s.narration) and not rx(r" (अकाल|फिर कभी|कभी नहीं) ").search(s.narration):
            counted["drought"] += 1
            if not dry and beside and not dried:
                yield s
            dry = True
        elif dry:
            if RELIEF.search(s.narration):
                dry = False
            elif WET.search(s.narration) and not dried:
                yield s


DESERT = rx(r" (रेत के टील\S+|रेगिस्तान|मरुस्थल|मरुभूमि) ")
MOUNTAIN = rx(r" (पहाड़ों के बीच|पहाड़ी गाँव|पहाड़ की तलहटी|पहाड़ों में) ")


NOT_IN_DESERT = rx(r" (नदी|नाव|बाढ़|समुद्र|झील|जंगल|हरियाली|बर्फ़) ")
NOT_IN_MOUNTAINS = rx(r" (समुद्र|सागर|रेत के टीले) ")


def place(story: Story, names: dict[str, str]) -> Found:
    """Find a river, a sea, a flood or a forest at a desert village, and a sea in the mountains."""
    where = next((s for s in story[:6] if DESERT.search(s.narration)), None)
    high = next((s for s in story[:6] if MOUNTAIN.search(s.narration)), None)
    if where or high:
        counted["place"] += 1
    for s in story:
        if s is where or s is high or rx(r" (दूर|यात्रा|सफ़र|मेले|नगर|शहर) ").search(s.narration):
            continue
        if (where and NOT_IN_DESERT.search(s.narration)) or (high and NOT_IN_MOUNTAINS.search(s.narration)):
            yield s


WEATHER = (rx(r" (आकाश साफ़|आसमान साफ़|धूप खिली|तेज़ धूप|कड़ी धूप) "), rx(r" (बारिश (हो रही|में भीग)|मूसलाधार|झमाझम|भीगते हुए|बादल गरज) ?"))
CHANGE = rx(r" (अचानक|तभी|थमी|थम|रुकी|फिर|बाद|दिन|सुबह|शाम|रात|दोपहर|देखते देखते|इतने में|उसी समय|कभी|महीन\S+|साल|हर|रोज़|लगा|लगी|लगे|छा) ")


def weather(story: Story, names: dict[str, str]) -> Found:
    """Find sunshine and rain at once."""
    now = None
    for s in story:
        kind = next((k for k, pattern in enumerate(WEATHER) if pattern.search(s.narration)), None)
        if CHANGE.search(s.narration):
            now = None
        if kind is not None:
            counted["weather"] += 1
            if now is not None and kind != now:
                yield s
            now = kind


RELATIVE = {*plain("जो जिस जिसे जिसने जिसमें जिसका जिसकी जिसके जिन जिन्हें जहाँ जैसा जैसी जैसे जितना कि").split()}
TOPIC = lexicon("थैली बटुआ चिट्ठी पत्र ख़त अँगूठी चाबी संदूक ख़ज़ाना पिटारी पोटली पर्स हार मूर्ति लिफ़ाफ़ा")
EVENT = r"(मेले|प्रतियोगिता|मुक़ाबले|शादी|विवाह|नाटक|परीक्षा|मैच|प्रदर्शनी|दौड़|उत्सव|सभा|समारोह|तमाशे|यात्रा|बारात|पंचायत|बैठक)"
EVENT_DAY = rx(f" {EVENT} (के दिन|की सुबह|की शाम|की रात|का दिन|का समय|की घड़ी) ")
EVENT_FIRST = rx(f"^ {EVENT} (में|पर|से पहले|के बाद|शुरू) ")
ROOTS = lexicon("मेला प्रतियोगिता मुक़ाबला शादी विवाह नाटक परीक्षा मैच प्रदर्शनी दौड़ उत्सव सभा समारोह तमाशा यात्रा बारात पंचायत बैठक")
TOLD: dict[str, set[str | int]] = {}  # what a word tells of: lemma, group of synonyms, kind
for classes in (dict[str, str | int](THINGS), ROOTS, ANIMAL, PERSON, TOPIC, dict.fromkeys(PERSON, "person")):
    for form, lemma in classes.items():
        TOLD.setdefault(form, set()).add(lemma)
for kind, words in KINDS.items():
    for form in words:
        TOLD.setdefault(form, set()).add(kind)
THAT = {*plain("वही उसी उस").split()}
AGENT = {*plain("ने उसने लिए को").split()}
MOMENTS = {*plain("घड़ी तार").split()}  # "that moment", as often as "that watch"


def definite(story: Story, names: dict[str, str]) -> Found:
    """Find what is called "that", and an event with a day of its own, before it was told of."""
    seen: set[str | int] = set()
    for s in story:
        wrong = False
        words = s.all
        for match in (EVENT_DAY.search(s.narration), EVENT_FIRST.search(s.narration)):
            if match:
                counted["definite"] += 1
                wrong |= seen.isdisjoint({ROOTS[match[1]], THINGS.get(match[1], ROOTS[match[1]])})
        if words[0] in TOPIC and len(words) > 1 and words[1] in POSTPOSITIONS and TOPIC[words[0]] not in seen:
            counted["definite"] += 1
            wrong |= THINGS.get(words[0], -1) not in seen
        relative = not RELATIVE.isdisjoint(words)
        for i, word in enumerate(words):
            # वह before a noun is "that" after ने, elsewhere "he" or "she"
            if not relative and (word in THAT or (word == plain("वह") and not AGENT.isdisjoint(words[max(0, i - 4) : i]))):
                noun = next((w for w in words[i + 1 : i + 4] if w not in DESCRIBING), "")
                kind = HYPERNYM.get(noun)
                lemma = ANIMAL.get(noun) or PERSON.get(noun)
                if (kind or lemma or noun in THINGS) and noun not in MOMENTS:
                    counted["definite"] += 1
                    known = (kind in seen) or (lemma in seen if lemma else False) or (THINGS.get(noun, -1) in seen)
                    wrong |= not (known or (lemma and noun in PERSON and "person" in seen and not kind and noun in MEN.keys() - {lemma}))
            seen |= TOLD.get(word, set())
            if word in names:
                seen.add("person")
        if wrong:
            yield s


LETTER = lexicon("चिट्ठी पत्र ख़त पोस्टकार्ड")
LETTER_COMES = rx(
    r"(आई|आया|लाया|लाई|लाए|मिली|मिला|दी|दिया|निकाली|निकाला|लिखी|लिखा|लिखवाई|लिखने|भेजी|भेजा|थमाई|थमा|लेकर|पड़ी|रखी|थी|था|पहुँची|पहुँचा|डाली|डाल) "
)


def letter(story: Story, names: dict[str, str]) -> Found:
    """Find a letter that is read before it came, or by one to whom none was written."""
    came = written = False
    for s in story:
        if not {*s.all} & LETTER.keys():
            continue
        reads = rx(rf" ({'|'.join(LETTER)}) (\S+ )?(पढ़कर|पढ़ी|पढ़ा|पढ़ते ही|पाकर|मिलते ही) ").search(s.narration)
        if reads and happens(s):
            counted["letter"] += 1
            moved = rx(r" (पढ़कर|पाकर|पढ़ते ही|मिलते ही) .*(आया|आई|आए|लौटा|लौटी|लौटे|दौड़\S*|चल पड़\S*) $").search(s.narration)
            if (moved and not written) or not (came or LETTER_COMES.search(s.narration) or rx(" एक ").search(s.narration)):
                yield s
        came |= bool(happens(s) and LETTER_COMES.search(s.narration))
        written |= bool(rx(r" (लिख\S*|भेज\S*|डाल\S*) ").search(s.flat))


THOUGHT = rx(r" (सोचा|सोचने|मन में|मन ही मन|ठान|ठाना|अपने आप से|खुद से) ")
SILENT = rx(r" (मन ही मन|मन में|अपने आप से) ")
SAID = rx(r" (कहा|बोला|बोली|बोले|बोलीं|पूछा|बताया|बताई|सुनाया|सुनाई|पुकारा|चिल्ला\S*|समझाया|कह|पूछने|लिखा|जवाब) ")
ANSWERS = rx(
    r" ((उसकी|उनकी|इस|यह|किसी ने उसकी) बात (नहीं |पर )?(मान|सुन|हँस|कोई)\S*|बात नहीं मानी|यह सुन\S*|(जवाब|उत्तर) (दिया|में)|(लोग|सब|पड़ोसी|बच्चे|दोस्त|गाँव वाले) (\S+ )?(हँसने|हँस|हँसे)\S*) "
)
ANSWERING = rx(r"^ (नहीं|हाँ|ठीक|ज़रूर|बिल्कुल|अच्छा|इस|इतनी|तुमसे|तुम (अकेले|अकेली|कैसे)|यह कैसे) |^ .*(ओगे|ोगे|ओगी|ोगी|सकते|सकती) $")


def thought(story: Story, names: dict[str, str]) -> Found:
    """Find answers to what was only thought."""
    for before, s in itertools.pairwise(story):
        if not (before.speech and THOUGHT.search(before.narration) and not (SAID.search(before.narration) and not SILENT.search(before.narration))):
            continue
        counted["thought"] += 1
        if ANSWERS.search(s.narration):
            yield s
        elif s.speech and SAID.search(s.narration) and not THOUGHT.search(s.narration):
            thinker = next((w for w in before.words if w in names or w in PERSON or w in ANIMAL), "")
            if thinker not in s.words and not rx(r" (उसने|वह|उन्होंने|वे) ").search(s.narration) and ANSWERING.search(s.speech[0]):
                yield s


HURT = rx(
    r" (घायल|चोट\S*|ख़ून|लहू|लहूलुहान|ज़ख़्म\S*|ज़ख्म\S*|कट|कटा|कटी|काँट\S*|काट|जल गया|जल गई|छिल\S*|मोच|कराह\S*|दर्द|टूट\S*|तीर|गिर\S*|चुभ\S*|डंक|घाव|लंगड़ा\S*|खरोंच) "
)
TREATED = rx(r" (पट्टी बाँध\S*|पट्टियाँ बाँध\S*|पट्टी की|मरहम (लगा|पट्टी)\S*|हल्दी लगा\S*|घाव (पर|को|धो\S*|साफ़|भर\S*)) ")
ILL = rx(
    r" (बीमार\S*|बुख़ार|तबीयत|खाँसी|ज़ुकाम|दर्द|कमज़ोर|रोग\S*|पीड़ा|घायल|चोट\S*|ज़ख़्म\S*|ज़ख्म\S*|ख़ून|महामारी|हैज़ा|मलेरिया|बेहोश|प्रसव|साँस|ठंड लग\S*|सर्दी लग\S*|डंक|डस\S*|काट|कराह\S*|फँस\S*|तड़प\S*|दवा आ|इलाज|माथा तप\S*|छींक\S*) "
)
FEVER = rx(r" (बुख़ार|माथा तप\S*|तपने|काँप\S*) ")
FEVER_GONE = rx(r" बुख़ार (उतर|कम|चला)")
CURED = rx(
    r" ((बुख़ार|दर्द|खाँसी) (उतर|ठीक|कम|चला)\S*|तबीयत (सुधर|ठीक|सँभल)\S*|(दवा|काढ़ा|औषधि|दवाई) (पिला\S*|खिला\S*|दी|पी|खाई|बना\S*)|इलाज (किया|से|हुआ)|चंगा|चंगी|स्वस्थ (हो|हुआ|हुई)\S*|बीमारी (दूर|ठीक)\S*) "
)


def wound(story: Story, names: dict[str, str]) -> Found:
    """Find a bandage without a wound, and medicine or recovery without an illness."""
    hurt = ill = fever = False
    for s in story:
        treated, cured = TREATED.search(s.narration), CURED.search(s.narration)
        if treated:
            counted["wound"] += 1
            before = s.narration[: treated.start() + 1]
            if not hurt and not HURT.search(before):
                yield s
        if cured and happens(s):
            counted["illness"] += 1
            if not (ill or ILL.search(s.narration[: cured.start() + 1])) or (FEVER_GONE.search(s.narration) and not fever):
                yield s
        hurt |= bool(HURT.search(s.flat)) or any(rx(" पट्टी ").search(speech) for speech in s.speech)
        ill |= bool(ILL.search(s.flat))
        fever |= bool(FEVER.search(s.flat))


SMALL = rx(r" (छोट[ाेी]|नन्ह[ाेी]|तुच्छ|ज़रा स[ाेी]) (सा |से |सी )?(जीव|प्राणी|जानवर) ")
LOADS = (
    lexicon("लड्डू सीटी लट्टू कंचा अँगूठी चाबी सिक्का पत्ता फूल दाना बीज रोटी चिट्ठी मोती बटन धागा कंगन पंख तिनका टुकड़ा"),
    lexicon("आम अमरूद नारंगी संतरा सेब अनार नाशपाती गेंद पतंग थैली मछली गुड़िया केला रुमाल चश्मा घड़ी मिठाई जलेबी नींबू कलम हार"),
    lexicon(
        "पपीता तरबूज़ खरबूज़ा कटहल नारियल अनानास कद्दू घड़ा मटका सुराही ढोलक ढोल संदूक बोरी बोरा बाल्टी कुल्हाड़ी हथौड़ा कुदाल फावड़ा कंबल रजाई टोकरा मूर्ति करछी जाल"
    ),
)
LOAD = {form: weight for weight, words in enumerate(LOADS) for form in words}
LIFTS = rx(r" (उठा\S*|दबा\S*|झपट\S*|छीन\S*|लेकर|ले) (\S+ )?(गया|गई|ले|भाग\S*|उड़\S*|चला|चली|आया|आई|जा|लौट\S*) ")
STRENGTH = dict.fromkeys(plain("कौआ कौवा चील बाज गिद्ध मोर सारस हंस बगुला उल्लू बत्तख").split(), 1)
ENTERS = rx(r" (के घर (में|के भीतर|के अंदर)|के बिल में|के घोंसले में|के छत्ते में|को (घर के )?(भीतर|अंदर) (बुलाया|ले|आने|बिठाया)|को अपने (घर|बिल|घोंसले|छत्ते) में) ")


def size(story: Story, names: dict[str, str]) -> Found:
    """Find a creature called small by a smaller one, a guest too large for the house, and a load
    too heavy for its carrier."""
    recent: list[str] = []
    before = ""
    for s in story:
        present = [w for w in s.words if w in ANIMAL]
        if SMALL.search(s.flat):
            called = rx(r" (\S+) (को देखकर|से कहा|से बोल\S*|की ओर देखकर) ").search(s.narration)
            met = rx(r" (\S+) को (रास्ते में )?एक (\S+ )?(\S+) (मिला|मिली|दिखा|दिखी|दिखाई) ").search(before + s.narration)
            others = [w for w in dict.fromkeys([*recent[-4:], *present])]
            target = called[1] if called and called[1] in SIZE else met[4] if met and met[4] in SIZE else None
            same = [w for w in others if target and ANIMAL[w] != ANIMAL[target]]
            if target and same:
                counted["size"] += 1
                if SIZE[target] >= SIZE[same[-1]]:
                    yield s
            elif not target and present and SIZE[present[-1]] >= 6 and not s.speech:
                counted["size"] += 1
                yield s
        if ENTERS.search(s.narration) and len({ANIMAL[w] for w in present}) > 1:
            counted["size"] += 1
            if max(SIZE[w] for w in present) - min(SIZE[w] for w in present) > 2:
                yield s
        if LIFTS.search(s.narration):
            clause = re.split(plain(" (?:जहाँ|जिस|तक ले) "), s.narration)[0].split()
            carrier = next((w for w in clause if w in ANIMAL and w not in LOAD), None)
            load = max((LOAD[w] for w in clause if w in LOAD), default=None)
            if carrier and load is not None:
                counted["size"] += 1
                lemma = ANIMAL[carrier]
                strength = STRENGTH.get(lemma, 0 if SIZE[carrier] <= 2 else 1 if SIZE[carrier] == 3 else 2)
                if load > strength or (SIZE[carrier] == 0 and lemma != plain("चींटी")):
                    yield s
        recent += present
        before = s.narration


TAME = lexicon("कुत्ता कुतिया पिल्ला बिल्ली गाय बैल बछड़ा भैंस बकरी भेड़ मेमना घोड़ा गधा मुर्गी मुर्गा")
OUT_OF_WATER = rx(r" पानी से (\S+ )?मछली बाहर ")
HOME_TO_FOREST = rx(r" (जंगल|वन) (में लौट|की ओर (चल|दौड़|लौट)|में (चला|चली) )")


def ability(story: Story, names: dict[str, str]) -> Found:
    """Find animals without wings that fly, birds that carry in a mouth, fish out of the water, and
    tame animals that go home to the forest."""
    for s in story:
        if HOME_TO_FOREST.search(s.narration):
            counted["ability"] += 1
            if not TAME.keys().isdisjoint(s.words) and plain("जंगली") not in s.words:
                yield s
        words = s.words
        if OUT_OF_WATER.search(s.narration):
            yield s
        for i, word in enumerate(words[:-1]):
            if word in ANIMAL and words[i + 1] not in CASES:
                rest = itertools.takewhile(lambda w: w not in ANIMAL and w not in (plain("और"), plain("पर")), words[i + 1 :])
                clause = " ".join(rest)
                if rx(r"(^| )(उड़ (गया|गई|गए|चला|चली|रहा|रही)|उड़ने लग\S+|उड़कर)").search(clause):
                    counted["ability"] += 1
                    if word not in FLYERS:
                        yield s
                elif word in BIRDS and (held := rx(r"(मुँह|चोंच) में दबा").search(clause)):
                    counted["ability"] += 1
                    if held[1] == plain("मुँह"):
                        yield s
                elif ANIMAL[word] == plain("मछली"):
                    counted["ability"] += 1
                    if rx(r"(पानी से (बाहर )?(आई|निकली|निकल)|दौड़ी|चलती हुई|जंगल की ओर)").search(clause):
                        yield s


NUMERALS = dict(zip(plain("दोनों तीनों चारों पाँचों छहों सातों आठों दसों").split(), plain("दो तीन चार पाँच छह सात आठ दस").split(), strict=True))
COUNT = {plain("दोनों"): 2, plain("तीनों"): 3, plain("चारों"): 4, plain("पाँचों"): 5}


TWO, FOUR = plain("दोनों चारों").split()
SIDES = {*plain("ओर तरफ़ दिशाओं धाम").split()}
PAIRS = {*plain("हाथ हाथों आँखें आँखों पैर पैरों पाँव कान कानों तरफ़ ओर किनारे किनारों बाँहें बाँहों पंख पंखों").split()}
ALL = {*plain("सब सबने सबको सभी").split()}
NOT_ALL = {*plain("कुछ से ठीक").split()}  # "everything", a superlative
SEVEN = {*plain("सुर सुरों रंग रंगों समुद्र दिन").split()}  # everybody knows these seven


def numbers(story: Story, names: dict[str, str]) -> Found:
    """Find "all seven" without seven, "both" without two, and "all" without many."""
    seen: set[str] = set()
    beings: set[str] = set()
    pairs = False
    for s in story:
        words = s.all
        wrong = False
        for i, word in enumerate(words):
            after = words[i + 1] if i + 1 < len(words) else ""
            if after in SEVEN:
                pass
            elif word in NUMERALS and not (word == FOUR and after in SIDES):
                if after in PAIRS:
                    continue
                counted["numbers"] += 1
                wrong |= not (NUMERALS[word] in seen or (word in COUNT and len(beings) >= COUNT[word]) or (word == TWO and pairs))
            elif word in ALL and after not in GROUPS and after not in NOT_ALL:
                counted["numbers"] += 1
                wrong |= not (len(beings) >= 2 or seen & GROUPS.keys())
            elif word == "और" and i and after:
                pairs = True
            seen.add(word)
            if word in names or word in PERSON or word in ANIMAL or (after == "ने" and word not in NOT_NAMES):
                beings.add(PERSON.get(word) or ANIMAL.get(word) or word)
        if wrong:
            yield s


TOWN, CITY, VILLAGE = (rx(f" ({words})( |$)") for words in ("नगर|क़स्बा|कस्बा|कस्बे|क़स्बे", "शहर|महानगर", "गाँव"))
ELSEWHERE = rx(
    r" (दूसरे|दूर|पास के|किसी|अपने|उसके|एक|पड़ोसी|हर|छोटे|नाना के|दादी के|उस|कोई|नए|पुराने) (\S+ )?(गाँव|गाँवों|नगर|शहर) | (गाँव|शहर|नगर) (गए|गया|गई|जा|चल|पहुँच|से) "
)


def settlement(story: Story, names: dict[str, str]) -> Found:
    """Find a town or city that becomes a village, and a village that becomes a town."""
    home = None
    for s in story:
        flat = s.narration
        if rx(r" भारत एक बड़ा देश| उसके हर गाँव").search(s.flat):
            continue
        here = {kind for kind, pattern in (("town", TOWN), ("city", CITY), ("village", VILLAGE)) if pattern.search(flat)}
        if home is None:
            if here and not rx(" (ने|पूछा|कहा) ").search(flat):
                home = here
            continue
        if ELSEWHERE.search(flat):
            home |= here
            continue
        for kind, word in (("village", "गाँव"), ("town", "नगर"), ("city", "शहर")):
            whole = rx(rf" ((सारा|सारे|पूरा|पूरे) {word}|{word} (के|का|की|में|वाले|वालों|भर|को|से)|मैं \S+ {word}|नाम और {word}) ").search(s.flat)
            if whole:
                counted["settlement"] += 1
                town = not home & {"town", "city"} and (whole[2] or rx(f" {word} की बिजली").search(s.flat))  # नगर and शहर may be one
                if kind not in home and (kind == "village" or town):
                    yield s
                home = home | {kind}


def one_name(story: Story, names: dict[str, str]) -> Found:
    """Find one name for two persons, or for a boy and a girl."""
    introduced: set[str] = set()
    for s in story:
        for match in rx(r" (\S+) नाम (?:का|की|के) (?:एक )?(?!गाँव|जंगल|नगर|शहर)| नाम (\S+) (?:था|थी) ").finditer(s.narration):
            name = match[1] or match[2]
            counted["one_name"] += 1
            if name in introduced:
                yield s
            introduced.add(name)
        for match in rx(r" (\S+) (?:और|को|से) (\S+) ").finditer(s.narration):
            if match[1] == match[2] and match[1] in names:
                yield s
        for name, kid in rx(r" (\S+) नाम (?:का|की) (?:एक )?(?:\S+ ){0,3}(लड़का|लड़की|बच्चा|बच्ची) ").findall(s.narration):
            if names.get(name, "") not in ("", "f" if kid in plain("लड़की बच्ची").split() else "m"):
                yield s


FIRST_PERSON = re.compile(plain(r" (\S*[ूऊ]ँग[ाी]|(?:\S*[तय][ाी]|\S*[तय]े|रहा|रही|गया|गई|आया|आई|\S+ई|चुका|चुकी|सकता|सकती|पाया|पाई|बड़ा|बड़ी) हूँ) "))
I_WAS = re.compile(plain(r" मैं (?:(?!ने |तुम|आप|वह|यह|हम|कि |और |तो |जो |मैं )\S+ ){0,5}?(\S*(?:ता|ती) (?:था|थी)|गया|गई|आया|आई|डर गया|डर गई) "))


def speaker(story: Story, names: dict[str, str]) -> Found:
    """Find a verb with I in the wrong gender of its speaker."""
    genders = {**dict.fromkeys(MEN, "m"), **dict.fromkeys(WOMEN, "f"), **names, **ANIMAL_GENDER}
    for s in story:
        if not s.speech:
            continue
        told = rx(r" (\S+?) (?:जी )?(?:ने|बोला|बोली|बोलीं|बोले|हँसकर|मुस्कुराकर|चिल्लाया|चिल्लाई|कहता|कहती) ").search(s.narration)
        gender = genders.get(told[1], "") if told else ""
        verb = rx(r" (बोला|बोली|बोलीं|चिल्लाया|चिल्लाई|पुकारी) ").search(s.narration)
        if not gender and verb:
            gender = "m" if verb[1].endswith(("ा", "या")) else "f"
        if not gender or len(rx(" (?:ने|बोला|बोली|बोले|बोलीं) ").findall(s.narration)) > 1:
            continue
        for speech in s.speech:
            for match in [*FIRST_PERSON.finditer(speech), *I_WAS.finditer(speech)]:
                form = match[1].split()
                word = form[0] if form[-1] in plain("हूँ था थी").split() else form[-1]
                said = "f" if word.endswith(("ी", "ई")) else "m"
                if word.endswith(("े", "ए")):
                    continue
                counted["speaker"] += 1
                if said != gender:
                    yield s
                    break


ANIMAL_GENDER = {
    form: gender
    for gender, words in (
        (
            "f",
            "कुतिया चींटी मक्खी मधुमक्खी तितली मकड़ी चुहिया गौरैया बुलबुल गिलहरी मछली चिड़िया मैना कोयल मुर्गी बिल्ली बत्तख चील मोरनी बंदरिया लोमड़ी बकरी भेड़ शेरनी बाघिन गाय घोड़ी भैंस हथिनी",
        ),
        (
            "m",
            "चूहा मेंढक गिरगिट तोता कबूतर कौआ कौवा उल्लू मुर्गा कछुआ खरगोश नेवला बाज बगुला साँप हंस मोर बंदर लंगूर सियार कुत्ता हिरन हिरण भेड़िया तेंदुआ बकरा सूअर शेर बाघ भालू बैल घोड़ा गधा ऊँट हाथी टिड्डा भौंरा चींटा",
        ),
    )
    for form in lexicon(words)
}


def twice_he(story: Story, names: dict[str, str]) -> Found:
    """Find उसने twice in a sentence, and in two sentences for two persons: the second of them names
    the first person."""
    before, subject = False, ""
    for s in story:
        he = s.words.count(plain("उसने"))
        counted["twice_he"] += bool(he)
        named = any(w in names for w in s.words[: s.words.index(plain("उसने"))]) if he else False
        if he > 1 or (he and before and not named and subject in s.words):
            yield s
        before, subject = he > 0, next((w for w in s.words if w in names), subject)


OWNED = {*plain("का की के").split()}


def twice_named(story: Story, names: dict[str, str]) -> Found:
    """Find a name or a title of a relative twice in a sentence."""
    titles = {*plain("दादी नानी माँ अम्मा बुआ मौसी चाची मामी दादा नाना पिता चाचा मामा बाबा मास्टर गुरु मुखिया अध्यापिका वैद्य राजा रानी").split()}
    for s in story:
        spoken = re.split("[।?!]", " । ".join(re.findall("“([^”]*)", s.text))) if s.speech else []
        for part in (s.narration, *map(flatten, spoken)):
            words = part.split()  # the grandmothers of two people are two
            often = Counter(
                (owner if post in OWNED else "", w)
                for owner, post, w in zip(["", "", *words], ["", *words], words, strict=False)
                if w in names or w in titles
            )
            counted["twice_named"] += bool(often)
            if any(n > 1 for n in often.values()) and not rx(r" माँ बाप | दादा दादी ").search(part):
                yield s
                break


WHOLE_GIFT = rx(r" (हार|अँगूठी|मुकुट|घोड़ा|हाथी|गाय|कंगन|तलवार|मूर्ति|पगड़ी|शॉल|साइकिल|घड़ी|नाव) ")
SHARES = rx(r" (आधा|आधी|आधे) (\S+ )?(भाग|हिस्सा|इनाम|पुरस्कार|हार|उपहार)? ?(\S+ ){0,3}बाँट")
MANY_GIFT = rx(r" (सिक्क\S+|पैस\S+|रुपय\S+|धन|अनाज|किताबें|मिठाई\S*|मोहर\S*|अशर्फ़ि\S+|ज़मीन|फल|रोटी|रोटियाँ|गेहूँ) ")


def sharing(story: Story, names: dict[str, str]) -> Found:
    """Find half of a necklace or a horse given away."""
    gift = False
    for s in story:
        if WHOLE_GIFT.search(s.narration) and rx(r" (दिया|दी|पहना|पहनाया|भेंट|मिला|मिली|पाया) ").search(s.narration):
            gift = True
        if MANY_GIFT.search(s.narration):
            gift = False
        if SHARES.search(s.narration):
            counted["sharing"] += 1
            if gift:
                yield s


REMEDIES = (
    (rx(r" (सूखने लग\S+|मुरझा\S*|पत्ते पीले) "), rx(r" (पानी|सींच\S*|छाया|छाँव|नमी|बूँद\S*|खाद) ")),
    (rx(r" (पौधा|पेड़|बेल|तना|डाली) (\S+ )?झुक "), rx(r" (सहारा|सहारे|बाँध\S*|लकड़ी|डंडी|बाँस|खूँटा) ")),
    (rx(r" (पत्ते|पौधा|पौधे) .*(खा लि\S+|चर लि\S+|चबा) "), rx(r" (बाड़|घेरा|घेर\S*|सहारा|खाद|पानी|भगा\S*) ")),
    (rx(r" (आग लग गई|आग फैल) "), rx(r" (पानी|रेत|मिट्टी|बुझा\S*|भाग\S*|बचा\S*|जगा\S*|पुकारा|निकल\S*) ")),
)
REMEDY = rx(r" (बाड़|सहारा दिया|खाद डाली|पट्टी|बुझाई) ")


def remedy(story: Story, names: dict[str, str]) -> Found:
    """Find a remedy that does not fit the trouble: a fence does not cure drought."""
    for i, s in enumerate(story):
        for trouble, cure in REMEDIES:
            if trouble.search(s.narration):
                after = story[i + 1 : i + 5]
                tried = next((t for t in after if REMEDY.search(t.narration)), None)
                if tried:
                    counted["remedy"] += 1
                    if not any(cure.search(t.narration) for t in after[: after.index(tried) + 1]):
                        yield tried


SOWN = rx(r" (बीज|गुठली|पौधा|पौधे|कलम|बो (दि\S+|देना)|रोप\S*) ")
IN_DAYS = rx(r" (कुछ ही|थोड़े ही|कुछ|दो|तीन|चार|पाँच|सात|दस|एक) (दिन|दिनों|हफ़्ते) (में|बाद) ")
RIPE = rx(r" (फूलों से भर|फलों से लद|फूल खिल|पेड़ बन|बड़ा पेड़|फल (लगे|लग|पक)|फ़सल|फसल)")


def growth(story: Story, names: dict[str, str]) -> Found:
    """Find plants that bloom or bear some days after they were sown."""
    for i, s in enumerate(story):
        if RIPE.search(s.narration) and any(SOWN.search(t.flat) for t in story[max(0, i - 5) : i]):
            counted["growth"] += 1
            if IN_DAYS.search(s.narration):
                yield s


SILENT_TO_EACH_OTHER = rx(r" बोलना (ही )?छोड़ (दिया|दी) ")
AS_IF = rx(r" (जैसे|मानो) कह ")
TO_YOU = rx(r" (तुम|तुमने|तुम्हें|तुमसे|तुम्हार\S) ")


def silence(story: Story, names: dict[str, str]) -> Found:
    """Find two who speak to each other right after they stopped speaking."""
    for before, s in itertools.pairwise(story):
        if SILENT_TO_EACH_OTHER.search(before.narration):
            counted["silence"] += 1
            if any(TO_YOU.search(speech) for speech in s.speech) and not AS_IF.search(s.narration):
                yield s


SATURDAY = rx(r" शनिवार को ")
NEXT_DAY = rx(r" (अगले|दूसरे) दिन ")
AT_SCHOOL = rx(r" (स्कूल|कक्षा|पुस्तकालय|लाइब्रेरियन|रजिस्टर) ")


def sunday(story: Story, names: dict[str, str]) -> Found:
    """Find school on the day after a Saturday."""
    saturday = False
    for s in story:
        if saturday and NEXT_DAY.search(s.narration):
            if AT_SCHOOL.search(s.narration):
                yield s
            saturday = False
        if SATURDAY.search(s.narration):
            counted["sunday"] += 1
            saturday = True


SHOES = rx(r" (जूत|चप्पल)\S* पहन")
SHOE_LOST = rx(r" (जूत|चप्पल)\S* (धँस|टूट|छूट|खो|गिर|बह)")


def shoes(story: Story, names: dict[str, str]) -> Found:
    """Find slippers lost by one who put on shoes."""
    worn = None
    for s in story:
        lost = SHOE_LOST.search(s.narration)
        if worn and lost and lost[1] != worn:
            yield s
        if put_on := SHOES.search(s.narration):
            counted["shoes"] += 1
            worn = put_on[1]


RECENT = rx(r" ((पिछले (साल|महीने|हफ़्ते|इतवार)|कुछ ही (दिन|महीने|साल) पहले|कल) की बात|(बात|कहानी) (बहुत|ज़्यादा) पुरानी नहीं) ")
YEARS_PASS = rx(r" ((साल|बरस) (बीतते|बीत गए|गुज़रते|गुज़र गए)|बरसों बाद|(कई|दस|पंद्रह|बीस) (साल|बरस) बाद|जब \S+ (बड़ा हुआ|बड़ी हुई|बूढ़ा हुआ|बूढ़ी हुई)) ")


def recent(story: Story, names: dict[str, str]) -> Found:
    """Find years that pass in a story of last year."""
    if any(RECENT.search(s.narration) for s in story[:2]):
        counted["recent"] += 1
        for s in story:
            if YEARS_PASS.search(s.narration):
                yield s


RULES = (
    era, time_of_day, season, drought, place, weather, definite, letter, thought, wound, size, ability, numbers, settlement, one_name, speaker, twice_he,
    twice_named, sharing, remedy, growth, silence, sunday, shoes, recent,
)  # fmt: skip
KIN_M = r"(पिता|दादा|नाना|चाचा|मामा|ताऊ|भाई|बेटा|बेटे|पोता|पोते)"
KIN_F = r"(माँ|दादी|नानी|बुआ|चाची|मामी|ताई|मौसी|बहन|बेटी|पोती|पत्नी|सहेली)"
HARD = rx(
    r" (ली (आया|आई|आईं)|लिई|(खोया|बूरा|मावा|मैदा|पैसा|कुत्ता|घोड़ा|लड़का|रास्ता|दरवाज़ा|मेला) (के|को|में|से|पर)|(देखते|सुनते|सोचते|ताकते) रह (गई|गईं)|"
    rf"पहेल(ी|ियाँ) बुझा\S*|(उसकी|उनकी|अपनी|मेरी|तुम्हारी|हमारी) {KIN_M}|(उसका|उनका|अपना|मेरा|तुम्हारा|हमारा) {KIN_F}|"
    r"तुम (\S+ ){0,3}?(रुकी|भूली|आई|पहुँची|मिल गई|भूल गई|आ गई|चली गई)(?! (हो|थी|है|तो हो))) "
)
WHOLE_F = rx(
    r" (सारा|सारा का सारा|पूरा|थोड़ा|इतना|कितना|ऐसा) (सौंफ|चीनी|हल्दी|दाल|खीर|मिर्च|इलायची|चाशनी|चाय|खिचड़ी|रोटी|मिठाई|रात|शाम|सुबह|दोपहर|गली|भीड़|बात|मेहनत|मिट्टी|रेत|घास|लकड़ी|फ़सल|बस्ती|कक्षा|दुनिया|किताब|चिट्ठी|कहानी|नींद|मदद) "
)
BOTH = rx(r"^(?!.* ने ).* दोनों (?!(ने|को|से|का|की|के|में|पर) |\S+(ओं|ों|ियाँ|ें) )(\S+ )+?(?=(और|पर|लेकिन|तो) |$)")


def hard_errors(text: str) -> list[str]:
    """Return the sentences with a mistake of grammar that the endings of single words do not show:
    listed ones, and a verb of "both" in the wrong gender."""
    story, names = parse(text)
    return [
        f"hard: {s.text}"
        for i, s in enumerate(story)
        if HARD.search(s.flat) or WHOLE_F.search(s.flat) or wrong_both(story[max(0, i - 2) : i + 1], names)
    ]


def wrong_both(near: Story, names: dict[str, str]) -> bool:
    """Return whether the last of some sentences has a verb of "both" in the wrong gender, where
    they tell of two women or two men and nobody else."""
    both = BOTH.search(near[-1].narration)
    if not both or any(plain("दोनों") in s.words or rx(" कहानी ").search(s.narration) for s in near[:-1]):
        return False
    genders = {**dict.fromkeys(MEN, "m"), **dict.fromkeys(WOMEN, "f"), **ANIMAL_GENDER, **names}
    for one, other in (pair for s in near for pair in rx(r" (\S+) और (\S+) ").findall(s.narration)):
        if (one in genders) != (other in genders):
            return False  # an unknown name
    beings = {w for s in near for w in s.words if w in genders or w in PERSON or w in ANIMAL}
    kinds = {genders.get(w, "") for w in beings}
    if len(beings) != 2 or not (beings & {*near[-1].words} or any(beings <= {*s.words} for s in near)):
        return False
    verb = both[0].split()[-1]
    said = "f" if verb.endswith(("ीं", "ईं")) else "m" if verb.endswith(("थे", "गए", "रहे", "पड़े", "लगे", "चे", "टे", "ले")) else ""
    return bool(said) and kinds in ({"f"}, {"m"}) and kinds != {said}


def contradictions(text: str) -> list[str]:
    """Return what contradicts itself in a story, as `rule: sentence`."""
    story, names = parse(text)
    return [f"{rule.__name__}: {s.text}" for rule in RULES for s in dict.fromkeys(rule(story, names))]
