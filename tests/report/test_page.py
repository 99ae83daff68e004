"""The folder that ``m2kr report --html`` writes: what it holds, and that it is whole or not there."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pytest
from datasets import Dataset
from support.reports import (
    HOSTILE,
    QUERIES,
    BigSplit,
    big_run,
    big_split,
    data_of,
    hostile_results,
)

from m2kr.api import Results
from m2kr.building.userdata.importer import from_records
from m2kr.cli import report
from m2kr.display import fit_for_html as fit
from m2kr.errors import InputError, M2KRError, MissingError, UsageError
from m2kr.evaluation.result_data import open_split
from m2kr.progress import SILENT
from m2kr.report.page.data_files import DataFiles
from m2kr.report.page.folder import MARKER, write_report
from m2kr.report.page.queries import write_queries
from m2kr.report.summary import Summary
from m2kr.retrieval.run import Run

if TYPE_CHECKING:
    from m2kr.data.load import Split


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    hostile_results(folder)
    return folder


@pytest.fixture(scope="module")
def results(home: Path) -> Results:
    return Results.load(home / "results")


@pytest.fixture(scope="module")
def out(home: Path, results: Results) -> Path:
    return write_report(results, home / "out").parent


def facts_of(out: Path) -> dict[str, Any]:
    page = (out / "index.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    facts: dict[str, Any] = json.loads(found[1])
    return facts


def test_every_ranking_and_text_is_there(out: Path, results: Results) -> None:
    split = open_split(results[0])
    facts = facts_of(out)
    systems = facts["columns"][0]["browser"]["systems"]
    _, meta = data_of(out / "0" / "meta.js")
    _, listed = data_of(out / "0" / "list-0.js")
    _, hits = data_of(out / "0" / "hits-0.js")
    _, texts = data_of(out / "0" / "texts-0.js")
    assert listed["id"] == [fit(q) for q in split.queries_view.ids.to_pylist()]
    assert listed["question"] == [fit(q) for q in split.queries_view.column("question")]
    by_system = {fit(result.load_run().name): result for result in results}
    for place, system in enumerate(systems):
        run = by_system[system].load_run()
        for row, query_id in enumerate(split.queries_view.ids.to_pylist()):
            ranked = run.passage_ids(query_id)
            shown = [n for n in hits["passages"][place][row * 10 : row * 10 + 10] if n >= 0]
            assert [texts["id"][n] for n in shown] == [fit(p) for p in ranked[:10]]
            view = by_system[system].show(query_id, 10)
            assert (listed["ranks"][place][row] or None) == view.first_right or not view.positives
            marks = [int(m) for m in hits["marks"][place][row * 10 : row * 10 + len(shown)]]
            assert [m & 1 for m in marks] == [passage.right for passage in view.ranked]
            assert [m >> 1 for m in marks] == [bool(passage.answers) for passage in view.ranked]
    assert meta["count"] == len(QUERIES)
    assert listed["judged"] == [1, 1, 1, 1, 2, 0]
    long = texts["id"].index("p/long") if "p/long" in texts["id"] else None
    assert long is not None and len(texts["text"][long]) == 2000 and texts["length"][long] == 5000


def test_scores_and_notes_are_those_of_the_results(out: Path, results: Results) -> None:
    facts = facts_of(out)
    names = [metric["name"] for metric in facts["metrics"]]
    (column,) = facts["columns"]
    for system, shown in zip(facts["systems"], column["results"], strict=True):
        result = next(r for r in results if fit(str(r.retriever["name"])) == system)
        for name, numbers in zip(names, shown["values"], strict=True):
            if (value := result.value(name)) is None:
                assert numbers is None
            else:
                assert numbers[0] == pytest.approx(value, abs=1e-5)
    assert any("comparable" in note or "compare" in note for note in facts["notes"])


def test_pictures_come_once(out: Path) -> None:
    _, listed = data_of(out / "0" / "list-0.js")
    _, texts = data_of(out / "0" / "texts-0.js")
    _, images = data_of(out / "0" / "images-0.js")
    assert len(images) == 2
    assert listed["image"][2] == texts["image"][texts["id"].index("p/2")] >= 0
    assert listed["image"][0] == -1


def test_no_text_can_do_harm(out: Path) -> None:
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.lower().count("<script") == 2 == page.lower().count("</script")
    assert HOSTILE not in page
    for file in out.rglob("*.js"):
        raw = file.read_bytes()
        assert b"<" not in raw
        for char in "\u2028\u2029\u202e":
            assert char.encode() not in raw
        data_of(file)


def test_a_report_replaces_a_report_and_nothing_else(
    home: Path, results: Results, tmp_path: Path
) -> None:
    ours = tmp_path / "ours"
    shutil.copytree(home / "out", ours)
    (ours / "0" / "stale.js").write_text("")
    write_report(results, ours)
    assert not (ours / "0" / "stale.js").exists()
    (ours / "notes.txt").write_text("what I think of it")
    with pytest.raises(InputError, match="something else"):
        write_report(results, ours)
    assert (ours / "notes.txt").is_file() and (ours / "index.html").is_file()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="something else"):
        write_report(results, other)
    assert [file.name for file in other.iterdir()] == ["thesis.tex"]
    (other / "thesis.tex").unlink()
    write_report(results, other)
    assert (other / MARKER).is_file()
    with pytest.raises(UsageError, match="no folder"):
        write_report(results, other / "index.html")
    with pytest.raises(MissingError, match="no such folder"):
        write_report(results, tmp_path / "not" / "there")
    with pytest.raises(UsageError, match="no results"):
        write_report([], tmp_path / "none")


def test_what_fails_leaves_the_old_report(
    results: Results, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("m2kr.report.page.folder.html.render", full)
    with pytest.raises(M2KRError, match="full"):
        write_report(results, out)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    assert [file.name for file in out.parent.iterdir() if file.name.startswith(".out")] == []


@pytest.fixture
def moved(home: Path, tmp_path: Path) -> Iterator[Path]:
    """The results where their split is not any more."""
    shutil.copytree(home / "results", tmp_path / "results")
    data = home / "data"
    data.rename(home / "elsewhere")
    yield tmp_path
    (home / "elsewhere").rename(data)


def test_without_the_split_there_is_a_page_without_queries(moved: Path) -> None:
    write_report(Results.load(moved / "results"), moved / "out")
    (column,) = facts_of(moved / "out")["columns"]
    assert "not in this report" in column["browser"]["fault"]
    assert not (moved / "out" / "0").exists()


def test_of_a_damaged_split_the_page_says_so(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "results", tmp_path / "results")
    shutil.copytree(home / "data", tmp_path / "data")
    table = next((tmp_path / "data").rglob("*_passages/*/data-*.arrow"))
    table.write_bytes(table.read_bytes()[:-100])
    write_report(Results.load(tmp_path / "results"), tmp_path / "out", data=tmp_path / "data")
    (column,) = facts_of(tmp_path / "out")["columns"]
    assert "not in this report" in column["browser"]["fault"]
    assert column["results"][0]["values"]


def test_without_a_run_its_rankings_are_missing_alone(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "results", tmp_path / "results")
    next((tmp_path / "results").glob("*forward*.run.parquet")).unlink()
    write_report(Results.load(tmp_path / "results"), tmp_path / "out")
    (column,) = facts_of(tmp_path / "out")["columns"]
    assert [fault.split(" are ")[0] for fault in column["browser"]["faults"]] == [
        "The rankings of forward"
    ]
    _, meta = data_of(tmp_path / "out" / "0" / "meta.js")
    assert sorted(meta["depths"], key=str) == [17, None]


def test_systems_and_splits_are_told_apart(results: Results) -> None:
    one = next(r for r in results if r.retriever["name"] == "forward")

    def of(split: str = "test", edition: str = "odd", data: str = "fp1:a", **settings: Any) -> Any:
        return replace(
            one,
            split=split,
            edition=edition,
            fingerprints={"eval": data},
            retriever={"name": "dense", "settings": settings},
            experiment={"n": [split, edition, data, settings]},
        )

    same = of(checkpoint="models/a", size=2)
    summary = Summary.of(
        [same, same, of(checkpoint="models/b", size=2), of("valid", checkpoint="models/a", size=3)]
    )
    assert summary.systems == ("dense checkpoint=models/a", "dense checkpoint=models/b")
    assert [column.label for column in summary.columns] == ["odd/test", "odd/valid"]
    other_data = Summary.of([of(), of(data="fp1:b"), of(edition="two")])
    assert [column.label for column in other_data.columns] == [
        "odd (odd) a",
        "odd (odd) b",
        "odd (two)",
    ]
    assert len({column.key for column in other_data.columns}) == 3
    assert other_data.systems == ("dense",)


def test_results_of_one_run_are_one_system_as_in_compare(results: Results) -> None:
    one = next(r for r in results if r.retriever["name"] == "forward")
    metric, *rest = one.metrics
    again = replace(
        one,
        metrics={metric: one.metrics[metric]},
        scores={metric: one.scores[metric]},
        experiment={**one.experiment, "metrics": [metric]},
    )
    for pair in ([one, again], [again, one]):
        summary = Summary.of([*pair, *(r for r in results if r is not one)])
        assert len(summary.systems) == len(results)
        assert rest and {*summary.columns[0].results["forward"].metrics} == {*one.metrics}
        (note,) = summary.notes
        assert "of the same run as another one" in note


def test_every_column_with_scores_has_a_filter(tmp_path: Path) -> None:
    split = big_split(200, 300)
    names = split.queries["kind"]
    split.queries = (
        split.queries.add_column("form", names)
        .add_column("single", [f"value {n // 2}" for n in range(200)])
        .add_column("question_type", [f"type {n}" for n in range(200)])
    )
    split.manifest = {"groups": ["kind", "form", "single"]}
    run = big_run(split, 0, 10)
    tmp_path.joinpath("data").mkdir()
    write_queries(cast("Split", split), [lambda: run], DataFiles(tmp_path / "data"), "0", SILENT)
    _, meta = data_of(tmp_path / "data" / "0" / "meta.js")
    filters = {each["name"]: each["values"] for each in meta["filters"]}
    assert set(filters) == {"kind", "form", "single"}  # all queries have questions alone
    assert filters["form"] == sorted(set(names))
    assert (len(filters["single"]), filters["single"][-1]) == (61, "(others)")


def test_the_page_is_made_even_if_plots_are_not(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden: Any = None
    monkeypatch.setitem(sys.modules, "matplotlib", hidden)
    with pytest.raises(MissingError, match="matplotlib"):
        report.command([home / "results"], html=tmp_path / "out", out=tmp_path / "plots")
    assert (tmp_path / "out" / "index.html").is_file()
    assert "the page is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "fix"),
    [("report/index.html", "--html report"), ("index.html", "--html report"), ("a.htm", "report")],
)
def test_a_page_that_is_named_as_a_file_is_told_its_folder(
    results: Results, name: str, fix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        write_report(results, name)
    assert caught.value.fix and caught.value.fix.endswith(fix)


def test_the_command(cli: Any, home: Path, tmp_path: Path) -> None:
    done = cli("report", home / "results", "--html", tmp_path / "out", "--json")
    told = json.loads(done.stdout)
    assert Path(told["page"]) == tmp_path / "out" / "index.html"
    assert Path(told["page"]).is_file()
    assert len(told["results"]) == 2
    shown = cli("report", home / "results").stdout
    assert "forward" in shown and "--html report" in shown
    refused = cli("report", home / "results", "--html", home / "photos", code=1)
    assert "something else" in refused.stderr


def test_passages_that_count_as_one_and_queries_that_count_as_missed(tmp_path: Path) -> None:
    passages = Dataset.from_dict(
        {
            "passage_id": ["a", "a again", "b", "c"],
            "passage_content": ["one"] * 4,
            "scored_as": [None, "a", None, None],
        }
    )
    queries = Dataset.from_dict(
        {
            "question_id": ["q1", "q2", "q3"],
            "question": ["?"] * 3,
            "instruction": [""] * 3,
            "img_path": pa.array([None] * 3, pa.string()),
            "pos_item_ids": [["a"], [], ["a", "c"]],
            "pos_item_grades": [[1.0], [], [0.5, 1.0]],
            "answers": pa.array([[]] * 3, pa.list_(pa.string())),
        }
    )
    split = BigSplit(queries, passages, None, {"unjudged": "miss"})
    run = Run.from_lists(
        ["q3", "q1"], [["a", "b", "c"], ["b", "a again", "a"]], [[3.0, 2.0, 1.0]] * 2, name="one"
    )
    write_queries(cast("Split", split), [lambda: run], DataFiles(tmp_path), "0", SILENT)
    _, listed = data_of(tmp_path / "0" / "list-0.js")
    _, hits = data_of(tmp_path / "0" / "hits-0.js")
    _, texts = data_of(tmp_path / "0" / "texts-0.js")
    assert listed["ranks"] == [[2, 0, 3]]
    assert listed["judged"] == [1, 1, 1]
    assert [hits["marks"][0][row : row + 3] for row in (0, 10, 20)] == ["010", "000", "001"]
    assert [[texts["id"][n] for n in right] for right in hits["right"]] == [["a"], [], ["c"]]


def test_an_answer_below_the_passages_that_are_shown_is_found_as_metrics_find_it(
    tmp_path: Path,
) -> None:
    passages = {f"p{n:02}": "Gold." if n == 29 else "Lead." for n in range(30)}
    answers = (["gold "], [" "])
    queries = [{"id": f"q {n}", "question": "?", "answers": a} for n, a in enumerate(answers)]
    split = from_records(passages, queries, name="answers", data=tmp_path / "data")
    ranking = {p: float(-n) for n, p in enumerate(passages)}
    run = Run.from_dict({"q 0": ranking, "q 1": ranking}, name="one")
    write_queries(split, [lambda: run], DataFiles(tmp_path), "0", SILENT)
    _, listed = data_of(tmp_path / "0" / "list-0.js")
    assert (listed["judged"], listed["ranks"]) == (
        [2, 2],
        [[30, 0]],
    )  # a blank answer marks nothing


def test_of_a_huge_split_the_first_queries_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2kr.report.page.queries.MOST", 3)
    split = big_split(5, 40)
    run = big_run(split, 0, 12)
    told = write_queries(cast("Split", split), [lambda: run], DataFiles(tmp_path), "0", SILENT)
    _, listed = data_of(tmp_path / "0" / "list-0.js")
    assert listed["id"] == ["query/0", "query/1", "query/2"]
    assert told["queries_left_out"] == 2
    firsts = [run.passage_ids(f"query/{n}").index(f"passage/{n * 7}") + 1 for n in range(3)]
    assert listed["ranks"] == [firsts]
