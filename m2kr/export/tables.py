"""Export as plain Parquet: what was built, for any tool that reads Parquet."""

from typing import TYPE_CHECKING

from m2kr.export.request import ExportRequest

if TYPE_CHECKING:
    from datasets import Dataset


def write(request: ExportRequest) -> list[str]:
    """Writes ``passages/<pool>.parquet``, ``queries/<split>.parquet``, ``qrels/<split>.parquet``."""
    for pool, split in request.pools.items():
        _write(request, f"passages/{pool}.parquet", split.passages)
    for split in request.splits:
        _write(request, f"queries/{split.split}.parquet", split.queries)
        _write(request, f"qrels/{split.split}.parquet", split.qrels)
        if request.run is not None:
            (request.folder / "runs").mkdir()
            request.run.save(request.folder / "runs" / f"{split.split}.parquet")
    return []


def _write(request: ExportRequest, name: str, rows: "Dataset") -> None:
    schema = rows.data.schema.remove_metadata()
    request.write_parquet(name, schema, request.batches(rows))
