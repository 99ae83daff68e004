"""A data root that may only be read: what is there is used, no lock is written, the rest is one line."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    import numpy as np
    import m2kr
    from m2kr.building import registry
    from m2kr.building.build import build
    from m2kr.errors import M2KRError

    class Late(m2kr.EncoderRetriever):
        name = "late"
        encoded = 0
        def cache_key(self, side):
            return {"v": 1}
        def _rows(self, batch):
            Late.encoded += len(batch)
            return [np.eye(4, dtype=np.float32)[: 1 + len(t) % 3] for t in batch.texts]
        encode_document = encode_query = _rows

    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    found = {}
    for split in ("test", "seen"):
        Late.encoded = 0
        result = m2kr.evaluate("mini", Late(), split=split, data=root, k=5)[0]
        found[split] = [Late.encoded, result.run_sha256]
        if len(sys.argv) > 3:
            break
    found["built"] = not build(registry.builder("mini"), root).fresh
    if len(sys.argv) == 3:
        for name, make in {
            "other": lambda: build(registry.builder("mini"), root, limit=3),
            "again": lambda: build(registry.builder("mini"), root, force=True),
        }.items():
            try:
                make()
            except M2KRError as error:
                found[name] = str(error)
    out.write_text(json.dumps(found), encoding="utf-8")
    """
)
MOUNT = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
NAMESPACE = ("unshare", "--mount", "--map-root-user")


def test_a_read_only_root_reads_what_is_there(mini_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(mini_root, root)
    try:
        subprocess.run([*NAMESPACE, "sh", "-c", MOUNT, str(root), "true"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mount namespaces are not allowed here")

    def run(*before: str, once: tuple[str, ...] = ()) -> dict:
        out = tmp_path / "out.json"
        script = tmp_path / "script.py"
        script.write_text(SCRIPT, encoding="utf-8")
        command = [*before, sys.executable, str(script), str(root), str(out), *once]
        subprocess.run(command, check=True, cwd=tmp_path)
        return json.loads(out.read_text(encoding="utf-8"))

    first = run(once=("once",))
    assert first["test"][0] > 0
    second = run(*NAMESPACE, "sh", "-c", MOUNT, str(root))
    assert second["test"] == [0, first["test"][1]]
    assert second["seen"][0] > 0  # other queries, which nothing keeps
    assert second["built"]
    assert "Read-only" in second["other"] and "may only be read" in second["again"]
