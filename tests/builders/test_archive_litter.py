"""Archives as macOS makes them: builders read the data and not what lies beside it."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from servers.faulty_server import FaultyServer
from support.golden_tables import make
from support.upstream_fixture import gzipped, served_files


def littered(archive: bytes) -> bytes:
    """The same archive with a resource fork before and behind each member."""
    buffer = io.BytesIO()
    fork = b"\0\5\x16\7\0\2\0\0Mac OS X"
    if archive.startswith(b"PK"):
        with (
            zipfile.ZipFile(io.BytesIO(archive)) as old,
            zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for name in old.namelist():
                new.writestr(f"__MACOSX/._{name}", fork)
                new.writestr(name, old.read(name))
                new.writestr(f"._{name}", fork)
        return buffer.getvalue()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as old_tar,
        tarfile.open(fileobj=buffer, mode="w") as new_tar,
    ):
        for member in old_tar:
            for name in (f"./._{member.name}", member.name, f"__MACOSX/{member.name}"):
                own = name == member.name
                file = old_tar.extractfile(member) if own else io.BytesIO(fork)
                info = tarfile.TarInfo(name)
                info.size = member.size if own else len(fork)
                new_tar.addfile(info, file)
    return gzipped(buffer.getvalue())


@pytest.mark.parametrize(
    "source",
    ["evqa", *(pytest.param(name, marks=pytest.mark.slow) for name in ("okvqa", "msmarco"))],
)
def test_archives_with_resource_forks_give_the_same_tables(source: str, tmp_path: Path) -> None:
    files = served_files()
    packed = {
        name: littered(content)
        for name, content in files.items()
        if name.endswith((".zip", ".tar.gz"))
    }
    with FaultyServer(files) as server:
        clean = make(server, tmp_path / "clean", source).manifest
    with FaultyServer(files | packed) as server:
        found = make(server, tmp_path / "littered", source).manifest
    assert found["fingerprints"] == clean["fingerprints"]
    assert found["tables"] == clean["tables"]
