"""What is scored is what is named: damaged, edited and replaced files are found, never read in silence."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Cli
from resign import resign
from toy_builder import ToyBuilder

import m2kr
from m2kr.building.build import build
from m2kr.building.images.shard_writer import Store
from m2kr.building.publish import remove
from m2kr.building.verify import verify_root
from m2kr.data import file_checks
from m2kr.data.images.places import add_roots
from m2kr.data.images.store import ImageStore
from m2kr.errors import CheckError, InputError, M2KRError, MissingError, UsageError
from m2kr.retrieval.protocol import Modalities
from m2kr.retrieval.run import Run

CONFIG = "TINY"
ROWS = 20


@pytest.fixture(autouse=True)
def _no_stamps_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


def tiny(root: Path, text: str = "text", edition: str | None = None) -> m2kr.Split:
    """A source of one split with images, made from records."""
    passages = {f"p{i}": f"{text} number {i} of {ROWS}" for i in range(ROWS + len(text) // 8)}
    queries = [
        {
            "id": f"q{i}",
            "question": f"{text} {i}",
            "img_path": f"a/{i % 5}.jpg",
            "positives": [f"p{i + len(text)}"],
        }
        for i in range(6)
    ]
    photos = root / "photos"
    (photos / "a").mkdir(parents=True, exist_ok=True)
    for i in range(5):
        (photos / "a" / f"{i}.jpg").write_bytes(bytes([i]))
    if list(root.glob(f"{edition or 'tiny'}/{CONFIG}_manifest.json")):
        remove("tiny", root, edition=edition or "tiny")
    return m2kr.from_records(
        passages, queries, name="tiny", edition=edition, images=photos, data=root
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with two editions of ``tiny`` and a store of images; tests work on copies."""
    root = tmp_path_factory.mktemp("built")
    tiny(root)
    tiny(root, "other text", "other")
    with Store(root / "images" / "tiny") as store:
        for i in range(10):
            store.add(f"b/{i}.jpg", random.Random(i).randbytes(300))
        store.add("long/" * 40 + "ü.jpg", b"x" * 100)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built``. The photos of the manifest stay where they are."""
    ignored = shutil.ignore_patterns(".cache")
    return Path(shutil.copytree(built, tmp_path / "root", symlinks=True, ignore=ignored))


def rows(root: Path, edition: str = "tiny") -> list[Any]:
    """All that can be read of a split: tables, and rows by id."""
    split = m2kr.load("tiny", edition=edition, data=root)
    found: list[Any] = [t.to_list() for t in (split.queries, split.passages, split.qrels)]
    found += [split.query(f"q{i}") for i in range(6)] + [split.passage("p3")]
    return [*found, split.fingerprints, split.manifest["comparable"], split.manifest["partial"]]


def problems(root: Path, edition: str = "tiny") -> list[str]:
    """What verify says of one edition; each finding says what to do."""
    found = [f for _, f in verify_root(root, "tiny", edition) if f.problem]
    assert all(f.fix for f in found)
    return [f"{f.table}: {f.problem}" for f in found]


def files_of(*folders: Path) -> list[Path]:
    found = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    return sorted(p for p in found if p.stat().st_size and not p.name.startswith("."))


def flips(paths: list[Path], each: int, seed: int) -> Iterator[tuple[Path, int]]:
    """Flips a bit in turn at drawn places, and mends it; the ends of files are among the places."""
    draw = random.Random(seed)
    for path in paths:
        data = path.read_bytes()
        places = {0, len(data) - 1, *(draw.randrange(len(data)) for _ in range(each - 2))}
        for at in sorted(places):
            path.write_bytes(
                data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
            )
            yield path, at
        path.write_bytes(data)


def every_flip_is_found(root: Path, each: int, seed: int) -> int:
    paths = files_of(root / "tiny", root / "images")
    assert {".arrow", ".npy", ".json", ".parquet", ".md", ".tar"} <= {p.suffix for p in paths}
    assert not problems(root)
    count = 0
    writers = {p: pq.read_metadata(p).created_by for p in paths if p.suffix == ".parquet"}
    for path, at in flips(paths, each, seed):
        said = problems(root)
        if not said and path.name.endswith(".index.parquet"):
            # The name of the pyarrow that wrote an index is no data, and another's is as good.
            assert pq.read_metadata(path).created_by != writers[path]
            continue
        assert said, f"verify missed the flip at {at} of {path}"
        name = path.name if path.is_relative_to(root / "tiny") else "images"
        assert any(name in line for line in said), said
        count += 1
    assert not problems(root)
    return count


def no_flip_is_read(root: Path, each: int, seed: int) -> int:
    right, count, refused = rows(root), 0, 0
    for path, at in flips(files_of(root / "tiny"), each, seed):
        try:
            assert rows(root) == right, f"the flip at {at} of {path} was read"
        except M2KRError as error:
            refused += 1
            assert str(path) in str(error), error
            assert error.fix, error
        count += 1
    assert refused > count / 2
    return count


def test_verify_finds_every_flipped_byte(root: Path) -> None:
    assert every_flip_is_found(root, 11, seed=1) >= 200


def test_no_flipped_byte_is_ever_read(root: Path) -> None:
    assert no_flip_is_read(root, 12, seed=2) >= 200


@pytest.mark.slow
def test_thousands_of_flips(root: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    assert every_flip_is_found(root, 40, seed) + no_flip_is_read(root, 100, seed) > 2_000


@pytest.mark.slow
def test_flips_of_a_built_source_with_many_splits(tmp_path: Path) -> None:
    build(ToyBuilder(rows=30), tmp_path)
    folder = tmp_path / "rebuilt"
    for path, at in flips(files_of(folder), 5, seed=3):
        assert [f for _, f in verify_root(tmp_path) if f.problem], (path, at)
    assert not [f for _, f in verify_root(tmp_path) if f.problem]


def test_a_card_that_is_gone_is_written_anew(root: Path) -> None:
    card = root / "tiny" / "README.md"
    whole = card.read_bytes()
    card.unlink()
    assert problems(root) == ["README.md: it was gone"]
    assert card.read_bytes() == whole
    card.write_bytes(whole + b"notes of my own")
    assert len(problems(root)) == 1
    assert card.read_bytes() == whole + b"notes of my own"
    copy = root.rename(root.with_name("elsewhere"))
    (copy / "tiny").rename(copy / "renamed")
    (copy / "renamed" / "README.md").write_bytes(whole)
    assert not problems(copy, "renamed")


def test_a_flipped_image_is_not_given(root: Path) -> None:
    paths = sorted((root / "images" / "tiny").glob("images-*"))
    assert [path.suffix for path in paths] == [".tar", ".parquet"]
    whole = {f"b/{i}.jpg": random.Random(i).randbytes(300) for i in range(10)}
    refused = 0
    for _ in flips(paths, 100, seed=4):
        store = ImageStore([root / "images" / "tiny"])
        for name, data in whole.items():
            try:
                assert store.read(name) == data
            except M2KRError:
                refused += 1
    assert refused > 20


# -- 100 edits by hand: (what, edit). Each is refused in one line, or the right rows are read.


def _json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")


VALUES: dict[str, Any] = {
    "null": None,
    "a huge number": 10**400,
    "a negative number": -1,
    "infinity": float("inf"),
    "text": "x" * 3000,
    "an empty list": [],
    "an empty object": {},
    "a list of lists": [[[1]]],
    "true": True,
}


def _nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def edits() -> dict[str, Callable[[Path], object]]:
    """Edits of the edition folder ``tiny`` beside ``other``."""
    found: dict[str, Callable[[Path], object]] = {}
    tables = {"data": f"{CONFIG}_data/test", "pool": f"{CONFIG}_passages/test_passages"}
    tables["qrels"] = f"{CONFIG}_qrels/test"
    shards = {name: f"{table}/data-00000.arrow" for name, table in tables.items()}
    manifest = f"{CONFIG}_manifest.json"
    some = {
        **shards,
        "ids": f"{tables['pool']}/ids.npy",
        "state": f"{tables['data']}/state.json",
        "info": f"{tables['pool']}/dataset_info.json",
        "manifest": manifest,
    }
    for what, file in some.items():
        found[f"{what} deleted"] = lambda e, f=file: (e / f).unlink()
        found[f"{what} renamed"] = lambda e, f=file: (e / f).rename(e / f"{f}.bak")
        found[f"{what} empty"] = lambda e, f=file: (e / f).write_bytes(b"")
        found[f"{what} a folder"] = lambda e, f=file: ((e / f).unlink(), (e / f).mkdir())
        found[f"{what} a pipe"] = lambda e, f=file: ((e / f).unlink(), os.mkfifo(e / f))
        found[f"{what} cut"] = lambda e, f=file: os.truncate(e / f, (e / f).stat().st_size // 2)
        found[f"{what} longer"] = lambda e, f=file: (e / f).write_bytes(
            (e / f).read_bytes() + b"\0" * 9
        )
        found[f"{what} vast"] = lambda e, f=file: os.truncate(e / f, 1 << 40)
        found[f"{what} of another edition"] = lambda e, f=file: shutil.copy(
            e.parent / "other" / f, e / f
        )
        found[f"{what} a link to itself"] = lambda e, f=file: (
            (e / f).unlink(),
            (e / f).symlink_to(e / f),
        )
        found[f"{what} a link to a device"] = lambda e, f=file: (
            (e / f).unlink(),
            (e / f).symlink_to("/dev/zero"),
        )
    for what, value in VALUES.items():
        for key in ("fingerprints", "files", "comparable"):
            found[f"manifest {key} {what}"] = lambda e, k=key, v=value: _json(
                e / manifest, lambda r: r.update({k: v})
            )
    for what in ("source", "tables", "splits", "format", "sha256", "partial", "route", "inputs"):
        found[f"manifest without {what}"] = lambda e, k=what: _json(
            e / manifest, lambda r: r.pop(k)
        )
    found["manifest a list"] = lambda e: (e / manifest).write_text("[1]", encoding="utf-8")
    found["manifest not UTF-8"] = lambda e: (e / manifest).write_bytes(b'{"format": "\xff"}')
    found["manifest nested"] = lambda e: (e / manifest).write_text("[" * 10**6, encoding="utf-8")
    found["manifest deep value"] = lambda e: _json(e / manifest, lambda r: r.update(x=_nest(500)))
    found["manifest sorted, says the same"] = lambda e: (e / manifest).write_text(
        json.dumps(json.loads((e / manifest).read_text(encoding="utf-8")), sort_keys=True),
        encoding="utf-8",
    )
    for what, table in tables.items():
        found[f"{what} table deleted"] = lambda e, t=table: shutil.rmtree(e / t)
        found[f"{what} table a file"] = lambda e, t=table: (
            shutil.rmtree(e / t),
            (e / t).write_bytes(b"x"),
        )
        found[f"{what} table of another edition"] = lambda e, t=table: (
            shutil.rmtree(e / t),
            shutil.copytree(e.parent / "other" / t, e / t),
        )
        found[f"{what} table a link to another edition"] = lambda e, t=table: (
            shutil.rmtree(e / t),
            (e / t).symlink_to(e.parent / "other" / t),
        )
        found[f"{what} one shard more"] = lambda e, t=table: shutil.copy(
            e / t / "data-00000.arrow", e / t / "data-00001.arrow"
        )
        found[f"{what} table elsewhere, linked"] = lambda e, t=table: (
            shutil.move(e / t, e.parent / "moved" / t),
            (e / t).symlink_to(e.parent / "moved" / t),
        )
    found["all tables and not the manifest of another edition"] = lambda e: [
        shutil.copytree(e.parent / "other" / t, e / t, dirs_exist_ok=True) for t in tables.values()
    ]
    found["manifest of another source"] = lambda e: (e / manifest).rename(e / "OTHER_manifest.json")
    found["a second manifest under another name"] = lambda e: shutil.copy(
        e / manifest, e / "COPY_manifest.json"
    )
    found["an empty manifest beside it"] = lambda e: (e / "_manifest.json").touch()
    return found


EDITS = edits()
HARMLESS = {
    "info of another edition",  # the same bytes
    "manifest sorted, says the same",
    "a second manifest under another name",
    "an empty manifest beside it",
    *(
        f"{table} {what}"
        for table in ("data", "pool", "qrels")
        for what in (
            "one shard more",
            "table elsewhere, linked",
        )
    ),
}


def test_a_hundred_edits_by_hand(built: Path, tmp_path: Path) -> None:
    """Read, and verified, within one second each; other sources in the folder stay as they are."""
    assert len(EDITS) >= 100
    right, other = rows(built), rows(built, "other")[0][0]
    for what, edit in EDITS.items():
        root = tmp_path / "root"
        for edition in ("tiny", "other"):
            shutil.copytree(built / edition, root / edition)
        edit(root / "tiny")
        started = time.monotonic()
        try:
            assert rows(root) == right, what
            assert what in HARMLESS, what
        except M2KRError as error:
            assert what not in HARMLESS, (what, error)
            assert error.fix, what
            assert len(str(error).splitlines()) <= 3, what
            assert str(root) in str(error), what
        assert m2kr.load("tiny", edition="other", data=root).queries[0] == other, what
        # Without a manifest there is nothing to verify, and nothing to be read.
        gone = not (root / "tiny" / f"{CONFIG}_manifest.json").exists()
        assert problems(root) or gone or "elsewhere" in what or what in HARMLESS, what
        assert time.monotonic() - started < 2, what
        shutil.rmtree(root)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user whom permissions stop, where tests are run by root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")
@pytest.mark.parametrize(
    "name",
    [f"{CONFIG}_data/test/data-00000.arrow", f"{CONFIG}_data/test", f"{CONFIG}_manifest.json", ""],
)
def test_what_may_not_be_read_is_one_line(built: Path, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        root = Path(shutil.copytree(built, Path(folder) / "root"))
        root.chmod(0o755)
        rows(root)
        path = root / "tiny" / name
        mode = path.stat().st_mode
        path.chmod(0)
        with unprivileged():
            with pytest.raises(M2KRError):
                rows(root)
            assert problems(root) or not name
            assert m2kr.load("tiny", edition="other", data=root).queries
        path.chmod(mode)
        root.chmod(0)
        with unprivileged(), pytest.raises(M2KRError, match="not allowed"):
            rows(root)


def test_blanked_warnings_in_a_manifest_are_found(root: Path, cli: Cli) -> None:
    path = root / "tiny" / f"{CONFIG}_manifest.json"
    _json(path, lambda record: record.update(partial=False, comparable=""))
    with pytest.raises(InputError, match="changed after it was written"):
        m2kr.load("tiny", edition="tiny", data=root)
    report = json.loads(cli("verify", "tiny", "--data", root, "--json", code=1).stdout)
    assert [(p["edition"], p["check"]) for p in report["problems"]] == [("tiny", "manifest")]


def test_the_manifest_lists_every_published_file(root: Path) -> None:
    folder = root / "tiny"
    listed = resign(folder, CONFIG)["files"]
    own = {f"{CONFIG}_manifest.json", "README.md", "croissant.json"}
    assert set(listed) == {p.relative_to(folder).as_posix() for p in files_of(folder)} - own


# -- Files that were hashed are not hashed again, unless they may have changed.


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed; changes are taken as settled at once."""
    names: list[str] = []
    real = file_checks.hash_file

    def hash_file(path: Path) -> Any:
        names.append("/".join(path.parts[-3:]))
        return real(path)

    monkeypatch.setattr(file_checks, "hash_file", hash_file)
    monkeypatch.setattr(file_checks, "SETTLED_NS", 0)
    return names


def take(names: list[str]) -> list[str]:
    taken = list(names)
    names.clear()
    return taken


def test_only_the_tables_that_are_read_are_hashed_and_only_once(
    root: Path, hashed: list[str]
) -> None:
    load = lambda: m2kr.load("tiny", edition="tiny", data=root)  # noqa: E731
    assert len(load().queries) == 6
    assert {name.rpartition("/")[0] for name in take(hashed)} == {f"{CONFIG}_data/test"}
    rows(root)
    assert take(hashed)
    rows(root)
    assert not take(hashed)
    assert not (root.parent / "user-cache").exists()
    # A folder that was copied with all its times is another one.
    copy = root.parent / "copy"
    shutil.copytree(root, copy)
    rows(copy)
    assert take(hashed)


def test_a_change_that_keeps_size_and_time_is_found(root: Path, hashed: list[str]) -> None:
    rows(root)
    path = root / "tiny" / f"{CONFIG}_data/test/data-00000.arrow"
    facts, data = path.stat(), path.read_bytes()
    with path.open("r+b") as file:
        file.seek(data.index(b"text 3"))
        file.write(b"text 4")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(CheckError, match=r"data-00000\.arrow"):
        rows(root)


def test_a_file_that_was_just_written_gets_no_stamp(root: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(file_checks, "SETTLED_NS", 10**15)
    rows(root)
    assert not list((root / ".cache").glob("checked/*/*.json"))


def test_stamps_of_a_root_that_cannot_be_written_are_the_users(
    root: Path, hashed: list[str]
) -> None:
    shutil.rmtree(root / ".cache", ignore_errors=True)
    (root / ".cache").write_bytes(b"")  # permissions do not stop root, who runs tests
    rows(root)
    assert take(hashed)
    assert list((root.parent / "user-cache").rglob("*.json"))
    rows(root)
    assert not take(hashed)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"a": 1}', b"[" * 10**5, b"{}"])
def test_stamps_that_are_none_cost_a_hash(root: Path, hashed: list[str], content: bytes) -> None:
    right = rows(root)
    for path in root.glob(".cache/checked/*/*.json"):
        path.write_bytes(content)
    take(hashed)
    assert rows(root) == right
    assert take(hashed)


# -- Manifest and tables are read as one.


def test_a_split_whose_source_was_made_anew_is_refused(root: Path) -> None:
    old = m2kr.load("tiny", edition="tiny", data=root)
    first = old.queries[0]
    tiny(root, "new text", "tiny")
    assert old.queries[0] == first  # open before: the old table, under the old fingerprint
    with pytest.raises(CheckError, match="built anew"):
        _ = old.passages
    with pytest.raises(CheckError, match="built anew"):
        old.passage("p1")
    new = m2kr.load("tiny", edition="tiny", data=root)
    assert new.passages[0]["passage_content"].startswith("new text")
    assert new.fingerprints["pool"] != old.fingerprints["pool"]


class Replacing:
    """A retriever that finds nothing, and has another source made anew while it indexes."""

    name = "replacing"
    modalities = Modalities()

    def __init__(self, act: Callable[[], object]) -> None:
        self.act, self.settings = act, dict[str, Any]()
        self.seen: list[str] = []

    def index(self, passages: Any, *, workdir: Path) -> None:
        self.seen.append(passages[0]["passage_content"])
        self.act()

    def search(self, queries: Any, k: int) -> Run:
        return Run.from_dict({query: {} for query in queries.ids.to_pylist()})


def test_sources_of_one_evaluation_are_loaded_at_their_turn(tmp_path: Path) -> None:
    query = [{"id": "q", "question": "?", "positives": ["p"]}]
    for name in ("a", "b"):
        m2kr.from_records({"p": "old"}, query, name=name, data=tmp_path)

    def again() -> None:
        if m2kr.load("b", data=tmp_path).passages[0]["passage_content"] == "old":
            remove("b", tmp_path)
            m2kr.from_records({"p": "new"}, query, name="b", data=tmp_path)

    one = Replacing(again)
    _, result = m2kr.evaluate(["a", "b"], one, data=tmp_path, k=1)
    assert one.seen == ["old", "new"]
    assert result.fingerprints["pool"] == m2kr.load("b", data=tmp_path).fingerprints["pool"]


WRITER = """
import sys
from pathlib import Path
from m2kr.building.publish import remove
import m2kr
root = Path({root!r})
for turn in range(10**6):
    if (root / "tiny" / "TINY_manifest.json").exists():
        remove("tiny", root)
    texts = {{f"p{{i}}": f"turn {{turn}} number {{i}}" for i in range(20)}}
    query = {{"question": f"turn {{turn}}", "positives": [f"p{{turn % 20}}"]}}
    asked = [query | {{"id": f"q{{i}}"}} for i in range(3)]
    m2kr.from_records(texts, asked, name="tiny", data=root)
    print(turn, flush=True)
"""


@pytest.mark.slow
def test_readers_beside_a_writer_never_get_a_mixture(tmp_path: Path) -> None:
    script = WRITER.format(root=str(tmp_path))
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    right = refused = 0
    until = time.monotonic() + 20
    try:
        while time.monotonic() < until:
            try:
                split = m2kr.load("tiny", data=tmp_path)
                texts = {row["passage_content"].split(" number")[0] for row in split.passages}
                questions = {row["question"] for row in split.queries}
                judged = {row["passage_id"] for row in split.qrels}
                row = split.passage("p7")["passage_content"]
            except M2KRError as error:
                assert any(w in str(error) for w in ("built", "no source", "not here")), error
                refused += 1
                continue
            assert texts == questions == {row.split(" number")[0]}
            assert judged == {f"p{int(min(texts).split()[1]) % 20}"}
            right += 1
    finally:
        writer.kill()
        writer.communicate()
    print(f"{right} right, {refused} refused")
    assert right > 5


def test_a_file_that_is_written_to_while_it_is_scored_ends_the_evaluation(root: Path) -> None:
    path = root / "tiny" / f"{CONFIG}_data/test/data-00000.arrow"

    def act() -> None:
        with path.open("r+b") as file:
            file.seek(path.read_bytes().index(b"text 3"))
            file.write(b"text 4")

    with pytest.raises(CheckError, match="while it was in use"):
        m2kr.evaluate("tiny", Replacing(act), edition="tiny", data=root, k=1)


# -- One bad manifest, or a moved image folder, harms nothing else.


def good_and_bad(root: Path) -> Path:
    """Two sources in one edition; the manifest of one, to be damaged."""
    query = [{"id": "q", "question": "?", "positives": ["p"]}]
    for name in ("good", "bad"):
        m2kr.from_records({"p": "text"}, query, name=name, edition="both", data=root)
    return root / "both" / "BAD_manifest.json"


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"format": "m2kr-manifest-99"}', None])
def test_one_bad_manifest_harms_nothing_else(tmp_path: Path, content: bytes | None) -> None:
    path = good_and_bad(tmp_path)
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    assert len(m2kr.load("good", data=tmp_path).queries) == 1
    with pytest.raises(InputError, match=r"BAD_manifest\.json"):
        m2kr.load("bad", data=tmp_path)
    assert not [f for _, f in verify_root(tmp_path, "good") if f.problem]
    (bad,) = [f for _, f in verify_root(tmp_path, "bad") if f.problem]
    assert (bad.table, bad.check) == ("BAD_manifest.json", "manifest")
    with pytest.raises(InputError, match="m2kr remove bad"):
        good_and_bad(tmp_path)
    remove("bad", tmp_path)
    good_and_bad(tmp_path)
    assert len(m2kr.load("bad", data=tmp_path).queries) == 1
    assert not [f for _, f in verify_root(tmp_path) if f.problem]


@pytest.mark.parametrize("content", [b"{", b"", None])
def test_a_build_over_a_damaged_manifest_is_made_anew(
    tmp_path: Path, content: bytes | None
) -> None:
    path = build(ToyBuilder(rows=20), tmp_path).folder / "TOY_manifest.json"
    whole = path.read_bytes()
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    assert build(ToyBuilder(rows=20), tmp_path).fresh
    assert path.read_bytes() == whole
    assert not [f for _, f in verify_root(tmp_path) if f.problem]


def test_one_bad_manifest_harms_no_command(tmp_path: Path, cli: Cli) -> None:
    path = good_and_bad(tmp_path)
    path.write_text("{", encoding="utf-8")
    listed = json.loads(cli("list", "--data", tmp_path, "--json").stdout)
    assert [s["editions"] for s in listed["sources"] if s["source"] == "good"] == [["both"]]
    assert [Path(d["where"]).name for d in listed["damaged"]] == ["BAD_manifest.json"]
    said = cli("eval", "all", "-r", "oracle", "--data", tmp_path, "--out", tmp_path / "out")
    assert "good" in said.stdout
    assert "BAD_manifest.json" in said.stderr
    said = cli("verify", "--data", tmp_path, code=1)
    assert "both/BAD_manifest.json" in said.stdout
    assert "m2kr build bad" in said.stdout


def test_another_edition_does_not_stand_in_for_a_damaged_one(root: Path) -> None:
    (root / "tiny" / f"{CONFIG}_manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="damaged"):
        m2kr.load("tiny", data=root)
    assert rows(root, "other")


def test_a_benchmark_source_with_a_damaged_manifest_is_known_by_all_its_names(
    tmp_path: Path,
) -> None:
    (tmp_path / "m2kr").mkdir()
    (tmp_path / "m2kr" / "CC_manifest.json").write_text("{", encoding="utf-8")
    for name in ("cc3m", "CC"):
        with pytest.raises(InputError, match="--route release") as error:
            m2kr.load(name, data=tmp_path)
        assert "CC_manifest.json" in str(error.value)


def test_a_moved_image_folder_harms_only_what_reads_images(tmp_path: Path) -> None:
    tiny(tmp_path)
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert m2kr.evaluate("tiny", "bm25", data=tmp_path, k=5)[0].images is None
    split = m2kr.load("tiny", data=tmp_path)
    assert len(split.queries_view) == 6
    with pytest.raises(MissingError, match=r"photos.*not there") as error:
        split.images.read("a/1.jpg")
    assert "--images" in str(error.value)
    assert [line for line in problems(tmp_path) if "photos" in line and line.startswith("images")]
    given = m2kr.load("tiny", data=tmp_path, images=[tmp_path / "moved"])
    assert given.images.read("a/1.jpg") == b"\x01"
    with pytest.raises(MissingError, match="nowhere"):
        _ = m2kr.load("tiny", data=tmp_path, images=[tmp_path / "nowhere"]).images
    add_roots(tmp_path / "images" / "tiny", [tmp_path / "moved"])  # as m2kr images --images does
    assert m2kr.load("tiny", data=tmp_path).images.read("a/2.jpg") == b"\x02"
    assert not problems(tmp_path)


def test_a_damaged_list_of_image_roots_harms_only_what_reads_images(tmp_path: Path) -> None:
    tiny(tmp_path)
    listed = tmp_path / "images" / "tiny" / "roots.json"
    listed.parent.mkdir(parents=True)
    listed.write_text("[1", encoding="utf-8")
    split = m2kr.load("tiny", data=tmp_path)
    assert len(split.queries_view) == 6
    with pytest.raises(InputError, match="roots"):
        split.images.read("a/1.jpg")
    assert problems(tmp_path)
