"""The workflows: what may start them, what they may do, and what of a stranger they run: nothing."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from m2kr.cli.main import app

WORKFLOWS = Path(__file__).parents[2] / ".github" / "workflows"
FILES = {path.name: path for path in sorted(WORKFLOWS.glob("*.y*ml"))}


def loaded(name: str) -> dict[str, Any]:
    """A workflow as written: YAML would read ``on`` as true."""
    flow: dict[str, Any] = yaml.load(FILES[name].read_text(encoding="utf-8"), yaml.BaseLoader)
    return flow


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in loaded(name)["jobs"].values() for step in job["steps"]]


def every_permission(name: str) -> dict[str, str]:
    flow = loaded(name)
    rights = dict(flow["permissions"] or {})
    for job in flow["jobs"].values():
        rights |= job.get("permissions", {})
    return rights


def texts(value: Any) -> Iterator[str]:
    """Every text of a document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    else:
        yield value


def test_there_are_two() -> None:
    assert {"submission.yml", "leaderboard.yml"} <= set(FILES)


def test_a_pull_request_may_read_alone() -> None:
    flow = loaded("submission.yml")
    assert set(flow["on"]) == {"pull_request"}
    assert flow["on"]["pull_request"]["paths"] == ["leaderboard/submissions/**"]
    assert every_permission("submission.yml") == {"contents": "read"}
    assert flow["concurrency"]["cancel-in-progress"] == "true"


def test_publishing_and_running_code_are_different_jobs() -> None:
    flow = loaded("leaderboard.yml")
    assert set(flow["on"]) == {"push", "workflow_dispatch"}
    assert flow["on"]["push"]["branches"] == ["main"]
    assert not flow["permissions"]
    for job in flow["jobs"].values():
        writes = "write" in job["permissions"].values()
        assert not (writes and any("run" in step for step in job["steps"]))
    assert every_permission("leaderboard.yml") == {
        "contents": "read",
        "pages": "write",
        "id-token": "write",
    }


@pytest.mark.parametrize("name", FILES)
def test_every_workflow_is_tight(name: str) -> None:
    flow = loaded(name)
    assert "permissions" in flow and "concurrency" in flow
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(flow["on"])
    assert not [text for text in texts(flow) if re.search(r"\bsecrets\b", text)]
    for job in flow["jobs"].values():
        assert 0 < int(job["timeout-minutes"]) <= 30
        matrix = job.get("strategy", {}).get("matrix", {}).get("include", [])
        for runner in [one["runner"] for one in matrix] or [job["runs-on"]]:
            assert re.fullmatch(r"ubuntu-\d\d\.\d\d(-arm)?|macos-\d\d", runner)
    for step in steps(name):
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
            # A tag beside it tells a reader which version that is.
            line = next(
                one
                for one in FILES[name].read_text(encoding="utf-8").split("\n")
                if step["uses"] in one
            )
            assert re.search(r"# v\d+\.\d+\.\d+$", line)
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"
        # Whatever a stranger writes reaches a script as a variable, if at all: nothing is pasted in.
        assert "${{" not in step.get("run", "")


def test_nothing_that_a_stranger_writes_freely_is_used() -> None:
    used = {
        expression.strip()
        for text in texts(loaded("submission.yml"))
        for expression in re.findall(r"\$\{\{(.*?)\}\}", text)
    }
    assert used == {
        "github.event.pull_request.number",
        "github.event.pull_request.base.sha",
        "github.event.pull_request.head.sha",
        "github.server_url",
        "github.repository",
    }


def test_the_code_that_runs_is_the_base_branchs() -> None:
    checkout, *others = [
        s["with"] for s in steps("submission.yml") if "checkout" in s.get("uses", "")
    ]
    assert not others
    assert checkout["ref"] == "${{ github.event.pull_request.base.sha }}"
    installs = [s["run"] for s in steps("submission.yml") if "pip install" in s.get("run", "")]
    assert installs == [
        "python -m pip install --constraint base/.ci/locks/transformers-5.txt ./base"
    ]


@pytest.mark.parametrize("name", ["leaderboard.yml", "submission.yml"])
def test_every_command_parses(name: str) -> None:
    commands = [
        line.strip()
        for step in steps(name)
        for line in step.get("run", "").split("\n")
        if re.match(r"\s*m2kr\b", line)
    ]
    assert commands
    for line in commands:
        words = shlex.split(line.partition("||")[0])[1:]
        command: Any = typer.main.get_command(app)
        while commands_of := getattr(command, "commands", None):
            word, *words = words
            command = commands_of[word]
        command.make_context(word, words)  # raises what is wrong of them


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


@needs_git
def test_of_a_pull_request_its_submissions_bytes_are_taken_and_nothing_else(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    here = origin / "leaderboard" / "submissions"
    for name in ("old", "kept", "gone"):
        (here / name / "runs").mkdir(parents=True)
        (here / name / "system.yaml").write_text(f"name: {name}\n")
        (here / name / "runs" / "a.trec.gz").write_bytes(b"\x1f\x8b\r\n\0")
    git(tmp_path, "init", "--quiet", str(origin))
    git(origin, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(origin, "add", ".")
    git(origin, "commit", "--quiet", "-m", "base")
    base = git(origin, "rev-parse", "HEAD")
    odd = [
        "$(touch pwned)",
        "-out",
        "a\nb",
        "; touch pwned",
        "`touch pwned`",
        "a b",
        "*",
        "%s",
        "--",
    ]
    for name in odd:
        (here / name).mkdir()
        (here / name / "system.yaml").write_bytes(b"name: x\r\n$Id$\n")
    (here / "old" / "system.yaml").write_text("name: changed\n")
    shutil.rmtree(here / "gone")
    (here / "link").symlink_to("/etc")
    (here / "file").write_text("no folder")
    (origin / "setup.py").write_text("raise SystemExit('run')")
    git(origin, "add", ".")
    # In the repository as on disk, whatever attributes say: a stranger commits what he likes.
    attributes = b"* text eol=lf ident export-ignore working-tree-encoding=UTF-16\n"
    raw = {f"{name}/system.yaml": b"name: x\r\n$Id$\n" for name in odd} | {
        ".gitattributes": attributes
    }
    for name, data in raw.items():
        (tmp_path / "raw").write_bytes(data)
        blob = git(origin, "hash-object", "-w", "--no-filters", str(tmp_path / "raw"))
        path = f"leaderboard/submissions/{name}"
        git(origin, "update-index", "--add", "--cacheinfo", "100644", blob, path)
    git(origin, "commit", "--quiet", "-m", "pull request")
    head = git(origin, "rev-parse", "HEAD")

    work, bin_ = tmp_path / "work", tmp_path / "bin"
    (work / "base").mkdir(parents=True)
    bin_.mkdir()
    fake = bin_ / "m2kr"
    fake.write_text("#!/bin/sh\npwd > ../called\nprintf '%s\\0' \"$@\" >> ../called\nexit 1\n")
    fake.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        "ORIGIN": origin.as_uri(),
        "BASE_SHA": base,
        "HEAD_SHA": head,
    }

    def script(name: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        [step] = [step for step in steps("submission.yml") if step.get("name") == name]
        shell = loaded("submission.yml")["defaults"]["run"]["shell"]
        file = tmp_path / "step.sh"
        file.write_text(step["run"])
        words = [str(file) if word == "{0}" else word for word in shell.split()]
        return subprocess.run(
            words,
            cwd=work,
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    taken = script("The submissions of the pull request, byte for byte")
    assert taken.returncode == 0, taken.stderr
    pulled = work / "pr" / "leaderboard" / "submissions"
    expected = {*odd, "old", "link", "file", ".gitattributes"}
    assert {path.name for path in pulled.iterdir()} == expected
    assert {path.name for path in (work / "pr").iterdir()} == {".git", "leaderboard"}
    for name in odd:
        assert (pulled / name / "system.yaml").read_bytes() == b"name: x\r\n$Id$\n"
    assert (pulled / "old" / "runs" / "a.trec.gz").is_file()  # whole, though one file changed
    assert (pulled / "link").is_symlink()

    checked = script("Check and score them")
    assert checked.returncode == 1  # the command's own
    where, _, words = (work / "called").read_text().partition("\n")
    assert where == str(work / "base")
    first, second, third, *paths = words.rstrip("\0").split("\0")
    assert (first, second, third) == ("leaderboard", "validate", "--")
    assert {path.removeprefix("../pr/leaderboard/submissions/") for path in paths} == expected
    assert not [*tmp_path.rglob("pwned")]
    # The runner takes no commands from what is printed between.
    begin, end = re.findall(r"^::(?:stop-commands::)?([0-9a-f]{64})(?:::)?$", checked.stdout, re.M)
    assert begin == end

    # One that only removes has nothing to check.
    shutil.rmtree(work / "pr")
    assert (
        script(
            "The submissions of the pull request, byte for byte", BASE_SHA=head, HEAD_SHA=base
        ).returncode
        == 0
    )
