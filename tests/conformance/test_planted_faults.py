"""The kit finds the faults that retrievers have, each by the check that is for it."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import m2kr
from m2kr.conformance import CHECKS, check_retriever
from m2kr.errors import InputError, M2KRError, MissingError, UpstreamError, UsageError
from m2kr.retrieval.protocol import RetrieverBase

Scores = dict[str, float]


class Words:
    """Ranks by shared words; right in every way."""

    name = "words"
    modalities = {"query": ["text"], "passage": ["text"]}  # noqa: RUF012

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = weight
        self.settings = {"weight": weight}

    def index(self, passages, *, workdir):
        self.passages = dict(
            zip(passages.ids.to_pylist(), passages.column("passage_content"), strict=True)
        )

    def search(self, queries, k):
        return m2kr.Run.from_dict(
            {row["question_id"]: self.rank(row, k) for row in rows_of(queries)}
        )

    def rank(self, query, k) -> Scores:
        scores = self.scores(query)
        best = sorted(scores, key=lambda name: (-scores[name], name))[:k]
        return {name: scores[name] for name in best}

    def scores(self, query) -> Scores:
        asked = self.words(query["question"] or query["instruction"])
        return {name: self.score(asked, text) for name, text in self.passages.items()}

    def words(self, text):
        return set(text.lower().split())

    def score(self, asked, text):
        shared = len(asked & self.words(text))
        return self.weight * shared + shared / (1 + len(text))


def rows_of(records) -> Iterator[dict]:
    for rows in records.batches(5):
        yield from rows


class Encoder(m2kr.EncoderRetriever):
    """Words as a dense encoder, of text and picture; right in every way."""

    modalities = {"query": ["text", "image"], "passage": ["text"]}  # noqa: RUF012

    def encode_document(self, batch):
        return self.pooled([self.tokens(text) for text in batch.texts])

    def encode_query(self, batch):
        texts = [q or i for q, i in zip(batch.texts, batch.instructions, strict=True)]
        rows = [
            [*self.tokens(text), *self.seen(image)]
            for text, image in zip(texts, batch.images, strict=True)
        ]
        return self.pooled(rows)

    def tokens(self, text):
        return [self.token(word) for word in text.lower().split()] or [np.zeros(16)]

    def token(self, word):
        return np.random.default_rng(list(word.encode())).standard_normal(16)

    def seen(self, image):
        if image is None:
            return []
        small = np.asarray(image.resize((4, 4)).convert("L"), float).ravel() / 255
        return [small * 4]

    def pooled(self, rows):
        return np.array([np.mean(row, 0) for row in rows], np.float32)


# Faults, each with the check that must find it.
FAULTS: list[tuple[str, type]] = []


def fault(check: str):
    def plant(kind: type) -> type:
        FAULTS.append((check, kind))
        return kind

    return plant


@fault("describes itself")
class SettingsAreNoJson(Words):
    def __init__(self):
        super().__init__()
        self.settings = {"words": {1, 2}}


@fault("describes itself")
class SettingsDrift(Words):
    def search(self, queries, k):
        self.settings["queries"] = len(queries)
        return super().search(queries, k)


@fault("whole runs")
class LeavesQueriesOut(Words):
    def search(self, queries, k):
        run = super().search(queries, k)
        return run.select([q for q in run.query_ids if q != "q4"])


@fault("whole runs")
class IgnoresK(Words):
    def rank(self, query, k):
        return super().rank(query, 1000)


@fault("whole runs")
class GivesNan(Words):
    def score(self, asked, text):
        return float("nan")


@fault("whole runs")
class AnswersWithRowNumbers(Words):
    def rank(self, query, k):
        return {str(i): s for i, s in enumerate(super().rank(query, k).values())}


@fault("ids")
class LowersIds(Words):
    def index(self, passages, *, workdir):
        super().index(passages, workdir=workdir)
        self.passages = {name.lower(): text for name, text in self.passages.items()}


@fault("ids")
class ReadsIdsAsNumbers(Words):
    def rank(self, query, k):
        ranked = super().rank(query, k)
        return {str(int(n)) if n.isdecimal() else n: s for n, s in ranked.items()}


@fault("ids")
class CutsIdsAtSlashes(Words):
    def rank(self, query, k):
        return {name.rpartition("/")[2]: score for name, score in super().rank(query, k).items()}


@fault("ids")
class CutsLongIds(Words):
    def rank(self, query, k):
        return {name[:256]: score for name, score in super().rank(query, k).items()}


@fault("ids")
class MixesQueryIds(Words):
    def search(self, queries, k):
        run = super().search(queries, k)
        return m2kr.Run.from_dict(
            {
                q.casefold(): self.rank(row, k)
                for q, row in zip(run.query_ids, rows_of(queries), strict=True)
            }
        )


@fault("order of rows")
class PrefersFirstRows(Words):
    def scores(self, query):
        return {n: s - 0.01 * i for i, (n, s) in enumerate(super().scores(query).items())}


@fault("queries alone")
class ScalesOverQueries(Words):
    def search(self, queries, k):
        most = max(max(self.scores(row).values()) for row in rows_of(queries)) or 1
        run = super().search(queries, k)
        return m2kr.Run.from_dict(
            {
                q: dict(zip(run.passage_ids(q), run.scores(q) / most, strict=True))
                for q in run.query_ids
            }
        )


@fault("batch size")
class NormalisesOverTheBatch(Encoder):
    def pooled(self, rows):
        vectors = super().pooled(rows)
        return vectors - vectors.mean(0)


@fault("padding")
class AveragesOverPadding(Encoder):
    def pooled(self, rows):
        longest = max(map(len, rows))
        return np.array([np.sum(row, 0) / longest for row in rows], np.float32)


@fault("k")
class CutsBeforeTheTieRule(Words):
    def rank(self, query, k):
        scores = self.scores(query)
        return {n: scores[n] for n in sorted(scores, key=lambda name: -scores[name])[:k]}


@fault("equal texts")
class AddsNoiseById(Words):
    def scores(self, query):
        return {n: s + random.Random(n).random() * 0.01 for n, s in super().scores(query).items()}


@fault("empty passage")
class NeedsAWord(Words):
    def score(self, asked, text):
        return super().score(asked, text) + 0 * len(text.split()[0])


@fault("empty query")
class DividesByTheQuery(Words):
    def score(self, asked, text):
        return super().score(asked, text) / len(asked)


@fault("no image")
class NeedsAnImage(Encoder):
    def seen(self, image):
        return super().seen(image.convert("RGB"))


@fault("missing image")
class SwallowsErrors(Encoder):
    def encode_query(self, batch):
        try:
            return super().encode_query(batch)
        except m2kr.M2KRError:
            return self.pooled([self.tokens(text) for text in batch.texts])


@fault("unicode")
class ReadsAscii(Words):
    def words(self, text):
        return super().words(text.encode("ascii").decode())


@fault("k above the corpus")
class FillsUp(Words):
    def rank(self, query, k):
        ranked = super().rank(query, k)
        return ranked | {f"none {i}": -1.0 - i for i in range(k - len(ranked))}


@fault("one passage")
class Standardises(Words):
    def scores(self, query):
        scores = super().scores(query)
        spread = float(np.std(list(scores.values())))
        return {n: s / spread if spread or len(scores) == 1 else s for n, s in scores.items()}


@fault("repeats itself")
class DrawsAnew(Words):
    def score(self, asked, text):
        return super().score(asked, text) + 1e-9 * random.SystemRandom().random()


@fault("index before search")
class SearchesNothing(Words):
    def __init__(self):
        super().__init__()
        self.passages = {}


@fault("another corpus")
class NeverForgets(Words):
    def __init__(self):
        super().__init__()
        self.passages = {}

    def index(self, passages, *, workdir):
        before = self.passages
        super().index(passages, workdir=workdir)
        self.passages = before | self.passages


@fault("resume")
class TakesHalfAFile(Words, RetrieverBase):
    def index(self, passages, *, workdir):
        file, known = workdir / "texts.txt", {}
        if not file.exists():
            with file.open("w", encoding="utf-8") as out:
                for row in passages.rows(range(len(passages))):
                    out.write(row["passage_id"] + "\t" + row["passage_content"] + "\n")
                    out.flush()
                    self.run_context.progress.advance("index", 1)
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition("\t")
            known[name] = text
        self.passages = known


@fault("stale passages")
class KeepsTheIndexByFolder(Words):
    def index(self, passages, *, workdir):
        super().index(passages, workdir=workdir)
        file = workdir / "index.npy"
        if file.exists():
            self.passages = np.load(file, allow_pickle=True).item()
        np.save(file, np.array(self.passages, object))


@fault("stale queries")
class RemembersQueriesById(Words):
    def __init__(self):
        super().__init__()
        self.known = {}

    def scores(self, query):
        return super().scores(self.known.setdefault(query["question_id"], query))


PATHS: dict[str, list] = {}


@fault("stale images")
class RemembersImagesByPath(Encoder):
    def index(self, passages, *, workdir):
        self.known = PATHS.setdefault(workdir, {})
        super().index(passages, workdir=workdir)

    def encode_query(self, batch):
        images = [
            self.known.setdefault(name, image)
            for name, image in zip(batch.ids, batch.images, strict=True)
        ]
        batch._images = images
        return super().encode_query(batch)


@fault("stale settings")
class HidesASetting(Words):
    def __init__(self, *, weight: float = 1.0, bonus: int = 0):
        super().__init__(weight=weight)
        self.bonus = bonus

    def score(self, asked, text):
        return super().score(asked, text) + self.bonus * len(text)


@fault("stale settings")
class KeyLacksASetting(Encoder):
    def __init__(self, *, scale: float = 1.0):
        self.scale = scale

    @property
    def settings(self):
        return {"scale": self.scale}

    def cache_key(self, side):
        return {"model": "words"}

    def pooled(self, rows):
        return super().pooled(rows) * self.scale


@fault("modalities")
class ReadsPathsUndeclared(Words):
    def scores(self, query):
        bonus = len(query["img_path"] or "")
        return {n: s + bonus for n, s in super().scores(query).items()}


@fault("modalities")
class ReadsImagesUndeclared(Encoder):
    modalities = {"query": ["text"], "passage": ["text"]}  # noqa: RUF012


@fault("modalities")
class ReadsTextUndeclared(Encoder):
    modalities = {"query": ["image"], "passage": ["text"]}  # noqa: RUF012


@fault("writes")
class WritesAtHome(Words):
    def index(self, passages, *, workdir):
        super().index(passages, workdir=workdir)
        folder = Path(os.environ["M2KR_TEST_ELSEWHERE"])
        (folder / "my_index.txt").write_text("here", encoding="utf-8")


@fault("inputs")
class ShrinksImages(Encoder):
    def index(self, passages, *, workdir):
        super().index(passages, workdir=workdir)
        self.home = None

    def search(self, queries, k):
        file = queries.images.roots[0] / "disc.png"
        Image.open(file).resize((32, 32)).save(file)
        return super().search(queries, k)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Not below a temporary folder that any process may have drawn.
    monkeypatch.setenv("M2KR_TEST_ELSEWHERE", str(tmp_path))


@pytest.mark.parametrize(("check", "kind"), FAULTS, ids=[kind.__name__ for _, kind in FAULTS])
def test_a_planted_fault_is_found_by_its_check(check: str, kind: type) -> None:
    failed = check_retriever(kind, [check]).failed
    assert [verdict.check for verdict in failed] == [check]
    assert failed[0].why
    assert failed[0].fix


@pytest.mark.parametrize("kind", [Words, Encoder])
def test_right_retrievers_pass_all(kind: type) -> None:
    verdicts = check_retriever(kind)
    assert not verdicts.failed, str(verdicts)
    assert [verdict.check for verdict in verdicts.all] == list(CHECKS)
    assert {verdict.outcome for verdict in verdicts.all} == {"ok", "not applicable"}


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {check for check, _ in FAULTS} == set(CHECKS)


def test_images_that_are_declared_and_not_looked_at_are_noted() -> None:
    class Blind(Encoder):
        def seen(self, image):
            return []

    (verdict,) = check_retriever(Blind, ["modalities"]).all
    assert verdict.outcome == "ok"
    assert "images of queries" in verdict.why


def test_a_crash_in_one_check_leaves_the_others() -> None:
    verdicts = check_retriever(ReadsAscii, ["ids", "unicode", "one passage"])
    assert [verdict.check for verdict in verdicts.failed] == ["unicode"]
    assert "UnicodeEncodeError" in verdicts.failed[0].why


class Crashes(Encoder):
    def encode_query(self, batch):
        return [][len(batch)]


def test_a_crash_in_the_plainest_search_is_told_once_with_its_place() -> None:
    verdicts = check_retriever(Crashes)
    assert [verdict.check for verdict in verdicts.failed] == ["whole runs"]
    assert "test_planted_faults.py:" in verdicts.failed[0].why
    assert "IndexError" in verdicts.failed[0].why
    assert {v.outcome for v in verdicts.all if v.check != "whole runs"} == {"not tried"}
    assert not verdicts.as_dict()["ok"]
    # As a test of its own, no check passes.
    assert [v.check for v in check_retriever(Crashes, ["padding"]).failed] == ["padding"]
    assert check_retriever(Crashes, []).all == ()


class Unseeded(Words):
    def score(self, asked, text):
        return random.SystemRandom().random()


def test_of_one_that_does_not_repeat_itself_no_two_runs_are_compared() -> None:
    verdicts = {verdict.check: verdict for verdict in check_retriever(Unseeded).all}
    failed = [name for name, verdict in verdicts.items() if verdict.outcome == "failed"]
    assert failed == ["repeats itself"]
    for name in ("modalities", "order of rows", "k", "equal texts", "stale queries"):
        assert verdicts[name].outcome == "not tried"
        assert verdicts[name].why == "it doesn't repeat itself"
    assert verdicts["unicode"].outcome == "ok"


def test_faults_beside_a_little_noise_are_still_told() -> None:
    class Noisy(PrefersFirstRows):
        def score(self, asked, text):
            return super().score(asked, text) + 1e-9 * random.SystemRandom().random()

    verdicts = check_retriever(Noisy, ["order of rows", "k"])
    assert [verdict.check for verdict in verdicts.failed] == ["order of rows"]


def test_an_exception_in_a_check_is_told_without_that_checks_advice() -> None:
    class NeedsANewFolder(Words):
        def index(self, passages, *, workdir):
            (workdir / "new").mkdir()
            super().index(passages, workdir=workdir)

    (verdict,) = check_retriever(NeedsANewFolder, ["stale passages"]).failed
    assert "FileExistsError" in verdict.why
    assert ".mkdir()" in verdict.why
    assert "texts" not in verdict.fix


def raises_when_it_indexes(error: Exception, made: list[object]) -> type:
    class Raises(Words):
        def __init__(self):
            super().__init__()
            made.append(self)

        def index(self, passages, *, workdir):
            raise error

    return Raises


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (MissingError("no weights"), MissingError),
        (UpstreamError("the hub is away"), UpstreamError),
        (ModuleNotFoundError("No module named 'faiss'"), MissingError),
        (ConnectionRefusedError(111, "Connection refused"), UpstreamError),
    ],
)
def test_what_can_not_be_loaded_is_one_error(raised: Exception, expected: type[M2KRError]) -> None:
    made: list[object] = []
    with pytest.raises(expected):
        check_retriever(raises_when_it_indexes(raised, made))
    assert len(made) == 1


def test_few_are_made() -> None:
    made: list[object] = []

    class Counted(Words):
        def __init__(self, *, weight: float = 1.0) -> None:
            super().__init__(weight=weight)
            made.append(self)

    assert not check_retriever(Counted).failed
    assert len(made) <= 20


def test_what_is_no_retriever_is_refused() -> None:
    with pytest.raises(UsageError, match="checks make retrievers anew"):
        check_retriever(Words())
    with pytest.raises(UsageError, match="no check 'nonsense'"):
        check_retriever(Words, ["nonsense"])
    with pytest.raises(InputError, match="no modalities, index"):
        check_retriever(type("Half", (), {"name": "half", "settings": {}, "search": print}))
    with pytest.raises(UsageError, match="replayed"):
        check_retriever("run:some.trec")
