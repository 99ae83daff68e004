"""Energy, where the machine counts it: RAPL of processors (Linux), NVML of NVIDIA's GPUs.

Both count all that runs on a package or a card, others' work included. Reading RAPL takes root on most
machines, and virtual ones have none.
"""

import ctypes
from collections.abc import Collection, Mapping
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
_RAPL = "intel-rapl:*"  # AMD's processors, too; with a second colon it is a part of a package
_GPU = "GPU-"


def counters(powercap: Path = POWERCAP) -> dict[str, float]:
    """Joules so far by counter: ``intel-rapl:N`` of processors, ``GPU-<uuid>`` of cards."""
    return _packages(powercap, "energy_uj") | _cards()


def joules(
    before: Mapping[str, float],
    after: Mapping[str, float],
    cards: Collection[str] = (),
    powercap: Path = POWERCAP,
) -> tuple[float | None, str | None]:
    """Energy between two states of the counters, and of what it is; None if nothing was counted.

    Args:
        before: From `counters`.
        after: Later.
        cards: Counters of the cards that were used; others are left out.
        powercap: Where RAPL says at which value its counters begin anew.
    """
    ranges = _packages(powercap, "max_energy_range_uj")
    packages, used = [], []
    for name in before.keys() & after.keys():
        difference = after[name] - before[name]
        if not name.startswith(_GPU):
            packages.append(difference if difference >= 0 else difference + ranges.get(name, 0))
        elif name in cards:
            used.append(difference)
    parts = {"processors": packages, "GPUs": used}
    if not packages and not used:
        return None, None
    return round(sum(packages + used), 3), " and ".join(name for name in parts if parts[name])


def _packages(powercap: Path, file: str) -> dict[str, float]:
    read = {}
    for folder in powercap.glob(_RAPL):
        if folder.name.count(":") == 1:
            try:
                read[folder.name] = int((folder / file).read_text(encoding="ascii")) / 1e6
            except (OSError, ValueError):
                continue
    return read


def _cards() -> dict[str, float]:
    """Millijoules since the driver was loaded, which cards from Volta on count."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2():
            return {}
    except (OSError, AttributeError):
        return {}
    read = {}
    try:
        count, card = ctypes.c_uint(), ctypes.c_void_p()
        name, energy = ctypes.create_string_buffer(96), ctypes.c_ulonglong()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return {}
        for i in range(count.value):
            failed = (
                nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(i), ctypes.byref(card))
                or nvml.nvmlDeviceGetUUID(card, name, ctypes.c_uint(len(name)))
                or nvml.nvmlDeviceGetTotalEnergyConsumption(card, ctypes.byref(energy))
            )
            if not failed:
                read[name.value.decode()] = energy.value / 1e3
    except AttributeError:
        return {}
    finally:
        nvml.nvmlShutdown()
    return read
