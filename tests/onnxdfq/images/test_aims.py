"""What inverted images are made to be, as words."""

import pytest

from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.aims import Aims, read_aims


def test_words_become_aims():
    assert read_aims(()) == Aims()
    assert read_aims(["boundary=0.3", "swing", "cutoff=.25"]) == Aims(boundary=0.3, swing=True, cutoff=0.25)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("beauty", "--aim beauty is not known. choose from hard, boundary, difficult, dot, cutoff, crops, swing, "),
        ("hard", "--aim hard needs a number from 0 to 1. give --aim hard=0.3"),
        ("hard=2", "needs a number from 0 to 1"),
        ("hard=nan", "needs a number from 0 to 1"),
        ("swing=1", "swing takes no number"),
    ],
)
def test_others_are_refused(word, said):
    with pytest.raises(OnnxdfqError, match="--aim") as raised:
        read_aims([word])
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["boundary=0.3", "difficult=0.5"], "exclude each other"), (["dot"], "give --aim difficult=0.5 beside it")],
)
def test_aims_that_do_not_go_together_are_refused(words, said):
    with pytest.raises(OnnxdfqError, match=said):
        read_aims(words)
