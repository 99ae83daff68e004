"""IGLUE: the English WIT retrieval test.

IGLUE names an image, a page and a caption; the rest of a passage is WIT's row of all three.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.sources import Option, Rule, Source

from . import _wit
from ._images import WIT_IMAGES
from ._rows import image_query, json_records
from ._wit import LICENCE, WIT_COLUMNS
from ._wit import passage_text as passage_text  # a rule

SOURCE = Source(
    name="iglue",
    config="IGLUE",
    title="IGLUE: the English WIT retrieval test",
    task="I2T",
    pools={"test": "test_passages"},
    headline="hit_rate@1",
    version=2,
    licence="CC BY-SA 3.0 (texts)",
    homepage="https://github.com/e-bug/iglue",
    citation="""@inproceedings{bugliarello2022iglue,
  title={{IGLUE}: A Benchmark for Transfer Learning across Modalities, Tasks, and Languages},
  author={Bugliarello, Emanuele and others},
  booktitle={ICML}, year={2022}
}""",
    summary="685 images, 1,000 passages; a test set only.",
    expected={
        "test": 685,
        "test_passages": 1_000,
    },
    aliases=("iglue-en", "wit-iglue"),
    released=True,
    passage_columns=WIT_COLUMNS,
    options=(
        Option(
            "wit",
            "val-test",
            "Parts of WIT that rows are looked for in; train is 25 GB.",
            ("val-test", "val-test-train"),
        ),
    ),
    rules=(
        Rule(
            "matched",
            "a row is WIT's first of the same page, image and caption, in val, then test",
            "inferred",
            "wit",
        ),
        Rule(
            "by_itself",
            "a row that WIT's files lack becomes a passage of the page's title, as its address has "
            "it, and the caption",
            "ours",
            "wit",
        ),
        Rule(
            "passage_text",
            "a passage is the titles, captions and page description of a row, each with its label; "
            "a page without description or title has the word None",
            "read",
        ),
    ),
    image_notes=(
        "the hub's BByrneLab/M2KR_Images, WIT/ (199 GB, parts of one zip), or IGLUE's own at "
        "https://sid.erda.dk/sharelink/CwTySJlPdB, to be renamed to the md5 of their address; point "
        "--images at the folder",
    ),
    image_store="wit",
)

ANNOTATIONS = "iglue/test_en.jsonl"
KEYS = ("image_url", "caption_reference_description", "language", "page_url", "wit_ix")
_URL = (
    "https://raw.githubusercontent.com/e-bug/iglue/d8ac1dfbac5eb34164fcb451b81e3e84c784e8f0/"
    "datasets/wit/annotations/test_en.jsonl"
)
# The release's own ids aren't known upstream, what IGLUE names a row by is.
_NAMED = ("page_url", "image_url", "caption_reference_description")
Named = tuple[str, ...]


class IGLUE(Builder):
    """IGLUE's annotations, each with WIT's row of it."""

    source = SOURCE
    image_archives = (WIT_IMAGES,)
    release_keys = {"passages": _NAMED}

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """The annotations, and the files of WIT that they are looked for in."""
        own = Asset(
            ANNOTATIONS,
            (_URL,),
            size=427_632,
            licence=LICENCE,
            shape=Shape("jsonl", KEYS),
        )
        return [own, *_wit.wit_assets(_searched(options))]

    def parts(self, options: Mapping[str, str], splits: Sequence[str]) -> Sequence[str]:
        """One for each of WIT's files."""
        return list(_wit.files(_searched(options)))

    def make_part(self, ctx: BuildContext, name: str) -> Iterator[pa.RecordBatch]:
        """The rows of a file of WIT that IGLUE names."""
        file = ctx.files[_wit.files(_searched(ctx.options))[name]].name
        sought = {named for _, named, _ in _annotations(ctx.quiet())}
        images = pa.array(sorted({named[1] for named in sought}), pa.string())
        for batch, rows in _wit.english(ctx, name):
            near = pc.is_in(batch.column("image_url"), images).to_numpy(zero_copy_only=False)
            for place in near.nonzero()[0]:
                near[place] = tuple(batch.column(key)[place].as_py() for key in _NAMED) in sought
            ctx.ledger.filter("not in IGLUE", file=file, row=rows[~near])
            if near.any():
                ctx.ledger.use(file, rows[near])
                yield batch.filter(pa.array(near))

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[pa.RecordBatch]:
        """A passage for each annotation."""
        matches, file = self.matched(ctx), ctx.files[ANNOTATIONS].name
        rows, ids, own = [], [], []
        for row, named, wit_ix in _annotations(ctx):
            ctx.ledger.use(file, row)
            if named not in matches:
                ctx.ledger.repair("no row of WIT: title and caption alone", file=file, row=row)
            rows.append(matches.get(named) or self.by_itself(named))
            ids.append(_passage_id(row))
            own.append(wit_ix)
        batch = pa.RecordBatch.from_pylist(rows, schema=_wit.ROW_SCHEMA)
        given = {"passage_id": pa.array(ids), "original_data_id": pa.array(own)}
        yield _wit.passage_table(ctx, batch, given)

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The images, by their ids."""
        file, images = ctx.files[ANNOTATIONS].name, dict[str, list[int]]()
        for row, named, _ in _annotations(ctx):
            (image,) = _wit.image_ids([named[1]])
            ctx.ledger.use(file, row, out=0 if image in images else 1)
            images.setdefault(image, []).append(row)
        for image, rows in sorted(images.items()):
            yield image_query(ctx, image, image, _wit.image_path(image)) | {
                "pos_item_ids": [_passage_id(row) for row in rows],
            }

    @staticmethod
    def matched(ctx: BuildContext) -> dict[Named, dict[str, Any]]:
        """WIT's row of what IGLUE names; of several the first."""
        matches: dict[Named, dict[str, Any]] = {}
        for name in _wit.files(_searched(ctx.options)):
            first = 1
            for batch in ctx.part(name):
                ctx.ledger.read(f"parts/{name}", len(batch))
                for row, record in enumerate(batch.to_pylist(), first):
                    named = tuple(record[key] for key in _NAMED)
                    if named in matches:
                        ctx.ledger.filter("an equal row before it", file=f"parts/{name}", row=row)
                    else:
                        ctx.ledger.use(f"parts/{name}", row, out=0)
                        matches[named] = record
                first += len(batch)
        return matches

    @staticmethod
    def by_itself(named: Named) -> dict[str, Any]:
        """A row as far as IGLUE tells it: page, image and caption, and the title in the page's address."""
        page, image, caption = named
        (image_id,) = _wit.image_ids([image])
        return {
            "language": "en",
            "page_url": page,
            "image_url": image,
            "page_title": unquote(page.rpartition("/wiki/")[2]).replace("_", " "),
            "caption_reference_description": caption,
            "image_id": image_id,
        }


BUILDER = IGLUE


def _annotations(ctx: BuildContext) -> Iterator[tuple[int, Named, str]]:
    """Line number of each sound annotation, what it names, and IGLUE's number of its image.

    The ledger is told of the others.

    Raises:
        InputError: not one line is an annotation: it is another file.
    """
    path, seen = ctx.files[ANNOTATIONS], set[Named]()
    for row, record in json_records(path, ctx.ledger, KEYS):
        named, wit_ix = tuple(record[key] for key in _NAMED), record["wit_ix"]
        if not all(isinstance(value, str) and value.strip() for value in (*named, wit_ix)):
            ctx.ledger.drop("a field is no text, or empty", file=path.name, row=row)
        elif record["language"] != "en":
            ctx.ledger.filter("not English", file=path.name, row=row)
        elif named in seen:
            ctx.ledger.drop("named twice", file=path.name, row=row, detail=named[0][:80])
        else:
            seen.add(named)
            yield row, named, wit_ix


def _passage_id(row: int) -> str:
    """The id of an annotation's passage: its line, from 0."""
    return f"IGLUE_{row - 1}"


def _searched(options: Mapping[str, str]) -> list[str]:
    return options["wit"].split("-")
