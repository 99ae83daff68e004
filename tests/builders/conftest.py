"""Fixtures that several tests of builders share."""

from collections.abc import Iterator

import pytest
from servers.faulty_server import FaultyServer
from support.upstream_fixture import served_files


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    """Serves every upstream file in miniature."""
    with FaultyServer(served_files()) as running:
        yield running
