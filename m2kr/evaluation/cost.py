"""What an evaluation costs: processor time, memory, energy, and what of it was reused."""

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2kr.evaluation import energy
from m2kr.evaluation.memory import forget_peak_memory, recent_peak_memory
from m2kr.retrieval.clock import Spent, now

STAGES = ("load", "encode", "index", "search", "score")


class Meter:
    """Measures one evaluation from here on.

    Highest memory is the process's: what else it does meanwhile is in it, its children are not.
    """

    def __init__(self) -> None:
        self._began, self._joules = now(), energy.counters()
        self._alone = forget_peak_memory()
        self._held: dict[int, int] = {}  # on GPUs, by what was done before
        if torch := _cuda():
            for i in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(i)
                self._held[i] = torch.cuda.memory_allocated(i)

    def spent(self) -> Spent:
        """Time so far."""
        return now() - self._began

    def machine(self) -> dict[str, Any]:
        """Memory, devices and energy so far, as `Result.cost` has them."""
        cards = _cards_used(self._held)
        used, of = energy.joules(self._joules, energy.counters(), [uuid for _, _, uuid in cards])
        return {
            "peak_host_bytes": recent_peak_memory(),
            "peak_host_of": "this evaluation" if self._alone else "the process so far",
            "peak_device_bytes": sum(peak for _, peak, _ in cards) if cards else None,
            "device": " + ".join([*(name for name, _, _ in cards), processor()]),
            "energy_joules": used,
            "energy_of": of,
        }


def processor() -> str:
    """Name of the processor, and how many of its cores this process may use."""
    name = ""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
                break
    except OSError:
        pass
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    name = name or platform.processor() or platform.machine()
    return f"{name} ({cores} core{'s' * (cores != 1)})"


def rate(rows: int, seconds: float) -> float | None:
    """Rows a second; None where nothing was done."""
    return float(f"{rows / seconds:.4g}") if rows > 0 and seconds > 0 else None


def by_stage(spent: Mapping[str, Spent], total: Spent, clock: str) -> dict[str, float]:
    """``wall`` or ``cpu`` seconds of each stage and in all."""
    named = {stage: spent.get(stage, Spent()) for stage in STAGES} | {"total": total}
    return {stage: round(max(0.0, getattr(one, clock)), 6) for stage, one in named.items()}


def _cuda() -> Any:
    """Torch, if it runs on a GPU already; it is not loaded to be asked."""
    torch = sys.modules.get("torch")
    started = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch if started else None


def _cards_used(held: Mapping[int, int]) -> list[tuple[str, int, str]]:
    """Name, highest allocated bytes and energy counter of each GPU that came to hold more than before."""
    torch = _cuda()
    if torch is None:
        return []
    cards = []
    for i in range(torch.cuda.device_count()):
        if (peak := int(torch.cuda.max_memory_allocated(i))) > held.get(i, 0):
            facts = torch.cuda.get_device_properties(i)
            cards.append((facts.name, peak, f"GPU-{getattr(facts, 'uuid', '')}"))
    return cards
