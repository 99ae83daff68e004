"""``m2kr explain`` on mini, with a tiny checkpoint of the official code."""

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from m2kr.cli import explain
from m2kr.cli.main import guarded
from m2kr.data.load import Split, load
from m2kr.retrieval.run import Run

GOLDEN = Path(__file__).parents[1] / "golden"
QUERY = "okvqa/giraffe/diet"
PASSAGES = ("giraffe/body", "factbook/eg/flag", "giraffe/life")


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    """The command, in this process: importing transformers anew each time takes seconds."""
    assert all(each.startswith("m2kr explain ") for each in explain.EXAMPLES)
    app = typer.Typer()
    app.command()(guarded(explain.command))
    return app


@pytest.fixture(scope="module")
def mini(mini_root: Path) -> Split:
    return load("mini", data=mini_root)


class Explain:
    """Calls on mini; the working folder is a test's own."""

    def __init__(self, app: typer.Typer, root: Path) -> None:
        self.app, self.root = app, root

    def __call__(self, *args: object, query: str = QUERY, code: int = 0) -> Result:
        call = ["mini", "--data", self.root, "--query-id", query, *args]
        if "--checkpoint" not in args:
            call += ["--checkpoint", GOLDEN / "tiny_preflmr"]
        done = CliRunner().invoke(self.app, [str(each) for each in call])
        assert done.exit_code == code, done.output + done.stderr
        return done


@pytest.fixture
def call(
    app: typer.Typer, mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Explain:
    monkeypatch.chdir(tmp_path)
    return Explain(app, mini_root)


def test_the_first_positive_on_a_page(call: Explain, mini: Split, tmp_path: Path) -> None:
    positive = mini.query(QUERY)["pos_item_ids"][0]
    done = call()
    assert positive in done.stdout
    assert "the page is explain.html" in done.stdout
    html = (tmp_path / "explain.html").read_text()
    assert positive in html
    assert html.count("<rect ") == 16
    assert "data:image/jpeg;base64," in html
    text = re.sub("<[^>]*>", "", html.split("<h3>Passage</h3>")[1]).replace("&#x27;", "'")
    assert text.startswith(mini.passage(positive)["passage_content"])
    assert html.count("mx-out") == 2  # the style, and the veil on what the square crop leaves out


def test_json_holds_the_terms_and_writes_no_page(call: Explain, tmp_path: Path) -> None:
    pair = [each for passage in PASSAGES[:2] for each in ("--passage-id", passage)]
    record = json.loads(call(*pair, "--json").stdout)
    assert [each["passage_id"] for each in record["passages"]] == list(PASSAGES[:2])
    assert [each["relevant"] for each in record["passages"]] == [True, False]
    for each in record["passages"]:
        assert sum(row["similarity"] for row in each["rows"]) == pytest.approx(each["score"])
        assert sum(each["parts"].values()) == pytest.approx(each["score"])
    assert record["img_path"] == "photos/giraffe_1.jpg"
    assert record["page"] is None
    assert not list(tmp_path.iterdir())


def test_a_runs_best_passages(call: Explain, tmp_path: Path) -> None:
    scores = dict(zip(PASSAGES, (1.5, 2.5, 0.5), strict=True))
    run = Run.from_dict({QUERY: scores, "another": {"giraffe/body": 1.0}}).save(
        tmp_path / "run.parquet"
    )
    done = call("--run", run, "-k", 2, "--out", "page.html", "--json")
    record = json.loads(done.stdout)
    found = [(p["passage_id"], p["rank"], p["run_score"]) for p in record["passages"]]
    assert found == [("factbook/eg/flag", 1, 2.5), ("giraffe/body", 2, 1.5)]
    html = (tmp_path / "page.html").read_text()
    assert record["page"] == "page.html"
    assert "rank 1 of the run" in html
    assert "giraffe/life" not in html
    assert html.count('href="#passage-') == 2


def test_the_same_model_as_a_retriever(call: Explain, tmp_path: Path) -> None:
    """By name it is the checkpoint; with settings any encoder, whose rows have numbers alone."""
    named = json.loads(call("--json").stdout)["passages"]
    assert json.loads(call("-r", "preflmr", "--json").stdout)["passages"] == named
    numbered = json.loads(call("-r", "preflmr", "--set", "batch", "--json", code=2).stdout)
    assert "not understood" in numbered["what"]
    encoded = json.loads(call("-r", "preflmr", "--set", "workers=1", "--json").stdout)["passages"]
    assert encoded[0]["score"] == pytest.approx(named[0]["score"], rel=1e-3)
    assert len(encoded[0]["rows"]) == len(named[0]["rows"])
    assert encoded[0]["rows"][0]["label"] == "row 1"


def test_a_query_without_image(call: Explain, tmp_path: Path) -> None:
    call("--out", "page.html", query="msmarco/eiffel-tower/occasion")
    html = (tmp_path / "page.html").read_text()
    assert "No image: the model was shown a black one." in html
    assert "data:image" not in html.split("</head>")[1]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--passage-id", "no/such"), 1, "no passage 'no/such'"),
        (("--passage-id", "giraffe/body", "--run", "run.trec"), 2, "one of them"),
        (("--run", "nowhere.parquet"), 3, "nowhere.parquet"),
        (("--out", "nowhere/page.html"), 3, "no such folder"),
        (("--checkpoint", "nowhere"), 3, "no such folder"),
        (("--split", "nonsense"), 2, "nonsense"),
    ],
)
def test_errors_say_what_is_wrong(
    call: Explain, args: tuple[str, ...], code: int, message: str
) -> None:
    done = call(*args, code=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_query_is_refused(call: Explain) -> None:
    assert "no query 'nobody'" in call(query="nobody", code=1).stderr


def test_a_run_without_the_query(call: Explain, tmp_path: Path) -> None:
    run = Run.from_dict({"another": {"giraffe/body": 1.0}}).save(tmp_path / "run.trec")
    assert f"query '{QUERY}' is not in the run" in call("--run", run, code=2).stderr


@pytest.mark.slow
def test_the_embedded_model_sees_by_its_frozen_network(call: Explain, tmp_path: Path) -> None:
    from m2kr.errors import MissingError
    from m2kr.preflmr import tiny

    try:
        folder = tiny.assemble_tiny(tmp_path / "embedded")
    except MissingError as error:
        pytest.skip(str(error))
    found = json.loads(call("--checkpoint", folder, "--json", "--out", "a.html").stdout)
    parts = found["passages"][0]["parts"]
    assert parts["patch"] != 0
    assert "data:image" in (tmp_path / "a.html").read_text()
