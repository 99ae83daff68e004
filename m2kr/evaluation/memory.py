"""The highest memory of this process, in all and of late."""

import sys
from pathlib import Path

_highest = 0  # before it was last forgotten


def highest_memory() -> int | None:
    """The highest resident memory so far in bytes; None where the platform can't say."""
    peak = recent_peak_memory()
    return None if peak is None else max(peak, _highest)


def recent_peak_memory() -> int | None:
    """The same since it was last forgotten, if it was."""
    # Linux starts ru_maxrss at the parent's value, which may be far above ours.
    status = Path("/proc/self/status")
    if status.exists():
        marks = (line.split() for line in status.read_text(encoding="utf-8").splitlines())
        peak = next((int(words[1]) for words in marks if words[:1] == ["VmHWM:"]), None)
        if peak is not None:
            return peak * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak_memory() -> bool:
    """Has the kernel forget it, so that what follows can be measured; False where it doesn't."""
    global _highest
    before = recent_peak_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    _highest = max(_highest, before or 0)
    return True
