"""Loading a built split: passages, queries and judgements, memory-mapped."""

import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import paths
from m2kr.data.file_checks import SourceFiles
from m2kr.data.manifests import config_of, read_manifest, read_manifests
from m2kr.errors import InputError, M2KRError, MissingError, UsageError, plainly
from m2kr.schema import ID_COLUMN, TableKind, table_name
from m2kr.sources import (
    RELEASED,
    build_command,
    builder_names,
    nearest,
    normalise,
    split_name,
)

if TYPE_CHECKING:
    import os

    import numpy as np
    from datasets import Dataset

    from m2kr.data.images.store import ImageStore, Missing
    from m2kr.data.lookup import IdIndex
    from m2kr.data.records import Passages, Queries
    from m2kr.data.rows import RowReader

__all__ = ["Split", "built", "load", "locate", "manifest_of", "read_manifest", "survey"]

log = logging.getLogger("m2kr.data")


@dataclass(frozen=True)
class Split:
    """One split of a built source.

    A table's files are compared with the manifest before they are read (see `m2kr.data.file_checks`), so
    that its rows are those of the fingerprints: a damaged file, or a source that was built anew meanwhile,
    is an error.

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
        """``queries``, ``judgements``, ``pool``, ``eval``, ``image_paths``: see `m2kr.fingerprint`."""
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
        """The source's images, or None if it has no image root.

        Its roots are looked for when an image is first asked for: nothing else needs them. Those given by
        the user are looked for at once.
        """
        from m2kr.data.images.source_roots import SourceRoots
        from m2kr.data.images.store import ImageStore

        source, data_root = self.manifest["source"], self.folder.parent
        roots = SourceRoots(
            given=tuple(map(Path, self.image_roots)),
            recorded=tuple(self._root(root) for root in self.manifest["image_roots"]),
            data_root=data_root,
            store=source.get("image_store") or source["name"],
        )
        if roots.none and not self.manifest["splits"][self.split]["with_image"]:
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

        tables: dict[TableKind, str] = {
            "queries": self._table("queries", self.split),
            "passages": self._table("passages", self.pool),
        }
        with self._files.opening(*tables.values()), plainly(self.folder):
            return {
                kind: open_index(self.folder / table, ID_COLUMN[kind])
                for kind, table in tables.items()
            }

    def require_unharmed(self) -> None:
        """Refuses a split whose mapped files were written to since they were opened.

        A table that was built anew is another file: the one that is open stays as it is.

        Raises:
            CheckError: rows may have changed while they were read.
        """
        self._files.require_unharmed()

    @cached_property
    def _files(self) -> SourceFiles:
        return SourceFiles(self.folder, self.manifest)

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens the tables itself, and checks them.
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def _table(self, kind: TableKind, split: str) -> str:
        return table_name(self.manifest["source"]["config"], kind, split)

    def _dataset(self, kind: TableKind, split: str) -> "Dataset":
        from datasets import Dataset

        table = self._table(kind, split)
        with self._files.opening(table), plainly(self.folder / table):
            return Dataset.load_from_disk(str(self.folder / table), keep_in_memory=False)

    def _root(self, root: str) -> Path:
        return Path(root) if Path(root).is_absolute() else (self.folder / root).resolve()


Built = dict[str, dict[str, Path]]


def built(root: Path) -> Built:
    """What is built under a data root: source name -> edition name -> edition folder.

    A damaged manifest is warned about, and its source left out.
    """
    found, damaged = survey(root)
    for path, error in damaged.items():
        log.warning("left out: %s: %s; m2kr verify says more", path, error.what)
    return found


def survey(root: Path) -> tuple[Built, dict[Path, M2KRError]]:
    """What is built under a data root, and what is wrong with manifests that can't be read."""
    found: Built = {}
    damaged: dict[Path, M2KRError] = {}
    for edition in paths.editions(root):
        sound, wrong = read_manifests(edition)
        damaged |= wrong
        for name in sound:
            found.setdefault(name, {})[edition.name] = edition
    return found, damaged


@plainly()
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
    if own := _own_name(name, have):
        return own
    names = builder_names() | {normalise(n): n for n in have}
    if normalise(name) not in names:
        for source, editions in have.items():
            spec = manifest_of(next(iter(editions.values())), source)["source"]
            for label in (spec["config"], *spec.get("aliases", ())):
                names.setdefault(normalise(label), source)
    return nearest(name, names)


def _own_name(name: str, have: Iterable[str]) -> str | None:
    """The built source that a name means by its letters; of just that name if there is one.

    Raises:
        UsageError: several differ in punctuation alone, such as ``a-b`` and ``a_b``.
    """
    alike = [each for each in have if normalise(each) == normalise(name)]
    if name.lower() in alike:
        return name.lower()
    if len(alike) > 1:
        raise UsageError(f"'{name}' may be several sources", expected=" or ".join(alike))
    return alike[0] if alike else None


def source_of(manifest: Path) -> str:
    """The source whose manifest a file is by its name, for one that can't be read."""
    config = config_of(manifest)
    of_release = {stem: name for name, stem in RELEASED.items()}
    return of_release.get(config) or builder_names().get(normalise(config), config.lower())


def known_source(name: str, root: Path) -> str:
    """The canonical name of a source of which a data root has at least a manifest, be it damaged.

    Raises:
        UsageError: nothing of that name; suggests the nearest.
    """
    have, damaged = survey(root)
    return _canonical(name, have, {path: source_of(path) for path in damaged})


def _canonical(name: str, have: Built, owners: Mapping[Path, str]) -> str:
    if own := _own_name(name, have):
        return own
    labels = {
        normalise(x): owner for path, owner in owners.items() for x in (owner, config_of(path))
    }
    return labels.get(normalise(name)) or built_source(name, have)


def locate(source: str, *, edition: str | None, root: Path) -> tuple[str, Path, dict[str, Any]]:
    """The canonical name, edition folder and manifest of a built source; raises as `load` does."""
    have, damaged = survey(root)
    owners = {path: source_of(path) for path in damaged}
    name = _canonical(source, have, owners)
    found = have.get(name, {})
    # A damaged manifest takes part: nobody should be given another edition's rows in its place.
    wrong = {
        path.parent.name: error
        for path, error in damaged.items()
        if normalise(owners[path]) == normalise(name)
    }
    if edition is not None:
        found = {e: f for e, f in found.items() if e == edition}
        wrong = {e: error for e, error in wrong.items() if e == edition}
    if wrong and not found:
        raise next(iter(wrong.values()))
    if not found:
        where = f"edition '{edition}' under {root}" if edition else str(root)
        raise MissingError(
            f"'{name}' is not built in {where}",
            expected=f"built here: {', '.join(sorted(have)) or 'nothing yet'}",
            fix=_how_to_build(name, edition, root),
        )
    if len(found) + len(wrong) > 1:
        raise UsageError(
            f"'{name}' is built in several editions"
            + (f" (the manifest in {', '.join(wrong)} is damaged)" if wrong else ""),
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
    elif manifest.get("aligned", {}).get("differ"):
        words += "; not equal to it"
    if manifest.get("partial"):
        words += f", cut by --limit {manifest.get('limit')}"
    return words


def _how_to_build(name: str, edition: str | None, root: Path) -> str:
    """The command that builds a source; of a released one both, the authors' tables first."""
    own = shlex.join(["m2kr", "build", name, "--data", str(root)])
    if name not in RELEASED:
        return own
    first = build_command(name, "--data", str(root))
    if edition in (None, "m2kr"):
        return f"{first}  # the authors' tables; or, from upstream files: {own}"
    return own if edition == "rebuilt" else f"{own} --edition {shlex.quote(edition)}"


def manifest_of(edition: Path, source: str) -> dict[str, Any]:
    """The manifest of one source in an edition folder that holds it.

    Raises:
        MissingError: it is not there any more.
        InputError: it is damaged.
    """
    sound, damaged = read_manifests(edition)
    if source in sound:
        return sound[source]
    for path, error in damaged.items():
        if normalise(source_of(path)) == normalise(source):
            raise error
    raise MissingError(f"'{source}' is not built there any more", where=str(edition))
