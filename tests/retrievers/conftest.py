"""A pool and queries small enough to encode in a second, with every odd shape a real split has."""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from PIL import Image
from support import tiny_models

from m2kr.data.images.store import ImageStore
from m2kr.data.records import Passages, Queries
from m2kr.errors import MissingError
from m2kr.retrieval.protocol import Retriever
from m2kr.retrievers import create
from m2kr.retrievers._memo import MEMO

TEXTS = (
    "The badger digs a burrow with its strong front claws.",
    "A goldfish is a small orange fish kept in ponds and bowls.",
    "Paris is the capital of France and lies on the Seine.",
    "Lima is the capital of Peru, on the Pacific coast.",
    "A lighthouse warns ships of rocks near the coast.",
    "The violin has four strings and is played with a bow.",
    "Strawberries are red fruits with seeds on the outside.",
    "A traffic light shows red, amber and green.",
    "The zebra of the African plains has black and white stripes.",
    "Copper is a metal that conducts electricity well.",
    "A glacier is a river of ice.",
    "The Amazon is the longest river of South America. " * 40,
    "Lima is the capital of Peru, on the Pacific coast.",
    "of the and",
    "山は高い。",
)


def passage_rows(texts: Sequence[str] = TEXTS) -> list[dict[str, Any]]:
    # Ids run against the order of rows, so that breaking ties by row shows.
    return [
        {
            "passage_id": f"p{len(texts) - i:03}",
            "passage_content": text,
            "language": "en",
            "title": None,
            "img_id": None,
            "img_path": None,
        }
        for i, text in enumerate(texts)
    ]


def query_row(
    name: str, question: str, image: str | None, positives: Sequence[str]
) -> dict[str, Any]:
    return {
        "question_id": name,
        "question": question,
        "instruction": "Describe what the picture shows: ",
        "img_id": None,
        "img_path": image,
        "image_id": None,
        "pos_item_ids": list(positives),
        "pos_item_contents": [],
        "answers": [],
        "gold_answer": None,
        "question_type": None,
    }


QUERIES = (
    query_row("text", "Which city is the capital of Peru?", None, ["p003", "p012", "gone"]),
    query_row("both", "Which animal has stripes?", "stripes.png", ["p007"]),
    query_row("image", "", "orange.png", ["p014"]),
    query_row("neither", " ", None, []),
    query_row("unknown words", "xyzzy plugh", "gradient.png", ["p001"]),
    {**query_row("nothing at all", "", None, ["p001"]), "instruction": ""},
)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    folder = tmp_path_factory.mktemp("images")
    stripes = Image.new("RGB", (320, 200), "white")
    for x in range(0, 320, 40):
        stripes.paste("black", (x, 0, x + 20, 200))
    stripes.save(folder / "stripes.png")
    orange = Image.new("RGB", (120, 240), "deepskyblue")
    orange.paste("darkorange", (30, 60, 90, 180))
    orange.save(folder / "orange.png")
    Image.linear_gradient("L").save(folder / "gradient.png")
    return ImageStore(folder)


@pytest.fixture
def passages(images: ImageStore) -> Passages:
    return Passages(Dataset.from_list(passage_rows()), images, "fp1:pool")


@pytest.fixture
def queries(images: ImageStore) -> Queries:
    return Queries(Dataset.from_list(list(QUERIES)), images, "fp1:queries")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Each test computes for itself."""
    MEMO.clear()
    yield
    MEMO.clear()


class _Settings(dict[str, dict[str, object]]):
    """Checkpoints that are made when they are first asked for."""

    def get(self, name: str, default: Any = None) -> Any:
        made = {
            "dual_encoder": lambda: {"model": str(tiny_models.dual_encoder("clip"))},
            "rerank": lambda: {"model": str(tiny_models.bert(labels=1))},
        }
        if name in made and name not in self and find_spec("transformers"):
            self[name] = made[name]()
        return super().get(name, default)


#: What retrievers need that have no default that works without a network.
SETTINGS = _Settings(
    {
        name: {"checkpoint": str(Path(__file__).parents[1] / "golden" / f"tiny_{name}")}
        for name in ("preflmr", "flmr")
    }
)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Retriever]:
    """Makes a retriever and has it index a pool; skips where its packages are not installed."""

    def make(spec: str, passages: Passages, **settings: object) -> Retriever:
        try:
            retriever = create(spec, SETTINGS.get(spec, {}) | settings)
        except MissingError as error:
            pytest.skip(str(error))
        folder = tmp_path / f"index{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        retriever.index(passages, workdir=folder)
        return retriever

    return make
