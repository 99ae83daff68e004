"""The command line from outside: help, start-up, exit codes, JSON, and every command on mini."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import Cli

from m2kr.cli.main import guarded
from m2kr.errors import UpstreamError
from m2kr.search.exact.cpu_fused import kernel_state

COMMANDS = (
    "build",
    "images",
    "import",
    "merge",
    "eval",
    "compare",
    "report",
    "show",
    "explain",
    "audit",
    "reproduce",
    "export",
    "check-retriever",
    "rag",
    "score-answers",
    "search",
    "demo",
    "list",
    "info",
    "verify",
    "remove",
    "diff",
    "doctor",
)
HEAVY = ("torch", "transformers", "ranx", "datasets", "pyarrow", "numpy", "pandas", "requests")


def only_json(stdout: str) -> dict:
    """The one JSON object that stdout must be."""
    assert stdout.count("\n") == 1, stdout
    return json.loads(stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_of_itself(cli: Cli, command: str) -> None:
    text = cli(command, "--help").stdout
    assert "Examples:" in text
    assert text.count(f"m2kr {command}") >= 2


def test_help_lists_every_command(cli: Cli) -> None:
    text = cli("--help").stdout
    assert all(f" {command} " in text for command in COMMANDS)


def test_start_up_imports_nothing_heavy() -> None:
    code = (
        "import sys, m2kr.cli.main as main\n"
        "sys.argv = ['m2kr', '--help']\n"
        "try: main.main()\n"
        "except SystemExit: pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stderr.split())
    assert not modules.intersection(HEAVY)
    assert len(modules) < 600, len(modules)


def test_a_source_is_imported_and_searched_without_slow_libraries(tmp_path: Path) -> None:
    """``datasets`` alone takes longer to import than all of this takes."""
    passages = [{"id": f"p{i}", "text": f"passage number {i}"} for i in range(20)]
    lines = {"passages": passages, "queries": [{"id": "q", "question": "7?", "positives": ["p7"]}]}
    for name, rows in lines.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    given = [f"--{name}={tmp_path / name}.jsonl" for name in lines]
    for words in (
        ["import", "few", *given],
        ["list"],
        ["info", "few"],
        ["eval", "few", "-r", "bm25"],
    ):
        code = (
            "import sys, m2kr.cli.main as main\n"
            f"sys.argv = {['m2kr', *words, '--data', str(tmp_path)]}\n"
            "try: main.main()\n"
            "except SystemExit as end: assert not end.code, end.code\n"
            "print('\\n'.join(sys.modules), file=sys.stderr)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        modules = set(done.stderr.split())
        assert "m2kr.cli.main" in modules
        assert not modules & {"torch", "transformers", "datasets", "ranx"}, words


def test_import_m2kr_is_lazy() -> None:
    code = "import sys, m2kr; print(len([m for m in sys.modules if m.startswith('m2kr')]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 2  # the package and what an editable install adds


def test_usage_errors_are_2(cli: Cli, tmp_path: Path) -> None:
    assert "did you mean 'mini'" in cli("build", "minni", "--data", tmp_path, code=2).stderr
    cli("build", code=2)
    cli("build", "mini", "--no-such-option", code=2)
    assert "is a variable unset?" in cli("list", "--data", "", code=2).stderr
    assert "--set" in cli("eval", "mini", "-r", "bm25", "--set", "k1", code=2).stderr


def test_missing_data_is_3(cli: Cli, tmp_path: Path) -> None:
    done = cli("eval", "mini", "-r", "bm25", "--data", tmp_path, code=3)
    assert f"m2kr build mini --data {tmp_path}" in done.stderr
    cli("verify", "--data", tmp_path, code=3)


def test_refused_input_is_1_and_says_file_line_and_field(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b"}\n')
    (tmp_path / "q.jsonl").write_text('{"id": "q", "question": "?"}\n')
    files = ("--passages", "p.jsonl", "--queries", "q.jsonl", "--data", tmp_path)
    done = cli("import", "mine", *files, "--json", code=1, cwd=tmp_path)
    error = only_json(done.stdout)
    assert error["where"].startswith("p.jsonl, line 2")
    assert "passage_content" in str(error)
    assert "p.jsonl, line 2" in done.stderr


def test_interrupts_and_bugs_have_their_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    def broken() -> None:
        raise ZeroDivisionError

    def unreachable() -> None:
        raise UpstreamError("no address gave the file")

    for command, code in ((interrupted, 130), (broken, 70), (unreachable, 4)):
        with pytest.raises(SystemExit) as left:
            guarded(command)()
        assert left.value.code == code
    assert "ZeroDivisionError" in capsys.readouterr().err
    with pytest.raises(typer.Exit):
        guarded(lambda: (_ for _ in ()).throw(typer.Exit(1)))()


def test_build_plan_touches_nothing(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "data"
    plan = only_json(cli("build", "mini", "--plan", "--json", "--data", root).stdout)
    files = plan["sources"][0]["files"]
    assert {f["state"] for f in files} == {"missing"}
    assert plan["to_fetch_bytes"] == sum(f["size"] for f in files) > 10**6
    assert all(f["licence"] and f["url"] for f in files)
    assert not root.exists()
    told = cli("build", "mini", "--plan", "--data", root).stdout
    assert "photos.zip" in told
    assert "nothing to fetch: its files are inside the package" in told
    assert "missing" not in told


def test_build_again_limit_and_json(cli: Cli, tmp_path: Path, mini_root: Path) -> None:
    shutil.copytree(mini_root, tmp_path / "d")
    again = only_json(cli("build", "mini", "--json", "--data", tmp_path / "d").stdout)
    assert not again["built"][0]["fresh"]
    args = ("build", "mini", "--limit", "20", "--offline", "--data", tmp_path / "d")
    assert "mini-limit20" in cli(*args).stdout
    refused = cli("eval", "mini", "-r", "random", "--data", tmp_path / "d", code=2)
    assert "several editions" in refused.stderr
    assert "--edition" in refused.stderr


def test_list_and_info(cli: Cli, mini_root: Path) -> None:
    listed = only_json(cli("list", "--json", "--data", mini_root).stdout)
    assert {s["source"]: s["editions"] for s in listed["sources"]}["mini"] == ["mini"]
    info = only_json(cli("info", "MINI", "--json", "--data", mini_root).stdout)
    assert all(
        c["doc"] for kind in ("queries", "passages") for c in info["source"]["columns"][kind]
    )
    assert info["editions"]["mini"]["splits"]["test"]["queries"] > 300
    assert "not M2KR data" in cli("info", "mini", "--data", mini_root).stdout


def test_doctor_says_what_is_there_and_never_shows_the_token(
    cli: Cli, mini_root: Path, monkeypatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    done = cli("doctor", "--json", "--data", mini_root)
    doctor = only_json(done.stdout)
    assert doctor["devices"]["cpu"].startswith("usable")
    test = next(r for r in doctor["built"] if r["split"] == "test")
    assert test["found"] == test["images"] > 50
    assert doctor["token"] == "present (HF_TOKEN)"
    assert doctor["search_kernel"] == kernel_state()
    assert "hf_secret" not in done.stdout + done.stderr


def test_verify_passes_and_finds_damage(cli: Cli, mini_root: Path, tmp_path: Path) -> None:
    assert only_json(cli("verify", "--json", "--data", mini_root).stdout)["ok"]
    shutil.copytree(mini_root, tmp_path / "d")
    shard = tmp_path / "d/mini/MINI_passages/test_passages/data-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-64])
    damaged = only_json(cli("verify", "mini", "--json", "--data", tmp_path / "d", code=1).stdout)
    assert not damaged["ok"]
    assert damaged["problems"][0]["table"] == "MINI_passages/test_passages"


def test_eval_shows_saves_and_replays(cli: Cli, mini_root: Path, tmp_path: Path) -> None:
    common = ("--data", mini_root, "--out", tmp_path / "out")
    text = cli("eval", "mini", "-r", "bm25", "-r", "oracle", "--split", "valid", *common).stdout
    assert "R@5" in text
    assert "not comparable with published numbers" in text
    (run,) = (tmp_path / "out").glob("mini.valid.bm25.*.run.parquet")
    (saved,) = (tmp_path / "out").glob("mini.valid.bm25.*.json")
    first = json.loads(saved.read_text())
    args = ("eval", "mini", "-r", f"run:{run}", "--split", "validation", "--json", *common)
    replayed = only_json(cli(*args).stdout)["results"][0]
    assert replayed["metrics"] == first["metrics"]
    assert replayed["run_sha256"] == first["run_sha256"]
    (saved,) = (tmp_path / "out").glob("mini.valid.oracle.*.json")
    oracle = json.loads(saved.read_text())
    assert oracle["metrics"]["hit_rate@1"]["value"] == 1.0


def test_settings_reach_the_retriever_they_name(cli: Cli, mini_root: Path, tmp_path: Path) -> None:
    common = ("--split", "valid", "--data", mini_root, "--out", tmp_path)
    both = ("-r", "bm25", "-r", "random", "--set", "bm25.k1=0.9", "--set", "random.seed=3")
    done = only_json(cli("eval", "mini", *both, *common, "--json").stdout)["results"]
    assert done[0]["retriever"]["settings"]["k1"] == 0.9
    assert done[1]["retriever"]["settings"]["seed"] == 3


def test_a_bare_recall_is_refused_everywhere(cli: Cli, mini_root: Path) -> None:
    done = cli("eval", "mini", "-r", "bm25", "--metrics", "recall@5", "--data", mini_root, code=2)
    assert "hit_rate@5" in done.stderr
    assert "set_recall@5" in done.stderr


def test_the_shell_completes_commands() -> None:
    shell = {"_M2KR_COMPLETE": "complete_bash", "COMP_WORDS": "m2kr ev", "COMP_CWORD": "1"}
    program = Path(sys.executable).with_name("m2kr")
    done = subprocess.run(
        [program], capture_output=True, text=True, check=True, env=os.environ | shell
    )
    assert done.stdout.split() == ["eval"]
