"""Who owns a data directory. tests/storage/embedded/test_valkey.py has owners that are killed."""

import os
from pathlib import Path

import pytest

from playhead.storage.embedded.data_dir import (
    SOCKET_PATH_MAX_BYTES,
    DataDir,
    DataDirLocked,
    EmbeddedStoreFailed,
    running_url,
    url_of,
)


def nothing() -> None:
    """At a safe point, where no signal is held back."""


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the owner's process. A released directory can be owned again."""
    monkeypatch.setattr("playhead.storage.embedded.data_dir.LOCK_GRACE_S", 0.05)
    first, second = DataDir(tmp_path / "data"), DataDir(tmp_path / "data")
    first.own(nothing)
    with pytest.raises(DataDirLocked, match=rf"pid {os.getpid()}\)"):
        second.own(nothing)
    second.release()
    first.release()
    second.own(nothing)
    second.release()
    second.release()


def test_the_socket_of_a_long_path_is_elsewhere(tmp_path: Path) -> None:
    """In a private directory, which is removed when the data directory is released."""
    for folder, inside in (("data", True), ("d" * SOCKET_PATH_MAX_BYTES, False)):
        directory = DataDir(tmp_path / folder)
        directory.own(nothing)
        _, path = directory.take_server_lock(nothing)
        assert len(os.fsencode(path)) <= SOCKET_PATH_MAX_BYTES or inside
        assert (path.parent == directory.path) == inside
        directory.release()
        assert path.parent.exists() == inside


def test_a_directory_without_a_server_has_no_url(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedStoreFailed, match="No store answers"):
        running_url(tmp_path)


def test_a_url_escapes_the_path() -> None:
    assert url_of(Path("/run/a b?c")) == "unix:///run/a%20b%3Fc"
