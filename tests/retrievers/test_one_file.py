"""A retriever is one file: the README's own example, as a user's file and as a shipped one."""

import os
import re
import subprocess
import sys
from pathlib import Path

from support.toys import toy_split

from m2kr.evaluation.harness import evaluate_split
from m2kr.retrievers import create

TESTS = Path(__file__).parents[1]
README = (TESTS.parent / "README.md").read_text(encoding="utf-8")


def example() -> str:
    """The README's block ``my_retriever.py``."""
    (block,) = re.findall(r"^```python\n# my_retriever\.py\n(.*?)^```", README, flags=re.M | re.S)
    return str(block)


def test_the_readmes_retriever_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "my_retriever.py"
    path.write_text(example(), encoding="utf-8")
    users = evaluate_split(toy_split(), create(f"{path}:Letters"), k=3)  # type: ignore[arg-type]
    assert users.value("hit_rate@1") > 0
    # In the folder of the shipped ones, it is known by the file's name.
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "letters.py").write_text(f"{example()}\n\nRETRIEVER = Letters\n", encoding="utf-8")
    code = (
        "import m2kr.retrievers as retrievers\n"
        f"retrievers.__path__.append({str(shipped)!r})\n"
        "from support.toys import toy_split\n"
        "from m2kr.evaluation.harness import evaluate_split\n"
        "result = evaluate_split(toy_split(), retrievers.create('letters'), k=3)\n"
        "print('letters' in retrievers.names(), result.value('hit_rate@1'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert done.stdout.split() == ["True", str(users.value("hit_rate@1"))], done.stderr
