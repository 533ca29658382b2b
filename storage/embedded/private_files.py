"""Files and directories of this process's user alone: open ones are closed, what others have planted is refused.

A symbolic link in a directory that others can write would have us write to whatever it leads to, and a file of theirs
would be theirs to read. So files are opened without following links, and must be regular ones of our own.
"""

import errno
import logging
import os
import pwd
import stat
from pathlib import Path

logger = logging.getLogger(__name__)

UMASK = 0o077
"""Of this process and of the servers that it starts: whatever they create is their user's alone."""
OTHERS = 0o077
WRITABLE = 0o022
_OF_EVERY_DISK = {"lost+found"}


class NotPrivate(OSError):
    """Others could read or exchange what is kept there; `strerror` says what is wrong, and the remedy."""

    def __init__(self, name: str | Path, reason: str) -> None:
        super().__init__(errno.EPERM, reason, os.fspath(name))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def open_directory(path: Path, marks: frozenset[str]) -> int:
    """A descriptor of a directory, made if it is missing, that nobody else can enter from now on.

    Args:
        marks: names of entries by which a directory is known as ours. Another one, with others' files in it, is not
            closed: it might be one that others need.

    Raises:
        NotPrivate: it belongs to somebody else, or is not for us alone.
        OSError: it can't be made or opened.
    """
    _refuse_links(path)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _close(path, descriptor, marks)
        _warn_of_parents(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_file(name: str | Path, flags: int, directory: int | None = None) -> int:
    """A descriptor of a regular file of our own, made for us alone if `flags` create it. No link is followed.

    Raises:
        NotPrivate: it is a link, no regular file, or somebody else's.
        OSError: it can't be made or opened.
    """
    safe = flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # to open a FIFO could take for ever
    try:
        descriptor = os.open(name, safe, 0o600, dir_fd=directory)
    except OSError:
        if _is_link(name, directory):
            raise NotPrivate(name, "it is a symbolic link, so it is not followed: remove it") from None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotPrivate(name, "it is no regular file: remove it")
        if found.st_uid != os.geteuid():
            raise NotPrivate(name, f"it belongs to {_user(found.st_uid)}, not to {_user(os.geteuid())}: remove it")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _close(path: Path, descriptor: int, marks: frozenset[str]) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        us = _user(os.geteuid())
        raise NotPrivate(
            path,
            f"it belongs to {_user(found.st_uid)}, but this process runs as {us}: chown it to {us}, run as its owner, "
            "or name another directory, such as a new one inside it",
        )
    mode = stat.S_IMODE(found.st_mode)
    if not mode & OTHERS:
        return
    entries = set(os.listdir(descriptor)) - _OF_EVERY_DISK
    if entries and not entries & marks:
        raise NotPrivate(
            path,
            f"it is open to others (mode {mode:04o}) and holds other files: name an empty directory, "
            f"or close this one yourself (chmod 700 {path})",
        )
    os.fchmod(descriptor, 0o700)
    logger.warning("The directory %s was open to others (mode %04o): it is closed now (0700)", path, mode)
    for entry in sorted(entries) if mode & WRITABLE else ():
        inside = os.stat(entry, dir_fd=descriptor, follow_symlinks=False)
        if inside.st_uid != os.geteuid() or (stat.S_ISREG(inside.st_mode) and inside.st_nlink > 1):
            raise NotPrivate(path / entry, "others could write to its directory, and may have put it there: look at it")


def _refuse_links(path: Path) -> None:
    """Links of root's or of our own lead where we want; another user's may lead anywhere."""
    for each in (path, *path.parents):
        try:
            found = each.lstat()
        except OSError:
            continue
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid()):
            raise NotPrivate(each, f"it is a symbolic link of {_user(found.st_uid)}, so it is not followed")


def _warn_of_parents(path: Path) -> None:
    for each in path.resolve().parents:
        found = each.stat()
        shared = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if shared or found.st_uid not in (0, os.geteuid()):
            who = "everybody" if shared else _user(found.st_uid)
            logger.warning(
                "%s can be written by %s, who could put another directory in the place of %s", each, who, path
            )


def _is_link(name: str | Path, directory: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _user(number: int) -> str:
    try:
        return f"{pwd.getpwuid(number).pw_name} (uid {number})"
    except KeyError:
        return f"uid {number}"
