"""Rankings from a file: a run, or a saved result, which has its run beside it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from m2kr.errors import CheckError, UsageError
from m2kr.evaluation.result import Result
from m2kr.evaluation.result_files import is_result, result_files
from m2kr.retrieval.run import Run

if TYPE_CHECKING:
    from m2kr.data.load import Split

logger = logging.getLogger("m2kr.evaluation")


def open_run(path: Path, split: "Split") -> Run:
    """The rankings in a run file, or of a saved result (its JSON).

    Args:
        path: A run's file, a result's, or a folder or pattern of one; see `result_files`.
        split: Whose queries they must be for.

    Raises:
        UsageError: there are several.
        MissingError: there is no such file.
        InputError: it is neither.
        CheckError: it is a result on other data.
    """
    files = list(dict.fromkeys(result_files(path)))
    if len(files) > 1:
        raise UsageError(
            f"{len(files)} results are there",
            where=str(path),
            expected="one of " + ", ".join(file.name for file in files[:5]),
        )
    path = files[0]
    if path.suffix == ".json" and is_result(path):
        result = Result.load(path)
        made_on = f"{result.source}/{result.split} ({result.edition})"
        if result.fingerprints.get("eval") != split.fingerprints["eval"]:
            raise CheckError(
                f"this result was made on {made_on}"
                + (", as it was before it was built anew" if made_on == split.label else ""),
                where=str(path),
                expected=f"a result on {split.label} as it is here",
                fix="evaluate again, or name the source, --split and --edition that it was made on",
            )
        return result.scored_run()
    run = Run.load(path)
    made_for = run.recorded.get("fingerprints", {}).get("pool")
    if made_for and made_for != split.fingerprints["pool"]:
        logger.warning("the run '%s' was made for another pool than %s has", run.name, split.label)
    return run
