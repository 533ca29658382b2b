"""Check the types of the SDK and its adapters, and that TypeScript generates their .d.ts files; `--write` writes them.

Needs node and npm. The compiler is downloaded once, into .cache/client; a failed download is retried a few times.
Run it as `python -m tests.browser.check_types`. It is here, not in client/, because client/ is installed.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client"
CACHE = ROOT / ".cache" / "client"
TYPESCRIPT = "typescript@7.0.2"
PUBLISHED = ["playhead.js", "forget.js", "adapters/hls.js", "adapters/videojs.js", "adapters/vidstack.js"]
OPTIONS = ["--declaration", "--emitDeclarationOnly", "--allowJs", "--checkJs", "--strict", "--noUnusedLocals"]
OPTIONS += ["--target", "esnext", "--module", "esnext", "--lib", "esnext,dom,dom.iterable", "--types", ""]
TSC = Path("node_modules", ".bin", "tsc")
NPM_INSTALL = ["npm", "install", "--loglevel", "error", "--no-save", "--no-audit", "--no-fund"]
NPM_WITHIN_S, TSC_WITHIN_S = 120, 120
INSTALL_ATTEMPTS = 3
INSTALL_AGAIN_S = 5.0
"""Between two attempts: long enough for a busy registry or an interrupted network to recover."""


class Failed(Exception):
    """A program failed; the message has its command line, how it ended and its output."""


def run(command: list[str], within_s: float) -> None:
    """Run a command. Raises Failed: it exited with another code than 0, or not in time."""
    shown = " ".join(command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=within_s)
    except OSError as error:
        raise Failed(f"{shown}: cannot be run ({error})") from None
    except subprocess.TimeoutExpired as error:
        output = [part.decode(errors="replace") for part in (error.stdout, error.stderr) if isinstance(part, bytes)]
        raise Failed("\n".join([f"{shown}: has not ended within {within_s:g} s; its output:", *output])) from None
    if done.returncode:
        output = [part.rstrip() for part in (done.stdout, done.stderr) if part.strip()]
        raise Failed("\n".join([f"{shown}: ended with {done.returncode}; its output:", *(output or ["none"])]))


def compiler() -> Path:
    """The path of the pinned tsc, installed first where it is missing. Raises Failed: no attempt installed it."""
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
    """Install into a temporary folder and rename it once the compiler runs, so that half an install is never used."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as folder:
        run([*NPM_INSTALL, "--prefix", folder, TYPESCRIPT], NPM_WITHIN_S)
        run([str(Path(folder, TSC)), "--version"], TSC_WITHIN_S)
        with contextlib.suppress(OSError):  # another process was faster
            Path(folder).rename(CACHE / TYPESCRIPT)


def declared() -> dict[Path, str]:
    """Generate the declarations of the published modules. Raises Failed: with the compiler's errors."""
    with tempfile.TemporaryDirectory() as folder:
        modules = [str(CLIENT / name) for name in PUBLISHED]
        run([str(compiler()), *modules, *OPTIONS, "--rootDir", str(CLIENT), "--outDir", folder], TSC_WITHIN_S)
        names = [Path(name).with_suffix(".d.ts") for name in PUBLISHED]
        return {CLIENT / name: Path(folder, name).read_text() for name in names}


def main() -> int:
    if not shutil.which("npm"):
        print("check_types: SKIPPED, npm is not installed: the SDK's types were not checked", file=sys.stderr)
        return 2 if os.environ.get("CI") else 0
    try:
        made = declared()
    except Failed as error:
        print(f"check_types: {error}", file=sys.stderr)
        return 1
    if "--write" in sys.argv[1:]:
        for file, text in made.items():
            file.write_text(text)
    stale = [
        str(file.relative_to(CLIENT)) for file, text in made.items() if not file.exists() or file.read_text() != text
    ]
    if stale:
        print(f"check_types: out of date: {', '.join(stale)}; run: python -m tests.browser.check_types --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
