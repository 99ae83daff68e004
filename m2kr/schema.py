"""Columns and Arrow schemas of the three tables every source is built into: the single truth.

Names and order follow the authors' release, so that scripts written for it load our output.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

ColumnType = Literal["string", "list<string>", "int64", "float64", "list<float64>", "bool"]
TableKind = Literal["queries", "passages", "qrels"]

MANIFEST_FORMAT = "m2kr-manifest-2"
# Rows per Arrow record batch. Opening a table touches each batch's header, and the kernel maps
# 64 KB around every touch: at 1,000 rows an 8.8 M-row pool would cost 570 MB just to open.
BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, logical type, whether it may be null, and one sentence on what it holds."""

    name: str
    type: ColumnType = "string"
    nullable: bool = False
    doc: str = ""


QUERY_COLUMNS: tuple[Column, ...] = (
    Column("question_id", doc="Unique id of the query within its split."),
    Column("question", doc="The question; empty for image-to-text queries."),
    Column(
        "instruction", doc="The task instruction stored for this query; fixed, never re-sampled."
    ),
    Column("img_id", nullable=True, doc="Upstream id of the query image."),
    Column("img_path", nullable=True, doc="Path below an image root; null means no image."),
    Column("image_id", nullable=True, doc="Upstream id of the image, under the release's name."),
    Column("pos_item_ids", "list<string>", doc="Ids of the right passages, all in the pool."),
    Column("pos_item_contents", "list<string>", doc="Texts of those passages, in the same order."),
    Column(
        "answers", "list<string>", doc="Accepted answer strings; empty where the source has none."
    ),
    Column(
        "gold_answer", nullable=True, doc="The one preferred answer, where the source names it."
    ),
    Column("question_type", nullable=True, doc="The source's own category of the question."),
)

# Extra query columns of sources whose judgements are more than a list of right passages.
GRADES = Column(
    "pos_item_grades",
    "list<float64>",
    doc="Grades of those passages, in the same order; here because some differ from 1.",
)
LOST_IDS = Column(
    "lost_item_ids",
    "list<string>",
    doc="Passages judged with a grade above 0 that are not in the pool; metrics count them as missed.",
)
LOST_GRADES = Column("lost_item_grades", "list<float64>", doc="Grades of those, in the same order.")

PASSAGE_COLUMNS: tuple[Column, ...] = (
    Column("passage_id", doc="Unique id of the passage within its pool."),
    Column("passage_content", doc="The text that is retrieved."),
    Column("language", doc="ISO 639-1 code of the text; 'en' by default."),
    Column("title", nullable=True, doc="Title of the page or entity the passage comes from."),
    Column("img_id", nullable=True, doc="Upstream id of the passage's own image."),
    Column(
        "img_path", nullable=True, doc="Path of the passage's own image relative to an image root."
    ),
)

QRELS_COLUMNS: tuple[Column, ...] = (
    Column("question_id", doc="Id of the query."),
    Column("passage_id", doc="Id of a passage that is relevant to it."),
    Column("relevance", "int64", doc="Grade of relevance; 1 unless the source grades."),
)

CORE: dict[TableKind, tuple[Column, ...]] = {
    "queries": QUERY_COLUMNS,
    "passages": PASSAGE_COLUMNS,
    "qrels": QRELS_COLUMNS,
}
ID_COLUMN: dict[TableKind, str] = {"queries": "question_id", "passages": "passage_id"}
# What follows the config name in a folder: MINI_data, MINI_passages, MINI_qrels.
SUFFIX: dict[TableKind, str] = {"queries": "data", "passages": "passages", "qrels": "qrels"}


def table_name(config: str, kind: TableKind, split: str) -> str:
    """Folder of a table below its edition, such as ``OKVQA_data/test``."""
    return f"{config}_{SUFFIX[kind]}/{split}"


def columns(kind: TableKind, extra: Iterable[Column] = ()) -> tuple[Column, ...]:
    """The core columns of a table kind followed by a source's extra ones."""
    return CORE[kind] + tuple(extra)


def qrels_columns(query_columns: Iterable[Column]) -> tuple[Column, ...]:
    """The columns of a source's judgements; its grades need not be whole numbers."""
    graded = any(column.name == GRADES.name for column in query_columns)
    *ids, relevance = QRELS_COLUMNS
    return (*ids, replace(relevance, type="float64") if graded else relevance)


def arrow_schema(cols: Sequence[Column]) -> "pa.Schema":
    """The Arrow schema of the given columns, in order.

    Every field is nullable for Arrow, as in the release; `Column.nullable` is held by the writer.
    """
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "list<string>": pa.list_(pa.string()),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "list<float64>": pa.list_(pa.float64()),
        "bool": pa.bool_(),
    }
    return pa.schema([(c.name, types[c.type]) for c in cols])


def default_value(column: Column) -> object:
    """What a builder that leaves a column out gets: null, ``[]``, ``""`` or ``en`` for ``language``."""
    if column.nullable:
        return None
    if column.type.startswith("list"):
        return []
    if column.name == "language":
        return "en"
    return "" if column.type == "string" else 0
