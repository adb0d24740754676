"""Run the node and model tests that the onnx package ships on the torch engine, and count.

    python tools/conformance.py [PATTERN]          # PATTERN: a regular expression on the names of tests

Every test runs but those that conformance_excluded.toml lists by name, each under a reason. Prints passed, failed and
excluded by category, then the exclusions; exits with 1 when a test fails or a name in the list is not a test.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import tomllib
import unittest
import warnings
from collections import Counter
from pathlib import Path

from onnx.backend.test import BackendTest

from onnxdfq.engine.backend import TorchBackend

EXCLUDED = Path(__file__).with_name("conformance_excluded.toml")


def exclusions() -> dict[str, list[str]]:
    """Names of tests, without their device, by the reason for which they are left out."""
    return {entry["reason"]: entry["tests"] for entry in tomllib.loads(EXCLUDED.read_text())["excluded"]}


def standard_tests(module: str, pattern: str = "") -> dict[str, type[unittest.TestCase]]:
    """The standard's test cases by category, for the engine and ``module``, without what is excluded."""
    # The runner makes a folder for each large model, even when it comes with the package.
    os.environ.setdefault("ONNX_HOME", tempfile.mkdtemp(prefix="onnx-home-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference's own overflows and divisions by zero
        tests = BackendTest(TorchBackend, module)
    if pattern:
        tests.include(pattern)
    tests.exclude("^(" + "|".join(name for names in exclusions().values() for name in names) + ")_(cpu|cuda)$")
    cases = tests.test_cases
    for case in cases.values():
        for name in [each for each in vars(case) if each.startswith("test_")]:
            if not TorchBackend.supports_device(name.rpartition("_")[2].upper()):
                delattr(case, name)
    return cases


def unknown_names(cases: dict[str, type[unittest.TestCase]]) -> list[str]:
    """Names that are listed as excluded but are no tests (any more)."""
    known = {name.removesuffix("_cpu") for case in cases.values() for name in dir(case)}
    return [name for names in exclusions().values() for name in names if name not in known]


def main(pattern: str = "") -> int:
    cases = standard_tests(__name__, pattern)
    listed = {name for names in exclusions().values() for name in names}
    failures: list[str] = []
    print(f"{'tests of the onnx package':32} {'passed':>8} {'failed':>8} {'excluded':>8}")
    for category, case in cases.items():
        counts = Counter[str]()
        for test in unittest.defaultTestLoader.loadTestsFromTestCase(case):
            name, device = test.id().rpartition(".")[2].rsplit("_", 1)
            if pattern and not re.search(pattern, name):
                continue
            if name in listed:
                counts["excluded"] += 1
                continue
            result = test.run()
            broken = [*result.failures, *result.errors]
            counts["failed" if broken else "passed"] += 1
            failures += [f"{name}_{device}: {text.strip().splitlines()[-1]}" for _, text in broken]
        print(f"{category:32} {counts['passed']:8} {counts['failed']:8} {counts['excluded']:8}")
    for reason, names in exclusions().items():
        print(f"\nexcluded, {reason}: {len(names)}\n  " + " ".join(names))
    unknown = unknown_names(cases)
    if unknown:
        print(f"\nno such tests: {' '.join(unknown)}")
    if failures:
        print("\nfailed:\n  " + "\n  ".join(failures))
    return 1 if failures or unknown else 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main(*sys.argv[1:]))
