"""Process groups that the tests of this folder share: starting one costs more than a run in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from process_group import Group


@pytest.fixture(scope="package")
def groups() -> Iterator[dict[int, Group]]:
    """Process groups by size, made when first asked for, and gone with the last test of this folder."""

    class Groups(dict[int, Group]):
        def __missing__(self, world: int) -> Group:
            self[world] = Group(world)
            return self[world]

    made = Groups()
    yield made
    for group in made.values():
        group.close()
