"""What is built under a data root: sources by name, each in its editions."""

import logging
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2kr import paths
from m2kr.data.manifests import Manifest, config_of, read_manifests, source_of
from m2kr.errors import M2KRError, MissingError, UsageError
from m2kr.schema import TableKind, table_name
from m2kr.sources import RELEASED, build_command, builder_names, nearest_source, normalise

log = logging.getLogger("m2kr.data")


@dataclass(frozen=True)
class BuiltSource:
    """A source in one edition.

    Attributes:
        folder: The edition folder.
        manifest: The source's manifest.
    """

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """Of the source."""
        return str(self.manifest["source"]["name"])

    @property
    def config(self) -> str:
        """Stem of its tables' names."""
        return str(self.manifest["source"]["config"])

    def table(self, kind: TableKind, split: str) -> str:
        """The folder of one of its tables, below the edition's."""
        return table_name(self.config, kind, split)


class BuiltSources:
    """The sources that some edition folders hold.

    Args:
        folders: The edition folders.
        root: The data root that they lie in.

    Attributes:
        editions: By source name and edition.
        damaged: The manifests that can't be read, and why.
    """

    def __init__(self, folders: Iterable[Path], root: Path) -> None:
        self.editions: dict[str, dict[str, BuiltSource]] = {}
        self.damaged: dict[Path, M2KRError] = {}
        self._root = root
        for folder in folders:
            sound, damaged = read_manifests(folder)
            self.damaged |= damaged
            for name, manifest in sound.items():
                self.editions.setdefault(name, {})[folder.name] = BuiltSource(folder, manifest)

    @classmethod
    def below(cls, root: Path) -> "BuiltSources":
        """All that is built under a data root."""
        return cls(paths.editions(root), root)

    def warn_of_damaged(self) -> None:
        """Logs which sources are left out."""
        for path, error in self.damaged.items():
            log.warning("left out: %s: %s; m2kr verify says more", path, error.what)

    def damaged_of(self, name: str) -> list[Path]:
        """The damaged manifests of a source."""
        return [path for path in self.damaged if normalise(source_of(path)) == normalise(name)]

    def name_of(self, name: str) -> str:
        """The canonical name of a source that is built, be its manifest damaged, or that has a builder.

        No builder is imported.

        Args:
            name: What was typed: case and punctuation don't matter, and aliases of what is built count.

        Raises:
            UsageError: nothing of that name, which suggests the nearest; or several are built that
                differ in punctuation alone, such as ``a-b`` and ``a_b``.
        """
        alike = [each for each in self.editions if normalise(each) == normalise(name)]
        if name.lower() in alike:
            return name.lower()
        if len(alike) > 1:
            raise UsageError(f"'{name}' may be several sources", expected=" or ".join(alike))
        if alike:
            return alike[0]
        for path in self.damaged:
            if normalise(name) in map(normalise, (source_of(path), config_of(path))):
                return source_of(path)
        names = builder_names() | {normalise(each): each for each in self.editions}
        if normalise(name) not in names:
            for source, editions in self.editions.items():
                spec = next(iter(editions.values())).manifest["source"]
                for label in (spec["config"], *spec.get("aliases", ())):
                    names.setdefault(normalise(label), source)
        return nearest_source(name, names)

    def find(self, name: str, edition: str | None = None) -> BuiltSource:
        """The one edition of a source.

        Args:
            name: As for `name_of`.
            edition: Which; may be left out if one edition alone holds the source.

        Raises:
            UsageError: no such source, or several editions hold it.
            MissingError: it is not built.
            InputError: its manifest is damaged.
        """
        name = self.name_of(name)
        found = self.editions.get(name, {})
        # A damaged manifest takes part: nobody should be given another edition's rows in its place.
        wrong = {path.parent.name: self.damaged[path] for path in self.damaged_of(name)}
        if edition is not None:
            found = {e: f for e, f in found.items() if e == edition}
            wrong = {e: error for e, error in wrong.items() if e == edition}
        if wrong and not found:
            raise next(iter(wrong.values()))
        if not found:
            where = f"edition '{edition}' under {self._root}" if edition else str(self._root)
            raise MissingError(
                f"'{name}' is not built in {where}",
                expected=f"built here: {', '.join(sorted(self.editions)) or 'nothing yet'}",
                fix=_how_to_build(name, edition, self._root),
            )
        if len(found) + len(wrong) > 1:
            words = [f"{e} ({edition_in_words(f.manifest)})" for e, f in found.items()]
            raise UsageError(
                f"'{name}' is built in several editions"
                + (f" (the manifest in {', '.join(wrong)} is damaged)" if wrong else ""),
                expected="one of " + "; ".join(words),
                fix=f"--edition {next(iter(found))}",
            )
        return next(iter(found.values()))


def edition_in_words(manifest: Mapping[str, Any]) -> str:
    """What an edition of a source is, such as "the authors' release", for lines that name it."""
    route, name = manifest["route"], manifest["source"]["name"]
    words = {
        "release": "the authors' release",
        "aligned": "rebuilt from upstream files, with the rows of the release",
        "import": "imported from a user's files",
    }.get(route, "built from upstream files")
    inputs = [entry.get("url") or "" for entry in manifest.get("inputs") or ()]
    if route == "sources" and inputs and all(url.startswith("package:") for url in inputs):
        words = "built from files inside the package"
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
