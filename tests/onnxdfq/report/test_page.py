"""The page of a run: what it says, that it needs nothing beside it, and that a browser shows it without complaint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from onnxdfq.cli import main
from onnxdfq.report.html import bars, table
from tests.onnxdfq.conftest import saved

DIGITS = Path(__file__).parents[3] / "models" / "digits_mobilenet.onnx"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "link", "img", "br"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, labelled: Path) -> Path:
    """The page of a run at few bits, so that there is something to tell."""
    folder = tmp_path_factory.mktemp("page")
    arguments = ["quantize", DIGITS, "--recipe", "fast", "--target", "ort-cpu", "--target", "tensorrt", "--quiet",
                 "--avg-bits", "5", "--eval", labelled, "-o", folder, "--html", folder / "report.html"]  # fmt: skip
    assert main([str(each) for each in arguments]) == 0
    return folder / "report.html"


class Tags(HTMLParser):
    """Counts what opens and what closes."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attributes) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def test_it_stands_alone_and_is_small(made: Path) -> None:
    content = made.read_text(encoding="utf-8")
    assert made.stat().st_size < 2_000_000
    assert made.with_suffix(".json").is_file()
    assert not re.findall(r'(?:src|href)="(?!data:)', content)
    assert "<script" not in content
    assert "url(" not in content
    tags = Tags()
    tags.feed(content)
    assert tags.opened == []
    assert {"h1", "table", "details", "img", "dl"} <= tags.seen


def test_it_says_what_a_colleague_asks(made: Path) -> None:
    content = made.read_text(encoding="utf-8")
    for words in ("layers in integers", "same class on held-out images", "top-1 on labelled images", "Signal to noise",
                  "Sensitivity", "ms for one call", "What was assumed", "image quality", "The layers that lose most",
                  "--rollback", "beyond their codes", "bits on average asked for", "versions", "processor",
                  "seed"):  # fmt: skip
        assert words in content, words


def test_what_to_try_is_a_command_for_the_same_run(made: Path) -> None:
    again = re.findall(r"onnxdfq quantize [^<]*--rollback", made.read_text(encoding="utf-8"))
    targets = json.loads(made.with_suffix(".json").read_text(encoding="utf-8"))["targets"]
    assert [line.partition(" --target ")[2] for line in again] == [
        f"{name} --avg-bits 5 --recipe fast --min-agreement {int(target['agreement']['top1']) + 2} --rollback"
        for name, target in targets.items()
        if target["agreement"]["top1"] < 98
    ]


def test_a_model_without_classes_is_judged_by_noise(tmp_path: Path) -> None:
    text = """features (float[N, 3, 16, 16] image) => (float[N, 16, 16, 16] features) {
        a = Conv<pads = [1, 1, 1, 1]>(image, w1)
        r = Relu(a)
        features = Conv<pads = [1, 1, 1, 1]>(r, w2)
    }"""
    model = saved(text, {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3)}, tmp_path / "features.onnx")
    page = tmp_path / "page.html"
    given = ["quantize", model, "--recipe", "fast", "--target", "ort-cpu", "--quiet", "--html", page]
    assert main([str(each) for each in given]) == 0
    content = page.read_text(encoding="utf-8")
    assert "signal to noise of features, dB" in content
    assert "same class" not in content
    assert "--rollback" not in content, "which goes by classes"


def test_headings_of_numbers_stand_above_them() -> None:
    assert table(("layer", "bits"), [("a", 8)]).count('class="n"') == 2
    assert table(("layer", "kernel"), [("a", "QGemm")]).count('class="n"') == 0


def test_names_are_text_and_bars_are_shares() -> None:
    assert "<b>" not in table(("layer",), [("<b>&",)])
    assert "&lt;b&gt;&amp;" in table(("layer",), [("<b>&",)])
    shown = bars([("a", 20.0, "20 dB"), ("b", 10.0, "10 dB"), ("c", -3.0, "-3 dB")])
    assert re.findall(r"width:([\d.]+)%", shown) == ["100.0", "50.0", "0.0"]
    assert table(("x",), []) == bars([]) == ""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (390, False)])
def test_a_browser_shows_it_without_complaint(made: Path, tmp_path: Path, width: int, dark: bool) -> None:
    assert BROWSER is not None
    shot = tmp_path / "page.png"
    ran = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--user-data-dir={tmp_path / 'user'}",
            f"--window-size={width},1600", f"--screenshot={shot}", made.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "CONSOLE" not in ran.stderr
    assert shot.stat().st_size > 10_000
    with Image.open(shot) as picture:
        assert picture.width == width
        assert (sum(picture.convert("RGB").getpixel((2, 2))) < 150) is dark
