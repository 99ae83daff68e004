"""``m2kr images``: from a server of archives in upstream's form to coverage and an evaluation's images."""

import io
import json
import random
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import Cli, new_cli
from PIL import Image
from servers.faulty_server import FaultyServer, OnDisk
from support import release_fixture as fixture

import m2kr

HUB = "/datasets/BByrneLab/M2KR_Images/resolve/main"
BUILT = ("okvqa", "llava", "oven", "infoseek", "kvqa", "wit", "iglue")


@pytest.fixture(scope="module")
def hub() -> Iterator[FaultyServer]:
    with FaultyServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.url("").rstrip("/"))
        yield server


@pytest.fixture(scope="module")
def cli(hub: FaultyServer) -> Cli:
    return new_cli()


@pytest.fixture(scope="module")
def built(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the release's fixture, built. Not to be written to."""
    files = fixture.write_release(tmp_path_factory.mktemp("release"))
    root = tmp_path_factory.mktemp("built")
    words = ("--route", "release", "--any-counts", "--from", files, "--data", root)
    cli("build", *BUILT, *words)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A data root of one's own with these tables."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "m2kr").symlink_to(built / "m2kr")
    return tmp_path / "data"


@pytest.fixture
def server(hub: FaultyServer) -> FaultyServer:
    """The hub, with no file and never asked."""
    hub.files.clear()
    hub.requests.clear()
    hub.sent = 0
    return hub


def needs(root: Path, source: str, split: str) -> list[str]:
    paths = m2kr.load(source, split, data=root).queries["img_path"]
    return sorted({path for path in paths if path is not None})


def photo(name: str) -> bytes:
    """A JPEG of a name's own, of some kB."""
    draw = random.Random(name)
    out = io.BytesIO()
    Image.frombytes("RGB", (64, 64), draw.randbytes(64 * 64 * 3)).save(out, "JPEG")
    return out.getvalue()


def zipped(path: Path, names: Iterable[str], cut: int = 1) -> list[Path]:
    """A zip of photos among others that nobody needs, in some pieces."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, photo(Path(name).name))
            for other in range(20):
                archive.writestr(f"other/{number}-{other}.jpg", photo(f"{other}"))
    data = path.read_bytes()
    step = -(-len(data) // cut)
    pieces = [path.with_name(f"{path.name}.{n + 1:03d}") for n in range(cut)]
    for n, piece in enumerate(pieces):
        piece.write_bytes(data[n * step : (n + 1) * step])
    return pieces


def tarred(path: Path, names: Iterable[str], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name in names:
            data = photo(Path(name).name)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def run(cli: Cli, root: Path, *words: object, code: int = 0) -> dict:
    return json.loads(cli("images", *words, "--data", root, "--json", code=code).stdout)


def test_only_what_a_split_needs_is_fetched(cli, root, server, tmp_path):
    wanted = needs(root, "okvqa", "test")
    (piece,) = zipped(tmp_path / "val2014.zip", wanted)
    server.files[f"{HUB}/OKVQA/val2014.zip"] = OnDisk(piece)
    told = run(cli, root, "okvqa", "--split", "test")
    got = told["splits"]["test"]
    assert (got["needed"], got["ok"], got["share"]) == (len(wanted), len(wanted), 1.0)
    assert told["archives"] == [
        {
            "name": "coco/val2014.zip",
            "added": len(wanted),
            "not had": 0,
            "received": told["archives"][0]["received"],
        }
    ]
    assert server.sent < piece.stat().st_size / 3

    # The evaluation finds them with no option, another source that has the same images, too.
    split = m2kr.load("okvqa", "test", data=root)
    assert split.images.read(wanted[0]) == photo(Path(wanted[0]).name)
    assert [str(root) in str(place) for place in split.images.roots] == [True]

    # Nothing is asked for or decoded again.
    before = len(server.requests)
    again = run(cli, root, "okvqa", "--split", "test")
    assert again["splits"] == told["splits"] and again["archives"] == []
    assert len(server.requests) == before


def test_parts_tars_and_other_endings(cli, root, server, tmp_path):
    """OVEN: zips in pieces, tars by a shared index, endings and folders that differ from the tables'."""
    wanted = needs(root, "oven", "test")
    by_folder = {two: [n for n in wanted if n.startswith(two)] for two in {n[:2] for n in wanted}}
    tars = {}
    for two, names in by_folder.items():
        other = [name.replace(".jpg", ".JPEG") for name in names]
        if two in {"00", "05"}:
            stem = {"00": "shard00", "05": "shard05_2"}[two]
            for piece in zipped(tmp_path / f"{stem}.zip", other, 2):
                server.files[f"{HUB}/OVEN/{piece.name}"] = OnDisk(piece)
        else:
            tars[two] = tarred(tmp_path / f"shard{two}.tar", [f"./{name}" for name in other])
            server.files[f"{HUB}/OVEN/shard{two}.tar"] = OnDisk(tars[two])
    assert tars, "the fixture has an image in a tar"

    # Without an index the tars can't be read, and what then costs what is told.
    words = ("images", "oven", "--split", "test", "--data", root)
    error = cli(*words, code=3).stderr
    assert ".tar.index.parquet" in error and "--whole" in error and "GB" in error

    indexes: list[object] = []
    for tar in tars.values():
        made = cli("images", "--make-index", tar, "--out", tmp_path, "--json")
        indexes += ["--index", json.loads(made.stdout)["index"]]
    told = run(cli, root, "oven", "--split", "test", *indexes)
    assert told["splits"]["test"]["share"] == 1.0 and told["failed"] == {}
    images = m2kr.load("oven", "test", data=root).images
    for name in wanted:
        assert images.read(name) == photo(Path(name).name.replace(".jpg", ".JPEG"))


def test_an_index_is_made_over_the_network_when_asked(cli, root, server, tmp_path):
    wanted = needs(root, "infoseek", "test")
    tar = tarred(tmp_path / "infoseek_val_images.tar", wanted)
    server.files[f"{HUB}/Infoseek/infoseek_val_images.tar"] = OnDisk(tar)
    told = run(
        cli, root, "infoseek", "--split", "test", "--whole", "--from", "infoseek_val_images.tar"
    )
    assert told["splits"]["test"]["share"] == 1.0
    kept = root / "images" / "indexes" / "infoseek" / "infoseek_val_images.tar.index.parquet"
    assert kept.exists() and Path(f"{kept}.sha256").exists()


def test_a_packed_tar_is_only_read_whole(cli, root, server, tmp_path):
    wanted = needs(root, "kvqa", "test")
    tar = tarred(tmp_path / "KVQAimgs.tar.gz", [f"KVQAimgs/{n}" for n in wanted], "w:gz")
    server.files[f"{HUB}/KVQA/KVQAimgs.tar.gz"] = OnDisk(tar)
    error = cli("images", "kvqa", "--split", "test", "--data", root, code=3).stderr
    assert "packed" in error and "--whole" in error and "26.0 GB" in error
    told = run(cli, root, "kvqa", "--split", "test", "--whole")
    assert told["splits"]["test"]["share"] == 1.0
    assert m2kr.load("kvqa", "test", data=root).images.read(wanted[0]) == photo(wanted[0])


def test_images_that_are_here_are_used_in_place(cli, root, tmp_path):
    """Folder and tar of one's own: named once, never copied, nothing asked of a network."""
    wanted = needs(root, "oven", "test")
    folder = tmp_path / "own"
    for name in wanted[::2]:
        path = folder / Path(name).with_suffix(".JPEG").name  # flat, another ending
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo(name))
    tar = tarred(tmp_path / "rest.tar", wanted[1::2])
    words = ("oven", "--split", "test", "--images", folder, "--images", tar, "--offline")
    told = run(cli, root, *words)
    assert told["splits"]["test"]["share"] == 1.0
    images = m2kr.load("oven", "test", data=root).images
    assert images.read(wanted[0]) == photo(wanted[0])
    assert not list((root / "images").rglob("*.tar"))
    assert run(cli, root, "oven", "--split", "test", "--offline")["splits"] == told["splits"]


def test_what_is_damaged_or_lacking_is_counted_and_named(cli, root, tmp_path):
    wanted = needs(root, "iglue", "test")
    folder = tmp_path / "own"
    folder.mkdir()
    for name in wanted[1:]:
        (folder / name).write_bytes(photo(name))
    (folder / wanted[1]).write_bytes(photo(wanted[1])[:500])
    words = ("iglue", "--images", folder, "--offline", "--min-coverage", "0.9")
    told = run(cli, root, *words, code=1)
    got = told["splits"]["test"]
    assert (got["missing"], got["damaged"], got["ok"]) == (1, 1, len(wanted) - 2)
    rows = {row["img_path"]: row for row in pq.read_table(told["table"]).to_pylist()}
    assert sorted(rows) == wanted
    assert rows[wanted[0]]["status"] == "missing" and rows[wanted[0]]["reason"]
    assert rows[wanted[1]]["status"] == "damaged" and rows[wanted[1]]["detail"]
    assert rows[wanted[2]]["status"] == "ok" and rows[wanted[2]]["width"] == 64

    # Mended, it is looked at again.
    (folder / wanted[1]).write_bytes(photo(wanted[1]))
    assert run(cli, root, "iglue", "--offline")["splits"]["test"]["damaged"] == 0
    # WIT's images are the same files.
    shared = m2kr.load("wit", "test", data=root).images
    assert folder in shared.roots


def test_the_plan_fetches_nothing(cli, root, server):
    plain = cli("images", "okvqa", "--split", "test", "--plan", "--data", root).stdout
    assert "coco/val2014.zip" in plain and "6.6 GB" in plain and "read in part" in plain
    told = run(cli, root, "okvqa", "--split", "test", "--plan")
    assert told["lacking"] == len(needs(root, "okvqa", "test"))
    assert {a["name"]: a["may have"] for a in told["archives"]}["coco/train2014.zip"] == 0
    assert server.requests == []
    assert not (root / "images").exists()


def test_a_server_that_is_down_is_told_after_the_rest(cli, root, server, tmp_path):
    wanted = needs(root, "okvqa", "train")
    (piece,) = zipped(tmp_path / "train2014.zip", wanted)
    server.files[f"{HUB}/LLAVA/train2014.zip"] = OnDisk(piece)  # the second mirror
    words = ("--split", "train", "--split", "test", "--from", "train2014.zip")
    told = run(cli, root, "okvqa", *words)
    assert told["splits"]["train"]["share"] == 1.0 and told["splits"]["test"]["ok"] == 0
    assert told["reasons"] == {"in no image root": told["splits"]["test"]["missing"]}


def test_one_by_one_from_their_addresses_only_when_asked_and_with_a_contact(cli, root):
    words = ("images", "wit", "--split", "test", "--from", "urls", "--data", root)
    error = cli(*words, code=2).stderr
    assert "wikimedia.org requires a contact" in error and "--contact you@example.org" in error
    assert "no way to reach you" in cli(*words, "--contact", "me", code=2).stderr
    told = run(cli, root, "okvqa", "--split", "test", "--from", "urls")
    assert told["reasons"] == {"no address in the tables": told["splits"]["test"]["missing"]}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "no source"),
        (("okvqa", "--split", "dev2"), 2, "test"),
        (("okvqa", "--from", "val2015.zip"), 2, "coco/val2014.zip"),
        (("okvqa", "--images", "/no/such/folder"), 3, "image root"),
        (("evqa",), 3, "m2kr build evqa"),
        (("--make-index", "no.tar"), 3, "no such tar"),
    ],
)
def test_wrong_words_get_one_clear_error(cli, root, words, code, says):
    error = cli("images", *words, "--data", root, code=code).stderr
    assert says in error and "Traceback" not in error
