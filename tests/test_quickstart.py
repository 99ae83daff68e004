"""The notebook docs/quickstart.ipynb: what it shows is what comes of running it."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "quickstart.ipynb"


def texts(notebook: dict) -> list[list[str]]:
    """The plain text of each code cell's outputs, without what another machine does otherwise."""
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        shown.append([])
        for output in cell["outputs"]:
            if output.get("name") == "stderr":  # bars, and what libraries say of the machine
                continue
            text = "".join(output.get("data", {}).get("text/plain", output.get("text", "")))
            if "wins/ties/losses" in text:  # compare's legend may say it in other words
                text = text.partition("Systems that")[0]
            text = re.sub(r"/\S+/mini\b", "FOLDER", text)
            text = re.sub(r"\.[0-9a-f]{8}\.json", ".HASH.json", text)
            shown[-1].append(text)
    return shown


def test_it_is_small_and_names_no_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 150_000
    assert not re.search(r"/(tmp|root|work)/", text)


@pytest.mark.slow
def test_its_outputs_are_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    monkeypatch.setenv("M2KR_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("COLUMNS", raising=False)  # xdist sets it
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    committed = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    assert texts(notebook) == texts(committed)
    assert (
        sum(
            "text/html" in o.get("data", {})
            for c in committed["cells"]
            for o in c.get("outputs", ())
        )
        >= 4
    )
