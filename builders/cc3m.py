"""CC3M: images to their captions (training only).

The pairs are LLaVA's pre-training set. Its ``metadata.json`` adds machine captions and image addresses,
neither of which the benchmark has, so it isn't needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m2kr.building.fetch.assets import Asset, ImageArchive, Shape
from m2kr.building.fetch.hub import file_url
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.schema import Column
from m2kr.sources import Option, Rule, Source

from ._images import flat_path, hub
from ._rows import image_query, parsed_items, problem_of

_LICENCE = "Conceptual Captions terms; images for research only"

SOURCE = Source(
    name="cc3m",
    config="CC",
    title="CC3M: images to their captions (training only)",
    task="I2T",
    pools={"train": "train_passages"},
    headline="hit_rate@5",
    version=1,
    licence=_LICENCE,
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
    options=(
        Option(
            "instruction",
            "list",
            "Instruction of a query: drawn from the list of templates, or the prompt upstream has "
            "beside the caption.",
            ("list", "chat"),
        ),
    ),
    rules=(
        Rule(
            "instruction_of",
            "a query's instruction is drawn from LLaVA's prompts, and isn't the one beside its "
            "caption",
            "ours",
            "instruction",
        ),
        Rule("pair_id", "queries and passages bear upstream's id of the pair", "ours"),
    ),
    image_notes=(
        "the hub's liuhaotian/LLaVA-CC3M-Pretrain-595K, images.zip (6.46 GB), also in "
        "BByrneLab/M2KR_Images as CC3M/images.zip; point --images at the zip",
    ),
)

_REPO = "liuhaotian/LLaVA-CC3M-Pretrain-595K"
_REVISION = "814894e93db9e12a1dee78b9669e20e8606fd590"
CHAT = "cc3m/chat.json"
_KEYS = ("id", "image", "conversations")


@dataclass(frozen=True, slots=True)
class _Pair:
    """An image with its caption.

    Attributes:
        row: Number of its item.
        id: Upstream's.
        img_path: File name of the image.
        prompt: What upstream asks beside it, without the mark for the image.
        caption: The caption as it is.
    """

    row: int
    id: str
    img_path: str
    prompt: str
    caption: str


class CC3M(Builder):
    """Captions, found by their image."""

    source = SOURCE
    image_archives = (
        ImageArchive(
            "cc3m/images.zip",
            files=(
                (
                    hub("CC3M/images.zip"),
                    hub("images.zip", _REPO, _REVISION),
                ),
            ),
            kind="zip",
            about=6_460_000_000,
        ),
    )
    # The release's own ids aren't known upstream, the images' file names are.
    release_keys = {"passages": ("img_path",), "queries": ("img_path",)}

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """The one file of conversations."""
        return [
            Asset(
                CHAT,
                (file_url(_REPO, _REVISION, "chat.json"),),
                about=211_000_000,
                licence=_LICENCE,
                shape=Shape("json", _KEYS),
            )
        ]

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """The captions."""
        for pair in _pairs(ctx):
            yield {
                "passage_id": self.pair_id(pair),
                "passage_content": pair.caption,
                "img_id": pair.id,
                "img_path": pair.img_path,
                "original_data_id": pair.id,
            }

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The images."""
        for pair in _pairs(ctx):
            own = self.pair_id(pair)
            yield image_query(ctx, own, pair.id, pair.img_path) | {
                "instruction": self.instruction_of(ctx, pair),
                "pos_item_ids": [own],
                "original_data_id": [pair.id],
            }

    @staticmethod
    def instruction_of(ctx: BuildContext, pair: _Pair) -> str:
        """A drawn template, or upstream's prompt with the colon that ends a template."""
        return (
            f"{pair.prompt}:" if ctx.options["instruction"] == "chat" else ctx.instruction(pair.id)
        )

    @staticmethod
    def pair_id(pair: _Pair) -> str:
        """Id of the query and of the passage of a pair."""
        return pair.id


BUILDER = CC3M


def _pairs(ctx: BuildContext) -> Iterator[_Pair]:
    """Upstream's pairs in its order, each noted as used."""
    path, seen = ctx.files[CHAT], set[str]()
    expected = (
        '[{"id": …, "image": …, "conversations": [{"from": "human", "value": …}, '
        '{"from": "gpt", "value": …}]}, …]'
    )
    for pair in parsed_items(path, ctx.ledger, lambda row, item: _pair(row, item, seen), expected):
        ctx.ledger.use(path.name, pair.row)
        yield pair


def _pair(row: int, item: Any, seen: set[str]) -> _Pair | str:
    """An item, or what is wrong with it."""
    if problem := problem_of(item, _KEYS):
        return problem
    own, image, turns = (item[name] for name in _KEYS)
    img_path = flat_path(image)
    if not isinstance(own, str) or not own.strip():
        return "no id"
    if img_path is None:
        return "no image"
    try:
        (speaker, prompt), (listener, caption) = ((turn["from"], turn["value"]) for turn in turns)
    except (TypeError, KeyError, ValueError):
        return "not one prompt and one caption"
    if (speaker, listener) != ("human", "gpt"):
        return "not one prompt and one caption"
    if not isinstance(caption, str) or not caption.strip():
        return "no caption"
    prompt = prompt.replace("<image>", "").strip() if isinstance(prompt, str) else ""
    if not prompt:
        return "no prompt"
    if own in seen:
        return "an id used twice"
    seen.add(own)
    return _Pair(row, own, img_path, prompt, caption)
