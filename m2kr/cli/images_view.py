"""What ``m2kr images`` shows: the plan, and the coverage of each split."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from m2kr.cli import output

if TYPE_CHECKING:
    from m2kr.building.images.declared import ImageArchive
    from m2kr.building.images.from_archives import FetchOptions
    from m2kr.building.images.gather import ImageReport, ImageRequest
    from m2kr.data.load import Split

_HOW = {
    "zip": "read in part",
    "tar": "read in part, by an index",
    "tar.gz": "only whole (--whole)",
}


def show_plan(request: "ImageRequest", fetch_options: "FetchOptions", *, json: bool) -> None:
    """Says what is needed, what of it is here, and where the rest can be had; uses no network."""
    from m2kr.building.images.coverage import absent_images, required_images

    first = request.splits[0]
    required = [required_images(split, passages=request.passages) for split in request.splits]
    absent = absent_images(required, first.images)
    usable = request.usable_archives()
    told: dict[str, Any] = {
        "source": first.source,
        "edition": first.edition,
        "needed": {of_split.split: len(of_split.paths) for of_split in required},
        "lacking": len(absent),
        "roots": [str(root) for root in first.images.roots] if first.images else [],
        "store": str(request.store(fetch_options.folder)),
        "archives": [
            {
                "name": archive.name,
                "bytes": archive.about,
                "how": _how(archive, fetch_options),
                "may have": sum(map(archive.may_hold, absent)),
                "used": archive in usable,
                "gate": archive.gate,
                "files": [mirrors[0] for mirrors in archive.addresses()],
            }
            for archive in request.archives
        ],
        "notes": first.manifest["source"].get("image_notes", []),
    }
    if json:
        output.emit(told)
        return
    counts = ", ".join(f"{split} {n:,}" for split, n in told["needed"].items())
    output.say(f"images needed: {counts}; {len(absent):,} are not here")
    for root in told["roots"] or ["no image root yet"]:
        output.say(f"  looked in {root}")
    rows = [
        (each["name"], f"{each['may have']:,}", output.size(each["bytes"]), each["how"])
        for each in told["archives"]
        if each["used"]
    ]
    if rows:
        _table(f"fetched into {told['store']}", ("from", "may have", "size", "how"), rows)
    for each in told["archives"]:
        if not each["used"] and not request.only:
            output.say(f"not unless asked: --from {each['name']} ({output.size(each['bytes'])})")
    for note in told["notes"]:
        output.say(f"note: {note}")


def _how(archive: "ImageArchive", fetch_options: "FetchOptions") -> str:
    if archive.kind == "tar" and fetch_options.index_of(archive).exists():
        return "read in part"
    return _HOW[archive.kind]


def show_report(report: "ImageReport") -> None:
    """The coverage, what was fetched, and what is wrong."""
    for got in report.archives:
        output.say(
            f"{got.archive}: {got.added:,} images added, {output.size(got.received)} received"
        )
    rows = [
        (
            each.split,
            f"{each.needed:,}",
            f"{each.ok:,}",
            f"{each.damaged:,}",
            f"{each.missing:,}",
            f"{each.share:.1%}",
        )
        for each in report.coverage.splits
    ]
    split: Split = report.request.splits[0]
    title = f"images of {split.source} ({split.edition})"
    _table(title, ("split", "needed", "sound", "damaged", "missing", "coverage"), rows)
    for reason, n in sorted(report.coverage.reasons.items(), key=lambda item: -item[1]):
        example = next((e for e in report.coverage.examples if e["reason"] == reason), None)
        such = f", such as {example['img_path']}" if example else ""
        output.say(f"{n:,} {reason}{such}")
    if not report.request.archives and any(each.missing for each in report.coverage.splits):
        output.say(f"give their folder or archive: m2kr images {split.source} --images PATH")
    for name, error in report.failed.items():
        output.say(f"{name}: {error}", json_mode=True)
    output.say(f"an image a row: {report.coverage.table}")


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        words = number == 0 or head == "how"
        table.add_column(head, justify="left" if words else "right")
    for row in rows:
        table.add_row(*row)
    output.console().print(table)
