"""Encyclopedic-VQA's rules: exact match first, sets for several answers, then BEM.

They follow the evaluation that E-VQA's authors publish (encyclopedic_vqa/evaluation_utils.py in
google-research):

- An answer is right if it is right by any of the references, which ``|`` separates.
- Texts are compared in lower case, without punctuation, without the words a, an, the and "the answer is",
  with numbers in words up to ten as digits, none as 0, true as yes and false as no. The authors also
  put back the apostrophes of contractions; as they have taken out all of both texts before, that never
  decides whether two are the same.
- A question of type ``multi_answer`` has references with members between ``&&``; the answer's are between
  commas, "and" or "&". It is right if the intersection of the two sets is at least half of their union.
- All that isn't right by that is BEM's to judge, from the texts as they are (``&&`` as a comma): right
  from a probability of 0.5 on.

What the authors leave open or fail at is settled so: an empty answer is wrong, and BEM isn't asked; a
reference of which nothing is left, such as the letter "A", is compared with its articles, where theirs
stops with an error; texts that Unicode calls equivalent are equal; where the question's type is unknown,
``&&`` makes a reference one of several members.
"""

import re
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from m2kr.errors import UsageError
from m2kr.rag.question_kinds import EVQA_SINGLE_HOP, EVQA_TYPES
from m2kr.rag.scorer import NO_GOLD, GoldAnswer, PartsScorer, Verdict

if TYPE_CHECKING:
    from m2kr.rag.scorers.bem import Bem

NEEDS_BEM = "needs BEM"
_PUNCTUATION = str.maketrans("", "", string.punctuation + "‘’´")
_FILLERS = re.compile(r"\b(?:the answer is|a|an|the)\b")
_T5_SPAN = "<extra_id_0> "
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SAME = {word: str(number) for number, word in enumerate(_NUMBERS)} | {
    "none": "0",
    "true": "yes",
    "false": "no",
    "entailment": "yes",
    "contradiction": "no",
}


def evqa_normalised(text: str) -> str:
    """A text as E-VQA's exact match compares it.

    Example:
        >>> evqa_normalised("The answer is: Two metres.")
        '2 metres'
    """
    text = unicodedata.normalize("NFC", text).lower().replace("\n", " ").replace("\t", " ").strip()
    if text.startswith(_T5_SPAN):
        text = text.replace(_T5_SPAN, "")
    text = _FILLERS.sub(" ", text.translate(_PUNCTUATION))
    return " ".join(_SAME.get(word, word) for word in text.split())


class EvqaScorer(PartsScorer):
    """E-VQA's score of an answer, 0 or 1; None where it takes BEM and there is none.

    Args:
        bem: None leaves all answers open that only BEM can judge.
        threshold: The least probability that is right.

    Raises:
        UsageError: The threshold isn't from 0 to 1.
    """

    name = "evqa"
    settings: ClassVar[tuple[str, ...]] = (
        "bem",
        "bem.threshold",
        "bem.segments",
        "bem.activation",
    )

    def __init__(self, bem: "Bem | None" = None, threshold: float = 0.5) -> None:
        if not 0 <= threshold <= 1:
            raise UsageError(f"bem.threshold is {threshold}", expected="a number from 0 to 1")
        self._bem = bem
        self._threshold = threshold

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> Self:
        """The scorer that ``bem=FOLDER`` and ``bem.…`` ask for; other settings are not its own.

        Raises:
            M2KRError: A setting is wrong, or BEM's checkpoint is.
        """
        own = {key: value for key, value in settings.items() if key.split(".")[0] == "bem"}
        for key in own:
            if key not in cls.settings:
                raise UsageError(
                    f"there is no setting {key!r:.80}", expected=", ".join(cls.settings)
                )
        folder = own.get("bem")
        if folder is None and own:
            raise UsageError(f"{min(own)} is set, but no bem", fix="--set bem=FOLDER")
        try:
            threshold = float(own.get("bem.threshold", "0.5"))
        except ValueError:
            raise UsageError(
                f"bem.threshold is {own['bem.threshold']!r:.80}", expected="a number from 0 to 1"
            ) from None
        if folder is None:
            return cls(None, threshold)
        from m2kr.rag.scorers.bem import Bem

        bem = Bem.open(
            folder, segments=own.get("bem.segments"), activation=own.get("bem.activation")
        )
        return cls(bem, threshold)

    def facts(self) -> Mapping[str, Any]:
        """The threshold, and which BEM it is: null if none."""
        bem = None if self._bem is None else dict(self._bem.facts())
        return {"name": self.name, "bem": bem, "threshold": self._threshold}

    def score(self, prediction: str, gold: GoldAnswer) -> Verdict:
        """As of `AnswerScorer.score`; the rules are the module's."""
        references = sorted(
            {part.strip() for each in gold.answers for part in each.split("|")} - {""}
        )
        if not references:
            return Verdict(None, NO_GOLD)
        if not prediction.strip():
            return Verdict(0.0, "empty answer")
        overlaps = [0.0]
        for reference in references:
            if _has_members(reference, gold):
                overlaps.append(_overlap(prediction, reference))
                if overlaps[-1] >= 0.5:
                    return Verdict(1.0, "set IoU", {"reference": reference, "iou": overlaps[-1]})
            elif _same(prediction, reference):
                return Verdict(1.0, "exact match", {"reference": reference})
        detail: dict[str, Any] = {"iou": max(overlaps)} if len(overlaps) > 1 else {}
        if self._bem is None:
            return Verdict(None, NEEDS_BEM, detail)
        compared = {
            reference: self._bem.compare(prediction, _as_text(reference, gold), gold.question)
            for reference in references
        }
        best = max(compared, key=lambda reference: compared[reference].probability)
        probability, cut = compared[best]
        detail |= {"reference": best, "probability": probability}
        if cut:
            detail["cut_tokens"] = cut
        return Verdict(float(probability >= self._threshold), "BEM", detail)

    def totals(
        self, verdicts: Sequence[Verdict], golds: Sequence[GoldAnswer]
    ) -> Mapping[str, float]:
        """``single_hop``: the mean over templated and automatic questions, where there are others, too.

        It is the figure that most papers report. There is none where an answer couldn't be judged.
        """
        rows = [
            gold.question_type in EVQA_SINGLE_HOP
            for verdict, gold in zip(verdicts, golds, strict=True)
            if verdict.rule != NO_GOLD
        ]
        judged = len(self.scores_of_parts(verdicts, golds).get("single_hop", ()))
        return super().totals(verdicts, golds) if 0 < judged == sum(rows) < len(rows) else {}

    def parts(self, gold: GoldAnswer) -> Sequence[str]:
        """As of `PartsScorer.parts`."""
        return ("single_hop",) if gold.question_type in EVQA_SINGLE_HOP else ()


def _has_members(reference: str, gold: GoldAnswer) -> bool:
    if gold.question_type in EVQA_TYPES:
        return gold.question_type == "multi_answer"
    return "&&" in reference


def _as_text(reference: str, gold: GoldAnswer) -> str:
    return reference.replace("&&", ",") if _has_members(reference, gold) else reference


def _same(prediction: str, reference: str) -> bool:
    if required := evqa_normalised(reference):
        return evqa_normalised(prediction) == required
    one, other = (text.lower().translate(_PUNCTUATION).split() for text in (prediction, reference))
    return one == other != []


def _overlap(prediction: str, reference: str) -> float:
    required = _members(reference.split("&&"))
    given = _members(prediction.replace(" and ", ",").replace(" & ", ",").split(","))
    return len(required & given) / len(required | given) if required else 0.0


def _members(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(map(evqa_normalised, texts)) - {""}
