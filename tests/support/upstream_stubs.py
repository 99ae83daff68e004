"""Stand-ins for builders' sources routes, over the rows of `support.release_fixture`.

    inner = stub("okvqa", lose={"OKVQA_passages/test_passages": {"71"}})
    build(AlignedBuilder("okvqa", release, inner), root)

Upstream has every row of the release (but those to ``lose``) in another order, with other ids where
``keys`` say by what else a row is known, under other instructions, unjudged; and some more rows.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from support import release_fixture as fixture

from m2kr.building import registry
from m2kr.building.spec import BuildContext, Builder
from m2kr.schema import arrow_schema, columns
from m2kr.sources import Source

# What the release alone can tell.
THEIRS = ("objects", "img_caption", "img_ocr", "pos_item_contents", "pos_item_ids", "instruction")


def stub(
    name: str,
    *,
    keys: Mapping[str, tuple[str, ...]] | None = None,
    lose: Mapping[str, Collection[str]] | None = None,
    rename: Sequence[str] = (),
    batches: bool = False,
    options: Mapping[str, str] | None = None,
) -> "Stub":
    """A builder of a source.

    Args:
        name: Source name.
        keys: Its release_keys.
        lose: Ids that upstream doesn't have, by table of the release.
        rename: Kinds of table whose ids are other ones though no key says so.
        batches: Give passages as record batches.
        options: Its align_options.
    """
    real = registry.builder(name)
    known = keys if keys is not None else real.release_keys
    made = Stub(real.source, lose or {}, {*known, *rename}, batches)
    made.release_keys, made.align_options = known, options or {}
    return made


class Stub(Builder):
    """See `stub`. What it was asked for is in ``seen``: tables and options."""

    def __init__(
        self,
        source: Source,
        lose: Mapping[str, Collection[str]],
        renamed: Collection[str],
        batches: bool,
    ) -> None:
        self.source = source
        self.lose = lose
        self.renamed = renamed
        self.batches = batches
        self.seen: list[tuple[str, dict[str, str]]] = []

    def rows(self, table: str, kind: str, column: str, ctx: BuildContext) -> Iterator[dict]:
        self.seen.append((table, dict(ctx.options)))
        given = [r for r in fixture.ROWS[table] if r[column] not in self.lose.get(table, ())]
        for number, row in enumerate([*reversed(given), given[0]], 1):
            own = {k: v for k, v in row.items() if k not in THEIRS}
            if number > len(given):  # one that the release does not have
                own = {k: None if v is None else _other(v) for k, v in own.items()}
            if kind in self.renamed:
                own[column] = f"upstream-{number}"
            ctx.ledger.read("upstream.txt")
            ctx.ledger.use("upstream.txt", number)
            yield own

    def all_passages(self, ctx: BuildContext, pool: str) -> Iterator[Any]:
        table = f"{self.source.config}_passages/{pool}"
        schema = arrow_schema(columns("passages", ctx.source.passage_columns))
        for row in self.rows(table, "passages", "passage_id", ctx):
            if self.batches:
                yield pa.RecordBatch.from_pylist([row | {"language": "en"}], schema=schema)
            else:
                yield row

    def all_queries(self, ctx: BuildContext, split: str) -> Iterator[dict[str, Any]]:
        for row in self.rows(f"{self.source.config}_data/{split}", "queries", "question_id", ctx):
            kept = {c.name for c in columns("queries", ctx.source.query_columns)}
            own = {k: v for k, v in row.items() if k in kept and v is not None}
            yield own | {
                "question": (own.get("question") or "").strip(),
                "instruction": "upstream's own: ",
                "pos_item_ids": [],
            }

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[Any]:
        raise AssertionError("an aligned build chooses among all rows")

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Any]:
        raise AssertionError("an aligned build chooses among all rows")


def _other(value: Any) -> Any:
    if isinstance(value, str):
        return f"{value} (another)"
    if isinstance(value, list):
        return [_other(each) for each in value]
    return value
