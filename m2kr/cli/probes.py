"""``m2kr build --probe``: what upstream's files are like today, and when they were last as expected."""

import datetime
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from m2kr.cli import output
from m2kr.errors import M2KRError, UpstreamError

if TYPE_CHECKING:
    from m2kr.build.download.job import Policy
    from m2kr.build.probing.probe import Probed
    from m2kr.build.spec import Asset

log = logging.getLogger("m2kr.cli.probes")

FILE = "probes.json"
RELEASE = (
    "not probed: the release route is checked by a build, whose counts of rows must be the published "
    "ones"
)
_SAID = {
    "ok": ("ok", "green"),
    "drift": ("drift", "red"),
    "gated": ("gated", "yellow"),
    "unreachable": ("unreachable", "red"),
    "manual": ("by hand", ""),
    "package": ("in a package", ""),
}


def show(
    builders: Sequence[Any],
    root: Path,
    given: Mapping[str, str],
    edition: str | None,
    *,
    json: bool,
    policy: "Policy | None" = None,
) -> None:
    """Asks for the first MB of every file that some builds need, and tells what is other than expected.

    If all files of a source are as expected, that is remembered in ``probes.json`` of the data root.

    Raises:
        UsageError: an option is unknown or has a wrong value.
        typer.Exit: with `UpstreamError`'s code, if a file isn't as expected or can't be had.
    """
    from m2kr.build.options import resolve_options

    assets: dict[str, Sequence[Asset]] = {}
    skipped: dict[str, str] = {}
    for builder in builders:
        source = builder.SOURCE
        if hasattr(builder, "patterns"):  # the release route, which has no assets
            skipped[source.name] = RELEASE
        else:
            assets[source.name] = builder.assets(resolve_options(source, given, edition))
    found = _probed(assets, policy)
    by_source = {name: [found[asset.name] for asset in each] for name, each in assets.items()}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    good = {
        name: {"date": today, "assets": _facts(files)}
        for name, files in by_source.items()
        if any(f.status == "ok" for f in files) and all(f.fine for f in files)
    }
    if good:
        _remember(root, good)
    bad = sum(not file.fine for file in found.values())
    if json:
        entries: list[dict[str, Any]] = [
            {"source": name, "files": [asdict(f) for f in files], "skipped": None}
            for name, files in by_source.items()
        ]
        entries += [{"source": n, "files": [], "skipped": why} for n, why in skipped.items()]
        output.emit({"data": str(root), "ok": not bad, "sources": entries})
    else:
        _show(by_source, skipped)
        _say_result(list(found.values()), root, list(good))
    if bad:
        raise typer.Exit(UpstreamError.exit_code)


def _probed(
    assets: Mapping[str, "Sequence[Asset]"], policy: "Policy | None"
) -> dict[str, "Probed"]:
    """What was found by file; one that several sources share is asked for once."""
    from m2kr.build.probing.probe import PATIENCE, probe

    unique = {asset.name: asset for each in assets.values() for asset in each}
    users = {
        name: [s for s, each in assets.items() if name in {a.name for a in each}] for name in unique
    }
    with output.Bars() as bars:
        for source, each in assets.items():
            bars.start(source, len(each), "files")

        def done(file: "Probed") -> None:
            for source in users[file.name]:
                bars.advance(source, 1)

        found = probe(list(unique.values()), policy=policy or PATIENCE, done=done)
    return {file.name: file for file in found}


def _facts(files: "Sequence[Probed]") -> dict[str, dict[str, int | None]]:
    return {f.name: {"rows": f.rows, "size": f.size} for f in files if f.status == "ok"}


def _show(by_source: Mapping[str, "Sequence[Probed]"], skipped: Mapping[str, str]) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(
        "source",
        Column("file", overflow="fold"),
        Column("state", no_wrap=True),
        Column("size", justify="right", no_wrap=True),
        Column("rows parsed", justify="right"),
        Column("problem", overflow="fold"),
    )
    for source, files in by_source.items():
        for file in files:
            word, style = _SAID[file.status]
            table.add_row(
                source,
                file.name,
                Text(word, style=style),
                "-" if file.size is None else output.size(file.size),
                "-" if file.rows is None else f"{file.rows:,}",
                file.problem,
            )
    if table.row_count:
        output.console().print(table)
    for source, why in skipped.items():
        output.say(f"{source}: {why}")


def _say_result(files: "Sequence[Probed]", root: Path, good: Sequence[str]) -> None:
    asked = [f for f in files if f.status not in {"manual", "package"}]
    if not asked:
        output.say("no file to ask for")
        return
    counts = [
        f"{n} {_SAID[s][0]}"
        for s in _SAID
        if (n := sum(f.status == s for f in asked)) and s != "ok"
    ]
    fine = sum(f.fine for f in asked)
    output.say(", ".join([f"{fine} of {len(asked)} files are as expected", *counts]))
    if good:
        output.say(f"parsed on real bytes: {', '.join(good)} (kept in {root / FILE})")
    if any(f.status == "drift" for f in asked):
        output.say(
            "a file that drifted is another than this m2kr was written for: please report its row "
            "above; the authors' own tables don't need it: m2kr build SOURCE --route release"
        )


def _remember(root: Path, good: Mapping[str, Any]) -> None:
    from m2kr import atomic
    from m2kr.locks import hold

    try:
        root.mkdir(parents=True, exist_ok=True)
        with hold(root / f".{FILE}.lock", str(root / FILE)):
            atomic.write_json(root / FILE, read(root) | dict(good), alone=True)
    except (OSError, M2KRError) as error:
        log.warning("the result can't be kept: %s", error)


def read(root: Path) -> dict[str, dict[str, Any]]:
    """What ``probes.json`` of a data root remembers, by source; nothing of a damaged one."""
    import orjson

    path = root / FILE
    try:
        entries = orjson.loads(path.read_bytes())
        for entry in entries.values():
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"]):
                raise ValueError("an entry without a date")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged and passed over: %s", path, error or type(error).__name__)
        return {}
    return dict(entries)


def has_urls(source: str) -> bool:
    """Whether a source's own files come from the network."""
    from m2kr import sources
    from m2kr.build.options import resolve_options

    builder = sources.builder(source)
    if not hasattr(builder, "assets"):
        return False
    assets = builder.assets(resolve_options(builder.SOURCE, {}))
    return any(url.startswith(("http://", "https://")) for a in assets for url in a.urls)
