"""Writes ``docs/recipe-keys.md``, a table of every key of a recipe, from `m2kr.training.recipe`.

``recipe_keys.py [--check]``: with ``--check`` nothing is written, and a page that is not as it would be
fails.
"""

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from m2kr.training.recipe import Recipe, Share

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipe-keys.md"
_ATTRIBUTE = re.compile(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", re.MULTILINE)


def page() -> str:
    """The page's text."""
    lines = [
        "# Every key of a recipe",
        "",
        "Written by `tools/recipe_keys.py` from `m2kr/training/recipe.py`. `--set KEY=VALUE` changes one, a",
        "`.yaml` file several; what neither says has the default, – is `null`. See [training](training.md).",
        "",
        "| Key | Default | Meaning |",
        "|---|---|---|",
        *_rows(Recipe, ""),
    ]
    return "\n".join(lines) + "\n"


def _rows(kind: type, path: str) -> Iterator[str]:
    meanings = {
        name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(kind.__doc__ or "")
    }
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        key, hint = f"{path}{field.name}", hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _rows(hint, f"{key}.")
            continue
        meaning = (
            meanings[field.name].replace("``", "`").replace("|", "\\|").replace("None", "null")
        )
        yield f"| `{key}` | {_default(field)} | {meaning} |"
        if get_origin(hint) is tuple and get_args(hint)[0] is Share and path == "data.":
            yield from _rows(Share, f"{key}.NAME.")


def _default(field: "dataclasses.Field[Any]") -> str:
    value = field.default
    if value is dataclasses.MISSING:
        return "required"
    words = {None: "–", "": "–", (): "none", True: "true", False: "false"}
    if isinstance(value, tuple) and value:
        return f"`{', '.join(map(str, value))}`"
    if value is None or isinstance(value, bool) or value in ("", ()):
        return words[value]
    return f"`{value}`"


def main() -> None:
    """Writes or checks the page."""
    text = page()
    if sys.argv[1:] == ["--check"]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
            sys.exit(f"{PAGE} is not as {Path(__file__).name} writes it; run it")
        return
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
