"""Record a command in a real pseudo-terminal as an SVG image for the docs.

    python tools/record.py docs/images/demo.svg quarterdeck demo

The terminal is 100 columns wide. Paths of the scratch directory and times are left as they were: it is
a recording. The image names no font server, unlike Rich's own template.
"""

from __future__ import annotations

import io
import os
import pty
import re
import struct
import subprocess
import sys
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 100, 50


def record(command: list[str]) -> str:
    """What the command wrote to its terminal."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        data = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the last writer is gone
                break
            if not piece:
                break
            data += piece
    os.close(ours)
    if process.returncode:
        sys.exit(f"{command[0]} ended with {process.returncode}")
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def main() -> None:
    target, *command = sys.argv[1:]
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(f"$ {' '.join(command)}\n" + record(command)))
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    template = template.replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono")
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(console.export_svg(title=" ".join(command), code_format=template))


if __name__ == "__main__":
    main()
