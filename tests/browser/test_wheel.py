"""The wheel, built from a copy of the sources and installed outside of the checkout: it has all that it serves.

Nothing is downloaded: the empty environment is given the very versions that requirements.lock has put into .venv, and
of those only the ones that the wheel requires, so that a missing requirement fails here.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from packaging.requirements import Requirement
from playwright.sync_api import Page, expect

from tests.browser.conftest import ROOT, Server, until

pytestmark = pytest.mark.browser

SOURCES = (
    *("bench", "client", "examples", "playhead", "protocol", "server", "storage", "tests"),
    *("MANIFEST.in", "README.md", "pyproject.toml"),
)
BUILD_WITHIN_S = 300
CONSUMER = """
from playhead.client import Playhead, playhead_client

async def watch(url: str) -> int:
    async with playhead_client(url, device="consumer", user_id="u") as p:
        reveal_type(p)
        await p.watch("v", played=[(0.0, 1.0)], position=1.0, duration=90.0)
        return (await p.rest.get("v")).rev
"""


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command, which must succeed. PYTHONPATH would let it find the checkout."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=BUILD_WITHIN_S)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def wheel_of(sources: Path, into: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", into, sources, cwd=into.parent)
    [wheel] = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, for a build leaves files behind; its links are copied as links."""
    copy = tmp_path_factory.mktemp("sources") / "playhead"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(sources, tmp_path_factory.mktemp("wheel") / "out")


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment outside of the checkout that holds the wheel and what it requires, and nothing else."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home.parent)
    python = home / "bin" / "python"
    install = ("install", "-q", "--no-deps", "--no-index", wheel)
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, *install, cwd=home.parent)
    [packages] = home.glob("lib/python*/site-packages")
    installed = {path.name for path in packages.iterdir()}
    assert {name for name in installed if not name.endswith(".dist-info")} == {"playhead"}
    for each in requirements("playhead"):
        for name in {file.parts[0] for file in each.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / name).exists():
                (packages / name).symlink_to(Path(str(each.locate_file(name))))
    return home


def requirements(name: str, extras: tuple[str, ...] = ("",)) -> Iterator[Distribution]:
    """All distributions that one requires, and that those require."""
    for line in distribution(name).requires or ():
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
            yield distribution(needed.name)
            yield from requirements(needed.name, ("", *needed.extras))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"playhead"}
    for folder in ("client", "protocol", "server", "storage"):
        ours = {f"playhead/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {name for name in ours if "__pycache__" not in name} - names == set()
    assert {name.split("/")[2] for name in names if name.startswith("playhead/player/")} == {
        path.name for path in (ROOT / "examples" / "player").iterdir()
    }
    assert "playhead/py.typed" in names
    assert [member.filename for member in members if member.external_attr >> 16 & 0o111] == [], "none is a program"
    assert "Description-Content-Type: text/markdown" in metadata


def test_the_source_distribution_makes_the_same_wheel(sources: Path, wheel: Path, tmp_path: Path) -> None:
    """It has no tests and no bench."""
    make = f"import setuptools.build_meta as build; build.build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", make, cwd=sources)
    [made] = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        assert {name.split("/")[1] for name in archive.getnames() if "/" in name} == {
            *("MANIFEST.in", "PKG-INFO", "README.md", "playhead", "playhead.egg-info", "pyproject.toml", "setup.cfg")
        }
        archive.extractall(tmp_path, filter="data")
    [unpacked] = tmp_path.glob("playhead-*/")
    again = wheel_of(unpacked, tmp_path / "out")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert set(first.namelist()) == set(second.namelist())
        assert [name for name in first.namelist() if first.read(name) != second.read(name)] == []


def test_an_installed_wheel_serves_everything_and_stores_what_its_demo_plays(
    environment: Path, tmp_path: Path, new_page: Callable[[], Page]
) -> None:
    """Each page and file is served as it is in the checkout; a Chromium that plays the film is believed."""
    server = Server(tmp_path / "data", program=(str(environment / "bin" / "playhead"),), cwd=tmp_path)
    server.start()
    try:
        client, player = ROOT / "client", ROOT / "examples" / "player"
        files = {f"/client/{path.relative_to(client)}": path for path in client.rglob("*.[jt]s")}
        files |= {"/" if path.name == "index.html" else f"/{path.name}": path for path in player.iterdir()}
        assert {"/", "/client/playhead.js", "/client/playhead.d.ts", "/client/adapters/hls.js"} <= set(files)
        with httpx.Client(base_url=server.url) as http:
            for path, file in files.items():
                answer = http.get(path)
                assert (path, answer.status_code) == (path, httpx.codes.OK)
                assert answer.content == file.read_bytes(), path
        user, video = str(uuid4()), str(uuid4())
        page = new_page()
        page.goto(f"{server.url}/?user={user}&video={video}")
        expect(page.locator("#state")).to_have_text("Stored")
        page.evaluate("() => void document.querySelector('video').play()")
        until(lambda: server.progress(user, video).get("watchedDuration", 0) >= 2, "two seconds are stored")
    finally:
        server.stop()


def test_a_strict_consumer_type_checks_against_the_installed_wheel(environment: Path, tmp_path: Path) -> None:
    """py.typed is there, and the client's signatures are usable without a cast."""
    (tmp_path / "consumer.py").write_text(CONSUMER)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", environment / "bin" / "python")
    told = run(*mypy, "--cache-dir", tmp_path / "cache", "consumer.py", cwd=tmp_path)
    assert 'Revealed type is "playhead.client.playhead.Playhead"' in told
