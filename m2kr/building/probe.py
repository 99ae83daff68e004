"""What upstream's files are like today, by a look at the first megabyte of each."""

from dataclasses import dataclass, replace

from m2kr.building.content import HEAD_BYTES, rows_in
from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.http import is_http, read_start
from m2kr.building.fetch.retry import Failure, Policy
from m2kr.errors import InputError

PATIENCE = Policy(connect_timeout=10.0, read_timeout=20.0)
SECONDS = 40.0  # a slow server's first bytes are parsed as far as they came by then
_DRIFT, _GATED, _UNREACHABLE = "drift", "gated", "unreachable"  # the worst first


@dataclass(frozen=True, slots=True)
class Probed:
    """What a file is like upstream.

    Attributes:
        name: Of the asset.
        status: ``ok``; ``drift`` (not what the builders expect); ``gated`` (a login or an accepted
            licence is needed); ``unreachable``; ``local`` (in a package, or placed by hand).
        size: Bytes of the whole file, if the server says so.
        rows: Whole ones in its first megabyte; None where none can be looked at.
        problem: What is wrong, with what was expected.
    """

    name: str
    status: str
    size: int | None = None
    rows: int | None = None
    problem: str = ""


def probe_asset(asset: Asset, policy: Policy = PATIENCE) -> Probed:
    """Asks for a file's first megabyte and parses it, from the first address that is right."""
    failed: list[Probed] = []
    for url in filter(is_http, asset.urls):
        probed = _probe_url(asset, url, policy)
        if probed.status == "ok":
            return probed
        failed.append(replace(probed, problem=f"{url}: {probed.problem}"))
    if not failed:
        return Probed(asset.name, "local", asset.size)
    worst = min(failed, key=lambda probed: (_DRIFT, _GATED, _UNREACHABLE).index(probed.status))
    return replace(worst, problem="; ".join(probed.problem for probed in failed))


def _probe_url(asset: Asset, url: str, policy: Policy) -> Probed:
    size: int | None = None

    def problem(status: str, text: str) -> Probed:
        return Probed(asset.name, status, size, problem=text)

    try:
        start = read_start(url, asset.name, HEAD_BYTES, policy, seconds=SECONDS)
    except Failure as failure:
        if failure.status in {401, 403}:
            gate = asset.gate or "needs a login or an accepted licence (HF_TOKEN, for the hub)"
            return problem(_GATED, f"HTTP {failure.status}: {gate}")
        if failure.status:
            return problem(_DRIFT, f"gone (HTTP {failure.status})")
        return problem(_UNREACHABLE, failure.reason)
    if not start.data:
        return problem(_DRIFT, "an empty file")
    size = len(start.data) if start.whole else start.total
    if asset.size is not None and size not in (None, asset.size):
        return problem(_DRIFT, f"{size:,} bytes instead of {asset.size:,}")
    try:
        rows = rows_in(start.data, asset.name, asset.shape, whole=start.whole)
        if rows == 0 and asset.shape and (start.whole or asset.shape.kind != "json"):
            raise InputError("no rows", expected=str(asset.shape))
    except InputError as error:
        return problem(_DRIFT, f"{error.what}; expected {error.expected}")
    return Probed(asset.name, "ok", size, rows)
