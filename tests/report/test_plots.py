"""The plots that ``m2kr report --out`` writes."""

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from support.reports import HOSTILE, big_results, hostile_results

from m2kr.errors import MissingError


@pytest.mark.slow
def test_every_plot_is_there_twice_and_can_be_read(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from m2kr.report.plots import write_plots

    results = big_results(12, 3, 100)
    written = write_plots(results, tmp_path / "plots")
    names = {"scores", "radar"} | {
        f"source{n}-test.{kind}" for n in range(3) for kind in ("curve", "cost")
    }
    assert {path.name for path in written} == {
        f"{n}.{form}" for n in names for form in ("png", "svg")
    }
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert min(image.size) > 400
                # Something is drawn, and not in black and white alone.
                colours = image.convert("RGB").getcolors(1 << 20)
                assert colours is not None and len(colours) > 50
        else:
            ElementTree.parse(path)


@pytest.mark.slow
def test_names_are_no_formulas_and_no_markup(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from dataclasses import replace

    from m2kr.report.plots import write_plots

    odd = ["$\\frac{", "_hidden", HOSTILE]
    results = [
        replace(result, retriever=result.retriever | {"name": name}, source="a/b <c>")
        for name, result in zip(odd, big_results(3, 1, 10), strict=True)
    ]
    written = write_plots(results, tmp_path / "plots")
    again = write_plots(results, tmp_path / "again")
    for path, other in zip(written, again, strict=True):
        assert path.parent == tmp_path / "plots" and path.stat().st_size > 1000
        assert b"<script" not in path.read_bytes()
        assert path.read_bytes() == other.read_bytes(), path.name


def test_without_matplotlib_the_install_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m2kr.report.plots import write_plots

    hidden: Any = None
    monkeypatch.setitem(sys.modules, "matplotlib", hidden)
    with pytest.raises(MissingError, match=r"pip install 'm2kr\[report\]'"):
        write_plots(hostile_results(tmp_path), tmp_path / "plots")
