"""``m2kr show``, and the commands that an evaluation ends with."""

import json
import re
import shlex
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.html_page import Page

import m2kr
from m2kr.data.load import load
from m2kr.evaluation.judge_file import JudgeFile
from m2kr.evaluation.query_view import QueryView
from m2kr.evaluation.result import Result
from m2kr.retrieval.run import Run

Cli = Callable[..., subprocess.CompletedProcess[str]]
HOSTILE = "\x1b[2J\x1b]0;gone\x07\u202eabc\u2066</script><img src=x onerror=alert(1)>\r\n**&\x9b1A"
IDS = [
    "a/b",
    "50%s",
    "späce d",
    "🦒",
    "n'o\"q",
    "-x",
    "#1",
    "--run",
    "$HOME;ls",
    "[red]x",
    "*",
    HOSTILE,
]


COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
QUERY = "okvqa/giraffe/diet"
TAGS = {*("div", "b", "i", "p", "table", "tbody", "tr", "td", "img", "mark", "details", "summary")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with ids and texts of every sort, and results of two retrievers in ``results``."""
    folder = tmp_path_factory.mktemp("show")
    Image.new("RGB", (12, 8), (0, 99, 0)).save(folder / "green.png")
    split = m2kr.from_records(
        [
            {"id": name, "title": name, "text": f"{'words ' * 200}the gold {n} {name} {HOSTILE}"}
            for n, name in enumerate(IDS)
        ],
        [
            {
                "id": name,
                "question": f"which {name}",
                "instruction": f"Find {HOSTILE}:",
                "positives": [name],
                "answers": ["GOLD ", HOSTILE],
                "image": [None, "green.png", "lost.png"][n % 3],
            }
            for n, name in enumerate(IDS)
        ],
        name="odd",
        images=folder,
        data=folder,
        edition="odd",
    )
    runs = [
        Run.from_dict({q: {p: float(s) for s, p in enumerate(IDS[:4])} for q in IDS}, name=HOSTILE),
        Run.from_dict({q: {} for q in IDS}, name="nothing"),
    ]
    m2kr.evaluate(split, runs, out=folder / "results")
    return folder


def ranked(root: Path) -> Path:
    """The result that ranks something."""
    return next(file for file in results(root) if "nothing" not in file.name)


def results(root: Path) -> list[Path]:
    return sorted((root / "results").glob("*.json"))


@pytest.mark.parametrize("query", ["--run", HOSTILE])
def test_any_id_is_shown_and_commands_no_terminal(cli: Cli, root: Path, query: str) -> None:
    done = cli("show", "odd", "--data", root, "--run", ranked(root), "-k", 2, "--", query)
    assert not COMMANDS.search(done.stdout)
    assert "✓ right" in done.stdout
    assert "**gold**" in done.stdout
    given = cli("show", "odd", "--data", root, "--run", ranked(root), "--json", "--", query).stdout
    assert json.loads(given)["query"]["question_id"] == query


def test_what_is_shown_of_every_query(root: Path) -> None:
    split = load("odd", data=root)
    for n, query in enumerate(IDS):
        shown = Result.load(ranked(root)).show(query)
        view = shown.as_dict()
        assert json.loads(json.dumps(view))["query"] == split[n]
        assert [p["passage_id"] for p in view["ranked"]] == IDS[3::-1]
        assert (view["depth"], view["first_right"]) == (4, 4 - n if n < 4 else None)
        assert view["image"]["size"] == ([12, 8] if n % 3 == 1 else None)
        assert bool(view["image"]["fault"]) == (n % 3 == 2)
        for passage in view["ranked"]:
            marked = [passage["text"][a:b].lower() for a, b in passage["answers"]]
            assert marked == ["gold", HOSTILE.lower()]
        assert not COMMANDS.search(repr(shown))
        html = shown._repr_html_()
        page = Page(html)
        assert set(page.tags) <= TAGS
        assert page.tags.count("img") == html.count("data:image/jpeg") == (n % 3 == 1)
        assert "mark" in page.tags
        assert not COMMANDS.search(html.replace("\r", ""))


def test_a_query_alone_a_list_and_an_empty_ranking(cli: Cli, root: Path) -> None:
    alone = cli("show", "odd", "a/b", "--data", root).stdout
    assert "Right passages" in alone
    assert "rank" not in alone
    listed = cli("show", "odd", "--data", root).stdout
    assert "[red]x" in listed
    assert "12 of" not in listed
    empty = next(file for file in results(root) if "nothing" in file.name)
    shown = cli("show", "odd", "a/b", "--data", root, "--run", empty).stdout
    assert "Run nothing: 0 passages; none of them is right" in shown
    with_ranks = json.loads(
        cli("show", "odd", "--data", root, "--run", results(root)[0], "--json").stdout
    )
    assert with_ranks["queries"] == len(with_ranks["listed"]) == len(IDS)


def test_runs_of_others(cli: Cli, root: Path, tmp_path: Path) -> None:
    run = Run.from_dict({"a/b": {"no/such": 2.0, "🦒": 1.0}}, name="x").save(tmp_path / "run.trec")
    shown = cli("show", "odd", "a/b", "--data", root, "--run", run).stdout
    assert "(the pool has no such passage)" in shown
    assert (
        "it has no such query"
        in cli("show", "odd", "-k", 1, "--data", root, "--run", run, "🦒").stdout
    )


def test_errors_say_what_to_do(cli: Cli, root: Path, mini_root: Path, tmp_path: Path) -> None:
    typo = cli("show", "odd", "späce", "--data", root, code=1).stderr
    assert "did you mean 'späce d'" in typo
    seen = cli("show", "mini", "--split", "seen", QUERY, "--data", mini_root, code=1).stderr
    assert "the split test, which has it" in seen
    other = cli("show", "mini", "--data", mini_root, "--run", results(root)[0], code=1).stderr
    assert "this result was made on odd/test (odd)" in other
    several = cli("show", "odd", "--data", root, "--run", root / "results", code=2).stderr
    assert "2 results are there" in several
    assert (
        "there is no" in cli("show", "mini", "--data", mini_root, "--run", "x.json", code=3).stderr
    )
    (tmp_path / "x.json").write_text("[1]")
    cli("show", "mini", "--data", mini_root, "--run", tmp_path / "x.json", code=1)


@pytest.mark.parametrize(
    ("swapped", "meant"),
    [
        (("show", QUERY, "mini"), f"m2kr show mini {QUERY}"),
        (("eval", "bm25", "-r", "mini"), "m2kr eval mini -r bm25"),
        (("eval", "bm25", "-r", "dense_text"), "m2kr eval SOURCE -r bm25"),
        (("eval", "mini", "-r", "MINI"), "m2kr eval mini -r RETRIEVER"),
        (("search", "bm25", "-r", "mini", "-q", "x"), "m2kr search mini -r bm25"),
    ],
)
def test_the_source_comes_first(cli: Cli, mini_root: Path, swapped, meant) -> None:
    said = cli(*swapped, "--data", mini_root, code=2).stderr
    assert f"the source comes first: {meant}" in said
    assert "there is no" in said


def test_a_page_of_text_fits_the_terminal(mini_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    split = load("mini", data=mini_root)
    for row in split[::97]:
        text = repr(QueryView.of(split, row["question_id"]))
        assert all(len(unicodedata.normalize("NFC", line)) <= 80 for line in text.splitlines())


@pytest.mark.slow
def test_every_command_that_it_names_runs(cli: Cli, root: Path, tmp_path: Path) -> None:
    """Of a source, and of a judge file in its place, whose data are elsewhere."""
    judge = tmp_path / "odd.judge.parquet"
    cli("export", "odd", "--format", "judge", "--data", root, "--out", judge)
    runs = [f"run:{f}" for f in sorted((root / "results").glob("*.run.parquet"))]
    words = [word for run in runs for word in ("-r", run)]
    for source, data, verbs in (
        ("odd", root, ["show", "compare", "report"]),
        (judge, tmp_path / "none", ["compare", "report"]),
    ):
        out = tmp_path / f"out {verbs[0]}"
        ended = cli("eval", source, *words, "--data", data, "--out", out).stdout
        lines = [line for line in ended.splitlines() if line.startswith("next: m2kr ")]
        commands = [shlex.split(line)[2:] for line in lines]
        assert [command[0] for command in commands] == verbs
        for command in commands:
            cli(*command, cwd=tmp_path)
    assert repr(JudgeFile.load(judge)).startswith(
        "JudgeFile(odd/test (odd): queries 12; passages 12;"
    )
    assert len(JudgeFile.load(judge)) == 12


@pytest.mark.slow
def test_an_evaluation_ends_with_commands_that_run(cli: Cli, root: Path, mini_root: Path) -> None:
    out = root / "more results"
    replayed = [
        word
        for f in (root / "results").glob("*.parquet")
        if ".run." in f.name
        for word in ("-r", f"run:{f}")
    ]
    ended = cli("eval", "odd", *replayed, "--data", root, "--edition", "odd", "--out", out).stdout
    commands = [
        shlex.split(line.removeprefix("next: "))
        for line in ended.splitlines()
        if line.startswith("next: ")
    ]
    assert [words[:2] for words in commands] == [
        ["m2kr", "show"],
        ["m2kr", "compare"],
        ["m2kr", "report"],
    ]
    shown = cli(*commands[0][1:]).stdout
    assert "odd/test (odd)" in shown
    assert all(
        Path(word).is_file() for words in commands for word in words if word.endswith(".json")
    )
    alone = cli(
        "eval", "mini", "-r", "random", "--split", "seen", "--data", mini_root, "--out", out
    ).stdout
    (first, *_) = [line for line in alone.splitlines() if line.startswith("next: ")]
    assert "compare" not in alone
    assert "mini/seen" in cli(*shlex.split(first)[2:]).stdout
