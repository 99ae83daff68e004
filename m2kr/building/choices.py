"""What all tables and parts of one build share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from m2kr.instructions import TemplateList
from m2kr.sources import Source


@dataclass(frozen=True)
class Choices:
    """What all tables of one build share; picklable.

    Attributes:
        staging: The source's staging folder.
        files: Local upstream files by asset name.
        options: Every builder option.
        splits: The query splits that are built.
        limit: Queries kept per split (and passages beside the positives), or None for all.
        seed: For keyed choices.
        derived: Folder of what is made from upstream files and kept.
        templates: The instructions that queries are given.
        full_ledger: Write used and filtered rows to the ledger, too.
    """

    staging: Path
    files: Mapping[str, Path]
    options: Mapping[str, str]
    splits: tuple[str, ...]
    limit: int | None = None
    seed: int = 0
    derived: Path | None = None
    templates: TemplateList | None = None
    full_ledger: bool = False


def narrowed(source: Source, splits: Sequence[str]) -> Source:
    """A source with some of its query splits."""
    if len(splits) == len(source.pools):
        return source
    return replace(source, pools={split: source.pools[split] for split in splits})
