"""Programs of Debian that some tests need: on a person's machine they may be missing, in CI they may not."""

from __future__ import annotations

import os
import shutil

import pytest


def require(program: str, package: str) -> str:
    """The program's path; skips the test where it is not installed, and fails it in CI."""
    found = shutil.which(program)
    if found is None:
        reason = f"needs {program}: apt-get install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found
