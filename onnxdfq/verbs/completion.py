"""`onnxdfq --print-completion SHELL`: a script that lets a shell complete verbs, options and files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh")


def add(parser: argparse.ArgumentParser) -> None:
    """Put the option into the parser of the program."""
    parser.add_argument(
        "--print-completion",
        action=_Print,
        choices=SHELLS,
        metavar="SHELL",
        help='bash, zsh, fish or tcsh: eval "$(onnxdfq --print-completion bash)"',
    )


class _Print(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        import shtab  # here, and all below as well: --help has to be quick

        _fill_in(parser)
        print(shtab.complete(parser, values))
        parser.exit()


def _fill_in(parser: argparse.ArgumentParser) -> None:
    """What an option takes, where it is one of a few or a file."""
    import shtab

    from onnxdfq.images.sources import KINDS
    from onnxdfq.recipes import AUTO, RECIPES
    from passes.targets import TARGETS

    known = {"--target": tuple(TARGETS), "--recipe": (*RECIPES, AUTO), "--source": tuple(KINDS),
             "--device": ("auto", "cpu", "cuda")}  # fmt: skip
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _fill_in(verb)
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        for name in action.option_strings:
            action.choices = known.get(name, action.choices)
