"""Errors that tell a user what happened, where, what was expected and what to do next."""

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class M2KRError(Exception):
    """Base of every error m2kr raises on purpose.

    Args:
        what: What happened, in one sentence.
        where: The file, row or field it happened at, as the user would write it.
        expected: What a right value looks like.
        fix: What to do next, if possible a command to copy.

    The command line turns the class into its exit code (``exit_code``) and prints ``str(error)``.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.fix = fix
        super().__init__(what, where, expected, fix)

    def __reduce__(self) -> "tuple[object, tuple[object, ...]]":
        # Exceptions come back from other processes by their positional arguments; ours have one.
        return _again, (type(self), self.what, self.where, self.expected, self.fix)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.fix:
            lines.append(f"  try:      {self.fix}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str | None]:
        """The same facts for ``--json``."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "expected": self.expected,
            "fix": self.fix,
        }


def _again(
    kind: type[M2KRError], what: str, where: str | None, expected: str | None, fix: str | None
) -> M2KRError:
    return kind(what, where=where, expected=expected, fix=fix)


class InputError(M2KRError):
    """A file, record or argument value that m2kr was given is wrong (exit 1)."""


class RetrieverError(M2KRError):
    """A user's own retriever raised an exception, which is this one's ``__cause__`` (exit 1)."""


class CheckError(M2KRError):
    """A check found something wrong: a hash, a count, an id (exit 1)."""


class UsageError(M2KRError):
    """The command or call itself is wrong: an unknown name, options that clash (exit 2)."""

    exit_code = 2


class MissingError(M2KRError):
    """Data, images or a dependency are not on this machine (exit 3)."""

    exit_code = 3


class UpstreamError(M2KRError):
    """A download failed or upstream served something else than expected (exit 4)."""

    exit_code = 4


def missing_dependency(package: str, extra: str, needed_for: str) -> MissingError:
    """The error for an optional package that is not installed.

    Args:
        package: Import or distribution name that is absent.
        extra: The m2kr extra that installs it.
        needed_for: What the user was doing.
    """
    return MissingError(
        f"{needed_for} needs the package '{package}', which is not installed",
        fix=f"pip install 'm2kr[{extra}]'" + torch_hint(extra),
    )


def torch_hint(extra: str) -> str:
    """How to keep a CPU machine free of the CUDA build, for extras that need torch."""
    if extra in {"models", "demo"}:
        return "   (install torch first to choose its build: see 'Install' in the README)"
    return ""


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_SYSTEM_FIXES = {
    errno.ENAMETOOLONG: "use shorter names",
    errno.EMFILE: "raise the limit (ulimit -n 4096), or use fewer --jobs",
    errno.ENFILE: "close other programs: the whole system has too many files open",
    errno.EISDIR: "give a file, not a folder",
    errno.EEXIST: "something of another kind has this name: move it away, or take another name",
    errno.ENOTDIR: "a part of this path is a file where a folder belongs",
    errno.EIO: "look after the disk: it could not be read or written",
    errno.ESTALE: "mount the network disk again",
}


# What torch.save says where the disk refuses.
_TORCH_WRITES = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+|iostream error")


def from_system(error: BaseException) -> M2KRError | None:
    """Our error for what the operating system, memory's end or pyarrow raised; None for all else.

    It is the one place that puts such errors in words: a full disk, a read-only folder, a missing
    permission, too many open files, a name too long, no memory, no network.
    """
    if isinstance(error, M2KRError):
        return error
    # torch's is a RuntimeError; its module isn't imported for this.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        detail = str(error).strip().split("\n")[0]
        return M2KRError(
            "the memory is not enough" + (f": {detail}" if detail else ""),
            fix="close other programs, or do less at once (fewer --jobs, a smaller batch_size)",
        )
    if isinstance(error, OSError):
        return _from_os(error)
    if number := re.search(
        r"\(os error (\d+)\)", str(error)
    ):  # safetensors has it in its text alone
        return _from_os(OSError(int(number[1]), os.strerror(int(number[1]))))
    if isinstance(error, RuntimeError) and _TORCH_WRITES.search(str(error)):
        return M2KRError(
            f"a file can't be written: {_first_line(error)}",
            expected="room on the disk, and within the quota",
            fix="free some space and run the same command again: it goes on",
        )
    arrow = sys.modules.get("pyarrow")
    if arrow is not None and isinstance(error, arrow.ArrowException):
        return InputError(f"a table can't be read or made: {_first_line(error)}")
    if isinstance(error, RecursionError):
        return InputError("something is nested too deeply to be read")
    if isinstance(error, UnicodeDecodeError):
        return InputError(
            f"byte {error.start + 1} of {len(error.object):,} is not UTF-8", expected="UTF-8 text"
        )
    if isinstance(error, UnicodeEncodeError):
        return InputError(
            f"a text holds {error.object[error.start : error.end]!r}, which is no character",
            expected="text without half surrogate pairs",
        )
    if type(error) is RuntimeError and str(error).startswith("Could not determine home"):
        return UsageError(
            "a path begins with ~ and a user whose home is not known", expected="the whole path"
        )
    if isinstance(error, OverflowError):
        return InputError(f"a number or date is out of range: {_first_line(error)}")
    return None


def as_m2kr_error(error: BaseException) -> M2KRError:
    """`from_system`, with any other error in one line."""
    return from_system(error) or M2KRError(one_line(error))


def _from_os(error: OSError) -> M2KRError:
    where = error.filename if isinstance(error.filename, str | bytes) else None
    if isinstance(where, bytes):
        where = where.decode(errors="backslashreplace")
    reason = error.strerror or _first_line(error)
    if _is_network(error):
        return UpstreamError(
            f"the network failed: {reason}",
            where=where,
            fix="run the same command again when the network is back: it goes on",
        )
    # pyarrow and zlib bring the reason in their text alone.
    if error.errno in _FULL or "No space left" in str(error):
        return M2KRError(
            f"the disk is full or the quota used up: {reason}",
            where=where,
            fix="free some space and run the same command again: it goes on",
        )
    if error.errno in _FORBIDDEN:
        return M2KRError(
            f"not allowed: {reason}", where=where, expected="a place that this user may use so"
        )
    if isinstance(error, FileNotFoundError):
        return MissingError(f"not here: {reason}", where=where)
    return M2KRError(
        f"a file can't be used: {reason}",
        where=where,
        fix=_SYSTEM_FIXES.get(error.errno) if error.errno is not None else None,
    )


def _is_network(error: OSError) -> bool:
    """Whether an error came from a connection. Libraries of HTTP derive theirs from OSError."""
    if isinstance(error, BrokenPipeError):
        return False
    kinds = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or bool(
        kinds & {"socket", "_socket", "ssl", "requests", "urllib3", "httpx", "huggingface_hub"}
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:300]


@contextmanager
def plainly(where: object = None) -> Iterator[None]:
    """Whatever `from_system` knows is raised as our error; works as a decorator, too.

    Args:
        where: The file that is worked on, if the error names none.

    Raises:
        M2KRError: Something of the kind was raised inside.
    """
    try:
        yield
    except M2KRError:
        raise
    except Exception as error:
        ours = from_system(error)
        if ours is None:
            raise
        if ours.where is None and where is not None:
            ours = type(ours)(ours.what, where=str(where), expected=ours.expected, fix=ours.fix)
        raise ours from error


def ends_process(error: BaseException) -> bool:
    """Whether a signal is what a ``SystemExit`` came from, not the code that was run."""
    return isinstance(error, SystemExit) and type(error) is not SystemExit


def one_line(error: BaseException) -> str:
    """An exception as one line: its class and the first line of its message."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def last_frame(error: BaseException, own: Callable[[Path], bool]) -> str | None:
    """The last place in some files that an exception came through, as a user looks it up.

    Args:
        error: An exception that was raised.
        own: Whether a file is one of them.

    Returns:
        ``my_model.py:12, in encode_query: return 1 / 0``, the path relative to the working folder
        where it is below; None if it came through none of the files.
    """
    frames = [
        (f.filename, f.lineno, f.name, f.line) for f in traceback.extract_tb(error.__traceback__)
    ]
    if isinstance(error, SyntaxError):  # the file at fault was never run
        frames.append((error.filename or "<unknown>", error.lineno, "<module>", error.text))
    for filename, number, name, line in reversed(frames):
        file = Path(filename)
        if filename.startswith("<") or not own(file):
            continue
        inside = "" if name == "<module>" else f", in {name}"
        return f"{_shown(file)}:{number}{inside}" + (f": {line.strip()}" if line else "")
    return None


def _shown(file: Path) -> str:
    try:
        return str(file.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere; or the working folder is gone
        return str(file)
