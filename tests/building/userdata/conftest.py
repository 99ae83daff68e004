"""Files of records that several tests import."""

from pathlib import Path

import pytest
from support.own_data import NOTE_QUERIES, NOTES, PASSAGES, QUERIES, jsonl


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Twenty passages, and five queries with a positive each."""
    return jsonl(tmp_path / "passages.jsonl", PASSAGES), jsonl(tmp_path / "queries.jsonl", QUERIES)


@pytest.fixture
def note_files(tmp_path: Path) -> tuple[Path, Path]:
    """Eight passages, and three queries without judgements."""
    return jsonl(tmp_path / "p.jsonl", NOTES), jsonl(tmp_path / "q.jsonl", NOTE_QUERIES)
