"""What is written where: narrow encodings, full and closed outputs, markup and escapes, signals."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow as pa
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from m2kr import errors
from m2kr.building.userdata.importer import from_records
from m2kr.cli.output import printable

M2KR = Path(sys.executable).with_name("m2kr")
ODD = "[/red][bold]x :smile: é中 \x1b[31m\x9b2J\x07‮"


def m2kr(*args: object, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [M2KR, *map(str, args)], capture_output=True, check=False, env=os.environ | env
    )


@pytest.fixture(scope="module")
def odd_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose ids and texts hold markup, emoji names, escapes and non-ASCII letters."""
    root = tmp_path_factory.mktemp("odd")
    from_records(
        [{"id": f"p{ODD}", "text": f"tower {ODD}"}, {"id": "p2", "text": "bridge"}],
        [{"id": f"q{ODD}", "question": f"tower {ODD}", "positives": [f"p{ODD}"]}],
        name="odd",
        data=root,
    )
    return root


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_tables_survive_any_encoding_and_show_text_as_it_is(odd_root: Path, encoding: str) -> None:
    done = m2kr(
        "search", "odd", "-q", "tower", "-r", "bm25", "--data", odd_root, PYTHONIOENCODING=encoding
    )
    assert done.returncode == 0, done.stderr
    shown = re.sub(r"\s*[│|]\s*|\n", "", done.stdout.decode(encoding))
    assert "[/red][bold]x :smile:" in shown
    assert r"\x1b[3" in shown
    assert b"\x1b" not in done.stdout + done.stderr


def test_json_is_json_in_another_encoding(odd_root: Path) -> None:
    done = m2kr(
        *("search", "odd", "-q", "tower", "-r", "bm25", "--json", "--data", odd_root),
        PYTHONIOENCODING="cp1252",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("cp1252"))["passages"][0]["passage_id"] == f"p{ODD}"


@pytest.mark.parametrize("args, encoding", [("eval --help", "cp1252"), ("doctor", "ascii")])
def test_help_and_doctor_never_die_of_an_encoding(tmp_path: Path, args: str, encoding: str) -> None:
    done = m2kr(*args.split(), PYTHONIOENCODING=encoding, M2KR_DATA=str(tmp_path))
    assert done.returncode in (0, 1) and b"Traceback" not in done.stderr
    assert args != "doctor" or b"data root" in done.stdout


def test_an_error_that_quotes_escapes_is_shown_without_them(tmp_path: Path) -> None:
    done = m2kr("info", "x\x1b]0;owned\x07[/b]", "--data", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert rb"\x1b]0;owned\x07[/b]" in done.stderr and b"\x1b" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("args", ["list", "--help"])
def test_a_full_output_is_one_line_and_no_success(tmp_path: Path, args: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [M2KR, *args.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env=os.environ | {"M2KR_DATA": str(tmp_path)},
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: the disk is full") and b"Trace" not in done.stderr


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "| head -c1"])
def test_closed_outputs_are_no_error(tmp_path: Path, closed: str) -> None:
    command = f"set -o pipefail; '{M2KR}' list --data '{tmp_path}' {closed}"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True)
    assert done.returncode == 0 and b"Trace" not in done.stderr, done.stderr


@given(st.text())
def test_printable_text_commands_no_terminal(text: str) -> None:
    shown = printable(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert printable(shown) == shown
    if not re.search("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", text):
        assert shown == text


SYSTEM = [
    (OSError(errno.ENOSPC, "No space left on device", "/a/b"), errors.M2KRError, "disk is full"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), errors.M2KRError, "quota"),
    (PermissionError(errno.EACCES, "Permission denied", b"/a\xff"), errors.M2KRError, "denied"),
    (OSError(errno.EROFS, "Read-only file system"), errors.M2KRError, "Read-only"),
    (OSError(errno.EMFILE, "Too many open files"), errors.M2KRError, "ulimit -n"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), errors.M2KRError, "shorter"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "/a"), errors.M2KRError, "not a folder"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory"), errors.MissingError, "not here"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), errors.M2KRError, "Broken pipe"),
    (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), errors.UpstreamError, "network"),
    (requests.ConnectionError("no route"), errors.UpstreamError, "no route"),
    (MemoryError("Unable to allocate 5 GiB"), errors.M2KRError, "5 GiB"),
    (RecursionError("maximum recursion depth"), errors.InputError, "nested"),
    (RuntimeError("Could not determine home directory."), errors.UsageError, "~"),
    (OverflowError("date value out of range"), errors.InputError, "date value"),
    (pa.ArrowInvalid("no\nsecond line"), errors.InputError, "no"),
    (pa.ArrowMemoryError("malloc of size 9 failed"), errors.M2KRError, "memory"),
    (
        UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "invalid start byte"),
        errors.InputError,
        "byte 2",
    ),
    (OSError("a library's own words"), errors.M2KRError, "own words"),
]


@pytest.mark.parametrize("error, kind, words", SYSTEM, ids=lambda x: getattr(x, "__name__", None))
def test_what_the_system_raises_is_put_in_words(
    error: Exception, kind: type[errors.M2KRError], words: str
) -> None:
    with pytest.raises(errors.M2KRError) as caught, errors.plainly("here"):
        raise error
    assert type(caught.value) is kind and words in str(caught.value)
    assert caught.value.where


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), AssertionError()])
def test_a_defect_stays_one(error: Exception) -> None:
    assert errors.from_system(error) is None


SLOW = textwrap.dedent(
    """
    import time
    import numpy as np
    from pathlib import Path
    from m2kr import EncoderRetriever

    class Slow(EncoderRetriever):
        name = "slow"
        def encode_document(self, batch):
            return np.ones((len(batch), 4), np.float32)
        def encode_query(self, batch):
            Path("begun").touch()
            time.sleep(60)
    """
)


def _heeds_signals() -> None:
    """In a child: signals do what they do in a terminal, whoever runs the tests (nohup, a shell's &)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_no_temporary_folder(
    mini_root: Path, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    child = subprocess.Popen(
        [M2KR, "eval", "mini", "-r", "slow.py:Slow", "--data", mini_root, "--no-cache"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(scratch)},
        preexec_fn=_heeds_signals,
    )
    end = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    assert any(scratch.iterdir())
    child.send_signal(number)
    said = child.communicate(timeout=30)[1]
    assert child.returncode == 128 + number
    assert said.count(b"the same command goes on") == 1 and b"Traceback" not in said
    assert not any(scratch.iterdir())
