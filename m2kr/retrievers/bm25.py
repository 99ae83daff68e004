"""BM25 over the passages' words: the text-only baseline. Images are not looked at.

Scoring by bm25s (Lù, 2024), which stores each word's share of each passage's score. Memory, measured
on a million passages of 56 words: 0.7 kB a passage, and 1.4 kB while the index is built (1.9 kB where
scipy is not installed): 12 to 16 GB for the 8.8 million passages of MS MARCO.
"""

import logging
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from m2kr.errors import MissingError, UsageError
from m2kr.ranking import TopK, id_ranks
from m2kr.retrieval.protocol import Modalities, RetrieverBase, RunStats
from m2kr.retrieval.run import Run
from m2kr.retrievers._memo import MEMO
from m2kr.retrievers._queries import query_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.data.records import Passages, Queries


logger = logging.getLogger("m2kr.retrievers")

Method = Literal["lucene", "robertson", "atire"]
Stopwords = Literal[
    "none", "en", "en_plus", "da", "de", "es", "fr", "it", "ko", "nl", "no", "pt", "ru", "sv", "tr", "zh"
]  # fmt: skip
_ROWS = 10_000


class BM25(RetrieverBase):
    """Ranks passages by the words they share with the question; with the instruction if it is blank.

    A word is two or more letters or digits in a row, in lower case. Passages that share no scored
    word with the query are left out of its ranking.

    Args:
        k1: How fast repeated words stop counting, at least 0.
        b: How much long passages are held back, from 0 to 1.
        method: The formula: ``lucene``, ``robertson`` or ``atire``.
        stopwords: Language of the words that are dropped, or ``none``.
        stemmer: A Snowball language such as ``english``, or None, which suits every language.

    Raises:
        UsageError: a setting is out of its range.
        MissingError: a stemmer is asked for, and PyStemmer is not installed.
    """

    name = "bm25"
    modalities = Modalities()

    def __init__(
        self,
        *,
        k1: float = 1.5,
        b: float = 0.75,
        method: Method = "lucene",
        stopwords: Stopwords = "en",
        stemmer: str | None = None,
    ) -> None:
        for key, value, choices in (
            ("method", method, get_args(Method)),
            ("stopwords", stopwords, get_args(Stopwords)),
        ):
            if value not in choices:
                raise UsageError(f"{key} is '{value}'", expected="one of " + ", ".join(choices))
        if k1 < 0 or not 0 <= b <= 1:
            raise UsageError(f"k1={k1:g}, b={b:g}", expected="k1 at least 0, b from 0 to 1")
        self._stem = _stemmer(stemmer)
        self.settings: dict[str, Any] = {
            "k1": float(k1), "b": float(b), "method": method, "stopwords": stopwords,
            "stemmer": stemmer,
        }  # fmt: skip
        self._reused = 0
        self._passages: Passages | None = None
        self._searched: list[str] = []

    def index(self, passages: "Passages", *, workdir: Path) -> None:  # noqa: ARG002
        """Counts the pool's words; the index stays in memory."""
        self._passages = passages
        self._ranks = id_ranks(passages.ids)
        key = ("bm25", passages.content, *self.settings.items())
        kept = MEMO.get(key)
        self._reused = len(passages) if kept else 0
        if kept:
            logger.info("bm25: the index of this pool was built before in this process")
            self._words, self._scorer = kept
            return
        self._words, rows = self._tokenize(passages)
        self._scorer = _scorer(rows, self._words.get_vocab_dict(), self.settings)
        if self._scorer:
            MEMO.put(key, (self._words, self._scorer), _size(self._words, self._scorer))

    def _tokenize(self, passages: "Passages") -> "tuple[Any, _Rows]":
        from bm25s.tokenization import Tokenizer

        # bm25s tells every log at DEBUG that it works, whatever the level is.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        stopwords = self.settings["stopwords"]
        words = Tokenizer(stopwords=None if stopwords == "none" else stopwords, stemmer=self._stem)
        rows = _Rows()
        for chunk in passages.table.column("passage_content").chunks:
            for start in range(0, len(chunk), _ROWS):
                texts = chunk.slice(start, _ROWS).to_pylist()
                for ids in words.streaming_tokenize(texts, update_vocab=True, allow_empty=False):
                    rows.append(ids)
                self.run_context.progress.advance("index", len(texts))
        return words, rows

    def search(self, queries: "Queries", k: int) -> Run:
        """Scores the whole pool for each query and keeps the best ``k`` under the tie rule.

        Raises:
            UsageError: nothing was indexed.
        """
        if self._passages is None:
            raise UsageError("search() came before index()", fix="retriever.index(passages, ...)")
        best = TopK(len(queries), self._ranks, k)
        # Rows that share an id take one place between them.
        k += len(self._ranks) - int(self._ranks.max(initial=-1)) - 1
        columns = queries.column("question"), queries.column("instruction")
        self._searched = [query_text(*texts) for texts in zip(*columns, strict=True)]
        for place, text in enumerate(self._searched):
            scores = self._scores(text)
            hits = np.flatnonzero(scores > 0)
            if len(hits) > k:
                hits = hits[scores[hits] >= np.partition(scores[hits], -k)[-k]]
            best.push(np.full(len(hits), place), hits, scores[hits])
            self.run_context.progress.advance("search", 1)
        rows, best_scores = best.result()
        return Run.from_rows(
            queries.ids.to_pylist(), self._passages.ids, rows, best_scores, name=self.name
        )

    def pair_scores(self, rows: "Sequence[NDArray[np.int64]]") -> "list[NDArray[np.float64]]":
        """See `RetrieverBase.pair_scores`; 0 for a passage that shares no scored word."""
        return [
            self._scores(text)[some].astype(np.float64) if len(some) else np.empty(0)
            for text, some in zip(self._searched, rows, strict=True)
        ]

    def run_stats(self) -> RunStats:
        """Passages whose index this process had built before."""
        return RunStats(reused={"index": self._reused})

    def _scores(self, text: str) -> "NDArray[np.float32]":
        words = self._words.streaming_tokenize([text], update_vocab=False, allow_empty=False)
        ids = next(iter(words))
        if not ids or self._scorer is None:
            return np.zeros(len(self._ranks), np.float32)
        scores: NDArray[np.float32] = self._scorer.get_scores_from_ids(ids)
        return scores


class _Rows:
    """The word ids of each passage, held flat: 4 bytes a word where lists would take 8 and more."""

    def __init__(self) -> None:
        self._words = array("i")
        self._ends = array("q")

    def append(self, ids: list[int]) -> None:
        self._words.extend(ids)
        self._ends.append(len(self._words))

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        for end in self._ends:
            yield self._words[start:end].tolist()
            start = end


class _Corpus:
    """What bm25s takes as a tokenized corpus: an object with ``ids`` and ``vocab``."""

    def __init__(self, ids: _Rows, vocab: dict[str, int]) -> None:
        self.ids, self.vocab = ids, vocab


def _scorer(rows: _Rows, vocabulary: dict[str, int], settings: dict[str, Any]) -> Any:
    """The bm25s index, or None for a pool without a single word."""
    import bm25s

    if not vocabulary:
        return None
    parts = {key: settings[key] for key in ("k1", "b", "method")}
    scorer = bm25s.BM25(**parts, backend="numpy", csc_backend="auto")
    scorer.index(_Corpus(rows, vocabulary), create_empty_token=False, show_progress=False)
    # bm25s keeps the ids of the whole vocabulary once more, for a search that is not used here.
    scorer.unique_token_ids_set = None
    return scorer


def _size(words: Any, scorer: Any) -> int:
    arrays = sum(scorer.scores[part].nbytes for part in ("data", "indices", "indptr"))
    return int(arrays) + 200 * len(words.get_vocab_dict())


def _stemmer(language: str | None) -> Any:
    if language is None:
        return None
    try:
        import Stemmer
    except ImportError as error:
        raise MissingError(
            f"bm25 with stemmer={language} needs the package 'PyStemmer', which is not installed",
            fix="pip install PyStemmer",
        ) from error
    if language not in Stemmer.algorithms():
        raise UsageError(
            f"there is no stemmer '{language}'",
            expected="one of " + ", ".join(Stemmer.algorithms()),
        )
    return Stemmer.Stemmer(language)


RETRIEVER = BM25
