"""M-BEIR folders.

    query/<train|val|test>/mbeir_<dataset>_<split>.jsonl
        qid, query_txt, query_img_path, query_modality, pos_cand_list [did, ...], task_id
    cand_pool/local/mbeir_<dataset>_cand_pool.jsonl     did, txt, img_path, modality
    qrels/<split>/mbeir_<dataset>_<split>_qrels.txt     qid 0 did relevance task_id
    instructions/query_instructions.tsv
        query_modality, cand_modality, dataset_name, dataset_id, prompt_1 ... prompt_4
    mbeir_images/...                                     image paths start with this folder's name

Ids are ``<dataset id>:<n>``; ``<dataset>`` is such as ``infoseek_task6``. The benchmark draws a
prompt anew each time; here a query keeps the one that its id draws.
"""

from dataclasses import dataclass
from pathlib import Path

from m2kr.building.userdata.fields import Row
from m2kr.building.userdata.layouts import (
    Given,
    Instruct,
    Layout,
    SplitFiles,
    instruct_by_task,
    the_one,
)
from m2kr.building.userdata.qrels import qrels_file
from m2kr.building.userdata.readers import Record, RecordFile, read_lines, record_file
from m2kr.instructions import keyed_choice

# What a task's candidates consist of, by M-BEIR's task id.
_CANDIDATES = dict(
    enumerate(("image", "text", "image,text", "text", "image", "", "text", "image", "image,text"))
)
Prompts = dict[tuple[str, str, str], tuple[str, ...]]


def locate(given: Given) -> Layout:
    """The layout of one data set and split of an M-BEIR folder.

    Raises:
        UsageError: the folder has several data sets and none is named.
        MissingError: a file is not there.
    """
    folder, split = given.folder, given.one_split
    theirs = {"valid": "val"}.get(split, split)
    name = given.dataset or "*"
    queries = the_one(
        given.queries, folder, [f"query/{theirs}/mbeir_{name}_{theirs}.jsonl"], "queries"
    )
    name = queries.stem.removeprefix("mbeir_").removesuffix(f"_{theirs}")
    pools = [
        f"cand_pool/local/mbeir_{name}{middle}_cand_pool.jsonl" for middle in (f"_{theirs}", "")
    ]
    pool = the_one(given.passages, folder, pools, "passages")
    qrels, prompts, images = given.qrels, None, False
    if folder is not None:
        usual = folder / f"qrels/{theirs}/mbeir_{name}_{theirs}_qrels.txt"
        qrels = qrels or (usual if usual.is_file() else None)
        named = folder / "instructions/query_instructions.tsv"
        prompts = named if named.is_file() else None
        images = (folder / "mbeir_images").is_dir()
    return Layout(
        record_file(pool),
        {split: SplitFiles(record_file(queries), qrels_file(qrels) if qrels else None)},
        images=(folder,) if folder and images else (),
        instruct=_instruct(prompts, name) if prompts else instruct_by_task,
        also=(prompts,) if prompts else (),
    )


@dataclass(frozen=True)
class PromptChoice:
    """Gives a query one of the prompts for its data set and modalities.

    Attributes:
        prompts: By data set id, query modality and candidate modality.
        task: Task id of queries that do not name theirs.
    """

    prompts: Prompts
    task: int | None

    def __call__(self, record: Record, row: Row) -> str:
        """The prompt, or the benchmark's own instruction where there is none."""
        dataset = row["question_id"].partition(":")[0]
        task = record.get("task_id", self.task)
        candidates = _CANDIDATES.get(task, "") if isinstance(task, int) else ""
        choices = self.prompts.get((dataset, str(record.get("query_modality")), candidates), ())
        if not choices:
            return instruct_by_task(record, row)
        return choices[keyed_choice(len(choices), row["question_id"])]


def _instruct(path: Path, name: str) -> Instruct:
    prompts: Prompts = {}
    for n, line in read_lines(RecordFile(path, f"{path}, line {{n}}")):
        cells = [cell.strip() for cell in line.split("\t")]
        if n > 1 and len(cells) > 4:
            prompts[cells[3], cells[0], cells[1]] = tuple(filter(None, cells[4:]))
    task = name.rpartition("_task")[2]
    return PromptChoice(prompts, int(task) if task.isdecimal() else None)
