"""Ask questions about the stories of the sample, whose answers are known: conversations to
fine-tune on, and to measure a chat model with, offline.

The templates have the format of those of the stories, so nouns and verbs agree in questions and
answers too; plots.py explains it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from nano_hindi.sample import Story, _pick, compose
from nano_hindi.sample.feast_questions import FEAST_QUESTIONS
from nano_hindi.sample.question import Question
from nano_hindi.sample.town_questions import TOWN_QUESTIONS


@dataclass(frozen=True)
class Conversation:
    """Messages about one story. `kind` is that of the last question, and `accepted` are the right
    answers to it; the first of them is the last message."""

    kind: str
    messages: list[dict[str, str]]
    accepted: tuple[str, ...]
    story: str

    def accepts(self, answer: str) -> bool:
        """Return whether an answer is right: one of `accepted`, apart from spaces and the danda at
        its end."""
        return _bare(answer) in map(_bare, self.accepted)


def _bare(text: str) -> str:
    return " ".join(text.split()).rstrip("।. ")


HOMES = (  # the beginnings of sentences that say where somebody lives
    "{p} {h} नाम",
    "{p} {h} और {f} {d:रहता",
    "{p} {h:का} घर था",
    "{p} गरीब {k} {h}",
    "{p} एक {k} {h:रहता",
    "{p} एक {virtue} {h.kid}",
    "{p} एक होनहार {h.kid}",
    "{p} एक {h.kid} {h:रहता",
    "के साथ {p} {h:रहता",
    "{h:वह} {p} {h:रहता",
    "{h} {p} {h:रहता",
    "{forest} एक {a}",
    "{forest} एक {c}",
    "{forest} एक मेहनती {c}",
)


def _home(told: str) -> Question:
    """Return the question where the first named in `told` lives."""
    place = "{forest}" if "{forest}" in told else "{p}"
    who = next(name for name in "hac" if f"{{{name}" in told)
    return Question(
        "where",
        None,
        told,
        tuple(wording.replace("who", who) for wording in ("{who} कहाँ {who:रहता था}?", "{who:का} घर कहाँ था?")),
        (f"{{who}} {place} {{who:रहता था}}।".replace("who", who), f"{place}।"),
    )


QUESTIONS = (
    # of any story
    *map(_home, HOMES),
    Question("where", None, "{h} {v} गाँव {h:+का}", ("{h} किस गाँव {h:+का} {h:था}?",), ("{h} {v} गाँव {h:+का} {h:था}।", "{v}।", "{v} गाँव {h:+का}।")),
    Question("age", None, "{age}", ("{h:की} उम्र कितनी थी?", "{h} कितने साल {h:+का} {h:था}?"), ("{h:की} उम्र {age} साल थी।", "{age} साल।")),
    Question(
        "work",
        None,
        "{k.work}",
        ("{h} क्या काम {h:करता था}?", "{h:का} काम क्या था?"),
        ("{h} {k.work} {h:{k.verb} था}।", "{h:वह} {k.work} {h:{k.verb} था}।"),
    ),
    # what was lost, broken or found
    Question(
        "lost",
        "lost tool",
        "पानी में {t:गिर गया}",
        ("पानी में क्या गिर गया?", "{h:की} कौन सी चीज़ पानी में गिर गई?"),
        ("{h.oblique} {t:+का} {t} पानी में {t:गिर गया}।", "{t}।", "{h.oblique} {t:+का} {t}।"),
    ),
    Question(
        "lost",
        "lost tool",
        "मुखिया जी",
        ("{h:की} कौन सी चीज़ खो गई?", "{h:ने} क्या खो दिया?"),
        ("{h.oblique} {t:+का} {t} खो {t:गया}।", "{t}।", "{h.oblique} {t:+का} {t}।"),
    ),
    Question(
        "lost",
        "lost tool",
        "बंदर",
        ("बंदर क्या ले गया?", "बंदर {h:की} कौन सी चीज़ उठा ले गया?"),
        ("बंदर {h.oblique} {t:+का} {t} ले गया।", "{t}।", "{h.oblique} {t:+का} {t}।"),
    ),
    Question("lost", "rescue", "पैसों की थैली", ("{h:की} कौन सी चीज़ गिर गई?",), ("{h:की} पैसों की थैली गिर गई।", "पैसों की थैली।")),
    Question("lost", "rescue", "घर की चाबी", ("{h:की} कौन सी चीज़ खो गई?",), ("{h:के} घर की चाबी खो गई।", "घर की चाबी।", "चाबी।")),
    Question(
        "lost",
        "truth",
        "",
        ("कहानी में क्या टूट गया?", "{e:की} कौन सी चीज़ टूट गई?"),
        ("{e.oblique} {x:+का} {x} {x:टूट गया}।", "{x}।", "{e.oblique} {x:+का} {x}।"),
    ),
    Question("found", "lost tool", "चाँदी के सिक्के", ("{h:को} रास्ते में क्या मिला?",), ("{h:को} चाँदी के सिक्कों की एक थैली मिली।", "एक थैली।", "चाँदी के सिक्के।")),
    Question("found", "lost tool", "सोने की एक अँगूठी", ("{h:को} रास्ते में क्या मिला?",), ("{h:को} सोने की एक अँगूठी मिली।", "सोने की एक अँगूठी।")),
    Question(
        "found",
        "quarrel",
        "",
        ("{h} और {f} को क्या मिला?",),
        ("{h} और {f} को एक {x} {x:मिला}।", "एक {x}।", "{x}।"),
    ),
    Question(
        "what",
        "quarrel",
        "",
        ("{h} और {f} किस चीज़ के लिए लड़ने {d:लगा}?",),
        ("{h} और {f} एक {x:के} लिए लड़ने {d:लगा}।", "एक {x:के} लिए।"),
    ),
    Question("found", "greed", "", ("{a:को} खाने के लिए क्या मिला?",), ("{a:को} {x} मिले।", "{x}।", "ढेर सारे {x}।")),
    Question("found", "sapling", "", ("{h:को} किस पेड़ का पौधा मिला?",), ("{h:को} {tree} का पौधा मिला।", "{tree} का।", "{tree} का पौधा।")),
    # who did it
    Question("who", "lost tool", "{s}", ("{h:की} मदद किसने की?",), ("{s:ने} {h:की} मदद की।", "{s:ने}।")),
    Question("who", "lost tool", "{s}", ("पानी से {t} कौन लाया?",), ("{t} एक {s} {s:लाया}।", "एक {s}।", "{s}।")),
    Question(
        "who",
        "rescue",
        "",
        ("{h:ने} किसे बचाया?", "{h:ने} किसकी जान बचाई?"),
        ("{h:ने} एक {a:को} बचाया।", "एक {a:को}।", "{a:को}।", "एक {a:की}।", "{a:की}।"),
    ),
    Question("who", "rescue", "घर की चाबी", ("चाबी ढूँढने में {h:की} मदद किसने की?",), ("{a:ने} {h:की} मदद की।", "{a:ने}।", "एक {a:ने}।")),
    Question("who", "drought", "", ("सबसे पहले किसने खोदना शुरू किया?",), ("सबसे पहले {h:ने} खोदना शुरू किया।", "{h:ने}।")),
    Question("who", "guest", "", ("{h:के} घर कौन आया?",), ("{h:के} घर एक बाबा आए।", "एक बाबा।")),
    Question("who", "guest", "", ("{h:ने} किसे खाना खिलाया?",), ("{h:ने} एक बाबा को खाना खिलाया।", "एक बाबा को।")),
    Question("who", "truth", "", ("{e.oblique} {x:+का} {x} किससे {x:टूटा}?",), ("{x} {h:से} {x:टूटा}।", "{h:से}।")),
    Question(
        "who",
        "quarrel",
        "",
        ("{x} कौन ले गया?", "{h} और {f} लड़ {d:रहा था}, तब {x} लेकर कौन भाग गया?"),
        ("{x} एक {a} ले {a:गया}।", "एक {a}।", "{a}।"),
    ),
    Question("who", "lost child", "", ("{h} किसके साथ {h:था}?",), ("{h} {e:के} साथ {h:था}।", "{e:के} साथ।")),
    Question("who", "greed", "", ("{a:की} मदद किसने की?", "{a:को} किसने बचाया?"), ("{b:ने} {a:को} बचाया।", "{b:ने} {a:की} मदद की।", "{b:ने}।")),
    Question("who", "pride", "", ("{a:की} मदद किसने की?", "मुश्किल में {a:के} काम कौन आया?"), ("{c:ने} {a:की} मदद की।", "{c:ने}।", "{c}।")),
    Question("who", "winter store", "", ("{a:को} खाना किसने दिया?",), ("{c:ने} {a:को} खाना दिया।", "{c:ने}।")),
    Question("who", "winter store", "", ("पहले से खाना किसने जमा किया?",), ("{c:ने} खाना जमा किया।", "{c:ने}।")),
    Question("who", "medicine", "", ("कहानी में कौन बीमार था?", "कौन बीमार पड़ गया?"), ("{e} बीमार {e:था}।", "{e}।")),
    Question("who", "medicine", "", ("वैद्य जी से दवा कौन लाया?",), ("{h} दवा {h:लाया}।", "{h}।")),
    Question("who", "storm", "", ("रोशनी जलाने का उपाय किसे सूझा?",), ("रोशनी जलाने का उपाय {h:को} सूझा।", "{h:को}।")),
    Question("what", "storm", "{n.word} नावें", ("समुद्र में कितनी नावें थीं?",), ("समुद्र में {n.word} नावें थीं।", "{n.word} नावें।", "{n.word}।")),
    Question("who", "reading", "", ("अम्मा को पढ़ना किसने सिखाया?",), ("{h:ने} अम्मा को पढ़ना सिखाया।", "{h:ने}।")),
    Question("who", "cage", "", ("पिंजरे में कौन था?",), ("पिंजरे में एक {bird} {bird:था}।", "एक {bird}।", "{bird}।")),
    Question("who", "scales", "", ("किसका तराज़ू शुरू से सच्चा था?",), ("{h:का} तराज़ू सच्चा था।", "{h:का}।")),
    Question("who", "scales", "", ("{x} कम कौन देता था?", "तौल में बेईमानी कौन करता था?"), ("{f} {x} कम {f:देता था}।", "{f}।")),
    # what
    Question("what", "scales", "", ("{h} और {f} क्या {d:बेचता था}?",), ("{h} और {f} {x} {d:बेचता था}।", "{x}।")),
    Question("what", "experiment", "", ("{h:ने} क्या बनाया?",), ("{h:ने} {x} {x:बनाया}।", "{x}।")),
    Question("what", "lamps", "", ("{h:की} माँ क्या बनाती थीं?",), ("{h:की} माँ मिट्टी के दीये बनाती थीं।", "मिट्टी के दीये।", "दीये।")),
    Question("what", "drought", "", ("गाँव वालों ने मिलकर क्या खोदा?",), ("गाँव वालों ने मिलकर कुआँ खोदा।", "कुआँ।")),
    Question("what", "fair", "{x:की} बड़ी चाह", ("{h:को} किस चीज़ की चाह थी?",), ("{h:को} एक {x:की} चाह थी।", "एक {x:की}।")),
    Question("what", "fair", "एक {x} खरीदना", ("{h} क्या खरीदना {h:चाहता था}?",), ("{h} एक {x} खरीदना {h:चाहता था}।", "एक {x}।")),
    Question("what", "contest", "", ("कौन सी प्रतियोगिता होने वाली थी?",), ("{contest.name} होने वाली थी।", "{contest.name}।")),
    Question("what", "contest", "पहला पुरस्कार मिला", ("{h:को} कौन सा पुरस्कार मिला?",), ("{h:को} पहला पुरस्कार मिला।", "पहला पुरस्कार।")),
    Question("what", "riddle", "", ("राजा ने क्या सवाल पूछा?", "राजा का सवाल क्या था?"), ("राजा ने पूछा, “{riddle.question}”", "{riddle.question}")),
    Question("what", "riddle", "", ("{h:ने} राजा को क्या जवाब दिया?",), ("{h:ने} कहा, “{riddle.answer}।”", "{riddle.answer}।")),
    Question("what", "pride", "", ("{a:को} किस पर घमंड था?", "{a} किस चीज़ पर घमंड {a:करता था}?"), ("{a:को} {a.pride} पर घमंड था।", "{a.pride} पर।")),
    *TOWN_QUESTIONS,
    *FEAST_QUESTIONS,
)
MORAL = ("इस कहानी से क्या सीख मिलती है?", "इस कहानी की सीख क्या है?", "कहानी की सीख बताओ।")
RETELL = ("यह कहानी फिर से सुनाओ।", "इस कहानी को दोहराओ।", "यही कहानी मुझे एक बार और सुनाओ।")
CONTINUE = ("इस कहानी को आगे बढ़ाओ।", "यह कहानी पूरी करो।", "आगे क्या हुआ? कहानी पूरी करो।")
TELL = ("{x:के} बारे में एक कहानी सुनाओ।", "मुझे {x:की} कोई कहानी सुनाओ।", "{x:के} बारे में एक छोटी सी कहानी लिखो।")
OF_WHOLE_STORIES = 4  # one conversation in so many is about the whole story: retell, continue, tell
MOST_QUESTIONS = 6  # in one conversation


def conversations(seed: int = 0) -> Iterator[Conversation]:
    """Yield conversations without end. The same seed gives the same conversations in the same
    order, in any version of Python."""
    rng = random.Random(seed)
    while True:
        story = compose(rng)
        yield _about_the_whole(rng, story) if rng.random() < 1 / OF_WHOLE_STORIES else _questions(rng, story)


def questions_of(story: Story) -> list[Question]:
    """Return the questions that a story answers, that for its moral last."""
    joined = " ".join(story.templates)
    asked = [q for q in QUESTIONS if q.plot in (None, story.plot.name) and q.given in joined]
    return [*asked, Question("moral", None, "", MORAL, (story.templates[-1],))]


def _questions(rng: random.Random, story: Story) -> Conversation:
    """Return a conversation of one to MOST_QUESTIONS questions; the story is in the first."""
    candidates, messages = questions_of(story), []
    for turn in range(1 + int(rng.random() * min(MOST_QUESTIONS, len(candidates)))):
        question = candidates.pop(int(rng.random() * len(candidates)))
        asked, accepted = story.fill(_pick(rng, question.wordings)), tuple(story.fill(answer) for answer in question.answers)
        if turn == 0:
            asked = _pick(
                rng, [f"{story.text}\n\n{asked}", f"{asked}\n\n{story.text}", f"यह कहानी पढ़ो और सवाल का जवाब दो।\n\n{story.text}\n\n{asked}"]
            )
        messages += _turn(asked, accepted[0])
    return Conversation(question.kind, messages, accepted, story.text)


def _about_the_whole(rng: random.Random, story: Story) -> Conversation:
    kind, wordings = _pick(rng, [("retell", RETELL), ("continue", CONTINUE), ("tell", TELL)])
    text, wording = story.text, _pick(rng, wordings)
    if kind == "tell":
        hero = story.cast["h"] if "{h" in " ".join(story.templates) else story.cast["a"]
        asked, answer = wording.format(x=hero), text
    elif kind == "retell":
        asked, answer = f"{wording}\n\n{text}", text
    else:
        end = len(story.templates) // 2  # before the moral, which is three to four templates at the end
        beginning = " ".join(story.sentences[:end])
        asked, answer = f"{wording}\n\n{beginning}", text[len(beginning) :].strip()
    return Conversation(kind, _turn(asked, answer), (answer,), text)


def _turn(asked: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
