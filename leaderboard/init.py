"""A submission made of saved results: their runs, and a card that says what they know of themselves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from m2kr.atomic import write_text
from m2kr.errors import InputError, M2KRError, UsageError, plainly
from m2kr.evaluation.metrics import parse
from m2kr.evaluation.result import Result
from m2kr.evaluation.result_files import load_results
from m2kr.report.page.folder import replacing_folder
from m2kr.retrieval.run_io import save_rows
from m2kr.retrieval.run_rows import RunRows
from m2kr.sources import normalise

from .card_reader import COSTS, KINDS, LINKS, MODALITIES, read_card
from .card_text import name_fault
from .checks import DEEPEST
from .problems import SubmissionRefused
from .system_card import CARD, SubmittedRun, SystemCard, SystemKind, TrainingData, card_as_yaml

KEYS = (
    *("name", "title", "version", "authors", "contact", "licence", "kind", "parameters"),
    *(
        "training_data",
        "zero_shot",
        "query_modalities",
        "passage_modalities",
        "hardware",
        "note",
        "k",
    ),
    *(f"links.{kind}" for kind in LINKS),
)
# What readers are told of a run. Paths and arguments stay on the machine where it was made.
_KEPT = ("fingerprints", "images", "modalities", "search")
_KINDS = {"fusion": "fusion", "rerank": "re-rank"}


def init_submission(
    results: Iterable[str | Path], out: Path, settings: Mapping[str, str] | None = None
) -> tuple[Path, tuple[str, ...]]:
    """Makes a submission of saved results; it is written whole or not at all.

    What neither the results nor the settings say stays empty in the card, and the check refuses it until
    it is filled in: nothing is made up.

    Args:
        results: Result files, folders or patterns; of one system, one for each source and split.
        out: The folder to make; its name is the system's.
        settings: Fields of the card (`KEYS`): ``authors`` are parted by semicolons, ``training_data`` by
            commas (``okvqa:train,a crawl``, or ``none``); ``k`` cuts rankings.

    Returns:
        The folder, and the faults that its card has as yet: what must still be filled in.

    Raises:
        UsageError: a setting is unknown or no such value; ``out`` is there already, or no system's name.
        InputError: a result can't be handed in, or there are two of one source and split.
    """
    given = dict(settings or {})
    for key in given:
        if key not in KEYS:
            raise UsageError(f"there is no setting {key!r}", expected="one of " + ", ".join(KEYS))
    name = given.get("name", out.absolute().name)
    if fault := name_fault(name):
        raise UsageError(
            f"{name!r} can't be a system's name: {fault}",
            expected="small letters, digits and hyphens, as the folder's name",
            fix="m2kr submit init RESULTS --out my-system",
        )
    if name != out.absolute().name:
        raise UsageError(
            f"the name is {name}, and the folder's {out.absolute().name}",
            expected="the same name",
            fix=f"--out {out.parent / name}",
        )
    if out.exists():
        raise UsageError("it is there already", where=str(out), fix="give another name, or move it")
    chosen = _one_each(load_results(*results))
    depth = _depth(given.get("k"))
    with plainly(out), replacing_folder(out.absolute()) as aside:
        runs = aside / "runs"
        runs.mkdir(parents=True)
        submitted = [_put_run(result, runs, depth) for result in chosen]
        card = _card(name, chosen, submitted, given)
        write_text(aside / CARD, card_as_yaml(card))
    try:
        read_card(out / CARD)
    except SubmissionRefused as refused:
        return out, tuple(map(str, refused.problems))
    return out, ()


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


def _depth(text: str | None) -> int:
    if text is None:
        return DEEPEST
    if not text.isdecimal() or not 1 <= int(text) <= DEEPEST:
        raise UsageError(f"k is {text!r}", expected=f"a whole number from 1 to {DEEPEST}")
    return int(text)


def _put_run(result: Result, folder: Path, depth: int) -> SubmittedRun:
    """Writes a result's rankings; what the card says of them."""
    run, k = result.load_run().top(depth), min(result.k, depth)
    kept: dict[str, Any] = {key: run.metadata[key] for key in _KEPT if run.metadata.get(key)}
    learned = (run.metadata.get("settings") or {}).get("learned")
    if learned:  # weights of a fusion: on what is asked by readers
        kept["settings"] = {"learned": learned}
    name = f"{result.source}.{result.split}.parquet"
    rows = {field.name: getattr(run, field.name) for field in fields(RunRows)}
    save_rows(RunRows(**rows | {"metadata": kept}), folder / name)
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
    name: str, results: Sequence[Result], runs: Sequence[SubmittedRun], given: Mapping[str, str]
) -> SystemCard:
    retrievers = [result.retriever for result in results]
    called = " ".join(
        dict.fromkeys(
            filter(None, (str(retrievers[0].get(key) or "") for key in ("name", "label")))
        )
    )
    training = _training_data(given.get("training_data"))
    sources = dict.fromkeys(run.source for run in runs)
    return SystemCard(
        name=name,
        title=given.get("title", called[:80]),
        version=given.get("version", "1"),
        authors=tuple(_parted(given.get("authors", ""), ";")),
        contact=given.get("contact", ""),
        licence=given.get("licence", ""),
        kind=cast(
            "SystemKind",
            _one_of(
                "kind",
                given.get("kind") or _KINDS.get(str(retrievers[0]["name"]), "single-stage"),
                KINDS,
            ),
        ),
        query_modalities=_modalities("query", retrievers, given),
        passage_modalities=_modalities("passage", retrievers, given),
        parameters=_parameters(given.get("parameters")),
        training_data=training,
        zero_shot=_zero_shot(given.get("zero_shot"), sources, training),
        hardware=given.get("hardware", str(results[0].cost.get("device") or "")[:120]),
        m2kr_version=str(results[0].versions.get("m2kr", "")),
        links={kind: given[f"links.{kind}"] for kind in LINKS if f"links.{kind}" in given},
        note=given.get("note", ""),
        runs=tuple(runs),
    )


def _parted(text: str, by: str) -> list[str]:
    return [part.strip() for part in text.split(by) if part.strip()]


def _one_of(key: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise UsageError(f"{key} is {value!r}", expected="one of " + ", ".join(allowed))
    return value


def _modalities(
    side: str, retrievers: Sequence[Mapping[str, Any]], given: Mapping[str, str]
) -> tuple[str, ...]:
    key = f"{side}_modalities"
    if key in given:
        return tuple(_one_of(key, word, MODALITIES) for word in _parted(given[key], ","))
    read = {word for one in retrievers for word in (one.get("modalities") or {}).get(side, ())}
    return tuple(word for word in MODALITIES if word in read)


def _parameters(text: str | None) -> int | None:
    if text is None or text == "unknown":
        return None
    if not text.isdecimal():
        raise UsageError(f"parameters is {text!r}", expected="a whole number, or unknown")
    return int(text)


def _training_data(text: str | None) -> tuple[TrainingData, ...]:
    """What it was trained on; one empty entry, which the check refuses, if nobody says."""
    if text is None:
        return (TrainingData(""),)
    if text == "none":
        return ()
    parts = (part.partition(":") for part in _parted(text, ","))
    return tuple(TrainingData(source.strip(), split.strip()) for source, _, split in parts)


def _zero_shot(
    text: str | None, sources: Iterable[str], training: Sequence[TrainingData]
) -> dict[str, bool]:
    """By source, as it is said, else as the training data say; open where nobody does."""
    if text is not None:
        flag = _one_of("zero_shot", text, ("true", "false")) == "true"
        return dict.fromkeys(sources, flag)
    if any(not data.source for data in training):
        return {}
    seen = {normalise(data.source) for data in training}
    return {source: normalise(source) not in seen for source in sources}
