"""OK-VQA: soft accuracy against ten annotators, as the official VQA evaluation computes it."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from m2kr.rag.scorer import NO_GOLD, ONE_ANNOTATOR, GoldAnswer, MeanScorer, Verdict

_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
# Where a sign stands beside a blank it goes; elsewhere a blank takes its place.
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_MOST_FULL_STOPS = (
    32  # the official call gives a flag (re.UNICODE, which is 32) in place of a count
)
_TO_TEN = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_TO_TEN.split())} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))
_ENOUGH = 3  # annotators who said the same, for full marks

# Whatever lacks one of its apostrophes gets it back: "dont", "couldnt've", "couldn'tve".
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've
    must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
    where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    form[:place] + form[place + 1 :]: form
    for form in _CONTRACTED.split()
    for place, sign in enumerate(form)
    if sign == "'"
} | {"somebody'd": "somebodyd"}  # the wrong way round, in the official table


class OkvqaScorer(MeanScorer):
    r"""Soft accuracy: the mean over annotators of min(1, others who gave this answer / 3).

    With n annotators, m of whom gave the answer: ``(m min(1, (m - 1)/3) + (n - m) min(1, m/3)) / n``; of
    ten, 0.3 for one, 0.6 for two, 0.9 for three and 1 for four. The same holds for any number of them: but
    fewer than four can't give 1 (two give 1/3 at most), and one alone leaves no others, so that there is
    no score.

    Line ends and tabs are blanks and outer blanks go. Only if the annotators then differ, the answer and
    theirs are cleaned:

    - A sign (``; / [ ] " { } ( ) = + \ _ - > < @ ` , ? !``) that stands beside a blank anywhere in the text
      goes everywhere in it, as do all of them where a comma lies between digits; others become a blank.
    - Full stops go that no digit follows, the first 32 of them.
    - Lower case; ``none`` and ``zero`` to ``ten`` as digits; no ``a``, ``an``, ``the``; contractions get
      their apostrophe (``dont``; but ``somebody'd`` loses it, and ``lets`` gets none), word by word.

    So where all annotators agree to the letter, ``Pear`` is not ``pear``: the official rule. An annotator
    who gave no answer counts as one of them, and an answer of which nothing is left is theirs.
    Texts that Unicode calls equivalent are equal; that is the one difference from the official rules.
    """

    name = "okvqa"

    def facts(self) -> Mapping[str, Any]:
        """As of `AnswerScorer.facts`."""
        return {"name": self.name, "rules": "VQA evaluation, leave one out", "enough": _ENOUGH}

    def score(self, prediction: str, gold: GoldAnswer) -> Verdict:
        """As of `AnswerScorer.score`."""
        said, answers = _one_line(prediction), [_one_line(answer) for answer in gold.answers]
        cleaned = len(set(answers)) > 1
        if cleaned:
            said, answers = cleaned_vqa_answer(said), list(map(cleaned_vqa_answer, answers))
        matches = answers.count(said)
        if not answers:
            return Verdict(None, NO_GOLD)
        detail = {"annotators": len(answers), "matches": matches, "cleaned": cleaned}
        if len(answers) < 2:
            return Verdict(None, ONE_ANNOTATOR, detail)
        score = leave_one_out(matches, len(answers))
        return Verdict(score, f"{matches} of {len(answers)} annotators", detail)


def leave_one_out(matches: int, annotators: int) -> float:
    """Soft accuracy of an answer that some of the annotators gave.

    Args:
        matches: How many gave it.
        annotators: How many there are, one at least.
    """
    by_them = matches * min(1.0, (matches - 1) / _ENOUGH) if matches else 0.0
    by_others = (annotators - matches) * min(1.0, matches / _ENOUGH)
    return (by_them + by_others) / annotators


def cleaned_vqa_answer(text: str) -> str:
    """An answer after the official clean-up; see `OkvqaScorer`.

    Example:
        >>> cleaned_vqa_answer("The two-door cars, maybe")
        '2 door cars maybe'
    """
    everywhere = _NUMBER_WITH_COMMA.search(text) is not None
    table = {
        ord(sign): "" if everywhere or f"{sign} " in text or f" {sign}" in text else " "
        for sign in _SIGNS
    }
    bare = _FULL_STOP.sub("", text.translate(table), count=_MOST_FULL_STOPS)
    words = (_NUMBERS.get(word, word) for word in bare.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _one_line(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    return text.replace("\n", " ").replace("\t", " ").strip()
