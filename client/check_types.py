"""Check the types of playhead.js, and that playhead.d.ts is what TypeScript makes of it; `--write` makes it so.

Needs node and npm. The compiler is fetched once, into .cache/client.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CLIENT = Path(__file__).parent
CACHE = CLIENT.parent / ".cache" / "client"
TYPESCRIPT = "typescript@7.0.2"
OPTIONS = ["--declaration", "--emitDeclarationOnly", "--allowJs", "--checkJs", "--strict", "--noUnusedLocals"]
OPTIONS += ["--target", "esnext", "--module", "esnext", "--lib", "esnext,dom,dom.iterable", "--types", ""]
NPM_WITHIN_S, TSC_WITHIN_S = 180, 120


def compiler() -> Path:
    """tsc of the pinned version."""
    tsc = CACHE / TYPESCRIPT / "node_modules" / ".bin" / "tsc"
    if not tsc.exists():
        CACHE.joinpath(TYPESCRIPT).mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--no-save", "--no-audit", "--no-fund", "--prefix"]
        subprocess.run([*install, str(CACHE / TYPESCRIPT), TYPESCRIPT], check=True, timeout=NPM_WITHIN_S)  # noqa: S603
    return tsc


def declared() -> str:
    """The declarations of playhead.js. Raises CalledProcessError, with what is wrong as its output."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(compiler()), str(CLIENT / "playhead.js"), *OPTIONS, "--outDir", folder]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TSC_WITHIN_S)  # noqa: S603
        return Path(folder, "playhead.d.ts").read_text()


def main() -> int:
    if not shutil.which("npm"):
        print("check_types: SKIPPED, npm is not installed: the SDK's types were not checked", file=sys.stderr)
        return 2 if os.environ.get("CI") else 0
    try:
        made = declared()
    except subprocess.CalledProcessError as error:
        print(error.stdout, file=sys.stderr)
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
