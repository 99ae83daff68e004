"""Scores of any late-interaction encoder taken apart."""

from collections.abc import Sequence

import numpy as np

from m2kr.data.records import Passages, Queries
from m2kr.errors import InputError, UsageError
from m2kr.report.explain.explanation import Explanation, explain
from m2kr.report.explain.pieces import Piece
from m2kr.retrieval.batches import make_batch
from m2kr.retrieval.encoder import EncoderRetriever, RowLabel
from m2kr.retrieval.own_code import own_code
from m2kr.retrieval.protocol import Side, readable


def explain_encoded(
    retriever: EncoderRetriever, query: Queries, passages: Passages
) -> list[Explanation]:
    """The score of a query with each of some passages, taken apart.

    Rows are named as the encoder's `row_labels` says; otherwise by their number.

    Args:
        retriever: One that encodes to a matrix a row.
        query: One query.
        passages: Some passages.

    Raises:
        UsageError: it encodes to one vector a row.
        InputError: it gave something else than it should.
    """
    encoded = retriever.encode_records(query, "query")
    documents = retriever.encode_records(passages, "document")
    if encoded[0].ndim != 2:
        raise UsageError(
            f"{retriever.name} makes one vector of a text: its score has no terms to show",
            expected="a late-interaction retriever: one whose encoders return lists of 2-D arrays",
        )
    row = query[0]
    text, question = Queries.text(row), row["question"]
    start = text.rfind(question)
    if start < 0:  # joining trimmed it
        text, start = question, 0
    (pieces,) = _pieces(retriever, query, "query", encoded, start)
    texts = passages.column("passage_content")
    read = _pieces(retriever, passages, "document", documents, 0)
    return [
        explain(rows_q, pieces, rows, names, rows.any(axis=1), query=text, passage=passage)
        for rows_q, rows, names, passage in zip(
            encoded * len(texts), documents, read, texts, strict=True
        )
    ]


def _pieces(
    retriever: EncoderRetriever,
    records: Passages | Queries,
    side: Side,
    encoded: Sequence[np.ndarray],
    offset: int,
) -> list[tuple[Piece, ...]]:
    """What each record's rows stand for, places moved on by an offset."""
    batch = make_batch(readable(records, retriever, side), records.rows(range(len(records))), side)
    where = f"{type(retriever).__name__}.row_labels"
    with own_code(retriever, where):
        labels = retriever.row_labels(batch, side)
    counts = [len(rows) for rows in encoded]
    if labels is None:
        return [tuple(Piece(f"row {n}", "row") for n in range(1, count + 1)) for count in counts]
    try:
        given = [list(of_record) for of_record in labels]
        if [len(of_record) for of_record in given] != counts:
            raise ValueError(f"returned {[len(names) for names in given]} names for {counts} rows")
        return [
            tuple(_piece(label, text, offset) for label in of_record)
            for of_record, text in zip(given, batch.texts, strict=True)
        ]
    except (TypeError, ValueError) as error:
        raise InputError(
            str(error),
            where=where,
            expected="for each token row of each text its name, or (start, end) in batch.texts",
        ) from error


def _piece(label: RowLabel, text: str, offset: int) -> Piece:
    if isinstance(label, str):
        return Piece(label, "special")
    start, end = map(int, label)
    if not 0 <= start < end <= len(text):
        raise ValueError(f"({start}, {end}) is no place in a text of {len(text)} characters")
    return Piece(text[start:end], "text", start + offset, end + offset)
