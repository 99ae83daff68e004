"""Runs that are none, or of something else, and files that only look like runs."""

import gzip
import json
import random
import struct
import unicodedata
import zlib

import pyarrow as pa
from hostile_kit import (
    RIGHT,
    Folder,
    Row,
    add,
    of_table,
    parquet,
    ranking,
    refused,
    trec,
)

ALPHA = 0  # Parquet
BETA = 1  # TREC


def _rows_case(
    name: str, check: str, change, *, says: tuple[str, ...] = (), number: int = ALPHA
) -> None:
    def spoil(folder: Folder) -> None:
        folder.set_rows(change, number)

    add(name, (check,), spoil, says)


def _first(rows: list[Row], change) -> list[Row]:
    """The first row changed."""
    return [change(*rows[0]), *rows[1:]]


for _number, _kind in ((ALPHA, "Parquet"), (BETA, "TREC")):
    _rows_case(
        f"a query lacks ({_kind})",
        "every-query-once",
        lambda rows: [row for row in rows if row[0] != rows[0][0]],
        number=_number,
    )
    _rows_case(
        f"an unknown query ({_kind})",
        "every-query-once",
        lambda rows: [*rows, ("who", rows[0][1], 1.0)],
        says=("who",),
        number=_number,
    )
    _rows_case(
        f"an unknown passage ({_kind})",
        "ids-in-corpus",
        lambda rows: _first(rows, lambda q, p, s: (q, "nowhere", s)),
        says=("nowhere",),
        number=_number,
    )
    _rows_case(
        f"a passage twice within a query ({_kind})",
        "passages-once",
        lambda rows: _first(rows, lambda q, p, s: (q, rows[1][1], s)),
        number=_number,
    )
    _rows_case(
        f"fewer rows than the depth ({_kind})",
        "deep-enough",
        lambda rows: [r for i, r in enumerate(rows) if i % 100 < 99],
        number=_number,
    )
    for _value in ("nan", "inf", "-inf"):
        _rows_case(
            f"a score of {_value} ({_kind})",
            "finite-scores",
            lambda rows, value=_value: _first(rows, lambda q, p, s: (q, p, float(value))),
            number=_number,
        )


def _spelt(rows: list[Row], change) -> list[Row]:
    """A passage id with an é in another spelling."""
    place = next(i for i, (_, p, _) in enumerate(rows) if "é" in p)
    query, passage, score = rows[place]
    return [*rows[:place], (query, change(passage), score), *rows[place + 1 :]]


for _what, _change in {
    "decomposed": lambda p: unicodedata.normalize("NFD", p),
    "with a Cyrillic letter": lambda p: p.replace("p", "\u0440"),
    "in capitals": str.upper,
    "with a blank at its end": lambda p: p + " ",
    "with a zero-width space": lambda p: p + "\u200b",
    "with a no-break space": lambda p: p + "\u00a0",
    "with a byte order mark": lambda p: "\ufeff" + p,
    "with a soft hyphen": lambda p: p[:2] + "\u00ad" + p[2:],
    "with a right-to-left mark": lambda p: p + "\u200f",
    "with a NUL": lambda p: p + "\0",
    "in full width": lambda p: p.replace("p", "\uff50"),
    "that is empty": lambda p: "",
    "with a tag": lambda p: f"<script>alert('{p}')</script>",
    "that steers a terminal": lambda p: f"\x1b]0;pwned\x07{p}",
    "of a megabyte": lambda p: p + "x" * 1_000_000,
}.items():
    _rows_case(
        f"a passage id {_what}",
        "ids-in-corpus",
        lambda rows, change=_change: _spelt(rows, change),
    )
for _what, _change in {
    "in capitals": str.upper,
    "with a blank": lambda q: f"{q} ",
    "with a zero-width space": lambda q: f"{q}\u200b",
    "with a Cyrillic letter": lambda q: q.replace("a", "\u0430"),
    "that steers a terminal": lambda q: f"{q}\x1b[2J",
}.items():
    _rows_case(
        f"a query id {_what}",
        "every-query-once",
        lambda rows, change=_change: [
            (change(q) if q == rows[0][0] else q, p, s) for q, p, s in rows
        ],
    )


@refused("depth")
def rankings_of_501(folder: Folder) -> None:
    rows = ranking("alpha")
    deeper = [r for q in dict.fromkeys(q for q, _, _ in rows) for r in _deep(q, 501)]
    folder.run_file(ALPHA).write_bytes(parquet(deeper))
    folder.claim(deeper, ALPHA)


def _deep(query: str, depth: int) -> list[Row]:
    return [(query, f"alpha/x{i}", float(-i)) for i in range(depth)]


@refused("depth")
def deeper_than_the_card_says(folder: Folder) -> None:
    folder.set_rows(lambda rows: ranking("alpha", depth=110), ALPHA)


@refused("deep-enough")
def shallower_than_100(folder: Folder) -> None:
    folder.set("runs/0/k", 50)
    folder.set_rows(lambda rows: ranking("alpha", depth=50), ALPHA)


@refused("every-query-once")
def no_rows(folder: Folder) -> None:
    folder.set_rows(lambda rows: [], ALPHA)


@refused("every-query-once")
def no_lines(folder: Folder) -> None:
    folder.set_rows(lambda rows: [], BETA)


@refused("every-query-once")
def the_other_splits_run(folder: Folder) -> None:
    folder.set_rows(lambda rows: ranking("beta"), ALPHA)


@refused("run-sha256")
def another_run_than_the_card_says(folder: Folder) -> None:
    folder.run_file(ALPHA).write_bytes(parquet(ranking("alpha", seed=1)))


@refused("run-sha256")
def one_score_is_another(folder: Folder) -> None:
    rows = ranking("alpha")
    rows[0] = (*rows[0][:2], rows[0][2] + 1e-9)
    folder.run_file(ALPHA).write_bytes(parquet(rows))


@refused("run-sha256", "every-query-once")
def the_runs_are_swapped(folder: Folder) -> None:
    folder.run_file(ALPHA).write_bytes(parquet(ranking("beta")))
    folder.run_file(BETA).write_bytes(trec(ranking("alpha")))


@refused("every-query-once", "card", "known-fingerprint")
def the_fingerprints_are_swapped(folder: Folder) -> None:
    facts = folder.card
    first, second = (run["fingerprint"] for run in facts["runs"])
    facts["runs"][0]["fingerprint"], facts["runs"][1]["fingerprint"] = second, first
    folder.card = facts


@refused("known-fingerprint")
def data_that_nobody_knows(folder: Folder) -> None:
    folder.set("runs/0/fingerprint", "fp1:" + "0" * 64)


@refused("known-fingerprint")
def another_source_by_this_fingerprint(folder: Folder) -> None:
    facts = folder.card
    facts["runs"][0]["source"] = "gamma"
    facts["zero_shot"] = {"gamma": True, "beta": True}
    facts["runs"][0]["file"] = "runs/gamma.test.parquet"
    folder.run_file(ALPHA).rename(folder.path / "runs/gamma.test.parquet")
    facts["runs"].sort(key=lambda run: run["source"])
    folder.card = facts


@refused("known-fingerprint")
def another_split_by_this_fingerprint(folder: Folder) -> None:
    facts = folder.card
    folder.run_file(ALPHA).rename(folder.path / "runs/alpha.valid.parquet")
    facts["runs"][0] |= {"split": "valid", "file": "runs/alpha.valid.parquet"}
    folder.card = facts


@refused("known-fingerprint")
def another_edition_by_this_fingerprint(folder: Folder) -> None:
    folder.set("runs/0/edition", "M2KR")


@refused("claimed-scores")
def a_claim_off_by_two_millionths(folder: Folder) -> None:
    facts = folder.card
    facts["runs"][0]["scores"]["hit_rate@5"] += 2e-6
    folder.card = facts


@refused("claimed-scores")
def a_claim_of_everything(folder: Folder) -> None:
    folder.set("runs/0/scores", {"hit_rate@5": 1.0, "mrr@10": 1.0})


@refused("claimed-scores")
def a_claim_of_no_hit(folder: Folder) -> None:
    folder.set("runs/0/scores", {"hit_rate@5": 0})


# Parquet that isn't what it says.


def _file_case(name: str, data, *checks: str, number: int = ALPHA) -> None:
    def spoil(folder: Folder) -> None:
        file = folder.run_file(number)
        file.write_bytes(data(file.read_bytes()) if callable(data) else data)

    add(name, checks or ("readable",), spoil)


def _damaged(data: bytes) -> bytes:
    """A byte of the first page is another."""
    place = len(data) // 4
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def _footer_length(data: bytes, length: int) -> bytes:
    return data[:-8] + struct.pack("<I", length) + data[-4:]


for _name, _data in {
    "empty Parquet": b"",
    "half a Parquet": lambda data: data[: len(data) // 2],
    "Parquet without its last byte": lambda data: data[:-1],
    "a Parquet footer longer than the file": lambda data: _footer_length(data, 2**31 - 1),
    "a Parquet footer of nothing": lambda data: _footer_length(data, 0),
    "Parquet with an encrypted footer": lambda data: b"PARE" + data[4:-4] + b"PARE",
    "Parquet of zeros": lambda data: data[:4] + bytes(len(data) - 12) + data[-8:],
    "Arrow for Parquet": b"ARROW1\0\0" + bytes(100),
    "TREC for Parquet": b"q Q0 p 1 1.0 t\n",
    "a pickle for Parquet": b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x8c\x06system\x93.",
    "a page for Parquet": b"<!doctype html><script>alert(1)</script>",
}.items():
    _file_case(_name, _data)


_file_case(
    "a Parquet page that is damaged",
    _damaged,
    "readable",
    "passages-once",
    "ids-in-corpus",
    "run-sha256",
)


@refused("readable", "run-sha256")
def claimed_rows_by_the_billion(folder: Folder) -> None:
    """The footer's own counts, where they are written."""
    data = folder.run_file(ALPHA).read_bytes()
    size = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - size : -8]
    count = _zigzag(2400)
    assert count in footer
    bigger = footer.replace(count, _zigzag(10**12))
    folder.run_file(ALPHA).write_bytes(
        data[: -8 - size] + bigger + struct.pack("<I", len(bigger)) + b"PAR1"
    )


def _zigzag(value: int) -> bytes:
    value <<= 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _table_case(name: str, make, *checks: str) -> None:
    def spoil(folder: Folder) -> None:
        rows = ranking("alpha")
        queries, passages, scores = map(list, zip(*rows, strict=True))
        made = make(queries, passages, scores)
        folder.run_file(ALPHA).write_bytes(made if isinstance(made, bytes) else of_table(made))

    add(name, checks or ("readable",), spoil)


_table_case(
    "query ids that are null",
    lambda q, p, s: pa.table({"q_id": [None, *q[1:]], "doc_id": p, "score": s}),
)
_table_case(
    "passage ids that are null",
    lambda q, p, s: pa.table({"q_id": q, "doc_id": [None, *p[1:]], "score": s}),
)
_table_case(
    "scores that are null",
    lambda q, p, s: pa.table({"q_id": q, "doc_id": p, "score": [None, *s[1:]]}),
)
_table_case(
    "scores that are texts",
    lambda q, p, s: pa.table({"q_id": q, "doc_id": p, "score": list(map(str, s))}),
    RIGHT,
)
_table_case(
    "scores that are dates",
    lambda q, p, s: pa.table(
        {"q_id": q, "doc_id": p, "score": pa.array([0] * len(s), pa.timestamp("s"))}
    ),
)
_table_case(
    "scores that are true",
    lambda q, p, s: pa.table({"q_id": q, "doc_id": p, "score": [True] * len(s)}),
)
_table_case(
    "scores in lists", lambda q, p, s: pa.table({"q_id": q, "doc_id": p, "score": [[x] for x in s]})
)
_table_case(
    "scores in structs",
    lambda q, p, s: pa.table({"q_id": q, "doc_id": p, "score": [{"x": x} for x in s]}),
)
_table_case(
    "decimal scores",
    lambda q, p, s: pa.table(
        {"q_id": q, "doc_id": p, "score": pa.array([0] * len(s), pa.decimal128(38, 2))}
    ),
    "run-sha256",
)
_table_case(
    "passage ids that are numbers",
    lambda q, p, s: pa.table({"q_id": q, "doc_id": list(range(len(p))), "score": s}),
    "ids-in-corpus",
)
_table_case(
    "passage ids that are bytes",
    lambda q, p, s: pa.table({"q_id": q, "doc_id": [b"\xff" + x.encode() for x in p], "score": s}),
)
_table_case(
    "passage ids in lists",
    lambda q, p, s: pa.table({"q_id": q, "doc_id": [[x] for x in p], "score": s}),
)
_table_case("no scores", lambda q, p, s: pa.table({"q_id": q, "doc_id": p}))
_table_case(
    "ranks alone",
    lambda q, p, s: pa.table(
        {"q_id": q, "doc_id": p, "rank": [i % 100 + 1 for i in range(len(q))]}
    ),
    "run-sha256",
)
_table_case(
    "two columns of scores",
    lambda q, p, s: pa.Table.from_arrays(
        [pa.array(q), pa.array(p), pa.array(s), pa.array(s)],
        names=["q_id", "doc_id", "score", "score"],
    ),
)
_table_case(
    "scores by two names",
    lambda q, p, s: pa.table({"q_id": q, "doc_id": p, "score": s, "sim": [-x for x in s]}),
    RIGHT,
)
_table_case(
    "a column that is a script",
    lambda q, p, s: pa.table({"q_id": q, "doc_id": p, "score": s, "<script>alert(1)</script>": s}),
    RIGHT,
)
_table_case(
    "2,000 columns", lambda q, p, s: pa.table({f"c{i}": pa.array([0]) for i in range(2_000)})
)
_table_case("deeply nested", lambda q, p, s: of_table(pa.table({"q_id": _nested(40)})))
_table_case("a dictionary of a bomb", lambda q, p, s: _dictionary_bomb())
_table_case("repeated rows by the million", lambda q, p, s: _repeated())
_table_case(
    "other metadata",
    lambda q, p, s: (
        parquet(ranking("alpha"))[:0]
        + of_table(
            pa.table({"q_id": q, "doc_id": p, "score": s}).replace_schema_metadata(
                {b"m2kr.run": b'{"metadata": 3}'}
            )
        )
    ),
)
_table_case(
    "an empty query by metadata",
    lambda q, p, s: of_table(
        pa.table({"q_id": q[100:], "doc_id": p[100:], "score": s[100:]}).replace_schema_metadata(
            {b"m2kr.run": b'{"empty": [[0, "alpha-q0"]], "metadata": {}, "name": "x"}'}
        )
    ),
    "depth",
    "run-sha256",
)


def _nested(depth: int) -> pa.Array:
    array = pa.array([1])
    for _ in range(depth):
        array = pa.ListArray.from_arrays([0, len(array)], array)
    return array


def _dictionary_bomb() -> bytes:
    """Each of many rows is one text of a megabyte that is stored once."""
    rows = 20_000
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * (1 << 20)])
    table = pa.table({"q_id": text, "doc_id": text, "score": [1.0] * rows})
    return of_table(table, use_dictionary=True)


def _repeated() -> bytes:
    rows = 4_500_000
    column = pa.nulls(rows, pa.string()).fill_null("a")
    return of_table(
        pa.table(
            {"q_id": column, "doc_id": column, "score": pa.nulls(rows, pa.float64()).fill_null(0.0)}
        )
    )


# TREC that isn't what it says.


def _text_case(name: str, text, *checks: str) -> None:
    def spoil(folder: Folder) -> None:
        lines = gzip.decompress(folder.run_file(BETA).read_bytes()).decode()
        made = text(lines) if callable(text) else text
        raw = made.encode() if isinstance(made, str) else made
        folder.run_file(BETA).write_bytes(gzip.compress(raw, 1))

    add(name, checks or ("readable",), spoil)


def _cells(lines: str, change) -> str:
    return "".join(" ".join(change(line.split())) + "\n" for line in lines.splitlines())


_text_case("three columns", lambda t: _cells(t, lambda c: [c[0], c[2], c[4]]))
_text_case("four columns", lambda t: _cells(t, lambda c: [c[0], c[2], c[3], c[4]]))
_text_case("five columns", lambda t: _cells(t, lambda c: c[:5]))
_text_case("commas", lambda t: t.replace(" ", ","))
_text_case(
    "a header",
    lambda t: "q_id\tdoc_id\tscore\n" + _cells(t, lambda c: [c[0], c[2], c[4]]).replace(" ", "\t"),
)
_text_case(
    "lines that are comments",
    lambda t: t.replace("\nbeta", "\n#beta", 1),
    "one-reading",
    "every-query-once",
    "depth",
)
_text_case("no UTF-8", lambda t: t.encode() + b"\xff\xfe Q0 p 1 1.0 t\n")
_text_case("UTF-16 lines", lambda t: t.encode("utf-16"))
_text_case(
    "NUL bytes in lines",
    lambda t: t.replace("beta-q0 ", "beta-q0\0 ", 1),
    "readable",
    "every-query-once",
)
_text_case("a score that is a word", lambda t: _cells(t, lambda c: [*c[:4], "high", c[5]]))
_text_case("a score in hexadecimal", lambda t: _cells(t, lambda c: [*c[:4], "0x1p3", c[5]]))
_text_case("a score with an underscore", lambda t: _cells(t, lambda c: [*c[:4], "1_0.0", c[5]]))
_text_case(
    "a score in Arabic digits", lambda t: _cells(t, lambda c: [*c[:4], "\u0661\u0662", c[5]])
)
_text_case(
    "a score beyond float64",
    lambda t: _cells(t, lambda c: [*c[:4], "1e999", c[5]]),
    "finite-scores",
)
_text_case("a line of a gigabyte's kind", lambda t: "x" * 5_000_000)
_text_case(
    "ranks that fall where scores rise",
    lambda t: _cells(t, lambda c: [*c[:4], c[3], c[5]]),
    "one-reading",
)
_text_case("two rows on a line", lambda t: t.replace("\n", " ", 1))
_text_case(
    "a bad escape",
    lambda t: t.replace("%20", "%FF", 1) if "%20" in t else t.replace("%25", "%FF", 1),
)
_file_case("plain text for gzip", lambda data: gzip.decompress(data), number=BETA)
_file_case("half a gzip", lambda data: data[: len(data) // 2], number=BETA)
_file_case(
    "gzip with a wrong checksum", lambda data: data[:-8] + b"\0\0\0\0" + data[-4:], number=BETA
)
_file_case("gzip with junk behind it", lambda data: data + b"junk", number=BETA)
_file_case(
    "gzip of several members",
    lambda data: b"".join(
        gzip.compress(line.encode() + b"\n", 1)
        for line in gzip.decompress(data).decode().splitlines()
    ),
    RIGHT,
    number=BETA,
)
_file_case("gzip within gzip", lambda data: gzip.compress(data), number=BETA)
_file_case("zip for gzip", b"PK\3\4" + bytes(100), number=BETA)
_file_case("xz for gzip", b"\xfd7zXZ\0" + bytes(100), number=BETA)
_file_case("zstd for gzip", b"\x28\xb5\x2f\xfd" + bytes(100), number=BETA)
_file_case("no bytes for gzip", b"", "readable", "every-query-once", number=BETA)


@refused("readable")
def a_gzip_bomb(folder: Folder) -> None:
    """A gigabyte of blanks, made of one deflated piece that is repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(b" " * (1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\3"
    folder.run_file(BETA).write_bytes(head + piece * 64 + b"\3\0" + bytes(8))


@refused("size-limits")
def a_gzip_bomb_of_lines(folder: Folder) -> None:
    """A row again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(b"q Q0 p 1 1.0 t\n" * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\3"
    folder.run_file(BETA).write_bytes(head + piece * 64 + b"\3\0" + bytes(8))


@refused("readable", "ids-in-corpus")
def a_memory_bomb_of_one_long_id(folder: Folder) -> None:
    """Stored once, and named by every row."""
    text = random.Random(0).randbytes(1 << 20).hex()
    ids = pa.DictionaryArray.from_arrays(pa.array([0] * 250, pa.int32()), [text])
    table = pa.table({"q_id": ["alpha-q0"] * 250, "doc_id": ids, "score": [1.0] * 250})
    folder.run_file(ALPHA).write_bytes(of_table(table))


@refused("every-query-once")
def empty_queries_by_the_hundred_thousand(folder: Folder) -> None:
    """Queries without results take no rows: our files keep them beside the table."""
    rows = ranking("alpha")
    queries, passages, scores = map(list, zip(*rows, strict=True))
    empty = [[0, f"q{i}"] for i in range(200_000)]
    facts = json.dumps({"empty": empty, "metadata": {}, "name": "x"}).encode()
    table = pa.table({"q_id": queries, "doc_id": passages, "score": scores})
    folder.run_file(ALPHA).write_bytes(
        of_table(table.replace_schema_metadata({b"m2kr.run": facts}))
    )
