"""Settings from the command line: strings turned into what a retriever's ``__init__`` asks for."""

import difflib
import inspect
import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from m2kr.errors import UsageError

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_SIMPLE = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


def arguments(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The named parameters that a class or function takes, with their types resolved."""
    try:
        signature = inspect.signature(factory, eval_str=True)
    except Exception:  # noqa: BLE001 - such as a type that is imported for checking only
        try:
            signature = inspect.signature(factory)
        except (TypeError, ValueError):  # made in C
            return {}
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in signature.parameters.items() if p.kind not in skipped}


def split_off(
    factory: Callable[..., Any], settings: Mapping[str, object], where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments for a factory, and attributes for what it makes.

    The attributes are those that any encoder has, where its ``__init__`` doesn't take them.

    Args:
        factory: The class or function they are for.
        settings: What was set, such as ``{"k1": "0.9"}``; values that are not strings stay as they
            are.
        where: The retriever, for errors.

    Raises:
        UsageError: an unknown key, a value of another type, or a required key that is not set.
    """
    taken = arguments(factory)
    types = getattr(factory, "settable", {})
    kinds = inspect.Parameter.KEYWORD_ONLY
    free = {
        name: inspect.Parameter(name, kinds, default=None, annotation=kind)
        for name, kind in types.items()
        if name not in taken
    }
    values = _convert(taken | free, settings, where)
    return (
        {name: value for name, value in values.items() if name in taken},
        {name: value for name, value in values.items() if name not in taken},
    )


def _convert(
    known: Mapping[str, inspect.Parameter], settings: Mapping[str, object], where: str
) -> dict[str, Any]:
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UsageError(
                f"there is no setting '{key}'",
                where=where,
                expected="one of " + ", ".join(known) if known else "no settings at all",
                fix=f"did you mean '{near[0]}'?" if near else None,
            )
    for key, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and key not in settings:
            raise UsageError(
                f"the setting '{key}' has no default",
                where=where,
                expected=f"{key}={_expected(parameter.annotation)}",
                fix=f"--set {key}=VALUE",
            )
    return {
        key: _converted(key, value, known[key].annotation, where) for key, value in settings.items()
    }


def _converted(key: str, value: object, annotation: Any, where: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return _parse(value, annotation)
    except ValueError as error:
        raise UsageError(
            f"the setting '{key}' can't be '{value}'", where=where, expected=_expected(annotation)
        ) from error


def _parse(text: str, annotation: Any) -> Any:
    """The value that a string stands for; ValueError where it can't be of the type."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        if text.lower() == "none" and type(None) in inner:
            return None
        kinds = [kind for kind in inner if kind is not type(None)]
        return _first(text, sorted(kinds, key=lambda kind: kind is str))
    if origin is Literal:
        for choice in inner:
            if str(choice) == text:
                return choice
        raise ValueError(text)
    if origin in (tuple, list):
        return origin(_parse(part.strip(), inner[0]) for part in text.split(",") if part.strip())
    if annotation is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError(text)
        return text.lower() in _TRUE
    if annotation in (int, float, Path):
        value = annotation(text)
        if annotation is float and not math.isfinite(value):
            raise ValueError(text)
        return value
    return text


def _first(text: str, kinds: list[Any]) -> Any:
    for kind in kinds:
        try:
            return _parse(text, kind)
        except ValueError:
            continue
    raise ValueError(text)


def _expected(annotation: Any) -> str:
    """What a type asks of a value, in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if kind is type(None) else _expected(kind) for kind in inner)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (tuple, list):
        return f"{_expected(inner[0])}, or several separated by commas"
    return _SIMPLE.get(annotation, "text")
