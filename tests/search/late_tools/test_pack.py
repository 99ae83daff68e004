"""Packs of token stores and indexes: the same bytes, refused when damaged, hostile or another's."""

import io
import json
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import CheckError, InputError, M2KRError, MissingError
from m2kr.search.late.index.build import BuildSettings, build, pool_of
from m2kr.search.late.index.files import IndexFiles
from m2kr.search.late.sharing.manifest import Manifest, read
from m2kr.search.late.sharing.pack import manifest_of, pack, require, unpack
from m2kr.search.late.store import TokenStore
from m2kr.search.late.store_writer import TokenWriter

DIM = 16
META = {"checkpoint": "ab" * 32, "pool": "fp1:1234", "encoder": {"max_length": 512}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 passages in several shards."""
    folder = tmp_path_factory.mktemp("pack") / "store"
    rng = np.random.default_rng(3)
    with TokenWriter(folder, dim=DIM, meta=META, shard_bytes=3000) as writer:
        for number in range(30):
            tokens = rng.normal(size=(int(rng.integers(1, 12)), DIM))
            writer.append([f"passage/{number}"], [tokens])
    assert len(TokenStore.open(folder).shards) > 1
    return folder


@pytest.fixture(scope="module")
def index(store: Path) -> Path:
    folder = store.with_name("index")
    settings = BuildSettings("compressed", 4, 8)
    build(pool_of(TokenStore.open(store)), folder, settings, shard_passages=12)
    return folder


@pytest.fixture(params=["store", "index"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_there_and_back(folder: Path, tmp_path: Path) -> None:
    packed = pack(folder, tmp_path / "a.tar")
    assert unpack(tmp_path / "a.tar", tmp_path / "back") == packed
    assert contents(tmp_path / "back") == contents(folder)
    if packed.kind == "store":
        TokenStore.open(tmp_path / "back").verify()
    else:
        IndexFiles.open(tmp_path / "back").verify()
    facts = packed.facts()
    assert (facts["dim"], facts["dtype"], facts["checkpoint"]) == (DIM, "float16", "ab" * 32)
    assert facts["encoder.max_length"] == 512
    assert manifest_of(tmp_path / "a.tar") == manifest_of(folder) == packed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "back"]


def test_the_same_bytes_whatever_else_lies_there(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "moved" / "elsewhere"
    shutil.copytree(store, copy)
    (copy / ".lock").write_text("stale")
    (copy / "notes.txt").write_text("mine")
    (copy / "tokens-00099.f16").write_bytes(b"of an open shard")
    pack(store, tmp_path / "a.tar")
    pack(copy, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_other_programs_read_a_pack(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar", "r:") as tar:
        members = tar.getmembers()
        assert members[0].name == "pack.json"
        assert [m.name for m in members[1:]] == sorted(contents(folder))
        assert all(m.isreg() and "/" not in m.name and m.mtime == 0 for m in members)
        told = json.load(tar.extractfile("pack.json"))
        for each in told["files"]:
            assert tar.extractfile(each["name"]).read() == contents(folder)[each["name"]]


def test_what_is_there_stays(store: Path, index: Path, tmp_path: Path) -> None:
    pack(store, tmp_path / "store.tar")
    pack(index, tmp_path / "index.tar")
    there = tmp_path / "there"
    there.mkdir()  # an empty folder is no one's
    unpack(tmp_path / "store.tar", there)
    before = {path: path.stat().st_mtime_ns for path in there.iterdir()}
    unpack(tmp_path / "store.tar", there)  # the same again: only verified
    assert {path: path.stat().st_mtime_ns for path in there.iterdir()} == before
    with pytest.raises(InputError, match="something else is there"):
        unpack(tmp_path / "index.tar", there)
    (there / "tokens-00000.f16").write_bytes(bytes((there / "tokens-00000.f16").stat().st_size))
    with pytest.raises(CheckError, match=r"tokens-00000\.f16"):
        unpack(tmp_path / "store.tar", there)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match="something else is there"):
        unpack(tmp_path / "store.tar", mine)
    assert (mine / "thesis.tex").read_text() == "all of it"


def test_a_damaged_folder_is_not_packed(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    name = "tokens-00001.f16" if (copy / "store.json").exists() else "residuals-00001.u8"
    data = bytearray((copy / name).read_bytes())
    data[7] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(CheckError, match=name):
        pack(copy, tmp_path / "a.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_nothing_to_pack(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no token store and no index"):
        pack(tmp_path, tmp_path / "a.tar")
    TokenWriter(tmp_path / "empty", dim=DIM).close()
    with pytest.raises(InputError, match="no complete shard"):
        pack(tmp_path / "empty", tmp_path / "a.tar")
    with pytest.raises(MissingError, match="no such pack"):
        unpack(tmp_path / "a.tar", tmp_path / "b")


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"checkpoint": "cd" * 32}, "its checkpoint is abab"),
        ({"checkpoint": "ab" * 32, "pool": "fp1:9", "dim": 3}, "its pool fingerprint is fp1:1234"),
        ({"pool": "fp1:1234", "dtype": "bfloat16"}, "its dtype is float16"),
        ({"dim": 128}, "its dim is 16"),
        ({"dim": "16", "eval": "fp1:5"}, "doesn't say its eval fingerprint"),
        ({"encoder.max_length": 256}, "its encoder.max_length is 512"),
    ],
)
def test_another_models_or_pools_is_refused(
    folder: Path, tmp_path: Path, expected: dict[str, object], message: str
) -> None:
    pack(folder, tmp_path / "a.tar")
    with pytest.raises(CheckError, match=message):
        unpack(tmp_path / "a.tar", tmp_path / "back", expected=expected)
    assert not (tmp_path / "back").exists()
    with pytest.raises(CheckError, match=message):
        require(manifest_of(folder).facts(), expected)


def test_the_right_ones_pass(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "a.tar")
    facts = manifest_of(folder).facts()
    assert unpack(tmp_path / "a.tar", tmp_path / "back", expected=facts).passages == 30
    require(facts, {name: str(value) for name, value in facts.items()})


@given(place=st.integers(0, 1 << 30), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=60)
def test_no_flipped_bit_gets_through(
    store: Path, tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    base = tmp_path_factory.getbasetemp() / "flips"
    base.mkdir(exist_ok=True)
    if not (base / "a.tar").exists():
        pack(store, base / "a.tar")
    data = bytearray((base / "a.tar").read_bytes())
    data[place % len(data)] ^= 1 << bit
    (base / "b.tar").write_bytes(data)
    with pytest.raises(M2KRError):
        unpack(base / "b.tar", base / "back")
    assert sorted(path.name for path in base.iterdir()) == ["a.tar", "b.tar"]


def test_a_pack_cut_short_or_longer(store: Path, tmp_path: Path) -> None:
    pack(store, tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    draws = random.Random(1)
    cuts = [0, 100, 512, 600, len(data) - 1, *(draws.randrange(len(data)) for _ in range(20))]
    for changed in [data[:cut] for cut in cuts] + [data + bytes(512), data + b"x"]:
        (tmp_path / "b.tar").write_bytes(changed)
        with pytest.raises(M2KRError):
            unpack(tmp_path / "b.tar", tmp_path / "back")
        assert not (tmp_path / "back").exists()


def hostile(manifest: Manifest, members: list[tarfile.TarInfo], **changed: object) -> bytes:
    """A tar that begins with a manifest, changed, and goes on with these empty members."""
    record = json.loads(manifest.to_bytes()) | changed
    data = json.dumps(record).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        first = tarfile.TarInfo("pack.json")
        first.size = len(data)
        tar.addfile(first, io.BytesIO(data))
        for member in members:
            tar.addfile(member)
    return out.getvalue()


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "/etc/passwd", "a/b.json", "..", "", "pack.json", "x.py", "C:x.json", 3],
)
def test_no_name_leads_out(store: Path, tmp_path: Path, name: str) -> None:
    files = [{"name": name, "bytes": 0, "sha256": "0" * 64}]
    data = hostile(manifest_of(store), [tarfile.TarInfo(str(name) or "x")], files=files)
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match="names a file"):
        unpack(tmp_path / "a.tar", tmp_path / "in" / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
)
def test_no_link_is_made(store: Path, tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("store.json")
    member.type, member.linkname = kind, "/etc/passwd"
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    files = [{"name": "store.json", "bytes": 0, "sha256": empty}]
    (tmp_path / "a.tar").write_bytes(hostile(manifest_of(store), [member], files=files))
    with pytest.raises(InputError, match=r"store\.json is not where"):
        unpack(tmp_path / "a.tar", tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_manifest_that_lies_about_the_settings(store: Path, tmp_path: Path) -> None:
    true = manifest_of(store)
    lies = {**true.settings, "meta": {**META, "checkpoint": "cd" * 32}}
    false = Manifest(true.kind, true.passages, true.tokens, lies, true.files)
    pack(store, tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    assert len(false.to_bytes()) == len(true.to_bytes())
    (tmp_path / "a.tar").write_bytes(data.replace(true.to_bytes(), false.to_bytes()))
    with pytest.raises(CheckError, match="doesn't describe the store"):
        unpack(tmp_path / "a.tar", tmp_path / "back")
    assert not (tmp_path / "back").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    field=st.sampled_from(["format", "version", "kind", "passages", "tokens", "settings", "files"]),
    value=JSON,
)
@settings(deadline=None)
def test_a_manifest_is_read_or_refused(store: Path, field: str, value: object) -> None:
    record = json.loads(manifest_of(store).to_bytes())
    changed = json.dumps(record | {field: value}).encode()
    try:
        made = read(changed, "here")
    except InputError as error:
        assert error.where == "here"
    else:
        assert read(made.to_bytes(), "here") == made


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        read(data, "here")
