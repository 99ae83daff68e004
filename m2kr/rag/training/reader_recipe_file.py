"""Readers' recipes as YAML files: those that come with m2kr, and one's own."""

from collections.abc import Mapping
from pathlib import Path

from m2kr.rag.training.reader_recipe import ReaderRecipe, check_reader_recipe
from m2kr.training.recipe_file import recipe_path, recipe_words
from m2kr.training.recipe_values import recipe_from
from m2kr.yaml_files import read_yaml

READER_RECIPES = Path(__file__).parents[1] / "recipes"


def reader_recipe_names() -> list[str]:
    """The readers' recipes that come with m2kr."""
    return sorted(path.stem for path in READER_RECIPES.glob("*.yaml"))


def trains_a_reader(name: str) -> bool:
    """Whether a name or file is a reader's recipe: a packaged one's begins so, a file has the section."""
    if not name.lower().endswith((".yaml", ".yml")):
        return name.strip().lower().startswith("reader")
    path = Path(name)
    return path.is_file() and "reader" in read_yaml(path, "a recipe", "name: ...", words=True)


def load_reader_recipe(
    name: str | Path, overrides: Mapping[str, str] | None = None
) -> ReaderRecipe:
    """A reader's recipe that is read and checked; else as of `m2kr.training.recipe_file.load_recipe`.

    Args:
        name: Of a packaged recipe, or a file that ends in .yaml or .yml.
        overrides: Values by dotted key: ``{"data.run": "train.parquet"}``.

    Raises:
        UsageError: There is no such recipe, or an override is wrong; suggests the nearest name.
        MissingError: There is no such file.
        InputError: The file is no recipe: the message names the key.
    """
    path = recipe_path(str(name), reader_recipe_names(), READER_RECIPES)
    words, origin = recipe_words(path, overrides or {}, ReaderRecipe, READER_RECIPES)
    recipe = recipe_from(words, origin, ReaderRecipe)
    check_reader_recipe(recipe, origin)
    return recipe
