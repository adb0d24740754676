"""How a verb reads its arguments: one line for what is wrong, and help that fits a screen.

A verb with many options names those that most people need in COMMON: `--help` shows these, `--help-all` all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from onnxdfq.errors import OnnxdfqError


class Parser(argparse.ArgumentParser):
    """common: options, and names of positional arguments, that `--help` shows; all of them where none is named."""

    def __init__(self, *, common: Sequence[str] = (), **options: Any) -> None:
        super().__init__(add_help=not common, **options)
        self.common = frozenset(common)
        if common:
            self.add_argument("-h", "--help", nargs=0, action=_ShortHelp, help="these options")
            self.add_argument("--help-all", action="help", help="all options")

    def error(self, message: str) -> NoReturn:
        raise OnnxdfqError(message, f"`{self.prog} --help` lists what is possible")


class _ShortHelp(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, Parser)
        shown = parser.common | {"--help", "--help-all"}
        actions = [each for each in parser._actions if shown & {each.dest, *each.option_strings}]
        places = [each.dest for each in actions if not each.option_strings]
        usage = " ".join([parser.prog, *places, "[options]"])
        short = argparse.ArgumentParser(
            usage=usage, description=parser.description, epilog=parser.epilog, add_help=False
        )
        for each in actions:  # without the headings of their groups
            short._add_action(each)
        short.print_help()
        parser.exit()
