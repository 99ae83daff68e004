"""``m2kr index``: build, add, info and search as commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from support.token_pools import passages, store
from typer.testing import CliRunner, Result

from m2kr.cli import index as commands
from m2kr.cli.main import guarded
from m2kr.retrieval.run import Run
from m2kr.search.store.reader import TokenStore

app = typer.Typer()
for name, (function, _) in commands.SUBCOMMANDS.items():
    app.command(name)(guarded(function))


def run(*args: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(map(str, args)))
    assert done.exit_code == code, done.output + done.stderr
    return done


@pytest.fixture(scope="module")
def query_store(asked: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    names = [f"q{i}" for i in range(len(asked))]
    return store(tmp_path_factory.mktemp("queries"), asked, names)


def test_each_command_has_examples() -> None:
    for word, (function, examples) in commands.SUBCOMMANDS.items():
        assert function.__doc__
        assert all(each.startswith(f"m2kr index {word} ") for each in examples)


def test_build_add_and_info(token_store: TokenStore, tmp_path: Path) -> None:
    index = tmp_path / "index"
    told = run("build", token_store.folder, index, "--set", "centroids=64", "--nbits", 8, "--json")
    found = json.loads(told.stdout)
    assert (found["passages"], found["nbits"], found["centroids"]) == (400, 8, 64)
    assert found["kind"] == "compressed"
    assert found["meta"] == {"model": "m"}
    assert found["training"]["seed"] == 0
    more = store(tmp_path / "more", passages(np.random.default_rng(3), [4] * 5), list("abcde"))
    assert json.loads(run("add", index, more.folder, "--json").stdout)["passages"] == 405
    shown = run("info", index, "--verify").stdout
    assert "405" in shown
    assert "verified          yes" in shown
    residuals = next(index.glob("residuals-*"))
    residuals.write_bytes(bytes(residuals.stat().st_size))
    refused = json.loads(run("info", index, "--verify", "--json", code=1).stdout)
    assert refused["error"] == "CheckError"
    assert residuals.name in refused["where"]


def test_an_index_that_was_cut_off_says_so(
    index_folder: Path, token_store: TokenStore, query_store: TokenStore, tmp_path: Path
) -> None:
    cut, out = tmp_path / "cut", tmp_path / "run.parquet"
    shutil.copytree(index_folder, cut)
    for number in (1, 2):
        (cut / f"shard-{number:05}.json").unlink()
    assert "150 of 400 passages" in run("info", cut).stdout
    assert json.loads(run("info", cut, "--json").stdout)["complete"] is False
    refused = run("search", cut, query_store.folder, "--out", out, code=1)
    assert "150 of 400 passages" in refused.stderr
    assert "m2kr index build" in refused.stderr
    assert not out.exists()
    run("build", token_store.folder, cut, "--set", "centroids=128")
    assert json.loads(run("info", cut, "--json").stdout)["complete"] is True
    run("search", cut, query_store.folder, "--out", out)
    assert out.exists()


def test_search_writes_a_run_and_audits(
    index_folder: Path, token_store: TokenStore, query_store: TokenStore, tmp_path: Path
) -> None:
    out = tmp_path / "run.parquet"
    arguments = ("search", index_folder, query_store.folder, "-k", 10, "--out", out)
    found = json.loads(
        run(*arguments, "--store", token_store.folder, "--audit", 6, "--json").stdout
    )
    assert found["queries"] == 12
    assert found["final"] == "exact"
    assert found["recall"]["recall@10"] == 1.0  # so small a pool is scored whole
    run_file = Run.load(out)
    assert len(run_file) == 12
    assert all(len(run_file.passage_ids(q)) == 10 for q in query_store.ids().to_pylist())


def test_search_of_an_official_index(
    official_folder: Path, query_store: TokenStore, tmp_path: Path
) -> None:
    found = json.loads(run("search", official_folder, query_store.folder, "--json").stdout)
    assert (found["kind"], found["ncells"], found["ndocs"]) == ("official", 2, 1024)


def test_wrong_calls_say_what_to_do(
    index_folder: Path, token_store: TokenStore, query_store: TokenStore, tmp_path: Path
) -> None:
    refused = run("search", index_folder, query_store.folder, "--audit", 3, code=2)
    assert "--store STORE" in refused.stderr
    refused = run("build", token_store.folder, tmp_path, "--preset", "plaid", code=2)
    assert "compressed or official" in refused.stderr
    assert "m2kr index build" in run("info", tmp_path, code=3).stderr
