"""The benchmark of exact search on a GPU runs, in small, without one."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

SMALL = ["--passages=200", "--tokens=40", "--queries=4", "--rows=40", "--k=10", "--device=cpu"]
SMALL += ["--memory=0.05"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("gpu_exact", Path(__file__).with_name("gpu_exact.py"))
    assert spec is not None
    assert spec.loader is not None
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("least", "code"), [("0", 0), ("1e9", 1)])
def test_it_runs_and_says_whether_enough_was_reached(
    script: ModuleType, capsys: pytest.CaptureFixture[str], least: str, code: int
) -> None:
    assert script.main([*SMALL, "--least", least]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["right"]
    assert found["checked"] == 4
    plain = found["search"]["fp16"]
    assert 10 <= plain["scored a query"] < 40
    # Both are shares of one peak, of the same FLOPs.
    work = 2 * 128 * found["tokens"] * 40 * 4
    assert plain["of peak"] == pytest.approx(
        work / plain["seconds"] / found["peak tflops"] / 1e12, rel=1e-6
    )
    assert found["kernels"]["fp16"]["of peak"] > 0


@pytest.mark.slow
def test_a_wrong_answer_ends_it_with_1(
    script: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = script.search.search_exactly

    def reversed_(*args: object, **options: object) -> object:
        numbers, scores, stats = search(*args, **options)
        return numbers[:, ::-1], scores, stats

    monkeypatch.setattr(script.search, "search_exactly", reversed_)
    assert script.main([*SMALL, "--least", "0"]) == 1
    assert not json.loads(capsys.readouterr().out)["right"]
