"""Validation while a reader is trained: answers to questions that it isn't trained on, and their loss.

Answers are as `Blip2Reader` decides them, decoded greedily: each passage's answer, of which that of the
highest log p(passage) + mean log probability of its tokens is the reader's.
"""

import hashlib
import json
from typing import TYPE_CHECKING

import torch

from m2kr.errors import UsageError
from m2kr.progress import SILENT, Progress, task
from m2kr.rag.gold import gold_answers
from m2kr.rag.readers.joint import paper_scores
from m2kr.rag.readers.local_model import greedy, written_tokens
from m2kr.rag.scorer_registry import default_scorers, open_scorer
from m2kr.rag.training.adapted_reader import AdaptedReader, ReaderBatch, ReaderInputs
from m2kr.rag.training.answer_loss import batch_loss
from m2kr.rag.training.questions import images_of
from m2kr.training.validation import unchanged

if TYPE_CHECKING:
    from m2kr.rag.scorer import GoldAnswer
    from m2kr.rag.training.questions import TrainingQuestions
    from m2kr.rag.training.reader_recipe import ReaderRecipe


class ReaderValidator:
    """Answers the same questions as often as it is asked to.

    Args:
        recipe: Its ``validation`` and ``data`` are read.
        questions: That are answered.
        inputs: Makes batches.

    Raises:
        UsageError: There is no such scorer.
    """

    def __init__(
        self, recipe: "ReaderRecipe", questions: "TrainingQuestions", inputs: ReaderInputs
    ) -> None:
        self._recipe, self._questions, self._inputs = recipe, questions, inputs
        golds = gold_answers(questions.split)
        ids = questions.ids
        self._golds = {name: golds[name] for name in ids if name in golds}
        name = recipe.validation.scorer or default_scorers(questions.split.source)[0]
        self._scorer = open_scorer(name, {})

    @property
    def fingerprint(self) -> str:
        """Hash (hex) of questions, passages and scorer."""
        parts = [self._questions.fingerprint, dict(self._scorer.facts()), self._recipe.data.top]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def validate(
        self, model: AdaptedReader, step: int, progress: Progress = SILENT
    ) -> dict[str, float]:
        """``score``, the mean over questions, how many there were (``scored``), and ``loss``.

        Args:
            model: With its adapter.
            step: Optimiser steps so far.
            progress: Told of questions.

        Raises:
            UsageError: The scorer can't judge an answer: a mean of the others would be too high.
        """
        device = next(model.parameters()).device
        scores: list[float] = []
        losses: list[float] = []
        rows = self._questions.rows.tolist()
        with unchanged(model, device), task(progress, "validating", len(rows), "questions"):
            for row in rows:
                visit = self._questions.as_visit(row, self._questions.top(row))
                images = images_of(self._questions, [visit], self._inputs.sees)
                batch = self._inputs.batch([visit], images).to(device)
                half = self._recipe.steps.precision == "bfloat16"
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    losses.append(float(batch_loss(self._recipe, model(batch), batch)))
                    answer = self.answer(model, batch)
                if (gold := self._golds.get(visit.question_id)) is not None:
                    scores.append(self._judged(answer, gold))
                progress.advance("validating", 1)
        if not scores:
            raise UsageError(
                f"none of {len(rows):,} questions has an answer to be judged by",
                where=self._questions.split.label,
                fix="--set validation.every=0",
            )
        return {
            "step": float(step),
            "score": sum(scores) / len(scores),
            "scored": float(len(scores)),
            "loss": sum(losses) / len(losses),
        }

    def _judged(self, answer: str, gold: "GoldAnswer") -> float:
        verdict = self._scorer.score(answer, gold)
        if verdict.score is None:
            raise UsageError(
                f"the scorer '{self._scorer.name}' can't judge the answer to '{gold.question_id}' "
                f"({verdict.rule})",
                where="validation.scorer",
                expected="one that judges every answer, such as exact_match",
            )
        return verdict.score

    def answer(self, model: AdaptedReader, batch: ReaderBatch) -> str:
        """The answer to a batch of one question."""
        config = greedy(model.language, self._recipe.data.target_tokens)
        inputs, mask = model.shown(batch)
        written: list[tuple[list[int], list[float]]] = []
        for number in range(len(inputs)):  # without padding, as a reader reads
            kept = mask[number].bool()
            if not model.encodes:  # the target follows
                places = torch.arange(len(kept), device=kept.device)
                kept = kept & (places < batch.prompt_lengths[number])
            out = model.language.generate(
                inputs_embeds=inputs[number : number + 1, kept],
                attention_mask=mask[number : number + 1, kept],
                generation_config=config,
            )
            written += written_tokens(out, config)
        joint = paper_scores(
            batch.documents.cpu().numpy(),
            [sum(scores) / max(1, len(scores)) for _, scores in written],
        )
        best = int(joint.argmax())
        text = self._inputs.tokenizer.decode(written[best][0], skip_special_tokens=True)
        return str(text).strip()
