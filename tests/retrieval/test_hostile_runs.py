"""Run files that mean no good: each is refused in one clear error, or is scored as what it says."""

import gzip
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Cli

import m2kr
from m2kr.building.userdata.importer import from_records
from m2kr.data.load import Split
from m2kr.errors import M2KRError
from m2kr.retrieval.run import Run

ODD = "[/red][bold]x\x1b[31m‮"
IDS = ("p1", "p2", "[/red]", f"p{ODD}")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Two queries over four passages, some of whose ids are markup and escapes."""
    return from_records(
        [{"id": i, "text": f"text of {i}"} for i in IDS],
        [{"id": "q1", "question": "?", "positives": ["p1"]},
         {"id": ODD, "question": "?", "positives": [f"p{ODD}"]}],
        name="odd",
        data=tmp_path_factory.mktemp("odd"),
    )  # fmt: skip


def lines(*rows: str) -> bytes:
    return "\n".join(rows).encode() + b"\n"


def line(query: str = "q1", passage: str = "p1", rank: object = 1, score: object = 1.0) -> bytes:
    return lines(f"{query} Q0 {passage} {rank} {score} tag")


def frame(**columns: object) -> Callable[[Path], None]:
    base: dict[str, object] = {"q_id": ["q1"], "doc_id": ["p1"], "score": [1.0]}
    kept = {name: values for name, values in (base | columns).items() if values is not None}
    return lambda path: pq.write_table(pa.table(kept), path)


def marked(facts: object) -> Callable[[Path], None]:
    raw = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
    table = pa.table({"q_id": ["q1"], "doc_id": ["p1"], "score": [1.0]})
    return lambda path: pq.write_table(table.replace_schema_metadata({b"m2kr.run": raw}), path)


def deep(opening: str, closing: str, levels: int = 100_000) -> bytes:
    return (opening * levels + closing * levels).encode()


def pages(codec: str = "zstd") -> bytes:
    sink = pa.BufferOutputStream()
    rows = 2000
    table = pa.table(
        {
            "q_id": ["q1"] * rows,
            "doc_id": [f"p{i}" for i in range(rows)],
            "score": np.arange(rows, dtype=float),
        }
    )
    pq.write_table(table, sink, compression=codec)
    return sink.getvalue().to_pybytes()


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :]


def packed(raw: bytes, times: int = 1) -> bytes:
    return gzip.compress(raw, mtime=0) * times


LATER = datetime(2024, 1, 1)
REFUSED: dict[str, bytes | Callable[[Path], None]] = {
    # bytes that are no text
    "nul.trec": line() + b"\0" * 100,
    "nul-id.trec": b"q1 Q0 p\0 1 1.0 t\n",
    "zeros.trec": b"\0" * 3_000_000,
    "random.trec": np.random.default_rng(1).bytes(5000),
    "latin1.trec": "q1 Q0 é 1 1.0 t\n".encode("latin-1"),
    "utf16.trec": line().decode().encode("utf-16"),
    "utf16-be.tsv": "q_id\tdoc_id\tscore\nq1\tp1\t1\n".encode("utf-16-be"),
    "utf32.trec": line().decode().encode("utf-32"),
    "surrogate.trec": b"q1 Q0 \xed\xa0\x80 1 1.0 t\n",
    "overlong.trec": b"q1 Q0 \xc0\xaf 1 1.0 t\n",
    "image.trec": b"\x89PNG\r\n\x1a\n" + bytes(500),
    "zip.trec": b"PK\x03\x04" + bytes(500),
    "html.trec": b"<!DOCTYPE html><html><body>log in please</body></html>",
    # lines that are none of a run
    "long.trec": b"x" * 3_000_000,
    "two.trec": b"q1 p1\n",
    "five.trec": b"q1 Q0 p1 1 1.0\n",
    "changes.trec": line() + b"q1 p1 1.0\n",
    "words.trec": b"q1 Q0 p1 first best tag\n",
    "nan.trec": line(score="nan"),
    "inf.trec": line(score="inf"),
    "minus-inf.trec": line(score="-Infinity"),
    "overflow.trec": line(score="1e999"),
    "hex.trec": line(score="0x1p3"),
    "huge-rank.trec": line(rank="9" * 30, score=1) + line(passage="p2", rank="9" * 31, score=0.5),
    "digits.trec": line(score="1" * 5000),
    "date.trec": line(score="2024-01-01"),
    "comma.trec": line(score="1,5"),
    "twice.trec": line() + line(score=0.5),
    "json-lines.jsonl": b'{"q1": {"p1": 1.0}}\n{"q2": {"p1": 1.0}}\n',
    # compressed files
    "cut.trec.gz": packed(line() * 1000)[:-20],
    "garbage.trec.gz": packed(line()) + b"garbage behind",
    "no.trec.gz": b"no gzip",
    "header.trec.gz": b"\x1f\x8b",
    "bomb.trec.gz": packed(b"\n" * 40_000_000, 3),
    "bomb.json.gz": packed(b" " * 40_000_000, 3),
    "checksum.trec.gz": flipped(packed(line() * 1000), -6),
    # JSON
    "deep.json": deep('{"a":', "}"),
    "deep-list.json": deep("[", "]"),
    "half.json": b'{"q1": {"p1": 1.0',
    "nan.json": b'{"q1": {"p1": NaN}}',
    "inf.json": b'{"q1": {"p1": 1e999}}',
    "huge.json": b'{"q1": {"p1": 1' + b"0" * 400 + b"}}",
    "digits.json": b'{"q1": {"p1": ' + b"1" * 5000 + b"}}",
    "null.json": b'{"q1": {"p1": null}}',
    "text.json": b'{"q1": {"p1": "1.0"}}',
    "bool.json": b'{"q1": {"p1": true}}',
    "list.json": b'[["q1", "p1", 1.0]]',
    "flat.json": b'{"q1": 1.0}',
    "mixed.json": b'{"q1": {"p1": 1.0}, "q2": 3}',
    "twice.json": b'{"q1": {"p1": 1.0, "p1": 2.0}}',
    "half-pair.json": b'{"q1": {"\\ud800": 1.0}}',
    "half-pair-query.json": b'{"\\udfff": {"p1": 1.0}}',
    "number.json": b"3",
    "empty.json": b"",
    "utf16.json": '{"q1": {"p1": 1.0}}'.encode("utf-16"),
    # Parquet
    "empty.parquet": b"",
    "magic.parquet": b"PAR1PAR1",
    "text.parquet": line(),
    "cut.parquet": pages()[:-30],
    "half.parquet": pages()[:900],
    "flip.parquet": flipped(pages("snappy"), 60),
    "footer-length.parquet": pages()[:-8] + b"\xff\xff\xff\x7fPAR1",
    "columns.parquet": frame(score=None, doc_id=None),
    "lists.parquet": frame(doc_id=[["p1"]]),
    "structs.parquet": frame(q_id=[{"a": "q1"}]),
    "map.parquet": frame(score=pa.array([[("a", 1.0)]], pa.map_(pa.string(), pa.float64()))),
    "dates.parquet": frame(score=[LATER]),
    "far-dates.parquet": frame(q_id=pa.array([2**60], pa.timestamp("ms"))),
    "durations.parquet": frame(score=[timedelta(1)]),
    "bools.parquet": frame(score=[True]),
    "binary.parquet": frame(doc_id=pa.array([b"\xff\xfe"], pa.binary())),
    "texts.parquet": frame(score=["best"]),
    "null.parquet": frame(score=[None]),
    "nulls.parquet": frame(doc_id=pa.nulls(1)),
    "nan.parquet": frame(score=[float("nan")]),
    "inf.parquet": frame(score=[float("-inf")]),
    "rank-text.parquet": frame(rank=["first"]),
    "decimal.parquet": frame(score=pa.array(["1" * 40], pa.string())),
    "not-json.parquet": marked(b"not json"),
    "not-utf8.parquet": marked(b"\xff\xfe"),
    "deep-facts.parquet": marked(deep("[", "]")),
    "list-facts.parquet": marked([1, 2]),
    "name-facts.parquet": marked({"name": 7}),
    "metadata-facts.parquet": marked({"metadata": [1]}),
    "empty-facts.parquet": marked({"empty": [[-1, "q"], ["x", 3]]}),
    "twice-facts.parquet": marked({"empty": [[0, "q1"]]}),
    "many-columns.parquet": frame(**{f"c{i}": [1] for i in range(2000)}),
    "rows.parquet": lambda path: pq.write_table(
        pa.table(
            {
                "q_id": pa.DictionaryArray.from_arrays(pa.array(np.zeros(5_000_000, np.int32)), ["q"]),
                "doc_id": pa.DictionaryArray.from_arrays(pa.array(np.zeros(5_000_000, np.int32)), ["p"]),
                "score": np.zeros(5_000_000),
            }
        ),
        path,
    ),
    # things that are no files
    "folder.trec": lambda path: path.mkdir(),
    "folder.parquet": lambda path: path.mkdir(),
    "fifo.trec": os.mkfifo,
    "gone.trec": lambda path: path.symlink_to("nothing"),
    "loop.trec": lambda path: path.symlink_to(path),
    "device.trec": lambda path: path.symlink_to("/dev/zero"),
    "device.parquet": lambda path: path.symlink_to("/dev/urandom"),
    "x" * 300 + ".trec": lambda path: None,
    # runs of something else
    "query.trec": line(query="q9"),
    "passage.trec": line(passage="[/red]nothing"),
    "markup.trec": line(query="[/red]", passage="[bold]"),
    "escape.trec": line(query="\x1b]0;owned\x07"),
}  # fmt: skip


def written(name: str, content: bytes | Callable[[Path], None], folder: Path) -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    return path


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: name[:30])
def test_a_hostile_run_is_one_clear_error(split: Split, tmp_path: Path, name: str) -> None:
    path = written(name, REFUSED[name], tmp_path)
    with pytest.raises(M2KRError) as caught:
        m2kr.evaluate(split, f"run:{path}")
    text = str(caught.value)
    assert text and len(text) < 3000
    assert caught.value.exit_code in (1, 2, 3)


ODD_RUN = {"q1": {"p1": 2.0, "[/red]": 1.0}, ODD: {f"p{ODD}": 1.0, "p2": -0.0}}
TAKEN: dict[str, Callable[[Path], object]] = {
    "own.trec": lambda path: Run.from_dict(ODD_RUN).save(path),
    "own.trec.gz": lambda path: Run.from_dict(ODD_RUN).save(path),
    "own.parquet": lambda path: Run.from_dict(ODD_RUN).save(path),
    "own.json": lambda path: Run.from_dict(ODD_RUN).save(path),
    "own.tsv": lambda path: Run.from_dict(ODD_RUN).save(path),
    "members.json.gz": lambda path: path.write_bytes(
        packed(json.dumps(ODD_RUN).encode()[:20]) + packed(json.dumps(ODD_RUN).encode()[20:])
    ),
    "bom.json": lambda path: path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ODD_RUN).encode()),
    "coded.parquet": lambda path: pq.write_table(
        pa.table(
            {
                "q_id": pa.array(["q1", "q1", ODD, ODD]).dictionary_encode(),
                "doc_id": pa.array(["p1", "[/red]", f"p{ODD}", "p2"], pa.large_string()),
                "score": pa.array([2, 1, 1, 0], pa.int8()),
            }
        ),
        path,
    ),
    "spaces in [/name].trec": lambda path: Run.from_dict(ODD_RUN).save(path),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_odd_runs_are_scored(split: Split, tmp_path: Path, name: str) -> None:
    TAKEN[name](tmp_path / name)
    result = m2kr.evaluate(split, f"run:{tmp_path / name}", k=2)[0]
    assert result.value("hit_rate@1") == 1.0


@pytest.mark.slow
def test_markup_in_names_and_ids_is_shown_as_it_is(split: Split, tmp_path: Path, cli: Cli) -> None:
    path = Run.from_dict(ODD_RUN, name="[red]r[/red]").save(tmp_path / "r.parquet")
    data = split.folder.parent
    done = cli("eval", "odd", "-r", f"run:{path}", "--k", 2, "--data", data, "--out", tmp_path)
    assert "[red]r[/red]" in done.stdout and "\x1b" not in done.stdout
    lost = Run.from_dict({**ODD_RUN, "[/no]": {"p1": 1.0}}).save(tmp_path / "lost.parquet")
    done = cli("eval", "odd", "-r", f"run:{lost}", "--data", data, "--out", tmp_path, code=1)
    assert "[/no]" in done.stderr and "Traceback" not in done.stderr


LIMITED = textwrap.dedent(
    """
    import resource, sys
    resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
    from m2kr.cli.main import main
    sys.argv = ["m2kr", *sys.argv[1:]]
    main()
    """
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize("name", ["rows.parquet", "bomb.json.gz", "bomb.trec.gz", "deep.json"])
def test_a_bomb_ends_in_one_line_within_2_gb(split: Split, tmp_path: Path, name: str) -> None:
    path = written(name, REFUSED[name], tmp_path)
    args = ["eval", "odd", "-r", f"run:{path}", "--data", str(split.folder.parent)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *args],
        capture_output=True,
        encoding="utf-8",
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr.count("error: ")) == (1, 1), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"\x1f", b"\x1c\n", b"\x1f\x1e\n\x1d", b"\x85\n"])
def test_a_line_of_control_characters_that_text_takes_for_blanks_is_refused(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "run.txt"
    path.write_bytes(content)
    with pytest.raises(M2KRError, match=r"run\.txt"):
        Run.load(path)
