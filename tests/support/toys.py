"""A split small enough to work out by hand, shaped like a loaded one, and two encoders for it."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image

from m2kr.data.images.store import ImageStore
from m2kr.data.records import Passages, Queries
from m2kr.evaluation.harness import evaluate_split
from m2kr.fingerprint import combine, pool_part, query_parts
from m2kr.retrieval.encoder import EncoderRetriever

PASSAGES = {
    "p/apple": "The apple is a red fruit.",
    "p/bear": "A bear is a big animal that likes honey.",
    "p/cherry": "Cherry: small, red.",
    "p/dog": "Dogs bark.",
}
# id: question, positives, answers, image, kind
QUERIES = {
    "q1": ("apple fruit", ["p/apple"], ["red"], "a.png", "fruit"),
    "q2": ("bear honey", ["p/bear", "p/dog"], ["Honey "], None, "animal"),
    "q3": ("small cherry", ["p/cherry"], [], "b.png", "fruit"),
    "q4": ("bark bark", [], ["", "woof"], None, None),
}


@dataclass
class ToySplit:
    queries_view: Queries
    passages_view: Passages
    qrels: Dataset
    images: ImageStore | None
    fingerprints: dict[str, str]
    source: str = "toy"
    split: str = "test"
    edition: str = "here"
    folder: Path = field(default_factory=Path)
    image_roots: tuple[str, ...] = ()
    missing_images: str = "error"
    manifest: dict = field(
        default_factory=lambda: {
            "groups": ["kind"],
            "headline": "hit_rate@5",
            "partial": False,
            "comparable": "",
        }
    )

    @property
    def label(self) -> str:
        return f"{self.source}/{self.split} ({self.edition})"

    @property
    def passages(self) -> Dataset:
        return self.passages_view.dataset

    def require_unharmed(self) -> None:
        """Nothing lies on disk."""


def toy_split(images=None, judged=True, passages=PASSAGES, queries=QUERIES, grades=None):
    """The split; ``images`` is an ImageStore or None, ``grades`` those of the positives by query."""
    rows = {
        "question_id": list(queries),
        "question": [q[0] for q in queries.values()],
        "instruction": ["Find: "] * len(queries),
        "img_path": [q[3] for q in queries.values()],
        "pos_item_ids": [q[1] if judged else [] for q in queries.values()],
        "answers": [q[2] if judged else [] for q in queries.values()],
        "kind": [q[4] for q in queries.values()],
    }
    if grades is not None:
        rows["pos_item_grades"] = [grades[q] for q in queries]
    pairs = [(q, p) for q, row in queries.items() for p in row[1] if judged]
    query_table = Dataset.from_dict(rows)
    pool = Dataset.from_dict(
        {
            "passage_id": list(passages),
            "passage_content": list(passages.values()),
            "img_path": [None] * len(passages),
        }
    )
    qrels = Dataset.from_dict(
        {
            "question_id": [q for q, _ in pairs],
            "passage_id": [p for _, p in pairs],
            "relevance": [1] * len(pairs),
        }
    )
    texts, judgements = query_parts(query_table.data.table)
    of_pool = pool_part(pool.data.table)
    parts = {"queries": texts, "judgements": judgements, "pool": of_pool}
    fingerprints = parts | {"eval": combine(**parts)}
    return ToySplit(
        Queries(query_table, images, texts),
        Passages(pool, images, of_pool),
        qrels,
        images,
        fingerprints,
    )


def image_folder(folder, *names):
    """A folder with one small picture per name."""
    for shade, name in enumerate(names):
        Image.new("RGB", (4, 4), (shade * 40, 0, 0)).save(folder / name)
    return folder


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def letters(text):
    """A vector of letter counts: the same for a text in any batch."""
    return np.array([text.lower().count(letter) for letter in LETTERS], float)


class Dense(EncoderRetriever):
    name = "letters"

    def __init__(self, batch_size=2):
        self.batch_size = batch_size
        self.batches = []

    def encode_query(self, batch):
        self.batches.append(batch)
        return np.stack([letters(t) for t in batch.texts])

    def encode_document(self, batch):
        self.batches.append(batch)
        return np.stack([letters(t) for t in batch.texts])


class Late(Dense):
    """One vector a word, and a masked row."""

    def encode_query(self, batch):
        return [
            np.stack([letters(w) / 10 for w in t.split()] + [np.zeros(26)]) for t in batch.texts
        ]

    encode_document = encode_query


class Counted(Late):
    """Late interaction that may be cached; counts what it encodes."""

    def __init__(self, key=None):
        super().__init__(2)
        self.key = {"a": 1} if key is None else key
        self.count = {"query": 0, "document": 0}

    def cache_key(self, side):
        return self.key

    def encode_query(self, batch):
        self.count["query"] += len(batch)
        return super().encode_query(batch)

    def encode_document(self, batch):
        self.count["document"] += len(batch)
        return super().encode_query(batch)


class CountedDense(Counted):
    """One vector a row."""

    def encode_query(self, batch):
        return np.stack([rows.sum(0) for rows in super().encode_query(batch)])

    def encode_document(self, batch):
        return np.stack([rows.sum(0) for rows in super().encode_document(batch)])


def counted(split, folder, **options):
    """Rows that are encoded by side when a split is searched with a cache in a folder."""
    one = Counted(**options)
    evaluate_split(split, one, k=5, cache=folder)
    return one.count
