"""`onnxdfq quantize --recipe dynadfq`: levels of one model, and for each image the one that is enough."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from onnxdfq.errors import OnnxdfqError
from onnxdfq.verbs import image_arguments

RECIPE = "dynadfq"
DEFAULT_TARGET = "ort-cpu"  # the others have no kernels that are dearer with more bits than 8, nor cheaper with fewer
# Options that say how one model is made, and their values when they are not given
OF_ONE_MODEL = {
    "act_bits": 8, "size_budget": None, "compensation": None, "plan": None, "plan_out": None, "float_type": "float32",
    "equalize": False, "epochs": None, "log": None, "checkpoints": None, "placement": "target",
    "max_drop": None, "rollback": False, "html": None,
}  # fmt: skip


def refuse_levels(parsed: argparse.Namespace) -> None:
    """Raise OnnxdfqError for bits and options that only levels have."""
    bits = parsed.bits if isinstance(parsed.bits, tuple) else (parsed.bits,)
    if len(bits) > 2 or "fp16" in bits or "fp32" in bits or isinstance(parsed.avg_bits, tuple):
        raise OnnxdfqError("several bits are levels, of which each image gets one", f"give --recipe {RECIPE}")
    if parsed.mean_cost is not None:
        raise OnnxdfqError("--mean-cost is what images may cost where their bits differ", f"give --recipe {RECIPE}")


def run(parsed: argparse.Namespace) -> int:
    # Imports wait until here: --help has to be quick.
    from onnxdfq.console import printer, progress_for
    from onnxdfq.dynamic.api import quantize_dynamic
    from onnxdfq.dynamic.tables import show_dynamic
    from onnxdfq.model_file import check_writable, write_bytes

    for name, default in OF_ONE_MODEL.items():
        if getattr(parsed, name) != default:
            option = f"--{name.replace('_', '-')}"
            raise OnnxdfqError(f"{option} is for one model, not for levels", f"leave it out, or --recipe {RECIPE}")
    targets = parsed.target or [DEFAULT_TARGET]
    if len(targets) > 1:
        raise OnnxdfqError(f"--recipe {RECIPE} makes a bundle for one target", "run it once for each")
    averages = parsed.avg_bits is not None
    if averages and parsed.bits != 8:
        raise OnnxdfqError("--bits and --avg-bits are both levels", "give one of them")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise OnnxdfqError(f"--recipe {RECIPE} runs in one process", "start it without torchrun")
    levels = parsed.avg_bits if averages else parsed.bits
    folder: Path = parsed.output or parsed.model.parent / f"{parsed.model.stem}.{targets[0]}.dynamic"
    if parsed.report is not None:
        check_writable(parsed.report, parsed.model)
    done = quantize_dynamic(
        parsed.model,
        levels if isinstance(levels, tuple) else (levels,),
        averages=averages,
        target=targets[0],
        output=folder,
        mean_cost=parsed.mean_cost,
        min_agreement=parsed.min_agreement,
        iterations=parsed.iterations,
        observer=parsed.observer,
        bias_correction=not parsed.no_bias_correction,
        evaluate=parsed.eval,
        all_layers=parsed.all_layers,
        rounding=parsed.rounding,
        scales=parsed.scales,
        config=parsed.config,
        compat=parsed.compat,
        **image_arguments.given(parsed),
        progress=progress_for(parsed.quiet),
    )
    text = json.dumps(done.report.to_json(), indent=1)
    if parsed.report is not None:
        write_bytes(text.encode(), parsed.report)
    if parsed.json:
        print(text)
    else:
        show_dynamic(done.report, folder, printer())
    return 0
