"""What ``m2kr images`` shows: the plan, and the coverage of each split."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from m2kr.cli import output

if TYPE_CHECKING:
    from m2kr.building.images.declared import ImageArchive
    from m2kr.building.images.from_archives import Means
    from m2kr.building.images.gather import Ask, Gathered
    from m2kr.data.load import Split

_HOW = {
    "zip": "read in part",
    "tar": "read in part, by an index",
    "tar.gz": "only whole (--whole)",
}


def plan(ask: "Ask", means: "Means", *, json: bool) -> None:
    """Says what is needed, what of it is here, and where the rest can be had; uses no network."""
    from m2kr.building.images.coverage import describe, needed
    from m2kr.building.images.gather import absentees, chosen, store_of

    wanted = [needed(split, passages=ask.passages) for split in ask.splits]
    absent = absentees(wanted, ask.splits[0])
    names = {archive.name for archive in chosen(ask.archives, ask.only)}
    told: dict[str, Any] = {
        "source": ask.splits[0].source,
        "edition": ask.splits[0].edition,
        "needed": {each.split: len(each) for each in wanted},
        "lacking": len(absent),
        "roots": describe(ask.splits[0].images),
        "store": str(store_of(ask.splits[0], means.folder)),
        "archives": [
            {
                "name": archive.name,
                "bytes": archive.about,
                "how": _how(archive, means),
                "may have": sum(map(archive.may_hold, absent)),
                "used": archive.name in names,
                "gate": archive.gate,
                "files": [mirrors[0] for mirrors in archive.addresses()],
            }
            for archive in ask.archives
        ],
        "notes": ask.splits[0].manifest["source"].get("image_notes", []),
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
        if not each["used"] and not ask.only:
            output.say(f"not unless asked: --from {each['name']} ({output.size(each['bytes'])})")
    for note in told["notes"]:
        output.say(f"note: {note}")


def _how(archive: "ImageArchive", means: "Means") -> str:
    if archive.kind == "tar" and means.index_of(archive).exists():
        return "read in part"
    return _HOW[archive.kind]


def show(ask: "Ask", done: "Gathered") -> None:
    """The coverage, what was fetched, and what is wrong."""
    for got in done.taken:
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
        for each in done.coverage.splits
    ]
    split: Split = ask.splits[0]
    title = f"images of {split.source} ({split.edition})"
    _table(title, ("split", "needed", "sound", "damaged", "missing", "coverage"), rows)
    for reason, n in sorted(done.coverage.reasons.items(), key=lambda item: -item[1]):
        example = next((e for e in done.coverage.examples if e["reason"] == reason), None)
        such = f", such as {example['img_path']}" if example else ""
        output.say(f"{n:,} {reason}{such}")
    if not ask.archives and any(each.missing for each in done.coverage.splits):
        output.say(f"give their folder or archive: m2kr images {split.source} --images PATH")
    for name, error in done.failed.items():
        output.say(f"{name}: {error}", json_mode=True)
    output.say(f"an image a row: {done.coverage.table}")


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        words = number == 0 or head == "how"
        table.add_column(head, justify="left" if words else "right")
    for row in rows:
        table.add_row(*row)
    output.console().print(table)
