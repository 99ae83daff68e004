"""The README's three retrievers: how short they are, and what is said where they are broken."""

import re
from pathlib import Path

import pytest
from conftest import Cli
from PIL import Image
from support.toys import toy_split

import m2kr
from m2kr.data.images.store import ImageStore
from m2kr.errors import M2KRError
from m2kr.evaluation.harness import evaluate_split
from m2kr.retrievers import create

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# (my_\w+\.py)\n(.*?)^```", README, flags=re.M | re.S))
TEXT, IMAGE, LATE = "my_retriever.py", "my_colours.py", "my_words.py"
CLASSES = {TEXT: "Letters", IMAGE: "Colours", LATE: "Words"}
MOST_LINES = {IMAGE: 10, TEXT: 12, LATE: 15}


@pytest.mark.parametrize("file", sorted(MOST_LINES))
def test_they_are_short_and_evaluate_as_they_stand(file: str, tmp_path: Path) -> None:
    lines = [f"# {file}", *FILES[file].splitlines()]
    assert sum(bool(line.strip()) for line in lines) <= MOST_LINES[file]
    result = evaluated(tmp_path, file, FILES[file])
    assert result.value("hit_rate@1") >= (0 if file == IMAGE else 0.5)


def evaluated(folder: Path, file: str, source: str, spec: str = "") -> m2kr.Result:
    (folder / file).write_text(source, encoding="utf-8")
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (4, 4), colour).save(folder / name)
    retriever = f"{folder / file}:{spec or CLASSES[file]}"
    return evaluate_split(toy_split(ImageStore(folder)), create(retriever), k=3)  # type: ignore[arg-type]


VECTORS = "np.array([[text.lower().count(c) for c in letters] for text in batch.texts])"
ROWS = '[np.stack([self.vector(w) for w in t.lower().split() or [""]]) for t in batch.texts]'
SHOWN = "np.array([i.resize((1, 1)).getpixel((0, 0)) if i else 3 * [0] for i in batch.images])"
NAMED = 'np.array([[t.count(c) for c in ("red", "green", "blue")] for t in batch.texts])'
CLASS = "class Letters(EncoderRetriever):"
# file, text that is replaced, by what, exit code, what the message has
BREAKS = {
    "one axis": (TEXT, VECTORS, VECTORS + "[0]", 1, r"shape \(26,\).*expected: a 2-D array"),
    "four axes": (TEXT, VECTORS, VECTORS + "[:, None, None]", 1, r"shape \(4, 1, 1, 26\)"),
    "one row for all": (TEXT, VECTORS, VECTORS + ".sum(0)[None]", 1, "1 rows for a batch of 4"),
    "a row too many": (LATE, ROWS, ROWS + " * 2", 1, "8 rows for a batch of 4"),
    "NaN": (TEXT, VECTORS, VECTORS + " / np.float64('nan')", 1, "NaN or infinity for 'p/"),
    "strings": (TEXT, VECTORS, "batch.texts", 1, "a list of strs"),
    "texts in an array": (TEXT, VECTORS, "np.array(batch.texts)", 1, "array of type <U"),
    "lists": (TEXT, VECTORS, VECTORS + ".tolist()", 1, r"without \.tolist\(\)"),
    "nothing": (TEXT, VECTORS, "None", 1, "returned None"),
    "no return": (TEXT, "return np", "vectors = np", 1, "returned None.*expected: a 2-D array"),
    "objects": (TEXT, VECTORS, VECTORS + ".astype(object)", 1, "array of type object"),
    "complex": (TEXT, VECTORS, VECTORS + " * 1j", 1, "array of type complex128"),
    "masked": (TEXT, VECTORS, f"np.ma.masked_equal({VECTORS}, 0)", 1, r"array\.filled\(0\)"),
    "no dimension": (TEXT, VECTORS, VECTORS + "[:, :0]", 1, "unlike dimensions"),
    "ragged": (TEXT, VECTORS, f"[v[:i + 1] for i, v in enumerate({VECTORS})]", 1, "unlike dim"),
    "a list of vectors, late": (LATE, ROWS, f"[m[0] for m in {ROWS}][:1]", 1, "1 rows for a batch"),
    "a matrix for some": (LATE, ROWS, f"[m if i else m[0] for i, m in enumerate({ROWS})]", 1, "shapes"),
    "an empty list": (LATE, ROWS, "[]", 1, "0 rows for a batch of 4"),
    "a generator": (LATE, ROWS, f"(m for m in {ROWS})", 1, "an object of generator"),
    "a dict": (TEXT, VECTORS, f"{{'dense_vecs': {VECTORS}}}", 1, "keys 'dense_vecs'"),
    "other dimensions": (IMAGE, NAMED, NAMED + "[:, :2]", 1, r"shape \(3,\), and before.*\(2,\)"),
    "late on one side": (
        LATE, "encode_query = encode_document",
        "def encode_query(self, batch): return np.ones((len(batch), 16))", 1,
        "returned one vector a row.*and before, a matrix a row",
    ),
    "images undeclared": (IMAGE, '{"query": ["image"], "passage": ["text"]}', "{}", 1, "this line"),
    "a side that is none": (IMAGE, '"passage": [', '"document": [', 1, "key 'document'"),
    "a misspelt modality": (IMAGE, '"query": ["image"]', '"query": ["images"]', 1, "can't read im"),
    "a misspelt method": (IMAGE, "def encode_query", "def encode_queries", 1, "no encode_query"),
    "no method": (TEXT, "    encode_query = encode_document", "", 1, "no encode_query"),
    "a misspelt similarity": (IMAGE, '"cosine"', '"cosinus"', 2, "dot or cosine"),
    "cosine of tokens": (LATE, "    def vector", "    similarity = 'cosine'\n\n    def vector", 2, "dot"),
    "a name that is none": (TEXT, "    similarity", "    name = None\n    similarity", 1, "name is None"),
    "settings no JSON can hold": (
        TEXT, "    similarity", "    settings = {'net': np.ones(2)}\n    similarity", 1, "JSON",
    ),
    "settings with NaN": (
        TEXT, "    similarity", "    settings = {'a': float('nan')}\n    similarity", 1, "JSON",
    ),
    "an exception": (TEXT, "return np", "1 / 0\n        return np", 1, "ZeroDivisionError"),
    "a lost variable": (TEXT, "letters =", "letter =", 1, "NameError"),
    "a wrong signature": (TEXT, "(self, batch)", "(self)", 1, "TypeError"),
    "an argument without value": (
        TEXT, "    similarity", "    def __init__(self, path): ...\n    similarity", 2, "--set path=",
    ),
    "search gives no run": (
        TEXT, "    similarity", "    def search(self, queries, k): return {}\n    similarity", 1,
        "returned dict.*m2kr.Run.from_dict",
    ),
    "no encoder": (TEXT, "(EncoderRetriever):", ":", 1, "subclass m2kr.EncoderRetriever"),
    "an import that is not there": (TEXT, "numpy as np", "nunpy as np", 1, "ModuleNotFound.*nunpy"),
    "a name m2kr hasn't": (TEXT, "import EncoderRetriever", "import Encoder", 1, "ImportError.*Encoder"),
    "a syntax error": (TEXT, "(self, batch):", "(self, batch)", 1, "SyntaxError.*expected ':'"),
    "a wrong indent": (TEXT, "        return np", "       return np", 1, "IndentationError"),
    "exit while loading": (TEXT, CLASS, f"raise SystemExit('no')\n{CLASS}", 1, "SystemExit: no"),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(BREAKS))
def test_each_way_to_break_them_has_one_clear_message(what: str, tmp_path: Path) -> None:
    file, old, new, code, message = BREAKS[what]
    assert FILES[file].count(old) == 1 or old in ("(self, batch)", "(self, batch):")
    with pytest.raises(M2KRError) as caught:
        evaluated(tmp_path, file, FILES[file].replace(old, new, 1))
    told = str(caught.value)
    assert re.search(message, told, flags=re.S), told
    assert caught.value.exit_code == code, told
    # It names the class or the line, and is no traceback.
    assert re.search(CLASSES[file] + r"|my_\w+\.py", told), told
    assert len(told.splitlines()) <= 4, told
    assert "bug in m2kr" not in told


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (":Lettres", r"there is no 'Lettres'.*one of .*Letters"),
        (":np", "no 'np'"),
        ("", r"my_retriever\.py:CLASS"),
        (":letters", "no 'letters'.*one of .*Letters"),
    ],
)
def test_a_class_that_is_not_there(spec: str, message: str, tmp_path: Path) -> None:
    (tmp_path / TEXT).write_text(FILES[TEXT], encoding="utf-8")
    with pytest.raises(M2KRError) as caught:
        create(f"{tmp_path / TEXT}{spec}")
    assert re.search(message, str(caught.value), flags=re.S)


@pytest.mark.parametrize("given", [3, None, object(), {"bm25": 1}, b"x"])
def test_what_is_no_retriever_at_all(given: object) -> None:
    with pytest.raises(M2KRError, match=r"no retriever|not a retriever"):
        evaluate_split(toy_split(), given, k=3)  # type: ignore[arg-type]


def test_negative_strides_and_gradients_are_no_breakage(tmp_path: Path) -> None:
    plain = evaluated(tmp_path, TEXT, FILES[TEXT]).run_sha256
    flipped = FILES[TEXT].replace(VECTORS, VECTORS + "[:, ::-1]")
    assert evaluated(tmp_path, TEXT, flipped).run_sha256 == plain


@pytest.mark.slow
def test_the_command_line_ends_with_the_same_message(
    mini_root: Path, cli: Cli, tmp_path: Path
) -> None:
    for number, (file, old, new, code, message) in enumerate(BREAKS.values()):
        path = tmp_path / f"{number}.py"
        path.write_text(FILES[file].replace(old, new, 1), encoding="utf-8")
        command = ("eval", "mini", "--split", "valid", "--data", mini_root, "--no-cache")
        told = cli(*command, "-r", f"{path}:{CLASSES[file]}", code=code, cwd=tmp_path).stderr
        assert told.startswith("error: ") or "\nerror: " in told
        assert "Traceback" not in told
        assert re.search(re.sub(r"\b\d+\b|'p/", r".*", message), told, flags=re.S), told
