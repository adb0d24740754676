"""What a report says of bits, pairs, budgets and sensitivities, as data and on a terminal."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from onnxdfq.report.allocation import (
    average_in_words,
    bar,
    bar_lengths,
    bits_in_words,
    pairing_data,
    pairs_in_words,
    show_sensitivity,
    size_in_words,
)
from onnxdfq.report.report import Report, TargetReport
from onnxdfq.report.tables import show_report
from onnxdfq.verify.agreement import Agreement
from passes.base import Skip
from passes.channel_paths import ChannelPath, Reader
from passes.pairing import Pair, Pairing
from passes.plan import QuantPlan
from passes.stored_weights import Stored


def pair(low, *high, through=()):
    return Pair(low, high, ChannelPath(low, tuple(Reader(name, 0) for name in high), through, ()))


PAIRING = Pairing(
    (pair("a", "c", through=("b",)), pair("d", "e", "f"), pair("g", "h")),
    (
        Skip("p", "pairing", "it is alone"),
        Skip("q", "pairing", "it meets another"),
        Skip("r", "pairing", "it is alone"),
    ),
    frozenset({"h"}),
)
SENSITIVITY = {f"layer{k}": {2: 10.0**-k * 30, 4: 10.0**-k, 8: 10.0**-k / 300} for k in range(14)}


def printed(show, encoding="utf-8"):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    show(Console(file=file, width=110))
    file.flush()
    return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


def test_pairs_are_plain_data():
    data = pairing_data(PAIRING)
    assert data == json.loads(json.dumps(data))
    assert data["pairs"][0] == {"low": "a", "high": ["c"], "through": ["b"]}
    assert data["skips"][1] == {"node": "q", "reason": "it meets another"}


def test_pairs_in_words_and_why_others_are_in_none():
    reasons = ["p, r in no pair: it is alone", "q in no pair: it meets another"]
    assert pairs_in_words(pairing_data(PAIRING)) == ["a -> c through b", "d -> e, f", "g -> h", *reasons]
    assert pairs_in_words(pairing_data(PAIRING), 1) == [
        "a -> c through b", "and 2 more", "p, r in no pair: it is alone", "and 1 more",
    ]  # fmt: skip
    assert pairs_in_words(pairing_data(Pairing((), ()))) == ["no layer can be paired with one after it"]


def test_bits_in_words():
    bits = {"first": 8, "a": 4, "b": 4, "c": 4, "d": 4, "last": 8}
    assert bits_in_words(bits) == ["4 bits: a, b, c and 1 more", "8 bits: first, last"]


def test_a_budget_says_what_was_asked_for_what_it_came_to_and_what_was_counted():
    stored = [Stored("a", "INT8", 100, 100), Stored("b", "INT4", 300, 150)]
    assert size_in_words(0.16, stored) == (
        "0.16 of the float32 bytes asked for; the integers of all 2 layers take 250 of 1,600, which is 0.1562 "
        "(scales and biases are not counted)"
    )
    words = average_in_words(3.5, {"a": 100, "b": 3000, "c": 1000}, {"a": 8, "b": 3, "c": 4}, ["b", "c"])
    assert words == (
        "3.5 bits on average asked for; the 4,000 weights of 2 layers have 3.250, in whatever a file holds them "
        "(not counted: 1 layers whose bits were settled before)"
    )


@pytest.mark.parametrize(
    ("damages", "lengths"),
    [([1.0, 0.1, 0.01], [24, 12.5, 1]), ([0.5, 0.5], [1, 1]), ([0.0, 0.0], [0, 0]), ([1.0, 1e-3, 0.0], [24, 1, 0]),
     ([1.0, 1e-9, 1e-6], [24, 1, 1]), ([], [])],
)  # fmt: skip
def test_bars_are_logarithmic(damages, lengths):
    assert bar_lengths(damages) == pytest.approx(lengths)


def test_a_bar_is_drawn_to_the_eighth():
    assert [bar(length) for length in (0, 0.125, 1, 2.5)] == ["", "▏", "█", "██▌"]


def test_the_most_sensitive_layers_come_first_and_the_rest_are_counted():
    bits = dict.fromkeys(SENSITIVITY, 3)
    lines = printed(lambda console: show_sensitivity(dict(reversed(SENSITIVITY.items())), bits, console))
    assert lines[0].split() == ["sensitivity", "of", "bits", "damage", "of", "4", "bits", "logarithmic"]
    assert [line.split()[:3] for line in lines[1:3]] == [["layer0", "3", "1"], ["layer1", "3", "0.1"]]
    assert lines[1].endswith("█" * 24)
    assert lines[13:] == ["and 2 more, down to 1e-13"]
    assert printed(lambda console: show_sensitivity({}, {}, console)) == []


def test_bars_on_a_terminal_without_unicode():
    lines = printed(lambda console: show_sensitivity(SENSITIVITY, dict.fromkeys(SENSITIVITY, 3), console), "ascii")
    assert lines[1].endswith("#" * 24)


def test_the_report_shows_it_and_its_json_holds_all():
    target = TargetReport(
        "out.onnx", 10, 2, 2, QuantPlan("ort-cpu", {}, {}, ()), Agreement(4, None, None, {"y": 30.0}), "CPU", "kept",
        "2 of 4 bits", None, bits=dict.fromkeys(SENSITIVITY, 4), rounding="SQuant",
        budget="0.2 asked for", sensitivity=SENSITIVITY, pairing=pairing_data(PAIRING),
    )  # fmt: skip
    report = Report("m.onnx", 20, {}, equalization="3 pairs", targets={"ort-cpu": target})
    text = "\n".join(printed(lambda console: show_report(report, console)))
    for expected in ("SQuant", "3 pairs", "0.2 asked for", "a -> c through b", "layer0", "and 2 more, down to"):
        assert expected in text
    data = json.loads(json.dumps(report.to_json()))["targets"]["ort-cpu"]
    assert data["bits"] == target.bits
    assert data["sensitivity"]["layer13"]["2"] == SENSITIVITY["layer13"][2]
    assert data["pairing"] == target.pairing
