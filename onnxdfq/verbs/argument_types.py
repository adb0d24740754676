"""Values on the command line, checked while they are read."""

from __future__ import annotations

import argparse


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


def bits_or_pair(text: str) -> int | tuple[int, int]:
    parts = text.split("/")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text} is not a number of bits, nor two such as 4/8")
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 else int(text)


def bits_or_levels(text: str) -> int | tuple[int | str, ...]:
    """8, or what stands between slashes: 4/8 for pairs, 4/6/8 or 8/fp32 for levels."""
    parts = text.split("/")
    if not all(part.isdecimal() or (len(parts) > 1 and part in ("fp16", "fp32")) for part in parts):
        raise argparse.ArgumentTypeError(f"{text} is not a number of bits, nor several such as 4/8, 4/6/8 or 8/fp32")
    found = tuple(int(part) if part.isdecimal() else part for part in parts)
    return int(text) if len(parts) == 1 else found


def average_or_levels(text: str) -> float | tuple[float, ...]:
    parts = tuple(number(part) for part in text.split("/"))
    return parts[0] if len(parts) == 1 else parts


def bits_or_none(text: str) -> int | None:
    return None if text == "none" else bits(text)


def float_type(text: str) -> str:
    names = {"fp32": "float32", "float32": "float32", "fp16": "float16", "float16": "float16"}
    if text not in names:
        raise argparse.ArgumentTypeError(f"{text} is neither fp32 nor fp16")
    return names[text]


def seconds(text: str) -> float:
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        return float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no time such as 90s, 5m or 1h") from None
