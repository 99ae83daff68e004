"""Which question a visit of a reader's training meets, with which passages and targets."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.data.load import Split, load
from m2kr.errors import InputError, M2KRError, MissingError, UsageError
from m2kr.evaluation.rankings import open_run
from m2kr.rag.reader import RetrievedPassage
from m2kr.rag.training.targets import target_answer
from m2kr.training.draws import Purpose, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from m2kr.rag.training.reader_recipe import ReaderRecipe
    from m2kr.retrieval.run import Run

_FIXED = 0  # seed of the questions that are validated on, whatever the recipe's
_COLUMNS = ("answers", "gold_answer")


@dataclasses.dataclass(frozen=True, slots=True)
class QuestionVisit:
    """A question with some passages, each an input of its own.

    Attributes:
        number: The visit's.
        row: The question's, in its split.
        question_id: Its id.
        question: Its text.
        passages: In the run's order; none where training is without passages.
        targets: For each passage the answer that is learned; one where there are none.
    """

    number: int
    row: int
    question_id: str
    question: str
    passages: tuple[RetrievedPassage, ...]
    targets: tuple[str, ...]


class TrainingQuestions:
    """TrainingQuestions that have answers and passages, of one split.

    Args:
        split: Whose.
        run: What was retrieved for them; None for none.
        recipe: Its ``data`` is read.
        seed: Of the order and of the passages that are drawn.
        rows: Only these.

    Attributes:
        split: As given.
        rows: Of the questions that remain, in the table's order.
        without_answer: How many of ``rows`` are left out for having no answer.
        without_passages: How many of the others for having no passage in the run.

    Raises:
        InputError: The split's questions have no answers.
        UsageError: The run is of other questions.
    """

    def __init__(
        self,
        split: Split,
        run: "Run | None",
        recipe: "ReaderRecipe",
        seed: int,
        rows: "NDArray[np.int64] | None" = None,
    ) -> None:
        self.split, self._run, self._recipe, self._seed = split, run, recipe, seed
        self._ids: list[str] = split.queries_view.column("question_id")
        self._questions: list[str | None] = split.queries_view.column("question")
        self._read_answers()
        chosen = np.arange(len(split)) if rows is None else rows
        answered = np.array(
            [self._target(row, None) is not None for row in chosen.tolist()], bool
        ).reshape(-1)
        found = np.ones(len(chosen), bool)
        if run is not None:
            found = np.array([self._found(row) for row in chosen.tolist()], bool).reshape(-1)
        self.without_answer = int((~answered).sum())
        self.without_passages = int((answered & ~found).sum())
        self.rows: NDArray[np.int64] = chosen[answered & found]
        if not len(self.rows):
            raise UsageError(
                f"no question is left to train on: of {len(chosen):,}, {self.without_answer:,} have no "
                f"answer, {self.without_passages:,} of the others no passage in the run",
                where=split.label,
                expected="questions with answers, and a run for this split",
                fix=run_command(split.source, split.split),
            )
        self._order = lru_cache(maxsize=2)(self._permutation)

    def visit(self, number: int) -> QuestionVisit:
        """The question of a visit, and the passages drawn for it: a function of seed and number."""
        epoch, place = divmod(number, len(self.rows))
        row = int(self._order(epoch)[place])
        passages = self.top(row)
        count = self._recipe.data.sampled
        if len(passages) > count:
            drawn = generator(self._seed, Purpose.VISIT, number).permutation(len(passages))[:count]
            passages = tuple(passages[place] for place in sorted(drawn.tolist()))
        return self.as_visit(row, passages, number)

    def as_visit(
        self, row: int, passages: tuple[RetrievedPassage, ...], number: int = 0
    ) -> QuestionVisit:
        """A question with chosen passages, and their targets."""
        texts: list[str | None] = [each.text for each in passages] or [None]
        if self._recipe.loss.kind == "marginal":  # one target, or there is nothing to sum
            texts = ["\n\n".join(each or "" for each in texts)] * len(texts)
        targets = tuple(self._target(row, text) or "" for text in texts)
        question = self._questions[row] or ""
        return QuestionVisit(number, row, self._ids[row], question, passages, targets)

    def top(self, row: int) -> tuple[RetrievedPassage, ...]:
        """A question's first passages in the run, best first."""
        if self._run is None:
            return ()
        name = self._ids[row]
        ids = self._run.passage_ids(name)[: self._recipe.data.top]
        rows = self.split.passage_rows(ids)
        if (rows < 0).any():
            unknown = ids[int(np.flatnonzero(rows < 0)[0])]
            raise InputError(
                f"the run's passage '{unknown}' of question '{name}' is not in the pool",
                where=self.split.label,
                expected="a run for this source, as it is here",
            )
        scores = self._run.scores(name)[: len(ids)].tolist()
        texts = self.split.texts(rows)
        return tuple(map(RetrievedPassage, ids, texts, scores))

    @cached_property
    def fingerprint(self) -> str:
        """Hash (hex) of all that visits depend on but the recipe: data, rows, run."""
        parts = [
            self.split.fingerprints,
            self.split.queries_view.order,
            self.split.passages_view.order,
            hashlib.sha256(json.dumps([self._answers, self._gold]).encode()).hexdigest(),
            hashlib.sha256(self.rows.astype(np.int64).tobytes()).hexdigest(),
            None if self._run is None else self._run.sha256(),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def ids(self) -> list[str]:
        """Ids of the questions."""
        return [self._ids[row] for row in self.rows.tolist()]

    def facts(self) -> dict[str, Any]:
        """What is visited, as JSON."""
        return {
            "source": self.split.source,
            "split": self.split.split,
            "edition": self.split.edition,
            "questions": len(self.rows),
            "without_answer": self.without_answer,
            "without_passages": self.without_passages,
            "run": None if self._run is None else self._run.name,
            "run_sha256": None if self._run is None else self._run.sha256(),
        }

    def _found(self, row: int) -> bool:
        assert self._run is not None
        name = self._ids[row]
        return name in self._run and bool(self._run.passage_ids(name))

    def _target(self, row: int, passage: str | None) -> str | None:
        return target_answer(self._answers[row], self._gold[row], passage)

    def _read_answers(self) -> None:
        view = self.split.queries_view
        names = self.split.queries_view.table.column_names
        if not set(_COLUMNS) & set(names):
            raise InputError(
                "the source's questions have no answers",
                where=self.split.label,
                expected=f"a column {' or '.join(_COLUMNS)}",
            )
        none: list[Any] = [None] * len(self.split)
        answers = view.column("answers") if "answers" in names else none
        self._answers = [[str(one) for one in each or () if one is not None] for each in answers]
        self._gold: list[str | None] = (
            view.column("gold_answer") if "gold_answer" in names else none
        )

    def _permutation(self, epoch: int) -> "NDArray[np.int64]":
        return generator(self._seed, Purpose.ROWS, 0, epoch).permutation(self.rows)


def images_of(
    questions: TrainingQuestions, visits: Sequence[QuestionVisit], seen: bool
) -> "list[Image | None]":
    """The questions' images, if they are to be seen.

    Raises:
        MissingError: An image is not there.
        InputError: It is damaged.
    """
    images: list[Image | None] = []
    for visit in visits:
        with _named(f"{questions.split.label}, question {visit.question_id!r}"):
            images.append(questions.split.image(visit.row) if seen else None)
    return images


def open_questions(
    recipe: "ReaderRecipe", data: Path, images: Sequence[str | Path] = ()
) -> tuple[TrainingQuestions, TrainingQuestions | None]:
    """The questions that are trained on, and those that are validated on.

    Args:
        recipe: Checked.
        data: The data root.
        images: Image roots searched before the source's own.

    Raises:
        M2KRError: Source, split or run are not there, or don't fit each other.
    """
    told, looks, seed = recipe.data, recipe.validation, recipe.steps.seed
    with _named("data"):
        split = load(told.source, told.split, edition=told.edition, data=data, images=images)
    run = _open_run("data.run", told.run, split)
    trained, held = TrainingQuestions(split, run, recipe, seed), None
    if looks.every and looks.split is None:
        if len(trained.rows) <= looks.questions:
            raise UsageError(
                f"validation.questions holds {looks.questions:,} questions out of training, but there are "
                f"{len(trained.rows):,}",
                where=split.label,
                fix="--set validation.questions=… or validation.every=0",
            )
        mixed = generator(_FIXED, Purpose.TAKE, 1).permutation(trained.rows)
        held = TrainingQuestions(split, run, recipe, _FIXED, np.sort(mixed[: looks.questions]))
        trained = _same_but(trained, run, recipe, np.sort(mixed[looks.questions :]))
    elif looks.every and looks.split is not None:
        with _named("validation"):
            other = load(told.source, looks.split, edition=told.edition, data=data, images=images)
        its_run = _open_run("validation.run", looks.run, other)
        held = TrainingQuestions(other, its_run, recipe, _FIXED)
        if len(held.rows) > looks.questions:
            mixed = generator(_FIXED, Purpose.TAKE, 1).permutation(held.rows)
            held = TrainingQuestions(
                other, its_run, recipe, _FIXED, np.sort(mixed[: looks.questions])
            )
    if told.take is not None:
        if told.take > len(trained.rows):
            raise UsageError(
                f"data.take is {told.take:,}, but there are {len(trained.rows):,} questions",
                where=split.label,
            )
        mixed = generator(seed, Purpose.TAKE).permutation(trained.rows)
        trained = _same_but(trained, run, recipe, np.sort(mixed[: told.take]))
    return trained, held


def _same_but(
    whole: TrainingQuestions, run: "Run | None", recipe: "ReaderRecipe", rows: "NDArray[np.int64]"
) -> TrainingQuestions:
    """Some of the questions, with the counts of all."""
    part = TrainingQuestions(whole.split, run, recipe, recipe.steps.seed, rows)
    part.without_answer, part.without_passages = whole.without_answer, whole.without_passages
    return part


def is_missing(path: str) -> bool:
    """Whether there is no file of that name; a pattern is for `open_run` to look up."""
    return not Path(path).exists() and not any(each in path for each in "*?[")


def _open_run(key: str, path: str | None, split: Split) -> "Run | None":
    if path is None:
        return None
    if is_missing(path):
        raise MissingError(
            "there is no such run",
            where=f"{key}: {path}",
            expected="a run or result (RUN.parquet in a recipe is a placeholder, to be set)",
            fix=run_command(split.source, split.split, key),
        )
    with _named(key):
        return open_run(Path(path), split)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Errors name a key of the recipe, or a question."""
    try:
        yield
    except M2KRError as error:
        where = f"{key}: {error.where}" if error.where else key
        raise type(error)(
            error.what, where=where, expected=error.expected, fix=error.fix
        ) from error


def run_command(source: str, split: str, key: str = "data.run") -> str:
    """The command that makes a run for a split."""
    return f"m2kr eval {source} --split {split} -r RETRIEVER, and --set {key}=FILE"
