"""A study's figures: learning curves of its stages, and scores over its grid."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from m2kr.evaluation.metrics import heading
from m2kr.report.plots import line_style, save_figures, write_plots
from m2kr.training.study_file import StudyFigure
from m2kr.training.study_outcome import Scored, StudyOutcome, read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from m2kr.training.study_plan import PlannedStage

_SMOOTHED = 40  # parts of a run that a learning curve shows at most


def write_figures(outcome: StudyOutcome, folder: Path) -> list[Path]:
    """Writes ``learning``, ``scores`` and, where the study has a ``figure``, the one over its grid.

    Args:
        outcome: The study's.
        folder: Made if need be; files of these names are replaced.

    Returns:
        Paths of the files, a PNG and an SVG of each.

    Raises:
        MissingError: matplotlib is not installed.
    """
    written = []
    figure = outcome.study.figure
    if figure is not None:
        written += save_figures(lambda: [(outcome.study.name, over_grid(outcome, figure))], folder)
    else:
        first = outcome.study.grid.get(outcome.study.repeat, ("",))[0]
        results = [
            result
            for one in outcome.scored
            if one.system.point.get(outcome.study.repeat, first) == first
            for result in one.results.values()
        ]
        written += [path for path in write_plots(results, folder) if path.stem == "scores"]
    if any(map(read_log, outcome.stages)):
        written += save_figures(lambda: [("learning", learning_curves(outcome))], folder)
    return written


def learning_curves(outcome: StudyOutcome) -> "Figure":
    """Loss by step, a panel a stage and a line a run; below it what validation found, if there was any."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = [n for n in outcome.study.stages if any(s.stage == n for s in outcome.stages)]
    logs = {stage.key: read_log(stage) for stage in outcome.stages}
    metrics = {stage.key: stage.recipe.validation.metric for stage in outcome.stages}
    validated = any("validation" in row for rows in logs.values() for row in rows)
    figure = Figure(figsize=(3.1 * max(2, len(names)), 2.8 * (1 + validated)), layout="constrained")
    panels = figure.subplots(1 + validated, len(names), squeeze=False)
    for column, name in enumerate(names):
        runs = [stage for stage in outcome.stages if stage.stage == name]
        labels = list(dict.fromkeys(_run_label(stage, runs) for stage in runs))
        shown: set[str] = set()
        for stage in runs:
            label = _run_label(stage, runs)
            style = line_style(labels.index(label), label) | {"marker": ""}
            style |= {} if label not in shown else {"label": None}
            shown.add(label)
            steps, losses = _smoothed([r for r in logs[stage.key] if "loss" in r])
            panels[0][column].plot(steps, losses, **style)
            found = _validation(logs[stage.key], metrics[stage.key])
            if validated and found:
                style |= {"marker": "o", "markersize": 4}
                panels[1][column].plot(*zip(*found, strict=True), **style)
        panels[0][column].set_title(name)
        panels[0][column].set_ylim(0)
        panels[-1][column].set_xlabel("step")
        for row in panels:
            row[column].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(labels) > 1:
            panels[0][column].legend(frameon=False, fontsize=7)
    panels[0][0].set_ylabel("training loss")
    if validated:
        measured = dict.fromkeys(
            metrics[s.key] for s in outcome.stages if _validation(logs[s.key], metrics[s.key])
        )
        panels[1][0].set_ylabel("validation " + ", ".join(map(_name, measured)))
    return figure


def over_grid(outcome: StudyOutcome, figure: StudyFigure) -> "Figure":
    """Scores along a variable, a panel a metric and evaluation; of repeats the mean, and each as a dot."""
    from matplotlib.figure import Figure

    study = outcome.study
    by_evaluation = "evaluation" in (figure.x, figure.lines)
    panels_of = [
        (metric, None if by_evaluation or metric.startswith("validation/") else evaluation)
        for metric in figure.y
        for evaluation in (
            [None] if by_evaluation or metric.startswith("validation/") else study.evaluations
        )
    ]
    drawn = Figure(figsize=(4.4 * len(panels_of) + 0.6, 3.6), layout="constrained")
    panels = drawn.subplots(1, len(panels_of), squeeze=False)[0]
    for panel, (metric, evaluation) in zip(panels, panels_of, strict=True):
        places = (
            list(study.evaluations)
            if figure.x == "evaluation"
            else list(study.grid.get(figure.x, study.arms))
        )
        numbers = _numbers(places)
        lines = _lines(outcome, figure, metric, evaluation)
        for number, (label, points) in enumerate(lines.items()):
            known = [place for place in places if points.get(place)]
            at = [numbers[place] for place in known]
            style = line_style(number, label)
            panel.plot(at, [fmean(points[place]) for place in known], **style)
            for place, x in zip(known, at, strict=True):
                if len(points[place]) > 1:
                    each = points[place]
                    panel.plot([x] * len(each), each, "o", color=style["color"], ms=3, alpha=0.45)
        panel.set_xticks([numbers[place] for place in places], places)
        panel.set_xlabel(figure.x_label or figure.x)
        change = f", change from {figure.x} {figure.change_from}" if figure.change_from else ""
        panel.set_title(f"{_name(metric)}{f', {evaluation}' if evaluation else ''}{change}")
        if figure.change_from:
            panel.axhline(0, color="#5d636d", linewidth=0.8)
        if len(lines) > 1:
            panel.legend(frameon=False, fontsize=7)
    return drawn


def _lines(
    outcome: StudyOutcome, figure: StudyFigure, metric: str, evaluation: str | None
) -> dict[str, dict[str, list[float]]]:
    """By line and place on the axis the values of the repeats."""
    study = outcome.study
    lines: dict[str, dict[str, list[float]]] = {}
    for one in outcome.scored:
        if not one.system.last or (not one.system.arm and figure.x != "evaluation"):
            continue
        for name in [evaluation] if evaluation else list(study.evaluations):
            value = _value(one, metric, name)
            base = _base(outcome, figure, one, metric, name)
            if value is None or base is None:
                continue
            axes = {
                **one.system.point,
                "arm": one.system.arm or one.system.name,
                "evaluation": name,
            }
            others = [
                f"{variable} {axes[variable]}"
                for variable, values in study.grid.items()
                if len(values) > 1
                and variable not in (figure.x, figure.lines, study.repeat)
                and variable in axes
            ]
            if figure.x not in axes:
                continue
            words = str(axes.get(figure.lines, axes["arm"]))
            label = ", ".join(
                [
                    words if figure.lines in ("arm", "evaluation") else f"{figure.lines} {words}",
                    *others,
                ]
            )
            lines.setdefault(label, {}).setdefault(str(axes[figure.x]), []).append(value - base)
            if metric.startswith("validation/"):
                break  # the log is the same for all evaluations
    return lines


def _base(
    outcome: StudyOutcome, figure: StudyFigure, one: Scored, metric: str, evaluation: str
) -> float | None:
    """What a value is shown as a change from: that at the figure's ``change_from``, or 0."""
    if not figure.change_from:
        return 0.0
    point = {**one.system.point, figure.x: figure.change_from}
    for other in outcome.scored:
        same = other.system.arm == one.system.arm and other.system.last
        if same and dict(other.system.point) == point:
            return _value(other, metric, evaluation)
    return None


def _value(one: Scored, metric: str, evaluation: str) -> float | None:
    if not metric.startswith("validation/"):
        return one.results[evaluation].value(metric)
    if one.system.stage is None:
        return None
    found = _validation(read_log(one.system.stage), metric.removeprefix("validation/"))
    return found[-1][1] if found else None


def _validation(rows: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[int, float]]:
    """Steps and values of a metric."""
    return [
        (int(row["step"]), float(row["validation"][metric]))
        for row in rows
        if metric in row.get("validation", {})
    ]


def _smoothed(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Steps and losses, as means over equal parts of the run."""
    size = max(1, -(-len(rows) // _SMOOTHED))
    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    return (
        [fmean(row["step"] for row in part) for part in parts],
        [fmean(row["loss"] for row in part) for part in parts],
    )


def _run_label(stage: "PlannedStage", runs: "Sequence[PlannedStage]") -> str:
    """What sets a run apart from others of its stage: the chain before it, where chains differ."""
    chains = {tuple(each.stage for each in run.chain) for run in runs}
    if len(chains) == 1:
        return f"seed {stage.recipe.steps.seed}"
    return "after " + " + ".join(each.stage for each in stage.chain[:-1])


def _numbers(places: Sequence[str]) -> dict[str, float]:
    """Where places are on the axis: at their own numbers, else one beside the other."""
    try:
        return {place: float(place) for place in places}
    except ValueError:
        return {place: float(number) for number, place in enumerate(places)}


def _name(metric: str) -> str:
    if metric.startswith("validation/"):
        return f"validation {metric.removeprefix('validation/')}"
    return metric if metric == "loss" else heading(metric)
