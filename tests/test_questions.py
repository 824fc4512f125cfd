"""Questions about the sample's stories: correct Hindi, right answers that the story holds, the same
for the same seed."""

import hashlib
import itertools
import json
import random
import re
from collections import Counter

import pytest

import standin
import story_grammar
from nano_hindi.chat.sources import VAL_FRACTION
from nano_hindi.chat.template import prompt
from nano_hindi.corpus.tokenize import is_for_validation
from nano_hindi.errors import UserError
from nano_hindi.evaluation import questions
from nano_hindi.evaluation.questions import MAX_TOKENS, OPEN_KINDS, Answer, ask, mistakes, report, unseen_conversations
from nano_hindi.sample import compose, tell
from nano_hindi.sample.grammar import Noun
from nano_hindi.sample.questions import MORAL, MOST_QUESTIONS, QUESTIONS, Conversation, conversations, questions_of
from nano_hindi.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def many() -> list[Conversation]:
    return list(itertools.islice(conversations(), 3000))


def test_same_seed_gives_the_same_conversations_on_every_machine(many):
    text = json.dumps([conversation.messages for conversation in many[:200]], ensure_ascii=False)
    assert hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == "4708d2d7fc50e332"
    assert [c.messages for c in itertools.islice(conversations(1), 20)] != [c.messages for c in many[:20]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return load_tokenizer(standin.make_tokenizer(tmp_path_factory.mktemp("questions") / "tokenizer"))


def test_questions_are_about_stories_of_no_training_split(tokenizer):
    found = unseen_conversations(tokenizer, 3, 10_000)
    assert len(found) == 3
    assert all(is_for_validation(conversation.story.encode(), VAL_FRACTION) for conversation in found)
    first = unseen_conversations(tokenizer, 12, 10_000)
    lengths = [len(prompt(tokenizer, conversation.messages[:-1])) for conversation in first]
    limit = max(lengths[:2])
    fitting = [c for c, length in zip(first, lengths, strict=True) if length < limit]
    assert unseen_conversations(tokenizer, 2, limit) == fitting[:2]


def test_context_too_short_for_the_questions_is_a_user_error(tokenizer):
    with pytest.raises(UserError, match="whose context has 20 tokens"):
        unseen_conversations(tokenizer, 3, 20)


def test_an_answer_as_long_as_the_longest_story_fits_with_a_small_vocabulary(many, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(standin.make_tokenizer(tmp_path / "tokenizer"))
    conversation = max(many, key=lambda conversation: len(conversation.accepted[0]))
    right = tokenizer.encode_batch([conversation.accepted[0]])[0]
    monkeypatch.setattr("nano_hindi.evaluation.questions.generate_each", lambda _model, _asked, limit, *_, **__: [right[:limit]])
    assert next(ask(None, tokenizer, [conversation])).is_right


def test_a_story_is_the_one_that_the_corpus_has():
    assert [compose(random.Random(i)).text for i in range(50)] == [tell(random.Random(i)) for i in range(50)]


def test_the_story_comes_first_and_the_last_message_is_an_accepted_answer(many):
    kinds = Counter(conversation.kind for conversation in many)
    assert kinds.keys() == {"where", "age", "work", "lost", "found", "who", "what", "moral", "retell", "continue", "tell"}
    for conversation in many:
        roles, first = [message["role"] for message in conversation.messages], conversation.messages[0]["content"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert conversation.accepts(conversation.messages[-1]["content"])
        assert not conversation.accepts("मुझे नहीं पता।")
        if conversation.kind == "tell":
            assert conversation.accepted == (conversation.story,)
        elif conversation.kind == "continue":
            beginning = first.split("\n\n")[1]
            assert f"{beginning} {conversation.accepted[0]}" == conversation.story
        else:
            assert conversation.story in first
    assert len({len(conversation.messages) for conversation in many}) == MOST_QUESTIONS


def test_short_answers_and_missing_dandas_are_accepted():
    conversation = Conversation("who", [], ("कछुए ने मोहन की मदद की।", "कछुए ने।"), "")
    assert all(conversation.accepts(answer) for answer in ("कछुए ने", " कछुए  ने।\n", "कछुए ने मोहन की मदद की।"))
    assert not any(conversation.accepts(answer) for answer in ("", "कछुए", "मछली ने", "कछुए ने कछुए ने।"))


def test_an_answer_ends_at_a_stop_text_and_is_right_only_if_it_ended_by_itself(tokenizer, monkeypatch):
    conversation = Conversation("who", [{"role": "user", "content": "किसने?"}, {"role": "assistant", "content": "कछुए ने।"}], ("कछुए ने।",), "")
    for written, is_right in (("कछुए ने।", True), ("कछुए ने।" + "\n" * 2000, False), ("कछुए ने।\n### उपयोगकर्ता:\n" + "क्यों? " * 2000, True)):
        asked, ids = [], tokenizer.encode_batch([written])[0][:MAX_TOKENS]
        monkeypatch.setattr(questions, "generate_each", lambda *args, ids=ids, asked=asked, **options: asked.append((args, options)) or [ids])
        [answer] = ask(None, tokenizer, [conversation])
        assert asked == [((None, [(prompt(tokenizer, conversation.messages[:1]), None)], MAX_TOKENS, (tokenizer.eos_id,)), {"temperature": 0})]
        assert answer.text == "कछुए ने।"
        assert answer.is_right == is_right


def test_questions_that_are_asked_together_get_their_own_answers(tokenizer, monkeypatch):
    monkeypatch.setattr(questions, "ASKED_TOGETHER", 2)
    stories = ("", "राम घर गया।", "एक")
    chosen = [
        Conversation("who", [{"role": "user", "content": f"किसने? {i}"}, {"role": "assistant", "content": "-"}], ("-",), stories[i]) for i in range(3)
    ]
    (letter,) = tokenizer.encode_batch(["क"])

    def endless(model: None, prompts: list[tuple[list[int], None]], max_tokens: int, *_, **__) -> list[list[int]]:
        return [(tokenizer.encode_batch([tokenizer.decode(ids)[::-1]])[0] + letter * max_tokens)[:max_tokens] for ids, _ in prompts]

    monkeypatch.setattr(questions, "generate_each", endless)
    for conversation, answer in zip(chosen, ask(None, tokenizer, iter(chosen)), strict=True):
        (alone,) = ask(None, tokenizer, [conversation])
        assert answer == alone
        assert not answer.has_ended
        assert conversation.messages[0]["content"][::-1] in answer.text


def test_figures_are_those_counted_by_hand():
    def answer(kind: str, text: str, has_ended: bool = True) -> Answer:
        return Answer(Conversation(kind, [], ("कछुए ने।",), ""), text, has_ended)

    answers = [answer("who", "कछुए ने"), answer("who", "मछली ने"), answer("who", "कछुए ने।", has_ended=False), answer("tell", "क ख ग घ क ख ग घ च")]
    lines, figures = report(answers)
    assert figures == {
        "tell": {"right": None, "judged": 0, "ended": 1, "repeated_4_grams": 1 / 6, "questions": 1},
        "who": {"right": 1 / 3, "judged": 3, "ended": 2 / 3, "repeated_4_grams": 0, "questions": 3},
        "all": {"right": 1 / 3, "judged": 3, "ended": 3 / 4, "repeated_4_grams": 1 / 6, "questions": 4},
    }
    assert [line.split()[:2] for line in lines] == [["kind", "right"], ["tell", "open"], ["who", "33.3%"], ["all", "33.3%"]]
    assert lines[3].split()[2:] == [*lines[2].split()[2:5], "3", "75.0%", "16.7%", "4"]  # fraction, interval and number of the judged answers


def test_every_question_is_asked_in_correct_hindi():
    asked: Counter[int] = Counter()
    checked: set[str] = set()
    rng = random.Random(2)
    for _ in range(2500):
        story = compose(rng)
        for question in questions_of(story):
            asked[QUESTIONS.index(question) if question.wordings != MORAL else -1] += 1
            for template in (*question.wordings, *question.answers):
                text = story.fill(template)
                if text not in checked:
                    assert not story_grammar.mistakes(text), text
                checked.add(text)
    assert min(asked[i] for i in range(-1, len(QUESTIONS))) > 5


@pytest.mark.parametrize(("word", "case"), [("किसने", "ने"), ("किसे", "को"), ("किसकी", "की"), ("किससे", "से")])
def test_a_short_answer_may_have_the_case_of_the_question_word(word, case):
    asked = [question for question in QUESTIONS if any(word in wording.split() for wording in question.wordings)]
    assert asked
    for question in asked:
        assert any(re.search(f"[: ]{case}}}?।$", answer) for answer in question.answers), question.wordings


def test_an_answer_names_only_what_the_story_names():
    rng = random.Random(3)
    for _ in range(1500):
        story = compose(rng)
        words = set(re.findall(r"[\u0900-\u097f]+", story.text))
        for question in questions_of(story):
            for template in question.answers:
                named = [story.cast[name] for name in re.findall(r"\{(\w+)", template)]
                for noun in (noun for noun in named if isinstance(noun, Noun) and noun.word != "दोनों"):
                    forms = {word for form in (noun.direct, noun.oblique) for word in re.split("[ -]", story.fill(form))}
                    assert forms & words, (template, story.text)


def test_mistakes_show_the_question_wherever_the_story_stands(many):
    judged = [c for c in many if c.kind not in (*OPEN_KINDS, "retell")]
    answers = [Answer(c, text, True) for c in many for text in (c.accepted[0], "पता नहीं")]
    lines = mistakes(answers, len(answers))
    assert mistakes(answers) == lines[:5]
    for conversation, line in zip(judged, lines, strict=True):
        asked = line.removeprefix(f"{conversation.kind}: ").partition(" *")[0]
        assert asked in conversation.messages[-2]["content"]
        assert asked not in conversation.story
