"""One file out of a token store or an index, and back: an uncompressed tar that begins with its manifest.

The bytes of a pack follow from the folder: ``pack.json`` first, then the files by name, owner and
time zero. Any tar program unpacks one. `unpack` reads nothing but what `pack` writes: every header
is computed from the manifest and compared, so there is no name, link or size in a pack to be
followed that was not checked before the first file is made.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from m2kr import atomic
from m2kr.errors import CheckError, InputError, M2KRError, MissingError
from m2kr.progress import Progress, Silent
from m2kr.search.late.sharing import manifest as pack_manifest
from m2kr.search.late.sharing.manifest import NAME, Manifest, PackedFile, describe, require

if TYPE_CHECKING:
    from io import FileIO

__all__ = ["check_files", "manifest_of", "open_manifest", "pack", "require", "unpack"]

_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
_PIECE = 1 << 20
_AGAIN = "get the pack again, or make it again: m2kr index pack FOLDER FILE"


def pack(folder: Path, file: Path, *, progress: "Progress | None" = None) -> Manifest:
    """Writes a token store or an index into one file, and checks every byte on the way.

    Args:
        folder: A token store or an index that nobody is writing to.
        file: What to write, such as ``okvqa.tar``; the same folder gives the same bytes.
        progress: Told of the bytes.

    Returns:
        What is in it.

    Raises:
        MissingError: there is no store or index, or no folder for the file.
        InputError: it has no complete shard.
        CheckError: a file differs from its recorded SHA-256; nothing was written then.
    """
    manifest = describe(folder)
    if not file.absolute().parent.is_dir():
        raise MissingError("there is no such folder", where=str(file.absolute().parent))
    progress = progress or Silent()
    aside = file.with_name(f".{file.name}.tmp-{os.getpid()}")
    progress.start("pack", manifest.nbytes)
    try:
        with atomic.create(aside) as out:
            head = manifest.to_bytes()
            out.write(_header(NAME, len(head)) + head + _padding(len(head)))
            for each in manifest.files:
                out.write(_header(each.name, each.bytes))
                path = folder / each.name
                with path.open("rb", buffering=0) as stream:
                    _copy(stream, out, each, path, progress, "pack")
                out.write(_padding(each.bytes))
            out.write(bytes(_total(manifest, len(head)) - out.tell()))
            out.flush()
            os.fsync(out.fileno())
        atomic.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)
    progress.done("pack")
    return manifest


def unpack(
    file: Path,
    folder: Path,
    *,
    expected: "Mapping[str, object] | None" = None,
    progress: "Progress | None" = None,
) -> Manifest:
    """Makes the folder that was packed, verified; it appears when it is complete.

    Args:
        file: A pack.
        folder: Must not exist, be empty, or hold what is in the pack already.
        expected: See `require`; checked before anything is written.
        progress: Told of the bytes.

    Raises:
        MissingError: there is no such file.
        InputError: it is no pack, or the folder holds something else.
        CheckError: it is cut short, a file differs from its SHA-256, or it is not as expected.
    """
    progress = progress or Silent()
    with _opened(file) as stream:
        manifest, size = _read_manifest(stream, file)
        require(manifest.facts(), expected or {}, str(file))
        _check_size(file, _total(manifest, size))
        if held(folder, manifest):
            check_files(folder, manifest, progress=progress)
            return manifest
        progress.start("unpack", manifest.nbytes)
        with replacing(folder) as aside:
            for each in manifest.files:
                if stream.read(_BLOCK) != _header(each.name, each.bytes):
                    raise _no_pack(file, f"{each.name} is not where {NAME} says")
                with atomic.create(aside / each.name) as out:
                    _copy(stream, out, each, file, progress, "unpack")
                    out.flush()
                    os.fsync(out.fileno())
                if stream.read(len(_padding(each.bytes))).strip(b"\0"):
                    raise _no_pack(file, f"there is something behind {each.name}")
            if stream.read().strip(b"\0"):
                raise _no_pack(file, "there is something behind its last file")
            pack_manifest.check_folder(aside, manifest)
    progress.done("unpack")
    return manifest


def manifest_of(source: Path) -> Manifest:
    """What a pack, a token store or an index is; reads the manifest or the records alone.

    Raises:
        MissingError: there is nothing.
        InputError: it is something else.
    """
    return describe(source) if source.is_dir() else open_manifest(source)


def open_manifest(file: Path) -> Manifest:
    """The manifest of a pack, and nothing else of it; raises as `unpack` does."""
    with _opened(file) as stream:
        return _read_manifest(stream, file)[0]


def check_files(folder: Path, manifest: Manifest, *, progress: "Progress | None" = None) -> None:
    """Compares every byte of a folder's files with a manifest.

    Raises:
        CheckError: one differs or is gone; names it.
    """
    progress = progress or Silent()
    progress.start("verify", manifest.nbytes)
    for each in manifest.files:
        path = folder / each.name
        if not path.is_file() or path.stat().st_size != each.bytes:
            raise _differs(path)
        with path.open("rb", buffering=0) as stream:
            _copy(stream, None, each, path, progress, "verify")
    progress.done("verify")


def held(folder: Path, manifest: Manifest) -> bool:
    """Whether a folder holds just this already; False if it is not there, or empty.

    Raises:
        InputError: it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        same = folder.is_dir() and describe(folder) == manifest
    except M2KRError:
        same = False
    if not same:
        raise InputError(
            "something else is there already",
            where=str(folder),
            fix="use another folder, or delete this one",
        )
    return True


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder aside, which takes the place of ``folder`` at the end of the ``with`` block.

    Raises:
        MissingError: there is no folder for it to be in.
    """
    folder = folder.absolute()
    if not folder.parent.is_dir():
        raise MissingError("there is no such folder", where=str(folder.parent))
    aside = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    atomic.discard(aside)
    try:
        aside.mkdir()
        yield aside
        atomic.fsync_dir(aside)
        # An empty folder is replaced; one that has been filled meanwhile is not.
        aside.rename(folder)
        atomic.fsync_dir(folder.parent)
    finally:
        atomic.discard(aside)


def _copy(
    stream: "BinaryIO | FileIO",
    out: BinaryIO | None,
    each: PackedFile,
    where: Path,
    progress: Progress,
    task: str,
) -> None:
    """Copies a file's bytes, or only reads them, and compares their SHA-256."""
    left, sums = each.bytes, hashlib.sha256()
    while left:
        piece = stream.read(min(_PIECE, left))
        if not piece:
            break
        sums.update(piece)
        if out is not None:
            out.write(piece)
        left -= len(piece)
        progress.advance(task, len(piece))
    if left or sums.hexdigest() != each.sha256:
        raise _differs(where if where.name == each.name else where / each.name)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _total(manifest: Manifest, head: int) -> int:
    """Bytes of a pack: members in blocks, two blocks of zeros, all in records."""
    sizes = [head, *(each.bytes for each in manifest.files)]
    ends = sum(_BLOCK + size + (-size % _BLOCK) for size in sizes) + 2 * _BLOCK
    return ends + (-ends % _RECORD)


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if not file.is_file():
        raise MissingError("there is no such pack", where=str(file))
    with file.open("rb") as stream:
        yield stream


def _read_manifest(stream: BinaryIO, file: Path) -> tuple[Manifest, int]:
    """The manifest, and how many bytes it has."""
    head = stream.read(_BLOCK)
    try:
        size = tarfile.TarInfo.frombuf(head, "utf-8", "strict").size
    except (tarfile.TarError, ValueError) as error:
        raise _no_pack(file, "it is no tar") from error
    if not 0 <= size <= pack_manifest.MOST_BYTES or head != _header(NAME, size):
        raise _no_pack(file, f"it doesn't begin with {NAME}")
    data = stream.read(size)
    found = pack_manifest.read(data, f"{file}, {NAME}")
    if stream.read(len(_padding(size))).strip(b"\0"):
        raise _no_pack(file, f"there is something behind {NAME}")
    return found, size


def _check_size(file: Path, expected: int) -> None:
    found = file.stat().st_size
    if found != expected:
        raise CheckError(
            f"it has {found:,} bytes", where=str(file), expected=f"{expected:,}", fix=_AGAIN
        )


def _no_pack(file: Path, what: str) -> InputError:
    return InputError(
        f"this is no pack of m2kr: {what}",
        where=str(file),
        expected="what m2kr index pack writes",
        fix=_AGAIN,
    )


def _differs(path: Path) -> CheckError:
    return CheckError(
        "its bytes are not those that were written",
        where=str(path),
        fix="restore it from a copy, or get it again",
    )
