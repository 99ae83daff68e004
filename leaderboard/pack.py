"""Packing a submission: equal submissions make equal files."""

import zlib
from pathlib import Path

from m2kr import atomic
from m2kr.errors import UsageError

from .packed_form import README, directory_end, directory_entry, member_head
from .submission import open_submission
from .system_card import CARD

_SUFFIX = ".zip"
_BLOCK = 1 << 20


def require_packed_name(out: Path) -> None:
    """Refuses a name that a packed submission can't have.

    Raises:
        UsageError: it does not end in ``.zip``.
    """
    if out.suffix != _SUFFIX:
        raise UsageError("a packed submission ends in .zip", where=str(out))


def pack(folder: Path, out: Path) -> Path:
    """Packs a submission whose form holds.

    Args:
        folder: The submission.
        out: The file to write, whole or not at all.

    Raises:
        SubmissionRefused: its form doesn't hold.
        UsageError: the file's name does not end in ``.zip``.
    """
    require_packed_name(out)
    submission = open_submission(folder)
    name = submission.card.name
    files = [CARD, *(run.file for run in submission.card.runs)]
    files += [README] if (folder / README).is_file() else []
    with atomic.writing(out) as aside, atomic.create(aside) as file:
        directory = b""
        for member in sorted(files):
            path = folder / member
            raw, crc, size = f"{name}/{member}".encode(), 0, path.stat().st_size
            with path.open("rb") as content:
                while block := content.read(_BLOCK):
                    crc = zlib.crc32(block, crc)
                directory += directory_entry(raw, crc, size, file.tell())
                file.write(member_head(raw, crc, size))
                content.seek(0)
                while block := content.read(_BLOCK):
                    file.write(block)
        file.write(directory + directory_end(len(files), len(directory), file.tell()))
    return out
