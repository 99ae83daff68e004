"""Folders of other benchmarks: BEIR, M-BEIR and ReT-M2KR."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.own_data import beir_folder, jsonl, judged, photos, read_back

from m2kr.building.userdata.importer import import_files
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.instructions import TEMPLATES


def test_beir(tmp_path):
    jsonl(
        tmp_path / "b/corpus.jsonl",
        [
            {"_id": "1", "title": "Tower", "text": "It is high.", "metadata": {}},
            {"_id": "2", "title": "", "text": "No title.", "image": "a/2.jpg"},
            {"_id": "3", "title": "", "text": ""},
        ],
    )
    jsonl(tmp_path / "b/queries.jsonl", [{"_id": f"q{i}", "text": f"{i}?"} for i in range(4)])
    for split, lines in (("test", "q0\t1\t1\nq1\t2\t2\n"), ("dev", "q2\t1\t1\n")):
        path = tmp_path / f"b/qrels/{split}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("query-id\tcorpus-id\tscore\n" + lines)
    built = import_files("b", layout="beir", folder=tmp_path / "b", data=tmp_path / "d")
    split = read_back(built)
    assert split.passages["passage_content"][:] == ["Tower It is high.", "No title.", ""]
    assert split.passages["title"][:] == ["Tower", "", ""]
    assert split.passages["img_path"][:] == [None, "a/2.jpg", None]
    assert split.queries["question_id"][:] == ["q0", "q1"]
    assert read_back(built, "dev").queries["question_id"][:] == ["q2"]
    assert built.manifest["source"]["pools"] == {"test": "test_passages", "valid": "test_passages"}

    one = import_files("b", layout="beir", folder=tmp_path / "b", split="dev", data=tmp_path / "e")
    assert list(one.manifest["splits"]) == ["valid"]
    with pytest.raises(MissingError, match="'train'"):
        import_files("b", layout="beir", folder=tmp_path / "b", split="train", data=tmp_path)


def mbeir_folder(at: Path) -> Path:
    pool = [
        {
            "did": "6:1",
            "txt": "A tower.",
            "img_path": None,
            "modality": "text",
            "src_content": None,
        },
        {"did": "6:2", "txt": None, "img_path": "mbeir_images/x/2.jpg", "modality": "image"},
    ]
    query = {
        "qid": "6:10",
        "query_txt": "How high?",
        "query_img_path": "mbeir_images/x/1.jpg",
        "query_modality": "image,text",
        "query_src_content": None,
        "pos_cand_list": ["6:1"],
        "neg_cand_list": [],
        "task_id": 6,
    }
    other = query | {"qid": "6:11", "query_txt": None, "pos_cand_list": [{"did": "6:2"}]}
    other |= {"query_modality": "image"}
    jsonl(at / "cand_pool/local/mbeir_infoseek_task6_cand_pool.jsonl", pool)
    jsonl(at / "query/test/mbeir_infoseek_task6_test.jsonl", [query, other])
    (at / "instructions").mkdir()
    (at / "instructions/query_instructions.tsv").write_text(
        "query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\n"
        "image,text\ttext\tINFOSEEK\t6\tFind a text.\tGet one.\n"
        "image,text\timage,text\tINFOSEEK\t6\tWrong.\t\n"
    )
    photos(at / "mbeir_images", 0)
    (at / "mbeir_images/x").mkdir()
    Image.new("RGB", (5, 5)).save(at / "mbeir_images/x/1.jpg")
    return at


def test_mbeir(tmp_path):
    folder = mbeir_folder(tmp_path / "M-BEIR")
    built = import_files("mb", layout="mbeir", folder=folder, data=tmp_path / "d")
    split = read_back(built)
    first, second = split.queries
    assert first["instruction"] in ("Find a text.", "Get one.")
    assert first["pos_item_contents"] == ["A tower."]
    assert second["pos_item_ids"] == ["6:2"]
    assert second["instruction"] in TEMPLATES["wit"].templates
    assert split.passages[1]["img_path"] == "mbeir_images/x/2.jpg"
    assert split.images.open(first["img_path"]).size == (5, 5)

    qrels = folder / "qrels/test/mbeir_infoseek_task6_test_qrels.txt"
    qrels.parent.mkdir(parents=True)
    qrels.write_text("6:10 0 6:1 1 6\n6:10 0 6:2 1 6\n6:11 0 6:1 1 6\n")
    again = import_files("mb", layout="mbeir", folder=folder, data=tmp_path / "d")
    assert again.fresh
    assert read_back(again).query("6:10")["pos_item_ids"] == ["6:1", "6:2"]

    jsonl(folder / "query/test/mbeir_oven_task6_test.jsonl", [])
    with pytest.raises(UsageError, match="mbeir_oven_task6_test"):
        import_files("mb", layout="mbeir", folder=folder, data=tmp_path / "d")
    with pytest.raises(MissingError, match="mbeir_oven_task6"):
        import_files("mb", layout="mbeir", folder=folder, dataset="oven_task6", data=tmp_path / "d")


def test_ret_m2kr(tmp_path):
    folder = tmp_path / "ReT"
    for source in ("okvqa", "infoseek"):
        pool = [
            {"passage_id": "w1", "passage_text": "A tower.", "passage_image_path": "wiki/1.jpg"},
            {"passage_id": "w2", "passage_text": "A tree.", "passage_image_path": None},
        ]
        jsonl(folder / f"jsonl/m2kr/{source}_passages_test.jsonl", pool)
        query = {
            "data_id": "d1",
            "question": "How high?",
            "instruction": "Using the image: ",
            "image_path": "okvqa/1.jpg",
            "passage_id": "w1",
            "answer": ["330 m", {"wikidata": 330.0, "range": [325, 335]}],
        }
        second = query | {"data_id": "d2", "passage_id": ["w2", "w1"], "answer": None}
        ending = "test_m2kr" if source == "infoseek" else "test"
        jsonl(folder / f"jsonl/m2kr/{source}_{ending}.jsonl", [query, second])
    for source in ("okvqa", "infoseek"):
        built = import_files(
            "ret", layout="ret-m2kr", folder=folder, dataset=source, data=tmp_path / "d"
        )
        split = read_back(built)
        assert split.query("d1")["answers"] == ["330 m", "330.0"]
        assert split.query("d1")["instruction"] == "Using the image: "
        assert split.query("d2")["pos_item_ids"] == ["w2", "w1"]
        assert split.passage("w1")["img_path"] == "wiki/1.jpg"
    with pytest.raises(UsageError, match="okvqa_passages_test"):
        import_files("ret", layout="ret-m2kr", folder=folder, data=tmp_path / "d")


def one(query: str, passage: str = "d1", grade: int = 1) -> str:
    return f"query-id\tcorpus-id\tscore\n{query}\t{passage}\t{grade}\n"


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["dev", "valid"], {"dev": "q0", "valid": "q1"}),
        (["dev", "val", "test"], {"dev": "q0", "val": "q1", "test": "q2"}),
        (["validation", "dev"], {"validation": "q0", "dev": "q1"}),
        (["dev", "test"], {"dev": "q0", "valid": "q0", "val": "q0", "test": "q1"}),
        (["dev-0", "dev"], {"dev-0": "q0", "dev_0": "q0", "dev": "q1"}),
    ],
)
def test_split_names_are_folded_only_where_that_loses_nothing(tmp_path, names, splits):
    folder = beir_folder(tmp_path / "b", {f"{n}.tsv": one(f"q{i}") for i, n in enumerate(names)})
    built = import_files("b", layout="beir", folder=folder, data=tmp_path / "d")
    assert len(built.manifest["splits"]) == len(names)
    for name, query in splits.items():
        assert read_back(built, name).queries["question_id"][:] == [query]
        alone = import_files("one", layout="beir", folder=folder, split=name, data=tmp_path / "e")
        assert len(alone.manifest["splits"]) == 1
        assert read_back(alone, name).queries["question_id"][:] == [query]


def test_files_that_systems_leave_behind_do_not_stop_an_import(tmp_path):
    qrels = {
        "test.tsv": one("q0"),
        "._test.tsv": "\0\x05\x16\x07",
        ".DS_Store": "\0\0\0\1Bud1",
        "~$test.tsv": "\1",
    }
    folder = beir_folder(tmp_path / "b", qrels)
    built = import_files("b", layout="beir", folder=folder, data=tmp_path / "d")
    assert list(built.manifest["splits"]) == ["test"]
    ret = tmp_path / "ReT"
    jsonl(ret / "okvqa_passages_test.jsonl", [{"passage_id": "d1", "passage_text": "note"}])
    jsonl(ret / "okvqa_test.jsonl", [{"data_id": "q1", "question": "?", "passage_id": "d1"}])
    for name in (
        "._okvqa_passages_test.jsonl",
        "__MACOSX/._okvqa_test.jsonl",
        "._okvqa_test.jsonl",
    ):
        (ret / name).parent.mkdir(exist_ok=True)
        (ret / name).write_bytes(b"\0\5\x16\7")
    built = import_files("r", layout="ret-m2kr", folder=ret, data=tmp_path / "d")
    assert judged(read_back(built)) == {"q1": {"d1": 1}}


def test_a_blank_query_matters_only_where_it_is_judged(tmp_path):
    queries = [{"_id": "q0", "text": "note"}, {"_id": "q1", "text": ""}]
    folder = beir_folder(tmp_path / "b", {"test.tsv": one("q0")}, queries)
    built = import_files("b", layout="beir", folder=folder, data=tmp_path / "d")
    assert read_back(built).queries["question_id"][:] == ["q0"]
    (folder / "qrels" / "test.tsv").write_text(one("q1"))
    with pytest.raises(InputError, match="line 2"):
        import_files("b", layout="beir", folder=folder, data=tmp_path / "d")


def test_what_drop_missing_leaves_out_is_said(tmp_path):
    text = one("q0") + "q1\td99\t2\nq1\td2\t1\ngone\td1\t1\n"
    folder = beir_folder(tmp_path / "b", {"test.tsv": text})
    with pytest.raises(InputError, match="'gone'"):
        import_files("b", layout="beir", folder=folder, data=tmp_path / "d")
    built = import_files("b", layout="beir", folder=folder, data=tmp_path / "d", drop_missing=True)
    split = read_back(built)
    assert judged(split) == {"q0": {"d1": 1}, "q1": {"d99": 2, "d2": 1}}
    assert split.query("q1")["pos_item_ids"] == ["d2"]
    ledger = pq.read_table(built.folder / "B_ledger.parquet").to_pylist()
    told = {(row["action"], row["rule"].partition(":")[0], row["detail"]) for row in ledger}
    assert told == {
        ("repaired", "positive not among the passages", "d99"),
        ("dropped", "judgements of a query that is not there", "gone"),
    }


def test_drop_missing_does_not_drop_everything(tmp_path):
    folder = beir_folder(tmp_path / "b", {"test.tsv": one("gone"), "dev.tsv": one("q0", "d99")})
    for split, words in (("test", "'gone'"), ("dev", "none of 1")):
        with pytest.raises(InputError, match=words):
            import_files(
                "b", layout="beir", folder=folder, split=split, data=tmp_path, drop_missing=True
            )
