"""What a checkpoint is, from its small files and the headers of its weights."""

from collections import Counter
from pathlib import Path
from typing import Any

from m2kr.errors import MissingError
from m2kr.preflmr.checkpoint import load, weights
from m2kr.preflmr.inputs.files import local_folder
from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer
from m2kr.preflmr.model import presets
from m2kr.preflmr.model.configuration import PreFLMRConfig
from m2kr.preflmr.model.modeling import PreFLMRModel


def describe_checkpoint(name: str, *, revision: str | None = None) -> dict[str, Any]:
    """A checkpoint's sizes, lengths and state, without its weights in memory.

    Args:
        name: A folder, a hub id, or a preset such as ``vit-l`` (where no folder has that name).
        revision: Commit, tag or branch of a hub id.

    Returns:
        Plain values, ready for JSON: what it is, parameters per part, rows and lengths, and for a
        checkpoint its tensors that are missing, unexpected or of a wrong shape, and files that are
        absent.

    Raises:
        InputError: config.json, a tokenizer or a header is malformed.
        MissingError: There is no such checkpoint.
    """
    key = name.lower()
    if key in presets.PRESETS and not Path(name).exists():
        chosen = presets.preset(name)
        found = _sizes(load.empty(PreFLMRModel, chosen.config), chosen.query_maxlen)
        return {
            "preset": key,
            **found,
            "doc_maxlen": chosen.doc_maxlen,
            "weights": chosen.weights or "no released weights",
        }
    folder = local_folder(name, revision)
    config = PreFLMRConfig.from_folder(folder)
    query, context, absent = None, None, []
    try:
        query = QueryTokenizer.from_pretrained(folder)
    except MissingError:
        absent.append(QueryTokenizer.FOLDER)
    try:
        context = ContextTokenizer.from_pretrained(folder)
    except MissingError:
        absent.append(ContextTokenizer.FOLDER)
    model = load.empty(PreFLMRModel, config, query, context)
    load.check_vocabulary(model, str(folder))
    length = query.maxlen if query is not None else config.text_config.query_maxlen
    result = {"checkpoint": str(folder), **_sizes(model, length)}
    result["doc_maxlen"] = context.maxlen if context is not None else None
    return result | _state(model, folder, absent)


def _sizes(model: PreFLMRModel, query_maxlen: int) -> dict[str, Any]:
    config = model.config
    parts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parts[name.partition(".")[0]] += parameter.numel()
    text, image = config.query_concat_output_from_text_encoder, config.vision_rows
    rows = query_maxlen if text else 0
    if config.query_concat_output_from_vision_encoder:
        rows += image
    vision = config.vision_config
    return {
        "kind": "PreFLMR" if config.has_mapping else "FLMR",
        "parameters": sum(parts.values()),
        "parameters_by_part": dict(parts),
        "dim": config.dim,
        "query_maxlen": query_maxlen,
        "rows_per_query": rows,
        "rows_per_image": image,
        "instruction_ends_with": config.mask_instruction_token,
        "image_size": vision.image_size,
        "patches": vision.patches,
        "vision_encoder": config.use_vision_encoder,
        "vision_model_version": config.vision_model_version,
        "separate_text_encoders": config.separate_query_and_context_text_encoder,
        "separate_vision_encoders": config.separate_query_and_context_vision_encoder,
    }


def _state(model: PreFLMRModel, folder: Path, absent: list[str]) -> dict[str, Any]:
    try:
        found = weights.describe_weights(folder)
    except MissingError:
        found = {}
        absent = [*absent, weights.SINGLE]
    matched = load.match(model, found)
    return {
        "dtypes": dict(Counter(each.dtype for each in found.values())),
        "bytes": sum(path.stat().st_size for path in {each.file for each in found.values()}),
        "missing_files": absent,
        "missing_tensors": matched.missing,
        "unexpected_tensors": matched.unexpected,
        "misshapen_tensors": list(matched.misshapen.values()),
        "complete": matched.complete and not absent,
    }
