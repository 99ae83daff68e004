"""What a checkpoint computes, against the arrays of a golden ``NAME_io.npz``."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from m2kr.errors import InputError
from m2kr.preflmr import names, scoring
from m2kr.preflmr.golden_lines import TOLERANCES, Line, compare, missing, unknown
from m2kr.preflmr.tokenization import QueryTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from m2kr.preflmr.modeling import PreFLMR
    from m2kr.preflmr.outputs import ContextOutput, QueryOutput, RetrievalOutput

    Arrays = dict[str, NDArray[Any]]

_INPUTS = re.compile(
    r"queries|docs|pixel_values(_rois)?|image_features(_rois)?|d_pixel_values|qskip_ids"
    r"|list_(text|vision)_flags|loss_n\d+_doc_rows"
)
#: Without these a file compares next to nothing.
_REQUIRED = ("q_input_ids", "d_input_ids", "query_out", "doc_out", "doc_mask")
#: Gradients below this share of the largest parameter's are measured against it: those of key biases
#: are zero but for rounding, since a softmax does not see them.
_GRADIENT_FLOOR = 1e-3

_MAKERS: "list[tuple[re.Pattern[str], str, Callable[..., Any]]]" = []


def check(file: str, model: "PreFLMR", arrays: "Arrays") -> Iterator[Line]:
    """Compares each array of an ``_io.npz``.

    Args:
        file: The file's name, for the lines.
        model: The checkpoint of that name, in evaluation mode and float32.
        arrays: What the file holds.

    Raises:
        InputError: An array that another one is computed from is absent.
    """
    yield from (missing(file, name) for name in _REQUIRED if name not in arrays)
    runs = _Runs(model, arrays)
    for name, expected in arrays.items():
        if _INPUTS.fullmatch(name):
            yield Line(file, name)
            continue
        for pattern, kind, make in _MAKERS:
            if found := pattern.fullmatch(name):
                try:
                    actual = make(runs, *found.groups())
                except KeyError as error:
                    raise InputError(
                        f"{name} can't be computed: {error} is missing", where=file
                    ) from None
                if isinstance(actual, Line):
                    yield dataclasses.replace(actual, file=file, array=name)
                else:
                    yield compare(file, name, actual.numpy(), expected, kind)
                break
        else:
            yield unknown(file, name)


def _makes(pattern: str, kind: str) -> "Callable[[Callable[..., Any]], Callable[..., Any]]":
    """Registers what computes the arrays of these names; groups of the pattern are arguments."""

    def register(make: "Callable[..., Any]") -> "Callable[..., Any]":
        _MAKERS.append((re.compile(pattern), kind, make))
        return make

    return register


class _Runs:
    """Outputs of the model on the golden inputs, each computed once."""

    def __init__(self, model: "PreFLMR", arrays: "Arrays") -> None:
        self.model = model
        self.arrays = arrays
        assert model.query_tokenizer is not None
        assert model.context_tokenizer is not None
        self.query_tokenizer = model.query_tokenizer
        self.context_tokenizer = model.context_tokenizer
        self.step = lru_cache(maxsize=None)(self._step)
        self.gradients = lru_cache(maxsize=None)(self._gradients)

    def tensor(self, name: str) -> "Tensor":
        return torch.from_numpy(self.arrays[name])

    def texts(self, name: str) -> list[str]:
        return [str(each) for each in self.arrays[name]]

    @torch.no_grad()
    def query(self, images: str | None = "pixel_values", prefix: str = "q", **options: Any) -> Any:
        """A query's output: the array of images, the prefix of the token arrays, switches."""
        key = "image_features" if (images or "").startswith("image_features") else "pixel_values"
        if images is not None:
            options[key] = options.get(key, self.tensor(images))
        output: QueryOutput = self.model.query(
            self.tensor(f"{prefix}_input_ids"), self.tensor(f"{prefix}_attention_mask"), **options
        )
        return output

    @torch.no_grad()
    def doc(self, images: str | None = None, **options: Any) -> "ContextOutput":
        """Documents' output; with images, only as many documents as there are images."""
        rows = slice(None)
        if images is not None:
            options["pixel_values"] = self.tensor(images)
            options["concat_output_from_vision_encoder"] = True
            rows = slice(len(options["pixel_values"]))
        ids, mask = self.tensor("d_input_ids")[rows], self.tensor("d_attention_mask")[rows]
        return self.model.doc(ids, mask, **options)

    def _step(self, negatives: int, mode: str) -> "RetrievalOutput":
        rows = self.tensor(f"loss_n{negatives}_doc_rows")
        output: RetrievalOutput = self.model(
            self.tensor("q_input_ids"),
            self.tensor("q_attention_mask"),
            self.tensor("pixel_values"),
            context_input_ids=self.tensor("d_input_ids")[rows],
            context_attention_mask=self.tensor("d_attention_mask")[rows],
            use_in_batch_negatives=mode == "inbatch",
            num_negative_examples=negatives,
        )
        return output

    def _gradients(self, negatives: int, mode: str) -> "dict[str, NDArray[np.float64]]":
        """Norm, sum and projection of each parameter's gradient, NaN where there is none."""
        own = dict(self.model.named_parameters())
        found = torch.autograd.grad(
            self.step(negatives, mode).loss,
            list(own.values()),
            retain_graph=True,
            allow_unused=True,
        )
        by_name = dict(zip(own, found, strict=True))
        stated = [names.canonical(str(n), self.model.config) for n in self.arrays["grad_names"]]
        table = np.array([_summary(by_name[each or ""]) for each in stated])
        return dict(zip(("norm", "sum", "cosproj"), table.T, strict=True))


def _summary(gradient: "Tensor | None") -> tuple[float, float, float]:
    if gradient is None:
        return (np.nan,) * 3
    flat = gradient.double().flatten()
    wave = torch.cos(torch.arange(len(flat), dtype=torch.float64))
    return float(flat.norm()), float(flat.sum()), float(flat @ wave)


@_makes(r"q(\d*)_(input_ids|attention_mask)", "exact")
def _query_tokens(runs: _Runs, length: str, key: str) -> "Tensor":
    limit = int(length) if length else None
    return runs.query_tokenizer(runs.texts("queries"), max_length=limit)[key]


@_makes(r"attend_q_(input_ids|attention_mask)", "exact")
def _attended_tokens(runs: _Runs, key: str) -> "Tensor":
    plain = runs.query_tokenizer
    attending = QueryTokenizer(plain.pieces, plain.settings | {"attend_to_mask_tokens": True})
    return attending(runs.texts("queries"))[key]


@_makes(r"d_(input_ids|attention_mask)", "exact")
def _context_tokens(runs: _Runs, key: str) -> "Tensor":
    return runs.context_tokenizer(runs.texts("docs"))[key]


@_makes(r"query_out(_5d_single)?", "unit")
def _query(runs: _Runs, five: str | None) -> "Tensor":
    if five is None:
        return _unit(runs.query())
    return _unit(runs.query(pixel_values=runs.tensor("pixel_values").unsqueeze(1)))


@_makes(r"query_pooler", "hidden")
def _pooler(runs: _Runs) -> "Tensor":
    pooled: Tensor = runs.query().pooler_output
    return pooled


@_makes(r"query_out_(rois|image_features(?:_rois)?)", "unit")
def _query_of_images(runs: _Runs, kind: str) -> "Tensor":
    return _unit(runs.query("pixel_values_rois" if kind == "rois" else kind))


@_makes(r"query_out_text_only", "unit")
def _text_only(runs: _Runs) -> "Tensor":
    return _unit(runs.query(None, concat_output_from_vision_encoder=False))


@_makes(r"query_out_image_only", "unit")
def _image_only(runs: _Runs) -> "Tensor":
    return _unit(runs.query(concat_output_from_text_encoder=False))


@_makes(r"query_out_list_flags", "unit")
def _list_flags(runs: _Runs) -> "Tensor":
    return _unit(
        runs.query(
            concat_output_from_text_encoder=runs.arrays["list_text_flags"].tolist(),
            concat_output_from_vision_encoder=runs.arrays["list_vision_flags"].tolist(),
        )
    )


@_makes(r"q(\d+)_query_out", "unit")
def _other_length(runs: _Runs, length: str) -> "Tensor":
    return _unit(runs.query(prefix=f"q{length}"))


@_makes(r"attend_query_out", "unit")
def _attended(runs: _Runs) -> "Tensor":
    return _unit(runs.query(prefix="attend_q"))


@_makes(r"qskip_query_out", "unit")
def _skipped(runs: _Runs) -> "Tensor":
    before = runs.model.masks
    skipped = tuple(runs.arrays["qskip_ids"].tolist())
    runs.model.masks = dataclasses.replace(before, query_skip=skipped)
    try:
        return _unit(runs.query())
    finally:
        runs.model.masks = before


@_makes(r"dbg_query_text_last_hidden", "hidden")
@torch.no_grad()
def _text_states(runs: _Runs) -> "Tensor":
    states: Tensor = runs.model.query_text_encoder(
        runs.tensor("q_input_ids"), runs.tensor("q_attention_mask")
    )
    return states


@_makes(r"dbg_vision_(second_last|last)_hidden", "hidden")
@torch.no_grad()
def _vision_states(runs: _Runs, which: str) -> "Tensor":
    states: tuple[Tensor, Tensor] = runs.model.query_vision_encoder(runs.tensor("pixel_values"))
    return states[which == "last"]


@_makes(r"dbg_vision_prefix_raw", "hidden")
@torch.no_grad()
def _prefix(runs: _Runs) -> "Tensor":
    features = runs.model.vision(runs.tensor("pixel_values")).image_features
    rows: Tensor = runs.model.query_vision_projection(features)
    return rows


@_makes(r"dbg_query_mask", "exact")
def _query_mask(runs: _Runs) -> "Tensor":
    return runs.model.masks.query(runs.tensor("q_input_ids"))


@_makes(r"doc_out(_with_image|_image_only)?", "unit")
def _document_rows(runs: _Runs, kind: str | None) -> "Tensor":
    return _unit(_documents(runs, kind))


@_makes(r"doc_mask(_with_image|_image_only)?", "exact")
def _document_mask(runs: _Runs, kind: str | None) -> "Tensor":
    return _mask(_documents(runs, kind))


def _documents(runs: _Runs, kind: str | None) -> "ContextOutput":
    if kind is None:
        return runs.doc()
    return runs.doc("d_pixel_values", concat_output_from_text_encoder=kind == "_with_image")


@_makes(r"scores_all_pairs", "score")
def _all_pairs(runs: _Runs) -> "Tensor":
    documents = runs.doc()
    return scoring.all_pairs(_unit(runs.query()), _unit(documents), _mask(documents))


@_makes(r"scores_n(\d+)_(inbatch|pairwise)", "score")
def _scores(runs: _Runs, negatives: str, mode: str) -> "Tensor":
    return runs.step(int(negatives), mode).scores.detach()


@_makes(r"loss_n(\d+)_(inbatch|pairwise)", "loss")
def _loss(runs: _Runs, negatives: str, mode: str) -> "Tensor":
    return runs.step(int(negatives), mode).loss.detach()


@_makes(r"grad_names", "exact")
def _gradient_names(runs: _Runs) -> Line:
    stated = {names.canonical(str(n), runs.model.config) for n in runs.arrays["grad_names"]}
    differing = stated ^ {name for name, _ in runs.model.named_parameters()}
    note = f"differs in {min(map(str, differing))}" if differing else ""
    return Line("", "", float(len(differing)), TOLERANCES["exact"], note)


@_makes(r"grad_(norm|sum|cosproj)_n(\d+)_(inbatch|pairwise)", "gradient")
def _gradient(runs: _Runs, what: str, negatives: str, mode: str) -> Line:
    """Relative to the value or the gradient's norm, whichever is larger: sums may cancel."""
    run = f"n{negatives}_{mode}"
    expected, norms = runs.arrays[f"grad_{what}_{run}"], runs.arrays[f"grad_norm_{run}"]
    actual = runs.gradients(int(negatives), mode)[what]
    tolerance = TOLERANCES["gradient"]
    if actual.shape != expected.shape or (np.isnan(actual) != np.isnan(expected)).any():
        return Line("", "", float("inf"), tolerance, "other parameters have a gradient")
    floor = _GRADIENT_FLOOR * np.nanmax(norms, initial=0.0)
    scale = np.maximum(np.maximum(np.abs(expected), norms), floor)
    return Line("", "", float(np.nanmax(np.abs(actual - expected) / scale, initial=0.0)), tolerance)


def _unit(output: "QueryOutput | ContextOutput") -> "Tensor":
    rows = output.late_interaction_output
    assert isinstance(rows, torch.Tensor)
    return rows


def _mask(output: "ContextOutput") -> "Tensor":
    assert output.context_mask is not None
    return output.context_mask.squeeze(-1)
