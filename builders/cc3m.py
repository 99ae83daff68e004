"""CC3M: images to their captions (training only).

By the release route; the sources route is not written yet.
"""

from m2kr.schema import Column
from m2kr.sources import Source

SOURCE = Source(
    name="cc3m",
    config="CC",
    title="CC3M: images to their captions (training only)",
    task="I2T",
    pools={"train": "train_passages"},
    headline="hit_rate@5",
    licence="Conceptual Captions terms; images for research only",
    homepage="https://huggingface.co/datasets/liuhaotian/LLaVA-CC3M-Pretrain-595K",
    citation="""@inproceedings{sharma2018conceptual,
  title={Conceptual Captions: A Cleaned, Hypernymed, Image Alt-text Dataset For Automatic Image Captioning},
  author={Sharma, Piyush and others},
  booktitle={ACL}, year={2018}
}""",
    summary="595K image-caption pairs, used for training alone.",
    expected={
        "train": 595_375,
        "train_passages": 595_375,
    },
    aliases=("cc3m-595k", "conceptual-captions"),
    released=True,
    query_columns=(Column("original_data_id", "list<string>", doc="Upstream ids of the pair."),),
    passage_columns=(Column("original_data_id", nullable=True, doc="Upstream id of the pair."),),
)
