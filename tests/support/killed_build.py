"""A build of a served source in a process of its own, which a test kills while it makes some pool."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from support.upstream_fixture import Served

from m2kr.building.build import build
from m2kr.building.request import BuildRequest
from m2kr.building.shards import Shard, build_shard
from m2kr.building.spec import BuildContext, Row


class Stuck(Served):
    """Stops in one pool, if there is one of the name."""

    def __init__(self, name: str, base: str, pool: str) -> None:
        super().__init__(name, base)
        self.pool = pool

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        for i, row in enumerate(super().passages(ctx, pool)):
            if pool == self.pool and i == 3:
                time.sleep(600)
            yield row


def start(
    name: str, base: str, root: Path, pool: str = "none", *share: str, **how: int
) -> "subprocess.Popen[bytes]":
    """Begins a build, or one shard of it; ``how`` goes to `subprocess.Popen`."""
    words = [sys.executable, "-m", "support.killed_build", name, base, root, pool, *share]
    return subprocess.Popen(words, cwd=Path(__file__).parent.parent, **how)


if __name__ == "__main__":
    name, base, root, pool, *share = sys.argv[1:]
    if share:
        build_shard(Stuck(name, base, pool), Path(root), Shard.parse(share[0]), BuildRequest())
    else:
        build(Stuck(name, base, pool), Path(root))
