"""From words to a recipe's dataclasses: types by annotation, errors by the path of the key."""

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from m2kr.errors import InputError, M2KRError, UsageError
from m2kr.sources import normalise
from m2kr.training.recipe import Recipe, Share

_NULL = ("", "~", "null", "Null", "NULL")
_BOOLS = {"true": True, "false": False}
_INTEGER = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a recipe's values are from, for errors.

    Attributes:
        file: A file's or a packaged recipe's name.
        overrides: The text of each ``--set`` by the path that it sets.
    """

    file: str = ""
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def overridden(self, path: str) -> str | None:
        """The ``--set`` that a path's value is from."""
        for key, text in self.overrides.items():
            if path == key or path.startswith((f"{key}.", f"{key}[")):
                return f"--set {text}"
        return None

    def error(
        self, what: str, *paths: str, expected: str | None = None, fix: str | None = None
    ) -> M2KRError:
        """The error about some keys' values, which names the override or file that they are from."""
        for path in paths:
            if given := self.overridden(path):
                return UsageError(what, where=given, expected=expected, fix=fix)
        return InputError(what, where=self.file or None, expected=expected, fix=fix)


R = TypeVar("R")


def recipe_from(words: Mapping[str, Any], origin: Origin, kind: type[R]) -> R:
    """A recipe of a YAML's words (`m2kr.yaml_files.parse_yaml` with ``words``).

    Args:
        words: The file's.
        origin: Where they are from.
        kind: The recipe's dataclass.

    Raises:
        InputError: A key is unknown, or a value is of another type.
        UsageError: Likewise of an override.
    """
    made: R = _Reader(origin, kind).section(words, kind, "")
    return made


class _Reader:
    """Reads values by the types of the fields that they are for."""

    def __init__(self, origin: Origin, recipe: type) -> None:
        self._origin, self._recipe = origin, recipe

    def section(self, words: Any, kind: type, path: str) -> Any:
        if words in _NULL:
            words = {}
        if not isinstance(words, Mapping):
            self._refuse(path, words, "a section: " + ", ".join(fields_of(kind)))
        hints, values = fields_of(kind), {}
        for key, word in words.items():
            inner = f"{path}.{key}" if path else str(key)
            if key not in hints:
                raise self._origin.error(
                    f"there is no key {inner}",
                    inner,
                    expected=f"{path or 'a recipe'} has {', '.join(hints)}",
                    fix=nearest_key(str(key), kind, path, self._recipe),
                )
            values[key] = self.value(word, hints[key], inner)
        for field in dataclasses.fields(kind):
            required = (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            )
            if required and field.name not in values:
                raise self._origin.error(
                    f"{path}.{field.name} is missing" if path else f"{field.name} is missing",
                    path,
                    expected=f"{field.name}: ...",
                )
        return kind(**values)

    def value(self, word: Any, hint: Any, path: str) -> Any:
        origin, inside = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            if word in _NULL:
                return None
            (hint,) = (each for each in inside if each is not type(None))
            return self.value(word, hint, path)
        if origin is tuple:
            return self._list(word, inside, path)
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            return self.section(word, hint, path)
        if not isinstance(word, str):
            self._refuse(path, word, _WORDS_FOR.get(hint, "one value"))
        if origin is Literal:
            if word not in inside:
                near = difflib.get_close_matches(word, inside, n=1)
                self._refuse(path, word, _choices(inside), near[0] if near else None)
            return word
        return self._scalar(word, hint, path)

    def _scalar(self, word: str, hint: type, path: str) -> Any:
        word = word.strip()
        if hint is str:
            return word
        if hint is bool and word.lower() in _BOOLS:
            return _BOOLS[word.lower()]
        if hint is int and _INTEGER.fullmatch(word):
            return int(word)
        if hint is float:
            try:
                number = float(word)
            except ValueError:
                number = math.nan
            if math.isfinite(number):
                return number
        self._refuse(path, word, _WORDS_FOR[hint])

    def _list(self, word: Any, inside: tuple[Any, ...], path: str) -> tuple[Any, ...]:
        if word in _NULL:
            word = []
        if isinstance(word, str):  # the short form: names joined by commas
            word = [part.strip() for part in word.split(",") if part.strip()]
            if inside[0] is Share:
                word = [{"source": name} for name in word]
        if isinstance(word, Mapping) or not isinstance(word, Sequence):
            self._refuse(path, word, "a list: each with a - before it, or [one, another]")
        if inside[-1] is not Ellipsis and len(word) != len(inside):
            self._refuse(path, list(word), f"{len(inside)} values")
        if inside[0] is Share:
            return tuple(self._share(each, path, n) for n, each in enumerate(word))
        return tuple(self.value(each, inside[0], f"{path}[{n}]") for n, each in enumerate(word))

    def _share(self, word: Any, path: str, number: int) -> Share:
        inner = f"{path}[{number}]"
        if isinstance(word, str) and word not in _NULL:
            word = {"source": word}
        if path == "validation.sources" and isinstance(word, Mapping):
            word = {"split": "valid", **word}
        made: Share = self.section(word, Share, inner)
        return made

    def _refuse(self, path: str, word: Any, expected: str, near: str | None = None) -> NoReturn:
        shown = "nothing" if word in _NULL else word if isinstance(word, str) else repr(word)
        raise self._origin.error(
            f"{path} is {shown:.80}",
            path,
            expected=expected,
            fix=None if near is None else f"did you mean {near}?",
        )


_WORDS_FOR: dict[Any, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


def _choices(values: Sequence[str]) -> str:
    return f"{', '.join(values[:-1])} or {values[-1]}"


@cache
def fields_of(kind: type) -> dict[str, Any]:
    """The fields of a part of a recipe, and their types."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def nearest_key(key: str, kind: type, path: str = "", recipe: type = Recipe) -> str | None:
    """What a mistyped key may have meant: the nearest of its section, or the one of that name elsewhere."""
    name = normalise(key)
    here = {normalise(each): each for each in fields_of(kind)}
    if near := difflib.get_close_matches(name, here, n=1, cutoff=0.5):
        return f"did you mean {path + '.' if path else ''}{here[near[0]]}?"
    everywhere: dict[str, list[str]] = {}
    for each in all_keys(recipe):
        everywhere.setdefault(normalise(each.rpartition(".")[2]), []).append(each)
    if near := difflib.get_close_matches(name, everywhere, n=1, cutoff=0.7):
        return f"did you mean {' or '.join(everywhere[near[0]])}?"
    return None


def all_keys(kind: type = Recipe, path: str = "") -> list[str]:
    """The dotted names of all of a recipe's keys, sections left out; of shares, without number."""
    keys = []
    for name, hint in fields_of(kind).items():
        inner = f"{path}{name}"
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            keys += all_keys(hint, f"{inner}.")
        elif get_origin(hint) is tuple and get_args(hint)[0] is Share:
            keys += [inner, *all_keys(Share, f"{inner}.")]
        else:
            keys.append(inner)
    return keys


def override(words: dict[str, Any], key: str, word: Any, text: str, recipe: type = Recipe) -> str:
    """Sets one value of a recipe's words by its dotted key.

    ``data.sources.okvqa.weight`` and ``data.sources[1].weight`` name one source's; a list of names in
    place of ``data.sources`` keeps what the recipe says of those that it has.

    Args:
        words: The recipe's, changed.
        key: Such as ``optimiser.lr``.
        word: The value.
        text: ``key=value`` as it was given, for errors.
        recipe: The dataclass that has the keys.

    Returns:
        The path that was set, as errors name it.

    Raises:
        UsageError: There is no such key, or no such source, or several.
    """
    place: Any = words
    kind: Any = recipe
    path = ""
    parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if not isinstance(kind, type):  # a list of shares
            row = _row(place, part, path, text)
            path, kind = f"{path}[{row}]", Share
            if last:
                raise UsageError(
                    f"{path} is a source of the mixture, not one value",
                    where=f"--set {text}",
                    expected=f"{key}.KEY=..., KEY one of {', '.join(fields_of(Share))}",
                )
            if isinstance(place[row], str):
                place[row] = {"source": place[row]}
            place = place[row]
            continue
        hint = fields_of(kind).get(part)
        inner = f"{path}.{part}" if path else part
        if hint is None:
            raise UsageError(
                f"there is no key {inner}",
                where=f"--set {text}",
                expected=f"{path or 'a recipe'} has {', '.join(fields_of(kind))}",
                fix=nearest_key(part, kind, path, recipe),
            )
        path = inner
        section = dataclasses.is_dataclass(hint) or _is_shares(hint)
        if not last and not section:
            raise UsageError(
                f"{path} is one value and has no {'.'.join(parts[number + 1 :])}",
                where=f"--set {text}",
                expected=f"{path}=...",
            )
        if last:
            if dataclasses.is_dataclass(hint):
                assert isinstance(hint, type)
                raise UsageError(
                    f"{path} is a section, not one value",
                    where=f"--set {text}",
                    expected=", ".join(f"{path}.{name}" for name in fields_of(hint)),
                )
            place[part] = _named(place.get(part), word) if _is_shares(hint) else word
            return path
        if place.get(part) in (None, *_NULL):
            place[part] = [] if _is_shares(hint) else {}
        if _is_shares(hint):
            place[part] = _named(None, place[part])
        place = place[part]
        if not isinstance(place, list if _is_shares(hint) else dict):
            return path  # the file's fault, which reading it tells
        kind = hint if dataclasses.is_dataclass(hint) else None
    raise AssertionError(key)


def _is_shares(hint: Any) -> bool:
    return get_origin(hint) is tuple and get_args(hint)[0] is Share


def _named(shares: Any, word: Any) -> Any:
    """Names joined by commas as shares, with what the recipe says of those that it has."""
    if not isinstance(word, str) or word in _NULL:
        return word
    names = [part.strip() for part in word.split(",") if part.strip()]
    known = {normalise(_source(each)): each for each in shares or () if _source(each)}
    return [known.get(normalise(name), {"source": name}) for name in names]


def _source(share: Any) -> str:
    name = share.get("source", "") if isinstance(share, Mapping) else share
    return name if isinstance(name, str) else ""


def _row(shares: Any, name: str, path: str, text: str) -> int:
    rows = [n for n, each in enumerate(shares) if normalise(_source(each)) == normalise(name)]
    if not rows and name.isdecimal() and int(name) < len(shares):
        return int(name)
    names = [_source(each) for each in shares]
    if not rows:
        near = difflib.get_close_matches(name, names, n=1)
        raise UsageError(
            f"{path} has no source '{name}'",
            where=f"--set {text}",
            expected=", ".join(names) or f"{path}={name} first",
            fix=f"did you mean '{near[0]}'?" if near else None,
        )
    if len(rows) > 1:
        raise UsageError(
            f"{path} has {len(rows)} parts of {name}",
            where=f"--set {text}",
            expected=" or ".join(f"{path}[{row}]" for row in rows),
        )
    return rows[0]
