"""The three modes of late-interaction search, and all that may be set about them; see `dispatch`.

``exact`` is the reference and the default. ``compressed`` and ``official`` search an index that is
built from the token store first, and may be audited: recall against exact search on some queries.
A mode never changes by itself: where exact search would take longer than `SearchConfig.max_hours`, it
stops after its first block and says what else there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal, get_args

from m2kr.errors import UsageError

if TYPE_CHECKING:
    from m2kr.search.index.settings import BuildSettings

Mode = Literal["exact", "compressed", "official"]
Final = Literal["compressed", "exact"]

_NBITS = {"compressed": 4, "official": 8}


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """How token vectors are searched. All of it is in the result.

    Attributes:
        mode: ``exact``; ``compressed``: our index; ``official``: the published protocol, index and all.
        nbits: Bits a dimension of the index; by default 4, official 8.
        centroids: Of the index; by default by the pool's size.
        iterations: Of k-means, at most; by default the mode's own.
        seed: Of the index's training.
        final: What compressed search scores the last candidates with: the tokens as rebuilt from the
            index, or (``exact``) those of the token store.
        widths: Fields of `compressed.SearchSettings` or `official.OfficialSettings` that are not to be
            what ``k`` and the pool decide: ``probes``, ``candidates``, ``scored``, or ``ncells``,
            ``threshold``, ``ndocs``, ``head_rows``.
        audit: Queries that are searched exactly, too, to tell the recall of the other modes.
        max_hours: What exact search may take; estimated after its first block.
        threads: By default as many as torch uses.
        device: Of exact search: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ...

    Raises:
        UsageError: a value makes no sense, or none for the mode.
    """

    mode: Mode = "exact"
    nbits: int | None = None
    centroids: int | None = None
    iterations: int | None = None
    seed: int = 0
    final: Final = "compressed"
    widths: Mapping[str, float] = field(default_factory=dict)
    audit: int = 0
    max_hours: float = 4.0
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise UsageError(
                f"there is no search '{self.mode}'", expected=" or ".join(get_args(Mode))
            )
        if self.final not in get_args(Final):
            raise UsageError(f"final is '{self.final}'", expected=" or ".join(get_args(Final)))
        if self.mode == "exact":
            self._refuse_knobs()
        if self.final == "exact" and self.mode == "official":
            raise UsageError(
                "the published protocol scores what its index holds", expected="final=compressed"
            )
        for name in ("centroids", "iterations", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}", expected="at least 1")
        if self.audit < 0 or self.seed < 0 or not self.max_hours > 0:
            raise UsageError(
                f"audit is {self.audit}, seed {self.seed}, max_hours {self.max_hours}",
                expected="audit and seed at least 0, max_hours more than 0",
            )

    def _refuse_knobs(self) -> None:
        of_an_index = ("nbits", "centroids", "iterations", "seed", "final", "widths", "audit")
        plain = {each.name: each.default for each in fields(self)} | {"widths": {}}
        named = [name for name in of_an_index if getattr(self, name) != plain[name]]
        if named:
            raise UsageError(
                f"exact search has no {named[0]}",
                expected="search compressed or official for that",
                fix="--search compressed",
            )

    def build_settings(self) -> "BuildSettings":
        """How the index of this mode is built.

        Raises:
            UsageError: there are no codes of so many bits.
        """
        from m2kr.search.index import official_train
        from m2kr.search.index.kmeans import Training
        from m2kr.search.index.settings import BuildSettings

        nbits = self.nbits or _NBITS[self.mode]
        if self.mode == "official":
            chosen = official_train.official_build_settings(self.seed, nbits, self.centroids)
        else:
            chosen = BuildSettings("compressed", nbits, self.centroids, Training(seed=self.seed))
        if self.iterations is None:
            return chosen
        return replace(chosen, training=replace(chosen.training, iterations=self.iterations))
