"""Asking a reader all questions of an experiment, so that each is asked once and no answer is lost."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from m2kr.data.records import Queries
from m2kr.errors import M2KRError
from m2kr.progress import Progress
from m2kr.rag.arms import PassageArm, oracle_passages
from m2kr.rag.kept_answers import AnswerStore, answer_key
from m2kr.rag.own_reader import read_all
from m2kr.rag.reader import Reader, ReadRequest, RetrievedPassage
from m2kr.rag.records import ORACLE, RETRIEVED
from m2kr.rag.used_run import UsedRun

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from m2kr.data.load import Split
    from m2kr.rag.scorer import GoldAnswer

_AT_ONCE = 64  # questions whose texts are in memory
_POLL = 0.2  # seconds between looks at what another process asks for
_PATIENCE = 30.0  # seconds without an answer, before a process on another host is looked after
_COLUMNS = ("question_id", "question", "img_path", "pos_item_ids", "pos_item_contents")
_GRADES = "pos_item_grades"
_PAID = "paid"
Item = TypeVar("Item")


def in_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Items, ``size`` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


@dataclass
class Spending:
    """What this process did; a result has what its answers took, whoever asked for them.

    Attributes:
        asked: Answers that readers gave.
        kept: Answers of arms that were there before, or that arms share.
        seconds: That readers took.
        dollars: That were paid, so far as they are known.
    """

    asked: int = 0
    kept: int = 0
    seconds: float = 0.0
    dollars: float = 0.0


@dataclass(frozen=True)
class AskedQuestions:
    """The questions of a split that have an accepted answer, in its order.

    Attributes:
        split: The split.
        golds: Accepted answers by query id.
    """

    split: "Split"
    golds: "Mapping[str, GoldAnswer]"

    @cached_property
    def ids(self) -> list[str]:
        """Their ids."""
        return [
            row_id for row_id in self.split.queries_view.ids.to_pylist() if row_id in self.golds
        ]

    @cached_property
    def rows(self) -> "NDArray[np.int64]":
        """Their rows in the split."""
        ids = self.split.queries_view.ids.to_pylist()
        return np.array([n for n, row_id in enumerate(ids) if row_id in self.golds], np.int64)

    @cached_property
    def tasks(self) -> list[str | None]:
        """Their tasks, where the source has a column of that name."""
        if "task" not in self.split.queries_view.table.column_names:
            return [None] * len(self.rows)
        tasks = self.split.queries_view.column("task")
        return [tasks[row] for row in self.rows]

    @cached_property
    def _asked(self) -> Queries:
        table = self.split.queries_view.table
        return Queries(table.select([*_COLUMNS, *({_GRADES} & {*table.column_names})]))

    def read(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """The rows at some places of `ids`."""
        return self._asked.rows(self.rows[list(places)].tolist())


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question as one arm asks it; arms that ask alike share one."""

    place: int
    row: Mapping[str, Any]
    passages: tuple[RetrievedPassage, ...]


@dataclass
class Answering:
    """A reader, asked the questions of an experiment by its arms.

    Attributes:
        questions: What is asked.
        reader: Who is asked.
        facts: All that decides its answers.
        run: Whose passages it gets; None if there are none.
        arms: In which ways.
        store: Where answers are kept.
        progress: Told of answers and of money.
        spent: Counts what this process does.
        keys: By question and arm what the answer is kept under; None where the arm doesn't ask.
        right: By question the passages that the oracle gives.
        images: By question the digest of its image, or what is given in its place; None if there is none or
            the reader sees none.
    """

    questions: AskedQuestions
    reader: Reader
    facts: Mapping[str, Any]
    run: UsedRun | None
    arms: Sequence[PassageArm]
    store: AnswerStore
    progress: Progress
    spent: Spending
    keys: list[list[bytes | None]] = field(default_factory=list)
    right: list[tuple[str, ...]] = field(default_factory=list)
    images: list[str | None] = field(default_factory=list)

    def answer_all(self) -> None:
        """Asks what isn't kept yet; afterwards all of it is.

        What another process is asking for is left to it, and waited for at the end.

        Raises:
            M2KRError: the reader can't answer, or broke its contract; what it answered is kept.
        """
        label = f"{self.reader.name} + {self.run.name}" if self.run else self.reader.name
        count = len(self.questions.ids)
        self.keys, self.right, self.images = [], [], []
        self.progress.start(label, count * len(self.arms), "answers")
        self.store.free_claims_of_the_dead()
        waiting: list[tuple[Sequence[int], set[bytes]]] = []
        for places in in_batches(range(count), _AT_ONCE):
            asked, keys = self._asked(places)
            self.keys += keys
            times = Counter(key for row in keys for key in row if key is not None)
            undefined = sum(row.count(None) for row in keys)
            self.progress.advance(label, undefined)
            if left := self._answer(asked, times, label):
                waiting.append((places, left))
        since = time.monotonic()
        while waiting:
            self.store.free_claims_of_the_dead(patient=time.monotonic() - since > _PATIENCE)
            still = []
            for places, others in waiting:
                asked, keys = self._asked(places, again=True)
                times = Counter(key for row in keys for key in row if key in others)
                some = {key: one for key, one in asked.items() if key in others}
                left = self._answer(some, times, label)
                if left != others:
                    since = time.monotonic()
                if left:
                    still.append((places, left))
            waiting = still
            if waiting:
                time.sleep(_POLL)
        self.progress.done(label)
        self.progress.done(_PAID)

    def _asked(
        self, places: Sequence[int], *, again: bool = False
    ) -> tuple[dict[bytes, _Asked], list[list[bytes | None]]]:
        """What some questions are asked, each thing once, and by question and arm its key."""
        rows = self.questions.read(places)
        texts = self._texts(places)
        asked: dict[bytes, _Asked] = {}
        keys: list[list[bytes | None]] = []
        for place, row in zip(places, rows, strict=True):
            image = self._image_digest(row)
            if not again:
                self.images.append(image)
            line: list[bytes | None] = []
            for arm in self.arms:
                passages = self._passages(arm, place, row, texts)
                if arm.name == ORACLE and not again:
                    self.right.append(tuple(passage.passage_id for passage in passages or ()))
                if passages is None:
                    line.append(None)
                    continue
                shown = passages
                if not getattr(self.reader, "sees_scores", True):
                    shown = tuple(replace(passage, score=0.0) for passage in passages)
                key = answer_key(self.facts, row["question"], image, shown)
                asked.setdefault(key, _Asked(place, row, passages))
                line.append(key)
            keys.append(line)
        return asked, keys

    def _texts(self, places: Sequence[int]) -> dict[int, str]:
        """Texts of the passages that the run has for some questions, by place in its vocabulary."""
        if self.run is None:
            return {}
        codes = np.unique(
            np.concatenate([self._run_rows(place, self.arms[-1].k)[0] for place in places])
        )
        texts = self.questions.split.texts(self.run.rows[codes])
        return dict(zip(codes.tolist(), texts, strict=True))

    def _run_rows(self, place: int, k: int) -> "tuple[NDArray[np.int32], NDArray[np.float64]]":
        """Places in the vocabulary and scores of the first k that the run has for a question."""
        assert self.run is not None
        run, row = self.run.run, int(self.questions.rows[place])
        first, end = int(run.offsets[row]), int(run.offsets[row + 1])
        rows = slice(first, min(end, first + k))
        return run.codes[rows], run.flat_scores[rows]

    def passage_ids(self, place: int, arm: PassageArm) -> tuple[str, ...]:
        """The passages that an arm gives for a question, best first."""
        if arm.name == ORACLE:
            return self.right[place]
        if arm.name != RETRIEVED or self.run is None:
            return ()
        return tuple(self.run.run.ids_of(self._run_rows(place, arm.k)[0]).to_pylist())

    def _passages(
        self, arm: PassageArm, place: int, row: Mapping[str, Any], texts: Mapping[int, str]
    ) -> tuple[RetrievedPassage, ...] | None:
        """What an arm gives the reader; None where it doesn't ask."""
        if arm.name == ORACLE:
            gold = self.questions.golds[row["question_id"]]
            threshold = self.questions.split.relevance_threshold
            return oracle_passages(row, gold.answers, arm.k, threshold) or None
        if arm.name != RETRIEVED or self.run is None:
            return ()
        codes, scores = self._run_rows(place, arm.k)
        ids = self.passage_ids(place, arm)
        return tuple(
            RetrievedPassage(passage_id, texts[int(code)], float(score))
            for passage_id, code, score in zip(ids, codes, scores, strict=True)
        )

    def _image_digest(self, row: Mapping[str, Any]) -> str | None:
        path, images = row["img_path"], self.questions.split.images
        if not self.reader.sees_images or path is None or images is None:
            return None
        return images.sha256(path) or f"missing: {images.missing}"

    def _answer(
        self, asked: Mapping[bytes, _Asked], times: Mapping[bytes, int], label: str
    ) -> set[bytes]:
        """Asks what is not kept; gives the keys that other processes are asking for."""

        def done(key: bytes, *, by_reader: bool) -> None:
            self.spent.asked += by_reader
            self.spent.kept += times[key] - by_reader
            self.progress.advance(label, times[key])

        for key in (kept := self.store.known(asked)):
            done(key, by_reader=False)
        left: set[bytes] = set()
        for some in in_batches([key for key in asked if key not in kept], self.reader.batch):
            mine = self.store.claim(some)
            left |= {*some} - mine
            if mine:
                with self._claimed(mine):
                    self._ask(
                        {key: asked[key] for key in some if key in mine},
                        lambda key: done(key, by_reader=True),
                    )
        return left

    @contextmanager
    def _claimed(self, keys: set[bytes]) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.store.give_up(keys)
            raise

    def _ask(self, asked: Mapping[bytes, _Asked], done: Callable[[bytes], None]) -> None:
        """Has the reader answer, and keeps each answer as it comes."""
        requests = [*self._requests(asked.values())]
        keys = [*asked]
        began = time.perf_counter()
        try:
            for number, answer in read_all(self.reader, requests):
                now = time.perf_counter()
                self.store.put(keys[number], answer, now - began)
                self.spent.seconds += now - began
                began = now
                if answer.dollars:
                    self.spent.dollars += answer.dollars
                    self.progress.start(_PAID, None, "microdollars")
                    self.progress.advance(_PAID, round(answer.dollars * 1e6))
                done(keys[number])
        except M2KRError as error:
            if error.where:
                raise
            names = f"question '{requests[0].question_id}'"
            if len(requests) > 1:
                names = f"{len(requests)} questions from '{requests[0].question_id}' on"
            where = f"reader {self.reader.name}, {names}"
            raise type(error)(
                error.what, where=where, expected=error.expected, fix=error.fix
            ) from error

    def _requests(self, asked: Iterable[_Asked]) -> Iterator[ReadRequest]:
        opened: tuple[int, Image | None] = (-1, None)
        for one in asked:
            if opened[0] != one.place and self.reader.sees_images:
                opened = one.place, self.questions.split.image(one.row)
            yield ReadRequest(
                one.row["question_id"], one.row["question"] or "", opened[1], one.passages
            )
