"""Instruction templates seen in the release, kept beside the data: they replace our own lists.

``<data root>/instructions.json``: source name -> ``{"templates": [[text, rows], …], "origin": …}``.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from m2kr import atomic
from m2kr.errors import InputError
from m2kr.instructions import TemplateList, templates_of
from m2kr.locks import hold

FILE = "instructions.json"
MOST = 200  # more distinct instructions than that are no list of templates


def registered_templates(source: str, root: Path) -> TemplateList | None:
    """The instructions of a source: as seen in the release, else the built-in list.

    Where both hold the same texts it is the built-in list, which knows how often each is taken.

    Raises:
        InputError: the registry file is damaged.
    """
    entry, own = _read(root / FILE).get(source), templates_of(source)
    if entry is None:
        return own
    texts = tuple(text for text, _ in entry["templates"])
    if own is not None and set(own.templates) == set(texts):
        texts = own.templates
    return TemplateList(source, texts, (source,), entry["origin"], "high")


def store_templates(source: str, seen: Mapping[str, int], origin: str, root: Path) -> bool:
    """Adds the distinct instructions of a source's release to the registry.

    Args:
        source: Source name.
        seen: Rows by instruction.
        origin: Where they were seen.
        root: Data root.

    Returns:
        Whether they were stored: not if they are too many to be templates.
    """
    counts = Counter({text: n for text, n in seen.items() if text.strip()})
    if not counts or len(counts) > MOST:
        return False
    path = root / FILE
    with hold(root / f".{FILE}.lock", str(path)):
        entries = _read(path)
        ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        entries[source] = {"templates": [list(pair) for pair in ranked], "origin": origin}
        atomic.write_json(path, entries, alone=True)
    return True


def _read(path: Path) -> dict[str, dict]:  # type: ignore[type-arg]
    try:
        entries = json.loads(path.read_bytes())
        for entry in entries.values():
            if not (entry["templates"] and isinstance(entry["origin"], str)):
                raise ValueError("an entry without templates or origin")
            for text, rows in entry["templates"]:
                if not isinstance(text, str) or not isinstance(rows, int):
                    raise ValueError("a template that is no [text, rows] pair")
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"not a registry of instructions: {error}",
            where=str(path),
            fix="delete it; a build by --route release writes it again",
        ) from error
    return dict(entries)
