"""How a file is packed, by its first bytes: names say it wrongly, or not at all."""

_BEGINS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
LONGEST = max(map(len, _BEGINS))


def packed_by(begin: bytes) -> str:
    """What packed a file that begins with these bytes; empty if nothing known did."""
    return next((name for magic, name in _BEGINS.items() if begin.startswith(magic)), "")
