"""Encoded rows kept across runs: found again, gone on with after a kill, and never mistaken."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from datasets import Dataset
from support.toys import PASSAGES, QUERIES, Late, image_folder, toy_split
from typer.testing import CliRunner

import m2kr
from m2kr import atomic
from m2kr.building import registry
from m2kr.building.build import build
from m2kr.cli import eval_
from m2kr.cli.main import guarded
from m2kr.data.images.store import ImageStore
from m2kr.data.records import Passages
from m2kr.errors import InputError, UsageError
from m2kr.evaluation.harness import evaluate_split
from m2kr.evaluation.result import Result
from m2kr.report.tables import as_text
from m2kr.retrieval.cache import hold_entry, key_of
from m2kr.retrieval.protocol import Modalities
from m2kr.retrieval.run import Run
from m2kr.search import dispatch
from m2kr.search.config import SearchConfig
from m2kr.search.store.reader import TokenStore

ENCODER = """
import os, signal, time
import numpy as np
from m2kr.retrieval.encoder import EncoderRetriever

class Words(EncoderRetriever):
    name = "words"
    batch_size = 8
    _window_batches = 1

    def __init__(self, *, log: str, scale: float = 1.0, late: bool = True, die_after: int = 0):
        self.log, self.scale, self.late, self.die_after = log, scale, late, die_after
        self.rows = 0

    @property
    def settings(self):
        return {"scale": self.scale, "late": self.late}

    def cache_key(self, side):
        return self.settings

    def encode(self, side, batch):
        if self.die_after and self.rows >= self.die_after:
            if self.rows >= self.die_after + 24:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.6)
        self.rows += len(batch)
        with open(self.log, "a") as file:
            file.writelines(f"{side} {one}\\n" for one in batch.ids)
        found = []
        for text in batch.texts:
            rows = np.zeros((len(text.split()[:12]) or 1, 16))
            for row, word in zip(rows, text.split()[:12]):
                for letter in word:
                    row[ord(letter) % 16] += self.scale
            found.append(rows)
        return found if self.late else np.stack([rows.sum(0) for rows in found])

    def encode_query(self, batch):
        return self.encode("query", batch)

    def encode_document(self, batch):
        return self.encode("document", batch)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """60 queries of mini, with as many passages beside their positives."""
    root = tmp_path_factory.mktemp("built")
    build(registry.builder("mini"), root, splits=("test",), limit=60)
    return root


@pytest.fixture
def root(built, tmp_path):
    shutil.copytree(built, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    app.command()(guarded(eval_.command))
    return app


class Eval:
    """``m2kr eval mini`` with the encoder above; tells how many rows were encoded."""

    def __init__(self, app, root, folder):
        self.app, self.root, self.folder = app, root, folder
        (folder / "words.py").write_text(ENCODER)
        self.log = folder / "log"

    def command(self, *args, **settings):
        self.log.write_text("")
        sets = [f"--set={name}={value}" for name, value in {"log": self.log, **settings}.items()]
        fixed = ["--k", 10, "--data", self.root, "--out", self.folder / "out", "--json"]
        which = f"{self.folder / 'words.py'}:Words"
        return [str(each) for each in ("mini", "-r", which, *sets, *fixed, *args)]

    def __call__(self, *args, code=0, **settings):
        done = CliRunner().invoke(self.app, self.command(*args, **settings))
        assert done.exit_code == code, done.output + done.stderr
        return json.loads(done.stdout)["results"][0] if not code else done.stderr

    @property
    def encoded(self):
        lines = self.log.read_text().splitlines()
        return {
            side: sum(line.startswith(side) for line in lines) for side in ("query", "document")
        }

    @property
    def run_file(self):
        return next((self.folder / "out").glob("*.run.parquet")).read_bytes()


@pytest.fixture
def call(app, root, tmp_path):
    return Eval(app, root, tmp_path)


@pytest.mark.parametrize("late", [True, False])
def test_a_second_run_encodes_nothing_and_says_so(call, late):
    first = call(late=late)
    every = {"query": first["counts"]["queries"], "document": first["counts"]["passages"]}
    assert call.encoded == every
    assert "reused" not in first["retriever"]
    run = call.run_file
    again = call(late=late)
    assert call.encoded == {"query": 0, "document": 0}
    assert again["retriever"]["reused"] == {f"encode {side}": n for side, n in every.items()}
    assert (again["metrics"], again["search"] and again["search"]["mode"]) == (
        first["metrics"],
        "exact" if late else None,
    )
    assert again["bytes_per_passage"] == first["bytes_per_passage"] > 0
    assert call.run_file == run
    # Another setting is another entry; without the cache all is encoded.
    call(late=late, scale=2)
    assert call.encoded == every
    call("--no-cache", late=late)
    assert call.encoded == every
    keys = [json.loads(p.read_text()) for p in call.root.glob("cache/embeddings/*/key.json")]
    assert len(keys) == 4
    assert {key["about"]["retriever"] for key in keys} == {"words"}
    assert {key["key"]["settings"]["scale"] for key in keys} == {1.0, 2.0}
    # The encoder's source is part of what decides.
    with (call.folder / "words.py").open("a") as file:
        file.write("# changed\n")
    call(late=late)
    assert call.encoded == every


@pytest.mark.parametrize("late", [True, False])
def test_after_kill_9_only_the_rest_is_encoded_and_the_run_file_is_the_same(call, cli, late):
    call("--no-cache", late=late)
    every, expected = call.encoded, call.run_file
    shutil.rmtree(call.folder / "out")
    killed = every["document"] // 2
    cli("eval", *call.command(late=late, die_after=killed), code=-9)
    done = call.encoded["document"]
    assert killed <= done < every["document"]
    result = call(late=late)
    # 0.6 s a batch of 8 rows: every second batch is synced with what came before it.
    assert every["document"] - done <= call.encoded["document"] <= every["document"] - done + 24
    assert call.encoded["query"] == every["query"]
    assert result["retriever"]["reused"] == {
        "encode document": every["document"] - call.encoded["document"]
    }
    assert call.run_file == expected


def test_an_index_in_the_cache_is_found_again(call):
    search = ("--search", "compressed", "--set", "search.centroids=32", "--audit", "5")
    first = call(*search)
    index = next(call.root.glob("cache/embeddings/*/indexes/*"))
    before = {path: path.stat().st_mtime_ns for path in index.iterdir() if path.suffix}
    again = call(*search)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert call.encoded == {"query": 0, "document": 0}
    for result in (first, again):
        assert result["search"]["centroids"] == 32
        assert set(result["search"]["audit"]) == {"queries", "recall@1", "recall@10"}
    assert again["run_sha256"] == first["run_sha256"]
    call("--nbits", "8", *search)
    assert len(list(index.parent.iterdir())) == 2


def test_three_seeds_give_mean_and_range(call):
    search = ("--search", "compressed", "--set", "search.centroids=8", "--set", "search.probes=1")
    alone = [call(*search, "--set", f"search.seed={seed}") for seed in (4, 5)]
    both = call(*search, "--set", "search.seed=4", "--seeds", 2)
    assert both["metrics"] == alone[0]["metrics"]
    assert both["search"]["seeds"]["seeds"] == [4, 5]
    for name, facts in both["search"]["seeds"]["metrics"].items():
        values = sorted(each["metrics"][name]["value"] for each in alone)
        assert (facts["low"], facts["high"]) == (values[0], values[1])
        assert facts["mean"] == pytest.approx(sum(values) / 2)
    saved = list(map(Result.load, (call.folder / "out").glob("*.compressed.*.json")))
    assert len(saved) == 3
    assert "mean and range over 2 indexes: R@1 " in as_text(saved)
    assert "2 seeds of exact search" in call("--seeds", 2, code=2)


def test_what_cannot_be_asked_for_is_refused_on_the_command_line(call, app, monkeypatch):
    monkeypatch.setattr(dispatch, "_REFERENCE_BYTES", 1 << 10)
    assert "late-interaction retriever" in call("--search", "official", late=False, code=2)
    long = call("--max-hours", "1e-9", code=2)
    assert "exact search would take about" in long
    assert "--search compressed" in long
    assert "a number" in call("--set", "search.probes=many", code=2)
    assert "exact search has no widths" in call("--set", "search.probes=3", code=2)
    lexical = ["mini", "-r", "bm25", "--search", "compressed", "--data", str(call.root)]
    refused = CliRunner().invoke(app, lexical)
    assert refused.exit_code == 2
    assert "bm25 has no compressed search" in refused.stderr


def test_the_cache_of_the_api(call, tmp_path):
    settings = {"log": str(call.log), "scale": "1"}
    which = f"{call.folder / 'words.py'}:Words"

    def run(**options):
        call.log.write_text("")
        m2kr.evaluate("mini", which, data=call.root, settings=settings, k=5, **options)
        return sum(call.encoded.values())

    every = run(cache=False)
    assert not (call.root / "cache").exists()
    # A working folder is gone on with by itself; the data root is left alone.
    assert run(workdir=tmp_path / "work") == every
    assert not (call.root / "cache").exists()
    assert run(workdir=tmp_path / "work") == 0
    assert run() == every
    assert run() == 0
    assert run(workdir=tmp_path / "other", cache=True) == 0
    with pytest.raises(UsageError, match="exact search has no audit"):
        run(audit=3)


class Counted(Late):
    """Late interaction that may be cached; counts what it encodes."""

    def __init__(self, key=None):
        super().__init__(2)
        self.key = {"a": 1} if key is None else key
        self.count = {"query": 0, "document": 0}

    def cache_key(self, side):
        return self.key

    def encode_query(self, batch):
        self.count["query"] += len(batch)
        return super().encode_query(batch)

    def encode_document(self, batch):
        self.count["document"] += len(batch)
        return super().encode_query(batch)


class CountedDense(Counted):
    """One vector a row."""

    def encode_query(self, batch):
        return np.stack([rows.sum(0) for rows in super().encode_query(batch)])

    def encode_document(self, batch):
        return np.stack([rows.sum(0) for rows in super().encode_document(batch)])


def counted(split, folder, **options):
    one = Counted(**options)
    evaluate_split(split, one, k=5, cache=folder)
    return one.count


def test_another_pool_or_other_queries_are_encoded(tmp_path):
    split = toy_split()
    assert counted(split, tmp_path) == {"query": 4, "document": 4}
    assert counted(split, tmp_path) == {"query": 0, "document": 0}
    pool = toy_split(passages={"p/apple": "The apple is green.", "p/bear": "A bear."})
    assert counted(pool, tmp_path) == {"query": 0, "document": 2}
    assert counted(split, tmp_path, key={"a": 2}) == {"query": 4, "document": 4}


def test_the_store_says_what_it_is_of(tmp_path):
    split = toy_split()
    counted(split, tmp_path)
    stores = [TokenStore.open(path.parent) for path in tmp_path.glob("*/store.json")]
    metas = {("pool" in store.meta): store for store in stores}
    assert metas[True].meta["pool"] == split.fingerprints["pool"]
    assert metas[False].meta["queries"] == split.fingerprints["queries"]
    assert {store.meta["eval"] for store in stores} == {split.fingerprints["eval"]}
    assert metas[True].ids().to_pylist() == split.passages_view.ids.to_pylist()


def test_query_images_count_by_content_and_only_where_they_are_read(tmp_path):
    split = toy_split(ImageStore(image_folder(tmp_path, "a.png", "b.png")))
    one = Counted()
    blind = key_of(one, split.queries_view, "query")
    one.modalities = Modalities(frozenset({"text", "image"}))
    seeing = key_of(one, split.queries_view, "query")
    assert blind["images"] is None
    assert key_of(one, split.passages_view, "document")["images"] is None
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(tmp_path / name, moved)
    there = toy_split(ImageStore(moved))
    assert key_of(one, there.queries_view, "query") == seeing
    shutil.copy(moved / "a.png", moved / "b.png")
    assert key_of(one, there.queries_view, "query") != seeing


def pool_with_images(*roots, paths=("a.png", "deep/b.png", None, "gone.png"), missing="black"):
    rows = [
        {"passage_id": f"p{i}", "passage_content": f"text {i}", "img_path": path}
        for i, path in enumerate(paths)
    ]
    store = ImageStore(roots, missing=missing) if roots else None
    return Passages(Dataset.from_list(rows), store, "fp1:pool")


def packed(folder, kind):
    """The images of a folder, as a root of another kind beside it."""
    place = folder.with_name(f"{folder.name}-{kind}")
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*.png"))}
    if kind == "folder":
        return folder
    if kind == "zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name, path in files.items():
                archive.write(path, name)
    elif kind == "tar":
        with tarfile.open(place, "w") as archive:
            for name, path in files.items():
                archive.add(path, name)
    else:
        pq.write_table(
            pa.table({"img_path": list(files), "bytes": [p.read_bytes() for p in files.values()]}),
            place,
        )
    return place


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "parquet"])
def test_a_pool_is_encoded_anew_when_one_of_its_images_was_written(tmp_path, kind):
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    image_folder(folder, "a.png", "deep/b.png", "other.png")
    seeing = Counted()
    seeing.modalities = Modalities(frozenset({"text"}), frozenset({"image"}))

    def key(**options):
        pool = pool_with_images(packed(folder, kind), **options)
        return key_of(seeing, pool, "document")

    pool = pool_with_images(packed(folder, kind))
    first = key_of(seeing, pool, "document")
    assert first == key_of(seeing, pool, "document")
    assert first != key_of(seeing, pool_with_images(), "document")
    assert first["images"] != key(missing="skip")["images"]
    assert key_of(Counted(), pool, "document")["images"] is None
    # The same size and the same time: copied over, as from an archive.
    before = (folder / "deep/b.png").stat()
    data = bytearray((folder / "deep/b.png").read_bytes())
    data[-20] ^= 1
    (folder / "deep/b.png").write_bytes(data)
    os.utime(folder / "deep/b.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = key()
    assert changed["images"] != first["images"]
    assert changed["rows"] == first["rows"]
    # What no passage names is no matter.
    if kind == "folder":
        (folder / "more.png").write_bytes(b"x")
        assert key() == changed
        (folder / "gone.png").write_bytes(b"x")
        assert key() != changed


def test_images_that_are_written_while_they_are_encoded_are_not_kept(tmp_path):
    image_folder(tmp_path, "a.png", "b.png")

    class Writing(Counted):
        modalities = Modalities(frozenset({"text", "image"}))
        writes = True

        def encode_query(self, batch):
            if self.writes:
                shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
            return super().encode_query(batch)

    split, cache = toy_split(ImageStore(tmp_path)), tmp_path / "cache"
    with pytest.raises(InputError, match="were written while"):
        evaluate_split(split, Writing(), k=5, cache=cache)
    one = Writing()
    one.writes = False
    evaluate_split(split, one, k=5, cache=cache)
    assert one.count == {"query": 4, "document": 0}


def test_another_order_of_the_same_rows_is_encoded_anew(tmp_path):
    """Fingerprints are equal then: they say what scores alike, not what lies where."""
    split = toy_split()
    other = toy_split(
        passages=dict(reversed(PASSAGES.items())), queries=dict(reversed(QUERIES.items()))
    )
    assert split.fingerprints == other.fingerprints
    runs = []
    for each in (split, other, split, other):
        one = Counted()
        runs.append(evaluate_split(each, one, k=5, cache=tmp_path).run)
        assert one.count == {side: 4 * (len(runs) <= 2) for side in ("query", "document")}
    for query in QUERIES:
        assert len({tuple(run.passage_ids(query)) for run in runs}) == 1
        assert len({tuple(run.scores(query)) for run in runs}) == 1


def test_a_manifest_that_says_the_wrong_thing_does_not_spoil_the_cache(tmp_path):
    """An entry is of the rows that were encoded, whatever fingerprint they are said to have."""
    split, other = toy_split(), toy_split(passages=dict.fromkeys(PASSAGES, "?"))
    wrong = Passages(other.passages_view.dataset, None, split.passages_view.fingerprint)
    counted(replace(split, passages_view=wrong), tmp_path)
    assert counted(split, tmp_path) == {"query": 0, "document": 4}


@pytest.mark.parametrize("late", [False, True])
def test_stored_ids_are_compared_with_the_table(tmp_path, late, caplog):
    split = toy_split()
    evaluate_split(split, kept(late), k=5, cache=tmp_path)
    other = toy_split(passages=dict(reversed(PASSAGES.items())))
    evaluate_split(other, kept(late), k=5, cache=tmp_path)
    entries = {}
    for path in tmp_path.glob("*/key.json"):
        rows = json.loads(path.read_bytes())["key"]["rows"]
        entries[rows["order"]] = path.parent
    # As if a hash had met another: one entry has the other's rows.
    mine, theirs = entries[split.passages_view.order], entries[other.passages_view.order]
    for path in theirs.iterdir():
        if path.name != "key.json":
            shutil.copy(path, mine)
    one = kept(late)
    with caplog.at_level(logging.WARNING, "m2kr"):
        run = evaluate_split(split, one, k=5, cache=tmp_path).run
    assert "in another order" in caplog.text
    assert one.count == {"query": 0, "document": 4}
    assert run == evaluate_split(split, kept(late), k=5).run


def kept(late):
    return Counted() if late else CountedDense()


@pytest.mark.parametrize("late", [False, True])
def test_whatever_byte_of_the_cache_changes_no_score_does(tmp_path, late, caplog):
    split, cache = toy_split(), tmp_path
    right = evaluate_split(split, kept(late), k=5, cache=cache).run
    random = np.random.default_rng(3)
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock")
    encoded = 0
    for path in files:
        data = path.read_bytes()
        for _ in range(12 if path.name == "vectors.npy" else 3):
            changed = bytearray(data)
            changed[random.integers(len(data))] ^= int(random.integers(1, 256))
            path.write_bytes(changed)
            one = kept(late)
            assert evaluate_split(split, one, k=5, cache=cache).run == right
            encoded += sum(one.count.values()) > 0
    assert encoded > len(files) * 2
    assert "is damaged, so it is" in caplog.text
    one = kept(late)
    assert evaluate_split(split, one, k=5, cache=cache).run == right
    assert one.count == {"query": 0, "document": 0}


def test_what_is_not_known_is_not_cached(tmp_path):
    split = toy_split()
    assert key_of(Late(), split.passages_view, "document") is None
    evaluate_split(split, Late(), k=5, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    unnamed = type(split.queries_view)(split.queries_view.dataset)
    assert key_of(Counted(), unnamed, "query") is None
    space = {"__name__": "nowhere", "Counted": Counted}
    exec("class Typed(Counted): pass", space)
    assert key_of(space["Typed"](), split.passages_view, "document") is None
    with pytest.raises(InputError, match="can't be written as JSON"):
        key_of(Counted({"model": object()}), split.passages_view, "document")


def test_a_damaged_entry_is_encoded_again(tmp_path, caplog):
    split = toy_split()
    counted(split, tmp_path)
    entry = next(path.parent for path in tmp_path.glob("*/store.json"))
    (entry / "lengths-00000.npy").write_bytes(b"nonsense")
    with caplog.at_level(logging.WARNING, "m2kr"):
        assert sum(counted(split, tmp_path).values()) == 4
    assert "is damaged, so it is done again" in caplog.text
    assert counted(split, tmp_path) == {"query": 0, "document": 0}
    (entry / "key.json").write_text("{}")
    assert sum(counted(split, tmp_path).values()) == 4


@pytest.mark.parametrize("late", [False, True])
def test_damaged_rows_that_may_only_be_read_are_done_without(tmp_path, monkeypatch, late):
    split, cache = toy_split(), tmp_path
    right = evaluate_split(split, kept(late), k=5, cache=cache).run
    for path in (*tmp_path.glob("*/vectors.npy"), *tmp_path.glob("*/tokens-*")):
        changed = bytearray(path.read_bytes())
        changed[-1] ^= 1
        path.write_bytes(changed)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    # Permissions don't stop the superuser, as whom tests may run.
    monkeypatch.setattr(atomic, "writable", lambda folder: not folder.is_relative_to(tmp_path))
    assert evaluate_split(split, kept(late), k=5, cache=cache).run == right
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()} == before


class Padded(Counted):
    """Its dimensions are a multiple of eight, as the published protocol's."""

    def encode_query(self, batch):
        return [np.pad(rows, ((0, 0), (0, 6))) for rows in super().encode_query(batch)]

    def encode_document(self, batch):
        return [np.pad(rows, ((0, 0), (0, 6))) for rows in super().encode_document(batch)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["compressed", "official"])
def test_whatever_byte_of_an_index_changes_no_score_does(tmp_path, mode):
    split, cache = toy_split(), tmp_path
    options = {"k": 5, "cache": cache, "searching": SearchConfig(mode=mode, centroids=8)}
    right = evaluate_split(split, Padded(), **options).run
    random = np.random.default_rng(2)
    files = [
        p for p in sorted(tmp_path.rglob("indexes/*/*")) if p.suffix != ".lock" and p.is_file()
    ]
    assert len(files) > 8
    for path in files:
        data = path.read_bytes()
        for _ in range(2 if data else 0):
            changed = bytearray(data)
            changed[random.integers(len(data))] ^= int(random.integers(1, 256))
            path.write_bytes(changed)
            one = Padded()
            assert evaluate_split(split, one, **options).run == right, path.name
            assert one.count == {"query": 0, "document": 0}


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING, "m2kr"):
        assert counted(toy_split(), tmp_path / "file") == {"query": 4, "document": 4}
    assert "nothing is cached" in caplog.text


def test_two_at_one_entry_encode_it_once(tmp_path):
    """The second waits for the first, and finds its work done."""
    begun, go = threading.Event(), threading.Event()

    class Slow(Counted):
        def encode_document(self, batch):
            begun.set()
            assert go.wait(20)
            return super().encode_document(batch)

    split, cache = toy_split(), tmp_path
    one, two = Slow(), Slow()
    first = threading.Thread(
        target=evaluate_split, args=(split, one), kwargs={"k": 5, "cache": cache}
    )
    second = threading.Thread(
        target=evaluate_split, args=(split, two), kwargs={"k": 5, "cache": cache}
    )
    first.start()
    assert begun.wait(20)
    second.start()
    second.join(1.5)
    assert second.is_alive()
    go.set()
    first.join(30)
    second.join(30)
    assert one.count["document"] == 4
    assert two.count["document"] == 0


def test_a_killed_owner_does_not_keep_an_entry(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        "from m2kr.retrieval.cache import hold_entry\n"
        "with hold_entry(pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "x"]).returncode == -9
    with hold_entry(tmp_path / "x"):
        assert (tmp_path / "x.lock").exists()


def test_a_shared_pool_is_encoded_once_whatever_the_split(tmp_path):
    split = toy_split()
    counted(split, tmp_path)
    split.fingerprints["eval"] = "fp1:of another split"
    assert counted(split, tmp_path) == {"query": 0, "document": 0}


def test_rankings_from_the_cache_are_those_without_it(tmp_path):
    split = toy_split()
    runs = [
        evaluate_split(split, Counted(), k=5, cache=cache).run
        for cache in (None, tmp_path, tmp_path)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert isinstance(runs[0], Run)
    assert np.isfinite(runs[0].scores("q1")).all()
