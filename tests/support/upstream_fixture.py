"""Upstream files in miniature, in their true containers, and builders that fetch them from a test server.

    with FaultyServer(served_files()) as server:
        build(Served("msmarco", server.url("")), root)

The rows are plain text under ``fixtures/upstream``. Two marks in them are filled in here: ``{{FF}}`` is
a byte that is no UTF-8, ``{{LONG}}`` a text of more than 128 kB (Python's csv refuses such a cell).
"""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from support import upstream_wit

from m2kr.building import registry
from m2kr.building.fetch.assets import Asset
from m2kr.building.spec import BuildContext, Builder
from m2kr.paths import downloads

UPSTREAM = Path(__file__).parent.parent / "fixtures" / "upstream"
LONG = " ".join(f"word{i}" for i in range(16_000))
# Archives of other names or orders would be other files: these are upstream's.
MSMARCO_MEMBERS = (
    "collection.tsv",
    "qrels.dev.small.tsv",
    "qrels.dev.tsv",
    "qrels.train.tsv",
    "queries.dev.small.tsv",
    "queries.dev.tsv",
    "queries.eval.small.tsv",
    "queries.train.tsv",
)
INFOSEEK = ("train", "val", "train_withkb", "val_withkb", "val_qtype")
PLAIN = (
    "kvqa/dataset.json",
    "cc3m/chat.json",
    "oven/oven_entity_train.jsonl",
    "oven/oven_entity_val.jsonl",
    "llava/conversation_58k.json",
    "llava/detail_23k.json",
    "llava/complex_reasoning_77k.json",
)
MANUAL = ("okvqa_full_corpus.csv", "retriever_train.json", "retriever_test.json")


def text(name: str) -> bytes:
    """A fixture file with its marks filled in."""
    content = (UPSTREAM / name).read_bytes()
    return content.replace(b"{{FF}}", b"\xff").replace(b"{{LONG}}", LONG.encode())


def gzipped(content: bytes) -> bytes:
    """The same bytes each time."""
    return gzip.compress(content, mtime=0)


def tarred(members: Mapping[str, bytes]) -> bytes:
    """A .tar.gz of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzipped(buffer.getvalue())


def zipped(name: str, content: bytes) -> bytes:
    """A .zip of one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def served_files() -> dict[str, bytes]:
    """Every file of the sources that upstream serves, by its path on the test server."""
    files = {
        "msmarco/collectionandqueries.tar.gz": tarred(
            {name: text(f"msmarco/{name}") for name in MSMARCO_MEMBERS}
        ),
        "msmarco/tevatron-train.jsonl.gz": gzipped(text("msmarco/tevatron-train.jsonl")),
        "wikipedia/psgs_w100.tsv.gz": gzipped(text("wikipedia/psgs_w100.tsv")),
        "evqa/encyclopedic_kb_wiki.zip": zipped(
            "encyclopedic_kb_wiki.json", text("evqa/encyclopedic_kb_wiki.json")
        ),
    }
    for subset in ("train2014", "val2014"):
        for stem, name in (
            (f"OpenEnded_mscoco_{subset}_questions", f"questions_{subset}"),
            (f"mscoco_{subset}_annotations", f"annotations_{subset}"),
        ):
            files[f"okvqa/{stem}.json.zip"] = zipped(f"{stem}.json", text(f"okvqa/{name}.json"))
    for part in INFOSEEK:
        files[f"infoseek/infoseek_{part}.jsonl"] = text(f"infoseek/infoseek_{part}.jsonl")
    for part in ("train", "val", "test"):
        files[f"evqa/{part}.csv"] = text(f"evqa/{part}.csv")
    for part in ("train", "val"):
        member = {f"{part}.json": text(f"evqa/inat2021_{part}.json")}
        files[f"evqa/inat2021_{part}.json.tar.gz"] = tarred(member)
    for name in PLAIN:
        files[name] = text(name)
    files["oven/Wiki6M_ver_1_0.jsonl.gz"] = gzipped(text("oven/Wiki6M_ver_1_0.jsonl"))
    files["iglue/test_en.jsonl"] = text("iglue/test_en.jsonl")
    files |= upstream_wit.files(text)
    return {f"/{name}": content for name, content in files.items()}


def place_by_hand(root: Path) -> None:
    """Puts the files that no address serves into the downloads folder of a data root."""
    folder = downloads(root) / "okvqa"
    folder.mkdir(parents=True, exist_ok=True)
    for name in MANUAL:
        (folder / name).write_bytes(text(f"okvqa/{name}"))


class Served(Builder):
    """A builder whose files come from a test server instead of from upstream.

    Args:
        name: The real builder's name.
        base: Address that asset names are put behind.
    """

    def __init__(self, name: str, base: str) -> None:
        self.base = base
        self.real = registry.builder(name)
        self.source = self.real.source
        self.release_keys = self.real.release_keys
        self.align_options = self.real.align_options

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """The real builder's, at the server and without upstream's published sizes and digests."""
        return [
            replace(
                asset,
                urls=(f"{self.base}/{asset.name}",) if asset.urls else (),
                size=None,
                sha256=None,
                md5=None,
                git_blob=None,
            )
            for asset in self.real.assets(options)
        ]

    def passages(self, ctx: BuildContext, pool: str) -> Any:
        """The real builder's; so are all of the following."""
        return self.real.passages(ctx, pool)

    def queries(self, ctx: BuildContext, split: str) -> Any:
        return self.real.queries(ctx, split)

    def all_passages(self, ctx: BuildContext, pool: str) -> Any:
        return self.real.all_passages(ctx, pool)

    def all_queries(self, ctx: BuildContext, split: str) -> Any:
        return self.real.all_queries(ctx, split)

    def same_pools(self, options: Mapping[str, str]) -> Any:
        return self.real.same_pools(options)

    def parts(self, options: Mapping[str, str], splits: Sequence[str]) -> Any:
        return self.real.parts(options, splits)

    def make_part(self, ctx: BuildContext, name: str) -> Any:
        return self.real.make_part(ctx, name)
