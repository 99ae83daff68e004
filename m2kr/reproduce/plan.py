"""What a reproduction takes: bytes to fetch, disk, and hours by machine; without network or torch.

Sizes are of the public record. Hours are arithmetic: the products that a model and exact search need,
by what machines were seen or are sold to do a second. Nobody who wrote this has had the released weights.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from m2kr.building.registry import builder
from m2kr.building.release.builder import about_bytes
from m2kr.data.built_sources import BuiltSources
from m2kr.data.load import load
from m2kr.errors import M2KRError, UsageError
from m2kr.reproduce.targets import Target
from m2kr.schema import SUFFIX
from m2kr.search.plan import PoolSize, plan_pool
from m2kr.sources import RELEASED, builder_modules

_BERT = 85e6  # parameters of BERT-base that a token passes
_QUERY_TOKENS, _DIM = 32, 128
# By checkpoint: parameters of its vision encoder without embeddings, positions of an image, query rows.
_VISION = {
    "LinWeizheDragon/PreFLMR_ViT-B": (85e6, 50, 113),
    "LinWeizheDragon/PreFLMR_ViT-L": (303e6, 257, 320),
    "LinWeizheDragon/PreFLMR_ViT-G": (1.84e9, 257, 320),
}
# Products a second, least and most: of encoding in float32, of exact search.
MACHINES = {
    "2 CPU cores": ((7e10, 2.4e11), (1.1e11, 9e11)),
    "16 CPU cores": ((5.6e11, 1.9e12), (8.8e11, 7e12)),
    "a data-centre GPU": ((1e13, 5e13), (2e13, 2e14)),
}


@dataclass(frozen=True, slots=True)
class _Size:
    """Of a source's test split, roughly.

    Attributes:
        tokens: Of a passage, from the mean length of its text.
        images: Bytes that are fetched of images.
        how: Where from.
    """

    tokens: int
    images: int
    how: str


_SIZES = {
    "wit": _Size(350, 360_000_000, "5,120 files of a zip of 199 GB in five parts"),
    "iglue": _Size(350, 50_000_000, "685 files of the same zip"),
    "kvqa": _Size(90, 26_000_000_000, "a tar.gz, which can only be read whole"),
    "msmarco": _Size(77, 0, ""),
    "oven": _Size(175, 2_000_000_000, "5,120 files of 258 GB; tars are indexed once"),
    "llava": _Size(100, 840_000_000, "files of a zip of 13.5 GB"),
    "okvqa": _Size(139, 830_000_000, "files of a zip of 6.6 GB"),
    "infoseek": _Size(450, 8_960_000_000, "a tar, at most; it is indexed once"),
    "evqa": _Size(240, 2_960_000_000, "files of a zip of 8.9 GB, and a tar of 2.8 GB"),
}


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """What one source takes.

    Attributes:
        source: Its name.
        built: Whether its data are here.
        data_bytes: Of the release's files that would be fetched, at most; None if unknown.
        images_here: Share of its images that are here; None as long as it isn't built.
        image_bytes: To fetch, roughly; None if unknown.
        images_from: Where from.
        disk_bytes: Of token embeddings (float16) and an index of 8 bits together; None if unknown.
        encode_flop: Of passages and queries; None if unknown.
        search_flop: Of exact search; None if unknown.
    """

    source: str
    built: bool
    data_bytes: int | None
    images_here: float | None
    image_bytes: int | None
    images_from: str
    disk_bytes: int | None
    encode_flop: float | None
    search_flop: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a target takes.

    Attributes:
        target: Its name.
        weights: Hub id or folder; empty for a retriever without.
        weights_here: Whether they are on this machine.
        weights_bytes: To fetch; None if unknown.
        sources: Each.
    """

    target: str
    weights: str
    weights_here: bool
    weights_bytes: int | None
    sources: tuple[SourcePlan, ...]

    def totals(self) -> dict[str, Any]:
        """Sums over the sources (of what is known), and hours by machine."""
        fetched = [self.weights_bytes, *(size for s in self.sources for size in _to_fetch(s))]
        encode = sum(source.encode_flop or 0 for source in self.sources)
        search = sum(source.search_flop or 0 for source in self.sources)
        return {
            "fetch_bytes": sum(size or 0 for size in fetched),
            "unknown": fetched.count(None),
            "disk_bytes": sum(source.disk_bytes or 0 for source in self.sources),
            "encode_flop": encode,
            "search_flop": search,
            "hours": {
                name: {
                    "encode": [round(encode / rate / 3600, 3) for rate in reversed(encoding)],
                    "exact search": [
                        round(search / rate / 3600, 3) for rate in reversed(searching)
                    ],
                }
                for name, (encoding, searching) in MACHINES.items()
                if encode
            },
        }

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self) | {"totals": self.totals()}


def plan_target(target: Target, root: Path, overrides: Mapping[str, str]) -> Plan:
    """What a target takes, and what of it is here; nothing is fetched.

    Args:
        target: To be reproduced.
        root: The data root.
        overrides: Settings of the retriever in place of the target's.
    """
    target = resolve_sources(target, root)
    weights = {**target.settings, **overrides}.get("checkpoint", "")
    here = not weights or _have_weights(weights)
    size = None if target.parameters is None else 4 * target.parameters
    return Plan(
        target.name,
        weights,
        here,
        0 if here else size,
        tuple(_plan_source(target, source, root) for source in target.sources),
    )


def _to_fetch(source: SourcePlan) -> tuple[int | None, int | None]:
    images = 0 if source.images_here == 1 else source.image_bytes
    return 0 if source.built else source.data_bytes, images


def _plan_source(target: Target, source: str, root: Path) -> SourcePlan:
    size = _SIZES.get(source)
    released = source in RELEASED and source in builder_modules()
    built, share = _here(target, source, root)
    if not released or size is None or target.split != "test":
        return SourcePlan(source, built, None, share, None, "", None, None, None)
    spec = builder(source).source
    queries, pool = spec.expected["test"], spec.expected[spec.pools["test"]]
    data = about_bytes(f"{spec.config}_{SUFFIX['queries']}", spec.expected, "test")
    data += about_bytes(f"{spec.config}_{SUFFIX['passages']}", spec.expected, spec.pools["test"])
    vision = _VISION.get(target.settings.get("checkpoint", ""))
    disk = encode = search = None
    if vision is not None:
        parameters, positions, query_rows = vision
        encode = 2 * _BERT * (pool * size.tokens + queries * _QUERY_TOKENS)
        encode += 2 * parameters * positions * queries
        search = 2.0 * query_rows * _DIM * pool * size.tokens * queries
        stored = plan_pool(PoolSize(pool, size.tokens))
        disk = stored.store_bytes + stored.index_bytes[8]
    return SourcePlan(source, built, data, share, size.images, size.how, disk, encode, search)


def resolve_sources(target: Target, root: Path) -> Target:
    """The target with its sources by their own names.

    Raises:
        UsageError: there is no source of a name; suggests the nearest.
    """
    built = BuiltSources.below(root)
    figures = (replace(one, source=built.name_of(one.source)) for one in target.figures)
    return replace(target, figures=tuple(figures))


def built_edition(target: Target, source: str, root: Path) -> str | None:
    """The edition to take a source from: of a source of the release, one that has its rows.

    Raises:
        UsageError: several have it.
    """
    found = {}
    for name, one in BuiltSources.below(root).editions.get(source, {}).items():
        record = one.manifest
        if target.split not in record["splits"] or target.edition not in (None, name):
            continue
        theirs = record.get("route") in ("release", "aligned") and not record.get("partial")
        if target.edition is None and source in RELEASED and not theirs:
            continue
        found[name] = record
    if len(found) > 1:  # those of the release itself, or else whole ones, come first
        for first in (
            [name for name, record in found.items() if record.get("route") == "release"],
            [name for name, record in found.items() if not record.get("partial")],
        ):
            if len(first) == 1:
                return first[0]
        raise UsageError(
            f"several editions hold {source}",
            where=str(root),
            expected=f"edition: {' or '.join(sorted(found))}, in the file of figures",
        )
    return next(iter(found), None)


def _here(target: Target, source: str, root: Path) -> tuple[bool, float | None]:
    """Whether a split is built, and which share of its queries' images is here."""
    from m2kr.building.images.coverage import absent_images, required_images

    edition = built_edition(target, source, root)
    if edition is None:
        return False, None
    try:
        data = load(source, target.split, edition=edition, data=root)
        needed = required_images(data)
        lacking = len(absent_images([needed], data.images))
    except M2KRError:
        return True, None
    return True, 1 - lacking / len(needed.paths) if len(needed.paths) else 1.0


def _have_weights(checkpoint: str) -> bool:
    if Path(checkpoint).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        names = ("model.safetensors", "model.safetensors.index.json")
        return any(isinstance(try_to_load_from_cache(checkpoint, name), str) for name in names)
    except HFValidationError:
        return False
