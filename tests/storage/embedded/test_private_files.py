"""The embedded store's files are private to its user, wherever its directory is and whatever others have put there."""

import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from playhead.storage.embedded import private_files
from playhead.storage.embedded.data_dir import running_url
from playhead.storage.embedded.private_files import NotPrivate, open_directory, open_file
from playhead.storage.embedded.valkey import EmbeddedStoreFailed, EmbeddedValkey
from tests.storage.embedded.test_valkey import get, put

ANOTHER = 65_534
"""A uid that no user has."""
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
MARKS = frozenset(("playhead.lock",))


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    """Run as if the process had been started without a umask."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def closed(path: Path, marks: frozenset[str] = MARKS) -> None:
    os.close(open_directory(path, marks))


def test_a_new_directory_and_all_in_it_are_closed_to_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Including files that the store writes later. Nothing is logged."""
    with EmbeddedValkey(tmp_path / "data") as valkey:
        put(valkey.url, "key", "value")
        inside = [valkey.data_dir, *valkey.data_dir.rglob("*")]
        assert {path.name for path in inside} >= {"data", "playhead.lock", "valkey.lock", "valkey.log", "appendonlydir"}
        assert [path for path in inside if mode(path) & 0o077] == []
    assert caplog.records == []


@pytest.mark.parametrize("was", [0o755, 0o750, 0o777, 0o701, 0o2770])
def test_an_open_data_directory_is_closed_with_one_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, was: int
) -> None:
    """With everything that an earlier run left in it."""
    with EmbeddedValkey(tmp_path / "data") as valkey:
        put(valkey.url, "key", "value")
    (tmp_path / "data").chmod(was)
    with EmbeddedValkey(tmp_path / "data") as valkey:
        assert get(valkey.url, "key") == "value"
        assert mode(valkey.data_dir) == 0o700
    (line,) = caplog.messages
    assert str(tmp_path / "data") in line
    assert f"{was:04o}" in line
    caplog.clear()
    closed(tmp_path / "data")
    assert caplog.messages == []


def test_an_open_directory_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Such as a home directory, or /tmp for root.

    An empty directory, such as a new volume, is accepted; a closed one may contain anything.
    """
    (tmp_path / "notes.txt").write_text("not ours")
    tmp_path.chmod(0o755)
    with pytest.raises(EmbeddedStoreFailed, match=r"contains other files.*empty.*chmod 700"), EmbeddedValkey(tmp_path):
        pass
    assert (mode(tmp_path), os.listdir(tmp_path)) == (0o755, ["notes.txt"])
    tmp_path.chmod(0o700)
    closed(tmp_path)
    (tmp_path / "volume" / "lost+found").mkdir(parents=True)
    closed(tmp_path / "volume")
    assert mode(tmp_path / "volume") == 0o700


@pytest.mark.parametrize("was", [0o755, 0o777])
def test_a_directory_of_another_user_is_refused_with_the_remedy(tmp_path: Path, was: int) -> None:
    """Root could use it, and would write wherever its owner redirects it."""
    theirs = Path("/usr")
    if os.geteuid() == 0:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        theirs.chmod(was)
        os.chown(theirs, ANOTHER, -1)
    before = os.listdir(theirs)
    with (
        pytest.raises(EmbeddedStoreFailed, match=r"belongs to .*uid.*chown.*another directory"),
        EmbeddedValkey(theirs),
    ):
        pass
    assert os.listdir(theirs) == before
    if os.geteuid() == 0:
        assert mode(theirs) == was
        with EmbeddedValkey(theirs / "new") as valkey:
            assert mode(valkey.data_dir) == 0o700, "as the message proposes"


@pytest.mark.parametrize("name", ["playhead.lock", "valkey.lock", "valkey.log"])
@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
def test_no_link_in_the_directory_is_followed(tmp_path: Path, name: str, there: bool) -> None:
    victim = tmp_path / "victim"
    if there:
        victim.write_text("precious")
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / name).symlink_to(victim)
    if name == "valkey.log":
        with EmbeddedValkey(data) as valkey:  # the old log is renamed, whatever it is
            put(valkey.url, "key", "value")
    else:
        with pytest.raises(EmbeddedStoreFailed, match=f"{name}.*symbolic link"), EmbeddedValkey(data):
            pass
    assert (victim.read_text() if there else victim.exists()) == ("precious" if there else False)


def test_a_log_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    """Each restart of the store opens the log again."""
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(NotPrivate, match="symbolic link"):
        open_file(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    assert not (tmp_path / "victim").exists()


def test_the_url_of_a_running_store_is_read_without_following_links(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / "data") as valkey:
        assert running_url(valkey.data_dir) == valkey.url
        lock = valkey.data_dir / "valkey.lock"
        lock.rename(tmp_path / "lock")
        lock.symlink_to(tmp_path / "lock")
        with pytest.raises(EmbeddedStoreFailed, match="symbolic link"):
            running_url(valkey.data_dir)


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_a_lock_is_a_regular_file(tmp_path: Path, kind: str) -> None:
    """Opening a FIFO would block forever."""
    tmp_path.chmod(0o700)
    path = tmp_path / "playhead.lock"
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    with pytest.raises(EmbeddedStoreFailed, match=r"playhead\.lock"), EmbeddedValkey(tmp_path):
        pass


@only_root
def test_files_that_others_put_into_an_open_directory_are_refused(tmp_path: Path) -> None:
    """A lock file, or an append-only file that the store would load."""
    for name in ("playhead.lock", "appendonlydir"):
        data = tmp_path / f"with {name}"
        data.mkdir()
        data.chmod(0o777)
        (data / name).mkdir() if name == "appendonlydir" else (data / name).touch()
        os.chown(data / name, ANOTHER, -1)
        with pytest.raises(EmbeddedStoreFailed, match=f"{name}.*may have put it there"), EmbeddedValkey(data):
            pass


@only_root
def test_a_lock_of_another_user_is_refused_even_in_a_closed_directory(tmp_path: Path) -> None:
    (tmp_path / "playhead.lock").write_text("")
    os.chown(tmp_path / "playhead.lock", ANOTHER, -1)
    with pytest.raises(EmbeddedStoreFailed, match=r"playhead.lock.*belongs to"), EmbeddedValkey(tmp_path):
        pass


def test_a_hard_link_is_refused_if_others_could_have_made_it(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    os.link(tmp_path / "victim", data / "playhead.lock")
    with pytest.raises(EmbeddedStoreFailed, match=r"playhead.lock.*may have put it there"), EmbeddedValkey(data):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_link_of_the_same_user_may_lead_to_the_directory(tmp_path: Path) -> None:
    """For example to a larger disk."""
    (tmp_path / "disk").mkdir(mode=0o755)
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    closed(tmp_path / "data")
    assert mode(tmp_path / "disk") == 0o700


@only_root
@pytest.mark.parametrize("where", ["data", "data/below"])
def test_a_link_of_another_user_is_refused(tmp_path: Path, where: str) -> None:
    """For example one that somebody put into /tmp beforehand."""
    (tmp_path / "victim").mkdir(mode=0o755)
    (tmp_path / "data").symlink_to(tmp_path / "victim")
    os.chown(tmp_path / "data", ANOTHER, -1, follow_symlinks=False)
    with pytest.raises(NotPrivate, match="symbolic link of"):
        closed(tmp_path / where)
    assert mode(tmp_path / "victim") == 0o755
    assert os.listdir(tmp_path / "victim") == []


@pytest.mark.parametrize(("above", "warned"), [(0o777, True), (0o1777, False), (0o755, False), (0o775, False)])
def test_a_parent_in_which_others_could_replace_the_directory_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, above: int, warned: bool
) -> None:
    (tmp_path / "above").mkdir()
    (tmp_path / "above").chmod(above)
    with caplog.at_level(logging.WARNING):
        closed(tmp_path / "above" / "data")
    assert [str(tmp_path / "above") in line for line in caplog.messages] == ([True] if warned else [])


@only_root
def test_a_parent_of_another_user_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    os.chown(tmp_path / "home", ANOTHER, -1)
    closed(tmp_path / "home" / "data")
    (line,) = caplog.messages
    assert str(ANOTHER) in line
    shutil.rmtree(tmp_path / "home")


def test_a_user_without_a_name_is_known_by_number() -> None:
    """As in a container whose user is not in /etc/passwd."""
    assert private_files._user(0) == "root (uid 0)"
    assert private_files._user(4_000_000_000) == "uid 4000000000"
