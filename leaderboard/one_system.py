"""Whether results are one system's: what they record of the retriever must be the same on all sources."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from m2kr.errors import InputError
from m2kr.evaluation.result import Result, json_sha256

# What may be another on each source: how queries are worded, what was learned there, which run was
# re-ranked or fused, what the machine did, and what follows from the size of the pool.
_OF_A_SOURCE = {
    *("instruction", "instructions", "learned", "learn_on", "learn_runs", "runs", "run_sha256"),
    *("device", "compile", "batch_size", "images", "audit", "centroids"),
}
_RUN = "run:"


def require_one_system(results: Sequence[Result]) -> None:
    """Refuses results of several systems, which would be handed in as one.

    Raises:
        InputError: two results differ in the retriever's name, label, settings, arguments or search.
    """
    first = results[0]
    for other in results[1:]:
        if difference := next(_differences(_facts(first), _facts(other)), None):
            key, one, two = difference
            raise InputError(
                f"{_called(first)} and {_called(other)} are not of one system: {key} is {_shown(one)} "
                f"and {_shown(two)}",
                expected="results of one retriever, with the same label, settings and search",
                fix="name the results of one of them; two systems are two submissions",
            )


def system_sha256(result: Result) -> str:
    """Hash of what `require_one_system` compares."""
    return json_sha256(_facts(result))


def _facts(result: Result) -> dict[str, Any]:
    retriever = result.retriever
    name, file = str(retriever["name"]), str((retriever.get("run") or {}).get("file") or "")
    return {
        "name": "" if name == file.split(".")[0] else name,  # of a run without one, its file's
        "label": str(retriever.get("label") or ""),
        "search": result.search_mode,
        "settings": _of_all_sources(retriever.get("settings") or {}),
        "arguments": _of_all_sources(retriever.get("arguments") or {}),
    }


def _of_all_sources(value: Any) -> Any:
    """Settings without those that are a source's own; of runs what is said of them, without their names."""
    if isinstance(value, Mapping):
        runs = [_of_all_sources(_said_of_run(value[key])) for key in value if key.startswith(_RUN)]
        kept = {
            key: _of_all_sources(inner)
            for key, inner in value.items()
            if key not in _OF_A_SOURCE and not key.startswith(_RUN)
        }
        return kept | ({_RUN: sorted(runs, key=json.dumps)} if runs else {})
    if isinstance(value, list | tuple):
        return [_of_all_sources(inner) for inner in value]
    return _RUN if isinstance(value, str) and value.startswith(_RUN) else value


def _said_of_run(facts: Any) -> Any:
    """A weight, or the settings of what made a run."""
    return facts.get("settings") if isinstance(facts, Mapping) else facts


def _differences(one: Any, two: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for name in dict.fromkeys([*one, *two]):
            yield from _differences(one.get(name), two.get(name), f"{key}.{name}" if key else name)
    elif one != two:
        yield key, one, two


def _called(result: Result) -> str:
    return f"{result.path.name if result.path else result.name} ({result.source}/{result.split})"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
