"""IGLUE: the English WIT retrieval test.

By the release route; the sources route is not written yet.
"""

from m2kr.sources import Source

from ._wit import WIT_COLUMNS

SOURCE = Source(
    name="iglue",
    config="IGLUE",
    title="IGLUE: the English WIT retrieval test",
    task="I2T",
    pools={"test": "test_passages"},
    headline="hit_rate@1",
    licence="CC BY-SA 3.0 (texts)",
    homepage="https://github.com/e-bug/iglue",
    citation="""@inproceedings{bugliarello2022iglue,
  title={{IGLUE}: A Benchmark for Transfer Learning across Modalities, Tasks, and Languages},
  author={Bugliarello, Emanuele and others},
  booktitle={ICML}, year={2022}
}""",
    summary="685 images, 1,000 passages; a test set only.",
    expected={
        "test": 685,
        "test_passages": 1_000,
    },
    aliases=("iglue-en", "wit-iglue"),
    released=True,
    passage_columns=WIT_COLUMNS,
)
