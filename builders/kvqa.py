"""KVQA: people in images to passages about them.

By the release route; the sources route is not written yet.
"""

from m2kr.sources import Source

SOURCE = Source(
    name="kvqa",
    config="KVQA",
    title="KVQA: people in images to passages about them",
    task="I2T",
    pools={"train": "train_passages", "valid": "valid_passages", "test": "test_passages"},
    headline="hit_rate@5",
    licence="research use; exact terms not stated upstream",
    homepage="https://malllabiisc.github.io/resources/kvqa/",
    citation="""@inproceedings{shah2019kvqa,
  title={{KVQA}: Knowledge-Aware Visual Question Answering},
  author={Shah, Sanket and others},
  booktitle={AAAI}, year={2019}
}""",
    summary="An image of people must retrieve the passage about them.",
    expected={
        "train": 64_396,
        "valid": 13_365,
        "test": 5_120,
        "train_passages": 16_215,
        "valid_passages": 4_648,
        "test_passages": 4_648,
    },
    aliases=(),
    released=True,
)
