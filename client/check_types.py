"""Check the types of playhead.js, and that playhead.d.ts is what TypeScript makes of it; `--write` makes it so.

Needs node and npm. The compiler is fetched once, into .cache/client; a fetch that fails is tried again a few times.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLIENT = Path(__file__).parent
CACHE = CLIENT.parent / ".cache" / "client"
TYPESCRIPT = "typescript@7.0.2"
OPTIONS = ["--declaration", "--emitDeclarationOnly", "--allowJs", "--checkJs", "--strict", "--noUnusedLocals"]
OPTIONS += ["--target", "esnext", "--module", "esnext", "--lib", "esnext,dom,dom.iterable", "--types", ""]
TSC = Path("node_modules", ".bin", "tsc")
NPM_INSTALL = ["npm", "install", "--loglevel", "error", "--no-save", "--no-audit", "--no-fund"]
NPM_WITHIN_S, TSC_WITHIN_S = 120, 120
INSTALL_ATTEMPTS = 3
INSTALL_AGAIN_S = 5.0
"""Between two attempts: a registry that is busy or a network that is away for a moment is there again."""


class Failed(Exception):
    """A program did not do what it was asked to; the message says which one, how it ended and what it said."""


def run(command: list[str], within_s: float) -> None:
    """Raises Failed: it did not end with 0, or not in time."""
    shown = " ".join(command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=within_s)  # noqa: S603
    except OSError as error:
        raise Failed(f"{shown}: cannot be run ({error})") from None
    except subprocess.TimeoutExpired as error:
        said = [part.decode(errors="replace") for part in (error.stdout, error.stderr) if isinstance(part, bytes)]
        raise Failed("\n".join([f"{shown}: has not ended within {within_s:g} s; it said:", *said])) from None
    if done.returncode:
        said = [part.rstrip() for part in (done.stdout, done.stderr) if part.strip()]
        raise Failed("\n".join([f"{shown}: ended with {done.returncode}; it said:", *(said or ["nothing"])]))


def compiler() -> Path:
    """tsc of the pinned version. Raises Failed: npm did not install it, however often it was tried."""
    tsc = CACHE / TYPESCRIPT / TSC
    attempt = 1
    while not tsc.exists():
        try:
            _install()
        except Failed as error:
            if attempt == INSTALL_ATTEMPTS:
                raise
            print(f"check_types: attempt {attempt} of {INSTALL_ATTEMPTS}: {error}", file=sys.stderr)
            attempt += 1
            time.sleep(INSTALL_AGAIN_S)
    return tsc


def _install() -> None:
    """Into a folder of its own, which takes its place when the compiler runs: half an install is never found there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as folder:
        run([*NPM_INSTALL, "--prefix", folder, TYPESCRIPT], NPM_WITHIN_S)
        run([str(Path(folder, TSC)), "--version"], TSC_WITHIN_S)
        with contextlib.suppress(OSError):  # somebody else was faster
            Path(folder).rename(CACHE / TYPESCRIPT)


def declared() -> str:
    """The declarations of playhead.js. Raises Failed: they can't be made, with what the compiler says."""
    with tempfile.TemporaryDirectory() as folder:
        run([str(compiler()), str(CLIENT / "playhead.js"), *OPTIONS, "--outDir", folder], TSC_WITHIN_S)
        return Path(folder, "playhead.d.ts").read_text()


def main() -> int:
    if not shutil.which("npm"):
        print("check_types: SKIPPED, npm is not installed: the SDK's types were not checked", file=sys.stderr)
        return 2 if os.environ.get("CI") else 0
    try:
        made = declared()
    except Failed as error:
        print(f"check_types: {error}", file=sys.stderr)
        return 1
    committed = CLIENT / "playhead.d.ts"
    if "--write" in sys.argv[1:]:
        committed.write_text(made)
    elif committed.read_text() != made:
        print("check_types: playhead.d.ts is not what playhead.js says; python client/check_types.py --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
