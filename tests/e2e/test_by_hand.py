"""README's "By hand", typed into a shell as it stands, on the chain of this session and with a smaller fleet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.chain_pipeline import Pipeline
from tests.doc_pages import PAGE_OF

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

OTHERWISE = {
    "make up\n": "",
    'eval "$(.venv/bin/python -m devstack env)"': "",  # it is in the environment
    "--rows 1052000": "--rows 30000",
    "--rate 4000 --seconds 60": "--rate 1000 --seconds 3",
    "/tmp/consumer.log": "consumer.log",  # noqa: S108 - the page's
    "make down\n": "",
}
DEADLINE_S = 200.0


def script() -> str:
    """The block of the page."""
    (block,) = (block for block in PAGE_OF["README.md"].blocks("sh") if "fleet history" in block)
    for said, typed in OTHERWISE.items():
        assert block.count(said) == 1, said
        block = block.replace(said, typed)
    return block


def typed(text: str, pipeline: Pipeline) -> tuple[int, str]:
    """Exit code and output of a shell that ends at the first line that fails; nothing it started is left."""
    (pipeline.folder / ".venv").symlink_to(sys.prefix)  # as in a checkout
    output = pipeline.folder / "output.log"
    with output.open("w") as file:
        shell = subprocess.Popen(  # noqa: S603 - the page's own commands
            ["/bin/bash", "-euo", "pipefail", "-c", text],
            cwd=pipeline.folder,
            env={**os.environ, **pipeline.product.environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return shell.wait(DEADLINE_S), output.read_text()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()


def test_the_commands_of_the_readme_do_what_it_says(pipeline: Pipeline) -> None:
    """Each line succeeds, the consumer ends well, and nothing differs."""
    code, said = typed(script(), pipeline)
    assert code == 0, said[-6_000:]
    assert pipeline.target_value("SELECT count(*) FROM slice WHERE state <> 'done'") == 0
    assert pipeline.target_value("SELECT sum(rows) FROM slice") >= 30_000
    assert pipeline.target_value("SELECT count(*) FROM verified") >= 8
    assert pipeline.target_value("SELECT count(*) FROM dead_cell") == 0
