"""What an import reads, and how the file layouts of other benchmarks are found in a folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from m2kr.building.userdata.fields import Row, query_task
from m2kr.building.userdata.qrels import qrels_file
from m2kr.building.userdata.readers import Record, RecordFile, read_lines, record_file, text_file
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.instructions import TEMPLATES, keyed_choice
from m2kr.sources import folded_splits, plain_split, resolve_split

Instruct = Callable[[Record, Row], str]
_TEMPLATES = {"I2T": "wit", "Q2T": "msmarco", "IQ2T": "iq2t"}
# What a task's candidates consist of, by M-BEIR's task id.
_CANDIDATES = dict(
    enumerate(("image", "text", "image,text", "text", "image", "", "text", "image", "image,text"))
)
# M-BEIR's prompts by data set id, query modality and candidate modality.
_Prompts = Mapping[tuple[str, str, str], Sequence[str]]


def instruct_by_task(record: Record, row: Row) -> str:  # noqa: ARG001 - one of several of its kind
    """The benchmark's own instruction for queries of the row's task; depends on its id alone."""
    return TEMPLATES[_TEMPLATES[query_task(row)]].choose(row["question_id"])


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """The files of one query split.

    Attributes:
        queries: Query records.
        qrels: Judgements; they replace those in the records.
        only_judged: Queries without judgements belong to other splits and are left out.
    """

    queries: RecordFile
    qrels: RecordFile | None = None
    only_judged: bool = False


@dataclass(frozen=True)
class Layout:
    """Everything an import reads. Picklable if ``instruct`` is.

    Attributes:
        passages: Passage records, the pool of all splits.
        splits: Query files by split name.
        images: Image roots: folders, archives, Arrow files.
        title_in_text: Passages are indexed as ``title text``.
        instruct: The instruction of a query whose record has none.
        also: Further files that the rows depend on.
    """

    passages: RecordFile
    splits: Mapping[str, SplitFiles]
    images: tuple[Path, ...] = ()
    title_in_text: bool = False
    instruct: Instruct = instruct_by_task
    also: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenFiles:
    """What the user named; a layout fills in the rest from the folder.

    Attributes:
        folder: The benchmark's folder.
        dataset: Which of the folder's data sets, such as ``infoseek_task6``.
        split: Split name as the user wrote it.
    """

    folder: Path | None = None
    dataset: str | None = None
    split: str | None = None
    passages: Path | None = None
    queries: Path | None = None
    qrels: Path | None = None

    @property
    def one_split(self) -> str:
        """The canonical split (``valid``, not ``val``), ``test`` by default."""
        return canonical_split(self.split or "test")

    def file(self, what: str, *patterns: str) -> Path:
        """The passages or queries given, or the only file that the first fitting pattern finds.

        Raises:
            UsageError: neither file nor folder is given, or several files fit; names them.
            MissingError: the folder has no such file; names the patterns.
        """
        given: Path | None = getattr(self, what)
        if given is not None:
            return given
        if self.folder is None:
            raise UsageError(f"no file of {what} is given", fix=f"--{what} FILE, or the folder")
        for pattern in patterns:
            fitting = _visible(self.folder, [pattern])
            if len(fitting) > 1:
                raise UsageError(
                    f"several files of {what} fit: {', '.join(p.name for p in fitting[:12])}",
                    fix=f"--dataset NAME to choose, or --{what} FILE",
                )
            if fitting:
                return fitting[0]
        raise MissingError(
            f"there is no file of {what}",
            where=str(self.folder),
            expected=" or ".join(patterns),
            fix=f"--{what} FILE",
        )

    def split_files(self, queries: Path) -> dict[str, SplitFiles]:
        """The one split of these queries, with the judgements given."""
        qrels = None if self.qrels is None else qrels_file(self.qrels)
        return {self.one_split: SplitFiles(record_file(queries), qrels)}


def canonical_split(name: str) -> str:
    """``valid`` for ``val``, ``validation`` and ``dev``; other names as they are."""
    return folded_splits([name])[name]


def _visible(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of a folder that fit, sorted; not those that systems hide or add to archives."""
    return sorted(
        path
        for pattern in patterns
        for path in folder.glob(pattern)
        if path.is_file()
        and not any(
            part.startswith((".", "~")) or part == "__MACOSX"
            for part in path.relative_to(folder).parts
        )
    )


def _files(given: GivenFiles) -> Layout:
    """Files of records, each named by the user."""
    if given.folder is not None:
        beir = any(given.folder.glob("corpus.jsonl*"))
        raise UsageError(
            "a folder alone does not say its layout",
            where=str(given.folder),
            fix="--from beir" if beir else "--from beir|mbeir|ret-m2kr",
        )
    passages, queries = given.file("passages"), given.file("queries")
    splits = given.split_files(queries)
    return Layout(record_file(passages), splits)


def _beir(given: GivenFiles) -> Layout:
    """BEIR's ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``.

    Corpus lines are ``{_id, title, text}`` and may name an image; all splits share corpus and
    queries, and a split is the queries that its judgements name: every split that has some, or the
    one asked for. Text-only tools index ``title text``; so do we.
    """
    corpus = given.file("passages", "corpus.jsonl", "corpus.jsonl.gz")
    queries = given.file("queries", "queries.jsonl", "queries.jsonl.gz")
    if given.qrels is not None:
        qrels = {given.one_split: given.qrels}
    else:
        qrels = _beir_qrels(given.folder or queries.parent, given.split)
    records = record_file(queries)
    return Layout(
        record_file(corpus),
        {
            split: SplitFiles(records, qrels_file(path), only_judged=True)
            for split, path in qrels.items()
        },
        title_in_text=True,
    )


def _beir_qrels(folder: Path, split: str | None) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in _visible(folder / "qrels", ["*.tsv", "*.tsv.gz"]):
        name = plain_split(path.name.partition(".tsv")[0])
        if name in files:
            raise InputError(
                f"these judgements are of the same split as {files[name].name}",
                where=str(path),
                expected="one file for each split, whose name is letters, digits and _",
            )
        files[name] = path
    files = {name: files[there] for there, name in folded_splits(files).items()}
    if split is not None:
        try:
            name = resolve_split(split, tuple(files))
        except UsageError:
            files = {}
        else:
            files = {name: files[name]}
    if not files:
        raise MissingError(
            "there are no judgements" + (f" of the split '{split}'" if split else ""),
            where=str(folder / "qrels"),
            expected="files such as qrels/test.tsv",
            fix="--qrels FILE; or --from files for queries without judgements",
        )
    return files


def _mbeir(given: GivenFiles) -> Layout:
    """One data set and split of M-BEIR.

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
    folder, split = given.folder, given.one_split
    theirs = {"valid": "val"}.get(split, split)
    name = given.dataset or "*"
    queries = given.file("queries", f"query/{theirs}/mbeir_{name}_{theirs}.jsonl")
    name = queries.stem.removeprefix("mbeir_").removesuffix(f"_{theirs}")
    pool = "cand_pool/local/mbeir_{}_cand_pool.jsonl"
    passages = given.file("passages", pool.format(f"{name}_{theirs}"), pool.format(name))
    splits = given.split_files(queries)
    if folder is None:
        return Layout(record_file(passages), splits)
    qrels = folder / f"qrels/{theirs}/mbeir_{name}_{theirs}_qrels.txt"
    if given.qrels is None and qrels.is_file():
        splits = {split: SplitFiles(splits[split].queries, qrels_file(qrels))}
    prompts = folder / "instructions/query_instructions.tsv"
    return Layout(
        record_file(passages),
        splits,
        images=(folder,) if (folder / "mbeir_images").is_dir() else (),
        instruct=_mbeir_instruct(prompts, name) if prompts.is_file() else instruct_by_task,
        also=(prompts,) if prompts.is_file() else (),
    )


def _mbeir_instruct(path: Path, name: str) -> Instruct:
    prompts: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for n, line in read_lines(text_file(path)):
        cells = [cell.strip() for cell in line.split("\t")]
        if n > 1 and len(cells) > 4:
            prompts[cells[3], cells[0], cells[1]] = tuple(filter(None, cells[4:]))
    task = name.rpartition("_task")[2]
    return partial(_mbeir_prompt, prompts, int(task) if task.isdecimal() else None)


def _mbeir_prompt(prompts: _Prompts, task: int | None, record: Record, row: Row) -> str:
    """One of the prompts for a query's data set and modalities; else the benchmark's instruction."""
    dataset = row["question_id"].partition(":")[0]
    task = record.get("task_id", task)
    candidates = _CANDIDATES.get(task, "") if isinstance(task, int) else ""
    choices = prompts.get((dataset, str(record.get("query_modality")), candidates), ())
    if not choices:
        return instruct_by_task(record, row)
    return choices[keyed_choice(len(choices), row["question_id"])]


def _ret_m2kr(given: GivenFiles) -> Layout:
    """One source and split of ReT-M2KR: M2KR without MSMARCO, with images on some passages.

        <source>_<split>.jsonl            data_id, question, instruction, image_path, passage_id, answer
        <source>_passages_<split>.jsonl   passage_id, passage_text, passage_image_path

    ``passage_id`` of a query is one id or a list; E-VQA's test file ends in ``_test_m2kr.jsonl``.
    """
    split, name = given.one_split, given.dataset or "*"
    passages = given.file(
        "passages", f"**/{name}_passages_{split}.jsonl", f"**/{name}_passages.jsonl"
    )
    if given.dataset is None and given.passages is None:
        name = passages.name.partition("_passages")[0]
    queries = given.file("queries", f"**/{name}_{split}_m2kr.jsonl", f"**/{name}_{split}.jsonl")
    splits = given.split_files(queries)
    return Layout(record_file(passages), splits)


# How the files of a layout are found, by the name users give it.
LAYOUTS: dict[str, Callable[[GivenFiles], Layout]] = {
    "files": _files,
    "beir": _beir,
    "mbeir": _mbeir,
    "ret-m2kr": _ret_m2kr,
}
