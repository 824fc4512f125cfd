"""Questions about the stories of school.py and town.py; plots.py explains their templates."""

from __future__ import annotations

from nano_hindi.sample.question import Question

TOWN_QUESTIONS = (
    # school.py
    Question("what", "new word", "", ("{f:की} मातृभाषा क्या थी?", "{f} कौन सी भाषा {f:बोलता था}?"), ("{f} {f.tongue} {f:बोलता था}।", "{f.tongue}।")),
    Question("what", "new word", "", ("“{f.spoken}” का मतलब क्या था?",), ("“{f.spoken}” का मतलब {f.meaning} था।", "{f.meaning}।")),
    Question("where", "new word", "", ("{f} किस शहर से {f:आया था}?",), ("{f} {f.city} से {f:आया था}।", "{f.city} से।", "{f.city}।")),
    Question("what", "missing page", "", ("{h:ने} कौन सी किताब पढ़ी?",), ("{h:ने} “{x}” नाम की किताब पढ़ी।", "“{x}”।", "{x}।")),
    Question("lost", "missing page", "", ("किताब में से क्या गायब था?",), ("किताब का आखिरी पन्ना गायब था।", "आखिरी पन्ना।", "एक पन्ना।")),
    Question("who", "missing page", "", ("{h:ने} पहले किस पर शक किया?",), ("{h:ने} पहले {f:पर} शक किया।", "{f:पर}।")),
    Question("found", "missing page", "दादा जी", ("पन्ना कहाँ मिला?",), ("पन्ना दादा जी के चश्मे के डिब्बे में मिला।", "चश्मे के डिब्बे में।")),
    Question("found", "missing page", "काकी", ("पन्ना कहाँ मिला?",), ("पन्ना काकी के मसालों के डिब्बे में मिला।", "मसालों के डिब्बे में।")),
    Question("found", "missing page", "चौकीदार", ("पन्ना किसके पास मिला?",), ("पन्ना चौकीदार काका के पास मिला।", "चौकीदार काका के पास।")),
    Question("found", "missing page", "जिल्दसाज़", ("पन्ना कहाँ मिला?",), ("पन्ना जिल्दसाज़ की कोठरी में मिला।", "जिल्दसाज़ की कोठरी में।")),
    Question("what", "science fair", "", ("{h} और {f:ने} विज्ञान मेले के लिए क्या बनाया?",), ("{h} और {f:ने} एक {x} {x:बनाया}।", "एक {x}।", "{x}।")),
    Question("what", "science fair", "", ("{x} किस चीज़ से {x:बना}?",), ("{x} {x.parts} {x:बना}।", "{x.parts}।")),
    Question("who", "science fair", "", ("कॉपी किसने दी?",), ("कॉपी {e:ने} दी।", "{e:ने}।")),
    Question("what", "play", "", ("नाटक में {h:को} कौन सी भूमिका मिली?",), ("{h:को} {x:की} भूमिका मिली।", "{x:की}।")),
    Question("what", "play", "", ("{h:को} कौन सा वाक्य बोलना था?",), ("{h:को} बोलना था: “{x.line}”", "“{x.line}”", "{x.line}")),
    Question("who", "umpire", "", ("{x.judge} किसे बनाया गया?", "{x.judge} किसे चुना गया?"), ("{x.judge} {h:को} बनाया गया।", "{h:को}।")),
    Question("what", "umpire", "", ("किस खेल का मुकाबला था?",), ("{x:का} मुकाबला था।", "{x:का}।")),
    Question("what", "umpire", "", ("{h:ने} क्या फ़ैसला सुनाया?",), ("{h:ने} कहा, “{x.call}!”", "“{x.call}!”", "{x.call}।")),
    Question("who", "prank", "", ("शरारत किसकी थी?", "मज़ाक किसने किया था?"), ("शरारत {h:की} थी।", "{h:की}।", "{h:ने}।")),
    Question("where", "prank", "", ("{h:ने} {x:को} कहाँ छिपाया?",), ("{h:ने} {x:को} {f:के} {box} में छिपाया।", "{f:के} {box} में।")),
    Question("what", "prank", "", ("मिट्टी की कौन सी चीज़ टूट गई?",), ("मिट्टी {y:+का} {y} टूट {y:गया}।", "{y}।", "मिट्टी {y:+का} {y}।")),
    # town.py
    Question("lost", "swapped bags", "", ("बस में {h:की} कौन सी चीज़ बदल गई?",), ("{h.oblique} {b:+का} {b} बदल {b:गया}।", "{b}।")),
    Question(
        "who", "swapped bags", "", ("{b:+दूसरा} {b} {b:+किसका} {b:था}?",), ("{b:+दूसरा} {b} एक {o.oblique} {b:+का} {b:था}।", "एक {o.oblique} {b:+का}।")
    ),
    Question("found", "swapped bags", "", ("घर पर {b:में} क्या-क्या निकला?",), ("{b:में} से निकला यह सब: {o.contents}।", "{o.contents}।")),
    Question("who", "power cut", "", ("{a.dish} कौन लाया?",), ("{a.dish} {a} {a:लाया}।", "{a}।")),
    Question("where", "power cut", "", ("बिजली जाने पर सब कहाँ जमा हुए?",), ("सब छत पर जमा हुए।", "छत पर।")),
    Question("who", "power cut", "", ("अँधेरे में सबका मन किसने बहलाया?",), ("{b:ने} सबका मन बहलाया।", "{b:ने}।")),
    Question("what", "repair", "", ("{h:के} घर क्या खराब हो गया था?",), ("एक {x} खराब हो {x:गया था}।", "एक {x}।", "{x}।")),
    Question("who", "repair", "", ("{x:को} किसने ठीक किया?",), ("{x:को} {m:ने} ठीक किया।", "{m:ने}।")),
    Question("what", "repair", "", ("{x:में} क्या खराबी निकली?",), ("{x.cause}।",)),
    Question("what", "boat race", "", ("{h:की} नाव का नाम क्या था?",), ("{h:की} नाव का नाम {x} था।", "{x}।")),
    Question("what", "boat race", "", ("{h:की} नाव किस चीज़ से बनी थी?",), ("{h:की} नाव {paper} से बनी थी।", "{paper} से।")),
    Question("who", "boat race", "{bug}", ("{h:ने} किसे बचाया?",), ("{h:ने} एक {bug:को} बचाया।", "एक {bug:को}।", "{bug:को}।")),
    Question("who", "boat race", "{bug}", ("दौड़ किसकी नाव ने जीती?",), ("दौड़ {f:की} नाव ने जीती।", "{f:की} नाव ने।", "{f:की}।")),
    Question("where", "postcard", "", ("{h} {e:+का} {e} कहाँ {e:रहता था}?",), ("{h} {e:+का} {e} {x} में {e:रहता था}।", "{x} में।")),
    Question("who", "postcard", "", ("पोस्टकार्ड का जवाब किसने भेजा?",), ("पोस्टकार्ड का जवाब किसी {s:ने} भेजा।", "किसी {s:ने}।")),
    Question("what", "postcard", "", ("{h:ने} पोस्टकार्ड में क्या पूछा?",), ("{h:ने} पूछा, “{x.question}”", "“{x.question}”", "{x.question}")),
    Question("who", "bicycle", "", ("{h:को} साइकिल चलाना किसने सिखाया?",), ("{h:को} साइकिल चलाना {e:ने} सिखाया।", "{e:ने}।")),
    Question("where", "bicycle", "", ("साइकिल से {h} कहाँ {h:गिरा}?",), ("{h} {landing} {h:गिरा}।", "{landing}।")),
    Question("what", "bicycle", "", ("साइकिल का नाम क्या था?",), ("साइकिल का नाम {x} था।", "{x}।")),
)
