"""msmarco, okvqa, infoseek and evqa built from true-format upstream files, against tables made by hand.

The expected tables (``fixtures/expected``) were written from what is known of the sources and from the
builders' own rules, not from what the code gives.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import upstream_fixture
from faulty_server import Fault, FaultyServer
from upstream_fixture import (
    LONG,
    Served,
    gzipped,
    place_by_hand,
    served_files,
    tarred,
    text,
    zipped,
)

from m2kr.build.fetch import fetch
from m2kr.build.run import Built, build
from m2kr.build.sampling import draw, keyed_numbers
from m2kr.build.tables import open_shards
from m2kr.build.verify import verify
from m2kr.errors import CheckError, M2KRError
from m2kr.instructions import TEMPLATES
from m2kr.paths import downloads

EXPECTED = Path(__file__).parent.parent / "fixtures" / "expected"
SAMPLES = os.environ.get("M2KR_UPSTREAM_SAMPLES")
# Name of an edition in the expected tables -> source, and the edition asked for.
EDITIONS = {
    "MSMARCO": ("msmarco", None),
    "OKVQA": ("okvqa", None),
    "Infoseek": ("infoseek", None),
    "EVQA": ("evqa", None),
    "msmarco-full": ("msmarco", "msmarco-full"),
    "okvqa-gs": ("okvqa", "okvqa-gs"),
    "judged": ("msmarco", "judged"),
}
SOURCES = ("msmarco", "okvqa", "infoseek", "evqa")
LISTS = {"msmarco": "msmarco", "okvqa": "iq2t", "infoseek": "iq2t", "evqa": "iq2t"}
Rows = list[dict[str, Any]]
Ledger = dict[str, dict[str, dict[str, list[int]]]]


def golden(edition: str) -> dict[str, Any]:
    """What is expected of an edition."""
    source, _ = EDITIONS[edition]
    found = json.loads((EXPECTED / f"{source}.json").read_text().replace("{{LONG}}", LONG))
    return found["editions"][edition]  # type: ignore[no-any-return]


def expected_table(edition: str, kind: str, name: str) -> tuple[Rows, Sequence[str]]:
    """Expected rows of a table, and its columns that are sets."""
    spec = golden(edition)[kind][name]
    if "like" in spec:
        other = spec["like"].split()
        rows, sets = expected_table(
            *(edition, kind, *other)[-3:] if len(other) == 1 else (other[0], kind, other[1])
        )
        change = spec.get("change", {})
        assert set(change) <= {row.get("question_id") for row in rows}
        return [row | change.get(row.get("question_id"), {}) for row in rows], sets
    return [spec.get("defaults", {}) | row for row in spec["rows"]], spec.get("sets", [])


def rows_of(built: Built, kind: str, name: str) -> Rows:
    """The rows of a table as built."""
    config = built.manifest["source"]["config"]
    suffix = {"passages": "passages", "queries": "data", "qrels": "qrels"}[kind]
    return open_shards(built.folder / f"{config}_{suffix}" / name).to_pylist()


def ledger_of(built: Built, *actions: str) -> Ledger:
    """Row numbers by table, file and action."""
    path = built.folder / f"{built.manifest['source']['config']}_ledger.parquet"
    found: Ledger = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for entry in pq.read_table(path).to_pylist():
        if entry["action"] in actions:
            found[entry["table"]][entry["file"]][entry["action"]].append(entry["row"])
    return {
        table: {file: {a: sorted(rows) for a, rows in by.items()} for file, by in files.items()}
        for table, files in found.items()
    }


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of an edition that is its product."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with FaultyServer(served_files()) as running:
        yield running


def make(
    server: FaultyServer,
    root: Path,
    name: str,
    edition: str | None = None,
    **choices: Any,
) -> Built:
    """Builds one source from the server's files."""
    place_by_hand(root)
    return build(Served(name, server.url("")), root, edition=edition, **choices)


@pytest.fixture(scope="module")
def editions(server: FaultyServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """All four sources, and the two variants, built over HTTP."""
    root = tmp_path_factory.mktemp("sources")
    found = {}
    for key, (name, edition) in EDITIONS.items():
        options = golden(key)["options"] if key == "judged" else {}
        found[key] = make(server, root, name, edition, options=options)
    return found


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_table_is_as_worked_out_by_hand(editions: dict[str, Built], edition: str) -> None:
    built, spec = editions[edition], golden(edition)
    assert built.manifest["options"].items() >= spec["options"].items()
    pools = built.manifest["source"]["pools"]
    assert set(spec["queries"]) == set(pools)
    assert set(spec["passages"]) == set(pools.values())
    texts: dict[str, dict[str, str]] = {}
    for pool in spec["passages"]:
        rows, _ = expected_table(edition, "passages", pool)
        assert rows_of(built, "passages", pool) == rows, pool
        texts[pool] = {row["passage_id"]: row["passage_content"] for row in rows}
    for split in spec["queries"]:
        expected, sets = expected_table(edition, "queries", split)
        found = rows_of(built, "queries", split)
        assert [row["question_id"] for row in found] == [row["question_id"] for row in expected]
        for row, wanted in zip(found, expected, strict=True):
            pool = texts[pools[split]]
            assert row.pop("pos_item_contents") == [pool[i] for i in row["pos_item_ids"]]
            assert row.pop("instruction") in TEMPLATES[LISTS[EDITIONS[edition][0]]].templates
            for column in sets:
                assert len(set(row[column])) == len(row[column])
                row[column], wanted[column] = sorted(row[column]), sorted(wanted[column])
            assert row == wanted
        judged = [(r["question_id"], p) for r in found for p in r["pos_item_ids"]]
        qrels = rows_of(built, "qrels", split)
        assert sorted((r["question_id"], r["passage_id"]) for r in qrels) == sorted(judged)
        assert {r["relevance"] for r in qrels} <= {1}


def test_an_instruction_depends_on_the_row_alone(
    editions: dict[str, Built], server: FaultyServer, tmp_path: Path
) -> None:
    def instructions(built: Built, split: str) -> dict[str, str]:
        return {r["question_id"]: r["instruction"] for r in rows_of(built, "queries", split)}

    for one, other in (("OKVQA", "okvqa-gs"), ("MSMARCO", "msmarco-full")):
        for split in ("train", "valid", "test"):
            assert instructions(editions[one], split) == instructions(editions[other], split)
    seeded = make(server, tmp_path, "okvqa", seed=1)
    assert instructions(seeded, "train") != instructions(editions["OKVQA"], "train")


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_faulty_row_is_in_the_ledger_and_no_other(
    editions: dict[str, Built], edition: str
) -> None:
    assert ledger_of(editions[edition], "dropped", "repaired") == golden(edition)["ledger"]


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_row_that_was_read_is_accounted_for(editions: dict[str, Built], edition: str) -> None:
    tables, spec = editions[edition].manifest["tables"], golden(edition)
    told = {name: entry["inputs"] for name, entry in tables.items() if entry.get("inputs")}
    for name, inputs in told.items():
        for file, flow in inputs.items():
            ends = sum(flow.get(end, 0) for end in ("used", "filtered", "dropped"))
            assert flow["read"] == ends, (name, file)
        rows = sum(flow.get("rows", 0) for flow in inputs.values())
        assert rows == tables[name]["rows"], name
    for name, inputs in spec["inputs"].items():
        for file, flow in inputs.items():
            for key, count in flow.items():
                assert told[name][file].get(key, 0) == count, (name, file, key)
    # A pool that holds the rows of another is made of no rows of its own.
    shared = [pool for group in spec["same_pools"] for pool in group[1:]]
    made = {name.split("/")[1] for name in tables if "_passages/" in name and name in told}
    assert made == set(spec["passages"]) - set(shared)


@pytest.mark.parametrize("edition", ["MSMARCO", "OKVQA", "Infoseek", "EVQA", "okvqa-gs"])
def test_a_full_ledger_lists_every_row(
    editions: dict[str, Built], server: FaultyServer, tmp_path: Path, edition: str
) -> None:
    name, asked = EDITIONS[edition]
    options = {
        # Some rows must be filtered, too.
        "MSMARCO": {"test_pool_size": "8"},
        "Infoseek": {"distractors": "3", "test_images": "1"},
        "EVQA": {"shared_passages": "5"},
    }.get(edition, {})
    built = make(server, tmp_path, name, asked, full_ledger=True, options=options)
    listed = ledger_of(built, "used", "filtered", "dropped")
    for table, entry in built.manifest["tables"].items():
        for file, flow in entry.get("inputs", {}).items():
            numbers = sorted(row for rows in listed[table][file].values() for row in rows)
            assert numbers == list(range(1, flow["read"] + 1)), (table, file)
            for action, rows in listed[table][file].items():
                assert len(rows) == flow[action], (table, file, action)
    if not options:
        plain = ledger_of(editions[edition], "dropped", "repaired")
        assert ledger_of(built, "dropped", "repaired") == plain


@pytest.mark.parametrize("edition", [e for e in EDITIONS if e != "judged"])
def test_verify_finds_nothing(editions: dict[str, Built], edition: str) -> None:
    built = editions[edition]
    problems = [f for f in verify(built.folder, built.manifest) if f.problem]
    assert problems == []


@pytest.mark.parametrize(
    "name",
    # Each worker of a second job costs seconds to start.
    ["evqa", *(pytest.param(n, marks=pytest.mark.slow) for n in SOURCES if n != "evqa")],
)
def test_two_jobs_give_the_same_bytes(server: FaultyServer, tmp_path: Path, name: str) -> None:
    alone = make(server, tmp_path / "alone", name)
    both = make(server, tmp_path / "both", name, jobs=2)
    assert tree(both.folder) == tree(alone.folder)


def test_a_bad_network_gives_the_same_bytes(tmp_path: Path) -> None:
    files = served_files()
    with FaultyServer(files) as server:
        for name in SOURCES:
            straight = make(server, tmp_path / "straight", name)
        for i, (path, body) in enumerate(files.items()):
            faults = (
                Fault(status=503, headers={"Retry-After": "0"}),
                Fault(truncate=len(body) // 2),
                Fault(truncate=len(body) // 3, ranges=False),
            )
            server.fail(path, faults[i % 3])
            server.fail(path, Fault(ranges=i % 2 == 0))
        # Fetched at once beforehand, as a build of one job fetches one file at a time.
        root = tmp_path / "broken"
        for name in SOURCES:
            builder = Served(name, server.url(""))
            options = {option.name: option.default for option in builder.SOURCE.options}
            fetch(builder.assets(options), downloads(root), jobs=8)
            broken = make(server, root, name)
        assert tree(broken.folder) == tree(straight.folder)
        assert all(len(server.gets(path)) == 3 for path in files)


@pytest.mark.parametrize("name", SOURCES)
def test_a_limited_build(server: FaultyServer, tmp_path: Path, name: str) -> None:
    built = make(server, tmp_path, name, limit=2)
    assert built.folder.name.endswith("-limit2")
    for facts in built.manifest["splits"].values():
        assert facts["queries"] == 2
        assert 2 <= facts["passages"] <= 2 * 2 + facts["positives"] + 4
    assert not [f for f in verify(built.folder, built.manifest) if f.problem]


def test_a_killed_build_goes_on_to_the_same_bytes(server: FaultyServer, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = tree(make(server, whole, "evqa").folder)
    program = Path(upstream_fixture.__file__)
    base = server.url("")
    staging = broken / "rebuilt" / ".staging-EVQA"
    for table in ("train_passages", "test_passages"):
        # 11 passages of 0.1 s each: killed while this table is made.
        process = subprocess.Popen([sys.executable, program, "evqa", base, broken, "0.1"])
        deadline = time.monotonic() + 60
        while not (staging / "EVQA_passages" / table).exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (broken / "rebuilt" / "EVQA_manifest.json").exists()
    assert tree(make(server, broken, "evqa").folder) == expected
    assert not staging.exists()


HTML = b"<!doctype html><html><body>Sign in to go on.</body></html>\n"
WRONG = {
    # file: (what comes instead, what the message must hold)
    "msmarco/collectionandqueries.tar.gz": (HTML, "collectionandqueries.tar.gz"),
    "okvqa/OpenEnded_mscoco_train2014_questions.json.zip": (HTML, "questions.json.zip"),
    "okvqa/mscoco_val2014_annotations.json.zip": (
        zipped("other.json", b'{"questions": []}'),
        "annotations",
    ),
    "wikipedia/psgs_w100.tsv.gz": (gzipped(b"title\tid\ttext\nA\t1\tb\n"), "id"),
    "infoseek/infoseek_train.jsonl": (HTML, "infoseek_train.jsonl"),
    "infoseek/infoseek_val.jsonl": (text("infoseek/infoseek_val_withkb.jsonl"), "image_id"),
    "evqa/train.csv": (b"question,answer,image\nq,a,1\n", "dataset_image_ids"),
    "evqa/val.csv": (HTML, "val.csv"),
    "evqa/encyclopedic_kb_wiki.zip": (zipped("encyclopedic_kb_wiki.json", b"[1, 2]"), "kb_wiki"),
    "evqa/inat2021_val.json.tar.gz": (tarred({"val.json": b'{"pictures": []}'}), "images"),
}


@pytest.mark.parametrize("file", WRONG)
def test_a_file_of_another_format_is_refused(tmp_path: Path, file: str) -> None:
    content, word = WRONG[file]
    name = "okvqa" if file.startswith("wikipedia") else file.split("/")[0]
    with (
        FaultyServer(served_files() | {f"/{file}": content}) as server,
        pytest.raises(M2KRError) as caught,
    ):
        make(server, tmp_path, name)
    message = str(caught.value)
    assert Path(file).name in message
    assert word in message
    assert "expected" in message.lower()
    assert not list(tmp_path.glob("*/*_manifest.json"))


def test_an_id_used_twice_in_a_file_of_known_digest_is_refused(tmp_path: Path) -> None:
    """Upstream's md5 says that these files have no such row: another file must not pass for them."""
    members = {n: text(f"msmarco/{n}") for n in upstream_fixture.MSMARCO_MEMBERS}
    members["collection.tsv"] += b"0\tA second text for number zero.\n"
    files = {"/msmarco/collectionandqueries.tar.gz": tarred(members)}
    with (
        FaultyServer(served_files() | files) as server,
        pytest.raises(CheckError, match=r"passage_id '0' is used twice"),
    ):
        make(server, tmp_path, "msmarco")


# What is drawn: sizes, positives, and that a draw depends on seed and id alone.


def ids(built: Built, kind: str, name: str) -> set[str]:
    key = {"passages": "passage_id", "queries": "question_id"}[kind]
    return {row[key] for row in rows_of(built, kind, name)}


def changed(**files: Callable[[bytes], bytes]) -> dict[str, bytes]:
    """MS MARCO's tarball with some members changed."""
    members = {n: text(f"msmarco/{n}") for n in upstream_fixture.MSMARCO_MEMBERS}
    for name, change in files.items():
        member = name.replace("_", ".")
        members[member] = change(members[member])
    return {"/msmarco/collectionandqueries.tar.gz": tarred(members)}


def turned(content: bytes) -> bytes:
    return b"\n".join(reversed(content.rstrip(b"\n").split(b"\n"))) + b"\n"


def test_what_msmarco_draws(tmp_path: Path) -> None:
    options = {"test_pool_size": "9", "test_queries": "2"}
    draws: dict[str, tuple[set[str], set[str]]] = {}
    more = b"".join(b"%d\tPassage number %d.\n" % (n, n) for n in range(1000, 1100))
    for label, files, seed in (
        ("plain", changed(), 0),
        ("turned", changed(collection_tsv=turned, queries_dev_small_tsv=turned), 0),
        ("seeded", changed(), 1),
        ("more", changed(collection_tsv=lambda c: c + more), 0),
    ):
        with FaultyServer(served_files() | files) as server:
            built = make(server, tmp_path / label, "msmarco", options=options, seed=seed)
        pool = ids(built, "passages", "test_passages")
        assert len(pool) == 9
        assert pool == ids(built, "passages", "valid_passages")
        assert pool >= {"0", "1", "2", "3", "7", "9"}, "dev.small's positives"
        draws[label] = pool, ids(built, "queries", "test")
        assert len(draws[label][1]) == 2
        assert len(ids(built, "queries", "valid")) == 4
        numbers = [int(row["passage_id"]) for row in rows_of(built, "passages", "test_passages")]
        assert label == "turned" or numbers == sorted(numbers)
    # 300 is another question in the turned file, as it occurs twice: its draw is the same.
    assert draws["turned"] == draws["plain"]
    assert draws["seeded"] != draws["plain"]
    old = draws["more"][0] & {str(n) for n in range(100)}
    assert old <= draws["plain"][0], "a new row may only push others out"


def test_a_keyed_draw_of_numbers_is_uniform_and_independent_of_other_rows() -> None:
    numbers = np.arange(10_000)
    keys = keyed_numbers(numbers, "msmarco pool")
    drawn = set(draw(keys, 2_000).tolist())
    assert abs(np.mean(list(drawn)) - 5_000) < 4 * 10_000 / np.sqrt(12 * 2_000)
    half = numbers[::2]
    of_half = {int(half[i]) for i in draw(keyed_numbers(half, "msmarco pool"), 1_000)}
    assert drawn & set(half.tolist()) <= of_half or of_half <= drawn
    other = set(draw(keyed_numbers(numbers, "infoseek pool"), 2_000).tolist())
    assert 300 < len(drawn & other) < 500, "draws of two purposes have a fifth in common"


def test_what_infoseek_draws(tmp_path: Path) -> None:
    options = {"distractors": "4", "test_images": "1"}
    related = {"1", "2", "3", "5", "6", "7"}
    draws: dict[str, tuple[set[str], set[str]]] = {}
    files = {"/infoseek/infoseek_val.jsonl": turned(text("infoseek/infoseek_val.jsonl"))}
    for label, other, seed in (("plain", {}, 0), ("turned", files, 0), ("seeded", {}, 1)):
        with FaultyServer(served_files() | other) as server:
            built = make(server, tmp_path / label, "infoseek", options=options, seed=seed)
        pool = ids(built, "passages", "test_passages")
        assert pool == ids(built, "passages", "train_passages")
        assert related <= pool
        positives = {
            p
            for s in ("train", "test")
            for r in rows_of(built, "queries", s)
            for p in r["pos_item_ids"]
        }
        assert positives <= pool
        assert len(pool) == 6 + 4, "the related passages of both splits, and 4 others"
        images = {row["img_id"] for row in rows_of(built, "queries", "test")}
        assert len(images) <= 1
        draws[label] = pool, ids(built, "queries", "test")
    assert draws["turned"] == draws["plain"]
    assert draws["seeded"][0] != draws["plain"][0]


@pytest.mark.parametrize("images", ["2", "3", "4", "all"])
def test_infoseek_takes_all_questions_of_an_image_or_none(
    server: FaultyServer, tmp_path: Path, images: str
) -> None:
    built = make(server, tmp_path, "infoseek", options={"test_images": images})
    found = ids(built, "queries", "test")
    both = {"infoseek_val_00000001", "infoseek_val_00000003"}
    assert both <= found or not both & found
    if images in {"4", "all"}:
        assert len(found) == 4


def test_what_evqa_draws(tmp_path: Path) -> None:
    gold = {
        "train": {"WikiWeb_Grey reed_2", "WikiWeb_Stone Gate_1", "WikiWeb_Blue finch_1"},
        "valid": {"WikiWeb_Blue finch_0"},
        "test": {"WikiWeb_Grey reed_1", "WikiWeb_Café Müller_0"},
    }
    kb = json.loads(text("evqa/encyclopedic_kb_wiki.json"))
    upside = json.dumps(dict(reversed(kb.items())), ensure_ascii=False).encode()
    turned_kb = {"/evqa/encyclopedic_kb_wiki.zip": zipped("encyclopedic_kb_wiki.json", upside)}
    draws: dict[str, set[str]] = {}
    for label, other, seed in (("plain", {}, 0), ("turned", turned_kb, 0), ("seeded", {}, 2)):
        with FaultyServer(served_files() | other) as server:
            options = {"shared_passages": "6"}
            built = make(server, tmp_path / label, "evqa", options=options, seed=seed)
        pools = {split: ids(built, "passages", f"{split}_passages") for split in gold}
        assert len(pools["train"]) == 6
        common = set.intersection(*pools.values())
        assert len(common) == 6 and common == pools["train"], "the shared part has train's evidence"
        for split, evidence in gold.items():
            assert evidence <= pools[split]
            assert pools[split] == common | {
                p for r in rows_of(built, "queries", split) for p in r["pos_item_ids"]
            }
            texts = [r["pos_item_contents"] for r in rows_of(built, "queries", split)]
            assert all(len(found) == 1 and found[0] for found in texts)
        (southfield,) = (
            r for r in rows_of(built, "queries", "train") if r["question_id"] == "EVQA_train_9"
        )
        assert "gate in Southfield" in southfield["pos_item_contents"][0]
        draws[label] = {p.partition("#")[0] for p in common}
    assert draws["turned"] == draws["plain"]
    assert draws["seeded"] != draws["plain"]


def test_evqa_draws_an_image_by_seed_and_question(server: FaultyServer, tmp_path: Path) -> None:
    built = make(server, tmp_path, "evqa", options={"images": "drawn"})
    found = {r["question_id"]: r["img_id"] for r in rows_of(built, "queries", "train")}
    assert found["EVQA_train_1"] in {"111", "222", "333"}
    assert found["EVQA_train_8"] in {"777", "111"}
    assert found["EVQA_train_2"] == "0a1b2c3d4e5f6071"


@pytest.mark.skipif(not SAMPLES, reason="M2KR_UPSTREAM_SAMPLES names no folder of real files")
def test_every_real_okvqa_question_comes_through(tmp_path: Path) -> None:
    words = ("pear", "zebra", "tram", "gull", "ferry", "lantern", "1912", "xylograph")
    files, texts = served_files(), dict[str, dict[str, tuple[str, int]]]()
    for subset in ("train2014", "val2014"):
        stem = f"OpenEnded_mscoco_{subset}_questions"
        content = (Path(str(SAMPLES)) / "okvqa" / f"{stem}.json").read_bytes()
        files[f"/okvqa/{stem}.json.zip"] = zipped(f"{stem}.json", content)
        asked = json.loads(content)["questions"]
        annotations = [
            {
                "question_id": q["question_id"],
                "image_id": q["image_id"],
                "answers": [
                    {"answer_id": i, "answer": words[(q["question_id"] + i // 2) % len(words)]}
                    for i in (1, 2, 3)
                ],
            }
            for q in asked
        ]
        name = f"mscoco_{subset}_annotations.json"
        body = json.dumps({"annotations": annotations}).encode()
        files[f"/okvqa/{name}.zip"] = zipped(name, body)
        texts[subset] = {str(q["question_id"]): (q["question"], q["image_id"]) for q in asked}
    with FaultyServer(files) as server:
        built = make(server, tmp_path, "okvqa")
    counts = {split: facts["queries"] for split, facts in built.manifest["splits"].items()}
    assert counts == {"train": 9_009, "valid": 5_046, "test": 5_046}
    assert not [w for w in built.manifest["count_warnings"] if "_passages" not in w]
    for split, subset in (("train", "train2014"), ("valid", "val2014"), ("test", "val2014")):
        rows = rows_of(built, "queries", split)
        assert {r["question_id"]: (r["question"], r["img_key"]) for r in rows} == texts[subset]
        assert all(
            re.fullmatch(rf"{subset}/COCO_{subset}_\d{{12}}\.jpg", r["img_path"]) for r in rows
        )
        assert all(len(r["answers"]) == 3 for r in rows)
    assert not ledger_of(built, "dropped", "repaired").get("OKVQA_data/train")
