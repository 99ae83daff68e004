"""``m2kr compare`` on results and runs of mini."""

import csv
import io
import json
import re
import shlex
from pathlib import Path

import pytest

import m2kr
from m2kr import retrievers
from m2kr.cli import compare as compare_command
from m2kr.errors import InputError, MissingError
from m2kr.evaluation.metrics import metrics
from m2kr.retrieval.run import Run

HIT = "hit_rate@5"
PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
COMMANDS = re.search(r"^```bash\n(.*?)^```", PAGE, flags=re.M | re.S)[1].splitlines()
SHOWN = re.search(r"^```text\n(.*?)^```", PAGE, flags=re.M | re.S)[1]


@pytest.fixture(scope="module")
def results(cli, mini_root, tmp_path_factory) -> Path:
    """The folder of results that the page on metrics makes, and one of another split beside it."""
    folder = tmp_path_factory.mktemp("compared")
    for command in COMMANDS[:-1]:
        cli(*shlex.split(command)[1:], "--data", mini_root, cwd=folder)
    cli(
        "eval",
        "mini",
        "-r",
        "bm25",
        "--split",
        "seen",
        "--data",
        mini_root,
        "--out",
        "seen",
        cwd=folder,
    )
    return folder / "results"


def test_every_metric_is_on_the_page_and_the_page_shows_what_is_printed(cli, results):
    for name, one in metrics().items():
        assert f"| `{name}@K`, {one.label.format(k='K')} |" in PAGE, name
    assert cli(*shlex.split(COMMANDS[-1])[1:], cwd=results.parent).stdout == SHOWN


def compare(cli, *words, code=0, **options):
    return cli("compare", *words, code=code, **options)


def test_a_table_fits_a_terminal_and_names_whom_it_cannot_tell_apart(cli, results):
    done = compare(cli, results)
    assert max(map(len, done.stdout.splitlines())) <= 80
    for word in (
        "bm25 k1=0.5",
        "random",
        "R@5",
        "PR@5",
        "can't be told apart",
        "not comparable",
    ):
        assert word in done.stdout
    assert "IQ2T" in done.stdout  # of few pairs, wins by group are shown


def test_every_format_has_the_same_numbers(cli, results):
    files = sorted(results.glob("mini.valid.*.json"))
    as_json = json.loads(compare(cli, *files, "--json").stdout)
    assert as_json == json.loads(compare(cli, *files, "--format", "json").stdout)
    by_python = m2kr.Results.load(*files).compare()
    assert json.loads(json.dumps(by_python.as_dict())) == as_json
    rows = list(csv.DictReader(io.StringIO(compare(cli, *files, "--format", "csv").stdout)))
    pairs = as_json["by_source"]["mini/valid"][HIT]["pairs"]
    for pair, row in zip(pairs, [r for r in rows if r["metric"] == HIT], strict=True):
        assert (row["a"], row["b"]) == (pair["a"], pair["b"])
        for name in ("difference", "p", "p_holm", "wins", "smallest_difference"):
            assert float(row[name]) == pair[name]
    bm25 = as_json["by_source"]["mini/valid"][HIT]["means"]["bm25 k1=0.5"]
    shown = f"{bm25:.3f}".removeprefix("0")
    for form in ("md", "latex"):
        assert shown in compare(cli, *files, "--format", form).stdout


def test_runs_are_scored_where_they_were_made(cli, results, mini_root, tmp_path):
    saved = m2kr.Results.load(results)
    copied = []
    for result in saved:
        copied.append(tmp_path / f"{len(copied)}.parquet")
        copied[-1].write_bytes(result.path.with_name(result.files["run"]).read_bytes())
    done = json.loads(compare(cli, *copied, "--data", mini_root, "--json").stdout)
    expected = saved.compare()
    assert done["by_source"] == json.loads(json.dumps(expected.as_dict()))["by_source"]
    runs = [Run.load(copy) for copy in copied]
    mixed = m2kr.compare(runs[:2], saved[2:], data=mini_root)
    assert set(mixed.systems) == set(expected.systems)
    runs[0].save(tmp_path / "other.trec")
    done = compare(cli, tmp_path / "other.trec", copied[1], "--data", mini_root, code=1)
    assert "m2kr eval SOURCE -r run:" in done.stderr
    strange = runs[0].named("x", fingerprints={"eval": "fp1:other"})
    strange.save(tmp_path / "strange.parquet")
    done = compare(cli, tmp_path / "strange.parquet", copied[1], "--data", mini_root, code=1)
    assert "made on other data" in done.stderr


def test_a_folder_with_holes_is_refused_and_the_offered_command_runs(cli, results):
    done = compare(cli, "results", "seen", code=2, cwd=results.parent)
    assert "has no result on mini/seen" in done.stderr
    command = done.stderr.partition("try:")[2].split()
    assert command[:2] == ["m2kr", "compare"]
    assert len(command) == 5
    assert "random" in compare(cli, *command[2:], cwd=results.parent).stdout


def test_a_metric_that_is_lacking_is_had_by_the_offered_command(cli, results, tmp_path):
    for file in results.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    done = compare(cli, tmp_path, "--metrics", "ndcg@10", code=2)
    assert "no result was scored by ndcg@10" in done.stderr
    cli(*shlex.split(done.stderr.partition("try:")[2])[1:])
    assert "nDCG@10" in compare(cli, tmp_path, "--metrics", "ndcg@10,hit_rate@5").stdout


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["nowhere"], "no such result", 3),
        (["seen"], "to compare", 2),
        (["results", "--metrics", "recall@5"], "two things", 2),
        (["seen", "--format", "xml"], "Invalid value", 2),
    ],
)
def test_one_line_says_what_is_wrong(cli, results, words, message, code):
    if "recall@5" in words:
        words = ["results/mini.valid.*.json", *words[1:]]
    done = compare(cli, *words, code=code, cwd=results.parent)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_result_without_its_table_of_scores(cli, results, tmp_path):
    for file in results.glob("mini.valid.*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    done = compare(cli, tmp_path, "--format", "json", code=1)
    assert json.loads(done.stdout)["error"] == "InputError"
    assert "no scores of single queries" in done.stderr
    assert ".queries.parquet" in done.stderr
    assert f"put it into {tmp_path}" in done.stderr


def test_a_result_stands_for_the_run_beside_it(results, tmp_path):
    saved = next(results.glob("*.bm25.*.json"))
    replayed = retrievers.create(f"run:{saved}")
    expected = m2kr.Results.load(saved)[0].load_run()
    assert replayed.run.sha256() == expected.sha256()
    assert replayed.file == saved.name.replace(".json", ".run.parquet")
    alone = tmp_path / saved.name
    alone.write_bytes(saved.read_bytes())
    with pytest.raises(MissingError, match="not beside it") as caught:
        retrievers.create(f"run:{alone}")
    assert caught.value.where == str(tmp_path / replayed.file)
    for text in ('{"format": "other"}', "{", "[]"):  # no result, and no run: the run's own error
        alone.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"JSON|not a run"):
            retrievers.create(f"run:{alone}")


def test_the_examples_metrics_are_those_that_results_have(cli, results):
    (example,) = (each for each in compare_command.EXAMPLES if "--metrics" in each)
    words = shlex.split(example.partition(">")[0])[2:]
    assert "tabular" in compare(cli, *words, cwd=results.parent).stdout
