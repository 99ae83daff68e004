"""Coverage-guided fuzzing of one parser.

    python fuzz.py TARGET SECONDS

Leaves with 0 if nothing but clear errors came of it, and prints how many inputs were tried.
"""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["m2kr", "m2kr_builders", "m2kr_leaderboard"]):
    from targets import SEEDS, TARGETS, one

    from m2kr.building import registry

    registry.sources()


def main() -> None:
    name, seconds = sys.argv[1], int(sys.argv[2])
    if name not in TARGETS:
        raise SystemExit(f"no target {name!r}; one of {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory(prefix="m2kr-corpus-") as corpus:
        for i, seed in enumerate(SEEDS[name]):
            (Path(corpus) / f"seed{i}").write_bytes(seed)
        options = [
            f"-max_total_time={seconds}",
            "-max_len=8192",
            "-timeout=20",
            "-rss_limit_mb=4096",
            "-print_final_stats=1",
            "-verbosity=0",
            f"-artifact_prefix={tempfile.gettempdir()}/m2kr-{name}-",
        ]
        atheris.Setup([sys.argv[0], *options, corpus], lambda data: one(name, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
