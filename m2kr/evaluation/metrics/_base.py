"""What a metric is, and how one is registered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from m2kr.evaluation.judged import Judged

Compute = Callable[["Judged", int], "NDArray[np.float64]"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: per query one number at a cut-off, NaN where it is undefined.

    Attributes:
        name: Name before the ``@``.
        label: Heading in tables; ``{k}`` stands for the cut-off.
        compute: Judged run and cut-off -> (queries,) float64, in the run's query order.
        doc: What it measures, in one sentence.
        default: Whether it is computed when nothing was asked for.
        ks: Cut-offs unless named; empty means the published grid.
        shown: Cut-offs that tables show even if they weren't named.
    """

    name: str
    label: str
    compute: Compute
    doc: str
    default: bool = True
    ks: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()


METRICS: dict[str, Metric] = {}


def metric(
    name: str,
    label: str,
    *,
    default: bool = True,
    ks: tuple[int, ...] = (),
    shown: tuple[int, ...] = (),
) -> Callable[[Compute], Compute]:
    """Registers the function below it as a metric; its docstring's first line becomes ``doc``."""

    def register(compute: Compute) -> Compute:
        doc = (compute.__doc__ or "").strip().partition("\n")[0]
        METRICS[name] = Metric(name, label, compute, doc, default, ks, shown)
        return compute

    return register
