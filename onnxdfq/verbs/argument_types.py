"""Values on the command line, checked while they are read."""

from __future__ import annotations

import argparse

WIDTH = 110  # of tables that go to a file or a pipe


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None


def numbers(text: str) -> tuple[float, ...]:
    return tuple(number(part) for part in text.split(","))


def seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 up")
    return int(text)


def shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) != 4 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text} is not a shape such as 1x3x224x224")
    return tuple(map(int, parts))


def bits(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number of bits")
    return int(text)


def float_type(text: str) -> str:
    names = {"fp32": "float32", "float32": "float32", "fp16": "float16", "float16": "float16"}
    if text not in names:
        raise argparse.ArgumentTypeError(f"{text} is neither fp32 nor fp16")
    return names[text]
