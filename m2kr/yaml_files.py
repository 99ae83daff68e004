"""YAML files that people write: nothing in them is executed, and no key counts twice."""

from pathlib import Path
from typing import Any

import yaml

from m2kr.errors import InputError, MissingError


class _UniqueKeys:
    """A key that is given twice is an error, not the second."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As of the base class."""
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key '{key}' is given twice{node.start_mark}")
        made: dict[Any, Any] = super().construct_mapping(node, deep)  # type: ignore[misc]
        return made


# libyaml's, ten times as fast, where PyYAML was built with it.
_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BASE: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class _Typed(_UniqueKeys, _SAFE):  # type: ignore[misc]
    pass


class _Words(_UniqueKeys, _BASE):  # type: ignore[misc]
    pass


def parse_yaml(text: str, where: str, *, words: bool = False) -> Any:
    """What a YAML text holds.

    Args:
        text: The text.
        where: Where it is from, for errors.
        words: Leaves all scalars the strings that they are written as, so that the reader's types
            decide: YAML reads ``1e-5`` as text, ``010`` as 8 and ``no`` as false.

    Raises:
        InputError: It is no YAML, or gives a key twice.
    """
    try:
        return yaml.load(text, _Words if words else _Typed)  # noqa: S506 - both are safe
    except yaml.YAMLError as error:
        raise InputError(f"it is no YAML: {' '.join(str(error).split())}", where=where) from error
    except ValueError as error:  # 2026-13-45 looks like a date
        raise InputError(f"it is no YAML: {error}", where=where) from error


def read_yaml(path: Path, kind: str, expected: str, *, words: bool = False) -> dict[Any, Any]:
    """The mapping in a YAML file.

    Args:
        path: The file.
        kind: What it is for, for errors: ``a recipe``.
        expected: What a right one looks like.
        words: See `parse_yaml`.

    Raises:
        MissingError: There is no such file.
        InputError: It holds no mapping.
    """
    if not path.is_file():
        raise MissingError(f"there is no such file of {kind}", where=str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"it is no YAML: {error}", where=str(path)) from error
    facts = parse_yaml(text, str(path), words=words)
    if not isinstance(facts, dict):
        raise InputError("it is no mapping", where=str(path), expected=expected)
    return facts
