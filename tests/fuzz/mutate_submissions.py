"""Mutated submissions, their cards, archives and run files, from a seed: equal seeds give equal bytes."""

import gzip
import io
import random
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

sys.path.append(str(Path(__file__).parents[1] / "leaderboard" / "hostile"))
from hostile_kit import Row, parquet, run_of, trec_lines

from m2kr_leaderboard.packed_form import directory_end, directory_entry, member_head

# Written in C where PyYAML was built with it: ten times as fast.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    99,
    100,
    101,
    500,
    10**30,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "../x",
    "/etc/passwd",
    "<script>alert(1)</script>",
    "a\nb",
    "\x1b[2J",
    "\u202e",
    "\u200b",
    "e\u0301",
    "=1+1",
    "javascript:alert(1)",
    "https://example.org/",
    "fp1:" + "0" * 64,
    "0" * 64,
    "alpha",
    "beta",
    "test",
    "hit_rate@5",
    [],
    {},
    ["x"],
    {"x": 1},
    [[]],
    "x" * 1000,
)
ODD_BYTES = (
    b"\0",
    b"\n",
    b"\r",
    b"\t",
    b" ",
    b":",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/name:os.system ",
    b"!!binary ",
    b"---\n",
    b"...\n",
    b"#",
    b"'",
    b'"',
    b"{",
    b"[",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xe2\x80\xae",
    b"PK\3\4",
    b"PK\1\2",
    b"PK\5\6",
    b"PAR1",
    b"\x1f\x8b",
    b"nan",
    b"inf",
    b"1e999",
    b"Q0",
    b"%20",
    b"%00",
)


def bytes_changed(data: bytes, draw: random.Random) -> bytes:
    """Some bytes turned, cut, repeated, moved or put in."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        if not out:
            return bytes(draw.randbytes(draw.randrange(40)))
        place = draw.randrange(len(out))
        end = min(len(out), place + draw.choice((1, 2, 4, 8, 64, 512)))
        match draw.randrange(7):
            case 0:
                out[place] ^= 1 << draw.randrange(8)
            case 1:
                out[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
            case 2:
                del out[place:end]
            case 3:
                out[place:place] = out[place:end]
            case 4:
                out[place:place] = draw.choice(ODD_BYTES)
            case 5:
                other = draw.randrange(len(out))
                out[place:end] = out[other : other + end - place]
            case _:
                del out[draw.choice((place, max(place, len(out) - 30))) :]
    return bytes(out)


def card_changed(text: bytes, draw: random.Random) -> bytes:
    """A card with another value, without a key, with a key more; or other bytes."""
    if draw.random() < 0.4:
        return bytes_changed(text, draw)
    facts = yaml.load(text, LOADER)
    for _ in range(draw.choice((1, 1, 2, 5))):
        place: Any = facts
        while True:
            if not isinstance(place, dict | list) or not place:
                break
            key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.8:
                place = place[key]
                continue
            _change(place, key, draw)
            break
    plain = draw.random() < 0.5
    made: str = yaml.dump(facts, Dumper=DUMPER, allow_unicode=plain, sort_keys=False)
    return made.encode(errors="surrogatepass")


def _change(place: Any, key: Any, draw: random.Random) -> None:
    value = place[key]
    match draw.randrange(5):
        case 0:
            del place[key]
        case 1 if isinstance(value, str) and value:
            at = draw.randrange(len(value) + 1)
            place[key] = value[:at] + draw.choice("aé\u0430\u202e\n\0</ =\u0301") + value[at:]
        case 2 if isinstance(value, int | float):
            place[key] = draw.choice(
                (value + 1, -value, value * 1.0000001, value + 2e-6, str(value))
            )
        case 3 if isinstance(place, dict):
            place[draw.choice(("x", "name", "runs", 1, True, None, "a b"))] = draw.choice(
                ODD_VALUES
            )
        case _:
            place[key] = draw.choice(ODD_VALUES)


def rows_changed(rows: list[Row], draw: random.Random) -> list[Row]:
    """Other rows, of which some are a run of the split still."""
    rows = list(rows)
    for _ in range(draw.choice((0, 1, 1, 3))):
        one, other = draw.randrange(len(rows)), draw.randrange(len(rows))
        query, passage, score = rows[one]
        match draw.randrange(9):
            case 0:
                rows[one] = (query, passage, rows[other][2])
            case 1:
                rows[one] = (query, rows[other][1], score)
            case 2:
                rows[one] = (rows[other][0], passage, score)
            case 3:
                del rows[one]
            case 4:
                rows.append(rows[one])
            case 5:
                draw.shuffle(rows)
            case 6:
                odd = (float("nan"), float("inf"), -0.0, 1e308, 5e-324, 2.0**53 + 1, -score)
                rows[one] = (query, passage, draw.choice(odd))
            case 7:
                odd_id = draw.choice(("", " ", "\u200b", "\0", "%", passage.upper(), passage + " "))
                rows[one] = (query, odd_id, score)
            case _:
                rows = [(q, p, s // 1) for q, p, s in rows]  # many are equal then
        if not rows:
            return rows
    return rows


def parquet_changed(rows: list[Row], draw: random.Random) -> bytes:
    """The same rows in any of the ways in which Parquet can have them; or other bytes."""
    queries, passages, scores = (list(c) for c in zip(*rows, strict=True)) if rows else ([], [], [])
    text = draw.choice(
        (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary())
    )
    number = draw.choice((pa.float64(),) * 4 + (pa.float32(), pa.string()))
    try:
        columns = {
            draw.choice(("q_id",) * 9 + ("qid", "Q_ID")): pa.array(queries, pa.string()).cast(text),
            draw.choice(("doc_id",) * 9 + ("pid", "docno")): pa.array(passages, pa.string()).cast(
                text
            ),
            draw.choice(("score",) * 9 + ("rank", "sim")): pa.array(scores).cast(number),
        }
    except pa.ArrowException:
        return parquet(rows)
    if draw.random() < 0.2:
        columns[draw.choice(("rank", "x", "<b>", "score "))] = pa.array(range(len(rows)))
    out = io.BytesIO()
    pq.write_table(
        pa.table(columns),
        out,
        compression=draw.choice(("none", "snappy", "gzip", "zstd", "lz4", "brotli")),
        row_group_size=draw.choice((max(7, len(rows) // 20), 100, 1 << 20)),
        use_dictionary=draw.random() < 0.5,
        data_page_version=draw.choice(("1.0", "2.0")),
        write_page_checksum=draw.random() < 0.5,
        version=draw.choice(("1.0", "2.6")),
    )
    data = out.getvalue()
    return data if draw.random() < 0.6 else bytes_changed(data, draw)


def trec_changed(rows: list[Row], draw: random.Random) -> bytes:
    """The same rows as lines of some sort; or other lines, or other bytes."""
    lines = trec_lines(rows)
    match draw.randrange(6):
        case 0:
            lines = bytes_changed(lines, draw)
        case 1:
            lines = lines.replace(b" ", draw.choice((b"\t", b"  ", b",", b"\xc2\xa0")))
        case 2:
            lines = lines.replace(b"\n", draw.choice((b"\r\n", b"\n\n", b"\r", b" 7\n")))
        case 3:
            cells = [line.split() for line in lines.splitlines()]
            order = draw.choice(((0, 2, 4), (0, 2, 3, 4), (0, 1, 2, 4, 3, 5), (2, 1, 0, 3, 4, 5)))
            lines = b"".join(b" ".join(c[i] for i in order if i < len(c)) + b"\n" for c in cells)
        case _:
            pass
    packed = gzip.compress(lines, draw.choice((1, 9)), mtime=0)
    if draw.random() < 0.1:
        packed += gzip.compress(b"\n", 1)
    return packed if draw.random() < 0.6 else bytes_changed(packed, draw)


def archive_changed(files: dict[str, bytes], draw: random.Random) -> bytes:
    """The files packed in our form or another; or other bytes."""
    if draw.random() < 0.7:
        data = as_we_pack(files)
        return data if draw.random() < 0.4 else bytes_changed(data, draw)
    out = io.BytesIO()
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w", method) as packed:
        for name in files:
            odd = (f"{name}x", "../x", "/x", "x", name.upper(), f"{name}/", f"{name}\0", "a\\b")
            packed.writestr(draw.choice(odd) if draw.random() < 0.1 else name, files[name])
    data = out.getvalue()
    return data if draw.random() < 0.4 else bytes_changed(data, draw)


def as_we_pack(files: dict[str, bytes]) -> bytes:
    """The files as they are packed by us, whatever they hold."""
    out, directory = b"", b""
    for name in sorted(files):
        facts = name.encode(), zlib.crc32(files[name]), len(files[name])
        directory += directory_entry(*facts, len(out))
        out += member_head(*facts) + files[name]
    return out + directory + directory_end(len(files), len(directory), len(out))


def submission_changed(
    folder: Path, target: Path, rows: dict[str, list[Row]], draw: random.Random
) -> Path:
    """A valid submission with a few things changed; what is true of the new runs is often put in its card.

    Args:
        folder: The valid submission.
        target: An empty folder for the new one.
        rows: By file of the card the rows of its run.
        draw: Decides all.

    Returns:
        Its folder, or a zip of it.
    """
    files = {
        f"{folder.name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    card = f"{folder.name}/system.yaml"
    facts = yaml.load(files[card], LOADER)
    if draw.random() < 0.8:
        run = draw.choice(facts["runs"])
        if draw.random() < 0.9:  # one alone: half the time
            for other in facts["runs"]:
                if other is not run:
                    del files[f"{folder.name}/{other['file']}"], facts["zero_shot"][other["source"]]
            facts["runs"] = [run]
        changed = rows_changed(rows[run["file"]], draw)
        make = parquet_changed if run["file"].endswith("parquet") else trec_changed
        files[f"{folder.name}/{run['file']}"] = make(changed, draw)
        if draw.random() < 0.9:
            run["scores"] = {}
            try:
                run["run_sha256"] = run_of(changed).sha256()
            except Exception:  # noqa: BLE001 - no run, so it has no hash
                run["run_sha256"] = "0" * 64
        files[card] = yaml.dump(facts, Dumper=DUMPER, allow_unicode=True, sort_keys=False).encode()
    if draw.random() < 0.25:
        files[card] = card_changed(files[card], draw)
    if draw.random() < 0.3:
        path = target / f"{folder.name}.zip"
        path.write_bytes(archive_changed(files, draw))
        return path
    for name, data in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if draw.random() < 0.05:
        (target / folder.name / draw.choice(("x", "runs/x.parquet"))).write_bytes(b"x")
    return target / folder.name
