"""Beginnings and ends that many stories share, and the places where they happen. plots.py explains
the format."""

from nano_hindi.sample.world import say

LATER = "newday -winter -spring -summer -rains"  # the facts that "some months later" sets: it is some other season

OPENING = [
    "",
    "",
    "",
    "",
    say("एक समय की बात है।", needs="old"),
    say("एक समय की बात है।", needs="old"),
    say("बहुत पुरानी बात है।", needs="old"),
    say("बहुत समय पहले की बात है।", needs="old"),
    say("यह उन दिनों की बात है जब गाड़ियाँ नहीं, बैलगाड़ियाँ चलती थीं।", needs="old"),
    say("यह आज के ज़माने की कहानी है।", needs="today", sets="recent"),
    say("यह कहानी ज़्यादा पुरानी नहीं है।", needs="today", sets="recent"),
    say("यह हमारे ही समय की बात है।", needs="today", sets="recent"),
    say("भारत एक बड़ा देश है। उसके हर गाँव की अपनी एक कहानी है।", needs="village"),
    say("भारत एक विशाल देश है, और यहाँ का हर शहर कोई न कोई कहानी सुनाता है।", needs="city today"),
    say("भारत एक ऐसा देश है, जहाँ हर कुछ कोस पर बोली बदल जाती है। यह कहानी भी वहीं की है।", needs="-city"),
    "आज सुबह मेरी दीदी ने मुझे एक कहानी सुनाई।",
    "आज सुबह नाश्ते के समय बड़े भैया ने हमें यह कहानी सुनाई।",
    say("आज सुबह स्कूल में सुधीर सर ने हमें यह कहानी सुनाई।", needs="today"),
]

CHILD = (
    OPENING,
    [
        "{p} {h} नाम {h:+का} एक {h:+छोटा सा} {h.kid} {h:रहता था}।",
        "{p} {h} नाम {h:+का} एक {h.kid} {h:रहता था}।",
        say("{h} {v} गाँव {h:+का} एक {virtue} {h.kid} {h:था}।", needs="village"),
        say("{h} {v} गाँव {h:+का} एक होनहार {h.kid} {h:था}।", needs="village"),
        "{h} अपने माता-पिता के साथ {p} {h:रहता था}।",
        "{p} एक {virtue} {h.kid} {h:रहता था}। {h:उसका} नाम {h} था।",
        "{p} एक होनहार {h.kid} {h:रहता था}। {h:उसका} नाम {h} था।",
        "{p} एक {h.kid} {h:रहता था}, जिसका नाम {h} था।",
    ],
    [
        "",
        "",
        "",
        "{h:वह} सबकी मदद {h:करता था}।",
        "{h:वह} हर सुबह जल्दी {h:उठता था} और घर के काम में हाथ {h:बँटाता था}।",
        "{h:उसे} पेड़-पौधों और चिड़ियों से बहुत प्यार था।",
        "{h:उसकी} उम्र {age} साल थी।",
        "{h:वह} अभी {age} साल {h:+का} {h:था}।",
        "सब लोग {h:उसे} बहुत चाहते थे।",
        "{h:उसे} कहानियाँ सुनना बहुत अच्छा लगता था।",
        "{h:वह} खूब {h:खेलता था} और मन लगाकर {h:पढ़ता था}।",
        "{h:वह} बातूनी {h:था} और सबसे सवाल {h:पूछता रहता था}।",
        "{h:वह} {h:+बोलता} कम और {h:+सोचता} ज़्यादा {h:था}।",
    ],
)

CRAFT = (
    OPENING,
    [
        "{p} {h} नाम {h:+का} एक {virtue} {k} {h:रहता था}। {h:वह} {k.work} {h:{k.verb} था}।",
        say("{h} {v} गाँव {h:+का} एक {virtue} {k} {h:था}। {h:वह} {k.work} {h:{k.verb} था}।", needs="village"),
        "{p} गरीब {k} {h} अपने परिवार के साथ {h:रहता था}। {h:वह} दिन भर {k.work} {h:{k.verb} था}।",
        "{p} एक {k} {h:रहता था}। {h:उसका} नाम {h} था। {h:वह} {k.work} {h:{k.verb} था}।",
    ],
    [
        "",
        "",
        "",
        "{h:वह} अपनी बेटी को खूब पढ़ाना {h:चाहता था}।",
        "{h:वह} एक पक्का घर बनवाना {h:चाहता था}।",
        "{h:उसके} पास धन कम था, पर मन में संतोष बहुत था।",
        "{h:वह} थोड़ा {h:कमाता था}, पर किसी भूखे को खाली हाथ नहीं {h:लौटाता था}।",
        "सब लोग {h:उसके} काम की तारीफ़ करते थे।",
        "काम करते-करते {h:वह} धीरे-धीरे कोई गीत {h:गुनगुनाता रहता था}।",
        "{h:वह} जो भी काम हाथ में {h:+लेता}, उसे पूरा करके ही {h:छोड़ता था}।",
    ],
)

SKY = [
    "",
    say("धूप खिली हुई थी।", needs="-evening -night -rains"),
    say("ठंडी हवा चल रही थी।", needs="-summer"),
    say("आकाश साफ़ था।", needs="-rains"),
    say("आकाश में हल्के बादल छाए थे।", needs="-night"),
    say("चारों ओर हरियाली थी।", needs="-summer -night -city"),
    say("लू चल रही थी।", needs="summer -night -evening -morning"),
    say("हल्का कोहरा छाया हुआ था।", needs="winter -noon"),
    say("सरसों के पीले फूल हवा में झूम रहे थे।", needs="spring village -night"),
]

PLACES = [
    say("एक छोटे से गाँव में", needs="village"),
    say("{v} गाँव में", needs="village"),
    say("{v} नाम के एक गाँव में", needs="village"),
    say("एक हरे-भरे गाँव में", needs="village"),
    say("एक शांत गाँव में", needs="village"),
    say("भारत के एक छोटे से गाँव में", needs="village"),
    say("नदी के किनारे बसे एक गाँव में", needs="village"),
    say("पहाड़ों के बीच बसे एक गाँव में", needs="village", sets="hills"),
    say("घने जंगल के पास एक गाँव में", needs="village"),
    say("झील के किनारे बसे एक गाँव में", needs="village"),
    say("आम के बागों से घिरे एक गाँव में", needs="village"),
    say("एक छोटे से कस्बे में", needs="town"),
    say("नदी के पुल के पास बसे एक कस्बे में", needs="town"),
    say("पहाड़ी पर बसे एक कस्बे में", needs="town", sets="hills"),
    say("रेलवे स्टेशन के पास बसे एक कस्बे में", needs="town today"),
    say("पुराने किले के नीचे बसे एक कस्बे में", needs="town"),
    say("एक पुराने नगर में", needs="city old"),
    say("ऊँची दीवारों से घिरे एक नगर में", needs="city old"),
    say("राजधानी की एक तंग गली में", needs="city old"),
    say("एक बड़े शहर में", needs="city today"),
    say("शहर की एक तंग गली में", needs="city today"),
    say("शहर के एक पुराने मोहल्ले में", needs="city today"),
    say("एक भीड़ भरे शहर में", needs="city today"),
]
FORESTS = [
    "एक घने जंगल में",
    "एक हरे-भरे वन में",
    "नदी के पास एक जंगल में",
    say("पहाड़ की तलहटी के एक जंगल में", sets="hills"),
    say("{v} के पास एक जंगल में", needs="village"),
    "बाँस के एक घने वन में",
    "साल के ऊँचे पेड़ों वाले एक जंगल में",
    "दूर पूरब के एक जंगल में",
]


def moral(*sentences: str) -> tuple:
    """Return the end of a story as a plot: one of `sentences`, on a separate line."""
    return (
        "\n",
        [
            "",
            "",
            "सच है,",
            "सच ही कहा गया है,",
            "इस कहानी से हमें सीख मिलती है कि",
            "यह कहानी हमें सिखाती है कि",
            "तभी तो बड़े-बुज़ुर्ग कहते हैं कि",
            "सीख:",
        ],
        list(sentences),
    )
