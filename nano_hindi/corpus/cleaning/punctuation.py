"""Restore danda and visarga where the web has the ASCII characters `|` and `:`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nano_hindi.corpus.cleaning.letters import LETTER, WORD, words

# ---- danda

_TERMINATOR = re.compile("[।॥?!|]")
_DOUBLE_DANDA = re.compile(r"।\|+|(?<!\|)\|+।")
_OF_WORDS = re.compile(f"[{WORD}]+")
# Words that end a sentence: forms of होना, participles of the commonest verbs, and imperatives.
_VERBS = words(
    "है हैं हूँ हूं हो था थे थी थीं नहीं चाहिए चाहिये हुआ हुई हुए गया गयी गई गए गये गईं गयीं किया किए किये दिया दी दिए दिये दीं लिया ली "
    "रहा रही रहे रहीं आया आयी आई आए आये सका सकी सके कहा बताया पाया पाई मिला मिली मिले बना बनी बने बनाया लगा लगी लगे लगीं पड़ा पड़ी पड़े चुका चुकी चुके रखा "
    "रखी रखे चला चली चले बोला बोली बोले देखा देखी सुना पूछा मारा माना सोचा लिखा बैठा बैठी बैठे निकला निकली निकले पहुँचा पहुंचा पहुँची पहुंची पहुँचे "
    "पहुंचे उठा उठी उठे डाला डाली डाले जाना करना होना रहना देना लेना करें दें लें रहें जाएँ जाएं जायें जाए जाये जाय जायँ करे हों दे करो दो लो जाओ आओ चलो "
    "देखो दीजिए कीजिए लीजिए कीजिये दीजिये चुनें देखें जोड़ें बनाएं बनाएँ सकें की "
    "लगाई लगाए बनाई बनाए बताई बताए दिखाई दिखाए सुनाई जताई उठाई उठाए चलाई चलाए निभाई मनाई कराई करवाई भेजा भेजी भेजे खोला खोली छोड़ा छोड़ी छोड़े तोड़ा तोड़ी "
    "जोड़ा जोड़ी जोड़े रोका मांगा माँगा मांगी माँगी पकड़ा सौंपा सौंपी बढ़ा बढ़ी बढ़े जीता जीती जीते हारा हारी हारे लौटा लौटी लौटे टूटा टूटी टूटे"
) | {stem + ending for stem in words("हो कर जा आ रह दे ले सक लग पड़ चाह पा कह मिल बन जान मान देख बोल चल रख बता") for ending in ("ता", "ती", "ते", "तीं")}
_VERB_ENDING = re.compile(f"[{WORD}](?:(?:[ेएय][ंँ]?|[ूऊ][ंँ]|ो|ओ)(?:गा|गे|गी)|ाया)$")  # of the future, and of participles like लगाया
_NO_VERBS = words("छाया माया काया साया पराया किराया सरमाया")
_NO_END = words("और तथा या कि व एवं जो का के को में से ने पर")  # nor can a sentence begin with the verbs above, or with कि
MIN_SENTENCE = 3  # words before a pipe; fewer are an entry of a menu or a cell of a table
MIN_PIPES = 3  # after verbs: an author who has so many, and most of them there, writes the danda so


def restore_dandas(text: str) -> str:
    """Replace `|` and `।|` by danda where they end a sentence: tables, menus and page titles keep
    their pipes.

    A pipe ends a sentence after a verb, if most of the line's pipes do. In a text with several such
    pipes it also does after other words.
    """
    if "|" not in text:
        return text
    lines, pipes = text.split("\n"), []
    for i, line in enumerate(lines):
        if "|" in line and not line.lstrip().startswith("|"):  # that is a row of a table
            lines[i] = _DOUBLE_DANDA.sub("।", line)
            pipes.append(_pipes(lines[i]))
        else:
            pipes.append([])
    ends = [pipe.follows_verb for of_line in pipes for pipe in of_line]
    is_habit = sum(ends) >= max(MIN_PIPES, len(ends) / 2)
    return "\n".join(_line_with_dandas(line, of_line, is_habit) for line, of_line in zip(lines, pipes, strict=True))


@dataclass
class _Pipe:
    """A pipe of a line, with the words before it, back to another terminator."""

    place: int
    words: list[str]
    is_after_word: bool
    next_word: str

    @property
    def follows_verb(self) -> bool:
        return len(self.words) >= MIN_SENTENCE and self.is_free and _is_verb(self.words[-1])

    @property
    def is_free(self) -> bool:
        """Return whether the words before and after it allow a sentence to end here."""
        return self.is_after_word and self.words[-1] not in _NO_END and self.next_word != "कि" and not _is_verb(self.next_word)


def _is_verb(word: str) -> bool:
    return word in _VERBS or (_VERB_ENDING.search(word) is not None and word not in _NO_VERBS)


_CLOSED_WORD = re.compile(f"[{WORD}][\"'”’)]? ?$")


def _pipes(line: str) -> list[_Pipe]:
    pipes, begin = [], 0
    for end in _TERMINATOR.finditer(line):
        place = end.start()
        if end[0] == "|":
            is_after_word = _CLOSED_WORD.search(line, max(0, place - 3), place) is not None and line[place + 1 : place + 2] != "|"
            next_word = _OF_WORDS.match(line, place + 1 + line.startswith(" ", place + 1))
            pipes.append(_Pipe(place, _OF_WORDS.findall(line, begin, place), is_after_word, next_word[0] if next_word else ""))
        begin = end.end()
    return pipes


def _line_with_dandas(line: str, pipes: list[_Pipe], is_habit: bool) -> str:
    if not pipes or not _may_end_prose(line, pipes[-1].place):
        return line
    most = 2 / 3 if any(line[pipe.place - 1] == " " for pipe in pipes) else 1 / 2  # menus and tables have spaces
    if not is_habit and sum(pipe.follows_verb for pipe in pipes) < most * len(pipes):
        return line
    characters = list(line)
    for pipe in pipes:
        if pipe.follows_verb or (is_habit and pipe.is_free and (len(pipe.words) >= MIN_SENTENCE or _is_verb(pipe.words[-1]))):
            characters[pipe.place] = "।"
    return "".join(characters)


def _may_end_prose(line: str, last: int) -> bool:
    """Return whether the text after the last pipe can be of a paragraph: it has a terminator or no
    words, or the pipe is without space and there are several. `वाक्य | समाचार` is a title with the
    name of its site."""
    rest = line[last + 1 :]
    return _TERMINATOR.search(rest) is not None or not re.search(r"\w", rest) or (line[last - 1] != " " and len(rest.split()) > MIN_SENTENCE)


# ---- visarga

# Words that end in visarga. Names and words with a meaning of their own without it (अंत, मन, बहुत)
# are not here: `राम: मैं आता हूँ` is dialogue.
_VISARGA_WORDS = words(
    "अत प्राय पुन प्रात नम शनै क्रमश अक्षरश शब्दश कोटिश शतश बहुश इत तत यत स्वत मूलत फलत अंतत अन्तत अंशत पूर्णत मुख्यत विशेषत "
    "सामान्यत साधारणत संभवत सम्भवत वस्तुत प्रधानत प्रमुखत स्पष्टत परिणामत अधिकांशत आंशिकत तत्त्वत तत्वत न्यायत निश्चयत प्रकटत प्रथमत प्रत्यक्षत "
    "पूर्वत लक्षणत व्यवहारत विधित शब्दत संक्षेपत संपूर्णत सम्पूर्णत सत्यत समग्रत सर्वत सारत सिद्धांतत सिद्धान्तत स्वभावत स्वरूपत नियमत न्यूनत जन्मत कार्यत गुणत धर्मत उभयत"
)
_VISARGA_PREFIXES = words("दु नि अंत अन्त अध बहि चतु")  # before a letter, as in दु:ख, नि:शुल्क, अंत:करण
_VISARGA_COMPOUNDS = re.compile("मन:(?:स्थिति|शक्ति|प्रसाद|पूत)|वक्ष:स्थल|ज्योति:पुंज|छंद:शास्त्र|छन्द:शास्त्र|तप:पूत|यश:काय|पय:पान|आयु:क्षय")
_COLON, _LETTER, _LAST_WORD = re.compile(":"), re.compile(f"[{LETTER}]"), re.compile(f"[{WORD}]+$")


def restore_visargas(text: str) -> str:
    """Replace an ASCII colon by visarga after the words of a list, and inside a word after a prefix
    of another."""
    return _COLON.sub(_visarga, text) if ":" in text else text


def _visarga(colon: re.Match[str]) -> str:
    text, place = colon.string, colon.start()
    last = _LAST_WORD.search(text, max(0, place - 20), place)
    after = text[place + 1 : place + 2]
    if last is None or after == ":":
        return ":"
    word = last[0]
    if word in _VISARGA_WORDS or (word == "छ" and _is_number(text, place)):
        return "ः"
    if _LETTER.match(after) and (word in _VISARGA_PREFIXES or (after == "ख" and word.endswith("दु")) or _VISARGA_COMPOUNDS.match(text, last.start())):
        return "ः"
    return ":"


def _is_number(text: str, place: int) -> bool:
    """Return whether `छ:` is six: with words of the same line before and after. At the start of a
    line it is a label."""
    before = text[max(0, place - 40) : place].rpartition("\n")[2]
    return " " in before.strip() and re.match(f" ?[{LETTER}]", text[place + 1 : place + 3]) is not None
