"""Make the demo film: 90 seconds, each of which shows its number.

With the time in every frame, a resume, a seek or a retention curve can be checked by eye. The film is small enough for
the repository and has a key frame every second, so that seeks are exact.

    python examples/make_video.py [OUTPUT.webm]

Needs an ffmpeg with libvpx and fontconfig; the font is selected by family name.
"""

import argparse
import subprocess
import sys
from pathlib import Path

OUTPUT = Path(__file__).parent / "player" / "numbered.webm"

DURATION_S = 90
FRAMES_PER_S = 12
WIDTH, HEIGHT = 640, 360
BAR_HEIGHT = 18

FONT = "DejaVu Sans Mono"
BACKGROUND, TRACK, BAR, INK, FAINT = "0x14213d", "0x24365f", "0xfca311", "0xffffff", "0x9fb3d9"


def filter_graph() -> str:
    """The filters that draw three plain colours and two lines of text, animated by the frame number, which is exact.

    The bar is at the top, because the controls of a player cover the bottom.
    """
    second = f"floor(n/{FRAMES_PER_S})"
    number = integer(second)
    clock = integer(f"floor({second}/60)", digits=2) + r"\:" + integer(f"mod({second},60)", digits=2)
    return ";".join(
        [
            "[0][1]overlay=0:0[track]",
            f"[track][2]overlay=x='-w+w*(n+1)/{DURATION_S * FRAMES_PER_S}':y=0[bar]",
            f"[bar]{line(number, size=200, colour=INK, y=54)}[number]",
            f"[number]{line(clock, size=52, colour=FAINT, y=258)}",
        ]
    )


def integer(expression: str, *, digits: int = 1) -> str:
    """ffmpeg's text expansion for a number that changes from frame to frame."""
    return rf"%{{eif\:{expression}\:d\:{digits}}}"


def line(value: str, *, size: int, colour: str, y: int) -> str:
    """A centred line of text. Digits of a monospaced font have one size, so that it does not jump while counting."""
    return f"drawtext=font='{FONT}':text='{value}':fontsize={size}:fontcolor={colour}:x=(w-text_w)/2:y={y}"


def command(output: Path) -> list[str]:
    def plate(colour: str, height: int) -> list[str]:
        source = f"color=c={colour}:s={WIDTH}x{height}:r={FRAMES_PER_S}:d={DURATION_S}"
        return ["-f", "lavfi", "-i", source]

    return [
        *("ffmpeg", "-hide_banner", "-loglevel", "error", "-y"),
        *plate(BACKGROUND, HEIGHT),
        *plate(TRACK, BAR_HEIGHT),
        *plate(BAR, BAR_HEIGHT),
        *("-filter_complex", filter_graph()),
        *("-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p", "-crf", "36", "-b:v", "0"),
        *("-g", str(FRAMES_PER_S), "-keyint_min", str(FRAMES_PER_S)),
        *("-deadline", "good", "-cpu-used", "2", "-row-mt", "1"),
        # Reproducible with the same ffmpeg; the index in front, so that seeking works before the download is complete.
        *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-cues_to_front", "1"),
        str(output),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the demo film.")
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT)
    output: Path = parser.parse_args().output
    try:
        subprocess.run(command(output), check=True)  # noqa: S603 - no shell, and only OUTPUT comes from outside
    except FileNotFoundError:
        print("make_video: ffmpeg is not installed (apt-get install ffmpeg)", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failed:
        print(f"make_video: ffmpeg failed with status {failed.returncode}", file=sys.stderr)
        return 1
    print(f"{output}: {DURATION_S} s, {output.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
