"""``m2kr study``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2kr.cli import options, output

if TYPE_CHECKING:
    from m2kr.training.study_file import Study

EXAMPLES = (
    "m2kr study train-demo --plan",
    "m2kr study train-demo",
    "m2kr study inter-steps-mini --set seed=0,1,2",
    "m2kr study my_study.yaml --set evqa.optimiser.lr=1e-4",
)

_MOST_TESTS = 12


def command(
    study: Annotated[
        str, typer.Argument(help="A study that comes with m2kr, or a .yaml file of your own.")
    ],
    plan: options.Plan = False,
    set_: options.Settings = None,
    out: options.OutOrNone = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Train chains of stages over a grid, score and compare them, and draw the outcome.

    A stage that several arms begin with is trained once, and what is done is found again, so a study
    that was cut off goes on by the same command. Results go to studies/NAME, with study.json, study.md
    and figures. --set VARIABLE=A,B gives the grid other values, --set KEY=VALUE is for all stages, and
    --set STAGE.KEY=VALUE for one. --plan lists stages, runs and steps. docs/training.md tells of studies of
    your own; one to start from is m2kr/training/studies/inter-steps-mini.yaml.
    """
    from m2kr import paths
    from m2kr.training.study_file import load_study

    chosen, root = load_study(study, options.settings(set_)), paths.data_root(data)
    folder = out or Path("studies") / chosen.name
    if plan:
        _plan(chosen, folder, root, json=json)
        return
    _run(chosen, folder, root, json=json)


def _plan(study: "Study", folder: Path, root: Path, *, json: bool) -> None:
    from m2kr.training.study_plan import StudyPlan
    from m2kr.training.study_tables import plan_rows

    planned = StudyPlan(study, folder, root)
    heads, rows = plan_rows(planned)
    points = list(study.points())
    told = {
        "study": study.name,
        "points": points,
        "arms": {name: list(stages) for name, stages in study.arms.items()},
        "stages": [dict(zip(heads, row, strict=True)) for row in rows],
        "systems": [system.name for system in planned.systems],
        "evaluations": len(planned.systems) * len(study.evaluations),
        "not_built": sorted(set(planned.unbuilt)),
    }
    if json:
        output.emit(told)
        return
    output.table(
        ["arm", "stages"], [(name, " + ".join(of) or "-") for name, of in study.arms.items()]
    )
    output.table(heads, rows)
    grid = ", ".join(f"{name} {' '.join(values)}" for name, values in study.grid.items())
    output.say(f"points of the grid: {len(points)}" + (f" ({grid})" if grid else ""))
    output.say(
        f"runs: {len(planned.stages)}; scored: {len(planned.systems)} systems on "
        f"{len(study.evaluations)} evaluations"
    )
    if planned.unbuilt:
        output.say(f"not built yet: {', '.join(sorted(set(planned.unbuilt)))}")


def _run(study: "Study", folder: Path, root: Path, *, json: bool) -> None:
    from m2kr.training.study import run_study
    from m2kr.training.study_tables import score_rows, test_lines

    with output.Bars() as bars:
        outcome = run_study(
            study,
            data=root,
            out=folder,
            progress=bars,
            tell=lambda line: output.say(line, json_mode=True),
        )
    if json:
        output.emit(outcome.as_dict())
        return
    for name in study.evaluations:
        output.table(*score_rows(outcome, name, intervals=False), title=name)
    lines = test_lines(outcome, study.tested_metric)
    for line in lines[:_MOST_TESTS]:
        output.say(line)
    if len(lines) > _MOST_TESTS:
        output.say(f"and {len(lines) - _MOST_TESTS} more comparisons, in study.json")
    output.say(f"study.md, study.json and figures are in {folder.absolute()}")
