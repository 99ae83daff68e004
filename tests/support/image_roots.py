"""Image roots of every kind with the same few photos, for tests of what reads them."""

import io
import random
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

NAMES = [f"{folder}photo {i}.png" for i, folder in enumerate(("", "a/", "a/b/", "ü/", "z/" * 40))]


def picture(seed: int, size: tuple[int, int] = (7, 5), format_: str = "PNG") -> bytes:
    pixels = random.Random(seed).randbytes(size[0] * size[1] * 3)
    out = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(out, format_)
    return out.getvalue()


FILES = {name: picture(i) for i, name in enumerate(NAMES)}


def make_folder(at: Path) -> Path:
    for name, data in FILES.items():
        (at / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (at / "folder" / name).write_bytes(data)
    return at / "folder"


def make_zip(at: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(at / "photos.zip", "w", method) as archive:
        archive.writestr("a/", b"")
        for name, data in FILES.items():
            archive.writestr(name, data)
    return at / "photos.zip"


def make_deflated(at: Path) -> Path:
    return make_zip(at, zipfile.ZIP_DEFLATED)


def make_zip64(at: Path) -> Path:
    """What a zip above 4 GB looks like: sizes and offsets in 64-bit fields."""
    body, directory, wide = b"", b"", 0xFFFFFFFF
    for name, data in FILES.items():
        raw, crc = name.encode(), zlib.crc32(data)
        extra = struct.pack("<2H3Q", 1, 24, len(data), len(data), len(body))
        versions = (45, 0x0800, 0, 0, 0x21, crc)
        sizes = (len(data), len(data), len(raw), 0)
        body += struct.pack("<4s5H3L2H", b"PK\3\4", *versions, *sizes) + raw + data
        tail = (wide, wide, len(raw), len(extra), 0, 0, 0, 0, wide)
        head = struct.pack("<4s7H", b"PK\1\2", 45, *versions[:5], 0)[:16]
        directory += head + struct.pack("<3L5H2L", crc, *tail) + raw + extra
    n, size, start = len(FILES), len(directory), len(body)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, n, n, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, wide, wide, 0)
    (at / "photos.zip").write_bytes(body + directory + end64 + locator + end)
    with zipfile.ZipFile(at / "photos.zip") as archive:  # the standard library agrees
        assert {i.filename: archive.read(i) for i in archive.infolist()} == FILES
    return at / "photos.zip"


def make_zip_parts(at: Path) -> Path:
    raw = make_deflated(at).read_bytes()
    for number, start in enumerate(range(0, len(raw), 300), 1):
        (at / f"photos.zip.{number:03d}").write_bytes(raw[start : start + 300])
    (at / "photos.zip").unlink()
    return at / "photos.zip.001"


def make_tar(at: Path, format_: int = tarfile.PAX_FORMAT, dot: str = "./") -> Path:
    with tarfile.open(at / "photos.tar", "w", format=format_) as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(dot + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return at / "photos.tar"


def make_gnu_tar(at: Path) -> Path:
    return make_tar(at, tarfile.GNU_FORMAT, "")


def table() -> pa.Table:
    return pa.table({"img_path": list(FILES), "bytes": pa.array(FILES.values(), pa.binary())})


def make_parquet(at: Path) -> Path:
    pq.write_table(table(), at / "photos.parquet", row_group_size=2)
    return at / "photos.parquet"


def make_dataset_parquet(at: Path) -> Path:
    rows = [{"bytes": data, "path": name} for name, data in FILES.items()]
    pq.write_table(pa.table({"image": rows, "label": range(len(rows))}), at / "photos.parquet")
    return at / "photos.parquet"


def make_arrow_file(at: Path) -> Path:
    with pa.ipc.new_file(at / "photos.arrow", table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)
    return at / "photos.arrow"


def make_arrow_stream(at: Path) -> Path:
    with pa.ipc.new_stream(at / "photos.arrow", table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)
    return at / "photos.arrow"


MAKERS = [
    make_folder,
    make_zip,
    make_deflated,
    make_zip64,
    make_zip_parts,
    make_tar,
    make_gnu_tar,
    make_parquet,
    make_dataset_parquet,
    make_arrow_file,
    make_arrow_stream,
]


every_root = pytest.mark.parametrize("make", MAKERS, ids=lambda m: m.__name__[5:])
