"""``m2kr index search`` of a token store, whole and in shards, and ``m2kr index merge``."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from support.token_pools import passages, queries, store
from typer.testing import CliRunner, Result

from m2kr.cli import index as commands
from m2kr.cli.main import guarded
from m2kr.retrieval.run import Run
from m2kr.search.exact import search
from m2kr.search.index.build import build_index
from m2kr.search.index.settings import BuildSettings, pool_of
from m2kr.search.store.reader import TokenStore

app = typer.Typer()
for name, (function, _) in commands.SUBCOMMANDS.items():
    app.command(name)(guarded(function))


def run(*args: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(map(str, args)))
    assert done.exit_code == code, done.output + done.stderr
    return done


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    rng = np.random.default_rng(1)
    pool = passages(rng, rng.integers(0, 9, 150).tolist())
    pool[140] = pool[3]
    names = [f"p{number % 140:03}" for number in range(150)]
    return store(tmp_path_factory.mktemp("pool"), pool, names)


@pytest.fixture(scope="module")
def asked(tokens: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    rng = np.random.default_rng(2)
    rows = [*queries(rng, tokens.take(range(len(tokens))), 5), np.zeros((2, 32), np.float32)]
    return store(tmp_path_factory.mktemp("asked"), rows, [f"q{i}" for i in range(6)])


def part(tokens: TokenStore, asked: TokenStore, share: str, out: Path, k: int = 20) -> Path:
    run("search", tokens.folder, asked.folder, "-k", k, "--shard", share, "--out", out)
    return out


def test_a_store_is_searched_exactly(tokens: TokenStore, asked: TokenStore, tmp_path: Path) -> None:
    out = tmp_path / "run.parquet"
    words = ("search", tokens.folder, asked.folder, "-k", 20, "--device", "cpu,cpu", "--out", out)
    told = json.loads(run(*words, "--json").stdout)
    assert (told["kind"], told["final"], told["k"], told["device"]) == (
        *("exact", "exact", 20),
        "cpu,cpu",
    )
    numbers, scores, _ = search.search_exactly(asked.take(range(len(asked))), tokens, 20)
    ids = tokens.ids().to_pylist()
    found = Run.load(out)
    for place, query in enumerate(asked.ids().to_pylist()):
        assert found.passage_ids(query) == [ids[number] for number in numbers[place]]
        assert found.scores(query).tolist() == scores[place].tolist()


@pytest.mark.parametrize("count", [1, 3, 200])
def test_parts_merge_to_the_very_file(
    tokens: TokenStore, asked: TokenStore, count: int, tmp_path: Path
) -> None:
    run("search", tokens.folder, asked.folder, "-k", 20, "--out", tmp_path / "one.parquet")
    shares = range(1, count + 1) if count < 200 else ()
    parts = [part(tokens, asked, f"{i}/{count}", tmp_path / f"{i}.parquet") for i in shares]
    if not parts:  # more shards than passages: only that the last and empty ones are written
        assert len(Run.load(part(tokens, asked, "200/200", tmp_path / "last.parquet"))) == 6
        return
    told = json.loads(
        run("merge", *parts[::-1], "--out", tmp_path / "merged.parquet", "--json").stdout
    )
    assert (told["shards"], told["queries"], told["k"]) == (count, 6, 20)
    assert (tmp_path / "merged.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


def test_parts_that_make_no_whole_are_refused(
    tokens: TokenStore, asked: TokenStore, tmp_path: Path
) -> None:
    one, two = (part(tokens, asked, f"{i}/3", tmp_path / f"{i}.parquet") for i in (1, 2))
    out = ("--out", tmp_path / "run.parquet")
    missing = run("merge", one, two, *out, code=3).stderr
    assert "1 of 3 parts are missing: 3/3" in missing
    assert "--shard 3/3" in missing
    again = tmp_path / "again.parquet"
    again.write_bytes(two.read_bytes())
    assert f"it is part 2/3, and so is {two}" in run("merge", two, again, *out, code=1).stderr
    other = part(tokens, asked, "3/3", tmp_path / "k.parquet", k=21)
    assert "for k = 21" in run("merge", one, two, other, *out, code=1).stderr
    other = part(tokens, asked, "3/4", tmp_path / "of.parquet")
    assert "number of shards that is 4" in run("merge", one, two, other, *out, code=1).stderr
    fewer = store(tmp_path / "fewer", tokens.take(range(150)), [f"x{i}" for i in range(150)])
    other = part(fewer, asked, "3/3", tmp_path / "store.parquet")
    assert "of a store with fingerprint" in run("merge", one, two, other, *out, code=1).stderr
    others = store(tmp_path / "asked", asked.take(range(5)), [f"q{i}" for i in range(5)])
    other = part(tokens, others, "3/3", tmp_path / "queries.parquet")
    assert "for queries with fingerprint" in run("merge", one, two, other, *out, code=1).stderr
    whole = tmp_path / "whole.parquet"
    run("search", tokens.folder, asked.folder, "--out", whole)
    assert "no part of a search" in run("merge", one, whole, *out, code=1).stderr
    forged = (
        Run.load(one).named("x", part={**Run.load(one).metadata["part"], "k": True}).save(again)
    )
    assert "no part of a search" in run("merge", forged, *out, code=1).stderr
    assert not (tmp_path / "run.parquet").exists()


def test_wrong_calls_say_what_to_do(tokens: TokenStore, asked: TokenStore, tmp_path: Path) -> None:
    search = ("search", tokens.folder, asked.folder)
    for share in ("0/3", "4/3", "3", "a/b", "1/0", "-1/2"):
        refused = run(*search, f"--shard={share}", "--out", tmp_path / "x.parquet", code=2)
        assert "NUMBER/COUNT" in refused.stderr
    assert "--out part.parquet" in run(*search, "--shard", "1/2", code=2).stderr
    refused = run(*search, "--shard", "1/2", "--out", tmp_path / "x.trec.gz", code=2)
    assert "Parquet" in refused.stderr
    assert "take one" in run(*search, "--shard", "1/2", "--engine", "ray", code=2).stderr
    assert "--engine ray" in run(*search, "--jobs", 2, code=2).stderr
    refused = run(*search, "--engine", "ray", "--device", "cpu,cpu", code=2)
    assert "--jobs N" in refused.stderr
    assert "no device 'tpu'" in run(*search, "--device", "tpu", code=2).stderr
    refused = run(*search, "--store", tokens.folder, code=2)
    assert "its scores are exact" in refused.stderr
    assert "no late-interaction index" in run("search", tmp_path, asked.folder, code=3).stderr
    missing = run(
        *("search", tmp_path, asked.folder, "--shard", "1/2", "--out", tmp_path / "x.parquet"),
        code=3,
    )
    assert "no token store" in missing.stderr
    index = tmp_path / "index"
    build_index(pool_of(tokens), index, BuildSettings(centroids=16))
    refused = run(
        *("search", index, asked.folder, "--shard", "1/2", "--out", tmp_path / "x.parquet"), code=2
    )
    assert "search the token store by shards" in refused.stderr
    refused = run("search", index, asked.folder, "--engine", "ray", code=2)
    assert "--engine local" in refused.stderr
    refused = run("search", index, asked.folder, "--device", "cuda", code=2)
    assert "on the CPU" in refused.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="Ray is a Linux dependency here")
def test_where_no_cluster_is_says_so(tokens: TokenStore, asked: TokenStore) -> None:
    words = ("search", tokens.folder, asked.folder, "--engine", "ray", "--address", "127.0.0.1:1")
    error = run(*words, code=1).stderr
    assert "no Ray cluster is at '127.0.0.1:1'" in error
    assert "ray start --head" in error
