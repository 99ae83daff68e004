"""What a plan says of a pool, and what that pool then takes, in one process.

    python plan_cost.py check FOLDER PASSAGES

Prints one JSON object: bytes and seconds a query, planned and real. Seconds are CPU seconds divided
by threads, on both sides.
"""

import json
import sys
from pathlib import Path

from late_corpus import Corpus

from m2kr.search.late import compressed, exact
from m2kr.search.late.index.build import BuildSettings, build, pool_of
from m2kr.search.late.index.kmeans import Training
from m2kr.search.late.planning.plan import Pool, plan
from m2kr.search.late.store import TokenStore
from m2kr.search.late.store_writer import TokenWriter

K, QUERIES, THREADS = 100, 40, 2


def check(folder: Path, passages: int) -> dict:
    corpus = Corpus(passages)
    with TokenWriter(folder / "store", dim=128) as writer:
        for number, tokens in enumerate(corpus.matrices(QUERIES)):
            writer.append([f"passage{number:07}"], [tokens])
    queries = corpus.queries()
    store = TokenStore.open(folder / "store")
    planned = plan(
        Pool(passages, store.tokens / passages, 128, 14.0), rows=100, k=K, threads=THREADS
    )
    # How good the centroids are hardly matters for time and not for bytes.
    settings = BuildSettings(training=Training(iterations=1))
    files = build(pool_of(store), folder / "index", settings)
    index = compressed.CompressedIndex(files)
    exact.search(queries[:2], store, K, threads=THREADS)
    real = {
        "exact": exact.search(queries, store, K, threads=THREADS)[2].cpu_seconds,
        "compressed": compressed.search(queries, index, K, threads=THREADS)[2].cpu_seconds,
    }
    told = {mode: planned.total(mode, len(queries)) for mode in real}
    sizes = [sum(p.stat().st_size for p in (folder / n).iterdir()) for n in ("store", "index")]
    return {
        "centroids": [planned.centroids, files.settings.centroids],
        "store": [planned.store_bytes, sizes[0]],
        "index": [planned.index_bytes[files.settings.nbits], sizes[1]],
        "calibrated_in": planned.calibrated_in,
        **{m: [told[m] / len(queries), real[m] / THREADS / len(queries)] for m in real},
        "parts": dict(planned.seconds),
    }


if __name__ == "__main__":
    print(json.dumps(check(Path(sys.argv[2]), int(sys.argv[3]))))
