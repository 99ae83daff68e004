"""What a step of training costs, by arithmetic: bytes and products of a model of some sizes."""

from typing import TYPE_CHECKING, NamedTuple

from m2kr.training.recipe import Recipe

if TYPE_CHECKING:
    from m2kr.preflmr.model.configuration import BertSettings, PreFLMRConfig
    from m2kr.preflmr.model.modeling import PreFLMRModel

# Bytes that a transformer layer keeps a token for its backward pass, by width: 17 numbers of one size;
# under bfloat16 autocast layer norms and residuals stay float32. Counted of what torch keeps for BERT.
_KEPT = {"float32": 68, "bfloat16": 44, "float64": 136}
_NUMBER = {"float32": 4, "bfloat16": 4, "float64": 8}


class _Kept(NamedTuple):
    """A transformer that keeps activations."""

    tokens: int
    width: int
    layers: int
    attended: int  # heads times tokens times length


def memory_bytes(
    recipe: Recipe,
    config: "PreFLMRConfig",
    model: "PreFLMRModel",
    trained: set[int],
    *,
    on_cpu: bool = False,
) -> dict[str, int]:
    """Bytes of a process (without FSDP) by what they are for.

    Weights and AdamW's two states are float32 (float64 if so asked for); bfloat16 keeps a copy of
    trained weights in it besides. Activations are those that trained parts keep for the backward pass, of
    ``chunk`` queries at once where that is set; ``checkpoint_activations`` keeps one input a layer, and
    one layer's. On a CPU attention with dropout keeps its matrices, and masks are numbers.
    """
    steps, start = recipe.steps, recipe.start
    wide = 8 if steps.precision == "float64" else 4
    size = sum(p.numel() for p in model.parameters())
    changing = sum(p.numel() for p in model.parameters() if id(p) in trained)
    queries = steps.chunk or steps.batch
    number = _NUMBER[steps.precision]
    drops = (config.text_config.hidden_dropout_prob if start.dropout is None else start.dropout) > 0
    activations = 0
    for each in _kept(recipe, config, queries):
        kept = _KEPT[steps.precision] * each.width * each.tokens
        if drops:  # two masks a layer
            kept += 2 * each.width * each.tokens * (number if on_cpu else 1)
            kept += 3 * each.attended * number if on_cpu else 0
        if steps.checkpoint_activations:
            kept += each.layers * each.width * each.tokens * number
        else:
            kept *= each.layers
        activations += kept
    rows = steps.batch * query_rows(recipe, config)
    passage_rows = steps.batch * _passages(recipe) * recipe.data.passage_tokens
    return {
        "weights": size * wide + (changing * 2 if steps.precision == "bfloat16" else 0),
        "gradients": changing * wide,
        "AdamW": 2 * changing * wide,
        "activations": activations,
        "token embeddings": 2 * 4 * config.dim * (rows + passage_rows),
    }


def _passages(recipe: Recipe) -> int:
    return 1 + recipe.negatives.uniform + recipe.negatives.mined


def query_rows(recipe: Recipe, config: "PreFLMRConfig") -> int:
    """Rows of a query while training."""
    rows = config.text_config.query_maxlen if recipe.start.text_rows else 0
    return rows + (config.vision_rows if recipe.start.image_rows else 0)


def _kept(recipe: Recipe, config: "PreFLMRConfig", queries: int) -> list[_Kept]:
    """The trained transformers."""
    kept = []
    text, vision, tokens = config.text_config, config.vision_config, recipe.data.passage_tokens
    own, heads = _passages(recipe), text.num_attention_heads
    if "text_encoder" in recipe.trained:
        layers = min(recipe.text_layers or text.num_hidden_layers, text.num_hidden_layers)
        attended = queries * heads * (text.query_maxlen**2 + own * tokens**2)
        rows = queries * (text.query_maxlen + own * tokens)
        kept.append(_Kept(rows, text.hidden_size, layers, attended))
    if recipe.start.image_rows:
        rows = queries * vision.patches
        if config.has_mapping and "mapping" in recipe.trained:
            attended = rows * heads * (vision.patches + text.query_maxlen)
            kept.append(_Kept(rows, text.hidden_size, config.mapping_layers, attended))
        if "vision_encoder" in recipe.trained:
            kept.append(
                _Kept(rows + queries, vision.hidden_size, vision.num_hidden_layers, 0)
            )  # which has no dropout
    return kept


def step_flop(recipe: Recipe, config: "PreFLMRConfig") -> dict[str, float]:
    """Products of a step of one process by part: forward once, backward twice as much where trained.

    What frozen layers make of texts and images costs nothing where it is kept; see `once_flop`.
    """
    steps, start = recipe.steps, recipe.start
    queries, own = steps.batch * steps.accumulate, _passages(recipe)
    text, vision, tokens = config.text_config, config.vision_config, recipe.data.passage_tokens
    again = 1 + steps.checkpoint_activations
    chunked = steps.chunk is not None and steps.chunk < steps.batch  # encoded once more

    def times(part: str) -> float:
        share = _trained_share(recipe, config, part)
        kept = recipe.data.keep_frozen and part in ("text_encoder", "vision_encoder")
        forward = share if kept else 1.0
        return forward * (1 + chunked) + share * (again + 1)

    flop = {
        "text encoder": queries
        * times("text_encoder")
        * (_bert_flop(text, text.query_maxlen) + own * _bert_flop(text, tokens))
    }
    if start.image_rows:
        if config.use_vision_encoder:
            one = _layer_flop(vision.hidden_size, vision.intermediate_size, vision.patches + 1)
            flop["vision encoder"] = (
                queries * times("vision_encoder") * one * vision.num_hidden_layers
            )
        hidden = config.mapping_network_prefix_length * config.dim // 2
        mlp = 2 * hidden * (vision.hidden_size + 2 * hidden)
        network = 0.0
        if config.has_mapping and config.mapping_config is not None:
            width = config.mapping_config.hidden_size
            layer = _layer_flop(width, config.mapping_config.intermediate_size, vision.patches)
            cross = 2 * vision.patches * width * (2 * width + 2 * text.query_maxlen)
            ends = 2 * vision.patches * width * (vision.hidden_size + config.dim)
            network = config.mapping_layers * (layer + cross) + ends
        flop["mapping"] = queries * (mlp * times("vision_projection") + network * times("mapping"))
    negatives = recipe.negatives
    told_from = own * (steps.batch // negatives.groups if negatives.in_batch else 1)
    pair = 2 * config.dim * query_rows(recipe, config) * tokens
    flop["MaxSim"] = 2.0 * queries * told_from * pair  # the backward pass touches the maxima alone
    return flop


def _trained_share(recipe: Recipe, config: "PreFLMRConfig", part: str) -> float:
    """The share of a part's layers that are trained."""
    if part not in recipe.trained:
        return 0.0
    layers = config.text_config.num_hidden_layers
    if part == "text_encoder" and recipe.text_layers is not None:
        return min(1.0, recipe.text_layers / layers)
    return 1.0


def once_flop(recipe: Recipe, config: "PreFLMRConfig", queries: int, passages: int) -> float:
    """Products of what frozen layers make of all queries and passages, where that is kept."""
    if not recipe.data.keep_frozen:
        return 0.0
    text, vision = config.text_config, config.vision_config
    texts = queries * _bert_flop(text, text.query_maxlen)
    texts += passages * _bert_flop(text, recipe.data.passage_tokens)
    images = 0.0
    if recipe.start.image_rows and config.use_vision_encoder:
        layer = _layer_flop(vision.hidden_size, vision.intermediate_size, vision.patches + 1)
        images = queries * vision.num_hidden_layers * layer
    return texts * (1 - _trained_share(recipe, config, "text_encoder")) + images * (
        1 - _trained_share(recipe, config, "vision_encoder")
    )


def _bert_flop(settings: "BertSettings", tokens: int) -> float:
    layer = _layer_flop(settings.hidden_size, settings.intermediate_size, tokens)
    return settings.num_hidden_layers * layer


def _layer_flop(width: int, inner: int, tokens: int) -> float:
    """A transformer layer's products over one sequence: four projections, FFN, attention."""
    return 2.0 * tokens * (4 * width * width + 2 * width * inner + 2 * tokens * width)
