"""Generated stand-ins of upstream files, in their true formats and at any size, the same each time."""

import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from isal import igzip

# The order in which the members lie in Microsoft's file.
MSMARCO_MEMBERS = (
    "collection.tsv",
    "qrels.dev.small.tsv",
    "qrels.train.tsv",
    "queries.dev.small.tsv",
    "queries.dev.tsv",
    "queries.eval.small.tsv",
    "queries.train.tsv",
    "qrels.dev.tsv",
)
_BLOCK = 50_000
_LETTERS = np.frombuffer(b"etaoinshrdlucmfwygpbvkxqjz", np.uint8)
# Queries of each split for 1,000 passages, as upstream has them; some have several right passages.
_PER_MILLE = {"train": 91.4, "dev": 11.43, "dev.small": 0.79, "eval.small": 0.77}


def write_msmarco(path: Path, passages: int, *, seed: int = 0) -> None:
    """Writes a ``collectionandqueries.tar.gz`` of so many passages, about 110 MB a million.

    Passage and query ids are numbers from 0. Queries of ``train`` and ``dev`` have one or two right
    passages each; ``dev.small`` is a part of ``dev``, and ``eval.small`` has no judgements.
    """
    filler = _filler(seed)
    texts = _small_members(filler, passages, seed)
    aside = path.with_name(path.name + ".tmp")
    with (
        igzip.IGzipFile(str(aside), "wb", compresslevel=3, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT, bufsize=1 << 20) as tar,
    ):
        for name in MSMARCO_MEMBERS:
            info = tarfile.TarInfo(name)
            if name == "collection.tsv":
                info.size = sum(map(len, _collection(filler, passages, seed)))
                tar.addfile(info, _Joined(_collection(filler, passages, seed)))
            else:
                info.size = len(texts[name])
                tar.addfile(info, BytesIO(texts[name]))
    aside.replace(path)


def cached_msmarco(folder: Path, passages: int, *, seed: int = 0) -> Path:
    """The file `write_msmarco` writes, kept in a folder from one test to the next."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"msmarco-{passages}-{seed}.tar.gz"
    if not path.exists():
        write_msmarco(path, passages, seed=seed)
    return path


def _filler(seed: int) -> bytes:
    """40 MB of words with English's skew, from which passages are cut: far more than gzip's window."""
    rng = np.random.default_rng([seed, 1])
    weights = 1 / np.arange(1, len(_LETTERS) + 1)
    words = []
    for rank in range(60_000):
        size = int(np.clip(rng.normal(2.5 + 0.45 * np.log2(rank + 1), 1.5), 1, 14))
        letters = rng.choice(_LETTERS, size, p=weights / weights.sum())
        words.append(letters.tobytes())
    for rank in range(0, len(words), 50):
        words[rank] = words[rank].capitalize() + b","
    for rank, odd in ((90, b'"'), (600, "é".encode()), (900, "—".encode()), (4_000, b"5'10\"")):
        words[rank] = odd
    # Phrases make it as compressible as text.
    phrases = [
        b" ".join(map(words.__getitem__, _skewed(rng, len(words), 2.0, size).tolist()))
        for size in rng.integers(1, 6, 60_000)
    ]
    drawn = _skewed(rng, len(phrases), 8.0, 2_500_000)
    return b" ".join(map(phrases.__getitem__, drawn.tolist()))


def _skewed(rng: np.random.Generator, things: int, offset: float, count: int) -> np.ndarray:
    """Numbers below ``things``, the n-th as often as 1 / (n + offset)."""
    top = np.log1p(things / offset)
    return (offset * np.expm1(rng.random(count) * top)).astype(int).clip(max=things - 1)


def _collection(filler: bytes, passages: int, seed: int) -> Iterator[bytes]:
    """The lines of ``collection.tsv``, many at a time: about 335 characters, from 60 to 1,200."""
    for start in range(0, passages, _BLOCK):
        rng = np.random.default_rng([seed, 2, start])
        n = min(_BLOCK, passages - start)
        lengths = np.clip(rng.gamma(5.0, 67.0, n), 60, 1_200).astype(int)
        places = rng.integers(0, len(filler) - 2_000, n)
        lines = []
        for i, place, length in zip(range(n), places.tolist(), lengths.tolist(), strict=True):
            # Cut at blanks, so that no letter of several bytes is cut.
            first = filler.index(b" ", place) + 1
            last = filler.index(b" ", first + length - 8)
            lines.append(b"%d\t%s.\n" % (start + i, filler[first:last]))
        yield b"".join(lines)


def _small_members(filler: bytes, passages: int, seed: int) -> dict[str, bytes]:
    rng = np.random.default_rng([seed, 3])
    counts = {split: max(2, int(passages * x / 1000)) for split, x in _PER_MILLE.items()}
    counts["dev.small"] = min(counts["dev.small"], counts["dev"])
    ids = rng.permutation(sum(counts.values()) + 1_000).tolist()
    files: dict[str, bytes] = {}
    for split in ("train", "dev", "eval.small"):
        own, ids = ids[: counts[split]], ids[counts[split] :]
        queries, qrels = [], []
        for i, place in zip(own, rng.integers(0, len(filler) - 2_000, len(own)), strict=True):
            first = filler.index(b" ", place) + 1
            text = filler[first : filler.index(b" ", first + 25)]
            queries.append(b"%d\t%s\n" % (i, text))
            right = {int(p) for p in rng.integers(0, passages, 1 + (i % 16 == 0))}
            qrels.append(b"".join(b"%d\t0\t%d\t1\n" % (i, p) for p in sorted(right)))
        small = counts["dev.small"]
        if split == "dev":
            files["queries.dev.small.tsv"] = b"".join(queries[:small])
            files["qrels.dev.small.tsv"] = b"".join(qrels[:small])
        files[f"queries.{split}.tsv"] = b"".join(queries)
        files[f"qrels.{split}.tsv"] = b"".join(qrels)
    return files


class _Joined:
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._block = BytesIO()

    def read(self, size: int) -> bytes:
        data = self._block.read(size)
        while len(data) < size and (block := next(self._blocks, None)) is not None:
            self._block = BytesIO(block)
            data += self._block.read(size - len(data))
        return data
