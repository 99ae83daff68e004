"""Manifest and tables are read as one, also beside whoever replaces them."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny import CONFIG, tiny

import m2kr
from m2kr.building.publish import remove
from m2kr.errors import CheckError, M2KRError
from m2kr.retrieval.protocol import Modalities
from m2kr.retrieval.run import Run


def test_a_split_whose_source_was_made_anew_is_refused(root: Path) -> None:
    old = m2kr.load("tiny", edition="tiny", data=root)
    first = old.queries[0]
    tiny(root, "new text", "tiny")
    assert old.queries[0] == first  # open before: the old table, under the old fingerprint
    with pytest.raises(CheckError, match="built anew"):
        _ = old.passages
    with pytest.raises(CheckError, match="built anew"):
        old.passage("p1")
    new = m2kr.load("tiny", edition="tiny", data=root)
    assert new.passages[0]["passage_content"].startswith("new text")
    assert new.fingerprints["pool"] != old.fingerprints["pool"]


class Replacing:
    """A retriever that finds nothing, and has another source made anew while it indexes."""

    name = "replacing"
    modalities = Modalities()

    def __init__(self, act: Callable[[], object]) -> None:
        self.act, self.settings = act, dict[str, Any]()
        self.seen: list[str] = []

    def index(self, passages: Any, *, workdir: Path) -> None:
        self.seen.append(passages[0]["passage_content"])
        self.act()

    def search(self, queries: Any, k: int) -> Run:
        return Run.from_dict({query: {} for query in queries.ids.to_pylist()})


def test_sources_of_one_evaluation_are_loaded_at_their_turn(tmp_path: Path) -> None:
    query = [{"id": "q", "question": "?", "positives": ["p"]}]
    for name in ("a", "b"):
        m2kr.from_records({"p": "old"}, query, name=name, data=tmp_path)

    def again() -> None:
        if m2kr.load("b", data=tmp_path).passages[0]["passage_content"] == "old":
            remove("b", tmp_path)
            m2kr.from_records({"p": "new"}, query, name="b", data=tmp_path)

    one = Replacing(again)
    _, result = m2kr.evaluate(["a", "b"], one, data=tmp_path, k=1)
    assert one.seen == ["old", "new"]
    assert result.fingerprints["pool"] == m2kr.load("b", data=tmp_path).fingerprints["pool"]


WRITER = """
import sys
from pathlib import Path
from m2kr.building.publish import remove
import m2kr
root = Path({root!r})
for turn in range(10**6):
    if (root / "tiny" / "TINY_manifest.json").exists():
        remove("tiny", root)
    texts = {{f"p{{i}}": f"turn {{turn}} number {{i}}" for i in range(20)}}
    query = {{"question": f"turn {{turn}}", "positives": [f"p{{turn % 20}}"]}}
    asked = [query | {{"id": f"q{{i}}"}} for i in range(3)]
    m2kr.from_records(texts, asked, name="tiny", data=root)
    print(turn, flush=True)
"""


@pytest.mark.slow
def test_readers_beside_a_writer_never_get_a_mixture(tmp_path: Path) -> None:
    script = WRITER.format(root=str(tmp_path))
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    right = refused = 0
    until = time.monotonic() + 20
    try:
        while time.monotonic() < until:
            try:
                split = m2kr.load("tiny", data=tmp_path)
                texts = {row["passage_content"].split(" number")[0] for row in split.passages}
                questions = {row["question"] for row in split.queries}
                judged = {row["passage_id"] for row in split.qrels}
                row = split.passage("p7")["passage_content"]
            except M2KRError as error:
                assert any(w in str(error) for w in ("built", "no source", "not here")), error
                refused += 1
                continue
            assert texts == questions == {row.split(" number")[0]}
            assert judged == {f"p{int(min(texts).split()[1]) % 20}"}
            right += 1
    finally:
        writer.kill()
        writer.communicate()
    print(f"{right} right, {refused} refused")
    assert right > 5


def test_a_file_that_is_written_to_while_it_is_scored_ends_the_evaluation(root: Path) -> None:
    path = root / "tiny" / f"{CONFIG}_data/test/data-00000.arrow"

    def act() -> None:
        with path.open("r+b") as file:
            file.seek(path.read_bytes().index(b"text 3"))
            file.write(b"text 4")

    with pytest.raises(CheckError, match="while it was in use"):
        m2kr.evaluate("tiny", Replacing(act), edition="tiny", data=root, k=1)
