"""What was done, as JSON values: by it results are named, so that none overwrites another's."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.own_code import settings_of
from m2kr.retrieval.replay import RunRetriever

if TYPE_CHECKING:
    from m2kr.data.load import Split
    from m2kr.retrieval.protocol import Retriever
    from m2kr.search.config import SearchConfig

# Of `SearchConfig`, what changes how fast it is and not what is found.
_COSTS = {"max_hours", "threads", "device"}
_LONGEST = 500  # characters of an argument that is kept as it is


def of_split(split: "Split") -> dict[str, Any]:
    """Which data: where they lie, what they are, and which images go with them."""
    folder = getattr(split, "folder", None)
    return {
        "source": split.source,
        "split": split.split,
        "edition": split.edition,
        "data": str(folder.resolve()) if folder is not None else "",
        "fingerprint": split.fingerprints.get("eval"),
        "images": [str(root) for root in getattr(split, "image_roots", ())],
        "missing_images": getattr(split, "missing_images", "error"),
    }


def of_retriever(
    retriever: "Retriever", given: Mapping[str, Any], searching: "SearchConfig | None"
) -> dict[str, Any]:
    """Which retriever: its class, the arguments it was made with, and how it searches."""
    if isinstance(retriever, RunRetriever):
        return {"run": {"file": retriever.file, "sha256": retriever.run.sha256()}}
    kind = type(retriever)
    facts: dict[str, Any] = {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "settings": settings_of(retriever),
        "arguments": arguments(retriever, given),
    }
    if isinstance(retriever, EncoderRetriever):
        used = searching or retriever.searching
        facts["searching"] = {
            each.name: _json(getattr(used, each.name))
            for each in fields(used)
            if each.name not in _COSTS
        }
    return facts


def arguments(retriever: "Retriever", given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a retriever was made with, so far as it can be told.

    Of each parameter of its class: the attribute of that name (or with ``_`` before it), else what was
    given on the command line, else the default. Those that its settings have are left out, and long
    ones are given as their SHA-256.

    Args:
        retriever: The object.
        given: Settings that it was made with.
    """
    found: dict[str, Any] = {}
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    try:
        parameters = inspect.signature(type(retriever)).parameters
    except (TypeError, ValueError):
        return {}
    for name, parameter in parameters.items():
        if parameter.kind in skipped:
            continue
        kept = vars(retriever) if hasattr(retriever, "__dict__") else {}
        value = kept.get(name, kept.get(f"_{name}", (given or {}).get(name, parameter.default)))
        if value is not inspect.Parameter.empty and (plain := _json(value)) is not None:
            found[name] = plain if len(str(plain)) <= _LONGEST else f"sha256:{_sha256(plain)}"
    settings = settings_of(retriever)
    return {name: value for name, value in found.items() if settings.get(name) != value}


def digest(experiment: Mapping[str, Any], run_sha256: str) -> str:
    """Eight hex digits for an experiment and the rankings that it gave."""
    return _sha256([experiment, run_sha256])[:8]


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _json(value: Any) -> Any:
    """A value as JSON has it; a path as text; None for what has no such form."""
    if isinstance(value, Mapping):
        value = dict(value)
    try:
        return json.loads(json.dumps(value, default=_text, sort_keys=True))
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str:
    from pathlib import PurePath

    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(value)
