"""A server with one file."""

from collections.abc import Iterator

import pytest
from servers.faulty_server import FaultyServer
from support.downloads import BODY


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({"/a.bin": BODY}) as server:
        yield server
