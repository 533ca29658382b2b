"""Files and directories that only this process's user can access. Open ones are closed; others' files are refused.

A symbolic link in a directory that others can write to could make us overwrite any file, and a file that others own
could be read by them. So files are opened without following links, and must be regular files of this user.
"""

import errno
import logging
import os
import pwd
import stat
from pathlib import Path

logger = logging.getLogger(__name__)

UMASK = 0o077
"""The umask of this process and of the servers that it starts: only their user can access what they create."""
OTHERS = 0o077
WRITABLE = 0o022
_OF_EVERY_DISK = {"lost+found"}


class NotPrivate(OSError):
    """Other users could read or replace a file; `strerror` says what is wrong and how to fix it."""

    def __init__(self, name: str | Path, reason: str) -> None:
        super().__init__(errno.EPERM, reason, os.fspath(name))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def open_directory(path: Path, marks: frozenset[str]) -> int:
    """Open a directory, which is created if it is missing and closed to other users.

    Args:
        marks: names of entries that identify a directory as the service's own. A directory that is open to others and
            has other entries only is refused instead of closed, because others may need it.

    Returns:
        A descriptor of the directory.

    Raises:
        NotPrivate: the directory belongs to another user, or is open to others and not known to be the service's own.
        OSError: the directory can't be created or opened.
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
    """Open a regular file of this user without following links. If `flags` create it, only this user can access it.

    Returns:
        A descriptor of the file.

    Raises:
        NotPrivate: the file is a link, is not regular, or belongs to another user.
        OSError: the file can't be created or opened.
    """
    safe = flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # opening a FIFO could block forever
    try:
        descriptor = os.open(name, safe, 0o600, dir_fd=directory)
    except OSError:
        if _is_link(name, directory):
            raise NotPrivate(name, "it is a symbolic link, which is not followed: remove it") from None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotPrivate(name, "it is not a regular file: remove it")
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
            "or choose another directory, such as a new one inside it",
        )
    mode = stat.S_IMODE(found.st_mode)
    if not mode & OTHERS:
        return
    entries = set(os.listdir(descriptor)) - _OF_EVERY_DISK
    if entries and not entries & marks:
        raise NotPrivate(
            path,
            f"it is open to other users (mode {mode:04o}) and contains other files: choose an empty directory, "
            f"or close this one yourself (chmod 700 {path})",
        )
    os.fchmod(descriptor, 0o700)
    logger.warning("The directory %s was open to other users (mode %04o) and has been closed (0700)", path, mode)
    for entry in sorted(entries) if mode & WRITABLE else ():
        inside = os.stat(entry, dir_fd=descriptor, follow_symlinks=False)
        if inside.st_uid != os.geteuid() or (stat.S_ISREG(inside.st_mode) and inside.st_nlink > 1):
            raise NotPrivate(
                path / entry, "other users could write to its directory and may have put it there: inspect it"
            )


def _refuse_links(path: Path) -> None:
    """Refuse a path through a symbolic link, unless the link belongs to root or to this user."""
    for each in (path, *path.parents):
        try:
            found = each.lstat()
        except OSError:
            continue
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid()):
            raise NotPrivate(each, f"it is a symbolic link of {_user(found.st_uid)}, which is not followed")


def _warn_of_parents(path: Path) -> None:
    for each in path.resolve().parents:
        found = each.stat()
        shared = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if shared or found.st_uid not in (0, os.geteuid()):
            who = "everyone" if shared else _user(found.st_uid)
            logger.warning("%s is writable by %s, who could replace the directory %s", each, who, path)


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
