"""A report as one HTML page that can be sent to a colleague: light and dark, on a phone, with nothing beside it."""

from __future__ import annotations

import base64
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from onnxdfq.report.again import again_as
from onnxdfq.report.allocation import SHOWN_AT, bar_lengths
from onnxdfq.report.html import bars, command, document, facts, folded, listed, paragraph, section, table
from onnxdfq.report.kernels import float_layers, kernel_summary
from onnxdfq.report.names import some
from onnxdfq.report.report import Report, TargetReport, versions

WORST = 5
BETTER = 2  # points of agreement that are worth another run
CLIPPED = 0.1  # percent of an activation beyond its codes, from which on it is told


def page(report: Report, sheet: bytes = b"") -> str:
    """The page of a quantize run. sheet: a PNG of the images that calibrated."""
    name_of_file = Path(report.model).name
    body = [f"<h1>{escape(name_of_file)}</h1>", _verdict(report), _before_and_after(report)]
    for name, target in report.targets.items():
        of = f" ({name})" if len(report.targets) > 1 else ""
        body += [
            section(f"The layers that lose most{of}", _worst(report, name, target)),
            section(f"Signal to noise of each layer{of}", _noise(target)),
            section(f"Sensitivity{of}", _sensitivity(target)),
            section(f"Bits{of}", _bits(target)),
            section(f"What stayed float{of}", _floats(target)),
            section(f"Kernels on this machine{of}", _kernels(target)),
            section(f"How it was made{of}", _made(target)),
            section(f"Ranges{of}", _ranges(target)),
        ]
    body += [section("What was assumed", _assumed(report)), section("Images", _images(report, sheet))]
    body.append("<footer>everything on this page, and more, is in the JSON report beside it</footer>")
    return document(f"onnxdfq: {name_of_file}", body)


def _verdict(report: Report) -> str:
    sentences = []
    for name, target in report.targets.items():
        kept = target.agreement.in_words() if target.agreement.top1 is not None else _sqnr(target)
        words = f"For {name}: {target.layers} of {target.of} layers in integers, {target.size / report.size:.2f} of "
        words += f"the size; {kept}"
        if report.accuracy is not None and target.accuracy is not None:
            words += f"; top-1 {report.accuracy:.2f} before, {target.accuracy:.2f} after"
        sentences.append(paragraph(words + "."))
    missed = paragraph(f"Not good enough: {report.gate}.") if report.gate else ""
    return f'<div class="verdict{" bad" if report.gate else ""}">{"".join(sentences)}{missed}</div>'


def _sqnr(target: TargetReport) -> str:
    return ", ".join(f"{name} {value:.1f} dB" for name, value in target.agreement.sqnr.items())


def _before_and_after(report: Report) -> str:
    headings = ["", "before", *report.targets]
    targets = list(report.targets.values())
    rows: list[list[str | float | int | None]] = [
        ["size, MB", round(report.size / 1e6, 3), *(round(each.size / 1e6, 3) for each in targets)],
        ["layers in integers", "0", *(f"{each.layers} of {each.of}" for each in targets)],
        ["share of multiplications in integers", "0 %", *(_share(each) for each in targets)],
    ]
    if any(each.agreement.top1 is not None for each in targets):
        rows.append(["same class on held-out images, %", "100", *(_agreement(each) for each in targets)])
    else:
        for name in dict.fromkeys(name for each in targets for name in each.agreement.sqnr):
            found = (each.agreement.sqnr.get(name) for each in targets)
            rows.append([f"signal to noise of {name}, dB", None, *found])
    if any(each.milliseconds for each in targets):
        first = next(each.milliseconds[0] for each in targets if each.milliseconds)
        rows.append(["ms for one call on this machine", first,
                     *(each.milliseconds[1] if each.milliseconds else None for each in targets)])  # fmt: skip
    if report.accuracy is not None:
        rows.append(["top-1 on labelled images, %", report.accuracy, *(each.accuracy for each in targets)])
    return section("Before and after", table(headings, rows, figures=True))


def _share(target: TargetReport) -> str:
    if target.kernels is None or target.kernels.share is None:
        return "not known on this machine"
    return f"{100 * target.kernels.share:.1f} %"


def _agreement(target: TargetReport) -> str:
    found = target.agreement
    return "-" if found.top1 is None else f"{found.top1:.1f} ± {found.error:.1f}"


def _worst(report: Report, name: str, target: TargetReport) -> str:
    """The five noisiest layers, with what to try."""
    if not target.noise:
        return ""
    worst = sorted(target.noise, key=lambda each: each.sqnr)[:WORST]
    rows = [(each.node, each.op, target.bits.get(each.node), f"{each.sqnr:.1f} dB") for each in worst]
    again = again_as(report, name)
    advice = [f"onnxdfq explain {shlex.quote(report.model)} {shlex.quote(worst[0].node)} --target {name}"]
    decided = report.options.get("overrides") or report.options.get("plan")  # which a second try would leave out
    if not decided:
        entries = "\n".join(f'[[node]]\nname = "{each.node}"\nfloat = true' for each in worst[:2])
        advice.append(f"cat > layers.toml <<'END'\n{entries}\nEND\n{again} --config layers.toml")
    kept = target.agreement.top1  # None without classes, by which rollback goes
    if not decided and kept is not None and kept < 100 - BETTER:
        advice.append(f"{again} --min-agreement {int(kept) + BETTER} --rollback")
    why = paragraph("Why a layer is as it is, and what more bits or float for these would give:")
    return table(("layer", "operator", "bits", "signal to noise"), rows) + why + "".join(map(command, advice))


def _noise(target: TargetReport) -> str:
    return bars((each.node, each.sqnr, f"{each.sqnr:.1f} dB") for each in target.noise or ())


def _bits(target: TargetReport) -> str:
    counts = Counter(target.bits.values())
    widths = table(("bits of the weights", "layers", ""), [
        (width, count, some([layer for layer, bits in target.bits.items() if bits == width]))
        for width, count in sorted(counts.items())
    ])  # fmt: skip
    pairs = [f"{pair['low']} with {', '.join(pair['high'])}" for pair in (target.pairing or {}).get("pairs", ())]
    return widths + paragraph(target.budget) + folded("pairs", listed(pairs))


def _sensitivity(target: TargetReport) -> str:
    """Bars are logarithmic: damages span decades."""
    found = {layer: each[SHOWN_AT] for layer, each in (target.sensitivity or {}).items() if SHOWN_AT in each}
    lengths = bar_lengths(list(found.values()))
    rows = [(layer, length, f"{found[layer]:.2g}") for layer, length in zip(found, lengths, strict=True)]
    about = f"What {SHOWN_AT} bits for the weights of one layer alone would do to the answers, on a logarithmic scale."
    return (paragraph(about) if rows else "") + bars(rows)


def _floats(target: TargetReport) -> str:
    rows: list[Sequence[str]] = [(reason, str(len(nodes)), some(nodes)) for reason, nodes in target.skips.items()]
    if target.kernels is not None:
        running = float_layers(target.kernels)
        rows += [(f"runs in float here: {reason}", str(len(nodes)), some(nodes)) for reason, nodes in running.items()]
    return table(("why", "nodes", "which"), rows)


def _kernels(target: TargetReport) -> str:
    if target.kernels is None:
        return ""
    rows = [(layer.node, layer.kernel or "none", layer.macs) for layer in target.kernels.layers]
    return paragraph(kernel_summary(target.kernels)) + folded("by layer", table(("layer", "kernel", "products"), rows))


def _made(target: TargetReport) -> str:
    return facts({
        "written to": target.file,
        "weights": target.weights,
        "rounding": target.rounding,
        "learning": target.learning,
        "bias correction": target.bias_correction,
        "verified on": f"{target.provider}, {target.agreement.images_in_words}",
        "SQNR of outputs": _sqnr(target),
    })  # fmt: skip


def _ranges(target: TargetReport) -> str:
    if not target.clipping:
        return ""
    cut = [each for each in target.clipping if each.beyond > CLIPPED]
    rows = [
        (each.tensor, each.low, each.high, each.codes_low, each.codes_high, f"{each.beyond:.2f} %")
        for each in target.clipping
    ]
    heads = ("tensor", "least", "most", "codes from", "codes to", "beyond")
    words = f"{len(cut)} of {len(rows)} activations have more than {CLIPPED} % of their numbers beyond their codes"
    return paragraph(words + ", on held-out images.") + folded("all activations", table(heads, rows))


def _assumed(report: Report) -> str:
    known = versions()
    return facts({
        "input": report.input,
        "input domain": report.domain,
        "images": report.images,
        "led by": report.rung,
        "image quality": report.quality_in_words,
        "BatchNormalization": report.batchnorm,
        "equalization": report.equalization,
        "seed": str(report.options.get("seed", "")),
        "rolled back": ", ".join(f"{layer} ({kind})" for layer, kind in (report.rolled_back or {}).items()),
        "processor": known.pop("cpu", ""),
        "versions": ", ".join(f"{name} {version}" for name, version in known.items()),
        "time": f"{sum(report.stages.values()):.0f} s, {report.peak_mb:.0f} MB",
    }) + folded("notices", listed(report.notices)) + folded("options", _options(report.options))  # fmt: skip


def _options(options: Mapping[str, object]) -> str:
    return table(("option", "value"), [(name, str(value)) for name, value in options.items()])


def _images(report: Report, sheet: bytes) -> str:
    if not sheet:
        return ""
    data = base64.b64encode(sheet).decode()
    return f'<img alt="some of the images that calibrated" src="data:image/png;base64,{data}">'
