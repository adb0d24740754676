"""Help that fits a screen, completion, and what a stopped run says."""

from __future__ import annotations

import re
import subprocess

import pytest

from onnxdfq.cli import VERBS, main


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_of_each_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert VERBS[verb].EXAMPLE in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_a_screen(verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*([verb] if verb else []), "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("verb", [verb for verb in VERBS if hasattr(VERBS[verb], "COMMON")])
def test_what_help_leaves_out_is_in_help_all(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            main([verb, option])
        shown.append(set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)))
    assert shown[0] < shown[1]
    assert {name for name in VERBS[verb].COMMON if name.startswith("--")} <= shown[0]
    assert "--device" in shown[1] - shown[0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_shells_complete(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    assert ended.value.code == 0
    script = capsys.readouterr().out
    for word in (*VERBS, "rollback", "ort-cpu", "balanced"):
        assert word in script
    if shell == "bash":
        ask = f"{script}\nCOMP_WORDS=(onnxdfq quantize --tar); COMP_CWORD=2; _shtab_onnxdfq; echo ${{COMPREPLY[@]}}"
        assert subprocess.run(["bash", "-c", ask], capture_output=True, text=True).stdout.strip() == "--target"


@pytest.mark.parametrize(
    ("verb", "given", "said"),
    [
        ("quantize", [], "; with --cache DIR a run can go on"),
        ("quantize", ["--recipe", "accurate"], "; with --cache DIR and --checkpoints DIR a run can go on"),
        ("quantize", ["--recipe", "auto"], "; with --cache DIR and --checkpoints DIR a run can go on"),
        ("quantize", ["--recipe", "accurate", "--time-budget", "5m"], "; with --cache DIR a run can go on"),
        ("quantize", ["--images", "mine"], ""),
        ("synth", ["-o", "x.npz", "--images", "mine"], "; with --cache DIR a run can go on"),
        ("quantize", ["--cache", "kept"], "; the same command goes on with what is in kept"),
        ("quantize", ["--cache", "a", "--checkpoints", "b"], "; the same command goes on with what is in a and b"),
        ("inspect", [], ""),
    ],
)
def test_a_run_that_is_stopped_says_how_to_go_on(
    verb: str, given: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VERBS[verb], "run", stopped)
    assert main([verb, "model.onnx", *given]) == 130
    assert capsys.readouterr().err == f"onnxdfq: stopped; no result was written{said}\n"
