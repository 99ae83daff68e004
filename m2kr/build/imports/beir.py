"""BEIR folders: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``.

Corpus lines are ``{_id, title, text}`` and may name an image; all splits share corpus and queries,
and a split is the queries that its judgements name. Text-only tools index ``title text``; so do we.
"""

from pathlib import Path

from m2kr.build.imports.layout import Given, Layout, SplitFiles, the_one
from m2kr.build.imports.qrels import qrels_file
from m2kr.build.imports.readers import record_file
from m2kr.errors import MissingError
from m2kr.sources import SPLIT_ALIASES


def locate(given: Given) -> Layout:
    """The layout of a BEIR folder; every split that has judgements, or the one asked for.

    Raises:
        MissingError: a file is not there.
    """
    folder = given.folder
    corpus = the_one(given.passages, folder, ["corpus.jsonl", "corpus.jsonl.gz"], "passages")
    queries = the_one(given.queries, folder, ["queries.jsonl", "queries.jsonl.gz"], "queries")
    if given.qrels is not None:
        qrels = {given.split or "test": given.qrels}
    else:
        qrels = _qrels(folder or queries.parent, given.split)
    records = record_file(queries)
    return Layout(
        record_file(corpus),
        {
            split: SplitFiles(records, qrels_file(path), only_judged=True)
            for split, path in qrels.items()
        },
        title_in_text=True,
    )


def _qrels(folder: Path, split: str | None) -> dict[str, Path]:
    paths = sorted((folder / "qrels").glob("*.tsv"))
    found = {SPLIT_ALIASES.get(path.stem, path.stem): path for path in paths}
    if split is not None:
        found = {name: path for name, path in found.items() if name == split}
    if not found:
        raise MissingError(
            "there are no judgements" + (f" of the split '{split}'" if split else ""),
            where=str(folder / "qrels"),
            expected="files such as qrels/test.tsv",
            fix="--qrels FILE; or --from files for queries without judgements",
        )
    return found
