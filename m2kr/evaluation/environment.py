"""What an evaluation ran on: versions and memory."""

import platform
import sys
from pathlib import Path

from m2kr._version import __version__

# Named in a result only where the evaluation had loaded them.
_PACKAGES = ("torch", "transformers", "datasets", "bm25s", "ranx")


def versions() -> dict[str, str]:
    """Versions of m2kr, Python, the platform, and of the packages in use."""
    import numpy as np
    import pyarrow as pa

    found = {
        "m2kr": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
    }
    for name in _PACKAGES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version:
            found[name] = str(version)
    return found


def peak_memory() -> int | None:
    """The process's highest resident memory so far in bytes; None where the platform can't say."""
    # Linux starts ru_maxrss at the parent's value, which may be far above ours.
    status = Path("/proc/self/status")
    if status.exists():
        marks = (line.split() for line in status.read_text(encoding="utf-8").splitlines())
        found = next((int(words[1]) for words in marks if words[:1] == ["VmHWM:"]), None)
        if found is not None:
            return found * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
