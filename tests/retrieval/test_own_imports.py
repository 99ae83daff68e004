"""What the file of a retriever of one's own may import; a broken one harms nothing else."""

import importlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.own_files import letters_file
from support.toys import toy_split

import m2kr
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.retrieval.search_split import search_split
from m2kr.retrievers import create


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
