"""Results made of scores alone, for what comes after an evaluation."""

import numpy as np

from m2kr.evaluation.result import Result


def made_result(name, scores, *, query_ids=None, **changes):
    """A result of a retriever; ``scores`` is by metric the queries' scores, NaN where undefined."""
    scores = {metric: np.asarray(values, float) for metric, values in scores.items()}
    n = len(next(iter(scores.values()))) if scores else 0
    metrics = {
        metric: {
            "value": None if np.isnan(v).all() else float(np.nanmean(v)),
            "low": None,
            "high": None,
            "n": int((~np.isnan(v)).sum()),
        }
        for metric, v in scores.items()
    }
    first = next(iter(scores), "")
    facts = {
        "source": "toy",
        "split": "test",
        "edition": "here",
        "retriever": {"name": name, "settings": {}, "modalities": {}},
        "k": 500,
        "headline": first,
        "metrics": metrics,
        "groups": {},
        "counts": {"queries": n},
        "images": None,
        "fingerprints": {part: f"fp1:{part}" for part in ("queries", "judgements", "pool", "eval")},
        "run_sha256": name,
        "partial": False,
        "comparable": "",
        "seconds": {"total": 1.0},
        "peak_memory_bytes": None,
        "bytes_per_passage": None,
        "versions": {},
        "shown": list(scores),
        "scores": scores,
        "query_ids": tuple(query_ids or [f"q{i:06}" for i in range(n)]),
    }
    return Result(**facts | changes)
