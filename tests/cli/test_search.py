"""``m2kr search`` on mini: a question of one's own, an image of one's own, a page to look at."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from m2kr.cli import search
from m2kr.cli.main import guarded
from m2kr.cli.search import cut
from m2kr.data.load import Split, load
from m2kr.retrieval.adhoc import AdHocQuery, instruction_for, search_one
from m2kr.retrieval.protocol import Modalities
from m2kr.retrieval.run import Run

QUESTION = "What do giraffes eat in the savanna?"


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    assert all(each.startswith("m2kr search ") for each in search.EXAMPLES)
    app = typer.Typer()
    app.command()(guarded(search.command))
    return app


@pytest.fixture(scope="module")
def mini(mini_root: Path) -> Split:
    return load("mini", data=mini_root)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image file whose name no img_path may have."""
    path = tmp_path / "my <b>\\photo\\.png"
    Image.new("RGB", (900, 300), (200, 40, 10)).save(path)
    return path


class Search:
    def __init__(self, app: typer.Typer, root: Path) -> None:
        self.app, self.root = app, root

    def __call__(self, *args: object, code: int = 0) -> Result:
        call = ["mini", "--data", self.root, *args]
        done = CliRunner().invoke(self.app, [str(each) for each in call])
        assert done.exit_code == code, done.output + done.stderr
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture
def call(
    app: typer.Typer, mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Search:
    monkeypatch.chdir(tmp_path)
    return Search(app, mini_root)


def test_passages_for_a_question(call: Search, mini: Split) -> None:
    done = call("-r", "bm25", "--question", QUESTION, "-k", 3, "--json")
    record = json.loads(done.stdout)
    found = record["passages"]
    assert [each["rank"] for each in found] == [1, 2, 3]
    scores = [each["score"] for each in found]
    assert scores == sorted(scores, reverse=True)
    for each in found:
        row = mini.passage(each["passage_id"])
        assert (each["title"], each["text"]) == (row["title"] or "", row["passage_content"])
    assert "giraffe" in found[0]["text"].lower()
    assert record["page"] is None
    assert record["notes"] == []
    shown = call("-r", "bm25", "-q", QUESTION, "-k", 1).stdout
    assert found[0]["passage_id"] in shown
    assert found[1]["passage_id"] not in shown


def test_settings_reach_the_retriever(call: Search) -> None:
    ids = []
    for seed in (1, 2, 1):
        done = call("-r", "random", "-q", "x", "--set", f"seed={seed}", "--json")
        ids.append([each["passage_id"] for each in json.loads(done.stdout)["passages"]])
    assert ids[0] == ids[2] != ids[1]
    assert len(ids[0]) == 5
    refused = call("-r", "bm25", "-q", "x", "--checkpoint", "./model", code=2)
    assert "checkpoint" in refused.stderr


class Looks:
    """A retriever that ranks by what it is given, and remembers it."""

    name, settings = "looks", {}

    def __init__(self, *reads: str) -> None:
        self.modalities = Modalities(frozenset(reads), frozenset({"text"}))

    def index(self, passages, *, workdir: Path) -> None:
        assert workdir.is_dir()
        self.passages = passages

    def search(self, queries, k: int) -> Run:
        (self.row,) = queries.rows(range(len(queries)))
        self.image = queries.image(self.row) if "image" in self.modalities.query else None
        ids = self.passages.ids.to_pylist()[:k]
        scores = [[1.0 / (place + 1) for place in range(len(ids))]]
        return Run.from_lists(queries.ids.to_pylist(), [ids], scores)


def test_the_query_is_like_the_splits_own(mini: Split, photo: Path) -> None:
    looks = Looks("text", "image")
    asked = search_one(mini, looks, AdHocQuery(QUESTION, photo), k=4)
    assert len(asked.hits) == 4
    assert set(looks.row) >= {"question_id", "question", "instruction", "img_path", "answers"}
    assert set(looks.row) <= set(mini.queries.features)
    assert looks.row["question"] == QUESTION
    assert (looks.image.size, looks.image.getpixel((5, 5))) == ((900, 300), (200, 40, 10))
    assert looks.row["instruction"] == asked.instruction
    assert asked.notes == ()
    own = search_one(mini, looks, AdHocQuery(QUESTION, photo, instruction="Find: "))
    assert looks.row["instruction"] == own.instruction == "Find: "
    without = search_one(mini, looks, AdHocQuery(QUESTION))
    assert looks.image is None
    assert looks.row["img_path"] is None
    assert without.instruction != asked.instruction


def test_an_instruction_fits_the_form(mini: Split, photo: Path) -> None:
    forms = {(True, True): AdHocQuery("Who?", photo), (True, False): AdHocQuery("Who?")}
    forms[False, True] = AdHocQuery(image=photo)
    rows = mini.queries_view.rows(range(len(mini.queries_view)))
    for form, question in forms.items():
        chosen = instruction_for(mini, question)
        assert chosen in {
            row["instruction"]
            for row in rows
            if (bool(row["question"]), row["img_path"] is not None) == form
        }


def test_what_is_not_read_is_said_or_refused(mini: Split, photo: Path) -> None:
    assert search_one(mini, Looks("text"), AdHocQuery(QUESTION, photo)).notes == (
        "looks does not look at the image",
    )
    assert search_one(mini, Looks("image"), AdHocQuery(QUESTION, photo)).notes == (
        "looks does not read the question",
    )
    assert len(search_one(mini, Looks(), AdHocQuery(QUESTION, photo)).notes) == 2


def test_a_page_that_needs_nothing(call: Search, photo: Path, tmp_path: Path) -> None:
    hostile = f"{QUESTION} <script>alert(1)</script> \"'&"
    page = tmp_path / "page.html"
    done = call("-r", "bm25", "-q", hostile, "-i", photo, "-k", 2, "--html", page)
    assert "bm25 does not look at the image" in done.stdout
    html = page.read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "script-src" not in html
    assert "default-src 'none'" in html
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    assert "http" not in re.sub(r"http-equiv", "", html)
    encoded = re.search('src="data:image/jpeg;base64,([^"]+)"', html)
    assert Image.open(io.BytesIO(base64.b64decode(encoded[1]))).size == (720, 240)
    record = json.loads(call("-r", "bm25", "-q", hostile, "-k", 2, "--json").stdout)
    for each in record["passages"]:
        assert each["passage_id"] in html
    assert html.count('class="mx-text"') == 2


def test_nothing_found_is_said(call: Search, tmp_path: Path) -> None:
    done = call("-r", "bm25", "-q", "zzyzx qqq", "--html", "page.html")
    assert "bm25 found nothing" in done.stdout
    assert "bm25 found nothing" in (tmp_path / "page.html").read_text()
    assert json.loads(call("-r", "bm25", "-q", "zzyzx", "--json").stdout)["passages"] == []


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("-r", "bm25"), 2, "nothing is asked"),
        (("-r", "bm25", "-q", "  "), 2, "nothing is asked"),
        (("-r", "bm52", "-q", "x"), 2, "did you mean 'bm25'"),
        (("-r", "bm25", "-q", "x", "-i", "none.jpg"), 3, "no such image file"),
        (("-r", "bm25", "-q", "x", "-i", "text.jpg"), 1, "can't be decoded"),
        (("-r", "bm25", "-i", "text.jpg"), 2, "bm25 reads text alone"),
        (("-r", "bm25", "-q", "x", "--html", "nowhere/page.html"), 3, "no such folder"),
        (("-r", "run:run.trec", "-q", "x"), 2, "no ranking for a new query"),
        (("-r", "bm25", "-q", "x", "--split", "nonsense"), 2, "nonsense"),
    ],
)
def test_errors_say_what_is_wrong(
    call: Search, tmp_path: Path, args: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "text.jpg").write_text("no image at all")
    Run.from_dict({"q": {"giraffe/body": 1.0}}).save(tmp_path / "run.trec")
    assert message in call(*args, code=code).stderr


def test_an_image_retriever_needs_an_image(mini: Split) -> None:
    from m2kr.errors import UsageError

    with pytest.raises(UsageError, match="looks at images alone"):
        search_one(mini, Looks("image"), AdHocQuery("x"))
    with pytest.raises(UsageError, match="k is 0"):
        search_one(mini, Looks("text"), AdHocQuery("x"), k=0)


def test_texts_are_cut_at_words() -> None:
    assert cut("a  b\nc") == "a b c"
    assert cut("one two three", 9) == "one two …"
    assert cut("x" * 20, 5) == "xxxxx …"
    assert cut("", 5) == ""


@pytest.mark.slow
def test_an_image_alone(call: Search, mini: Split, tmp_path: Path) -> None:
    """The image of one of mini's queries, by the retriever that knows what images show."""
    path = tmp_path / "cat.jpg"
    path.write_bytes(mini.images.read("photos/cat_1.jpg"))
    done = call("-r", "image_concepts", "-i", path, "-k", 5, "--json")
    titles = {each["title"] for each in json.loads(done.stdout)["passages"]}
    assert any("cat" in title.lower() for title in titles)
