"""``m2kr score-answers``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from m2kr.rag.scored_answers import ScoredAnswers
    from m2kr.rag.scorer import GoldAnswer

EXAMPLES = (
    "m2kr score-answers answers.jsonl okvqa",
    "m2kr score-answers predictions.csv infoseek --missing-queries empty --json",
    "m2kr score-answers answers.jsonl evqa --set bem=models/bem --out verdicts.jsonl",
    "m2kr score-answers pred.json --set gold=infoseek_val.jsonl --set types=infoseek_val_qtype.jsonl",
    "m2kr score-answers out.tsv mini --scorer token_f1 --scorer exact_match --set answer=reply",
)
_SETTINGS = {
    "gold": "a file of gold answers, in place of a source",
    "types": "a file of their question types",
    "id": "the column of question ids",
    "answer": "the column of answers",
    "arm": "of records of m2kr rag, the arm",
    "k": "and its number of passages",
}
_MOST_LINES = 12  # of the groups of a scorer


def command(
    file: Annotated[
        Path,
        typer.Argument(help="Answers by question: .jsonl, .json, .csv, .tsv or .parquet."),
    ],
    source: Annotated[
        str | None, typer.Argument(help="Source that was asked; or --set gold=FILE.")
    ] = None,
    scorer: options.Scorers = None,
    split: options.Split = "test",
    missing_queries: options.MissingQueries = "error",
    set_: options.Settings = None,
    out: options.OutOrNone = None,
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Score answers to a source's questions, or to those of a file of gold answers.

    By default as the source's own evaluation does: okvqa (soft accuracy over ten annotators), infoseek
    (names by alias, dates by form, numbers by range; unseen questions, unseen entities and their harmonic
    mean), evqa (exact match, sets, BEM by --set bem=FOLDER); for all others exact_match and token_f1.

    FILE has a row a question with its id and the answer; columns go by their usual names
    (question_id, data_id, qid; answer, prediction), or by --set id=COLUMN and --set answer=COLUMN. A
    JSON object of answers by id will do. --set gold=FILE takes VQA's annotations and Infoseek's JSON
    lines as they are (--set types=FILE: its question types), or rows with question_id, answers,
    question_type, group, value, value_range. Of the records that m2kr rag writes, --set arm=retrieved and
    --set k=5 take one experiment.

    --out writes a row for each question and scorer: .jsonl or .parquet.
    """
    from m2kr import paths
    from m2kr.cli import output
    from m2kr.errors import UsageError
    from m2kr.rag.answers_file import read_answers
    from m2kr.rag.gold import gold_answers, read_gold_file
    from m2kr.rag.scored_answers import (
        judges_agreement,
        require_verdicts_file,
        save_verdicts,
        score_answers,
    )
    from m2kr.rag.scorer_registry import (
        default_scorers,
        is_scorer_setting,
        open_scorer,
        scorer_name,
    )

    chosen = options.settings(set_)
    if (source is None) == ("gold" not in chosen):
        raise UsageError(
            "a source and a file of gold answers were given: one of them counts"
            if source
            else "what were the questions?",
            expected="a source, or --set gold=FILE",
            fix=f"m2kr score-answers {file} SOURCE",
        )
    if out is not None:
        require_verdicts_file(
            out, file, *(Path(chosen[k]) for k in ("gold", "types") if k in chosen)
        )
    if source is None:
        gold = read_gold_file(
            Path(chosen["gold"]), types=Path(chosen["types"]) if "types" in chosen else None
        )
        golds, without, kind = gold.golds, gold.without, gold.form
        facts: dict[str, Any] = {"gold": chosen["gold"]}
    else:
        from m2kr.data.load import load

        root = paths.data_root(data)
        output.say(f"data root: {root}", json_mode=json)
        loaded = load(source, split, edition=edition, data=root)
        golds = gold_answers(loaded)
        without = frozenset(loaded.queries_view.ids.to_pylist()) - golds.keys()
        kind = loaded.source
        facts = {
            "source": loaded.source,
            "split": loaded.split,
            "edition": loaded.edition,
            "data": str(root),
            "fingerprints": loaded.fingerprints,
            "partial": bool(loaded.manifest.get("partial")),
            "comparable": str(loaded.manifest.get("comparable", "")),
        }
    names = list(dict.fromkeys(map(scorer_name, scorer or default_scorers(kind))))
    for key in chosen:
        if key not in _SETTINGS and not is_scorer_setting(key, names):
            raise UsageError(
                f"there is no setting '{key}' here",
                expected="; ".join(f"{name}: {doc}" for name, doc in _SETTINGS.items()),
            )
    scorers = [open_scorer(name, chosen) for name in names]
    answers, lacking = read_answers(
        file,
        id_column=chosen.get("id"),
        answer_column=chosen.get("answer"),
        only={key: chosen[key] for key in ("arm", "k") if key in chosen},
    ).of_questions(_some(golds, facts), without, missing=missing_queries)
    scored = [score_answers(answers, golds, one) for one in scorers]
    facts |= {
        "file": str(file),
        "questions": len(golds) + len(without),
        "scored": len(golds),
        "without_gold_answers": len(without),
        "missing_answers": lacking,
        "empty_answers": sum(not answer.strip() for answer in answers.values()),
    }
    if agreement := judges_agreement(scored):
        facts["agreement"] = agreement
    if out is not None:
        facts["verdicts"] = str(save_verdicts(scored, out))
    if json:
        output.emit(facts | {"scorers": {one.scorer: one.as_dict() for one in scored}})
        return
    _show(scored, facts)


def _some(
    golds: "Mapping[str, GoldAnswer]", facts: Mapping[str, Any]
) -> "Mapping[str, GoldAnswer]":
    """The gold answers, if there are any."""
    from m2kr.errors import MissingError

    if not golds:
        raise MissingError(
            "no question has an accepted answer",
            where=facts.get("gold") or f"{facts['source']}/{facts['split']}",
            expected="questions with answers",
        )
    return golds


def _show(scored: "list[ScoredAnswers]", facts: Mapping[str, Any]) -> None:
    from m2kr.cli import output
    from m2kr.rag.agreement import describe_agreement
    from m2kr.report.tables import INTERVALS
    from m2kr.sources import verdict

    body: list[tuple[str, str, str, str]] = []
    notes = [INTERVALS]
    for one in scored:
        told = one.as_dict()
        body.append((one.scorer, "all", f"{told['score']['n']:,}", _score(told["score"])))
        body += [
            ("", name.replace("_", " "), f"{total['n']:,}", _total(total))
            for name, total in told["totals"].items()
            if name not in ("accuracy", "unseen_question", "unseen_entity")
        ]
        groups = [
            ("", f"  {value}", f"{score['n']:,}", _score(score))
            for values in told["groups"].values()
            for value, score in values.items()
        ]
        body += groups[:_MOST_LINES]
        if len(groups) > _MOST_LINES:
            notes.append(f"{one.scorer}: {len(groups)} groups; --json has all of them")
        if told["undefined"]:
            notes.append(
                f"{one.scorer}: {told['undefined']:,} questions have no accepted answer that it can use, "
                "and are not scored"
            )
        if bounds := told["bounds"]:
            notes.append(
                f"{one.scorer}: {bounds['unjudged']:,} answers could not be judged, so the score lies "
                f"between {bounds['all_wrong']:.3f} (all of them wrong) and "
                f"{bounds['all_right']:.3f} (all right)"
            )
    title = facts.get("gold") or f"{facts['source']}/{facts['split']} ({facts['edition']})"
    output.table(("scorer", "questions", "n", "score"), body, title=str(title))
    for count, what in (
        (facts["without_gold_answers"], "questions have no accepted answer, and are not scored"),
        (facts["missing_answers"], "questions have no answer in the file: counted as wrong"),
        (facts["empty_answers"] - facts["missing_answers"], "answers are empty"),
    ):
        if count > 0:
            notes.append(f"{count:,} {what}")
    if facts.get("partial"):
        notes.append("the build is partial: a part of the questions")
    if facts.get("comparable"):
        notes.append(f"{facts['source']}: {verdict(facts['comparable'])}")
    notes += map(describe_agreement, facts.get("agreement", ()))
    for note in notes:
        output.say(note)
    if "verdicts" in facts:
        output.say(f"verdicts: {facts['verdicts']}")


def _score(score: Mapping[str, Any]) -> str:
    from m2kr.report.tables import interval

    if "least" in score:
        return " to ".join(f"{score[end]:.3f}".removeprefix("0") for end in ("least", "most"))
    return interval(score)


def _total(total: Mapping[str, Any]) -> str:
    from m2kr.report.tables import interval

    return interval(total, ends=total["low"] is not None)
