"""Finding retrievers by name, module or file, and setting them from strings."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from m2kr.errors import InputError, MissingError, UsageError
from m2kr.retrievers import create, names
from m2kr.retrievers._settings import split_off

OWN = """
from m2kr.retrieval.protocol import Modalities
from m2kr.retrieval.run import Run

class Mine:
    name = "mine"
    modalities = Modalities()
    def __init__(self, *, depth: int = 3) -> None:
        self.settings = {"depth": depth}
    def index(self, passages, *, workdir):
        pass
    def search(self, queries, k):
        return Run.from_lists(queries.ids.to_pylist(), [[]] * len(queries), [[]] * len(queries))

class Half:
    name = "half"
"""


def test_the_shipped_ones_are_found_without_being_imported() -> None:
    code = (
        "import sys, m2kr.retrievers as r; print(*r.names());"
        "print(*{'torch','bm25s','transformers','datasets','numpy','pyarrow'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, imported = out.stdout.split("\n")[:2]
    assert {"bm25", "dense_text", "fusion", "image_concepts", "oracle", "random"} <= set(
        found.split()
    )
    assert imported == ""


def test_a_name_forgives_case_and_hyphens() -> None:
    assert create("BM25").name == "bm25"
    assert create(" Random ").name == "random"


def test_a_wrong_name_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(UsageError) as caught:
        create("bm52")
    assert "did you mean 'bm25'" in str(caught.value)
    assert all(name in str(caught.value) for name in names())


def test_helpers_are_no_retrievers() -> None:
    assert not any(name.startswith("_") for name in names())
    with pytest.raises(UsageError):
        create("_memo")


def test_a_file_of_the_users_is_run(tmp_path: Path) -> None:
    path = tmp_path / "my own.py"
    path.write_text(OWN)
    mine = create(f"{path}:Mine", {"depth": "7"})
    assert (mine.name, mine.settings) == ("mine", {"depth": 7})


def test_a_module_on_the_path_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somewhere_else.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert create("somewhere_else:Mine").name == "mine"


def test_an_entry_point_of_another_package_is_found(tmp_path: Path) -> None:
    (tmp_path / "their_module.py").write_text(OWN)
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[m2kr.retrievers]\ntheirs = their_module:Mine\nbm25 = their_module:Mine\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import m2kr.retrievers as r\n"
        "print('theirs' in r.names(), r.create('theirs').name, r.create('bm25').name)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["True", "mine", "bm25"]


@pytest.mark.parametrize(
    ("text", "spec", "error", "says"),
    [
        (OWN, "own.py:Half", InputError, "settings, modalities, index, search"),
        (OWN, "own.py:Nine", InputError, "one of Mine, Half"),
        ("import not_there_at_all", "own.py:Mine", InputError, "ModuleNotFoundError"),
        ("def broken(:", "own.py:Mine", InputError, "SyntaxError"),
        (OWN, "other.py:Mine", MissingError, "other.py"),
        (OWN, "no_such_module_here:Mine", MissingError, "no_such_module_here"),
    ],
)
def test_what_is_wrong_with_the_users_code_is_said(
    text: str, spec: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(text)
    where = f"{tmp_path}/{spec}" if ".py:" in spec else spec
    with pytest.raises(error, match=says):
        create(where)


def takes(
    *,
    k1: float = 1.0,
    n: int = 1,
    flag: bool = False,
    where: Path | None = None,
    kind: Literal["a", "b"] = "a",
    parts: tuple[str, ...] = (),
    weights: tuple[float, ...] = (),
    limit: int | None = None,
    text: str = "",
) -> None:
    """A signature with every type that is converted."""


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("k1", "0.9", 0.9),
        ("n", "-3", -3),
        ("flag", "Yes", True),
        ("flag", "off", False),
        ("where", "a/b", Path("a/b")),
        ("where", "none", None),
        ("kind", "b", "b"),
        ("parts", "bm25, dense_text", ("bm25", "dense_text")),
        ("weights", "1,0.5", (1.0, 0.5)),
        ("limit", "None", None),
        ("limit", "12", 12),
        ("text", "none", "none"),
        ("text", "a=b", "a=b"),
        ("n", 5, 5),
    ],
)
def test_strings_become_what_is_asked_for(key: str, value: object, expected: object) -> None:
    assert split_off(takes, {key: value}, "here")[0] == {key: expected}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("k1", "much", "a number"),
        ("k1", "nan", "a number"),
        ("k1", "inf", "a number"),
        ("n", "1.5", "a whole number"),
        ("flag", "2", "true or false"),
        ("kind", "c", "one of a, b"),
        ("weights", "1,x", "a number, or several separated by commas"),
        ("limit", "few", "a whole number or none"),
    ],
)
def test_a_wrong_value_names_key_value_and_type(key: str, value: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        split_off(takes, {key: value}, "here")
    assert says in str(caught.value)
    assert f"'{key}' can't be '{value}'" in str(caught.value)


@pytest.mark.parametrize(
    ("prefix", "module", "extra"),
    [("st", "sentence_transformers", "sentence-transformers"), ("mteb", "mteb", "mteb")],
)
def test_models_of_other_libraries_are_named_by_prefix(
    prefix: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=f"expected: {prefix}:NAME"):
        create(f"{prefix}:")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=rf"'{module}'.*\n.*pip install 'm2kr\[{extra}\]'"):
        create(f"{prefix}:some/model")


def test_a_wrong_key_names_those_that_exist() -> None:
    with pytest.raises(UsageError) as caught:
        create("bm25", {"stopword": "en"})
    assert "k1, b, method, stopwords, stemmer" in str(caught.value)
    assert "did you mean 'stopwords'" in str(caught.value)
    with pytest.raises(UsageError, match="no settings at all"):
        create("oracle", {"k": "1"})


def test_a_setting_without_default_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("class Mine:\n    def __init__(self, checkpoint: str): ...\n")
    with pytest.raises(UsageError, match="--set checkpoint=VALUE"):
        create(f"{path}:Mine")
