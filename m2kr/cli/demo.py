"""``m2kr demo``."""

from pathlib import Path

from m2kr.cli import options

EXAMPLES = (
    "m2kr demo",
    "m2kr demo --data ./m2kr-data --split seen",
)
RETRIEVERS = ("bm25", "dense_text", "image_concepts", "fusion")


def command(
    data: options.Data = None,
    split: options.Split = "test",
    json: options.Json = False,
) -> None:
    """Build the embedded benchmark and evaluate four retrievers on it, offline.

    Needs no download: data and model weights travel inside packages, those of the extra demo.
    """
    import time

    from m2kr import api, paths
    from m2kr.building import registry
    from m2kr.building.build import build
    from m2kr.cli import output
    from m2kr.cli.eval_ import show
    from m2kr.retrievers import create

    root = paths.data_root(data)
    retrievers = [create(name, {}) for name in RETRIEVERS]
    started = time.perf_counter()
    with output.Bars() as bars:
        built = build(registry.builder("mini"), root, progress=bars)
        seconds = time.perf_counter() - started
        out = root / "results"
        results = api.evaluate(
            "mini",
            retrievers,
            split=split,
            edition=built.folder.name,
            data=root,
            out=out,
            progress=bars,
        )
    if json:
        output.emit(
            {
                "data": str(root),
                "edition": str(built.folder),
                "build_seconds": seconds,
                "results": [r.as_dict() for r in results],
            }
        )
        return
    show(results)
    where(root, built.folder, out, seconds)


def where(root: Path, edition: Path, out: Path, seconds: float) -> None:
    """Says where the files are and what to do next."""
    from m2kr.cli import output

    output.say(f"built in {seconds:.1f} s: {edition}  (data card: {edition / 'README.md'})")
    output.say(f"results and runs: {out}")
    output.say(f"next: m2kr info mini --data {root}  ·  m2kr import --help  ·  m2kr eval --help")
