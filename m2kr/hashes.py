"""Hashes of files and of names."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read piece by piece."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def name_digest(name: str) -> bytes:
    """16 bytes that stand for a name; no two of any set that there is have the same."""
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()
