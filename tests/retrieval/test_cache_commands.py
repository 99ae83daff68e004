"""Evaluations that find encoded rows and indexes again: by the command line and the API."""

import json
import shutil

import pytest
import typer
from typer.testing import CliRunner

import m2kr
from m2kr.building import registry
from m2kr.building.build import build
from m2kr.cli import eval_
from m2kr.cli.main import guarded
from m2kr.errors import UsageError
from m2kr.evaluation.result import Result
from m2kr.report.tables import as_text
from m2kr.search import dispatch

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
