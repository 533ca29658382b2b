"""The Lua files beside this one, called by their hashes."""

import importlib.resources
from hashlib import sha1
from typing import Any

PARTS = {"recount": ("entry",), "forget": ("entry",)}
"""Files that a script begins with."""


class Script:
    """One Lua file, behind its parts."""

    def __init__(self, name: str) -> None:
        folder = importlib.resources.files("playhead.storage").joinpath("lua")
        files = (*PARTS.get(name, ()), name)
        self.text = "".join(folder.joinpath(f"{file}.lua").read_text("utf-8") for file in files)
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: list[str], *args: Any) -> tuple[Any, ...]:
        return ("EVALSHA", self.sha, len(keys), *keys, *args)
