"""The Lua files beside this one, called by their hashes."""

import importlib.resources
from hashlib import sha1
from typing import Any


class Script:
    """One Lua file."""

    def __init__(self, name: str) -> None:
        self.text = importlib.resources.files("storage").joinpath("lua", f"{name}.lua").read_text("utf-8")
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: list[str], *args: Any) -> tuple[Any, ...]:
        return ("EVALSHA", self.sha, len(keys), *keys, *args)
