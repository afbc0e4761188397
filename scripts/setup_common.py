"""What the set-up scripts share: where things are, how they speak, how they fail.

The scripts need Python 3.8 or later and nothing outside its standard library. Results go to standard output, one line
about each thing done goes to standard error, and a failure is one sentence with what was tried and what to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

TOP = Path(__file__).resolve().parent.parent
TOOLS = Path(os.path.abspath(os.environ.get("TOOLS_DIR") or TOP / ".tools"))


def say(what: str) -> None:
    """Reports one step, off standard output so that results stay machine-readable."""
    print(f"set-up: {what}", file=sys.stderr, flush=True)


def fail(what: str) -> NoReturn:
    """Ends the script with exit status 1."""
    print(f"error: {what}", file=sys.stderr, flush=True)
    sys.exit(1)


def run(command: list[str | Path], **options) -> subprocess.CompletedProcess[str]:
    """Runs a command at the top of the clone, its output captured; a missing program is a failed command.

    At the top, because that is where rustup finds the pinned toolchain.
    """
    try:
        return subprocess.run(command, cwd=options.pop("cwd", TOP), capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, **options)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: {error.strerror}")


def reason(failed: subprocess.CompletedProcess[str]) -> str:
    """The line of a failed command's output that says why, as far as one line can."""
    lines = [line.strip() for line in failed.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "e:"))]
    return errors[0] if errors else lines[-1] if lines else f"exit status {failed.returncode}"
