"""Whether what a file says is a result has a result's form: anybody may have written it."""

from collections.abc import Mapping
from typing import Any

_FORMS: tuple[tuple[type, str], ...] = (
    (str, "source split edition headline run_sha256 comparable"),
    (dict, "retriever metrics groups counts fingerprints seconds versions experiment files cost"),
    (list, "shown notes"),
    (int, "k"),
    (bool, "partial"),
)
_OR_NULL = ("images", "search", "ablations", "bands")
_BESIDE = ("query_ids", "scores", "query_groups", "run", "path")  # not in the JSON
_ABSENT = object()


def require_result_form(facts: Mapping[str, Any]) -> None:
    """Refuses values of another form than `Result`'s attributes have, of those that are read everywhere.

    Raises:
        TypeError: says which value.
    """
    for kind, names in _FORMS:
        for name in names.split():
            _require(type(facts.get(name, kind())) is kind, name)
    for name in _OR_NULL:
        _require(isinstance(facts.get(name), dict | None), name)
    for name in _BESIDE:
        _require(name not in facts, name)
    _require(isinstance(facts.get("retriever", {}).get("name"), str), "retriever.name")
    _require(isinstance(facts["retriever"].get("reused", {}), dict), "retriever.reused")
    _require(isinstance(facts["retriever"].get("run") or {}, dict), "retriever.run")
    _require_metrics(facts.get("metrics", {}), "metrics")
    for column, values in facts.get("groups", {}).items():
        _require(isinstance(values, dict), f"groups.{column}")
        for value, group in values.items():
            name = f"groups.{column}.{value}"
            _require(isinstance(group, dict) and type(group.get("n")) is int, name)
            _require_metrics(group.get("metrics"), name)
    for name in ("shown", "notes"):
        _require(all(isinstance(text, str) for text in facts.get(name, ())), name)
    for name in ("files", "fingerprints", "versions"):
        texts = facts.get(name, {}).values()
        _require(all(isinstance(text, str | None) for text in texts), name)
    for name, key in (("counts", "queries"), ("seconds", "total")):
        numbers = facts.get(name, {})
        _require(all(type(number) in (int, float) for number in numbers.values()), name)
        _require(key in numbers, f"{name}.{key}")
    images = facts.get("images")
    if images:
        _require(all(type(images.get(n)) is int for n in ("found", "total")), "images")
    search = facts.get("search") or {}
    _require(isinstance(search.get("mode", ""), str), "search.mode")
    _require(isinstance(search.get("audit") or {}, dict), "search.audit")
    _require(isinstance(search.get("seeds") or {}, dict), "search.seeds")


def _require_metrics(metrics: Any, where: str) -> None:
    _require(isinstance(metrics, dict), where)
    for name, metric in metrics.items():
        _require(isinstance(metric, dict), f"{where}.{name}")
        ends = [metric.get(key, _ABSENT) for key in ("value", "low", "high")]
        numbers = all(type(end) in (int, float) for end in ends)
        _require(numbers or ends == [None] * 3, f"{where}.{name}")
        _require(type(metric.get("n")) is int, f"{where}.{name}.n")


def _require(right: bool, name: str) -> None:
    if not right:
        raise TypeError(f"'{name}' has another form")
