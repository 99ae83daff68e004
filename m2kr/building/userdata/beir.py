"""BEIR folders: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``.

Corpus lines are ``{_id, title, text}`` and may name an image; all splits share corpus and queries,
and a split is the queries that its judgements name. Text-only tools index ``title text``; so do we.
"""

from pathlib import Path

from m2kr.building.userdata.layouts import Given, Layout, SplitFiles, the_one, visible
from m2kr.building.userdata.qrels import qrels_file
from m2kr.building.userdata.readers import record_file
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.sources import folded_splits, plain_split, split_name


def locate(given: Given) -> Layout:
    """The layout of a BEIR folder; every split that has judgements, or the one asked for.

    Raises:
        MissingError: a file is not there.
    """
    folder = given.folder
    corpus = the_one(given.passages, folder, ["corpus.jsonl", "corpus.jsonl.gz"], "passages")
    queries = the_one(given.queries, folder, ["queries.jsonl", "queries.jsonl.gz"], "queries")
    if given.qrels is not None:
        qrels = {given.one_split: given.qrels}
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
    found: dict[str, Path] = {}
    for path in visible(folder / "qrels", ["*.tsv", "*.tsv.gz"]):
        name = plain_split(path.name.partition(".tsv")[0])
        if name in found:
            raise InputError(
                f"these judgements are of the same split as {found[name].name}",
                where=str(path),
                expected="one file for each split, whose name is letters, digits and _",
            )
        found[name] = path
    found = {name: found[own] for own, name in folded_splits(found).items()}
    if split is not None:
        found = _only(split, found)
    if not found:
        raise MissingError(
            "there are no judgements" + (f" of the split '{split}'" if split else ""),
            where=str(folder / "qrels"),
            expected="files such as qrels/test.tsv",
            fix="--qrels FILE; or --from files for queries without judgements",
        )
    return found


def _only(split: str, found: dict[str, Path]) -> dict[str, Path]:
    try:
        name = split_name(split, tuple(found))
    except UsageError:
        return {}
    return {name: found[name]}
