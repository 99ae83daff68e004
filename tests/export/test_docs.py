"""Pages that are written or run: docs/sources from the specs, docs/your-own-data.md line by line."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import m2kr

ROOT = Path(__file__).parents[2]


def test_source_pages_are_as_the_specs_say():
    spec = importlib.util.spec_from_file_location("source_pages", ROOT / "tools/source_pages.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    texts = tool.pages()
    assert tool.main(check=True) == 0, "python tools/source_pages.py"
    assert set(texts) == {path.name for path in (ROOT / "docs/sources").iterdir()}
    assert "114,809" in texts["okvqa.md"]


@pytest.mark.slow
def test_every_block_of_the_page_on_own_data_runs(tmp_path, cli, monkeypatch):
    page = (ROOT / "docs/your-own-data.md").read_text(encoding="utf-8")
    files = re.search(r"^```json\n(.*?)^```", page, flags=re.M | re.S)[1]
    for block in files.strip().split("\n\n"):
        name, _, text = block.partition("\n")
        (tmp_path / name).write_text(f"{text}\n", encoding="utf-8")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/bar.jpg")
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    for language, text in re.findall(r"^```(bash|python)\n(.*?)^```", page, flags=re.M | re.S):
        if language == "python":
            text = text.replace('name="from-python"', f'name="from-python", data={str(data)!r}')
            exec(compile(text, "docs/your-own-data.md", "exec"), {})
            continue
        for line in text.splitlines():
            cli(*shlex.split(line)[1:], "--data", data, cwd=tmp_path)
    (run,) = (tmp_path / "for-the-judge").glob("*.run.parquet")
    judged = m2kr.evaluate("metals.judge.parquet", m2kr.Run.load(run))[0]
    assert judged.metrics == m2kr.evaluate("metals", m2kr.Run.load(run), data=data)[0].metrics
    for message in re.search(r"^```text\n(.*?)^```", page, flags=re.M | re.S)[1].split("\n\n"):
        wrong = '"answers": "four;4"' if "four" in message else '"positives": ["iron"]'
        (tmp_path / "queries.jsonl").write_text(f'{{"id": "q1", "question": "?", {wrong}}}\n')
        words = ("import", "w", "--passages", "passages.jsonl", "--queries", "queries.jsonl")
        said = cli(*words, "--data", data, code=1, cwd=tmp_path).stderr
        assert message.strip() in said
