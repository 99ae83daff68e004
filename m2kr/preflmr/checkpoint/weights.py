"""Safetensors files of a checkpoint: what is in them, read from their headers; and their tensors."""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.errors import InputError, MissingError
from m2kr.preflmr.checkpoint.state_dict import IGNORED
from m2kr.preflmr.inputs import local_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FLOATS = ("F16", "BF16", "F32", "F64")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MOST_SHARDS = 1000
#: A model of 1,000 tensors has a header of some 150 kB; parsing 90 MB takes a minute and 1 GB.
_LONGEST_HEADER = 4 << 20


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor is and what it is, without its data."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def describe_weights(folder: Path) -> dict[str, TensorInfo]:
    """The tensors of a checkpoint by name, from headers alone.

    Args:
        folder: Holds model.safetensors, or an index and its shards.

    Raises:
        InputError: A file is damaged, its tensors are no floats, or index and shards contradict
            each other.
        MissingError: There are no such files. Pickled weights are never read.
    """
    found: dict[str, TensorInfo] = {}
    wanted = _files(folder)
    for path, names in wanted.items():
        with _opened(path) as file:
            inside = set(file.keys())
            if names is not None and inside != names:
                raise InputError(
                    f"the shard's tensors are not those of {INDEX}, "
                    f"for example {min(inside ^ names)}",
                    where=str(path),
                )
            for name in sorted(inside):
                part = file.get_slice(name)
                dtype = str(part.get_dtype())
                # Old checkpoints hold numbered positions as integers, which nothing reads.
                if dtype not in _FLOATS and not IGNORED.fullmatch(name):
                    raise InputError(
                        f"tensor {name} is {dtype}", where=str(path), expected=", ".join(_FLOATS)
                    )
                found[name] = TensorInfo(path, tuple(part.get_shape()), dtype)
    return found


@contextmanager
def reader(found: dict[str, TensorInfo]) -> "Iterator[Reader]":
    """Opens the files of `describe_weights` for reading tensors one by one."""
    with ExitStack() as stack:
        paths = {each.file for each in found.values()}
        yield Reader({path: stack.enter_context(_opened(path)) for path in paths}, found)


@dataclass(frozen=True, slots=True)
class Reader:
    """Open files; see `reader`."""

    opened: dict[Path, Any]
    found: dict[str, TensorInfo]

    def tensor(self, name: str) -> "Tensor":
        """A tensor, backed by the mapped file."""
        tensor: Tensor = self.opened[self.found[name].file].get_tensor(name)
        return tensor


def _files(folder: Path) -> dict[Path, set[str] | None]:
    """Files to read and, where an index says so, the names each must hold."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: None}
    index = folder / INDEX
    if index.is_file():
        return _shards(folder, index)
    endings = (*_PICKLED, ".bin.index.json")
    pickled = sorted(each.name for each in folder.iterdir() if each.name.endswith(endings))
    if pickled:
        raise InputError(
            f"the weights are pickled ({', '.join(pickled[:3])}), which can run code when read",
            where=str(folder),
            expected=f"{SINGLE}; convert them on a machine where they are trusted",
        )
    raise MissingError("there are no weights", where=str(folder), expected=f"{SINGLE} or {INDEX}")


def _shards(folder: Path, index: Path) -> dict[Path, set[str] | None]:
    table = local_files.read_object(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(file, str) for file in table.values()):
        raise InputError("there is no weight_map of names to files", where=str(index))
    shards: dict[Path, set[str] | None] = {}
    for name, file in table.items():
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise InputError(
                f"the shard {file!r:.80} is no safetensors file of this folder", where=str(index)
            )
        held = shards.setdefault(folder / file, set())
        assert held is not None
        held.add(name)
    if not shards or len(shards) > _MOST_SHARDS:
        raise InputError(f"it lists {len(shards)} shards", where=str(index))
    for path in shards:
        if not path.is_file():
            raise MissingError(f"{INDEX} lists a shard that is missing", where=str(path))
    return shards


@contextmanager
def _opened(path: Path) -> "Iterator[Any]":
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as start:
            length = int.from_bytes(start.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError(f"its header has {length:,} bytes, not {_LONGEST_HEADER:,} at most")
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"the file is no sound safetensors file: {error}",
            where=str(path),
            fix="download it again; a download that broke off leaves a short file",
        ) from None
    with file as entered:
        yield entered
