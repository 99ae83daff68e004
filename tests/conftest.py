"""Fixtures that several folders of tests share."""

import gc
import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import settings
from support.command_line import CommandLine

from m2kr.building import registry
from m2kr.building.build import build

# No deadlines: a busy machine is no defect. In CI the same examples each time, and fewer: new ones are for us
# to find.
IN_CI = bool(os.environ.get("CI"))
settings.register_profile(
    "m2kr", deadline=None, derandomize=IN_CI, max_examples=50 if IN_CI else 100
)
settings.load_profile("m2kr")

# Before any library loads Triton: without a GPU its interpreter runs the kernels' tests.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# No test pulls the plug, and a killed process loses nothing that it wrote: builds by the hundred need not
# wait for the disk. Programs that tests start as processes of their own do.
os.fsync = lambda fd: None

Cli = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: begun last, it would keep one core busy and the others idle."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


# Whatever is imported for the tests stays. The asserts that pytest rewrites are kept for its next session,
# also where Python is told to write no bytecode.
gc.disable()
_WRITES_NO_BYTECODE, sys.dont_write_bytecode = sys.dont_write_bytecode, False


def pytest_collection_finish() -> None:
    """Torch, transformers and all tests stay: no collection of garbage need look through them again."""
    sys.dont_write_bytecode = _WRITES_NO_BYTECODE
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """As it was: libraries that count what is left at the end find nothing."""
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """In CI: where the time goes, by folder; processes at work beside each other add up."""
    if not IN_CI:
        return
    seconds: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for report in itertools.chain(*terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            path = PurePosixPath(report.nodeid.partition("::")[0])
            folder = "/".join(path.parts[:3] if len(path.parts) > 3 else path.parts[:2])
            seconds[folder] += report.duration
            tests[folder] += report.when == "call"
    terminalreporter.section("seconds by folder")
    for folder, spent in seconds.most_common():
        if spent >= 1:
            terminalreporter.write_line(f"{spent:7.0f}  {tests[folder]:5d} tests  {folder}")


@pytest.fixture(scope="session")
def mini_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root in which mini is built. Not to be written to."""
    root = tmp_path_factory.mktemp("mini")
    build(registry.builder("mini"), root)
    return root


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Runs the ``m2kr`` command; ``code`` is the exit code it must have."""
    return new_cli()


def new_cli(*also: str) -> Cli:
    """The same with the environment of now, for a folder or file of tests that sets variables.

    Args:
        also: Modules that are imported once for all commands.
    """
    command_line = CommandLine(*also)

    def run(
        *args: object, code: int = 0, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = command_line.run([*map(str, args)], cwd)
        assert done.returncode == code, f"{done.args}\n{done.stdout}\n{done.stderr}"
        return done

    return run
