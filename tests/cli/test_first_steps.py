"""What a newcomer's slips are answered with: the commands and words that help are tried here."""

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import Cli
from PIL import Image

import m2kr
from m2kr.building.userdata.importer import import_files
from m2kr.errors import InputError, M2KRError, UsageError
from m2kr.retrievers import create

ENCODERS = """
import numpy as np
from m2kr import EncoderRetriever

class Plain(EncoderRetriever):
    def encode_document(self, batch):
        return np.ones((len(batch), 2))
    encode_query = encode_document

class Other(Plain):
    pass

class OneSided(EncoderRetriever):
    def encode_document(self, batch):
        raise SystemExit("it was encoded")
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with an imported source 'tiles' of three passages and two queries, with photos."""
    passages = [{"id": f"p{i}", "text": f"tile {i}", "image": f"p{i}.png"} for i in range(3)]
    queries = [{"id": f"q{i}", "question": f"tile {i}", "positives": [f"p{i}"]} for i in range(2)]
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "photos" / f"p{i}.png")
    for name, rows in (("passages", passages), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "mine.py").write_text(ENCODERS)
    m2kr.from_records(passages, queries, name="tiles", data=tmp_path / "data")
    return tmp_path


RANKING = {"q0": {"p0": 2.0, "p1": 1.0}, "q1": {"p2": 2.0, "p1": 1.0}}


def test_what_is_no_run_of_ranx_is_told_so() -> None:
    with pytest.raises(InputError, match=r"Run\.from_dict"):
        m2kr.Run.from_ranx(RANKING)


def test_a_run_file_without_its_prefix_is_recognised(own: Path, cli: Cli) -> None:
    (own / "a b.json").write_text(json.dumps(RANKING))
    for name in ("a b.json", "not/there.trec", "x.tsv.gz"):
        with pytest.raises(UsageError, match=re.escape(f"run:{name}")):
            create(name)
    refused = cli("eval", "tiles", "-r", "a b.json", "--data", "data", cwd=own, code=2)
    hint = shlex.split(refused.stderr.partition("try: ")[2])
    assert "tiles/test" in cli("eval", "tiles", *hint, "--data", "data", cwd=own).stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q0 Q0 p0 1 high her\n", "'high' is no number"),
        ("q0 Q0 p0 1 nan her\n", "not finite"),
    ],
)
def test_lines_of_no_run_are_told_in_words(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "run.txt").write_text(text)
    with pytest.raises(InputError) as caught:
        m2kr.Run.load(tmp_path / "run.txt")
    assert words in str(caught.value)
    assert "b'" not in str(caught.value)


def test_encoders_bear_the_name_of_their_class(own: Path) -> None:
    both = [f"{own / 'mine.py'}:{name}" for name in ("Plain", "Other")]
    results = m2kr.evaluate("tiles", both, data=own / "data")
    assert [result.retriever["name"] for result in results] == ["Plain", "Other"]


def test_an_encoder_of_one_side_is_refused_before_it_encodes(own: Path) -> None:
    with pytest.raises(InputError) as caught:
        m2kr.evaluate("tiles", ["oracle", f"{own / 'mine.py'}:OneSided"], data=own / "data")
    assert "OneSided has no encode_query(batch)" in str(caught.value)
    assert "encode_query = encode_document" in str(caught.value)


@pytest.mark.slow
def test_images_of_an_imported_sources_passages_count(own: Path, cli: Cli) -> None:
    shown = cli("images", "tiles", "--data", "data", cwd=own).stdout
    assert "m2kr images tiles --images PATH" in shown
    (own / "photos" / "p1.png").unlink()
    here = ("images", "tiles", "--images", "photos", "--data", "data", "--json")
    counted = json.loads(cli(*here, cwd=own).stdout)["splits"]["test"]
    assert (counted["needed"], counted["ok"]) == (3, 2)


def test_an_import_without_right_passages_says_so(own: Path, cli: Cli) -> None:
    rows = [json.loads(line) for line in (own / "queries.jsonl").open()]
    for row in rows:
        row["positive"] = row.pop("positives")
    (own / "typo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = ("--passages", "passages.jsonl", "--queries", "typo.jsonl", "--data", "data")
    done = cli("import", "typo", *files, cwd=own)
    assert "warning: typo.jsonl: fields not used: 'positive' (for 'positives'?)" in done.stderr
    assert "no right passage is given for the queries of test" in done.stdout
    with pytest.raises(M2KRError, match="--qrels"):
        m2kr.evaluate("typo", "bm25", data=own / "data")


def test_misspelt_fields_of_records_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queries = [{"id": "q", "question": "tile", "positive": ["p"], "anwers": ["a"], 7: 1}]
    m2kr.from_records([{"id": "p", "text": "tile", "titel": "x"}], queries, data=tmp_path)
    assert "passages: fields not used: 'titel' (for 'title'?)" in caplog.text
    assert "queries: fields not used: 'anwers'" in caplog.text
    assert "'positive' (for 'positives'?)" in caplog.text


def test_a_folder_of_beir_is_told_how_it_is_imported(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "corpus.jsonl").touch()
    refused = cli("import", "x", "set", "--data", "data", cwd=tmp_path, code=2)
    assert "--from beir\n" in refused.stderr
    with pytest.raises(InputError, match="it is a folder"):
        import_files("x", tmp_path / "set", tmp_path / "set", data=tmp_path / "data")


def test_verify_shows_a_line_a_source_and_each_fault(own: Path, cli: Cli) -> None:
    sound = cli("verify", "--data", "data", cwd=own).stdout
    assert len([line for line in sound.splitlines() if "TILES" in line]) == 1
    (path,) = (own / "data" / "tiles").glob("*_data/test/*.arrow")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    damaged = cli("verify", "--data", "data", cwd=own, code=1).stdout
    assert "tiles/TILES_data/test" in damaged


@pytest.mark.slow
def test_the_merge_that_a_shard_names_works_when_pasted(tmp_path: Path, cli: Cli) -> None:
    root = tmp_path / "a root"
    told = cli("build", "mini", "--limit", "5", "--shard", "1/1", "--data", root).stdout
    command = shlex.split(told.partition("are: ")[2].splitlines()[0])
    assert command[:3] == ["m2kr", "merge", "mini"]
    assert str(root) in cli(*command[1:]).stdout
