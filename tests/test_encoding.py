"""Every text file is read and written as UTF-8, whatever the platform's default is."""

import ast
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).parents[1]
OURS = {"atomic", "files"}  # modules whose read_text and write_text are UTF-8 by themselves


def unnamed(source: str) -> Iterator[int]:
    """Lines of calls that read or write text and don't say in which encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        named = {keyword.arg for keyword in node.keywords}
        texts = {
            k.arg for k in node.keywords if isinstance(k.value, ast.Constant) and k.value.value
        }
        of = node.func
        name = of.attr if isinstance(of, ast.Attribute) else getattr(of, "id", "")
        owner = getattr(of.value, "id", "") if isinstance(of, ast.Attribute) else ""
        modes = [a.value for a in node.args[:2] if isinstance(a, ast.Constant)]
        modes += [getattr(k.value, "value", "") for k in node.keywords if k.arg == "mode"]
        mode = next((m for m in modes if isinstance(m, str) and m and set(m) <= set("rwaxbt+")), "")
        reads = (
            (
                isinstance(of, ast.Attribute)
                and name in {"read_text", "write_text"}
                and owner not in OURS
            )
            or (name == "open" and isinstance(of, ast.Name) and "b" not in mode)
            or (name == "open" and mode and "b" not in mode and owner not in {"os", "tarfile"})
            or (name in {"run", "Popen", "check_output"} and texts & {"text", "universal_newlines"})
            or name == "TextIOWrapper"
        )
        positional = name == "read_text" and node.args
        if reads and "encoding" not in named and not positional:
            yield node.lineno


def test_every_text_is_utf8() -> None:
    wrong = [
        f"{path.relative_to(REPO)}:{line}"
        for folder in ("m2kr", "builders", "leaderboard")
        for path in sorted((REPO / folder).rglob("*.py"))
        for line in unnamed(path.read_text(encoding="utf-8"))
    ]
    assert not wrong


def test_the_check_itself() -> None:
    bad = "p.read_text()\np.write_text(x)\nopen(x)\np.open('w')\nrun(c, text=True)\nio.TextIOWrapper(f)"
    assert list(unnamed(bad)) == [1, 2, 3, 4, 5, 6]
    good = (
        "p.read_text(encoding='utf-8')\np.read_text('utf-8')\natomic.write_text(p, x)\n"
        "open(x, 'rb')\np.open('w', encoding='utf-8')\nTokenStore.open(p)\nrun(c, text=False)\n"
    )
    assert list(unnamed(good)) == []
