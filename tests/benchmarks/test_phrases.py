"""Phrase search on a Zipf corpus, beside bm25s on the same corpus and queries, in one run."""

import shutil
from pathlib import Path

import pytest
from support.own_process import WHOLE, cost

STEPS = Path(__file__).with_name("phrase_cost.py")
GB, MB = 10**9, 10**6
PSGS_W100 = 21_015_324


@pytest.mark.parametrize("rows", [30_000, *([1_000_000] if WHOLE else [])])
@pytest.mark.slow
def test_phrases(tmp_path: Path, rows: int) -> None:
    made = cost(STEPS, "corpus", tmp_path, rows)
    built = cost(STEPS, "index", tmp_path, rows)
    ours = cost(STEPS, "search", tmp_path, rows)
    truth = cost(STEPS, "scan", tmp_path, rows)
    rival = cost(STEPS, "bm25s", tmp_path, rows)
    shutil.rmtree(tmp_path)

    scale = PSGS_W100 / rows
    print(
        f"index: {rows / built['seconds']:,.0f} passages/s (bm25s {rows / rival['seconds']:,.0f}), "
        f"{built['bytes'] / made['characters']:.2f} bytes per character, {built['peak'] / MB:.0f} MB\n"
        f"EXTRAPOLATED to {PSGS_W100:,}: {scale * built['seconds'] / 3600:.1f} h, "
        f"{scale * built['bytes'] / GB:.0f} GB"
    )
    for kind in ("title", "answer"):
        speed = ours[kind]["per_second"]
        print(
            f"{kind}: {speed:,.1f} phrases/s, remembered {ours[kind]['remembered_per_second']:,.0f}/s, "
            f"bm25s without phrases {rival[kind]['per_second']:,.1f}/s; "
            f"EXTRAPOLATED to {PSGS_W100:,}, hits growing with rows: {speed / scale:,.1f} phrases/s"
        )
        assert ours[kind]["passages"] == truth[kind]
        # bm25s scores every passage at once with no positions; ours finds less but must not crawl.
        assert speed >= rival[kind]["per_second"] / 20
        assert ours[kind]["remembered_per_second"] >= 500
    assert built["peak"] <= 1 * GB
    assert built["bytes"] <= 4 * made["characters"]
    assert built["seconds"] <= 6 * rival["seconds"]
