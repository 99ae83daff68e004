"""A small builder for the engine's tests; as a program it builds itself, to be killed half-way.

python tests/support/toy_builder.py ROOT [ROWS] [JOBS] [PAUSE]
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from m2kr.building.build import build
from m2kr.building.fetch.assets import Asset
from m2kr.building.spec import BuildContext, Builder
from m2kr.sources import Source


@dataclass
class ToyBuilder(Builder):
    """``rows`` passages, half as many queries; some upstream rows are faulty.

    ``pause`` seconds are slept every 500 rows, so that a test can kill a build at work.
    """

    rows: int = 100
    pause: float = 0.0
    wrong_positive: bool = False
    duplicate: bool = False
    asset_list: tuple[Asset, ...] = ()

    source = Source(
        name="toy",
        config="TOY",
        title="A toy",
        task="IQ2T",
        pools={"train": "train_passages", "valid": "test_passages", "test": "test_passages"},
        headline="hit_rate@5",
        licence="CC0-1.0",
        comparable="a toy",
    )

    def assets(self, options: Mapping[str, str]) -> list[Asset]:
        return list(self.asset_list)

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[dict]:
        for i in range(self.rows):
            if i % 97 == 5:
                ctx.ledger.drop("bad row", file="up.txt", row=i + 1, detail="unreadable")
                continue
            if i % 97 == 6:
                ctx.ledger.repair("blank title", file="up.txt", row=i + 1)
            if i % 500 == 0:
                time.sleep(self.pause)
            name = "p1" if self.duplicate and i == 3 else f"p{i}"
            yield {"passage_id": name, "passage_content": f"{pool[:5]} text {i} " * 8}

    def queries(self, ctx: BuildContext, split: str) -> Iterator[dict]:
        for i in range(self.rows // 2):
            if i % 97 == 5:
                ctx.ledger.filter("no positive")
                continue
            if i % 500 == 0:
                time.sleep(self.pause)
            yield {
                "question_id": f"{split}-{i}",
                "question": f"where is {i}?",
                "instruction": "Find: ",
                "pos_item_ids": ["nowhere"] if self.wrong_positive and i == 7 else [f"p{i}"],
                "answers": [str(i)],
            }


if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    jobs = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    pause = float(sys.argv[4]) if len(sys.argv) > 4 else 0.01
    build(ToyBuilder(count, pause=pause), Path(sys.argv[1]), jobs=jobs)
