"""The kit's corpus: sixteen passages and eight queries, with pictures, and ways to change them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2kr.data.images.store import ImageStore, Missing, black_image
from m2kr.data.records import Passages, Queries
from m2kr.fingerprint import pool_part, query_parts
from m2kr.schema import PASSAGE_COLUMNS, QUERY_COLUMNS, Column, arrow_schema, default_value

Row = Mapping[str, Any]
LONG = "A river of ice moves slowly from the mountain into the valley below. " * 60
TWIN = "Lima is the capital of Peru, on the Pacific coast."
_TEXTS = (
    "The badger digs a burrow with its strong front claws.",
    "A goldfish is a small orange fish kept in ponds and bowls.",
    "Paris is the capital of France and lies on the Seine.",
    TWIN,
    "A lighthouse warns ships of rocks near the coast.",
    "The violin has four strings and is played with a bow.",
    "Strawberries are red fruits with seeds on the outside.",
    "A traffic light shows red, amber and green.",
    "The zebra of the African plains has black and white stripes.",
    "Copper is a metal that conducts electricity well.",
    "A glacier is a river of ice.",
    "The Amazon is the longest river of South America. " * 12,
    TWIN,
    "Chess is played on a board of sixty-four squares.",
    "A telescope gathers the light of distant stars.",
    "Bread is baked from flour, water and yeast.",
)
# Question and picture.
_QUERIES = (
    ("Which city is the capital of Peru?", None),
    ("Which animal has stripes?", "stripes.png"),
    ("What shows red, amber and green?", "lights.png"),
    ("Which fish is orange and kept in bowls?", "disc.png"),
    ("", "disc.png"),
    ("What is played with a bow?", "squares.png"),
    ("Where does the river of ice go?", None),
    ("", "stripes.png"),
)
_INSTRUCTIONS = ("Find a passage that answers the question: ", "Describe what the picture shows: ")
PICTURES = ("disc.png", "lights.png", "squares.png", "stripes.png")


def draw_pictures(folder: Path, *, other: bool = False) -> Path:
    """Writes the corpus's pictures; other ones under the same names, where that is asked for."""
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name in PICTURES:
        pictures[name] = Image.new("RGB", (96, 64), "white")
    draw = {name: ImageDraw.Draw(picture) for name, picture in pictures.items()}
    for x in range(0, 96, 16):
        draw["stripes.png"].rectangle((x, 0, x + 7, 63), "black")
    draw["disc.png"].rectangle((0, 0, 95, 63), "deepskyblue")
    draw["disc.png"].ellipse((24, 8, 72, 56), "darkorange")
    for place, colour in enumerate(("red", "orange", "green")):
        draw["lights.png"].ellipse((36, 2 + 20 * place, 54, 20 + 20 * place), colour)
    for x in range(0, 96, 16):
        for y in range(x % 32, 64, 32):
            draw["squares.png"].rectangle((x, y, x + 15, y + 15), "saddlebrown")
    for place, name in enumerate(PICTURES):
        pictures[PICTURES[place - other]].save(folder / name)
    black_image().save(folder / "black.png")
    return folder


@dataclass(frozen=True)
class Corpus:
    """Passages and queries as plain rows.

    Attributes:
        passages: Rows of the passages' table.
        queries: Rows of the queries' table.
        folder: Where the pictures lie.
        missing: What a picture that isn't there leads to.
    """

    passages: tuple[Row, ...]
    queries: tuple[Row, ...]
    folder: Path
    missing: Missing = "error"

    def records(self) -> tuple[Passages, Queries]:
        """The rows as retrievers are given them."""
        import pyarrow as pa

        images = ImageStore(self.folder, missing=self.missing)
        passages = pa.Table.from_pylist(list(self.passages), schema=arrow_schema(PASSAGE_COLUMNS))
        queries = pa.Table.from_pylist(list(self.queries), schema=arrow_schema(QUERY_COLUMNS))
        return (
            Passages(passages, images, pool_part(passages)),
            Queries(queries, images, query_parts(queries)[0]),
        )

    def with_passages(self, change: Callable[[Row], Mapping[str, Any]]) -> "Corpus":
        """The corpus with columns of each passage changed."""
        return replace(self, passages=tuple({**row, **change(row)} for row in self.passages))

    def with_queries(self, change: Callable[[Row], Mapping[str, Any]]) -> "Corpus":
        """The corpus with columns of each query changed."""
        return replace(self, queries=tuple({**row, **change(row)} for row in self.queries))

    def with_other_texts(self) -> "Corpus":
        """The corpus with each passage's text given to another."""
        texts = [row["passage_content"] for row in self.passages]
        names = [row["passage_id"] for row in self.passages]
        turned = dict(zip(names, texts[5:] + texts[:5], strict=True))
        return self.with_passages(lambda row: {"passage_content": turned[row["passage_id"]]})

    def with_other_questions(self) -> "Corpus":
        """The corpus with each query's question and instruction given to another."""
        names = [row["question_id"] for row in self.queries]
        asked = [{n: row[n] for n in ("question", "instruction")} for row in self.queries]
        turned = dict(zip(names, asked[2:] + asked[:2], strict=True))
        return self.with_queries(lambda row: turned[row["question_id"]])

    def renamed(self, passages: Mapping[str, str], queries: Mapping[str, str]) -> "Corpus":
        """The corpus under other ids."""
        renamed = self.with_passages(lambda row: {"passage_id": passages[row["passage_id"]]})
        return renamed.with_queries(
            lambda row: {
                "question_id": queries[row["question_id"]],
                "pos_item_ids": [passages[i] for i in row["pos_item_ids"]],
            }
        )

    def and_passage(self, text: str, name: str = "p50") -> "Corpus":
        """The corpus and one passage more."""
        return replace(self, passages=(*self.passages, passage_row(name, text)))

    def and_query(self, question: str, instruction: str = "", name: str = "q9") -> "Corpus":
        """The corpus and one query more, without a picture."""
        return replace(self, queries=(*self.queries, query_row(name, question, None, instruction)))

    def in_order(self, order: Callable[[Sequence[Row]], Sequence[Row]]) -> "Corpus":
        """The corpus with both tables' rows in another order."""
        return replace(
            self, passages=tuple(order(self.passages)), queries=tuple(order(self.queries))
        )


def corpus(folder: Path) -> Corpus:
    """The corpus, with its pictures drawn into a folder."""
    draw_pictures(folder)
    count = len(_TEXTS)
    # Ids run against the order of rows, so that a tie that is broken by row shows.
    passages = [
        passage_row(f"p{count - i:02}", text, PICTURES[i // 4] if i % 4 == 0 else None)
        for i, text in enumerate(_TEXTS)
    ]
    queries = [
        query_row(f"q{i}", question, picture, _INSTRUCTIONS[picture is not None], [f"p{i + 1:02}"])
        for i, (question, picture) in enumerate(_QUERIES)
    ]
    return Corpus(tuple(passages), tuple(queries), folder)


def passage_row(name: str, text: str, picture: str | None = None) -> Row:
    """A row of the passages' table."""
    return _row(PASSAGE_COLUMNS, passage_id=name, passage_content=text, img_path=picture)


def query_row(
    name: str, question: str, picture: str | None, instruction: str, positives: Sequence[str] = ()
) -> Row:
    """A row of the queries' table."""
    return _row(
        QUERY_COLUMNS,
        question_id=name,
        question=question,
        instruction=instruction,
        img_path=picture,
        pos_item_ids=list(positives),
    )


def _row(columns: Sequence[Column], **values: Any) -> Row:
    return {column.name: default_value(column) for column in columns} | values
