"""Writes ``docs/recipe-keys.md`` and ``docs/reader-recipe-keys.md``, tables of every key of a recipe.

``recipe_keys.py [--check]``: with ``--check`` nothing is written, and a page that is not as it would be
fails.
"""

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from m2kr.rag.training.reader_recipe import ReaderRecipe
from m2kr.training.recipe import Recipe, Share

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipe-keys.md"
READER_PAGE = PAGE.with_name("reader-recipe-keys.md")
_ATTRIBUTE = re.compile(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", re.MULTILINE)


def page() -> str:
    """The text of ``PAGE``."""
    return _page("a recipe", "m2kr/training/recipe.py", Recipe)


def reader_page() -> str:
    """The text of ``READER_PAGE``."""
    return _page("a reader's recipe", "m2kr/rag/training/reader_recipe.py", ReaderRecipe)


def _page(what: str, file: str, kind: type) -> str:
    lines = [
        f"# Every key of {what}",
        "",
        f"Written by `tools/recipe_keys.py` from `{file}`. `--set KEY=VALUE` changes one, a",
        "`.yaml` file several; what neither says has the default, – is `null`. See [training](training.md).",
        "",
        "| Key | Default | Meaning |",
        "|---|---|---|",
        *_rows(kind, ""),
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
    for path, text in ((PAGE, page()), (READER_PAGE, reader_page())):
        if sys.argv[1:] != ["--check"]:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path} is not as {Path(__file__).name} writes it; run it")


if __name__ == "__main__":
    main()
