"""Tensor names of checkpoints: the many that mean one parameter, and the one that we use and write.

Ours are the official names with ``query_`` for what both sides share. A file may instead say

* ``context_…`` for a shared module, or both names with equal tensors;
* ``…_text_encoder.text_model.…`` for ``bert_model``, as newer official code registers it twice;
* ``…_vision_encoder.vision_model.encoder…`` without the inner ``vision_model``, as transformers 5
  names its CLIP;
* ``position_ids`` buffers and ``cls.…`` heads, which no computation reads.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from m2kr.errors import InputError

if TYPE_CHECKING:
    from m2kr.preflmr.model.configuration import PreFLMRConfig

IGNORED = re.compile(r"cls\..*|.*\.embeddings\.position_ids")
_TEXT = re.compile(r"((?:query|context)_text_encoder)\.text_model\.")
_VISION = re.compile(r"((?:query|context)_vision_encoder\.vision_model)\.(?!vision_model\.)")
_NAMES_SHOWN = 6


def canonical(name: str, config: "PreFLMRConfig") -> str | None:
    """Our name for a checkpoint's tensor; None for tensors that are known to be of no use.

    Args:
        name: The name in the file.
        config: Tells which modules both sides share.
    """
    if IGNORED.fullmatch(name):
        return None
    name = _TEXT.sub(r"\1.bert_model.", name)
    name = _VISION.sub(r"\1.vision_model.", name)
    shared = (
        ("text", config.separate_query_and_context_text_encoder),
        ("vision", config.separate_query_and_context_vision_encoder),
    )
    for kind, separate in shared:
        if not separate and name.startswith(f"context_{kind}_"):
            return name.replace("context", "query", 1)
    return name


@dataclass(frozen=True, slots=True)
class Match:
    """A checkpoint's tensors against a model's parameters.

    Attributes:
        sources: Per parameter the names in the file; several where an alias pair is stored twice.
        missing: Parameters that the file lacks.
        unexpected: Names in the file that no parameter has.
        misshapen: Names in the file whose shape is wrong, each with a sentence.
    """

    sources: dict[str, list[str]]
    missing: list[str]
    unexpected: list[str]
    misshapen: dict[str, str]

    @property
    def complete(self) -> bool:
        """Whether the file holds the model, all of it and nothing else."""
        return not (self.missing or self.unexpected or self.misshapen)

    def require(self, where: str) -> None:
        """Raises an `InputError` that names the tensors if the file does not hold the model."""
        if self.complete:
            return
        faults = [
            f"{len(names)} {what}: {_some(names)}"
            for what, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of a wrong shape", self.misshapen.values()),
            )
            if names
        ]
        raise InputError(
            "the tensors are not those of the model in config.json; " + "; ".join(faults),
            where=where,
            fix=f"m2kr model info {where}",
        )


def match(
    found: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
    config: "PreFLMRConfig",
) -> Match:
    """Which of a checkpoint's tensors is which parameter.

    Args:
        found: Shapes by the file's names.
        wanted: Shapes by our names.
        config: Tells which modules both sides share.
    """
    sources: dict[str, list[str]] = {}
    unexpected = []
    misshapen = {}
    for name, shape in found.items():
        ours = canonical(name, config)
        if ours is None:
            continue
        if ours not in wanted:
            unexpected.append(name)
            continue
        sources.setdefault(ours, []).append(name)
        if shape != wanted[ours]:
            misshapen[name] = f"{name} is {_shape(shape)}, not {_shape(wanted[ours])}"
    missing = [name for name in wanted if name not in sources]
    return Match(sources, missing, unexpected, misshapen)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a scalar"
