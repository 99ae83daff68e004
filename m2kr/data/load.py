"""Loading a built split: passages, queries and judgements, memory-mapped."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import paths
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.schema import SUFFIX, TableKind
from m2kr.sources import RELEASED, build_command, builder_names, nearest, normalise, split_name

if TYPE_CHECKING:
    import os

    import numpy as np
    from datasets import Dataset

    from m2kr.data.images import ImageStore, Missing
    from m2kr.data.lookup import IdIndex
    from m2kr.data.records import Passages, Queries
    from m2kr.data.rows import RowReader


@dataclass(frozen=True)
class Split:
    """One split of a built source.

    Attributes:
        source: Source name, such as ``mini``.
        split: ``train``, ``valid``, ``test`` or one of the source's own.
        folder: The edition folder.
        manifest: The source's manifest.
        image_roots: Roots searched before those that the manifest names.
        missing_images: What a path that no root holds leads to: ``error``, ``black`` or ``skip``.
    """

    source: str
    split: str
    folder: Path
    manifest: dict[str, Any]
    image_roots: tuple[str, ...] = ()
    missing_images: "Missing" = "error"

    @property
    def edition(self) -> str:
        """Name of the edition."""
        return self.folder.name

    @property
    def pool(self) -> str:
        """The passage split that this split's queries are searched in."""
        return str(self.manifest["splits"][self.split]["pool"])

    @property
    def fingerprints(self) -> dict[str, str]:
        """``queries``, ``judgements``, ``pool`` and ``eval`` (see `m2kr.fingerprint`)."""
        return dict(self.manifest["fingerprints"][self.split])

    @property
    def relevance_threshold(self) -> float:
        """The grade from which a passage counts as right."""
        return float(self.manifest.get("relevance_threshold", 1))

    @cached_property
    def queries(self) -> "Dataset":
        """Query rows."""
        return self._dataset("queries", self.split)

    @cached_property
    def passages(self) -> "Dataset":
        """Passage rows of the pool."""
        return self._dataset("passages", self.pool)

    @cached_property
    def qrels(self) -> "Dataset":
        """Judgements: ``question_id, passage_id, relevance``."""
        return self._dataset("qrels", self.split)

    @cached_property
    def images(self) -> "ImageStore | None":
        """The source's images, or None if it has no image root."""
        from m2kr.data.image_places import places
        from m2kr.data.images import ImageStore

        source, data_root = self.manifest["source"], self.folder.parent
        named = [self._root(r) for r in self.manifest["image_roots"]]
        named += places(data_root, source.get("image_store") or source["name"])
        if self.image_roots:  # the user's own may stand in for roots that have moved
            named = [root for root in named if root.exists()]
        roots = [*map(Path, self.image_roots), *named]
        if not roots and not self.manifest["splits"][self.split]["with_image"]:
            return None
        return ImageStore(
            roots,
            missing=self.missing_images,
            cache=data_root / ".cache" / "images",
            names=source.get("image_names", ()),
        )

    @cached_property
    def queries_view(self) -> "Queries":
        """The queries as retrievers are given them."""
        from m2kr.data.records import Queries

        return Queries(self.queries, self.images, self.fingerprints["queries"])

    @cached_property
    def passages_view(self) -> "Passages":
        """The pool as retrievers are given it."""
        from m2kr.data.records import Passages

        return Passages(self.passages, self.images, self.fingerprints["pool"])

    def passage(self, passage_id: str) -> dict[str, Any]:
        """The passage of an id, found in constant time.

        Raises:
            InputError: the pool has no such passage.
        """
        return self._row("passages", self.pool, passage_id)

    def query(self, question_id: str) -> dict[str, Any]:
        """The query of an id, found in constant time.

        Raises:
            InputError: the split has no such query.
        """
        return self._row("queries", self.split, question_id)

    def passage_rows(self, ids: Iterable[str]) -> "np.ndarray":
        """Rows (int64) of passages by id; -1 for ids that the pool lacks."""
        return self._access["passages"][0].rows(ids)

    def texts(self, rows: "Sequence[int] | np.ndarray") -> list[str]:
        """Texts of the passages at some rows."""
        from m2kr.data.lookup import gather

        return gather(self.passages.data.column("passage_content"), rows)

    def _row(self, kind: TableKind, split: str, row_id: str) -> dict[str, Any]:
        index, reader = self._access[kind]
        number = index.row(row_id)
        if number < 0:
            what = {"queries": "query", "passages": "passage"}[kind]
            raise InputError(f"there is no {what} {row_id!r}", where=f"{self.source}/{split}")
        return reader.row(number)

    @cached_property
    def _access(self) -> "dict[TableKind, tuple[IdIndex, RowReader]]":
        from m2kr.data.lookup import open_index

        return {
            "queries": open_index(self._folder("queries", self.split), "question_id"),
            "passages": open_index(self._folder("passages", self.pool), "passage_id"),
        }

    def _folder(self, kind: TableKind, split: str) -> Path:
        return self.folder / f"{self.manifest['source']['config']}_{SUFFIX[kind]}" / split

    def _dataset(self, kind: TableKind, split: str) -> "Dataset":
        from datasets import Dataset

        folder = self._folder(kind, split)
        if not (folder / "state.json").exists():
            raise MissingError(
                "this table is gone, though its manifest says that it was built",
                where=str(folder),
                fix=f"m2kr build {self.source} --force",
            )
        return Dataset.load_from_disk(str(folder), keep_in_memory=False)

    def _root(self, root: str) -> Path:
        return Path(root) if Path(root).is_absolute() else (self.folder / root).resolve()


def built(root: Path) -> dict[str, dict[str, Path]]:
    """What is built under a data root: source name -> edition name -> edition folder."""
    found: dict[str, dict[str, Path]] = {}
    for edition in paths.editions(root):
        for path in sorted(edition.glob("*_manifest.json")):
            name = read_manifest(path)["source"]["name"]
            found.setdefault(name, {})[edition.name] = edition
    return found


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest file.

    Raises:
        InputError: it is not JSON, or not a manifest of this version.
    """
    from m2kr.schema import MANIFEST_FORMAT

    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"not JSON: {error}", where=str(path), fix="build the source again"
        ) from error
    if not isinstance(record, dict) or record.get("format") != MANIFEST_FORMAT:
        raise InputError(
            "not a manifest that this version of m2kr reads",
            where=str(path),
            expected=f'"format": "{MANIFEST_FORMAT}"',
            fix="build the source again, or upgrade m2kr",
        )
    return record


def load(
    source: str,
    split: str = "test",
    *,
    edition: str | None = None,
    data: "str | os.PathLike[str] | None" = None,
    images: Sequence[str | Path] = (),
    missing_images: "Missing" = "error",
) -> Split:
    """A built split, memory-mapped; nothing is read until it is asked for.

    Args:
        source: Source name or alias; case and punctuation do not matter.
        split: Split name or alias (``val``, ``validation``).
        edition: Edition name; may be left out if one edition alone holds the source.
        data: Data root; see `m2kr.paths.data_root`.
        images: Image roots (folders, zip, tar, Arrow files) searched before the source's own.
        missing_images: ``error``, ``black`` or ``skip``.

    Raises:
        UsageError: no such source or split, or several editions hold the source.
        MissingError: the source is not built.

    Example:
        >>> import m2kr
        >>> mini = m2kr.load("mini", "test")  # doctest: +SKIP
        >>> mini.passage("factbook/gb/flag")["title"]  # doctest: +SKIP
    """
    name, folder, manifest = locate(source, edition=edition, root=paths.data_root(data))
    return Split(
        source=name,
        split=split_name(split, tuple(manifest["splits"])),
        folder=folder,
        manifest=manifest,
        image_roots=tuple(map(str, images)),
        missing_images=missing_images,
    )


def built_source(name: str, have: Mapping[str, Mapping[str, Path]]) -> str:
    """The canonical name of a source that is built, or has a builder; no builder is imported.

    Args:
        name: What was typed: case and punctuation don't matter, and aliases of what is built count.
        have: What is built; see `built`.

    Raises:
        UsageError: nothing of that name; suggests the nearest.
    """
    names = builder_names() | {normalise(n): n for n in have}
    if normalise(name) not in names:
        for source, editions in have.items():
            spec = manifest_of(next(iter(editions.values())), source)["source"]
            for label in (spec["config"], *spec.get("aliases", ())):
                names.setdefault(normalise(label), source)
    return nearest(name, names)


def locate(source: str, *, edition: str | None, root: Path) -> tuple[str, Path, dict[str, Any]]:
    """The canonical name, edition folder and manifest of a built source; raises as `load` does."""
    have = built(root)
    name = built_source(source, have)
    found = have.get(name, {})
    if edition is not None:
        found = {e: f for e, f in found.items() if e == edition}
    if not found:
        where = f"edition '{edition}' under {root}" if edition else str(root)
        raise MissingError(
            f"'{name}' is not built in {where}",
            expected=f"built here: {', '.join(sorted(have)) or 'nothing yet'}",
            fix=_how_to_build(name, edition, root),
        )
    if len(found) > 1:
        raise UsageError(
            f"'{name}' is built in several editions",
            expected="one of "
            + "; ".join(
                f"{e} ({edition_in_words(manifest_of(f, name))})" for e, f in found.items()
            ),
            fix=f"--edition {next(iter(found))}",
        )
    folder = next(iter(found.values()))
    return name, folder, manifest_of(folder, name)


def edition_in_words(manifest: Mapping[str, Any]) -> str:
    """What an edition of a source is, such as "the authors' release", for lines that name it."""
    route, name = manifest["route"], manifest["source"]["name"]
    words = {
        "release": "the authors' release",
        "aligned": "rebuilt from upstream files, with the rows of the release",
        "import": "imported from a user's files",
    }.get(route, "built from upstream files")
    variants = manifest["source"].get("variants", {}).values()
    titles = [v["title"] for v in variants if v["options"].items() <= manifest["options"].items()]
    if route == "sources" and titles:
        words = titles[0]
    elif route == "sources" and name in RELEASED:
        words = "rebuilt from upstream files, not aligned with the release"
    if manifest.get("partial"):
        words += f", cut by --limit {manifest.get('limit')}"
    return words


def _how_to_build(name: str, edition: str | None, root: Path) -> str:
    """The command that builds a source; of a released one both, the authors' tables first."""
    own = f"m2kr build {name} --data {root}"
    if name not in RELEASED:
        return own
    first = build_command(name, "--data", str(root))
    if edition in (None, "m2kr"):
        return f"{first}   (the authors' tables; from upstream files: {own})"
    return own if edition == "rebuilt" else f"{own} --edition {edition}"


def manifest_of(edition: Path, source: str) -> dict[str, Any]:
    """The manifest of one source in an edition folder that holds it."""
    records = map(read_manifest, sorted(edition.glob("*_manifest.json")))
    return next(record for record in records if record["source"]["name"] == source)
