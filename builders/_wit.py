"""WIT's upstream files, of which WIT and IGLUE are made: English rows in their types, passages of them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.formats.delimited import read_csv
from m2kr.building.ledger import Ledger
from m2kr.building.spec import BuildContext
from m2kr.schema import Column, arrow_schema

from ._rows import dropper, opened, passage_batch

WIT_COLUMNS = (
    Column("page_url", nullable=True, doc="Wikipedia page the passage is from."),
    Column("image_url", nullable=True, doc="Address of the image on Wikimedia."),
    Column("page_title", nullable=True, doc="Title of the page."),
    Column("section_title", nullable=True, doc="Title of the section that shows the image."),
    Column("hierarchical_section_title", nullable=True, doc="Titles from the page down to it."),
    Column("caption_reference_description", nullable=True, doc="Caption beside the image."),
    Column("caption_attribution_description", nullable=True, doc="Text of the image's own page."),
    Column("caption_alt_text_description", nullable=True, doc="Alternative text of the image."),
    Column("mime_type", nullable=True, doc="Type of the image file."),
    Column("original_height", "int64", nullable=True, doc="Height in pixels upstream."),
    Column("original_width", "int64", nullable=True, doc="Width in pixels upstream."),
    Column("is_main_image", "bool", nullable=True, doc="Whether it is the page's main image."),
    Column(
        "attribution_passes_lang_id", "bool", nullable=True, doc="Attribution is in the language."
    ),
    Column(
        "page_changed_recently", "bool", nullable=True, doc="The page changed before the snapshot."
    ),
    Column("context_page_description", nullable=True, doc="First text of the page."),
    Column("context_section_description", nullable=True, doc="First text of the section."),
    Column("image_id", nullable=True, doc="md5 of the image's address."),
    Column("original_data_id", nullable=True, doc="Split and row number in WIT."),
    Column("image_downloaded", "bool", nullable=True, doc="The authors had the image."),
)
LICENCE = "CC BY-SA 3.0 (texts); images keep their own terms"
_UPSTREAM = tuple(c for c in WIT_COLUMNS if c.name not in ("original_data_id", "image_downloaded"))
HEADER = ("language", *(c.name for c in _UPSTREAM if c.name != "image_id"))
# An upstream row in its types, and the image's id.
ROW_SCHEMA = arrow_schema((Column("language"), *_UPSTREAM))
# Upstream's part -> bytes and sha256 of each of its files.
_FILES = {
    "train": (
        (2_672_819_495, "1fdd379b55e559fa6d0884aa3c57066bb1f206b183b5b4ce6a8128f486f2e8b3"),
        (2_667_931_762, "2fb22ceab0cd33168367fd6d268c8d803982cfe924b5d01cdf43457c32591f27"),
        (2_669_251_466, "316fd4471585df14c33425a199e1fbb843ea8ae1f42b2800ddea1d959d403dcd"),
        (2_670_373_763, "fdf2fb4e667de19e9dca276257322687fff597ce43d91c0ad456b5da32e3a028"),
        (2_668_172_723, "16033a528ed0cabec9571f4a41c5dd039fc4c0ef84ee8e62a802ba760c79c170"),
        (2_673_104_331, "a749c620fae1773d5818324c717c33ea23ce1c286daa34dcea290a056f0934ba"),
        (2_670_156_092, "90e00f3f82afd21e1322ebd969958960238abaeb9c5f00cb3f053ce7e1c5e32c"),
        (2_669_891_774, "b3728292b163f98858ff4c1f9f619259376ed063f9f36f0bdd66169982c40187"),
        (2_669_091_199, "6104064c2981696c2a91f1aa35d952aae488ea07c2263cdc0c66b202cdb43170"),
        (2_670_659_115, "3388614d12905c9a1ddb4c27445899a1f73ed75d12eaa36dd112e481330ecfaa"),
    ),
    "val": (
        (40_332_966, "f625ae640cbe2c56a8aabf95c54812d7422741056542f6dd2c695ff871cce4e5"),
        (40_092_981, "cb5b1db242272bfe7e2d7f4647a555c51c2f5693c30c754de29f909f10cd752b"),
        (39_643_004, "dde515eec141e5ecd5f50d95b98343584acc4b197ec7f6931806a2c71021820d"),
        (39_958_628, "a8dd52a8473fce19ce3bae4a47e4a47dd2a1195bf7013a2d43e502dc21801846"),
        (39_943_476, "57d0ee8b13fb5ff2bdea220db124e76c3264b3970770f0ed47866b0e3dc516d2"),
    ),
    "test": (
        (32_291_578, "aceef0d6624cfcab9d3fb7bc4c8a18424e6052b906fdacb3dc29936ff8eb1b4e"),
        (32_153_532, "055acbaf68e516d8f5e5647280bfb50764f606a1daa2d39a3a2a1849455b0b84"),
        (31_963_406, "df0ebb07ffacf80c51d01729b17ef4e826a6fb15895b71fd8478d358fb66e711"),
        (32_038_958, "92073ea8905c1248046f9cb1feca5d7165c6eee4f7240027da08cb7609416b48"),
        (32_133_564, "1286e1c47e9c65fc7df5e316a4ad2a19c05ecc2433c13026f5642aed0fad4069"),
    ),
}
_BASE = "https://storage.googleapis.com/gresearch/wit/"
# Cells, quoted or not, that the authors' reader (pandas, by its defaults) takes for nothing.
_NULLS = pa.array(
    [
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"),
        *("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    ]
)
# Before the cells of a passage's text, in its order; a cell of these that is empty is left out.
_LABELS = {
    "section_title": "section title: ",
    "hierarchical_section_title": "hierarchical section title: ",
    "caption_reference_description": "caption reference description: ",
    "caption_attribution_description": "caption attribution description: ",
    "caption_alt_text_description": "caption alt text description: ",
}


def files(parts: Iterable[str]) -> dict[str, str]:
    """Names of WIT's assets by the name of a file in our builds, such as ``val-00000``."""
    return {
        f"{part}-{number:05d}": f"wit/wit_v1.{part}.all-{number:05d}-of-{len(_FILES[part]):05d}.tsv.gz"
        for part in parts
        for number in range(len(_FILES[part]))
    }


def wit_assets(parts: Iterable[str]) -> list[Asset]:
    """The files of some of upstream's parts."""
    return [
        Asset(
            name,
            (_BASE + Path(name).name,),
            size=size,
            sha256=sha256,
            licence=LICENCE,
            shape=Shape("csv", HEADER, delimiter="\t"),
        )
        for part in parts
        for name, (size, sha256) in zip(files([part]).values(), _FILES[part], strict=True)
    ]


def english(ctx: BuildContext, file: str) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """English rows of a file with an image, as `ROW_SCHEMA`, and their record numbers.

    The ledger is told of all rows but those given, and of cells that were left out of them.

    Args:
        ctx: The build.
        file: Key of `files`.
    """
    (part, _, _) = file.partition("-")
    path = ctx.files[files([part])[file]]
    drop = dropper(ctx.ledger, path.name)
    with opened(path) as stream:
        for block in read_csv(stream, HEADER, where=str(path), on_fault=drop, delimiter="\t"):
            ctx.ledger.read(path.name, block.records)
            rows, batch = block.rows(), block.batch
            spoken = _mask(pc.equal(batch.column("language"), "en"))
            ctx.ledger.filter("not English", file=path.name, row=rows[~spoken])
            shown = spoken & _filled(batch.column("image_url"))
            if (spoken & ~shown).any():
                ctx.ledger.drop("no image_url", file=path.name, row=rows[spoken & ~shown])
            if shown.any():
                taken = batch.filter(pa.array(shown))
                yield _typed(taken, ctx.ledger, path.name, rows[shown]), rows[shown]


def _typed(batch: pa.RecordBatch, ledger: Ledger, file: str, rows: np.ndarray) -> pa.RecordBatch:
    """Cells in their types: those of `_NULLS` are null, one that is no number or flag is left out."""
    arrays = []
    for field in ROW_SCHEMA:
        if field.name == "image_id":
            arrays.append(pa.array(image_ids(batch.column("image_url").to_pylist()), pa.string()))
            continue
        cells = batch.column(field.name)
        filled = _filled(cells)
        if pa.types.is_integer(field.type):
            good = pc.match_substring_regex(cells, r"^[0-9]{1,18}$")
            array = pc.cast(pc.if_else(good, cells, None), field.type)
        elif pa.types.is_boolean(field.type):
            good = pc.is_in(cells, pa.array(["true", "false"]))
            array = pc.if_else(good, pc.equal(cells, "true"), None)
        else:
            arrays.append(pc.if_else(pa.array(filled), cells, None))
            continue
        wrong = filled & ~_mask(good)
        if wrong.any():
            kind = "number" if pa.types.is_integer(field.type) else "flag"
            ledger.repair(f"{field.name} is no {kind}, left out", file=file, row=rows[wrong])
        arrays.append(array)
    return pa.record_batch(arrays, schema=ROW_SCHEMA)


def image_ids(urls: Iterable[str]) -> list[str]:
    """The id of an image: md5 of its address."""
    return [hashlib.md5(url.encode(), usedforsecurity=False).hexdigest() for url in urls]


def image_path(image_id: str) -> str:
    """Path of an image: all are JPEG there, whatever upstream's are."""
    return f"{image_id}.jpg"


def passage_text(rows: pa.RecordBatch) -> pa.Array:
    """The text of rows' passages, as the release lays it out; a page without a text says ``None``."""
    pieces = [pc.binary_join_element_wise("title: ", _said(rows, "page_title"), "")]
    for name, label in _LABELS.items():
        pieces.append(pc.binary_join_element_wise(label, rows.column(name), ""))
    content = _said(rows, "context_page_description")
    pieces.append(pc.binary_join_element_wise("content: ", content, ""))
    return pc.binary_join_element_wise(*pieces, " ", null_handling="skip")


def _said(rows: pa.RecordBatch, name: str) -> pa.Array:
    return pc.fill_null(rows.column(name), "None")


def passage_table(
    ctx: BuildContext, rows: pa.RecordBatch, given: Mapping[str, pa.Array]
) -> pa.RecordBatch:
    """Passages of upstream rows as our table.

    Args:
        ctx: The build.
        rows: Of `ROW_SCHEMA`.
        given: ``passage_id`` and ``original_data_id``.
    """
    images = rows.column("image_id")
    own = {
        "passage_content": passage_text(rows),
        "title": rows.column("page_title"),
        "img_id": images,
        "img_path": pc.binary_join_element_wise(images, ".jpg", ""),
        **{field.name: rows.column(field.name) for field in ROW_SCHEMA},
        **given,
    }
    return passage_batch(ctx, own)


def _filled(cells: pa.Array) -> np.ndarray:
    """Which cells hold something."""
    return ~_mask(pc.is_in(cells, _NULLS))


def _mask(array: pa.Array) -> np.ndarray:
    mask: np.ndarray = array.to_numpy(zero_copy_only=False)
    return mask
