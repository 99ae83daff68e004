"""An own encoder is known by its file and by the neighbours that it imports, as they were when loaded."""

import importlib
import sys

import pytest

from m2kr.retrieval.cache import encoder_identity
from m2kr.retrieval.encoder import EncoderRetriever

ENCODER = """
from m2kr.retrieval.encoder import EncoderRetriever
{imports}

class Mine(EncoderRetriever):
    def encode_query(self, batch):
        import lazily, numpy
        return lazily.encode(batch)
"""

MODULES = {"mine", "helper", "deeper", "lazily", "pack", "base"}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads a module of a folder anew; gives the class in it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    before = set(sys.modules)

    def forget():
        for each in {name for name in sys.modules if name.partition(".")[0] in MODULES} - before:
            del sys.modules[each]
        importlib.invalidate_caches()

    def fresh(name="mine"):
        forget()
        return importlib.import_module(name).Mine

    yield fresh
    forget()


def test_its_file_and_every_neighbour_that_it_imports_count(tmp_path, load):
    (tmp_path / "mine.py").write_text(ENCODER.format(imports="import helper, pack.part"))
    for name, text in {
        "helper.py": "from deeper import x",
        "deeper.py": "x = 1",
        "lazily.py": "",
        "pack/__init__.py": "",
        "pack/part.py": "from . import sibling\nfrom .sub.leaf import y",
        "pack/sibling.py": "",
        "pack/sub/leaf.py": "y = 2",
        "unrelated.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    first = load().identity
    assert [name for name, _ in first] == ["Mine"]
    for path in sorted(tmp_path.rglob("*.py")):
        text = path.read_text()
        path.write_text(text + "\n# another thought\n")
        assert (load().identity == first) == (path.name == "unrelated.py"), path
        path.write_text(text)
    assert load().identity == first


def test_what_counts_is_what_was_loaded(tmp_path, load):
    (tmp_path / "mine.py").write_text(ENCODER.format(imports=""))
    loaded = load()
    first = loaded.identity
    (tmp_path / "mine.py").write_text(ENCODER.format(imports="# edited meanwhile"))
    assert loaded.identity == first
    assert load().identity != first


def test_a_package_is_known_by_its_own_modules(tmp_path, load):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").write_text("")
    (tmp_path / "pack/mine.py").write_text(ENCODER.format(imports="from pack import other"))
    (tmp_path / "pack/other.py").write_text("z = 1")
    first = load("pack.mine").identity
    (tmp_path / "pack/other.py").write_text("z = 2")
    assert load("pack.mine").identity != first


def test_bases_count_ours_by_version(tmp_path, load):
    (tmp_path / "base.py").write_text("class Base:\n    pass\n")
    (tmp_path / "mine.py").write_text(
        "from m2kr.retrievers.dense_text import DenseText\nfrom base import Base\n"
        "class Mine(Base, DenseText):\n    pass\n"
    )
    names = dict(load().identity)
    assert names["DenseText"] == 1
    assert set(names) == {"Mine", "Base", "DenseText"}


def test_a_class_without_a_file_is_not_known():
    space = {"__name__": "nowhere", "EncoderRetriever": EncoderRetriever}
    exec("class Typed(EncoderRetriever): pass", space)
    assert space["Typed"].identity is None
    assert encoder_identity(EncoderRetriever) is None
