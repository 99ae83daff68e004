"""Stand-ins for builders' sources routes, over the rows of `release_fixture`.

    module = stub("okvqa", lose={"OKVQA_passages/test_passages": {"71"}})
    build(AlignedBuilder("okvqa", release, module=module), root)

Upstream has every row of the release (but those to ``lose``) in another order, with other ids where
``keys`` say by what else a row is known, under other instructions, unjudged; and some more rows.
"""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import pyarrow as pa
import release_fixture as fixture

from m2kr import sources
from m2kr.building.spec import BuildContext
from m2kr.schema import arrow_schema, columns

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
) -> str:
    """Makes a builder of a source, and gives the name to import it by.

    Args:
        name: Source name.
        keys: Its RELEASE_KEYS.
        lose: Ids that upstream doesn't have, by table of the release.
        rename: Kinds of table whose ids are other ones though no key says so.
        batches: Give passages as record batches.
        options: Its ALIGN_OPTIONS.
    """
    real, config = sources.builder(name), fixture.CONFIGS[name]
    known = keys if keys is not None else getattr(real, "RELEASE_KEYS", {})
    renamed = {*known, *rename}
    module: Any = ModuleType(f"upstream_stub_{name}")
    module.__file__ = __file__
    module.SOURCE, module.RELEASE_KEYS, module.seen = real.SOURCE, known, []
    if options:
        module.ALIGN_OPTIONS = options

    def rows(table: str, kind: str, column: str, ctx: BuildContext) -> Iterator[dict[str, Any]]:
        module.seen.append((table, dict(ctx.options)))
        given = [r for r in fixture.ROWS[table] if r[column] not in (lose or {}).get(table, ())]
        for number, row in enumerate([*reversed(given), given[0]], 1):
            own = {k: v for k, v in row.items() if k not in THEIRS}
            if number > len(given):  # one that the release does not have
                own = {k: None if v is None else _other(v) for k, v in own.items()}
            if kind in renamed:
                own[column] = f"upstream-{number}"
            ctx.ledger.read("upstream.txt")
            ctx.ledger.use("upstream.txt", number)
            yield own

    def all_passages(ctx: BuildContext, pool: str) -> Iterator[Any]:
        found = rows(f"{config}_passages/{pool}", "passages", "passage_id", ctx)
        if not batches:
            yield from found
            return
        schema = arrow_schema(columns("passages", ctx.source.passage_columns))
        for row in found:
            yield pa.RecordBatch.from_pylist([row | {"language": "en"}], schema=schema)

    def all_queries(ctx: BuildContext, split: str) -> Iterator[dict[str, Any]]:
        for row in rows(f"{config}_data/{split}", "queries", "question_id", ctx):
            kept = {c.name for c in columns("queries", ctx.source.query_columns)}
            own = {k: v for k, v in row.items() if k in kept and v is not None}
            question = (own.get("question") or "").strip()
            yield own | {
                "question": question,
                "instruction": "upstream's own: ",
                "pos_item_ids": [],
            }

    def never(ctx: BuildContext, name: str) -> Iterator[dict[str, Any]]:
        raise AssertionError("an aligned build chooses among all rows")

    module.assets = lambda options: ()
    module.passages = module.queries = never
    module.all_passages, module.all_queries = all_passages, all_queries
    sys.modules[module.__name__] = module
    return str(module.__name__)


def _other(value: Any) -> Any:
    if isinstance(value, str):
        return f"{value} (another)"
    if isinstance(value, list):
        return [_other(each) for each in value]
    return value
