"""A submission made of saved results: their runs, and a card that says what they know of themselves."""

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from m2kr.atomic import write_text
from m2kr.errors import InputError, M2KRError, plainly
from m2kr.evaluation.metrics import parse
from m2kr.evaluation.result import Result
from m2kr.evaluation.result_files import load_results
from m2kr.report.page.folder import replacing_folder
from m2kr.retrieval.run_io import RUN_META, save_rows
from m2kr.retrieval.run_rows import RunRows
from m2kr.sources import normalise

from .card_reader import COSTS, MODALITIES, read_card, read_small_file
from .card_settings import card_settings
from .card_update import CardUpdate, card_runs, is_filled, read_fields, update_card
from .card_yaml import MOST_BYTES
from .one_system import require_one_system, system_sha256
from .packed_form import README
from .problems import Problem, SubmissionRefused
from .system_card import (
    CARD,
    FORMAT,
    SubmittedRun,
    SystemCard,
    SystemKind,
    TrainingData,
    fields_as_yaml,
)

# What readers are told of a run. Paths and arguments stay on the machine where it was made.
_KEPT = ("fingerprints", "images", "modalities", "search")
_KINDS = {"fusion": "fusion", "rerank": "re-rank"}
_SYSTEM = "system_sha256"  # in a run's metadata: hash of what its result records of the system


@dataclass(frozen=True, slots=True)
class MadeSubmission:
    """What was made of results.

    Attributes:
        folder: The submission.
        new: Whether there was none of this name.
        lacking: Faults that its card has as yet: what must still be filled in.
        changed: What is another than in the submission that was there, a line each.
        kept: What stayed as it was.
    """

    folder: Path
    new: bool
    lacking: tuple[Problem, ...]
    changed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def init_submission(
    results: Iterable[str | Path], out: Path, settings: Mapping[str, str] | None = None
) -> MadeSubmission:
    """Makes a submission of saved results, or brings one up to date; it is written whole or not at all.

    What neither the results nor the settings say stays empty in the card, and the check refuses it until
    it is filled in: nothing is made up. In a submission that is there, the results' runs and the facts
    that go with them are new; what a person may have written, further files and runs of other sources stay.

    Args:
        results: Result files, folders or patterns; of one system, one for each source and split.
        out: The submission's folder; its name is the system's.
        settings: Fields of the card, as of `card_settings`.

    Raises:
        UsageError: a setting is unknown or no such value; ``out`` is no system's name, or something else
            than a submission is there.
        InputError: a result can't be handed in, there are two of one source and split, or they are of
            different systems.
        SubmissionRefused: the card that is there is no YAML as cards are.
    """
    given = card_settings(settings or {}, out)
    old = read_small_file(out / CARD, MOST_BYTES) if out.exists() else b""
    before = read_fields(old) if old else {}
    chosen = _one_each(load_results(*results))
    require_one_system(chosen)
    _require_the_same_system(out, before, chosen[0], {(r.source, r.split) for r in chosen})
    depth = given.pop("k")
    with plainly(out), replacing_folder(out.absolute()) as aside:
        if old:
            shutil.copytree(out, aside, symlinks=True)
        runs = aside / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        submitted = [_put_run(result, runs, depth) for result in chosen]
        card = {"format": FORMAT} | asdict(_card(chosen, submitted, given, before))
        update = update_card(old, card, given) if old else CardUpdate(fields_as_yaml(card))
        write_text(aside / CARD, update.text)
    kept = update.kept + ((README,) if (out / README).exists() else ())
    return MadeSubmission(out, not old, _faults(out / CARD), update.changed, kept)


def _faults(card: Path) -> tuple[Problem, ...]:
    try:
        read_card(card)
    except SubmissionRefused as refused:
        return refused.problems
    return ()


def _require_the_same_system(
    folder: Path, before: Mapping[str, Any], new: Result, replaced: set[tuple[str, str]]
) -> None:
    """Refuses results of another system than the runs that stay, as far as those say what made them."""
    for key in card_runs(before).keys() - replaced:
        file = folder / "runs" / f"{key[0]}.{key[1]}.parquet"
        with suppress(OSError, ValueError, pa.ArrowException):
            facts = json.loads((pq.read_schema(file).metadata or {}).get(RUN_META, b"{}"))
            made_by = facts.get("metadata", {}).get(_SYSTEM)
            if made_by and made_by != system_sha256(new):
                raise InputError(
                    f"{_file(new)} is not of the system that made its run of {'/'.join(key)}: name, label, "
                    "settings, arguments or search are others",
                    where=str(folder),
                    expected="results of one system",
                    fix=f"give its result of {'/'.join(key)}, too, or another --out",
                )


def _one_each(results: Sequence[Result]) -> list[Result]:
    """The results by source and split, one each."""
    of: dict[tuple[str, str], Result] = {}
    for result in results:
        where = str(result.path)
        key = (result.source, result.split)
        if key in of:
            raise InputError(
                f"there are two results of {'/'.join(key)}: {_file(of[key])} and {_file(result)}",
                expected="one system's results, one for each source and split",
                fix="name the files of one of them",
            )
        if result.partial:
            raise InputError(
                "it was evaluated on a part of the source (--limit)",
                where=where,
                fix=f"m2kr build {result.source}, and evaluate again",
            )
        ties = result.experiment.get("ties", "m2kr")
        if ties != "m2kr":
            raise InputError(
                f"it was scored with --ties {ties}, and the leaderboard orders as m2kr does",
                where=where,
                fix="evaluate again without --ties",
            )
        of[key] = result
    return [of[key] for key in sorted(of)]


def _file(result: Result) -> str:
    return result.path.name if result.path else result.name


def _put_run(result: Result, folder: Path, depth: int) -> SubmittedRun:
    """Writes a result's rankings; what the card says of them."""
    run, k = result.load_run().top(depth), min(result.k, depth)
    kept: dict[str, Any] = {key: run.metadata[key] for key in _KEPT if run.metadata.get(key)}
    learned = (run.metadata.get("settings") or {}).get("learned")
    if learned:  # weights of a fusion: on what is asked by readers
        kept["settings"] = {"learned": learned}
    kept[_SYSTEM] = system_sha256(result)
    name = f"{result.source}.{result.split}.parquet"
    rows = {field.name: getattr(run, field.name) for field in fields(RunRows)}
    save_rows(RunRows(**rows | {"metadata": kept}), folder / name)
    (folder / f"{result.source}.{result.split}.trec.gz").unlink(missing_ok=True)
    return SubmittedRun(
        source=result.source,
        split=result.split,
        edition=result.edition,
        file=f"runs/{name}",
        fingerprint=str(result.fingerprints["eval"]),
        k=k,
        run_sha256=run.sha256(),
        scores=_claims(result, k),
        cost=_cost(result),
    )


def _claims(result: Result, k: int) -> dict[str, float]:
    """The shown scores and the first one of the source's paper, as far as the run is deep."""
    claims = {}
    for name in dict.fromkeys([result.headline, *result.shown]):
        value = result.value(name)
        try:
            metric = parse(name)
        except M2KRError:
            continue  # somebody's own metric, which only they can compute
        if value is not None and metric.k <= k:
            claims[name] = float(value)
    return dict(sorted(claims.items()))


def _cost(result: Result) -> dict[str, Any]:
    """What a result says of its cost, where it was measured whole."""
    cost, search, seconds = result.cost, result.search or {}, result.seconds
    queries = result.counts.get("queries", 0)
    facts: dict[str, Any] = {
        "bytes_per_passage": result.bytes_per_passage,
        "peak_host_bytes": cost.get("peak_host_bytes"),
        "peak_device_bytes": cost.get("peak_device_bytes"),
        "device": str(cost.get("device") or "")[:80],
    }
    if queries and not (cost.get("reused") or {}).get("rows"):
        cpu = (cost.get("cpu_seconds") or {}).get("search")
        facts |= {
            "seconds_per_query": search.get("seconds_per_query", seconds["search"] / queries)
            if "search" in seconds
            else None,
            "cpu_seconds_per_query": search.get("cpu_seconds_per_query", cpu and cpu / queries),
            "encode_seconds": seconds.get("encode"),
            "index_seconds": seconds.get("index"),
        }
    return {key: facts[key] for key in (*COSTS, "device") if facts.get(key)}


def _card(
    results: Sequence[Result],
    runs: Sequence[SubmittedRun],
    given: Mapping[str, Any],
    before: Mapping[str, Any],
) -> SystemCard:
    """The card of some results and settings; ``before`` are the fields of one that is there."""
    retriever = results[0].retriever
    called = " ".join(filter(None, (str(retriever.get(key) or "") for key in ("name", "label"))))
    devices = dict.fromkeys(str(result.cost.get("device") or "") for result in results)
    facts: dict[str, Any] = {
        "title": called[:80],
        "version": "1",
        "authors": (),
        "contact": "",
        "licence": "",
        "kind": cast("SystemKind", _KINDS.get(str(retriever["name"]), "single-stage")),
        "query_modalities": _modalities("query", results),
        "passage_modalities": _modalities("passage", results),
        "parameters": None,
        "training_data": _known_training_data(before),
        "hardware": "; ".join(filter(None, devices))[:120],
        "m2kr_version": max((str(r.versions.get("m2kr", "")) for r in results), key=_in_order),
    }
    facts |= given
    sources = dict.fromkeys(
        [run.source for run in runs] + [source for source, _ in card_runs(before)]
    )
    facts["zero_shot"] = _zero_shot(given.get("zero_shot"), sources, facts["training_data"])
    return SystemCard(**facts, runs=tuple(runs))


def _in_order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _modalities(side: str, results: Sequence[Result]) -> tuple[str, ...]:
    read = {
        word for one in results for word in (one.retriever.get("modalities") or {}).get(side, ())
    }
    return tuple(word for word in MODALITIES if word in read)


def _known_training_data(before: Mapping[str, Any]) -> tuple[TrainingData, ...]:
    """Those of the card that is there; one empty entry, which the check refuses, if nobody says."""
    if not is_filled(before, "training_data") or not isinstance(before["training_data"], list):
        return (TrainingData(""),)
    entries = [one for one in before["training_data"] if isinstance(one, Mapping)]
    return tuple(
        TrainingData(str(one.get("source", "")), str(one.get("split", ""))) for one in entries
    )


def _zero_shot(
    given: bool | None, sources: Iterable[str], training: Sequence[TrainingData]
) -> dict[str, bool]:
    """By source, as it is said, else as the training data say; open where nobody does."""
    if given is not None:
        return dict.fromkeys(sources, given)
    if any(not data.source for data in training):
        return {}
    seen = {normalise(data.source) for data in training}
    return {source: normalise(source) not in seen for source in sources}
