"""What README and docs/ tell people to type is typed here, and what they point to is there."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from onnxdfq.cli import VERBS, main
from passes.lint import RULES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = ("pip install .", "trtexec ", "eval ")  # what installs, needs TensorRT, or is for a shell's own settings
LEARNING = ("accurate", "qimera", "adadfq", "gdfq", "auto")


def blocks(page: Path, language: str) -> Iterator[str]:
    """Fenced blocks of a language; those of README that are only indented are commands."""
    text = page.read_text(encoding="utf-8")
    yield from re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    if language == "sh" and page.name == "README.md":
        outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        yield from re.findall(r"^    ((?:onnxdfq|torchrun|make|pip|python) .*)$", outside, re.MULTILINE)


def commands() -> list[str]:
    """Every line to type, without its comment, once."""
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    return sorted({re.sub(r"\s+# .*", "", line).strip() for line in lines} - {""})


def ours() -> list[str]:
    found = [command.partition(" -- ")[2] if command.startswith("torchrun ") else command for command in commands()]
    return sorted(
        {command for command in found if command.startswith("onnxdfq ") and "--print-completion" not in command}
    )


def hurried(command: str) -> list[str]:
    """The arguments, with as little work as they can ask for."""
    arguments = shlex.split(re.sub(r"models/digits_mobilenet.onnx", "model.onnx", command))[1:]
    for option, little in (("--time-budget", "2s"), ("--effort", "1"), ("-n", "8"), ("--iterations", "2")):
        if option in arguments:
            arguments[arguments.index(option) + 1] = little
    learns = arguments[0] == "quantize" and any(recipe in arguments for recipe in LEARNING)
    if learns and "--iterations" not in arguments and "--time-budget" not in arguments:
        arguments += ["--iterations", "2"]
    made = arguments[0] in ("quantize", "synth") and "fast" not in arguments and "procedural" not in arguments
    if made and not {"--effort", "--time-budget", "--images"} & set(arguments):
        arguments += ["--effort", "1"]
    return arguments


@pytest.mark.parametrize("command", ours())
def test_a_command_does_what_it_is_there_for(command: str, desk: Callable[[], Path], capsys) -> None:
    desk()
    missing = {"quantize": (0, 4), "check": (0, 3)}  # a gate may not hold for such a model, a linter may find something
    code = main(hurried(command))
    said = capsys.readouterr()
    assert code in missing.get(command.split()[1], (0,)), said.err
    assert said.out.strip()


def test_nothing_else_is_to_be_typed_than_what_is_known() -> None:
    for command in commands():
        program = command.split()[0]
        if program == "make":
            assert re.search(
                rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
            ), command
        elif program == "python":
            assert (ROOT / command.split()[1]).is_file(), command
        elif program not in ("onnxdfq", "torchrun"):
            assert command.startswith(ELSEWHERE), command


PYTHON = [(page, number) for page in PAGES for number, _ in enumerate(blocks(page, "python"))]


@pytest.mark.parametrize(("page", "number"), PYTHON, ids=lambda each: getattr(each, "stem", str(each)))
def test_python_runs(page: Path, number: int, desk: Callable[[], Path]) -> None:
    import numpy as np

    desk()
    source = list(blocks(page, "python"))[number]
    if "openvino" in source:
        pytest.importorskip("openvino")
    exec(compile(source, str(page), "exec"), {"images": np.zeros((2, 3, 16, 16), np.float32)})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_every_rule_has_its_help_and_every_help_its_rule() -> None:
    said = re.findall(r"^### (.+)$", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(said) == sorted([*RULES, "invalid-onnx"])


def test_options_that_are_spoken_of_exist(capsys) -> None:
    known = {"--stronglyTyped", "--onnx", "--saveEngine", "--minShapes", "--optShapes", "--maxShapes", "--int8",
             "--fp16", "--no-python", "--nproc-per-node", "--runs", "--batch"}  # fmt: skip
    for verb in VERBS:
        for option in ("--help", "--help-all"):
            with contextlib.suppress(SystemExit):
                main([verb, option])
        known |= set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out))
    known |= {"--print-completion", "--help-all", "--help"}
    for page in PAGES:
        spoken = set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", page.read_text(encoding="utf-8")))
        assert spoken <= known, (page.name, spoken - known)
