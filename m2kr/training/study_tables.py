"""A study's outcome as a page in Markdown, and its plan and scores as rows for tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from m2kr.evaluation.metrics import heading
from m2kr.training.study_outcome import StudyOutcome, read_log

if TYPE_CHECKING:
    from m2kr.training.study_plan import PlannedStage, StudyPlan

_INTERVALS = "In brackets: 95 % bootstrap intervals."
_LETTERS = "Systems that share a letter can't be told apart (Holm, level .05)."


def plan_rows(plan: "StudyPlan") -> tuple[list[str], list[tuple[str, ...]]]:
    """Heads and rows: per stage its runs, how many are different, steps, and how many are done."""
    chains = [
        stage
        for system in plan.systems
        if system.last and system.stage
        for stage in system.stage.chain
    ]
    rows: list[tuple[str, ...]] = []
    for name in plan.study.stages:
        own = [stage for stage in plan.stages if stage.stage == name]
        steps = sum(stage.recipe.steps.steps for stage in own)
        asked = sum(stage.stage == name for stage in chains)
        done = sum(stage.record is not None for stage in own)
        rows.append((name, str(asked), str(len(own)), f"{steps:,}", str(done)))
    return ["stage", "in arms", "runs", "steps", "done"], rows


def score_rows(
    outcome: StudyOutcome, evaluation: str, *, intervals: bool = True
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Heads and rows of the systems' scores on one evaluation: of repeats the mean and the range."""
    metrics = [
        name
        for name in outcome.study.metrics
        if any(one.results[evaluation].value(name) is not None for one in outcome.scored)
    ]
    letters = _letters(outcome, evaluation)
    names = list(dict.fromkeys(one.system.name for one in outcome.scored))
    rows = []
    for name in names:
        same = [one for one in outcome.scored if one.system.name == name]
        found = [one.results[evaluation].metrics for one in same]
        cells = [
            _cell([of.get(metric, {}) for of in found], intervals=intervals) for metric in metrics
        ]
        rows.append((name, *cells, *([letters.get(name, "")] if letters else [])))
    return ["system", *map(heading, metrics), *(["letters"] if letters else [])], rows


def task_rows(
    outcome: StudyOutcome, evaluation: str
) -> tuple[list[str], list[tuple[str, ...]]] | None:
    """Heads and rows of the first metric by the queries' tasks; None where they have but one, or none."""
    metric = outcome.study.tested_metric
    first = outcome.scored[0].results[evaluation].groups.get("task", {})
    tasks = [task for task, found in first.items() if metric in found["metrics"]]
    if len(tasks) < 2:
        return None
    rows = []
    for name in dict.fromkeys(one.system.name for one in outcome.scored):
        same = [one.results[evaluation] for one in outcome.scored if one.system.name == name]
        cells = [
            _cell([of.groups["task"][task]["metrics"][metric] for of in same], intervals=True)
            for task in tasks
        ]
        rows.append((name, *cells))
    heads = [f"{task}, {first[task]['n']:,} queries" for task in tasks]
    return [f"system, {heading(metric)}", *heads], rows


def test_lines(outcome: StudyOutcome, metric: str) -> list[str]:
    """A line for each comparison of two systems by a metric."""
    lines = []
    for tested in outcome.tests:
        compared = next(iter(tested.comparison.by_source.values()), {}).get(metric)
        if compared is None:
            continue
        where = ", ".join(filter(None, (tested.evaluation, _repeat(outcome, tested.repeat))))
        lines += [
            f"{where}, {heading(metric)}: {pair.a} - {pair.b} {pair.difference:+.3f} "
            f"[{pair.low:+.3f} {pair.high:+.3f}], p {_p(pair.p_holm)}"
            for pair in compared.pairs
        ]
    return lines


def as_markdown(outcome: StudyOutcome, figures: Sequence[Path]) -> str:
    """The page: scores, comparisons, stages and figures."""
    study = outcome.study
    parts = [f"# {study.title or study.name}", study.about.strip()]
    for name, evaluation in study.evaluations.items():
        queries = outcome.scored[0].results[name].counts.get("queries", 0)
        pool = f", a pool of {int(evaluation.passages):,} passages" if evaluation.passages else ""
        way = (
            "" if evaluation.instructions == "row" else f", instructions {evaluation.instructions}"
        )
        title = (
            f"## Scores on {evaluation.source}/{evaluation.split}, {queries:,} queries{pool}{way}"
        )
        heads, rows = score_rows(outcome, name)
        said = _INTERVALS if not study.repeat else f"Means over {study.repeat}, and their range."
        if "letters" in heads:
            said += f" {_LETTERS}"
        parts += [title, _table(heads, rows), said]
        by_task = task_rows(outcome, name)
        parts += ["By the queries' task:", _table(*by_task)] if by_task else []
    parts += ["## Figures"] if figures else []
    for figure in figures:
        if figure.suffix == ".png":
            path = figure.relative_to(outcome.folder).as_posix()
            parts.append(f"![{figure.stem}]({path})")
    for tested in outcome.tests:
        place = ", ".join(filter(None, (tested.evaluation, _repeat(outcome, tested.repeat))))
        text = tested.comparison.to_markdown().strip()
        parts += [f"## Compared on {place}", text.replace("\n# ", "\n### ")]
    if outcome.stages:
        heads, rows = _stage_rows(outcome.stages)
        parts += [
            "## Stages",
            "Each was trained once, for all arms that share it.",
            _table(heads, rows),
        ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _stage_rows(
    stages: "Sequence[PlannedStage]",
) -> tuple[list[str], list[tuple[str, ...]]]:
    rows: list[tuple[str, ...]] = []
    for stage in stages:
        losses = [row["loss"] for row in read_log(stage) if "loss" in row]
        tenth = max(1, len(losses) // 10)
        ends = (
            f"{fmean(losses[:tenth]):.3f}, {fmean(losses[-tenth:]):.3f}" if losses else "not known"
        )
        chain = " + ".join(each.stage for each in stage.chain)
        record = stage.record or {}
        steps, seconds = record.get("steps", 0), record.get("wall_seconds", 0.0)
        rows.append((chain, f"{steps:,}", f"{seconds:,.0f}", ends, f"`{stage.folder.name}`"))
    return ["stages", "steps", "seconds", "loss, first and last tenth", "folder"], rows


def _cell(facts: Sequence[Mapping[str, Any]], *, intervals: bool) -> str:
    """A score, or of repeats the mean and the range."""
    values = [float(fact["value"]) for fact in facts if fact.get("value") is not None]
    if not values:
        return "-"
    text = _score(fmean(values))
    if not intervals:
        return text
    if len(values) > 1:
        return f"{text} ({_score(min(values))} to {_score(max(values))})"
    low, high = facts[0].get("low"), facts[0].get("high")
    return text if low is None or high is None else f"{text} [{_score(low)} {_score(high)}]"


def _letters(outcome: StudyOutcome, evaluation: str) -> dict[str, str]:
    """By system, where all were compared with each other, once."""
    tests = [tested for tested in outcome.tests if tested.evaluation == evaluation]
    if outcome.study.tests or len(tests) != 1:
        return {}
    comparison = tests[0].comparison
    metrics = next(iter(comparison.by_source.values()))
    chosen: Any = metrics.get(next(iter(comparison.headlines.values()))) or next(
        iter(metrics.values())
    )
    # By place: one system's label may end with another's name.
    last = [one.system.name for one in outcome.scored if one.system.last]
    labels = zip(last, comparison.systems, strict=True)
    return {name: chosen.letters[label] for name, label in labels if label in chosen.letters}


def _repeat(outcome: StudyOutcome, value: str) -> str:
    return f"{outcome.study.repeat} {value}" if outcome.study.repeat else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )


def _score(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
