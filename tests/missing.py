"""Skips tests whose tools are not installed. With CI set they fail instead, because a suite that silently leaves out
tests proves nothing."""

import os
import shutil
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{reason}: with CI set this test must run")
    pytest.skip(f"{reason}: THIS TEST DID NOT RUN")


def program(*names: str) -> str:
    """The path of the first of these programs that is installed. The first is also the name of Debian's package.

    If none is installed, the test is skipped or fails, as `missing` says.
    """
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    missing(f"{' or '.join(names)} is not installed (apt-get install {names[0]})")
