"""Chance changes of images: small, and bounded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from onnxdfq.images.augment import SMALLEST_CROP, augmented

DRAWS = 200


def draws(image: Tensor, *, crops: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [augmented(image, generator, crops=crops) for _ in range(DRAWS)]


def noise(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("crops", [False, True])
@pytest.mark.parametrize("size", [(12, 12), (9, 17), (2, 2), (1, 1)])
def test_the_form_and_the_range_stay(size: tuple[int, int], crops: bool) -> None:
    image = noise(*size)
    for each in draws(image, crops=crops):
        assert each.shape == image.shape
        assert float(each.min()) >= float(image.min()) - 1e-6
        assert float(each.max()) <= float(image.max()) + 1e-6


def test_without_crops_pixels_move_and_stay_what_they_are() -> None:
    image = noise(12, 12)
    for each in draws(image, crops=False):
        torch.testing.assert_close(each.flatten(2).sort().values, image.flatten(2).sort().values)


def test_moves_reach_a_28th_of_the_side_and_half_of_the_images_are_flipped() -> None:
    image = torch.zeros(1, 1, 60, 90)
    image[0, 0, 30, 10] = 1
    places = [divmod(int(each.argmax()), 90) for each in draws(image, crops=False)]
    assert {row - 30 for row, _ in places} == {-2, -1, 0, 1, 2}
    assert {column for _, column in places} == {8, 9, 10, 11, 12, 77, 78, 79, 80, 81}
    assert 0.4 < sum(column > 45 for _, column in places) / DRAWS < 0.6


def test_crops_show_half_of_the_area_at_least_and_every_other_time_all_of_it() -> None:
    image = torch.linspace(0, 1, 65)[None, :] + torch.zeros(1, 1, 64, 65)
    slopes = torch.stack([64 * (each[0, 0, 32, 33] - each[0, 0, 32, 32]).abs() for each in draws(image, crops=True)])
    assert float(slopes.min()) > 0.97 * SMALLEST_CROP**0.5
    assert float(slopes.max()) < 1.001
    assert 0.4 < float((slopes < 0.995).float().mean()) < 0.6
    assert float(slopes.min()) < 0.78


def test_all_images_of_a_batch_are_changed_alike() -> None:
    image = noise(12, 12)[:1].repeat(3, 1, 1, 1)
    for each in draws(image, crops=True):
        assert torch.equal(each[0], each[1])
        assert torch.equal(each[0], each[2])


def test_the_generator_decides() -> None:
    image = noise(12, 12)
    assert all(torch.equal(*pair) for pair in zip(draws(image, crops=True), draws(image, crops=True), strict=True))
