"""The network that draws: sizes, bounds, and tables of scales and shifts by class."""

from __future__ import annotations

import pytest
import torch

from onnxdfq.images.generators.network import ClassNorm, Generator, first_grid

PLAIN = torch.ones(6, 1)


@pytest.mark.parametrize(("channels", "size"), [(3, (12, 12)), (1, (28, 28)), (3, (9, 14)), (4, (3, 5))])
def test_images_of_any_size(channels, size):
    image = Generator(10, channels, size, width=8)(torch.randn(6, 10), PLAIN)
    assert image.shape == (6, channels, *size)
    assert image.min() > 0
    assert image.max() < 1


def test_the_first_grid_is_rounded_up():
    assert first_grid((224, 224)) == (56, 56)
    assert first_grid((9, 14)) == (3, 4)


def test_pixels_vary_as_much_as_those_of_photographs():
    torch.manual_seed(0)
    image = Generator(10, 3, (32, 32), width=16)(torch.randn(16, 10), torch.ones(16, 1)).detach()
    assert image.mean((0, 2, 3)) == pytest.approx([0.5] * 3, abs=0.05)
    assert image.std((0, 2, 3)) == pytest.approx([0.25] * 3, abs=0.04)


def test_without_bounds_colours_are_standardized():
    image = Generator(10, 3, (12, 12), width=8, bounded=False)(torch.randn(6, 10), PLAIN).detach()
    assert image.mean((0, 2, 3)) == pytest.approx([0] * 3, abs=1e-4)
    assert image.std((0, 2, 3)) == pytest.approx([1] * 3, abs=0.01)


def test_one_class_picks_its_row_of_the_tables():
    norm, x = ClassNorm(4, 3, 1e-5), torch.randn(6, 4, 2, 2)
    torch.nn.init.normal_(norm.scale)
    torch.nn.init.normal_(norm.shift)
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    plain = torch.nn.functional.batch_norm(x, None, None, training=True)
    expected = plain * norm.scale[labels][:, :, None, None] + norm.shift[labels][:, :, None, None]
    torch.testing.assert_close(norm(x, torch.nn.functional.one_hot(labels, 3).float()), expected)


def test_shares_add_up_rows():
    norm = ClassNorm(2, 2, 1e-5)
    norm.scale.data[:] = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    x = torch.randn(4, 2, 3, 3)
    plain = torch.nn.functional.batch_norm(x, None, None, training=True)
    mixed = norm(x, torch.tensor([[0.25, 0.75]]).expand(4, 2))
    torch.testing.assert_close(mixed, plain * torch.tensor([2.5, 5.0])[:, None, None])


def test_the_class_reaches_the_image_only_through_tables():
    code, first, second = torch.randn(6, 10), torch.eye(3)[[0] * 6], torch.eye(3)[[1] * 6]
    without, with_tables = Generator(10, 3, (12, 12), width=8), Generator(10, 3, (12, 12), width=8, classes=3)
    torch.nn.init.normal_(with_tables.norms[1].shift)
    assert torch.equal(without(code, first), without(code, second))
    assert not torch.allclose(with_tables(code, first), with_tables(code, second))
