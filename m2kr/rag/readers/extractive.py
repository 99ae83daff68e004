"""A reader without a model: it takes an answer out of the passages, by rules for English questions.

It is fast, needs nothing but the standard library and always says the same, so that a pipeline runs whole
on any machine. It doesn't understand: a yes or no is a guess from the words in common.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.rag.reader import Answer, ReaderBase, RetrievedPassage
from m2kr.retrievers._settings import split_off

if TYPE_CHECKING:
    from PIL.Image import Image

_TOKEN = re.compile(
    # numbers with their marks of thousands; one sign of Chinese or Japanese; words
    r"\d+(?:[.,]\d+)*%?|[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_](?:[\w]|['’.-](?=\w))*|\w+"
)
_LAYOUT = re.compile(
    r"\s*title:\s*(?P<title>.*?)\s+(?:(?:hierarchical\s+)?section\s+titles?:\s*(?P<section>.*?)\s+)?"
    r"content:\s*(?P<content>.*)",
    re.DOTALL | re.IGNORECASE,
)
_END = re.compile(r"[.!?;。！？][\"”’)\]]*(?:\s+|$)|(?<=[。！？])|\s*\n\s*")
_LABEL = re.compile(r"\s*([^\W\d_][^:.,;()]{1,60}):\s+(?=\S)")


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


_ABBREVIATIONS = _set_of(
    "mr mrs ms dr st prof no nos ca approx vs jr sr inc ltd co sq ft in e.g i.e b.c a.d u.s u.k est fig vol"
)

_STOP = _set_of("""
    a an the and or but nor if of in on at by to from for with without as into onto over under above below
    between
    among through during before after about around against near off out up down is are was were be been
    being am do does did done has have had having can could may might shall should will would must it its they
    them their theirs he him his she her hers we us our you your i me my this that these those there here who
    whom whose which what when where why how than then so such not no only own same too very just also both
    each few more most much many some any other another all one's s t usually often mostly mainly mean""")
_ASKS = ("who", "whom", "whose", "when", "where", "why", "how", "what", "which")
_AUXILIARIES = _set_of(
    "is are was were do does did has have had can could may might shall should will would must am"
)
_DEICTIC = _set_of("this that these those")

_IRREGULAR = {
    form: base
    for base, forms in {
        "build": "built", "make": "made", "lie": "lay lain lies lying", "hold": "held", "find": "found",
        "write": "wrote written", "begin": "began begun", "grow": "grew grown", "eat": "ate eaten",
        "bring": "brought", "buy": "bought", "choose": "chose chosen", "come": "came", "die": "dying",
        "draw": "drew drawn", "drink": "drank drunk", "drive": "drove driven", "fall": "fell fallen",
        "feed": "fed", "fight": "fought", "fly": "flew flown flies", "give": "gave given", "go": "went gone",
        "keep": "kept", "know": "knew known", "lead": "led", "leave": "left", "lose": "lost",
        "mean": "meant", "meet": "met", "pay": "paid", "rise": "rose risen", "run": "ran", "say": "said",
        "see": "saw seen", "sell": "sold", "send": "sent", "show": "shown", "sing": "sang sung",
        "sit": "sat", "speak": "spoke spoken", "stand": "stood", "steal": "stole stolen",
        "swim": "swam swum", "take": "took taken", "teach": "taught", "tell": "told", "think": "thought",
        "throw": "threw thrown", "wear": "wore worn", "win": "won", "child": "children",
        "foot": "feet", "tooth": "teeth", "mouse": "mice", "man": "men", "woman": "women",
        "leaf": "leaves", "life": "lives", "wife": "wives", "person": "people",
    }.items()
    for form in forms.split()
}  # fmt: skip


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    """A word without its ending; two words of one stem count as one."""
    word = word.replace("’", "'").removesuffix("'s").strip(".'-")
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for ending, left, put in (
        ("ies", 2, "y"), ("sses", 2, "ss"), ("ings", 3, ""), ("ing", 3, ""), ("edly", 3, ""), ("ied", 2, "y"),
        ("ed", 3, ""), ("es", 3, ""), ("ly", 4, ""), ("s", 3, ""),
    ):  # fmt: skip
        if word.endswith(ending) and len(word) - len(ending) >= left and not word.endswith("ss"):
            word = word[: -len(ending)] + put
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    word = word.removesuffix("e") if len(word) > 3 else word
    # Independent and independence: what is behind the seventh letter is an ending in most words.
    return _IRREGULAR.get(word, word)[:7]


def _stems_of(words: str) -> frozenset[str]:
    return frozenset(map(_stem, words.split()))


# Words that ask for what others say.
_KIN_WORDS = {
    "tall": "high height tall", "high": "high height tall elevation", "long": "long length",
    "wide": "wide width across", "deep": "deep depth", "large": "area large size big",
    "big": "area large size big", "old": "age old", "heavy": "weigh weight heavy", "fast": "speed fast",
    "height": "high tall height", "length": "long length", "width": "wide width",
    "depth": "deep depth", "weight": "weigh weight", "area": "area large", "speed": "fast speed",
    "country": "country nation", "create": "create make found build", "design": "design architect",
    "architect": "architect design", "author": "author write", "write": "write author",
    "found": "found establish", "use": "use serve", "finish": "finish complete",
    "complete": "complete finish", "start": "start begin", "begin": "begin start",
    "call": "call name know", "name": "name call", "native": "native origin", "live": "live habitat",
    "young": "young baby", "eat": "eat feed food diet", "feed": "eat feed", "locate": "lie stand situate",
    "born": "birth born", "die": "die death", "people": "population inhabitant", "religion": "religious",
}  # fmt: skip

_KIN = {_stem(word): _stems_of(kin) for word, kin in _KIN_WORDS.items()}

_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    r"Jan\.?|Feb\.?|Mar\.?|Apr\.?|Jun\.?|Jul\.?|Aug\.?|Sept?\.?|Oct\.?|Nov\.?|Dec\.?)"
)
_ERA = r"(?:\s?(?:BCE?|AD|CE|B\.C\.(?:E\.)?|A\.D\.))"
_COUNT = (
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
    r"seventeen|eighteen|nineteen|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)"
    r"(?:-(?:one|two|three|four|five|six|seven|eight|nine))?|hundred|thousand|million|dozen)"
)
_NUMBER = (
    rf"(?:half\san?|\d+(?:[.,]\d+)*|{_COUNT})(?:\s(?:hundred|thousand|million|billion|trillion))?"
)
_UNIT = (
    r"(?:(?:sq(?:uare)?\.?|cubic)\s)?(?:(?:kilo|centi|milli|hecto)?(?:metre|meter|gram|litre|liter|watt|hertz)s?|"
    r"km²?|cm|mm|m²?|kg|g|ft|mph|km/h|mi|lbs?|kWh?|MW|GW|miles?|feet|foot|inch(?:es)?|yards?|acres?|hectares?|ha|"
    r"tons?|tonnes?|pounds?|ounces?|degrees?(?:\s(?:Celsius|Fahrenheit))?|°\s?[CF]?|per\s?cent|percent|%|"
    r"years?|months?|weeks?|days?|hours?|minutes?|seconds?|nights?|dollars?|euros?|watts?|people|inhabitants)"
    r"(?:\s(?:an|a|per)\s(?:hour|second|minute|day|week|month|year|person|capita))?"
)
_CENTURY = r"(?:\d{1,2}(?:st|nd|rd|th)|(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|" \
    r"eleventh|twelfth|thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|" \
    r"twentieth))\s(?:century|centuries)"  # fmt: skip
_DATES = re.compile(
    rf"\d{{1,2}}(?:st|nd|rd|th)?\s{_MONTH}(?:,?\s\d{{3,4}})?|{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?,?\s\d{{3,4}}|"
    rf"{_MONTH}\s\d{{4}}|(?:AD|A\.D\.)\s?\d{{1,4}}|\b\d[\d,]*{_ERA}|{_CENTURY}{_ERA}?|\b[12]\d{{3}}s?\b"
)
_YEARS = re.compile(rf"(?:AD\s)?\b\d[\d,]*{_ERA}|\b[12]\d{{3}}\b")
_CENTURIES = re.compile(rf"{_CENTURY}{_ERA}?", re.IGNORECASE)
_NUMBERS = re.compile(rf"(?<![\w.,-]){_NUMBER}(?![\w]|[.,]\d)", re.IGNORECASE)
_MEASURES = re.compile(
    rf"(?<![\w.,-])(?:{_NUMBER}(?:\s(?:to|or|and)\s|\s?[–-]\s?))?{_NUMBER}[\s-]?{_UNIT}(?!\w)",
    re.IGNORECASE,
)
_CAPITALISED = re.compile(
    r"[^\W\d_a-z][\w'’.-]*\w?(?:\s(?:(?:of|the|de|la|le|del|di|da|du|des|van|von|der|den|al|el|bin|and)\s){0,2}"
    r"[^\W\d_a-z][\w'’-]*)*"
)
_QUOTED = re.compile(r"[\"“]([^\"”]{2,60})[\"”]")
_REASON = re.compile(
    r"\b(?:because(?:\sof)?|due\sto|so\sthat|in\sorder\sto|owing\sto|thanks\sto|since|for\sfear\sof)\s([^.;:]+)",
    re.IGNORECASE,
)
_TIMES = re.compile(
    r"\b(?:in|during|by|at)\s((?:the\s)?(?:(?:early|late)\s)?(?:night|dawn|dusk|noon|morning|evening|afternoon|day|"
    r"spring|summer|autumn|fall|winter|(?:rainy|dry|wet)\sseason|Middle\sAges|antiquity|prehistory))\b"
)
_COLOURS = _set_of(
    "red orange yellow green blue purple violet pink brown black white grey gray silver gold golden "
    "cream beige"
)

_KINDS = {
    "date": "year date century decade day month time period era",
    "measure": "height length width depth weight area size distance speed angle temperature age "
    "elevation altitude diameter volume wingspan lifespan",
    "number": "number population amount percentage share",
    "place": "country city town village state province region continent island river lake sea ocean "
    "mountain place territory district county capital harbour harbor port desert street peninsula "
    "nation location valley bay park borough department canton prefecture",
    "name": "person king queen president architect author artist painter writer composer god goddess "
    "emperor ruler founder inventor leader company organisation organization team language religion "
    "people tribe dynasty saint family order genus nickname anthem war battle film book singer engineer",
    "colour": "colour color",
    "shape": "shape",
}
_KIND_OF = {noun: kind for kind, nouns in _KINDS.items() for noun in _stems_of(nouns)}
_MEASURED = _set_of(
    "tall high long wide deep large big old heavy far fast thick small hot cold broad loud strong"
)
_UNITS_OF = {
    _stem(word): re.compile(units)
    for words, units in {
        "tall high long wide deep far thick broad height length width depth elevation distance "
        "diameter wingspan":
            r"(?<!sq\s)(?<!square\s)(metre|meter|\bk?m\b|mile|feet|ft|inch|cm|mm)",
        "large big area size": r"sq|square|hectare|acre|km²|m²|\bha\b",
        "heavy weight weigh": r"gram|kg|ton|pound|lb|ounce",
        "fast speed": r"hour|second|mph|km/h",
        "old age lifespan": r"year|month|week|day",
        "hot cold temperature angle": r"degree|°",
    }.items()
    for word in words.split()
}  # fmt: skip
# What stands for a thing, so that it belongs to what the passage is about.
_SYMBOLS = _set_of("flag logo emblem seal banner crest coat symbol")
# "what is the name of this animal", "which bird is this", "what is shown in the picture": the title answers.
_BEARERS = _stems_of(
    "country territory nation land state place one belong fly flown fly use represent company club"
)
_SHOWN = r"(?:this|that|these|those|it)"
_IDENTITY = re.compile(
    rf"(?:what|which|who)\b(?:\s[\w'-]+){{0,4}}?\s(?:is|are|was|were)\s{_SHOWN}(?:\s[\w'-]+){{0,2}}"
    r"(?:\s(?:called|named|known\sas))?(?:\s(?:in|on)\sthe\s(?:image|picture|photo\w*))?|"
    r"(?:what|which|who)\b(?:\s[\w'-]+){1,4}?\s(?:is|are|was|were)?\s?"
    r"(?:shown|depicted|pictured|displayed|visible|seen)(?:\s(?:here|(?:in|on)\s(?:the|this)\s(?:image|picture|photo\w*)))?|"
    rf"(?:what\s(?:is|are)\s)?the\sname\sof\s{_SHOWN}(?:\s[\w'-]+){{1,3}}|"
    rf"(?:please\s)?(?:identify|name)\s{_SHOWN}(?:\s[\w'-]+){{1,3}}|"
    r"what(?:\sis|'s|\sdoes)?\s(?:in|on)?\s?the\s(?:image|picture|photo\w*)(?:\sshow)?"
)
_BELONGS = re.compile(
    rf"(?:to\s)?(?:what|which|who\w*)\b.*\b(?:do|does|is|are|has|uses?)\s{_SHOWN}\s(?P<symbol>\w+)\b.*|"
    rf"(?:to\s)?(?:what|which|who\w*)\s(?:\w+\s){{0,3}}(?:has|have|uses?|flies)\s{_SHOWN}\s(?P<other>\w+)"
)
_DEFINES = re.compile(r"(?:what|who)\s(?:is|are|was|were)\s(?:an?\s|the\s)?(?P<defined>[^?]+)")
_NOT_NAMES = _set_of("BC BCE AD CE UTC GMT AM PM")
_DIRECTION = re.compile(
    r"(?:(?:north|south|east|west|central|mid)(?:ern)?(?:[- ](?:east|west|central)(?:ern)?)?)\s$",
    re.IGNORECASE,
)
_SHAPES = _set_of(
    "round square oval circular rectangular triangular conical cylindrical spherical flat curved hexagonal "
    "octagonal pointed circle triangle rectangle cone cylinder sphere cube cross star"
)
_LISTS = {"colour": _COLOURS, "shape": _SHAPES}
_PURPOSE = re.compile(
    r"\b(?P<used>used\s(?:to|for|in)|serves?\s(?:as|for)|made\sto)\s(?P<use>[^.;,]+)|"
    r"\b(?:for|to)\s(?P<other>[^\W\d_A-Z][^.;,]+)"
)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int
    stem: str


@dataclass(frozen=True, slots=True)
class _Span:
    """A piece of a sentence that may be the answer: its place, and how well its form fits the question."""

    start: int
    end: int
    fit: float


@dataclass(frozen=True)
class _Sentence:
    """A sentence of a passage, or one ``Label: value`` in it, whose label is then ``label``."""

    text: str
    label: str
    passage: int

    @cached_property
    def tokens(self) -> tuple[_Token, ...]:
        return _tokens(self.text)

    @cached_property
    def stems(self) -> frozenset[str]:
        return frozenset(t.stem for t in self.tokens) | self.label_stems

    @cached_property
    def label_stems(self) -> frozenset[str]:
        return frozenset(t.stem for t in _tokens(self.label))


@dataclass(frozen=True)
class _Asked:
    """A question taken apart.

    Attributes:
        kind: Of answer: date, measure, number, place, name, colour, reason, choice, yes or no, title, thing.
        noun: The stem of what the question says that the answer is, such as ``river``; "" if nothing.
        noun_is_given: It stands right behind what or which.
        words: Stems that the answer's sentence should have, with those that mean the same.
        several: Whether more than one thing is asked for.
        tokens: The question's.
    """

    kind: str
    noun: str
    noun_is_given: bool
    words: Mapping[str, frozenset[str]]
    several: bool
    tokens: tuple[_Token, ...]

    @cached_property
    def last(self) -> str:
        """The last of its words, "" if there are none."""
        return next(reversed(list(self.words)), "")

    @cached_property
    def _all(self) -> frozenset[str]:
        return frozenset[str]().union(*self.words.values())

    def has(self, stem: str) -> bool:
        """Whether a stem is one of the question's words, or means the same."""
        return stem in self._all


class ExtractiveReader(ReaderBase):
    """Takes the answer from the sentence that has most of the question's words.

    What the answer looks like (a year, a length, a name, a reason ...) follows from the question's words; of
    the pieces of that form the nearest to the question's words wins. It reads text alone. Without passages,
    or where nothing fits, the answer is "" and its score 0. Else the score is the weight of the question's
    words that support the answer and of its form, comparable within this reader alone.
    """

    name = "extractive"
    sees_images = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> "ExtractiveReader":
        """The reader; it has no settings."""
        return cls(**split_off(cls, settings, "reader extractive")[0])

    def facts(self) -> dict[str, Any]:
        """Its name and a hash of its rules."""
        return {"name": self.name, "rules": _rules_sha256()}

    def answer(
        self, image: "Image | None", question: str, passages: Sequence[RetrievedPassage]
    ) -> Answer:
        """As of `Reader.answer`."""
        del image
        asked = _asked(question)
        read = [_Passage.of(number, p.text) for number, p in enumerate(passages)]
        best = _best(asked, read)
        if best is None:
            return Answer("", detail={"why": "no passages" if not passages else "nothing fits"})
        text, score, number, rule = best
        return Answer(text, score, passages[number].passage_id, detail={"rule": rule})


@dataclass(frozen=True)
class _Passage:
    """A passage in M2KR's form, or plain text, whose title is ""."""

    number: int
    title: str
    sentences: tuple[_Sentence, ...]

    @staticmethod
    def of(number: int, text: str) -> "_Passage":
        layout = _LAYOUT.match(text)
        title = layout["title"] if layout else ""
        content = layout["content"] if layout else text
        return _Passage(number, title, tuple(_sentences(content, number)))

    @cached_property
    def title_stems(self) -> frozenset[str]:
        return frozenset(t.stem for t in _tokens(self.title))

    @cached_property
    def title_words(self) -> frozenset[str]:
        return frozenset(t.text.lower() for t in _tokens(self.title))


def _best(asked: _Asked, passages: Sequence[_Passage]) -> tuple[str, float, int, str] | None:
    """The answer, its score, its passage's number, and the rule that found it."""
    weights = _weights(asked, passages)
    ranked = [
        (_support(asked, sentence, passages[sentence.passage], weights), sentence)
        for passage in passages
        for sentence in passage.sentences
    ]
    if asked.kind == "title":
        return _titled(passages)
    if asked.kind in ("yes or no", "choice"):
        return _decided(asked, ranked)
    best: tuple[str, float, int, str] | None = None
    for support, sentence in ranked:
        passage = passages[sentence.passage]
        for span, rule in _spans(asked, sentence, passage.title_stems):
            text = _trimmed(sentence.text[span.start : span.end])
            near = _nearness(asked, sentence, span, weights, passage.title_stems)
            pieces = [t for t in _tokens(text) if t.text.lower() not in _STOP]
            known = sum(
                t.text.lower() in passage.title_words or t.stem in asked.words for t in pieces
            )
            score = support + near + span.fit - 1.5 * known / max(len(pieces), 1)
            if text and (best is None or score > best[1] + 1e-12):
                best = text, score, sentence.passage, rule
    return best


def _weights(asked: _Asked, passages: Sequence[_Passage]) -> dict[str, float]:
    """How much each word of the question says: less, the more sentences have it."""
    sentences = [s for p in passages for s in p.sentences]
    counts = Counter(
        word for s in sentences for word, kin in asked.words.items() if not kin.isdisjoint(s.stems)
    )
    return {
        word: math.log(1 + (len(sentences) - counts[word] + 0.5) / (counts[word] + 0.5))
        for word in asked.words
    }


def _support(
    asked: _Asked, sentence: _Sentence, passage: _Passage, weights: Mapping[str, float]
) -> float:
    """The share of the question's weight that a sentence has; its passage's title helps it."""
    total = sum(weights.values()) or 1.0
    score = 0.0
    for word, kin in asked.words.items():
        if word in sentence.stems:
            score += weights[word]
        elif not kin.isdisjoint(sentence.stems | passage.title_stems):
            score += 0.8 * weights[word]
    label = sum(
        weights[word]
        for word, kin in asked.words.items()
        if not kin.isdisjoint(sentence.label_stems)
    )
    # The first passages are the likelier ones.
    return 3 * score / total + 3 * label / total - 0.15 * passage.number


def _nearness(
    asked: _Asked,
    sentence: _Sentence,
    span: _Span,
    weights: Mapping[str, float],
    title: frozenset[str],
) -> float:
    """How near a span lies to the question's words in its sentence, from 0 to 1; a title's count little."""
    tokens = sentence.tokens
    inside = [i for i, t in enumerate(tokens) if t.start < span.end and t.end > span.start]
    if not inside:
        return 0.0
    first, last = inside[0], inside[-1]
    near = total = 0.0
    for word, kin in asked.words.items():
        places = [i for i, t in enumerate(tokens) if t.stem in kin and not first <= i <= last]
        weight = weights[word] * (0.2 if word in title else 1.0)
        if asked.kind == "date" and word == asked.last:
            weight *= 2.0  # of "began in 1812 and ended in 1815" one date is right
        total += weights[word]
        if places:
            # What is said of a word follows it more often than not.
            steps = min((first - i if i < first else i - last + 1) for i in places)
            near += weight / steps**0.5
    return near / (total or 1.0)


def _spans(
    asked: _Asked, sentence: _Sentence, title: frozenset[str]
) -> Iterator[tuple[_Span, str]]:
    """Pieces of a sentence of the form that is asked for."""
    text, kind = sentence.text, asked.kind
    if sentence.label and not sentence.label_stems <= title and kind in ("thing", "name", "place"):
        yield _value(asked, text), "label"
    if kind == "date":
        pattern = {"year": _YEARS, _stem("century"): _CENTURIES}.get(asked.noun, _DATES)
        yield from _matches(pattern, text, 1.0, "date")
        if not asked.noun_is_given:
            for match in _TIMES.finditer(text):
                yield _Span(*match.span(1), 0.6), "time"
    elif kind == "measure":
        units = _UNITS_OF.get(asked.noun)
        for match in _MEASURES.finditer(text):
            right = units is None or units.search(match[0])
            yield _Span(*match.span(), 1.2 if right else 0.2), "measure"
        yield from _matches(_NUMBERS, text, -0.3, "number")
    elif kind == "number":
        yield from _counts(asked, text)
    elif kind in _LISTS:
        for token in sentence.tokens:
            if token.text.lower() in _LISTS[kind]:
                yield _Span(token.start, token.end, 1.0), kind
    elif kind == "reason":
        for match in _REASON.finditer(text):
            yield _Span(*match.span(1), 1.5), "reason"
        for match in re.finditer(r"\bto\s[^\W\d_A-Z]\w+[^.;,]*", text):
            yield _Span(*match.span(), 0.3), "reason"
        yield _Span(0, len(text), -0.5), "sentence"
    elif kind == "purpose":
        for match in _PURPOSE.finditer(text):
            part = "use" if match["use"] else "other"
            yield _Span(*match.span(part), 1.0 if match["used"] else 0.7), "purpose"
    elif kind == "definition" and set(asked.words) <= title:
        yield from _predicate(text, sentence, title)
    if kind in ("place", "name") or (kind == "thing" and asked.noun_is_given):
        behind = 0.0 if kind != "thing" else -0.2
        yield from _names(asked, sentence, behind)
    if kind not in ("date", "reason"):
        behind = (
            0.0
            if kind in ("thing", "definition")
            else -0.8
            if kind in ("purpose", *_LISTS)
            else -1.2
        )
        behind = -2.5 if kind in ("number", "measure") else behind
        for match in _QUOTED.finditer(text):
            yield _Span(*match.span(1), behind + 0.5), "quoted"
        yield from _chunks(asked, sentence, behind)


def _matches(
    pattern: re.Pattern[str], text: str, fit: float, rule: str
) -> Iterator[tuple[_Span, str]]:
    for match in pattern.finditer(text):
        yield _Span(*match.span(), fit), rule


def _counts(asked: _Asked, text: str) -> Iterator[tuple[_Span, str]]:
    """Numbers, better where what is counted follows."""
    for match in _NUMBERS.finditer(text):
        following = {t.stem for t in _tokens(text[match.end() : match.end() + 40])[:3]}
        yield _Span(*match.span(), 1.5 if asked.noun in following else 0.7), "number"


def _predicate(
    text: str, sentence: _Sentence, title: frozenset[str]
) -> Iterator[tuple[_Span, str]]:
    """What a sentence says that its subject is."""
    if sentence.label and sentence.label_stems <= title:
        yield _Span(0, (text + ";").index(";"), 1.0), "definition"
        return
    verb = re.search(r"\b(?:is|are|was|were)\s", text)
    if verb:
        end = re.search(r"[.;,]\s|[.;]?$", text[verb.end() :])
        yield _Span(verb.end(), verb.end() + (end.start() if end else len(text)), 1.0), "definition"


def _value(asked: _Asked, text: str) -> _Span:
    """What a label says: its first item, or all of them, without what stands in brackets."""
    quoted = _QUOTED.match(text)
    if quoted:
        return _Span(*quoted.span(1), 1.0)
    end = len(text)
    for mark in (" (", *(() if asked.several else (", ",))):
        place = text.find(mark, 1)
        end = place if 0 < place < end else end
    if asked.kind in ("place", "name") and (share := re.search(r"\s\d[\d.,]*\s?%", text[:end])):
        end = share.start()  # "Mongolian 90%"
    return _Span(0, end, 1.0)


def _names(asked: _Asked, sentence: _Sentence, fit: float) -> Iterator[tuple[_Span, str]]:
    """Capitalised words, better where the question's noun or a place's preposition stands beside them."""
    text, country = sentence.text, asked.noun in (_stem("country"), _stem("nation"))
    for match in _CAPITALISED.finditer(text):
        start, end = match.span()
        if match[0].rstrip(".") in _NOT_NAMES or end - start == 1:
            continue
        before = text[:start].split()[-3:]
        words = [w.strip(",.;:()\"'").lower() for w in before]
        own = [_stem(w.lower()) for w in match[0].split()]
        after = [w.strip(",.;:()\"'").lower() for w in text[end:].split()[:1]]
        good = fit + 0.6
        # A word at a sentence's start may have its capital from there.
        if start == 0 and len(own) == 1:
            good -= 1.0 if _tokens(match[0])[0].text.lower() not in _STOP else 3.0
        if asked.noun and asked.noun_is_given:
            if len(own) > 1 and own[0] == asked.noun and asked.kind == "name":
                start += len(match[0].split()[0]) + 1  # "King Alfred"
                good += 1.0
            elif asked.noun in (*own, *(_stem(w) for w in (*words[-2:], *after))):
                good += 1.0
        if asked.kind == "place":
            if direction := _DIRECTION.search(text[:start]):
                start = direction.start()
            behind = [w for w in words if w != "the"]
            if behind and behind[-1] in ("in", "of", "from", "at", "near", "to", "on", "into"):
                good += 0.4
            if country:
                good += 0.3 * start / len(text)
            # Of "in Pisa, Tuscany, Italy" the last is the country.
            if before and before[-1].endswith(","):
                good += 0.5 if country else 0.1
            if country and re.match(r",\s[^\W\d_a-z]", text[end:]):
                good -= 0.6
        elif words and words[-1] in ("by", "after", "god", "goddess"):
            good += 0.5
        yield _Span(start, end, good), "name"


def _chunks(asked: _Asked, sentence: _Sentence, fit: float) -> Iterator[tuple[_Span, str]]:
    """Runs of words between the small words and marks, better right behind the question's verb."""
    text, tokens = sentence.text, sentence.tokens
    run: list[int] = []
    for i, token in enumerate((*tokens, None)):
        free = token is not None and token.text.lower() not in _STOP and not asked.has(token.stem)
        joined = token is not None and (
            not run or not text[tokens[run[-1]].end : token.start].strip(" ")
        )
        if free and joined:
            run.append(i)
            continue
        if run and len(run) <= 6:
            start, end = tokens[run[0]].start, tokens[run[-1]].end
            yield _Span(start, end, fit + _cue(asked, tokens, run)), "words"
        run = [i] if free else []


def _cue(asked: _Asked, tokens: Sequence[_Token], run: Sequence[int]) -> float:
    """More for a run that follows the question's words, with small words between them at most."""
    i = run[0] - 1
    steps = 0
    while i >= 0 and steps < 4 and tokens[i].text.lower() in _STOP:
        i, steps = i - 1, steps + 1
    follows = i >= 0 and asked.has(tokens[i].stem)
    beside = asked.noun_is_given and asked.noun in (
        tokens[run[-1]].stem,
        *(t.stem for t in tokens[max(0, run[0] - 2) : run[0]]),
        *(t.stem for t in tokens[run[-1] + 1 : run[-1] + 2]),
    )
    # The last word of a question is its verb more often than not.
    main = follows and bool(asked.last) and tokens[i].stem in asked.words[asked.last]
    return (
        (0.6 if follows else 0.0)
        + (0.5 if main else 0.0)
        + (0.8 if beside else 0.0)
        - 0.05 * len(run)
    )


def _titled(passages: Sequence[_Passage]) -> tuple[str, float, int, str] | None:
    """The title of the best passage that has one, or else what its first sentence is about."""
    for passage in passages:
        if passage.title:
            return _trimmed(passage.title), 1.0, passage.number, "title"
    for passage in passages:
        for sentence in passage.sentences[:1]:
            subject = re.split(r"\b(?:is|are|was|were|has|have)\b", sentence.text, maxsplit=1)[0]
            text = _trimmed(subject if subject.strip() else sentence.text)
            if text:
                return text, 0.5, passage.number, "subject"
    return None


def _decided(
    asked: _Asked, ranked: Iterable[tuple[float, _Sentence]]
) -> tuple[str, float, int, str] | None:
    """Yes or no, or one of the choices, from the sentence with the most of the question's words."""
    best = max(ranked, key=lambda pair: pair[0], default=None)
    if best is None:
        return None
    support, sentence = best
    if asked.kind == "choice":
        choices = _choices(asked)
        counts = [sum(t.stem in sentence.stems for t in choice) / len(choice) for choice in choices]
        chosen = choices[counts.index(max(counts))]
        return " ".join(t.text for t in chosen), support, sentence.passage, "choice"
    negated = {"not", "no", "never", "without", "cannot", "nor"} & {
        t.text.lower() for t in sentence.tokens
    }
    same = sum(not kin.isdisjoint(sentence.stems) for kin in asked.words.values())
    says = 2 * same >= len(asked.words) and not negated
    return "yes" if says else "no", support, sentence.passage, "yes or no"


def _choices(asked: _Asked) -> list[list[_Token]]:
    """The words on both sides of the question's ``or``, up to the nearest small word."""
    tokens = asked.tokens
    middle = next(i for i, t in enumerate(tokens) if t.text.lower() == "or")
    left, right = middle, middle + 1
    while left > 0 and tokens[left - 1].text.lower() not in _STOP:
        left -= 1
    while right < len(tokens) and tokens[right].text.lower() in _STOP:
        right += 1
    end = right
    while end < len(tokens) and tokens[end].text.lower() not in _STOP:
        end += 1
    sides = [list(tokens[left:middle])[-2:], list(tokens[right:end])[:2]]
    return [side for side in sides if side] or [list(tokens)]


def _asked(question: str) -> _Asked:
    tokens = _tokens(question)
    words = [t.text.lower() for t in tokens]
    place = next((i for i, w in enumerate(words) if w in _ASKS), None)
    kind, noun, given = _kind(words, [t.stem for t in tokens], place)
    content: dict[str, frozenset[str]] = {}
    for i, token in enumerate(tokens):
        # "this animal" stands for a name that the question doesn't know.
        if words[i] not in _STOP and not (i > 0 and words[i - 1] in _DEICTIC):
            content[token.stem] = _KIN.get(token.stem, frozenset()) | {token.stem}
    if any(w in _SYMBOLS and words[i - 1] in _DEICTIC for i, w in enumerate(words) if i):
        # "the country with this flag" is a name, too
        content = {word: kin for word, kin in content.items() if word not in _BEARERS}
    plain = " ".join(question.lower().split()).strip(" ?.!:")
    if kind in ("thing", "name", "place"):
        if not words or _identity(plain) or _of_symbol(plain, content):
            kind = "title"
        elif re.search(r"\bused? for\b|\bpurpose\b|\bwhat .* for$", plain):
            kind = "purpose"
        elif (defined := _DEFINES.fullmatch(plain)) and " of " not in defined["defined"]:
            kind = "definition" if not given else kind
    # "Which river flows ...": the answer's sentence may well name a river without saying so.
    if given and noun in content and len(content) > 1 and kind != "number":
        del content[noun]
    several = bool(place is not None and {"are", "were"} & set(words[place : place + 3]))
    return _Asked(kind, noun, given, content, several, tokens)


def _identity(question: str) -> bool:
    """Whether it asks for nothing but what the image shows; not "which country is this in"."""
    last = question.rpartition(" ")[2]
    return bool(_IDENTITY.fullmatch(question)) and last not in (
        "in",
        "of",
        "from",
        "for",
        "by",
        "to",
        "at",
        "on",
    )


def _of_symbol(question: str, content: Iterable[str]) -> bool:
    """Whether it asks for nothing but what a flag or the like stands for."""
    match = _BELONGS.fullmatch(question)
    if not match or (match["symbol"] or match["other"]) not in _SYMBOLS:
        return False
    return set(content) <= _BEARERS | _stems_of("city region island team party")


def _kind(words: Sequence[str], stems: Sequence[str], place: int | None) -> tuple[str, str, bool]:
    """The kind of answer, the question's noun for it, and whether that is given as in "which river"."""
    if place is None:
        if words and words[0] in _AUXILIARIES:
            return ("choice" if "or" in words[1:-1] else "yes or no"), "", False
        return "thing", "", False
    ask, after, behind = words[place], words[place + 1 :], stems[place + 1 :]
    simple = {"who": "name", "whom": "name", "when": "date", "where": "place", "why": "reason"}
    if ask in simple:
        return simple[ask], "", False
    if ask == "how":
        if after[:1] in (["many"], ["much"]):
            unit = behind[1] if len(behind) > 1 else ""
            if len(after) > 1 and after[1] in _AUXILIARIES:  # "how much does it weigh"
                return "measure", behind[-1], False
            return "number", unit, True
        measured = bool(after) and after[0] in _MEASURED
        return ("measure", behind[0], False) if measured else ("thing", "", False)
    noun = _noun(after, behind)
    given = bool(after) and after[0] not in _AUXILIARIES and bool(noun)
    kind = _KIND_OF.get(noun, "thing") if noun else "thing"
    if ask == "whose":
        return "name", "", False
    return kind, noun, given


def _noun(words: Sequence[str], stems: Sequence[str]) -> str:
    """The noun of "which river flows" or "what is the height of": the last word before the next small one."""
    i = 0
    skipped = _AUXILIARIES | {"the", "a", "an", "kind", "kinds", "type", "types", "sort", "of"}
    while i < len(words) and words[i] in skipped:
        i += 1
    noun = ""
    while i < len(words) and words[i] not in _STOP:
        noun = stems[i] if not noun or stems[i] in _KIND_OF or noun not in _KIND_OF else noun
        i += 1
    return noun


def _sentences(text: str, passage: int) -> Iterator[_Sentence]:
    start = 0
    for match in _END.finditer(text):
        if match.start() < start or _goes_on(text, match):
            continue
        if match.end() > start:
            yield from _labelled(text[start : match.end()], passage)
        start = match.end()
    if text[start:].strip():
        yield from _labelled(text[start:], passage)


def _goes_on(text: str, end: re.Match[str]) -> bool:
    """Whether a full stop is an abbreviation's."""
    if not end[0].startswith("."):
        return False
    word = text[max(0, end.start() - 8) : end.start()].rpartition(" ")[2]
    following = text[end.end() : end.end() + 1]
    return (
        word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper()) or following.islower()
    )


def _labelled(text: str, passage: int) -> Iterator[_Sentence]:
    text = text.strip()
    if not text:
        return
    label = _LABEL.match(text)
    if (
        label
        and (words := label[1].lower().split())
        and len(words) <= 5
        and _AUXILIARIES.isdisjoint(words)
    ):
        yield _Sentence(text[label.end() :].strip(), label[1].strip(), passage)
    else:
        yield _Sentence(text, "", passage)


def _trimmed(text: str) -> str:
    text = text.strip().strip(",;:–—- ").strip()
    if text.endswith(".") and not re.search(r"\b\w\.$", text):
        text = text[:-1]
    pairs = (("(", ")"), ("[", "]"), ('"', '"'), ("“", "”"))
    for left, right in pairs:
        if text.startswith(left) and text.endswith(right) and len(text) > 1:
            text = text[1:-1]
        if text.count(left) + text.count(right) == 1:
            text = text.strip(left + right)
    return " ".join(text.split())


def _tokens(text: str) -> tuple[_Token, ...]:
    return tuple(
        _Token(m[0], m.start(), m.end(), _stem(m[0].lower())) for m in _TOKEN.finditer(text)
    )


@lru_cache(maxsize=1)
def _rules_sha256() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
