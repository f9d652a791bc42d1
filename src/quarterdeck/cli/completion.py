"""`completion`: scripts for the shells."""

from __future__ import annotations

import sys
from typing import Literal

from quarterdeck.cli import exit_codes


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the completion script of a shell. Put it where the shell looks:

    bash: ~/.bash_completion
    zsh: a folder of your fpath, as _quarterdeck, then run compinit
    fish: ~/.config/fish/completions/quarterdeck.fish
    """
    from quarterdeck.cli.main import build

    sys.stdout.write(build().generate_completion(prog_name="quarterdeck", shell=shell))
    return exit_codes.OK
