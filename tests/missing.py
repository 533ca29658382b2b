"""What a machine lacks that can be installed: a test that needs it skips and says so. Where CI is set it fails instead,
for a suite that quietly leaves tests out proves nothing."""

import os
import shutil
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{reason}: with CI set this test must run")
    pytest.skip(f"{reason}: THIS TEST DID NOT RUN")


def program(*names: str) -> str:
    """The path of the first of these programs that is there; else the test ends. The first is Debian's package."""
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    missing(f"{' or '.join(names)} is not installed (apt-get install {names[0]})")
