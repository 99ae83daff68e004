"""Every command and snippet of the README, run in order in one folder, as a reader would."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from servers.hub_server import HubServer
from support import release_fixture as fixture
from support.command_line import CommandLine

from m2kr.building.release.builder import REPO, REVISION

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", README, flags=re.M | re.S)
# Run by .ci/run from a clean clone.
ELSEWHERE = ("make demo", "make test")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README takes for granted."""
    folder = tmp_path_factory.mktemp("reader")
    rows = [{"id": f"p{i}", "text": f"Note {i} on metals."} for i in range(20)]
    (folder / "passages.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    query = {"id": "q", "question": "note 3?", "image": "tin.jpg", "positives": ["p3"]}
    (folder / "queries.jsonl").write_text(json.dumps(query) + "\n")
    (folder / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "photos" / "tin.jpg")
    return folder


@contextmanager
def snippets(folder: Path, env: dict[str, str]) -> Iterator[Callable[[str], None]]:
    """Runs snippets that build on those before them, in one process as in a notebook."""
    code = (
        "import sys, json, traceback\n"
        "for line in sys.stdin:\n"
        "    try: exec(json.loads(line), globals())\n"
        "    except BaseException: print(json.dumps(traceback.format_exc()), file=answers, flush=True)\n"
        "    else: print(json.dumps(None), file=answers, flush=True)\n"
    )
    code = "import sys\nanswers, sys.stdout = sys.stdout, sys.stderr\n" + code
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout

        def run(snippet: str) -> None:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps(snippet) + "\n")
            process.stdin.flush()
            failure = json.loads(process.stdout.readline())
            assert failure is None, f"{snippet}\n{failure}"

        yield run
        process.stdin.close()


def test_every_block_runs_in_order(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2KR_DATA", str(reader / "data"))
    monkeypatch.setenv("HF_HOME", str(reader / "hf"))
    command_line, commands = CommandLine(), 0
    with snippets(reader, dict(os.environ)) as run:
        for language, text in BLOCKS:
            if language == "python":
                named = re.match(r"# (\w+\.py)\n", text)
                if named:
                    (reader / named[1]).write_text(text)
                run(text)
                continue
            for line in text.splitlines():
                command = line.split("#")[0].strip()
                if not command or command in ELSEWHERE:
                    continue
                program, *words = shlex.split(command)
                assert program == "m2kr", "what else the README runs needs a shell here"
                done = command_line.run(words, reader)
                assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
                commands += 1
    assert commands >= 10


@pytest.mark.slow
def test_the_three_commands_to_the_real_benchmark(reader: Path) -> None:
    """Run against a hub that serves the release, its image archive and the model, all in small."""
    block = re.search(r"^```sh\n(.*?)^```", README, flags=re.M | re.S)
    assert block is not None
    commands = [line.split("#")[0].strip() for line in block[1].splitlines()]
    assert [command.split()[1] for command in commands] == ["build", "images", "eval"]
    commands[0] += " --any-counts"  # the small release has fewer rows

    release, archives = reader / "release", reader / "archives"
    fixture.write_release(release, sources=["okvqa"])
    photo = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(photo, "JPEG")
    (archives / "OKVQA").mkdir(parents=True)
    with zipfile.ZipFile(archives / "OKVQA" / "val2014.zip", "w") as archive:
        table = pq.read_table(next((release / "OKVQA_data").glob("test-*.parquet")))
        for path in table["img_path"].to_pylist():
            archive.writestr(path, photo.getvalue())
    datasets = {
        REPO: release,
        "BByrneLab/M2KR_Images": archives,
        "LinWeizheDragon/PreFLMR_ViT-L": Path(__file__).parent / "golden" / "tiny_preflmr",
    }
    with HubServer(datasets, commit=REVISION) as hub:
        env = os.environ | hub.env(reader / "home", M2KR_DATA=str(reader / "benchmark"))
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        for command in commands:
            done = subprocess.run(
                command, shell=True, cwd=reader, env=env, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "okvqa/test" in done.stdout
    assert "preflmr" in done.stdout


def test_the_two_commands_come_first() -> None:
    first = next(text for language, text in BLOCKS if language == "bash")
    assert [line.split("#")[0].strip() for line in first.splitlines()] == list(ELSEWHERE)


def test_the_demo_output_is_a_true_one() -> None:
    shown = re.search(r"^```text\n(.*?)^```", README, flags=re.M | re.S)
    assert shown is not None
    for name in ("bm25", "dense_text", "image_concepts", "fusion", "I2T", "R@10", "PR@5"):
        assert name in shown[1]
