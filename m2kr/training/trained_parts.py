"""Which parameters of a model a recipe trains."""

from typing import TYPE_CHECKING

from m2kr.errors import InputError
from m2kr.training.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from m2kr.preflmr.model.modeling import PreFLMRModel

_MODULES = {
    "text_encoder": ("query_text_encoder", "context_text_encoder"),
    "text_linear": ("query_text_encoder_linear", "context_text_encoder_linear"),
    "vision_projection": ("query_vision_projection", "context_vision_projection"),
    "mapping": (
        "transformer_mapping_input_linear",
        "transformer_mapping_network",
        "transformer_mapping_output_linear",
    ),
    "vision_encoder": ("query_vision_encoder", "context_vision_encoder"),
}
# Late interaction reads neither poolers nor CLIP's last norm.
_UNUSED = ("bert_model.pooler.", "encode_proj.", "vision_model.vision_model.post_layernorm.")
GROUPS = ("mapping", "mapping_undecayed", "rest", "rest_undecayed")


def part_modules(model: "PreFLMRModel", part: str) -> "dict[str, nn.Module]":
    """The modules of a part by name; those that both sides share come once."""
    there = dict(model.named_children())
    return {name: there[name] for name in _MODULES[part] if name in there}


def set_trained(model: "PreFLMRModel", recipe: Recipe) -> "dict[str, list[nn.Parameter]]":
    """Marks the parameters that the recipe trains, and no others, as such (``requires_grad``).

    Never trained is what no query or passage of the recipe is computed from, which a distributed run
    would wait for: poolers, CLIP's last norm, an image side of the passages' own (they are texts), the
    queries' text projection where their text rows are left out.

    Args:
        model: Of `m2kr.training.start.build_model`.
        recipe: Its ``trained``, ``text_layers`` and ``start``.

    Returns:
        The trained parameters by group: ``mapping`` (the MLP and the mapping network) and ``rest``;
        biases and norms in ``mapping_undecayed`` and ``rest_undecayed``.

    Raises:
        InputError: The model has no such part, fewer layers, or no rows of the kind that is left.
    """
    model.requires_grad_(requires_grad=False)
    if not any(_rows(model, recipe)):
        raise InputError(
            "queries would have no rows: the checkpoint's config leaves out those that the recipe has",
            where=f"recipe {recipe.name}",
            expected="start.text_rows or start.image_rows: true, as the checkpoint has them",
        )
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in GROUPS}
    for part in recipe.trained:
        group = "mapping" if part in ("mapping", "vision_projection") else "rest"
        count = 0
        for name, module in _trained_modules(model, recipe, part):
            for inner, parameter in module.named_parameters():
                if any(unused in f"{name}.{inner}" for unused in _UNUSED):
                    continue
                parameter.requires_grad_()
                decayed = parameter.dim() > 1
                groups[group if decayed else f"{group}_undecayed"].append(parameter)
                count += 1
        if not count:
            lacks = (
                "which the model lacks" if not part_modules(model, part) else "which it doesn't use"
            )
            raise InputError(
                f"trained names {part}, {lacks}",
                where=f"recipe {recipe.name}",
                expected="parts that queries or passages are computed from, of "
                + ", ".join(each for each in _MODULES if part_modules(model, each)),
            )
    return groups


def _rows(model: "PreFLMRModel", recipe: Recipe) -> tuple[bool, bool]:
    """Whether queries have rows of their text, and of their image."""
    config, start = model.config, recipe.start
    text = start.text_rows and config.query_concat_output_from_text_encoder
    return text, start.image_rows and config.query_concat_output_from_vision_encoder


def _trained_modules(
    model: "PreFLMRModel", recipe: Recipe, part: str
) -> "Iterator[tuple[str, nn.Module]]":
    text_rows, image_rows = _rows(model, recipe)
    parts = part_modules(model, part)
    for name, module in parts.items():
        # Passages are texts; a module of the query's name serves both sides where it is the only one.
        of_passages = len(parts) == 1 or name.startswith("context")
        if part == "text_encoder":
            used = of_passages or text_rows or (image_rows and model.config.has_mapping)
        elif part == "text_linear":
            used = of_passages or text_rows
        else:
            used = image_rows and not name.startswith("context")
        if not used:
            continue
        if part == "text_encoder" and recipe.text_layers is not None:
            yield from _last_layers(name, module, recipe)
        else:
            yield name, module


def _last_layers(
    name: str, encoder: "nn.Module", recipe: Recipe
) -> "Iterator[tuple[str, nn.Module]]":
    count = recipe.text_layers or 0
    layers = list(encoder.get_submodule("bert_model.encoder.layer").children())
    if count > len(layers):
        raise InputError(
            f"text_layers is {count}, but the text encoder has {len(layers)} layers",
            where=f"recipe {recipe.name}",
            expected=f"at most {len(layers)}, or null for all and the embeddings",
        )
    for number in range(len(layers) - count, len(layers)):
        yield f"{name}.bert_model.encoder.layer.{number}", layers[number]
