"""F13: an older suffix of the stream is read again, after newer changes of the same cells were applied."""

from __future__ import annotations

from typing import Final

import psycopg
import pytest

from tests.faults.world import World

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300), pytest.mark.faults]

REPLAYS: Final = 3
BACK: Final = "UPDATE cdc.offset_ledger SET next_offset = %s WHERE partition = %s"


def moved_back(world: World) -> int:
    """Move each partition back by a random number of offsets; returns by how many in all."""
    with psycopg.connect(world.pipeline.target, autocommit=True) as conn:
        rows = conn.execute("SELECT partition, next_offset FROM cdc.offset_ledger ORDER BY 1").fetchall()
        steps = [(number, position, world.random.randint(0, position)) for number, position in rows]
        for number, position, back in steps:
            conn.execute(BACK, (position - back, number))
    return sum(back for *_, back in steps)


@pytest.mark.fault("F13", "ledger moved back at random, under load")
def test_an_older_suffix_read_again_moves_nothing_back(world: World) -> None:
    """Updates, deletes and re-inserts that are repeated leave what came after them."""
    world.hand_off()
    consumer = world.consume()
    with world.load():
        world.flows(4_000)
        for _ in range(REPLAYS):
            assert consumer.terminate() == 0
            before = world.position()
            if moved_back(world):
                world.fire()
            consumer = world.consume()
            world.recovered()
            world.flows(max(1, before - world.position()) + 2_000)
    world.prove(consumer, chain=False)  # it was this test that broke the chain
