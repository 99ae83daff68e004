"""Glosses from WordNet 3.0 (Princeton University; see WORDNET_LICENSE)."""

import hashlib
import re
from dataclasses import dataclass

# Lexicographer files that describe what photos can show: animals, artefacts, natural objects.
VISIBLE = {"05", "06", "17"}


@dataclass(frozen=True, slots=True)
class Synset:
    """One meaning: its offset (the id), names, parents and gloss."""

    offset: str
    file: str
    names: tuple[str, ...]
    parents: tuple[str, ...]
    gloss: str


class WordNet:
    """The noun synsets of WordNet's ``data.noun`` and ``index.noun``."""

    def __init__(self, data: str, index: str) -> None:
        self.synsets = {s.offset: s for s in map(_synset, _lines(data))}
        self.senses: dict[str, list[str]] = {}
        for line in _lines(index):
            parts = line.split()
            count = int(parts[2])
            self.senses[parts[0]] = parts[-count:]
        self.children: dict[str, list[str]] = {}
        for synset in self.synsets.values():
            for parent in synset.parents:
                self.children.setdefault(parent, []).append(synset.offset)

    def find(self, name: str) -> Synset:
        """The synset of ``word``, or of ``word#n`` for its n-th sense."""
        word, _, sense = name.partition("#")
        return self.synsets[self.senses[word.lower()][int(sense or 1) - 1]]

    def lineage(self, synset: Synset) -> list[str]:
        """The offsets of a synset, its parents and its grandparents."""
        above = list(synset.parents)
        above += [g for p in above for g in self.synsets[p].parents]
        return [synset.offset, *above]

    def neighbours(self, synset: Synset, count: int) -> list[Synset]:
        """Up to ``count`` siblings and children with telling glosses, by a hash of their offset."""
        near = {c for p in synset.parents for c in self.children[p]}
        near |= set(self.children.get(synset.offset, ()))
        usable = [
            self.synsets[o]
            for o in near - {synset.offset}
            if self.synsets[o].file in VISIBLE and len(self.synsets[o].gloss.split()) >= 7
        ]
        return sorted(usable, key=lambda s: hashlib.sha256(s.offset.encode()).digest())[:count]


def passage(synset: Synset) -> tuple[str, str]:
    """Title and text of a synset: its names and its gloss as one sentence."""
    title = synset.names[0][0].upper() + synset.names[0][1:]
    other = ", ".join(synset.names[1:4])
    text = f"{title}, also called {other}: {synset.gloss}" if other else f"{title}: {synset.gloss}"
    return title, text.rstrip(".;") + "."


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("  ")]


def _synset(line: str) -> Synset:
    head, _, gloss = line.partition(" | ")
    parts = head.split()
    count = int(parts[3], 16)
    names = tuple(parts[4 + 2 * i].replace("_", " ") for i in range(count))
    rest = parts[4 + 2 * count :]
    pointers = [rest[1 + 4 * i : 5 + 4 * i] for i in range(int(rest[0]))]
    parents = tuple(p[1] for p in pointers if p[0] in ("@", "@i"))
    return Synset(parts[0], parts[1], names, parents, re.sub(r'[;:] ".*$', "", gloss.strip()))
