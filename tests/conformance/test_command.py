"""``m2kr check-retriever``: a table, JSON, and the exit code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from m2kr.conformance import CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "your-own-retriever.md"

HALF = '''
import m2kr

class Half:
    """Cuts ids."""

    name = "half"
    settings = {}
    modalities = {"query": ["text"]}

    def __init__(self, letters: int = 4):
        self.letters = letters

    def index(self, passages, *, workdir):
        self.ids = passages.ids.to_pylist()

    def search(self, queries, k):
        ranked = {name[:self.letters]: 1.0 / (1 + len(name)) for name in sorted(self.ids)[:k]}
        return m2kr.Run.from_dict({query: ranked for query in queries.ids.to_pylist()})
'''


def test_the_command_says_what_is_wrong_and_what_to_do(cli, tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(HALF, encoding="utf-8")
    shown = cli("check-retriever", "half.py:Half", code=1, cwd=tmp_path).stdout
    assert "half: not right" in shown
    assert "to do: keep ids as they are" in shown
    told = json.loads(cli("check-retriever", "half.py:Half", "--json", code=1, cwd=tmp_path).stdout)
    assert told["retriever"] == "half"
    assert told["ok"] is False
    failed = {check["check"] for check in told["checks"] if check["outcome"] == "failed"}
    assert "ids" in failed
    assert "repeats itself" not in failed


def test_a_right_retriever_exits_with_0(cli) -> None:
    told = json.loads(cli("check-retriever", "bm25", "--set", "k1=0.9", "--json").stdout)
    assert told["ok"] is True
    cli("check-retriever", "nonsense", code=2)


LACKS = """
import logging
import m2kr

log = logging.getLogger("some_library")
log.addHandler(logging.StreamHandler())
logging.getLogger("m2kr_like").warning("and this")

class Lacks:
    name, settings, modalities = "lacks", {}, {"query": ["text"]}

    def __init__(self):
        log.warning("it is made")

    def index(self, passages, *, workdir):
        raise m2kr.errors.MissingError("no weights", where="weights.bin")

    def search(self, queries, k):
        pass
"""


def test_one_that_can_not_be_loaded_is_one_error_and_nothing_is_said_twice(
    cli, tmp_path: Path
) -> None:
    (tmp_path / "lacks.py").write_text(LACKS, encoding="utf-8")
    done = cli("check-retriever", "lacks.py:Lacks", code=3, cwd=tmp_path)
    assert done.stdout == ""
    assert done.stderr.count("no weights") == done.stderr.count("error:") == 1
    assert done.stderr.count("it is made") == done.stderr.count("warning: and this") == 1


def test_the_page_names_every_check() -> None:
    page = PAGE.read_text(encoding="utf-8").partition("## Is it right?")[2]
    table = page.partition("Scores count as the same")[0]
    assert set(re.findall("`([a-z ]+)`", table)) >= set(CHECKS)
    assert f"Each of {len(CHECKS)} checks" in page


@pytest.mark.slow
def test_the_pages_test_runs(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8").partition("## Is it right?")[2]
    snippet = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)[0]
    (tmp_path / "test_my_retriever.py").write_text(snippet, encoding="utf-8")
    (tmp_path / "my_retriever.py").write_text(
        "from m2kr.retrievers.random_ import Random as MyRetriever\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_retriever.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{len(CHECKS)} passed" in done.stdout, done.stdout + done.stderr
