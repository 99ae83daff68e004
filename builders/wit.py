"""WIT: Wikipedia images to their passages.

By the release route; the sources route is not written yet.
"""

from m2kr.schema import Column
from m2kr.sources import Source

from ._wit import WIT_COLUMNS

SOURCE = Source(
    name="wit",
    config="WIT",
    title="WIT: Wikipedia images to their passages",
    task="I2T",
    pools={"train": "train_passages", "valid": "valid_passages", "test": "test_passages"},
    headline="hit_rate@10",
    licence="CC BY-SA 3.0 (texts); images keep their own terms",
    homepage="https://github.com/google-research-datasets/wit",
    citation="""@inproceedings{srinivasan2021wit,
  title={{WIT}: Wikipedia-based Image Text Dataset for Multimodal Multilingual Machine Learning},
  author={Srinivasan, Krishna and others},
  booktitle={SIGIR}, year={2021}
}""",
    summary="An image must retrieve the Wikipedia passages it illustrates.",
    expected={
        "train": 2_810_679,
        "valid": 19_994,
        "test": 5_120,
        "train_passages": 4_120_010,
        "valid_passages": 39_478,
        "test_passages": 39_478,
    },
    aliases=(),
    released=True,
    query_columns=(
        Column(
            "original_data_id",
            "list<string>",
            doc="WIT rows (split and number) with this image.",
        ),
    ),
    passage_columns=WIT_COLUMNS,
)
