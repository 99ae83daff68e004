"""Every source built from true-format upstream files, against tables made by hand (`golden_tables`)."""

import signal
import tarfile
import time
from pathlib import Path

import pytest
from servers.faulty_server import Fault, FaultyServer
from support import killed_build
from support.golden_tables import (
    EDITIONS,
    FILTERING,
    FIRST,
    LISTS,
    SOURCES,
    expected_table,
    fixture_files,
    golden,
    hold_to_golden,
    ledger_of,
    make,
    rows_of,
    tree,
)
from support.upstream_fixture import Served, served_files

from m2kr.building import registry
from m2kr.building.build import Built
from m2kr.building.fetch.fetch import fetch
from m2kr.building.options import resolve_options
from m2kr.building.verify import verify
from m2kr.data.images.store import ImageStore
from m2kr.instructions import TEMPLATES
from m2kr.paths import downloads


@pytest.fixture(scope="module")
def editions(server: FaultyServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """All sources and their variants, built over HTTP."""
    root = tmp_path_factory.mktemp("sources")
    return {key: make(server, root, *EDITIONS[key]) for key in EDITIONS}


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


@pytest.mark.parametrize("edition", EDITIONS)
def test_no_row_changes_without_a_new_version(editions: dict[str, Built], edition: str) -> None:
    hold_to_golden(editions[edition], edition, fixture_files(EDITIONS[edition][0]))


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


@pytest.mark.parametrize("edition", [*FIRST.values(), "okvqa-gs"])
def test_a_full_ledger_lists_every_row(
    editions: dict[str, Built], server: FaultyServer, tmp_path: Path, edition: str
) -> None:
    name, asked = EDITIONS[edition]
    options = FILTERING.get(edition)
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


@pytest.mark.parametrize("edition", FIRST.values())
def test_images_are_found_in_every_archive_that_is_named(
    editions: dict[str, Built], tmp_path: Path, edition: str
) -> None:
    """Given as a root, once what is packed is unpacked: as the archives have their names."""
    built, name = editions[edition], EDITIONS[edition][0]
    rows = [row for split in golden(edition)["queries"] for row in rows_of(built, "queries", split)]
    paths = {row["img_path"] for row in rows} - {None}
    archives = registry.builder(name).image_archives
    assert (paths and archives) or name == "msmarco"
    for number, archive in enumerate(archives):
        held = sorted(path for path in paths if archive.may_hold(path))
        root = tmp_path / f"{number}.tar"
        with tarfile.open(root, "w") as tar:
            tar.addfile(tarfile.TarInfo("more/files.txt"))
            for path in held:
                tar.addfile(tarfile.TarInfo(archive.inside(path)))
        store = ImageStore([root], names=built.manifest["source"]["image_names"])
        assert [path for path in held if not store.exists(path)] == [], archive.name


@pytest.mark.parametrize("edition", [e for e in EDITIONS if e != "judged"])
def test_verify_finds_nothing(editions: dict[str, Built], edition: str) -> None:
    built = editions[edition]
    problems = [f for f in verify(built.folder, built.manifest) if f.problem]
    assert problems == []


@pytest.mark.slow  # each worker of a second job costs seconds to start
@pytest.mark.parametrize("name", SOURCES)
def test_two_jobs_give_the_same_bytes(server: FaultyServer, tmp_path: Path, name: str) -> None:
    alone = make(server, tmp_path / "alone", name)
    both = make(server, tmp_path / "both", name, jobs=2)
    assert tree(both.folder) == tree(alone.folder)


@pytest.mark.slow
def test_a_bad_network_gives_the_same_bytes(tmp_path: Path) -> None:
    files = served_files()
    with FaultyServer(files) as server:
        straight = make(server, tmp_path / "straight", "evqa")
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
            options = resolve_options(builder.source, golden(FIRST[name])["options"])
            fetch(builder.assets(options), downloads(root), jobs=8)
        # What a build makes of a file depends on its bytes alone.
        assert all((downloads(root) / path[1:]).read_bytes() == files[path] for path in files)
        broken = make(server, root, "evqa")
        assert tree(broken.folder) == tree(straight.folder)
        of_evqa = [path for path in files if path.startswith("/evqa/")]
        assert all(len(server.gets(path)) == 2 + (path in of_evqa) for path in files)


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
    base = server.url("")
    staging = broken / "rebuilt" / ".staging-EVQA"
    for table in ("train_passages", "test_passages"):
        process = killed_build.start("evqa", base, broken, table)
        deadline = time.monotonic() + 300
        while not (staging / "EVQA_passages" / table).exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (broken / "rebuilt" / "EVQA_manifest.json").exists()
    assert tree(make(server, broken, "evqa").folder) == expected
    assert not staging.exists()
