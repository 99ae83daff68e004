"""Files of another format than a source's."""

from dataclasses import replace
from pathlib import Path

import pytest
from servers.faulty_server import FaultyServer
from support import upstream_fixture
from support.golden_tables import make
from support.upstream_fixture import gzipped, served_files, tarred, text, zipped

from m2kr.building.content import check_content
from m2kr.errors import CheckError, M2KRError
from m2kr_builders import okvqa

HTML = b"<!doctype html><html><body>Sign in to go on.</body></html>\n"
WRONG = {
    # file: (what comes instead, what the message must hold)
    "msmarco/collectionandqueries.tar.gz": (HTML, "collectionandqueries.tar.gz"),
    "okvqa/OpenEnded_mscoco_train2014_questions.json.zip": (HTML, "questions.json.zip"),
    "okvqa/mscoco_val2014_annotations.json.zip": (
        zipped("other.json", b'{"questions": []}'),
        "annotations",
    ),
    "wikipedia/psgs_w100.tsv.gz": (gzipped(b"title\tid\tbody\nA\t1\tb\n"), "'text'"),
    "infoseek/infoseek_train.jsonl": (HTML, "infoseek_train.jsonl"),
    "infoseek/infoseek_val.jsonl": (text("infoseek/infoseek_val_withkb.jsonl"), "image_id"),
    "evqa/train.csv": (b"question,answer,image\nq,a,1\n", "dataset_image_ids"),
    "evqa/val.csv": (HTML, "val.csv"),
    "evqa/encyclopedic_kb_wiki.zip": (zipped("encyclopedic_kb_wiki.json", b"[1, 2]"), "kb_wiki"),
    "oven/oven_entity_train.jsonl": (text("infoseek/infoseek_val.jsonl"), "entity_id"),
    "oven/oven_entity_val.jsonl": (HTML, "oven_entity_val.jsonl"),
    "oven/Wiki6M_ver_1_0.jsonl.gz": (gzipped(b'{"wikidata_id": "Q1"}\n'), "wikipedia_summary"),
    "llava/conversation_58k.json": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "no JSON object or list",
    ),
    "llava/detail_23k.json": (text("cc3m/chat.json"), '"conversations"'),
    "llava/complex_reasoning_77k.json": (b'[{"id": "1"}]', "not one item"),
    "wit/wit_v1.train.all-00001-of-00010.tsv.gz": (text("wit/val-00000.tsv"), "it begins with"),
    "wit/wit_v1.val.all-00003-of-00005.tsv.gz": (
        gzipped(b"language\timage_url\nen\thttp://x/y.jpg\n"),
        "hierarchical_section_title",
    ),
    "iglue/test_en.jsonl": (text("infoseek/infoseek_val.jsonl"), "page_url"),
    "evqa/inat2021_val.json.tar.gz": (tarred({"val.json": b'{"pictures": []}'}), "images"),
}


@pytest.mark.parametrize("file", WRONG)
def test_a_file_of_another_format_is_refused(tmp_path: Path, file: str) -> None:
    content, word = WRONG[file]
    name = "okvqa" if file.startswith("wikipedia") else file.split("/")[0]
    with (
        FaultyServer(served_files() | {f"/{file}": content}) as server,
        pytest.raises(M2KRError) as caught,
    ):
        make(server, tmp_path, name)
    message = str(caught.value)
    assert Path(file).name in message
    assert word in message
    assert "expected" in message.lower()
    assert not list(tmp_path.glob("*/*_manifest.json"))


@pytest.mark.parametrize(
    ("file", "big"),
    [
        ("evqa/test.csv", "evqa/encyclopedic_kb_wiki.zip"),
        ("infoseek/infoseek_val.jsonl", "wikipedia/psgs_w100.tsv.gz"),
        ("oven/oven_entity_train.jsonl", "oven/Wiki6M_ver_1_0.jsonl.gz"),
    ],
)
def test_a_wrong_small_file_is_found_before_a_big_one_is_fetched(
    tmp_path: Path, file: str, big: str
) -> None:
    name, good = file.split("/")[0], served_files()
    with FaultyServer(good | {f"/{file}": b'{"key": 1}\n{"key": 2}\n'}) as server:
        with pytest.raises(M2KRError, match=Path(file).name):
            make(server, tmp_path, name)
        assert not server.gets(f"/{big}")
    # Nothing of it stays, not even its digest: the right one is taken afterwards.
    with FaultyServer(good) as server:
        make(server, tmp_path, name)


def test_a_zip_whose_content_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    asset = okvqa.BUILDER().assets({"corpus": "google"})[0]
    assert asset.git_blob is None  # upstream's digest is known of the annotations alone
    asset = okvqa.BUILDER().assets({"corpus": "google"})[1]
    path = tmp_path / "a.zip"
    path.write_bytes(zipped("a.json", b'{"annotations": []}\n'))
    with pytest.raises(CheckError, match=f"(?s)holds a.json with .*{asset.git_blob}"):
        check_content(asset, path)
    # `git hash-object` of that content
    blob = "9823842bfdbe1073b9640860ce870915ca06a6ed"
    check_content(replace(asset, git_blob=blob), path)


def test_an_id_used_twice_in_a_file_of_known_digest_is_refused(tmp_path: Path) -> None:
    """Upstream's md5 says that these files have no such row: another file must not pass for them."""
    members = {n: text(f"msmarco/{n}") for n in upstream_fixture.MSMARCO_MEMBERS}
    members["collection.tsv"] += b"0\tA second text for number zero.\n"
    files = {"/msmarco/collectionandqueries.tar.gz": tarred(members)}
    with (
        FaultyServer(served_files() | files) as server,
        pytest.raises(CheckError, match=r"passage_id '0' is used twice"),
    ):
        make(server, tmp_path, "msmarco")
