"""Each shipped encoder says a version, and encodes to what the golden file has under it.

Rows that were encoded once are kept under the version. Where an encoder is meant to encode to
something else, raise its ``version`` and write the golden file anew::

    M2KR_WRITE_GOLDEN=1 pytest tests/retrievers/test_encoder_versions.py
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retrievers.conftest import SETTINGS

from m2kr.data.records import Passages, Queries
from m2kr.errors import MissingError
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.protocol import Side
from m2kr.retrievers import create, find, names

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders.json"
ENCODERS = [
    name
    for name in names()
    if isinstance(kind := find(name), type) and issubclass(kind, EncoderRetriever)
]


def seen(encoder: EncoderRetriever, records: Passages | Queries, side: Side) -> list[list[float]]:
    """Of each row how many vectors it has, and eight numbers in which each of their values counts."""
    found = []
    for rows in encoder.encode_stream(records, side, lambda *_: None):
        for row in rows:
            vectors = np.atleast_2d(np.asarray(row, np.float64))
            tokens, dims = (np.arange(n) for n in vectors.shape)
            mixed = [
                float(np.cos(tokens * (j + 1)) @ vectors @ np.cos(dims * (j + 1))) for j in range(8)
            ]
            found.append([len(vectors), *(round(value, 5) for value in mixed)])
    return found


def of(name: str, passages: Passages, queries: Queries) -> dict[str, Any]:
    try:
        encoder = create(name, {"device": "cpu", **SETTINGS.get(name, {})})
    except MissingError as error:
        pytest.skip(str(error))
    assert isinstance(encoder, EncoderRetriever)
    return {
        "version": encoder.version,  # type: ignore[attr-defined]
        "document": seen(encoder, Passages(passages.dataset.select(range(8))), "document"),
        "query": seen(encoder, queries, "query"),
    }


@pytest.mark.parametrize("name", ENCODERS)
def test_a_version_encodes_to_what_it_always_did(
    name: str, passages: Passages, queries: Queries
) -> None:
    found = of(name, passages, queries)
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("M2KR_WRITE_GOLDEN"):
        lines = [f'"{n}": {json.dumps(v)}' for n, v in sorted((golden | {name: found}).items())]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return
    same = all(
        np.allclose(found[side], golden[name][side], rtol=0, atol=2e-3)
        for side in ("document", "query")
    )
    kept = found["version"] == golden[name]["version"]
    assert same == kept, (
        "it encodes to something else: raise its version, and write the golden file anew"
        if kept
        else "it has another version: write the golden file anew"
    )


def test_every_shipped_encoder_has_golden_vectors() -> None:
    assert sorted(json.loads(GOLDEN.read_text(encoding="utf-8"))) == ENCODERS
