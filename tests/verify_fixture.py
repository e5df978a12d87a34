"""The fixture of `tests.verify_sides`: a pytest plugin of the modules that test verify."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devstack.databases import Server
from tests.verify_sides import Sides, new_sides


@pytest.fixture(scope="session")
def text_sides(source_server: Server, target_server: Server) -> Iterator[Sides]:
    """A text layout for all tests: databases of their own would take most of the tests' time."""
    with new_sides(source_server, target_server) as sides:
        yield sides


@pytest.fixture
def sides(text_sides: Sides) -> Sides:
    """The text layout, emptied."""
    text_sides.clear()
    return text_sides
