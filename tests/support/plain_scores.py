"""Scores of a run file by plain loops over what its bytes say: no code of m2kr's has a part in them."""

import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow.parquet as pq

Ranked = dict[str, list[str]]
# Names of columns that fuzzing writes.
_QUERIES, _PASSAGES, _SCORES = ("q_id", "qid", "Q_ID"), ("doc_id", "docno", "pid"), ("score", "sim")


@dataclass(frozen=True)
class PlainSplit:
    """What a split says, as lists.

    Attributes:
        right: By query its right passages.
        answers: By query its answers.
        texts: By passage its text.
    """

    right: Mapping[str, Sequence[str]]
    answers: Mapping[str, Sequence[str]]
    texts: Mapping[str, str]


def rows_of(file: Path) -> list[tuple[str, str, float]]:
    """The rows of a run file: Parquet by pyarrow alone, TREC by splitting its lines."""
    if file.suffix == ".parquet":
        have = pq.read_schema(file).names
        names = [next(n for n in known if n in have) for known in (_QUERIES, _PASSAGES, _SCORES)]
        table = pq.read_table(file, columns=names)
        columns = [table.column(name).to_pylist() for name in names]
        return [(_text(q), _text(p), float(s)) for q, p, s in zip(*columns, strict=True)]
    rows = []
    # What is no UTF-8 may stand in columns that mean nothing.
    text = gzip.decompress(file.read_bytes()).decode("utf-8-sig", errors="surrogateescape")
    for line in text.replace("\r", "\n").split("\n"):
        if cells := line.split():
            query, _, passage, _, score, tag, *_ = cells
            if tag.endswith("+pct"):
                query, passage = unquote(query), unquote(passage)
            rows.append((query, passage, float(score)))
    return rows


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def ranked(rows: Sequence[tuple[str, str, float]], k: int) -> Ranked:
    """By query its first passages: the highest score, then the lowest id."""
    queries: dict[str, list[tuple[float, bytes, str]]] = {}
    for query, passage, score in rows:
        queries.setdefault(query, []).append((-score, passage.encode(), passage))
    return {query: [p for _, _, p in sorted(of)[:k]] for query, of in queries.items()}


def value(metric: str, split: PlainSplit, ranking: Ranked) -> tuple[float, int]:
    """A metric's mean over the queries for which it is defined, and their number."""
    name, _, cut = metric.partition("@")
    k, scores = int(cut), []
    for query, right in split.right.items():
        first = ranking[query][:k]
        hits = [passage in right for passage in first]
        if name == "pseudo_recall":
            answers = [answer.strip().lower() for answer in split.answers[query]]
            if answers:
                texts = [split.texts[passage].lower() for passage in first]
                scores.append(float(any(answer in text for answer in answers for text in texts)))
        elif not right:
            continue
        elif name == "hit_rate":
            scores.append(float(any(hits)))
        elif name == "set_recall":
            scores.append(sum(hits) / len(right))
        elif name == "precision":
            scores.append(sum(hits) / k)
        elif name == "mrr":
            scores.append(1 / (hits.index(True) + 1) if any(hits) else 0.0)
        elif name == "map":
            sums = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
            scores.append(sum(sums) / len(right))
        elif name == "ndcg":
            gained = sum(1 / math.log2(i + 2) for i, hit in enumerate(hits) if hit)
            best = sum(1 / math.log2(i + 2) for i in range(min(k, len(right))))
            scores.append(gained / best)
        else:
            raise KeyError(metric)
    return (math.fsum(scores) / len(scores) if scores else math.nan), len(scores)


KNOWN = ("hit_rate", "set_recall", "precision", "mrr", "map", "ndcg", "pseudo_recall")
