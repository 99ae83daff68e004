"""Measures the structure of the library: ``house.py [ROOT] [--json] [--reach MODULE]``.

Lines and modules; modules that one other reads; circles of imports, lazy ones included, and with those for
types; pairs of folders that import each other; public names that several modules define; options of the
command line. ``--reach m2kr.retrievers.bm25`` counts what one module pulls in. Reads code as text.
"""

import ast
import collections
import json
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGES = {"m2kr": "m2kr", "builders": "m2kr_builders", "leaderboard": "m2kr_leaderboard"}
Edges = dict[tuple[str, str], set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Files by module name."""
    files = {}
    for folder, package in PACKAGES.items():
        for path in sorted((root / folder).rglob("*.py")):
            name = ".".join([package, *path.relative_to(root / folder).with_suffix("").parts])
            files[name.removesuffix(".__init__")] = path
    return files


def imports(files: dict[str, Path]) -> Edges:
    """Importer and imported with the kinds of their imports: top, lazy, type."""
    edges: Edges = collections.defaultdict(set)

    def note(node: ast.AST, importer: str, kind: str) -> None:
        names = []
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                depth = node.level - (files[importer].name == "__init__.py")
                parts = importer.split(".")
                base = ".".join([*parts[: len(parts) - depth], *filter(None, [base])])
            names = [
                f"{base}.{a.name}" if f"{base}.{a.name}" in files else base for a in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name in files and name != importer:
                edges[importer, name].add(kind)

    def walk(node: ast.AST, importer: str, kind: str) -> None:
        for child in ast.iter_child_nodes(node):
            note(child, importer, kind)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for part in child.body:
                    note(part, importer, "type")
                continue
            lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            walk(child, importer, "lazy" if lazy and kind == "top" else kind)

    for name, path in files.items():
        walk(ast.parse(path.read_text(encoding="utf-8")), name, "top")
    return edges


def reached(start: str, pairs: Iterable[tuple[str, str]]) -> set[str]:
    """A module and all that it imports, directly or not."""
    graph = collections.defaultdict(set)
    for importer, imported in pairs:
        graph[importer].add(imported)
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph[module]
    return seen


def circles(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of modules that reach each other, the largest first."""
    pairs = list(pairs)
    reach = {name: reached(name, pairs) for name in names}
    groups = {
        tuple(sorted(other for other in seen if name in reach[other]))
        for name, seen in reach.items()
    }
    return sorted((list(group) for group in groups if len(group) > 1), key=len, reverse=True)


def measure(root: Path) -> dict[str, Any]:
    """All figures."""
    files = modules(root)
    edges = imports(files)
    texts = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    lines = {name: len(text.splitlines()) for name, text in texts.items()}
    full = {name: count for name, count in lines.items() if count > 2}
    running = [pair for pair, kinds in edges.items() if kinds - {"type"}]
    readers = collections.Counter(imported for _, imported in edges)
    folder = {name: path.parent.relative_to(root).as_posix() for name, path in files.items()}
    plain = {name for name, path in files.items() if path.name != "__init__.py"}
    across = {
        (folder[a], folder[b])
        for a, b in running
        if {a, b} <= plain and folder[a] != folder[b] and "m2kr" not in (folder[a], folder[b])
    }
    owners = collections.defaultdict(list)
    for name in sorted(plain):
        for node in ast.parse(texts[name]).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                owners[node.name].append(name)
    commands = [text for name, text in texts.items() if name.startswith("m2kr.cli")]
    return {
        "lines": sum(lines.values()),
        "modules": len(full),
        "median lines": statistics.median(full.values()),
        "modules with one reader": sorted(name for name in full if readers[name] == 1),
        "circles at run time": circles(files, running),
        "circles, types counted": circles(files, edges),
        "folders both ways": sorted({tuple(sorted(p)) for p in across if p[::-1] in across}),
        "public names in several modules": {
            name: places
            for name, places in sorted(owners.items())
            if len(places) > 1 and name != "command"  # every verb's
        },
        "options": sum(len(re.findall(r"\btyper\.Option\(", text)) for text in commands),
    }


def main(words: list[str]) -> None:
    """Prints the figures."""
    module = words.pop(words.index("--reach") + 1) if "--reach" in words else None
    root = Path(next((word for word in words if not word.startswith("--")), ".")).resolve()
    if module:
        files = modules(root)
        pulled = reached(module, [p for p, kinds in imports(files).items() if kinds - {"type"}])
        count = sum(len(files[name].read_text(encoding="utf-8").splitlines()) for name in pulled)
        sys.stdout.write(f"{module}: {len(pulled)} modules, {count} lines\n")
        return
    figures = measure(root)
    if "--json" in words:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        shown = len(value) if isinstance(value, dict | list) else value
        sys.stdout.write(f"{name}: {shown}\n")
        if isinstance(value, dict | list):
            for item in value.items() if isinstance(value, dict) else value:
                text = item if isinstance(item, str) else " ".join(map(str, item))
                sys.stdout.write(f"    {text}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
