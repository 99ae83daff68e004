"""Files of records that hold next to nothing and don't end: each is one line within a second or two."""

import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from m2kr.building.userdata.importer import import_files
from m2kr.errors import M2KRError

MANY = 100_000


def sparse(path: Path) -> None:
    path.write_bytes(b'{"id": "p", "text": "t"}\n')
    os.truncate(path, 1 << 40)


ENDLESS: dict[str, bytes | Callable[[Path], None]] = {
    "lines.jsonl.gz": gzip.compress(b"\n" * 40_000_000, 1) * 3,
    "lines.tsv.gz": gzip.compress(b"\n" * 40_000_000, 1) * 3,
    "blanks.jsonl.gz": gzip.compress(b" " * 40_000_000, 1),
    "fields.jsonl": ("{" + ",".join(f'"f{i}":1' for i in range(MANY)) + "}\n").encode(),
    "fields.csv": (",".join(f"f{i}" for i in range(MANY)) + "\n").encode(),
    "fields.tsv": ("\t".join(f"f{i}" for i in range(MANY)) + "\n").encode(),
    "sparse.jsonl": sparse,
    "pipe.jsonl": os.mkfifo,
    "device.jsonl": lambda path: path.symlink_to("/dev/zero"),
}


# Passages and queries are read by the same code.
SIDES = [(side, name) for side in ("queries", "qrels") for name in ENDLESS]


@pytest.mark.parametrize(("side", "name"), [*SIDES, ("passages", "lines.jsonl.gz")])
def test_what_has_no_end_is_refused_soon(tmp_path: Path, name: str, side: str) -> None:
    path, content = tmp_path / name, ENDLESS[name]
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    files = {"passages": tmp_path / "p.jsonl", "queries": tmp_path / "q.jsonl"}
    files["passages"].write_text('{"id": "p", "text": "t"}\n', encoding="utf-8")
    files["queries"].write_text('{"id": "q", "question": "?"}\n', encoding="utf-8")
    begun = time.process_time()
    with pytest.raises(M2KRError) as caught:
        import_files("mine", **{**files, side: path}, data=tmp_path / "data")
    assert str(path) in str(caught.value)
    assert time.process_time() - begun < 10
