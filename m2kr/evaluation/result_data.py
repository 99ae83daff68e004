"""The split that a result was made on, found again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from m2kr import paths
from m2kr.data.load import Split, load
from m2kr.errors import CheckError, InputError, M2KRError, MissingError, UsageError

if TYPE_CHECKING:
    from os import PathLike


class MadeOnSplit(Protocol):
    """A result of any kind: it tells on which split it was made."""

    @property
    def source(self) -> str:
        """Source name."""

    @property
    def split(self) -> str:
        """Split name."""

    @property
    def edition(self) -> str:
        """Edition."""

    @property
    def fingerprints(self) -> Mapping[str, str | None]:
        """Of the split."""

    @property
    def experiment(self) -> Mapping[str, Any]:
        """What was done: ``data``, where the split lay, and ``images``, the roots that were used."""


def open_split(
    result: MadeOnSplit,
    *,
    data: "str | PathLike[str] | None" = None,
    images: Sequence[str | Path] = (),
) -> Split:
    """The split that a result was made on: the same queries, judgements and passages.

    It is looked for below the data root that is given, then where the result says that it lay, then
    below the default data root. Images that are missing are errors, whatever the evaluation did.

    Args:
        result: A result.
        data: Data root.
        images: Image roots searched first; those of the evaluation that are still there if absent.

    Raises:
        MissingError: no data root has it.
        InputError: its manifest is damaged.
        CheckError: it was built anew and is another one: its ``eval`` fingerprint differs.
    """
    recorded = result.experiment.get("data")
    roots = [paths.data_root(data)] if data is not None else []
    roots += [Path(str(recorded)).parent] if recorded else []
    used = [root for root in map(str, result.experiment.get("images", ())) if Path(root).exists()]
    roots = list(dict.fromkeys([*roots, paths.data_root()]))
    wrong: list[str] = []
    lacking: list[M2KRError] = []
    for root in roots:
        try:
            split = load(
                result.source,
                result.split,
                edition=result.edition,
                data=root,
                images=list(images) or used,
            )
        except (InputError, MissingError, UsageError) as error:
            lacking.append(error)
            continue
        if split.fingerprints.get("eval") == result.fingerprints.get("eval"):
            return split
        wrong.append(str(split.folder))
    name = f"{result.source}/{result.split} ({result.edition})"
    if wrong:
        raise CheckError(
            f"{name} is not the split any more that the result was made on: it was built anew from other "
            "data",
            where=", ".join(wrong),
            expected=f"the fingerprint {result.fingerprints.get('eval')}",
            fix="evaluate again, or give the data root that has it (m2kr diff tells what changed)",
        )
    raise next((error for error in lacking if isinstance(error, InputError)), None) or MissingError(
        f"{name}, on which the result was made, is not here",
        where=", ".join(map(str, roots)),
        expected="a data root with this source",
        fix=f"{lacking[0].fix}; or give the data root that has it",
    )
