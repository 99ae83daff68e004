"""A small valid submission, and tools to spoil it.

Two splits of 24 queries and 120 passages are known by judge files in a data root, so that a case costs
milliseconds: the leaderboard knows such data from their fingerprints and ranks nothing on them.
"""

import gzip
import io
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.plain_scores import PlainSplit, ranked, value
from support.toys import ToySplit, toy_split

from m2kr.export.judge import write_judge_file
from m2kr.retrieval.run import Run
from m2kr_leaderboard.recompute import recompute
from m2kr_leaderboard.scored import ScoredSubmission
from m2kr_leaderboard.submission import Submission
from m2kr_leaderboard.system_card import SubmittedRun, SystemCard, TrainingData

NAME = "spoiled"
SPLITS = {"alpha": 3, "beta": 4}  # seeds
WORDS = (
    "apple",
    "bear",
    "cherry",
    "dog",
    "eel",
    "fig",
    "goat",
    "hare",
    "iris",
    "jay",
    "kiwi",
    "lime",
)
Row = tuple[str, str, float]


def small_split(source: str) -> ToySplit:
    """A split whose ids hold what ids of true data hold: blanks, percent signs, other scripts."""
    draw = random.Random(SPLITS[source])
    passages = {
        f"{source}/p{i}{' é%'[i % 4 : i % 4 + 1].strip()}": " ".join(draw.choices(WORDS, k=6))
        for i in range(120)
    }
    ids = list(passages)
    queries = {}
    for i in range(24):
        right = [] if i % 8 == 7 else draw.sample(ids, 1 + i % 3)
        answers = [] if i % 6 == 5 else [draw.choice(WORDS), " Bear "][: 1 + i % 2]
        queries[f"{source}-q{i}"] = ("which one?", right, answers, None, ["a", "b", None][i % 3])
    split = toy_split(passages=passages, queries=queries)
    split.source = source
    split.manifest["groups"] = []  # an interval for each value of one takes most of the time
    return split


def make_data(root: Path) -> Path:
    """A data root with the judge files of both splits."""
    root.mkdir(parents=True, exist_ok=True)
    for source in SPLITS:
        write_judge_file(small_split(source), root / f"{source}.test.judge.parquet")
    return root


def ranking(source: str, seed: int = 0, depth: int = 100) -> list[Row]:
    """A run of a split: many right passages are high, all else is drawn; some scores are equal."""
    split, draw = small_split(source), random.Random(f"{source}{seed}")
    pool = split.passages_view.ids.to_pylist()
    rows = []
    for query in split.queries_view.dataset:
        order = draw.sample(pool, depth)
        for passage in query["pos_item_ids"]:
            if draw.random() < 0.7 and passage in order:
                order.remove(passage)
                order.insert(draw.randrange(12), passage)
        scores = sorted((round(draw.uniform(0, 5), 2) for _ in order), reverse=True)
        rows += [(query["question_id"], p, s) for p, s in zip(order, scores, strict=True)]
    return rows


def run_of(rows: list[Row]) -> Run:
    """The same as a run."""
    ranked: dict[str, dict[str, float]] = {}
    for query, passage, score in rows:
        ranked.setdefault(query, {})[passage] = score
    return Run.from_dict(ranked)


def parquet(rows: list[Row], **how: Any) -> bytes:
    """Rows as a Parquet file of anybody's."""
    queries, passages, scores = zip(*rows, strict=True) if rows else ((), (), ())
    table = pa.table(
        {
            "q_id": pa.array(queries, pa.string()),
            "doc_id": pa.array(passages, pa.string()),
            "score": pa.array(scores, pa.float64()),
        }
    )
    return of_table(table, **how)


def of_table(table: pa.Table, **how: Any) -> bytes:
    """Any table as a Parquet file."""
    out = io.BytesIO()
    pq.write_table(table, out, **({"compression": "zstd"} | how))
    return out.getvalue()


def trec(rows: list[Row]) -> bytes:
    """Rows as packed lines."""
    return gzip.compress(trec_lines(rows), 1, mtime=0)


def trec_lines(rows: list[Row]) -> bytes:
    """Rows as lines; ids that hold blanks are percent-encoded as our own files have them."""
    buffer, ranks = io.StringIO(), dict[str, int]()
    for query, passage, score in rows:
        ranks[query] = ranks.get(query, 0) + 1
        escaped = passage.replace("%", "%25").replace(" ", "%20")
        buffer.write(f"{query} Q0 {escaped} {ranks[query]} {score!r} m2kr+pct\n")
    return buffer.getvalue().encode()


@dataclass
class Folder:
    """A submission to spoil.

    Attributes:
        path: Its folder.
        submitted: What is handed in, if that isn't the folder.
    """

    path: Path
    submitted: Path = field(default_factory=Path)

    def __post_init__(self) -> None:
        self.submitted = self.path

    @property
    def card_path(self) -> Path:
        """Its card."""
        return self.path / "system.yaml"

    @property
    def card(self) -> dict[str, Any]:
        """What the card says."""
        facts: dict[str, Any] = yaml.safe_load(self.card_path.read_text(encoding="utf-8"))
        return facts

    @card.setter
    def card(self, facts: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(dict(facts), allow_unicode=True, sort_keys=False, width=10**9)
        self.card_path.write_text(text, encoding="utf-8")

    def set(self, key: str, value: Any) -> None:
        """Another value; ``runs/0/k`` is that of the first run."""
        facts = self.card
        place: Any = facts
        *way, last = key.split("/")
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        place[int(last) if isinstance(place, list) else last] = value
        self.card = facts

    def drop(self, key: str) -> None:
        """No such key."""
        facts = self.card
        place: Any = facts
        *way, last = key.split("/")
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        del place[last]
        self.card = facts

    def retext(self, old: str, new: str) -> None:
        """Another text in the card as it is written."""
        text = self.card_path.read_text(encoding="utf-8")
        assert old in text
        self.card_path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def run_file(self, number: int = 0) -> Path:
        """A run's file; the first is Parquet, the second TREC."""
        return self.path / self.card["runs"][number]["file"]

    def set_rows(self, change: Callable[[list[Row]], list[Row]], number: int = 0) -> None:
        """Other rows in a run; what the card says of it is true of them, if anything can be."""
        facts = self.card["runs"][number]
        rows = change(ranking(facts["source"]))
        file = self.run_file(number)
        file.write_bytes(parquet(rows) if file.suffix == ".parquet" else trec(rows))
        self.claim(rows, number)

    def claim(self, rows: list[Row], number: int = 0) -> None:
        """Has the card say what is true of these rows, as far as they are a run."""
        try:
            self.set(f"runs/{number}/run_sha256", run_of(rows).sha256())
        except Exception:  # noqa: BLE001 - they are no run: that is the case
            self.set(f"runs/{number}/run_sha256", "0" * 64)
        self.set(f"runs/{number}/scores", {})


Spoil = Callable[[Folder], None]
# In the place of a check: odd, but harmless. It may be taken, if its scores are those of the plain loops.
RIGHT = "taken with right scores"


@dataclass(frozen=True)
class Case:
    """A spoiled submission.

    Attributes:
        name: Of the case.
        checks: Names of the checks of which one must refuse it.
        spoil: What is done to a valid submission.
        says: Texts that the refusal must hold.
    """

    name: str
    checks: tuple[str, ...]
    spoil: Spoil
    says: tuple[str, ...] = ()


CASES: dict[str, Case] = {}


def refused(*checks: str, says: str | tuple[str, ...] = ()) -> Callable[[Spoil], Spoil]:
    """The function below spoils a submission so that one of these checks must refuse it."""

    def register(spoil: Spoil) -> Spoil:
        texts = (says,) if isinstance(says, str) else says
        add(spoil.__name__, checks, spoil, texts)
        return spoil

    return register


def add(name: str, checks: tuple[str, ...], spoil: Spoil, says: tuple[str, ...] = ()) -> None:
    """A case by its parts."""
    assert name not in CASES, name
    CASES[name] = Case(name, checks, spoil, says)


def copy_of(valid: Path, target: Path) -> Folder:
    """A submission of one's own to spoil."""
    shutil.copytree(valid, target / NAME)
    return Folder(target / NAME)


def listing(*folders: Path) -> dict[str, int]:
    """Everything below some folders with its size."""
    return {str(p): p.lstat().st_size for folder in folders for p in _below(folder)}


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)


def valid_submission(folder: Path) -> Path:
    """The submission that all cases begin with: a run as Parquet and one as TREC lines."""
    path = folder / NAME
    (path / "runs").mkdir(parents=True)
    runs = []
    for source, suffix, write in (("alpha", "parquet", parquet), ("beta", "trec.gz", trec)):
        rows = ranking(source)
        file = f"runs/{source}.test.{suffix}"
        (path / file).write_bytes(write(rows))
        ranking_of = ranked(rows, 100)
        claims = {m: value(m, plain(source), ranking_of)[0] for m in ("hit_rate@5", "mrr@10")}
        runs.append(
            {
                "source": source,
                "split": "test",
                "edition": "here",
                "file": file,
                "fingerprint": small_split(source).fingerprints["eval"],
                "k": 100,
                "run_sha256": run_of(rows).sha256(),
                "scores": claims,
                "cost": {"seconds_per_query": 0.01, "device": "CPU"},
            }
        )
    (path / "README.md").write_text("Made for tests.\n", encoding="utf-8")
    Folder(path).card = {
        "format": "m2kr-submission-1",
        "name": NAME,
        "title": "A system to spoil",
        "version": "1.0",
        "authors": ["A. Tester", "B. Tester"],
        "contact": "tester@example.org",
        "licence": "MIT",
        "kind": "single-stage",
        "query_modalities": ["text"],
        "passage_modalities": ["text"],
        "parameters": 1000,
        "training_data": [{"source": "elsewhere", "split": "train"}],
        "zero_shot": {"alpha": True, "beta": True},
        "hardware": "a laptop",
        "m2kr_version": "0.1.0",
        "links": {
            name: f"https://example.org/{name}" for name in ("paper", "code", "model", "page")
        },
        "note": "Nothing.",
        "runs": runs,
    }
    return path


def plain(source: str) -> PlainSplit:
    """A split for the plain loops."""
    split = small_split(source)
    queries = split.queries_view.dataset
    passages = split.passages_view.dataset
    return PlainSplit(
        dict(zip(queries["question_id"], queries["pos_item_ids"], strict=True)),
        dict(zip(queries["question_id"], queries["answers"], strict=True)),
        dict(zip(passages["passage_id"], passages["passage_content"], strict=True)),
    )


@dataclass(frozen=True)
class Place:
    """A data root with two judge files, and a valid submission on them."""

    data: Path
    valid: Path


def few(cases: Mapping[str, Case], most: int = 6) -> list[Any]:
    """Some cases of each kind of refusal, as parameters of a test."""
    seen: dict[tuple[str, ...], list[Any]] = {}
    for name, case in cases.items():
        seen.setdefault(case.checks, []).append(pytest.param(case, id=name))
    return [one for of_kind in seen.values() for one in of_kind[:: -(-len(of_kind) // most)]]


def params(cases: Mapping[str, Case]) -> list[Any]:
    """All cases as parameters of a test; by default only a few of each kind are run."""
    default = {param.id for param in few(cases, 3)}
    return [
        pytest.param(case, id=name, marks=[] if name in default else [pytest.mark.slow])
        for name, case in cases.items()
    ]


def scored_unseen(folder: Path, data: Path) -> ScoredSubmission:
    """What the scorer makes of a submission at whose form no door has looked."""
    facts = Folder(folder).card
    del facts["format"]
    facts["training_data"] = tuple(TrainingData(**one) for one in facts["training_data"])
    facts["runs"] = tuple(SubmittedRun(**run) for run in facts["runs"])
    return recompute(Submission(folder, SystemCard(**facts), "0" * 64), data)
