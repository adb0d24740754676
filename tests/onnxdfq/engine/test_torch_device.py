"""Where torch works."""

import pytest
import torch

from onnxdfq.engine.torch_device import torch_device
from onnxdfq.errors import OnnxdfqError


def test_devices():
    assert torch_device("cpu") == "cpu"
    assert torch_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_that_is_not_there_is_refused():
    with pytest.raises(OnnxdfqError, match="torch does not find it"):
        torch_device("cuda")
