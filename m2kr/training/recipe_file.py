"""Recipes as YAML files: those that come with m2kr, and one's own."""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from m2kr.errors import MissingError, UsageError
from m2kr.training.recipe import Recipe
from m2kr.training.recipe_checks import check_recipe
from m2kr.training.recipe_values import Origin, override, recipe_from
from m2kr.training.training_task import LoopRecipe
from m2kr.yaml_files import parse_yaml, read_yaml

FOLDER = Path(__file__).with_name("recipes")
# Names, where a run is, how often it is looked at and kept, and how the same sums are spread over machines.
_NOT_COUNTED = (
    ("name",),
    ("stage",),
    ("validation",),
    ("saving",),
    ("steps", "checkpoint_activations"),
    ("steps", "parallel"),
    ("steps", "compile"),
)
_SIZES = ("vision", "text", "vision_weights", "text_weights")


def recipe_names() -> list[str]:
    """The recipes that come with m2kr."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name: str | Path, overrides: Mapping[str, str] | None = None) -> Recipe:
    """A recipe that is read and checked.

    Values are read by the types of `Recipe`'s fields: ``1e-5`` is a number, a list may be names joined
    by commas, and what a recipe doesn't say has the default. A value is in place of the file's; where
    ``start.checkpoint`` is overridden, the sizes and weights of a new model that the file names drop out.

    Args:
        name: Of a packaged recipe, or a file that ends in .yaml or .yml.
        overrides: Values by dotted key: ``{"optimiser.lr": "1e-4", "data.sources": "okvqa,evqa",
            "data.sources.okvqa.weight": "2"}``.

    Raises:
        UsageError: There is no such recipe, or an override is wrong; suggests the nearest name.
        MissingError: There is no such file.
        InputError: The file is no recipe: the message names the key.
    """
    path = recipe_path(str(name), recipe_names(), FOLDER)
    words, origin = recipe_words(path, overrides or {}, Recipe, FOLDER)
    start = words.get("start")
    if isinstance(start, dict) and "start.checkpoint" in origin.overrides:
        for size in _SIZES:
            if f"start.{size}" not in origin.overrides:
                start.pop(size, None)
    recipe = recipe_from(words, origin, Recipe)
    check_recipe(recipe, origin)
    return recipe


def recipe_words(
    path: Path, overrides: Mapping[str, str], kind: type, folder: Path
) -> tuple[dict[str, Any], Origin]:
    """What a recipe's file says, with overrides in place; and where it is from, for errors.

    Args:
        path: As of `recipe_path`.
        overrides: Values by dotted key.
        kind: The recipe's dataclass.
        folder: Of packaged recipes, which say their names.

    Raises:
        UsageError: An override names no key.
        MissingError: There is no such file.
        InputError: It is no recipe.
    """
    words = read_yaml(path, "a recipe", "name: ..., data: ...", words=True)
    packaged = path.parent == folder
    if not packaged:
        words.setdefault("name", path.stem)
    given: dict[str, str] = {}
    origin = Origin(f"the recipe {path.stem}" if packaged else str(path), given)
    for key, value in overrides.items():
        text = f"{key}={value}"
        word = parse_yaml(value, f"--set {text}", words=True) if value.strip() else ""
        given[override(words, key, word, text, kind)] = text
    return words, origin


def dump_recipe(recipe: LoopRecipe) -> str:
    """The YAML that `load_recipe` reads back as this recipe, with all of its values."""
    words = _plain(dataclasses.asdict(recipe))
    text: str = yaml.safe_dump(words, sort_keys=False, allow_unicode=True, width=100)
    return text


def recipe_fingerprint(recipe: LoopRecipe) -> str:
    """Hex digest over what decides a run's result, in the values that aren't defaults.

    Not counted are names and stage, validation and saving, and how the same sums are spread or speeded up:
    ``checkpoint_activations``, ``parallel``, ``compile``. Of another kind of recipe, whose run ends with its
    best checkpoint, the validation counts. Data, files and start weights count by the
    names that the recipe gives them; their contents are the mixture's fingerprint, and the checkpoint's.
    """
    kind: Any = type(recipe)
    default = _plain(dataclasses.asdict(kind("default")))
    left_out = {*_NOT_COUNTED} - (set() if kind is Recipe else {("validation",)})
    counted = _changed(_plain(dataclasses.asdict(recipe)), default, left_out)
    text = json.dumps(_one_number(counted), sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def recipe_path(name: str, known: Sequence[str], folder: Path) -> Path:
    """The file of a packaged recipe, or one's own.

    Args:
        name: A recipe's, or a file's that ends in .yaml or .yml.
        known: The packaged ones.
        folder: Where they are.

    Raises:
        UsageError: There is none of that name; suggests the nearest.
        MissingError: There is no such file.
    """
    if name.lower().endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file() and path.stem in known:
            raise MissingError(
                "there is no such file", where=str(path), fix=f"{path.stem}, the packaged recipe"
            )
        return path
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if key not in known:
        raise UsageError(
            f"there is no recipe '{name}'" if name else "no recipe is named",
            expected=", ".join(known) + ", or a .yaml file of your own",
            fix=f"did you mean '{near[0]}'?" if near else None,
        )
    return folder / f"{key}.yaml"


def _plain(value: Any) -> Any:
    """Tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value


def _one_number(value: Any) -> Any:
    """2.0 as 2: recipes made in Python may say either."""
    if isinstance(value, dict):
        return {key: _one_number(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_one_number(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _changed(
    values: Mapping[str, Any],
    default: Mapping[str, Any],
    left_out: Collection[tuple[str, ...]],
    *path: str,
) -> dict[str, Any]:
    changed = {}
    for key, value in values.items():
        if (*path, key) in left_out or value == default[key]:
            continue
        changed[key] = (
            _changed(value, default[key], left_out, *path, key)
            if isinstance(value, dict)
            else value
        )
    return changed
