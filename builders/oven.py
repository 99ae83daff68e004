"""OVEN: image and question to the entity's passage.

By the release route; the sources route is not written yet.
"""

from m2kr.schema import Column
from m2kr.sources import Source

SOURCE = Source(
    name="oven",
    config="OVEN",
    title="OVEN: image and question to the entity's passage",
    task="IQ2T",
    pools={"train": "train_passages", "valid": "valid_passages", "test": "test_passages"},
    headline="hit_rate@5",
    licence="Apache-2.0 (annotations); images keep the terms of their 14 source sets",
    homepage="https://github.com/open-vision-language/oven",
    citation="""@inproceedings{hu2023oven,
  title={Open-domain Visual Entity Recognition: Towards Recognizing Millions of Wikipedia Entities},
  author={Hu, Hexiang and others},
  booktitle={ICCV}, year={2023}
}""",
    summary="A question about what an image shows must retrieve the passage of the entity.",
    expected={
        "train": 339_137,
        "valid": 119_136,
        "test": 5_120,
        "train_passages": 7_943,
        "valid_passages": 3_192,
        "test_passages": 3_192,
    },
    aliases=(),
    released=True,
    query_columns=(
        Column("wiki_entity", nullable=True, doc="Name of the entity in the image."),
        Column("wiki_entity_id", nullable=True, doc="Its Wikidata id."),
    ),
)
