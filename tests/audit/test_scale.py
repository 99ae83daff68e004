"""Time and memory of an audit; `M2KR_WHOLE=1` for 1.3 million passages."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PASSAGES = 1_300_000 if os.environ.get("M2KR_WHOLE") else 60_000


def write_folder(folder: Path, passages: int) -> Path:
    """Passages of 60 words that are frequent as in a language; each thousandth repeats the one before."""
    draw = np.random.default_rng(1)
    letters = draw.integers(97, 123, (100_000, 7), np.uint8)
    words = np.array([bytes(row[: 2 + i % 6]).decode() for i, row in enumerate(letters)], object)
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for start in range(0, passages, 10_000):
            places = np.minimum(draw.zipf(1.25, (10_000, 60)) - 1, len(words) - 1)
            places[1::1000] = places[::1000]
            for i, row in enumerate(words[places], start):
                file.write(f'{{"_id": "p{i}", "text": "{" ".join(row)}"}}\n')
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
        for i in range(5000):
            asked = " ".join(words[draw.integers(0, 5000, 8)])
            file.write(f'{{"_id": "q{i}", "text": "{asked} {i}", "answers": ["{words[i]}"]}}\n')
    rows = (f"q{i}\tp{draw.integers(passages)}\t1\n" for i in range(5000))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
    return folder


@pytest.mark.slow
def test_more_than_a_million_passages_take_a_minute_and_two_gigabytes(tmp_path):
    folder = write_folder(tmp_path / "big", PASSAGES)
    code = (
        "import sys\n"
        "from m2kr.audit.audit import audit\n"
        "from m2kr.evaluation.memory import highest_memory\n"
        "report = audit(sys.argv[1])\n"
        "copies = [f.hit.count for f in report.findings if f.code == 'duplicate-texts']\n"
        "print(copies[0], highest_memory())\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-c", code, str(folder)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{PASSAGES:,} passages: {seconds:.0f} s of processor, {int(said[1]) / 1e9:.2f} GB")
    assert int(said[0]) == PASSAGES // 1000
    # Two processors: what they work in a minute is twice as much; a busy machine takes longer.
    assert seconds <= 6 + 60 * PASSAGES / 1_300_000
    assert int(said[1]) <= 2e9
