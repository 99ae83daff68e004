"""What is fuzzed: every parser of strangers' bytes, each as a function of bytes that must not surprise.

A target may raise `M2KRError` (one clear message) or tell faults to a ledger; anything else is a defect.
"""

import contextlib
import gzip
import io
import itertools
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from m2kr.building import registry
from m2kr.building.formats.archives import members
from m2kr.building.formats.delimited import read_csv, read_tsv
from m2kr.building.formats.gzip import open_gzip
from m2kr.building.formats.json_stream import array_items, object_members, read_json_lines
from m2kr.building.ledger import Ledger
from m2kr.building.options import resolve_options
from m2kr.building.release.rows import normalised_passages, normalised_queries
from m2kr.building.release.tables import find_table
from m2kr.building.spec import BuildContext
from m2kr.errors import M2KRError
from m2kr.instructions import templates_of
from m2kr.retrieval.run import Run
from m2kr_leaderboard.card_reader import read_card
from m2kr_leaderboard.submission import opened_submission

SCRATCH = Path(tempfile.mkdtemp(prefix="m2kr-fuzz-"))
MOST = 20_000  # rows taken of one input


def context(name: str, files: dict[str, bytes]) -> BuildContext:
    """A builder's context over some files."""
    source = registry.builder(name).source
    paths = {}
    for file, data in files.items():
        paths[file] = SCRATCH / file
        paths[file].parent.mkdir(parents=True, exist_ok=True)
        paths[file].write_bytes(data)
    options = resolve_options(source, {})
    ledger = Ledger("fuzz")
    return BuildContext(source, paths, ledger, options, templates=templates_of(name))


def zipped(data: bytes, name: str = "a.json") -> bytes:
    """The one member of a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def accounted(ctx: BuildContext, rows: Iterator[object]) -> None:
    """Every row that was read must be accounted for."""
    for _ in rows:
        pass
    ctx.ledger.close()


def tsv(data: bytes) -> None:
    """MS MARCO's files."""
    read = [b.records for b in read_tsv(io.BytesIO(data), ("a", "b"), where="x", on_fault=_ignore)]
    assert sum(read) <= data.count(b"\n") + 1


def csv(data: bytes) -> None:
    """Quoted files with a header; a right one is put before every other input."""
    for head in (b"", b"id\ttext\ttitle\n"):
        stream = io.BytesIO(head + data)
        header = ("id", "text", "title")
        for _ in read_csv(stream, header, where="x", on_fault=_ignore, delimiter="\t"):
            pass


def json_lines(data: bytes) -> None:
    """JSON lines."""
    for _ in read_json_lines(io.BytesIO(data), on_fault=_ignore, keys=("a",)):
        pass


def json_object(data: bytes) -> None:
    """One big JSON object."""
    for _ in itertools.islice(object_members(io.BytesIO(data), where="x", limit=1 << 20), MOST):
        pass


def json_list(data: bytes) -> None:
    """One big JSON list, at the top or under a key."""
    for key in (None, "images"):
        stream = io.BytesIO(data)
        for _ in itertools.islice(array_items(stream, where="x", key=key, limit=1 << 20), MOST):
            pass


def archive(data: bytes) -> None:
    """Tar and zip archives."""
    path = SCRATCH / "archive"
    path.write_bytes(data)
    for member in itertools.islice(members(path), 100):
        with member.open() as stream:
            stream.read(1 << 16)


def inflated(data: bytes) -> None:
    """Gzip files."""
    path = SCRATCH / "a.gz"
    for content in (data, gzip.compress(b"abc" * 100)[:-8] + data):
        path.write_bytes(content)
        with open_gzip(path) as stream:
            while stream.read(1 << 16):
                pass


def okvqa(data: bytes) -> None:
    """OK-VQA's questions and annotations."""
    names = [a.name for a in registry.builder("okvqa").assets({"corpus": "wikipedia"})][:4]
    right = b'{"questions": [{"question_id": 1, "image_id": 2, "question": "q"}]}'
    for files in ((data, data), (right, data), (data, right)):
        contents = dict(zip(names, [zipped(f) for f in (*files, *files)], strict=True))
        ctx = context("okvqa", contents)
        accounted(ctx, registry.builder("okvqa").all_queries(ctx, "test"))


def google_search(data: bytes) -> None:
    """OKVQA's Google-Search corpus and labels."""
    from m2kr_builders import okvqa as gs

    ctx = context("okvqa", {gs.FULL: b"kid,text\n" + data, gs.LABELS["train"]: data})
    accounted(ctx, gs.google_passages(ctx, train=True))
    ctx = context("okvqa", {gs.FULL: b"kid,text\n3,c\n", gs.LABELS["train"]: data})
    gs.OKVQA.judgements(ctx, "train", ["1"])
    ctx.ledger.close()


def infoseek(data: bytes) -> None:
    """Infoseek's questions, entities and types."""
    names = [a.name for a in registry.builder("infoseek").assets({})][:5]
    ctx = context("infoseek", dict.fromkeys(names, data))
    accounted(ctx, registry.builder("infoseek").all_queries(ctx, "test"))


def evqa(data: bytes) -> None:
    """E-VQA's questions."""
    from m2kr_builders import evqa

    head = ",".join(evqa.COLUMNS).encode() + b"\n"
    ctx = context("evqa", {"evqa/test.csv": head + data})
    for asked in evqa.single_hop_questions(ctx, "test"):
        ctx.ledger.use("test.csv", asked.row)
    ctx.ledger.close()


def knowledge_base(data: bytes) -> None:
    """E-VQA's knowledge base."""
    from m2kr_builders import evqa

    ctx = context("evqa", {evqa.KB: zipped(data)})
    ctx.options.update(shared_passages="3")  # type: ignore[attr-defined]
    gold = {("u", 0): {"train"}}
    target = SCRATCH / "sections.arrow"
    evqa.select_sections(ctx, gold, 3, "train", target)
    with pa.OSFile(str(target)) as file:
        pa.ipc.open_stream(file).read_all()


def msmarco(data: bytes) -> None:
    """MS MARCO's queries and judgements, and Tevatron's training set."""
    from m2kr_builders import msmarco

    ctx = context("msmarco", {msmarco.TRAIN: gzip.compress(data, 1)})
    accounted(ctx, msmarco.MSMARCO.train_queries(ctx))
    folder = SCRATCH / "scratch" / "msmarco"
    folder.mkdir(parents=True, exist_ok=True)
    for name in msmarco.SMALL:
        (folder / name).write_bytes(data)
    object.__setattr__(ctx, "scratch", SCRATCH / "scratch")
    for split in ("valid", "test"):
        object.__setattr__(ctx, "ledger", Ledger("fuzz"))
        accounted(ctx, msmarco.BUILDER().queries(ctx, split))


def kvqa(data: bytes) -> None:
    """KVQA's annotations."""
    ctx = context("kvqa", {"kvqa/dataset.json": data})
    accounted(ctx, registry.builder("kvqa").passages(ctx, "test_passages"))
    ctx = context("kvqa", {"kvqa/dataset.json": data})
    accounted(ctx, registry.builder("kvqa").queries(ctx, "test"))


def cc3m(data: bytes) -> None:
    """LLaVA's image-caption pairs."""
    ctx = context("cc3m", {"cc3m/chat.json": data})
    accounted(ctx, registry.builder("cc3m").queries(ctx, "train"))


def oven(data: bytes) -> None:
    """OVEN's annotations and Wiki6M; a right line is put before every other input."""
    from m2kr_builders import oven

    builder = registry.builder("oven")
    right = b'{"data_id": "1", "image_id": "oven_00000001", "question": "q", "entity_id": "Q1", '
    right += b'"entity_text": "e", "wikidata_id": "Q1", "wikipedia_title": "t", '
    right += b'"wikipedia_summary": "s"}\n'
    for head in (b"", right):
        plain = dict.fromkeys(oven.ANNOTATIONS.values(), head + data)
        files = plain | {oven.WIKI: gzip.compress(head + data, 1)}
        shutil.rmtree(SCRATCH / "oven-scratch", ignore_errors=True)
        for make, name in (
            (builder.passages, "train_passages"),
            (builder.queries, "train"),
            (builder.queries, "valid"),
        ):
            ctx = context("oven", files)
            object.__setattr__(ctx, "scratch", SCRATCH / "oven-scratch")
            accounted(ctx, make(ctx, name))


def llava(data: bytes) -> None:
    """LLaVA-Instruct's conversations."""
    from m2kr_builders import llava

    files = dict.fromkeys(llava.COMPONENTS.values(), data)
    ctx = context("llava", files)
    accounted(ctx, registry.builder("llava").passages(ctx, "train_passages"))
    ctx = context("llava", files)
    accounted(ctx, registry.builder("llava").queries(ctx, "test"))


def wit(data: bytes) -> None:
    """WIT's rows; a right header is put before every other input."""
    from m2kr_builders import _wit

    name = _wit.files(["val"])["val-00000"]
    for head in (b"", "\t".join(_wit.HEADER).encode() + b"\n"):
        ctx = context("wit", {name: gzip.compress(head + data, 1)})
        accounted(ctx, registry.builder("wit").make_part(ctx, "val-00000"))


def iglue(data: bytes) -> None:
    """IGLUE's annotations."""
    ctx = context("iglue", {"iglue/test_en.jsonl": data})
    accounted(ctx, registry.builder("iglue").queries(ctx, "test"))


def release(data: bytes) -> None:
    """The release's Parquet files."""
    for kind, name in (("data", "OKVQA_data/test"), ("passages", "EVQA_passages/test_passages")):
        path = SCRATCH / "release" / f"{name}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        table = find_table(SCRATCH / "release", name)
        ctx = context("okvqa" if kind == "data" else "evqa", {})
        rows = (
            normalised_queries(ctx, table)
            if kind == "data"
            else normalised_passages(ctx, table, repair=True)
        )
        accounted(ctx, rows)


def submission_card(data: bytes) -> None:
    """The card of a submission to the leaderboard."""
    path = SCRATCH / "system.yaml"
    path.write_bytes(data)
    read_card(path)


def submission_archive(data: bytes) -> None:
    """A packed submission."""
    path = SCRATCH / "spoiled.zip"
    path.write_bytes(data)
    with opened_submission(path):
        pass


def run_file(data: bytes) -> None:
    """A run in the forms that the leaderboard takes; lines are packed first, too."""
    packed = gzip.compress(data, 1)
    for name, content in (("a.parquet", data), ("a.trec.gz", data), ("a.trec.gz", packed)):
        path = SCRATCH / name
        path.write_bytes(content)
        with contextlib.suppress(M2KRError):
            Run.load(path)


def _ignore(_: object) -> None:
    """A fault was told."""


TARGETS: dict[str, Callable[[bytes], None]] = {
    f.__name__: f
    for f in (
        tsv,
        csv,
        json_lines,
        json_object,
        json_list,
        archive,
        inflated,
        okvqa,
        google_search,
        infoseek,
        evqa,
        knowledge_base,
        msmarco,
        kvqa,
        cc3m,
        oven,
        llava,
        wit,
        iglue,
        release,
        submission_card,
        submission_archive,
        run_file,
    )
}
SEEDS: dict[str, list[bytes]] = {
    "tsv": [b"1\ta\n2\tb\r\n3\n", b"\xff\t\n\t\t\n"],
    "csv": [b'1\t"a ""b"" c"\t"d\ne"\n', b'2\t"open\tx\n'],
    "json_lines": [b'{"a": 1}\n{"b": 2}\n\nx\n'],
    "json_object": [b'{"u": {"t": "}, \\"x"}, "v": [1, {"a": 2}], "w": null}'],
    "json_list": [b'[{"a": 1}, {"b": "]"}]', b'{"info": {}, "images": [{"id": 1}], "z": 1}'],
    "archive": [zipped(b"{}"), gzip.compress(b"\0" * 1024)],
    "inflated": [gzip.compress(b"x" * 300)],
    "okvqa": [
        b'{"questions": [{"question_id": 1, "image_id": 2, "question": "q"}]}',
        b'{"annotations": [{"question_id": 1, "answers": [{"answer": "a"}, {"answer": ""}]}]}',
    ],
    "google_search": [b'0,"a\nb"\n200000,c\n', b'[{"question_id": 1, "ctxs": [{"id": "3"}]}]'],
    "infoseek": [
        b'{"data_id": "1", "image_id": "o", "question": "q", "answer": ["a"], "answer_eval": '
        b'[{"wikidata": 1.5, "range": [1, 2]}], "data_split": "val", "entity_id": "Q1", '
        b'"entity_text": "e", "question_type": "String"}\n'
    ],
    "evqa": [
        b"q,a|b,1|2,inaturalist,3,templated,u,t,e,0,s,test,o,True\n",
        b"q,a&&b,1,landmarks,3,multi_answer,u,t,e,0,s,test,o,True\n",
    ],
    "knowledge_base": [
        b'{"u": {"title": "T", "section_titles": ["T"], "section_texts": ["x", " "]}, "v": 3}'
    ],
    "msmarco": [
        b'{"query_id": "1", "query": "q", "positive_passages": [{"docid": "2"}]}\n',
        b"1\tq\n1\t0\t2\t1\n",
    ],
    "kvqa": [
        b'{"1": {"imgPath": "KVQAimgs/1.jpg", "wikiCap": "A.", "Questions": ["q", "r"], "Answers": '
        b'["a", 2], "split": [2, 3, 1, 1, 1]}, "2": {"sourcePath": "x"}}'
    ],
    "cc3m": [
        b'[{"id": "a", "image": "a.jpg", "conversations": [{"from": "human", "value": "D.\\n<image>"}'
        b', {"from": "gpt", "value": "a b"}]}, {"id": 1}]'
    ],
    "oven": [
        b'{"data_id": "2", "image_id": "oven_01000002", "question": "r", "entity_id": "Q2", '
        b'"entity_text": "e", "wikidata_id": "Q2", "wikipedia_title": "t", "wikipedia_summary": ""}\n'
    ],
    "llava": [
        b'[{"id": "1", "image": "000000000077.jpg", "conversations": [{"from": "human", "value": '
        b'"q\\n<image>"}, {"from": "gpt", "value": "a"}]}, {"id": "1", "image": "000000000078.jpg", '
        b'"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]'
    ],
    "wit": [
        b'en\tp\thttp://u/a.jpg\tT\t\tT\t"a ""b""\nc"\t\t\timage/jpeg\t33\t40\ttrue\t\tfalse\tx\ty\n'
        b"fr\tp\tu\n"
    ],
    "iglue": [
        b'{"image_idx": 7, "image_url": "http://u/a.jpg", "meta_url": "m", "language": "en", '
        b'"caption_reference_description": "c", "page_url": "http://w/wiki/P", "wit_ix": "wit-test_2"}\n'
    ],
    "release": [],
    "submission_card": [
        b"format: m2kr-submission-1\nname: a\ntitle: A\nauthors: [B]\nparameters: 1\nlinks: {paper: "
        b"'https://example.org'}\nzero_shot: {mini: true}\nruns:\n- {source: mini, split: test, k: 100, "
        b"scores: {hit_rate@5: 0.5}, cost: {device: CPU}}\n"
    ],
    "submission_archive": [zipped(b"name: a\n", "spoiled/system.yaml")],
    "run_file": [
        b"q Q0 a%20b 1 2.5 t+pct\nq Q0 c 2 1 t+pct\n",
        b"q_id\tdoc_id\tscore\nq\ta\t1.5\n",
    ],
}


def one(name: str, data: bytes) -> None:
    """Runs a target; its own clear errors are right."""
    try:
        TARGETS[name](data)
    except M2KRError as error:
        assert str(error).strip(), "an error without a message"
