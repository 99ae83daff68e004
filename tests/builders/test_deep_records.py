"""A record nested as deep as its reader allows is told to the ledger, not a traceback."""

from typing import Any

from m2kr_builders._rows import told


def test_a_record_too_deep_to_be_printed_is_told() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert told({"answers": deep}) == "a record nested too deep"
    assert told({"answers": 3}) == "{'answers': 3}"
    while deep:  # taken apart by hand: dropping it at once would recurse
        deep = deep[0]
