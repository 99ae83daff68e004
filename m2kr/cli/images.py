"""``m2kr images``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options, output

if TYPE_CHECKING:
    from m2kr.building.fetch.assets import ImageArchive
    from m2kr.building.images.from_archives import FetchOptions
    from m2kr.building.images.gather import ImageReport, ImageRequest

EXAMPLES = (
    "m2kr images okvqa --split test --plan",
    "m2kr images okvqa --split test",
    "m2kr images oven --images /data/oven/shard01.tar   (used in place, never copied)",
    "m2kr images oven --split test --index shard01.tar.index.parquet",
    "m2kr images kvqa --whole",
    "m2kr images wit --split test --from urls --contact you@example.org --width 330",
    "m2kr images --make-index /data/oven/shard01.tar   (for others to share)",
)


def command(
    source: Annotated[
        str | None, typer.Argument(help="A source that is built.", metavar="SOURCE")
    ] = None,
    data: options.Data = None,
    split: options.Splits = None,
    edition: options.Edition = None,
    images: options.Images = None,
    from_: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="Only this archive, as --plan names it; or 'urls': each from its own address.",
        ),
    ] = None,
    index: Annotated[
        list[Path] | None,
        typer.Option("--index", help="Index of a tar, made by somebody else; may be repeated."),
    ] = None,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Also read archives that can't be read in part."),
    ] = False,
    passages: Annotated[
        bool,
        typer.Option(
            "--passages",
            help="Passages' images, too, not only the queries'; always so for an imported source.",
        ),
    ] = False,
    contact: Annotated[
        str | None,
        typer.Option(
            "--contact",
            metavar="MAIL|PAGE",
            help="Yours, for hosts that require one of those who fetch (Wikimedia), with --from urls.",
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option("--width", help="Thumbnails of about so many pixels, with --from urls."),
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Ask dead addresses again, with --from urls.")
    ] = False,
    plan: options.Plan = False,
    offline: options.Offline = False,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Decode again what was found sound before.")
    ] = False,
    least: Annotated[
        float,
        typer.Option(
            "--min-coverage", min=0, max=1, help="Exit with 1 if a split has less than this share."
        ),
    ] = 0.0,
    make_index: Annotated[
        str | None,
        typer.Option(
            "--make-index",
            metavar="TAR",
            help="Index a tar (file or address) for --index; --out is the index or its folder.",
        ),
    ] = None,
    out: options.OutOrNone = None,
    jobs: options.Jobs = 8,
    json: options.Json = False,
) -> None:
    """Fetch, check and count the images that a built source needs, and only these.

    Members of remote zips are read where they lie, those of tars by an index; nothing else of an
    archive is transferred. What you have already is used in place: give it once with --images.
    """
    from m2kr import paths
    from m2kr.errors import UsageError

    root = paths.data_root(data)
    if make_index is not None:
        _make_index(make_index, out, json=json)
        return
    if source is None:
        raise UsageError("no source is given", fix="m2kr images okvqa --split test")
    output.say(f"data root: {root}", json_mode=json)
    from m2kr.building.images.from_archives import FetchOptions

    request = _request(source, root, split, edition)
    fetch_options = FetchOptions(
        root,
        names=request.splits[0].manifest["source"].get("image_names", ()),
        whole=whole,
        indexes=tuple(index or ()),
        jobs=jobs,
    )
    from dataclasses import replace

    from m2kr.building.images.hosts import Rules

    request = replace(
        request,
        only=tuple(from_ or ()),
        roots=tuple(images or ()),
        passages=passages or request.passages,
        offline=offline,
        anew=recheck,
        web=Rules(contact=contact, thumb_width=width, retry_failed=retry),
    )
    if plan:
        _show_plan(request, fetch_options, json=json)
        return
    _gather(request, fetch_options, least, json=json)


def _request(
    source: str, root: Path, splits: list[str] | None, edition: str | None
) -> "ImageRequest":
    from m2kr.building.images.gather import ImageRequest
    from m2kr.building.registry import builder
    from m2kr.data.built_sources import BuiltSources
    from m2kr.data.load import load
    from m2kr.sources import builder_modules

    found = BuiltSources.below(root).find(source, edition)
    name = found.name
    chosen = [
        load(name, each, edition=found.folder.name, data=root)
        for each in splits or found.manifest["splits"]
    ]
    archives = tuple(builder(name).image_archives) if name in builder_modules() else None
    return ImageRequest(
        chosen, archives or (), passages=archives is None
    )  # None: a user's own source


def _gather(
    request: "ImageRequest", fetch_options: "FetchOptions", least: float, *, json: bool
) -> None:
    from m2kr.building.images.gather import gather_images

    with output.Bars() as bars:
        report: ImageReport = gather_images(request, fetch_options, progress=bars)
    short = [each for each in report.coverage.splits if each.share < least]
    if json:
        places = {"report": str(report.path), "table": str(report.coverage.table)}
        output.emit(report.as_dict() | places)
    else:
        _show_report(report)
    if report.failed and any(each.missing for each in report.coverage.splits):
        code = max(error.exit_code for error in report.failed.values())
        raise typer.Exit(code)
    if short:
        output.say(
            f"below --min-coverage {least:g}: " + ", ".join(each.split for each in short),
            json_mode=True,
        )
        raise typer.Exit(1)


def _make_index(tar: str, out: Path | None, *, json: bool) -> None:
    from contextlib import closing

    from m2kr.building.images.remote_file import RemoteFile
    from m2kr.building.images.tar_index import index_remote_tar, index_tar
    from m2kr.errors import MissingError

    path = (out or Path()) / f"{tar.rpartition('/')[2]}.index.parquet"
    path = out if out is not None and out.suffix == ".parquet" else path
    with output.Bars() as bars:
        if "://" in tar:
            parts = RemoteFile([tar])
            with closing(parts):
                rows = index_remote_tar(parts, path, progress=bars)
        elif not Path(tar).is_file():
            raise MissingError("there is no such tar", where=tar)
        else:
            bars.start(tar, None, "files")
            rows = index_tar(Path(tar), path)
            bars.done(tar)
    size = path.stat().st_size
    told: dict[str, Any] = {"index": str(path), "members": rows, "bytes": size}
    if json:
        output.emit(told)
    else:
        output.say(f"{path}: {rows:,} members, {output.size(told['bytes'])}, and its .sha256")


_HOW = {
    "zip": "read in part",
    "tar": "read in part, by an index",
    "tar.gz": "only whole (--whole)",
}


def _show_plan(request: "ImageRequest", fetch_options: "FetchOptions", *, json: bool) -> None:
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
        heads = ("from", "may have", "size", "how")
        output.table(heads, rows, title=f"fetched into {told['store']}")
    for each in told["archives"]:
        if not each["used"] and not request.only:
            output.say(f"not unless asked: --from {each['name']} ({output.size(each['bytes'])})")
    for note in told["notes"]:
        output.say(f"note: {note}")


def _how(archive: "ImageArchive", fetch_options: "FetchOptions") -> str:
    if archive.kind == "tar" and fetch_options.index_of(archive).exists():
        return "read in part"
    return _HOW[archive.kind]


def _show_report(report: "ImageReport") -> None:
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
    split = report.request.splits[0]
    title = f"images of {split.source} ({split.edition})"
    output.table(("split", "needed", "sound", "damaged", "missing", "coverage"), rows, title=title)
    for reason, n in sorted(report.coverage.reasons.items(), key=lambda item: -item[1]):
        example = next((e for e in report.coverage.examples if e["reason"] == reason), None)
        such = f", such as {example['img_path']}" if example else ""
        output.say(f"{n:,} {reason}{such}")
    if not report.request.archives and any(each.missing for each in report.coverage.splits):
        output.say(f"give their folder or archive: m2kr images {split.source} --images PATH")
    for name, error in report.failed.items():
        output.say(f"{name}: {error}", json_mode=True)
    output.say(f"an image a row: {report.coverage.table}")
