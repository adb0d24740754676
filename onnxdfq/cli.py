"""The command line: arguments in, exit code out.

0 done, 1 a mistake that the message says how to mend, 2 a mistake of ours, 3 `check` found errors, 4 `quantize` wrote a
model that misses what was demanded of it, 130 stopped by the user.
"""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from onnxdfq.errors import OnnxdfqError
from onnxdfq.recipes import AUTO, CHEAPEST_FIRST, RECIPES
from onnxdfq.verbs import check, compare, completion, explain, inspect, quantize, retarget, run, synth, targets
from onnxdfq.verbs.parser import Parser
from passes.errors import PassError

VERBS: Mapping[str, ModuleType] = {
    "quantize": quantize, "inspect": inspect, "check": check, "compare": compare, "explain": explain,
    "retarget": retarget, "synth": synth, "run": run, "targets": targets,
}  # fmt: skip
USER_ERROR, INTERNAL_ERROR, INTERRUPTED = 1, 2, 130
CODES = (
    "exit codes: 0 done; 1 something you can mend; 2 a mistake of ours; 3 `check` found errors; 4 `quantize` wrote a \
model that misses --min-agreement or --max-drop; 130 stopped"
)
NO_MEMORY = re.compile("out of memory|allocate memory", re.IGNORECASE)  # in errors of torch and of ONNX Runtime


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    parsed = argparse.Namespace()
    try:
        parsed = _parser().parse_args(arguments)
        return int(VERBS[parsed.command].run(parsed) or 0)
    except OnnxdfqError as error:
        print(f"onnxdfq: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except PassError as error:
        print(f"onnxdfq: {error}. This is a bug: please report it with the model", file=sys.stderr)
        return INTERNAL_ERROR
    except BrokenPipeError:
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"onnxdfq: stopped; no result was written{_how_to_go_on(parsed)}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # whatever slipped through: one line with its place, never a traceback
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            print("onnxdfq: out of memory. Use a smaller --input-shape or another machine", file=sys.stderr)
            return USER_ERROR
        place = traceback.extract_tb(error.__traceback__)[-1]
        line = next(iter(str(error).splitlines()), "")[:200]
        where = f"{Path(place.filename).name}:{place.lineno}"
        print(f"onnxdfq: {type(error).__name__} in {where}: {line}. This is a bug: please report it", file=sys.stderr)
        return INTERNAL_ERROR


def _how_to_go_on(parsed: argparse.Namespace) -> str:
    """What a run that was stopped left behind, or might have."""
    kept = [str(folder) for name in ("cache", "checkpoints") if (folder := getattr(parsed, name, None)) is not None]
    if kept:
        return f"; the same command goes on with what is in {' and '.join(kept)}"
    made = hasattr(parsed, "cache") and (parsed.command == "synth" or parsed.images is None or parsed.source)
    possible = ["--cache DIR"] if made else []
    name = getattr(parsed, "recipe", "")
    recipe = RECIPES.get(CHEAPEST_FIRST[-1] if name == AUTO else name)
    learns = recipe is not None and recipe.tuning and parsed.time_budget is None
    possible += ["--checkpoints DIR"] if learns else []
    return f"; with {' and '.join(possible)} a run can go on" if possible else ""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="onnxdfq", usage="onnxdfq VERB ...", description="Quantize ONNX models without data.", epilog=CODES
    )
    completion.add(parser)
    verbs = parser.add_subparsers(dest="command", required=True, metavar="VERB", title="verbs", prog="onnxdfq")
    for name, verb in VERBS.items():
        common = getattr(verb, "COMMON", ())
        about, example = f"{verb.HELP}.", f"example: {verb.EXAMPLE}"
        verb.arguments(verbs.add_parser(name, help=verb.HELP, description=about, epilog=example, common=common))
    return parser


if __name__ == "__main__":
    sys.exit(main())
