"""What a terminal gets, and what goes where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="terminals are tried where there are any")
ESCAPE = b"\x1b"


def plain_environment() -> dict[str, str]:
    """Without what asks for colours, or for none."""
    asking = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    return {name: value for name, value in os.environ.items() if name not in asking}


def on_a_terminal(*arguments: str | Path, **environment: str) -> bytes:
    """All that a command writes to a terminal that is its stdout and its stderr."""
    outer, inner = pty.openpty()
    known = plain_environment() | {"TERM": "xterm", **environment}
    command = [sys.executable, "-m", "onnxdfq.cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=inner, stderr=inner, env=known)
    os.close(inner)
    said = b""
    while True:
        try:
            part = os.read(outer, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    os.close(outer)
    assert process.wait() == 0, said
    return said


def test_a_terminal_gets_styles_and_bars(small: Path) -> None:
    said = on_a_terminal("quantize", small, "--recipe", "fast", "--target", "ort-cpu")
    assert ESCAPE in said
    assert b"ETA" in said


@pytest.mark.parametrize("verb", ["quantize", "targets"])
def test_no_color_means_plain_lines_even_there(verb: str, small: Path) -> None:
    given = {"quantize": ("quantize", small, "--recipe", "fast", "--target", "ort-cpu"), "targets": ("targets",)}
    said = on_a_terminal(*given[verb], NO_COLOR="1")
    assert ESCAPE not in said
    assert b"ort-cpu" in said


def test_a_pipe_gets_plain_lines(small: Path) -> None:
    command = [sys.executable, "-m", "onnxdfq.cli", "quantize", str(small), "--recipe", "fast"]
    done = subprocess.run(command, capture_output=True, check=True, env=plain_environment())
    assert ESCAPE not in done.stdout + done.stderr
    assert b"make images" in done.stderr
    assert b"make images" not in done.stdout.split(b"time")[0]
