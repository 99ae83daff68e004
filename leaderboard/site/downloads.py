"""What the site offers to download: results and claims as CSV and JSON, and BibTeX."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from m2kr._version import __version__
from m2kr.display import on_one_line

from ..boards import Board, BoardEntry, BoardRow
from ..claims import Claim
from ..source_facts import source_facts
from ..system_card import SystemCard
from .bibtex import bibtex_entry, bibtex_key, bibtex_text, bibtex_url
from .context import SiteContext

DOWNLOADS = {
    "data/results.csv": "every recomputed score, a row for each system and source",
    "data/results.json": "the same with cards, ranks, groups of queries and notes",
    "data/claims.csv": "the ledger: reported, not recomputed",
    "data/m2kr-leaderboard.bib": "BibTeX of m2kr, the paper, the sources and all systems",
}
_LINKS = ("paper", "page", "code", "model")  # which of a system's links a citation gives
_METRIC_FIELDS = ("value", "low", "high", "n")
_PAPER = {
    "title": "{PreFLMR}: Scaling Up Fine-Grained Late-Interaction Multi-modal Retrievers",
    "author": "Lin, Weizhe and Mei, Jingbiao and Chen, Jinghong and Byrne, Bill",
    "booktitle": "Proceedings of the 62nd Annual Meeting of the Association for Computational "
    "Linguistics (Volume 1: Long Papers)",
    "year": "2024",
    "pages": "5294--5316",
    "doi": "10.18653/v1/2024.acl-long.289",
}


def download_files(site: SiteContext) -> Iterator[tuple[str, bytes]]:
    """The files of `DOWNLOADS`."""
    texts = (
        _results_csv(site.boards),
        _results_json(site.boards),
        _claims_csv(site.claims),
        _bibtex(site.boards),
    )
    for path, text in zip(DOWNLOADS, texts, strict=True):
        yield path, text.encode("utf-8")


def csv_cell(value: Any) -> Any:
    """A value as a cell: one line, and no text that a spreadsheet takes for a formula; these get a ``'``."""
    if isinstance(value, str):
        text = on_one_line(value)
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    return "" if value is None else value


def _as_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _results_csv(boards: Sequence[Board]) -> str:
    metrics = sorted({name for board in boards for name in board.metrics}, key=_metric_order)
    head = [
        *("board", "source", "split", "edition", "fingerprint", "verified_data", "system", "title"),
        *("version", "kind", "parameters", "zero_shot", "status", "rank_best", "rank_worst"),
        *("queries", "passages", "run_sha256", "submission_sha256", "harness", "commit", "date"),
        *(column for name in metrics for column in (name, f"{name}.low", f"{name}.high")),
    ]
    rows = []
    for board in boards:
        for row in board.rows:
            entry, card, result = row.entry, row.entry.card, row.entry.scored.result
            best, worst = row.ranks.get(board.headline, (None, None))
            scores = [result.metrics.get(name, {}) for name in metrics]
            rows.append(
                [
                    *(board.key, board.source, board.split, board.edition, board.fingerprint),
                    *(_yes_no(board.verified), card.name, card.title, card.version, card.kind),
                    *(card.parameters, _yes_no(card.zero_shot.get(board.source)), entry.status),
                    *(best, worst, result.counts.get("queries"), result.counts.get("passages")),
                    *(result.run_sha256, entry.submission_sha256, entry.harness, entry.commit),
                    entry.date,
                    *(score.get(part) for score in scores for part in ("value", "low", "high")),
                ]
            )
    return _as_csv(head, rows)


def _yes_no(value: bool | None) -> str:
    return {True: "yes", False: "no", None: ""}[value]


def _metric_order(name: str) -> tuple[str, int]:
    stem, _, k = name.partition("@")
    return stem, int(k) if k.isdecimal() else 0


def _results_json(boards: Sequence[Board]) -> str:
    cards = {
        (row.entry.card.name, row.entry.card.version): row.entry
        for board in boards
        for row in board.rows
    }
    content = {
        "format": "m2kr-leaderboard-1",
        "metric_fields": _METRIC_FIELDS,
        "group_fields": ["n", "headline"],
        "boards": [_board(board) for board in boards],
        "systems": [_system(cards[key]) for key in sorted(cards)],
    }
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n"


def _board(board: Board) -> dict[str, Any]:
    return {
        "key": board.key,
        "source": board.source,
        "split": board.split,
        "edition": board.edition,
        "fingerprint": board.fingerprint,
        "headline": board.headline,
        "verified_data": board.verified,
        "smallest_difference": dict(board.smallest_difference),
        "notes": list(board.notes),
        "rows": [_row(row, board.headline) for row in board.rows],
    }


def _row(row: BoardRow, headline: str) -> dict[str, Any]:
    result = row.entry.scored.result
    return {
        "system": row.entry.card.name,
        "version": row.entry.card.version,
        "status": row.entry.status,
        "ranks": {name: list(ranks) for name, ranks in row.ranks.items()},
        "metrics": {
            name: [score.get(part) for part in _METRIC_FIELDS]
            for name, score in result.metrics.items()
        },
        "groups": {
            column: {
                value: [group["n"], group["metrics"].get(headline, {}).get("value")]
                for value, group in groups.items()
            }
            for column, groups in result.groups.items()
        },
        "notes": list(row.notes),
        "run_sha256": result.run_sha256,
        "submission_sha256": row.entry.submission_sha256,
        "harness": row.entry.harness,
        "commit": row.entry.commit,
        "date": row.entry.date,
    }


def _system(entry: BoardEntry) -> dict[str, Any]:
    card = entry.card
    return {
        "name": card.name,
        "title": card.title,
        "version": card.version,
        "authors": list(card.authors),
        "licence": card.licence,
        "kind": card.kind,
        "query_modalities": list(card.query_modalities),
        "passage_modalities": list(card.passage_modalities),
        "parameters": card.parameters,
        "training_data": [{"source": d.source, "split": d.split} for d in card.training_data],
        "zero_shot": dict(card.zero_shot),
        "hardware": card.hardware,
        "links": dict(card.links),
        "note": card.note,
    }


def _claims_csv(claims: Sequence[Claim]) -> str:
    names = [field.name for field in fields(Claim)]
    return _as_csv(names, ([getattr(claim, name) for name in names] for claim in claims))


def _bibtex(boards: Sequence[Board]) -> str:
    entries = {
        "m2kr": bibtex_entry(
            "software",
            "m2kr",
            {
                "title": "{m2kr}: build, load and evaluate {M2KR}, the multimodal knowledge retrieval "
                "benchmark",
                "author": "{The m2kr contributors}",
                "version": __version__,
            },
        ),
        "lin2024preflmr": bibtex_entry("inproceedings", "lin2024preflmr", _PAPER),
    }
    sources = sorted({board.source for board in boards if board.source in source_facts()})
    citations = [source_facts()[source].citation for source in sources]
    systems = {
        _citation_key(card): system_bibtex(card)
        for board in boards
        for card in (row.entry.card for row in board.rows)
    }
    parts = [
        *entries.values(),
        *filter(None, citations),
        *(systems[key] for key in sorted(systems)),
    ]
    return "\n\n".join(parts) + "\n"


def _citation_key(card: SystemCard) -> str:
    return bibtex_key("m2kr", card.name, card.version)


def system_bibtex(card: SystemCard) -> str:
    """A system's entry; whatever its card says stays inside its fields."""
    link = next((card.links[kind] for kind in _LINKS if card.links.get(kind)), "")
    return bibtex_entry(
        "misc",
        _citation_key(card),
        {
            "title": f"{{{bibtex_text(card.title)}}}",
            "author": " and ".join(f"{{{bibtex_text(author)}}}" for author in card.authors),
            "version": bibtex_text(card.version),
            "url": bibtex_url(link),
            "note": "Submitted to the m2kr leaderboard",
        },
    )
