"""Retrievers that users bring: what their code may import, and whose error it is that they raise."""

import importlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from support.toys import PASSAGES, Dense, image_folder, toy_split
from typer.testing import CliRunner

import m2kr
from m2kr.cli import eval_
from m2kr.cli.main import guarded
from m2kr.data.images.store import ImageStore
from m2kr.errors import InputError, MissingError, RetrieverError, UsageError
from m2kr.evaluation.harness import evaluate_split
from m2kr.retrieval.protocol import modalities_of
from m2kr.retrieval.search_split import search_split
from m2kr.retrievers import create

PLACES = {
    "loading": "raise ValueError('no such net')",
    "__init__": "raise ValueError('no such net')",
    "encode_query": "raise ValueError('no such net')",
    "encode_document": "raise ValueError('no such net')",
    "encode_stream": "raise ValueError('no such net')",
    "index": "raise ValueError('no such net')",
    "search": "raise ValueError('no such net')",
    "cache_key": "raise ValueError('no such net')",
    "settings": "raise ValueError('no such net')",
    "modalities": "raise ValueError('no such net')",
    "name": "raise ValueError('no such net')",
}
FILE = """
import numpy as np
from m2kr import EncoderRetriever
{loading}

class Mine(EncoderRetriever):
    def __init__(self):
        {__init__}
    @property
    def name(self):
        {name}
        return "mine"
    @property
    def modalities(self):
        {modalities}
        return {{"query": ["text"], "passage": ["text"]}}
    @property
    def settings(self):
        {settings}
        return {{}}
    def cache_key(self, side):
        {cache_key}
        return {{}}
    def encode_query(self, batch):
        {encode_query}
        return np.ones((len(batch), 2))
    def encode_document(self, batch):
        {encode_document}
        return np.ones((len(batch), 2))
    def encode_stream(self, records, side, report):
        {encode_stream}
        yield from super().encode_stream(records, side, report)
    def index(self, passages, *, workdir):
        {index}
        super().index(passages, workdir=workdir)
    def search(self, queries, k):
        {search}
        return super().search(queries, k)
"""


def written(folder: Path, file: str = "own.py", **lines: str) -> Path:
    path = folder / file
    path.write_text(FILE.format(**dict.fromkeys(PLACES, "pass") | lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("place", sorted(PLACES))
def test_an_exception_shows_its_own_last_line(place: str, tmp_path: Path) -> None:
    path = written(tmp_path, **{place: PLACES[place]})
    (number,) = (
        number
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "no such net" in line
    )
    error = InputError if place == "loading" else RetrieverError
    with pytest.raises(error) as caught:
        evaluate_split(toy_split(), create(f"{path}:Mine"), k=3)
    told = str(caught.value)
    assert told.startswith(f"{path}:{number}")
    assert "raise ValueError('no such net')" in told
    assert "ValueError: no such net" in told
    assert isinstance(caught.value.__cause__, ValueError)
    if place.startswith("encode_"):
        side = "queries" if place == "encode_query" else "passages"
        assert side in told
    if place in ("encode_query", "encode_document"):
        assert f"Mine.{place} of batch 1 (4 " in told


RAISED = {
    "raise SystemExit('no GPU')": "SystemExit: no GPU",
    "import nothing_such": "ModuleNotFoundError: No module named 'nothing_such'",
    "open('/no/such/weights')": "FileNotFoundError",
    "raise MemoryError": "MemoryError",
    "np.ones(3) @ np.ones(4)": "ValueError: matmul",
    "batch.nothing": "AttributeError",
    "def again(): again()\n        again()": "RecursionError",
    "raise KeyError": "KeyError",
    "raise StopIteration": "StopIteration",
    "raise BrokenPipeError": "BrokenPipeError",
    "assert not batch": "AssertionError",
    "raise BaseException('a panic in Rust')": "BaseException: a panic in Rust",
}


@pytest.mark.parametrize("line", sorted(RAISED))
def test_whatever_is_raised_is_its_own(line: str, tmp_path: Path) -> None:
    path = written(tmp_path, encode_query=line)
    with pytest.raises(RetrieverError) as caught:
        evaluate_split(toy_split(), create(f"{path}:Mine"), k=3)
    assert RAISED[line] in str(caught.value)
    assert "pip install" not in str(caught.value)
    assert f"{path}:" in str(caught.value)


def test_a_class_without_a_file_and_a_wrong_signature_are_told_too() -> None:
    class Short(Dense):
        def encode_query(self):
            return None

    class Bare:
        name, settings, modalities = "bare", {}, {}

        def index(self, passages):
            """Takes no workdir."""

        def search(self, queries, k):
            """Never called."""

    for retriever, named in ((Short(), "encode_query of batch 1"), (Bare(), "Bare.index of 4")):
        with pytest.raises(RetrieverError, match="TypeError") as caught:
            evaluate_split(toy_split(), retriever, k=3)
        assert named in str(caught.value)


def test_our_own_bugs_stay_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("m2kr.retrieval.encoder.batches_by_length", broken)
    monkeypatch.setattr(broken, "__module__", "m2kr.retrieval.batches")
    with pytest.raises(RetrieverError):  # a test's function stands in for ours: it lies outside
        evaluate_split(toy_split(), Dense(), k=3)
    monkeypatch.undo()
    monkeypatch.setattr("m2kr.retrieval.encoder.checked_output", None)
    with pytest.raises(TypeError, match="not callable"):
        evaluate_split(toy_split(), Dense(), k=3)


def test_the_command_line_leaves_with_1_and_shows_all_when_asked(
    mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "my_model.py", encode_document=PLACES["encode_document"])
    evaluated = ("mini", "--split", "valid", "--data", str(mini_root), "-r")
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(guarded(eval_.command))
    done = CliRunner().invoke(app, [*evaluated, "my_model:Mine"])  # a module of the working folder
    assert done.exit_code == 1
    told = done.stderr
    assert told.startswith("error: my_model.py:")
    assert "in encode_document: raise ValueError('no such net'): ValueError: no such net" in told
    assert "bug in m2kr" not in told
    assert "Traceback" not in told
    program = [Path(sys.executable).with_name("m2kr"), "--verbose", "eval", *evaluated]
    shown = subprocess.run(
        [*program, "my_model.py:Mine"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr


# --- what a file may import


def letters_file(folder: Path, body: str, name: str = "model.py", **neighbours: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    text = (
        "import numpy as np\nfrom m2kr import EncoderRetriever\n"
        f"{body}\nclass Mine(EncoderRetriever):\n"
        "    def encode_query(self, batch):\n"
        "        return np.full((len(batch), 1), float(value()))\n"
        "    def encode_document(self, batch):\n        return np.ones((len(batch), 1))\n"
    )
    (folder / name).write_text(text, encoding="utf-8")
    for path, source in neighbours.items():
        file = folder / (path.replace("__", "/").replace("/init", "/__init__") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    return f"{folder / name}:Mine"


def score(retriever) -> float:
    return next(iter(search_split(toy_split(), retriever, k=3).run.to_dict()["q1"].values()))


IMPORTS = {
    "at the top": "from helper import value",
    "when it runs": "def value():\n    import helper\n    return helper.value()",
    "through another": "import between\nvalue = between.value",
    "by name": "import importlib\ndef value():\n    return importlib.import_module('helper').value()",
    "in a package": "from parts.inner import value",
    "by a relative import": "from parts import value",
}
NEIGHBOURS = {
    "between": "from helper import value",
    "parts__init": "from .inner import value",
    "parts__inner": "from helper import value",
}


@pytest.mark.parametrize("how", sorted(IMPORTS))
def test_neighbours_are_imported_and_folders_kept_apart(how: str, tmp_path: Path) -> None:
    """Two files of one name, with neighbours of one name, used by turns."""
    before, path = set(sys.modules), list(sys.path)
    specs = [
        letters_file(
            tmp_path / f"folder{number}",
            IMPORTS[how],
            helper=f"def value():\n    return {number}",
            **NEIGHBOURS,
        )
        for number in (1, 2)
    ]
    one, two = map(create, specs)
    assert [score(each) for each in (one, two, one, two)] == [1.0, 2.0, 1.0, 2.0]
    assert score(create(specs[0])) == 1.0
    assert sys.path == path
    left = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not left & {"helper", "between", "parts", "model"}


def test_a_file_may_see_to_its_path_itself_and_name_another_files_class(tmp_path: Path) -> None:
    """As many do; the path is as before afterwards, and the next file has helpers of its own."""
    lazy = "def value():\n    import deeper\n    return deeper.value()"
    seen, path = [], list(sys.path)
    for number in (1, 2):
        folder = tmp_path / f"project{number}"
        (folder / "lib").mkdir(parents=True)
        (folder / "lib" / "deeper.py").write_text(
            f"def value():\n    return {number}", encoding="utf-8"
        )
        places = [str(folder / "lib"), str(folder)]
        own = f"import sys\nsys.path[:0] = {places}\n"
        letters_file(folder, own + lazy, "implementation.py")
        (folder / "main.py").write_text("from implementation import Mine", encoding="utf-8")
        seen.append(create(f"{folder / 'main.py'}:Mine"))
    assert [score(each) for each in (*seen, *reversed(seen))] == [1.0, 2.0, 2.0, 1.0]
    assert sys.path == path
    assert not {"implementation", "deeper"} & set(sys.modules)


def test_modules_of_the_callers_own_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook whose folder has the retriever's file, and a helper that was imported."""
    spec = letters_file(
        tmp_path, "def value():\n    import helper\n    return helper.value()",
        helper="def value():\n    return 7",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    helper = importlib.import_module("helper")
    try:
        assert score(create(spec)) == 7.0
        assert sys.modules["helper"] is helper
    finally:
        del sys.modules["helper"]


def test_later_parts_of_a_package_that_was_there_stay(tmp_path: Path) -> None:
    """As parts of m2kr do, where it is run from the retriever's folder."""
    for name, text in {"__init__": "", "early": "", "late": "x = 4"}.items():
        (tmp_path / "there").mkdir(exist_ok=True)
        (tmp_path / "there" / f"{name}.py").write_text(text, encoding="utf-8")
    spec = letters_file(tmp_path, "def value():\n    from there.late import x\n    return x")
    sys.path.append(str(tmp_path))
    importlib.import_module("there.early")
    sys.path.remove(str(tmp_path))
    try:
        assert score(create(spec)) == 4.0
        assert "there.late" in sys.modules
    finally:
        for name in ("there", "there.early", "there.late"):
            sys.modules.pop(name, None)


def test_neighbours_hide_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trap = "raise RuntimeError('trapped')"
    spec = letters_file(
        tmp_path,
        "import json, helper\ndef value():\n    import colorsys, wave\n    return helper.value()",
        helper="def value():\n    return 3",
        **dict.fromkeys(("json", "numpy", "m2kr", "colorsys", "wave", "typing", "orjson"), trap),
    )
    sys.modules.pop("colorsys", None)
    with caplog.at_level(logging.WARNING):
        assert score(create(spec)) == 3.0
    said = [record.getMessage() for record in caplog.records]
    hidden = ("colorsys", "json", "m2kr", "numpy", "wave")  # those of the traps that it imports
    assert {text.split("'")[1] for text in said} == {f"import {name}" for name in hidden}


def test_members_of_a_fusion_have_neighbours_of_their_own(tmp_path: Path) -> None:
    lazy = "def value():\n    import helper\n    return helper.value()"
    specs = [
        letters_file(tmp_path / f"f{n}", lazy, helper=f"def value():\n    return {n}")
        for n in (1, 2)
    ]
    fusion = create("fusion", {"members": specs, "method": "rrf"})
    assert score(fusion) > 0
    assert all(score(member) == number for number, member in enumerate(fusion.members, 1))


@pytest.mark.parametrize("form", ["model_here", "project_here.model", "another_here.sub.model"])
def test_a_module_in_the_working_folder(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which isn't on the path: the ``m2kr`` command does not put it there."""
    *packages, name = form.split(".")
    folder = tmp_path.joinpath(*packages)
    body = "from .helper import value" if packages else "from helper import value"
    letters_file(folder, body, f"{name}.py", helper="def value():\n    return 1")
    for depth in range(len(packages)):
        tmp_path.joinpath(*packages[: depth + 1], "__init__.py").touch()
    path = [place for place in sys.path if place not in ("", str(Path.cwd()))]
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.chdir(tmp_path)
    assert score(create(f"{form}:Mine")) == 1.0
    assert str(tmp_path) not in path
    Path("json.py").write_text("class Mine: ...", encoding="utf-8")
    with pytest.raises(UsageError, match=r"'json' may mean .*\n.*json\.py:CLASS for the file"):
        create("json:Mine")
    with pytest.raises(MissingError, match="there is no module 'no_such'") as caught:
        create("no_such:Mine")
    assert "pip install" not in str(caught.value)


def test_a_module_that_lacks_something_shows_where(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "lacking.py").write_text("\nimport no_such_thing\n", encoding="utf-8")
    (tmp_path / "lacking_deeper.py").write_text("import lacking\n")
    monkeypatch.chdir(tmp_path)
    for spec in ("lacking:X", "lacking.py:X", "lacking_deeper.py:X"):
        with pytest.raises(InputError, match=r"^lacking\.py:2: import no_such_thing") as caught:
            create(spec)
        assert "pip install" not in str(caught.value)
    with pytest.raises(MissingError, match=r"no module 'json\.no_such'|no module 'json.no_such'"):
        create("json.no_such:X")


# --- broken ones harm nothing else


def test_a_broken_retriever_or_entry_point_is_named_and_harms_no_other(tmp_path: Path) -> None:
    package = tmp_path / "m2kr"
    package.mkdir()
    true = Path(m2kr.__file__).parent
    for entry in true.iterdir():
        if entry.name not in ("__pycache__", "retrievers"):
            (package / entry.name).symlink_to(entry)
    (package / "retrievers").mkdir()
    for entry in (true / "retrievers").iterdir():
        if entry.name != "__pycache__":
            (package / "retrievers" / entry.name).symlink_to(entry)
    (package / "retrievers" / "broken.py").write_text("\nimport nothing_such\n")
    (package / "retrievers" / "empty.py").write_text("")
    (tmp_path / "theirs.py").write_text("raise SystemExit(4)\n")
    for name, text in {
        "one": "[m2kr.retrievers]\ntheirs = theirs:Mine\nMy-Own = nowhere.to_be:Found\n",
        "two": "[m2kr.retrievers]\nno equals sign here\n",
    }.items():
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(text)
    code = (
        "import json\nfrom m2kr.errors import M2KRError\nfrom m2kr.retrievers import create\n"
        "told = {}\n"
        "for name in ('broken', 'empty', 'theirs', 'my-own', 'bm25', 'oracle'):\n"
        "    try: told[name] = create(name).name\n"
        "    except M2KRError as error: told[name] = str(error)\n"
        "print(json.dumps(told))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["bm25"], told["oracle"]) == ("bm25", "oracle")
    assert "broken.py:2: import nothing_such: the retriever 'broken'" in told["broken"]
    assert "the retriever 'empty': there is no 'RETRIEVER'" in told["empty"]
    assert "the retriever 'theirs' (theirs:Mine)" in told["theirs"]
    assert "(nowhere.to_be:Found)" in told["my-own"]
    assert "entry points of two can't be read" in done.stderr


# --- what a retriever declares


class Seeing(Dense):
    """Looks at images on both sides, if it may."""

    def encode_query(self, batch):
        self.seen = [image and image.size for image in batch.images]
        return super().encode_query(batch)


def test_images_that_were_not_declared_raise_with_the_line_to_add(tmp_path: Path) -> None:
    split = toy_split(ImageStore(image_folder(tmp_path, "a.png", "b.png")))
    with pytest.raises(InputError) as caught:
        evaluate_split(split, Seeing(10), k=3)
    line = str(caught.value).partition("this line in the class: ")[2]
    assert line == 'modalities = {"query": ["text", "image"], "passage": ["text"]}'
    mended = Seeing(10)
    exec(line, {}, vars(mended))  # as it stands
    result = evaluate_split(split, mended, k=3)
    assert sorted(map(str, mended.seen)) == ["(4, 4)", "(4, 4)", "None", "None"]
    assert result.images["found"] == 2
    assert result.retriever["modalities"] == {"query": ["image", "text"], "passage": ["text"]}


@pytest.mark.parametrize("side", ["query", "document"])
@pytest.mark.parametrize("how", ["batch", "records", "search"])
def test_no_way_leads_to_undeclared_images(side: str, how: str, tmp_path: Path) -> None:
    class Other(Dense):
        def encode_stream(self, records, at, report):
            if how == "records" and at == side:
                records.image(records[0] | {"img_path": "a.png"})
            yield from super().encode_stream(records, at, report)

        def encode_query(self, batch):
            if how == "batch" and side == "query":
                len(batch.images)
            return super().encode_query(batch)

        def encode_document(self, batch):
            if how == "batch" and side == "document":
                len(batch.images)
            return super().encode_document(batch)

        def index(self, passages, *, workdir):
            if how == "search" and side == "document":
                passages.images.open("a.png")
            super().index(passages, workdir=workdir)

        def search(self, queries, k):
            if how == "search" and side == "query":
                queries.image(queries[0] | {"img_path": "a.png"})
            return super().search(queries, k)

    images = ImageStore(image_folder(tmp_path, "a.png", "b.png"))
    for store in (images, None):
        split = toy_split(store)
        with pytest.raises(InputError, match=r"reads images of \w+, but doesn't say so"):
            evaluate_split(split, Other(), k=3)
    other = Other()
    other.reads_images = True
    evaluate_split(toy_split(images), other, k=3)


FORMS = {
    "dict": ({"query": ["text", "image"], "passage": ["text"]}, "it"),
    "one side": ({"query": ("image", "text")}, "it"),
    "a word": ({"query": "image", "passage": "text"}, "i"),
    "a set": ({"query": {"image"}, "passage": frozenset()}, "i"),
    "Modalities": (m2kr.Modalities(query={"text", "image"}), "it"),
    "neither": ({"query": [], "passage": []}, ""),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_modalities_in_each_form(form: str) -> None:
    given, query = FORMS[form]
    dense = Dense()
    dense.modalities = given
    assert {word[0] for word in modalities_of(dense).query} == set(query)
    assert isinstance(modalities_of(dense), m2kr.Modalities)


@pytest.mark.parametrize(
    ("given", "reads_images", "message"),
    [
        ({"query": ["text", "images"]}, None, "the query side can't read images"),
        ({"query": ["text"], "document": ["text"]}, None, "it has the key 'document'"),
        ({"query": 3}, None, "the query side can't read 3"),
        ({"query": [["image"]]}, None, "the query side can't read"),
        (["text", "image"], None, "doesn't say which side"),
        ("image", None, "doesn't say which side"),
        (None, None, "it is None"),
        (True, None, "it is True"),
        ({}, "yes", "reads_images is 'yes'"),
        ({"query": ["image"]}, False, "and reads_images is False"),
        ({"query": [], "passage": []}, True, "and reads_images is True"),
    ],
)
def test_a_wrong_form_is_named_with_the_right_one(given, reads_images, message) -> None:
    dense = Dense()
    dense.modalities, dense.reads_images = given, reads_images
    with pytest.raises(InputError, match=message) as caught:
        evaluate_split(toy_split(), dense, k=3)
    assert "expected" in str(caught.value)
    assert dense.batches == []


def test_reads_images_alone_is_enough_for_any_retriever(tmp_path: Path) -> None:
    class Bare:
        name, settings, reads_images = "bare", {}, True

        def index(self, passages, *, workdir):
            self.image = passages.image(passages[0] | {"img_path": "a.png"})

        def search(self, queries, k):
            return m2kr.Run.from_dict({q: {} for q in queries.ids.to_pylist()})

    split = toy_split(ImageStore(image_folder(tmp_path, "a.png", "b.png")))
    result = evaluate_split(split, Bare(), k=3)
    assert result.retriever["modalities"]["query"] == ["image", "text"]
    assert result.images["total"] == 2


def test_what_is_no_retriever_is_said_before_anything_is_done() -> None:
    class Nameless(Dense):
        name = None

    class Half(Dense):
        name = "half \udcff"

    for wrong, message in (
        (Half(), r"Half.name: its name is 'half \\udcff'"),
        (Dense, r"Dense is a class.*\n.*Dense\(\)"),
        (object(), "object is not a retriever: it has no name, settings"),
        (Nameless(), "its name is None"),
        (3, "int is not a retriever"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_split(toy_split(), wrong)


SEARCHED = {
    "None": (None, "returned None"),
    "a dict": ({"q1": {"p/dog": 1.0}}, r"returned dict\n.*Run.from_dict"),
    "a list": ([["p/dog"]] * 4, "returned list"),
    "an array": (np.zeros((4, 3)), "returned ndarray"),
}


RUNS = {
    "not finite": ("{q: {'p/dog': float('nan')} for q in ids}", "scores nan"),
    "unlike lengths": ("[(q, ['p/dog'], [1, 2]) for q in ids]", "differ in number"),
    "another pool": ("{q: {'p/cat': 1.0} for q in ids}", "p/cat"),
    "a query less": ("{q: {'p/dog': 1.0} for q in ids[1:]}", "run 'mine'.*lacks 1 quer"),
}


@pytest.mark.parametrize("what", sorted(RUNS))
def test_a_run_that_cannot_be_is_named_with_the_line_that_made_it(
    what: str, tmp_path: Path
) -> None:
    ranking, message = RUNS[what]
    made = "m2kr.Run.from_dict(r)" if ranking[0] == "{" else "m2kr.Run.from_lists(*zip(*r))"
    body = f"import m2kr; ids = queries.ids.to_pylist(); r = {ranking}; return {made}"
    path = written(tmp_path, search=body)
    with pytest.raises(m2kr.M2KRError, match=message) as caught:
        evaluate_split(toy_split(), create(f"{path}:Mine"), k=3)
    if what in ("not finite", "unlike lengths"):
        assert str(caught.value).startswith(f"{path}:")


def test_attributes_of_ones_own_do_not_stand_in_for_ours() -> None:
    class Other:
        name, settings, modalities = "other", {}, {}
        depth, seconds, search_cost, members = 12, 5.0, None, ("x", "y")
        searched, reused, index_bytes = {"a": 1}, 3, b"12"

        def index(self, passages, *, workdir):
            """Nothing."""

        def search(self, queries, k):
            return m2kr.Run.from_dict({q: {"p/dog": 1.0} for q in queries.ids.to_pylist()})

    result = evaluate_split(toy_split(), Other(), k=3)
    assert result.value("hit_rate@1") is not None


@pytest.mark.parametrize("part", ["settings", "cache_key"])
def test_half_a_surrogate_pair_is_refused_where_it_stands(part: str, tmp_path: Path) -> None:
    class Half(Dense):
        @property
        def settings(self):
            return {"prompt": "\udcff" if part == "settings" else ""}

        def cache_key(self, side):
            return {"prompt": "\udcff"}

    with pytest.raises(InputError, match=part):
        evaluate_split(toy_split(), Half(), cache=tmp_path)


def test_attributes_that_are_computed_may_fail_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "class Mine:\n    name, settings, modalities = 'mine', {}, {}\n"
        "    def index(self, passages, *, workdir): ...\n"
        "    def search(self, queries, k): ...\n"
        "    def __getattr__(self, name):\n        raise RuntimeError(name)\n"
    )
    with pytest.raises(RetrieverError, match=r"raise RuntimeError\(name\)"):
        evaluate_split(toy_split(), create(f"{path}:Mine"), k=3)


@pytest.mark.parametrize("what", sorted(SEARCHED))
def test_what_search_returns_is_looked_at(what: str) -> None:
    class Searching(Dense):
        def search(self, queries, k):
            return SEARCHED[what][0]

    with pytest.raises(InputError, match=SEARCHED[what][1]) as caught:
        evaluate_split(toy_split(), Searching(), k=3)
    assert "Searching.search" in str(caught.value)


def test_batch_size_and_similarity_are_set_on_any_encoder(tmp_path: Path) -> None:
    path = written(tmp_path)
    mine = create(f"{path}:Mine", {"batch_size": "3", "similarity": "cosine"})
    assert (mine.batch_size, mine.similarity) == (3, "cosine")
    letters_file(tmp_path, "value = lambda: 1", "other.py")
    other = create(f"{tmp_path / 'other.py'}:Mine", {"similarity": "cosine"})
    assert evaluate_split(toy_split(), other, k=3).retriever["settings"] == {"similarity": "cosine"}
    for key, value, said in (
        ("batch_size", "many", "a whole number"),
        ("similarity", "euclid", "one of dot, cosine"),
        ("batchsize", "3", "did you mean 'batch_size'"),
    ):
        with pytest.raises(UsageError, match=said):
            create(f"{path}:Mine", {key: value})
    assert len(PASSAGES) == 4
