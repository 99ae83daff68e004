"""ReT-M2KR files: M2KR without MSMARCO, with images on the passages of four sources.

    <source>_<split>.jsonl            data_id, question, instruction, image_path, passage_id, answer
    <source>_passages_<split>.jsonl   passage_id, passage_text, passage_image_path

``passage_id`` of a query is one id or a list; E-VQA's test file ends in ``_test_m2kr.jsonl``.
"""

from m2kr.building.userdata.layouts import Given, Layout, SplitFiles, the_one
from m2kr.building.userdata.qrels import qrels_file
from m2kr.building.userdata.readers import record_file


def locate(given: Given) -> Layout:
    """The layout of one source and split of a folder of ReT-M2KR files.

    Raises:
        UsageError: the folder has several sources and none is named.
        MissingError: a file is not there.
    """
    split, name = given.one_split, given.dataset or "*"
    pool = the_one(
        given.passages,
        given.folder,
        [f"**/{name}_passages_{split}.jsonl", f"**/{name}_passages.jsonl"],
        "passages",
    )
    if given.dataset is None and given.passages is None:
        name = pool.name.partition("_passages")[0]
    queries = the_one(
        given.queries,
        given.folder,
        [f"**/{name}_{split}_m2kr.jsonl", f"**/{name}_{split}.jsonl"],
        "queries",
    )
    qrels = qrels_file(given.qrels) if given.qrels else None
    return Layout(record_file(pool), {split: SplitFiles(record_file(queries), qrels)})
