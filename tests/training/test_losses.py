"""Each loss: a value worked out by hand, a gradient that points the right way, and a size that no batch changes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn.functional import avg_pool2d, unfold

from talk3d import cameras as cams
from talk3d.training import losses


def better_downhill(loss: Callable[[Tensor], Tensor], start: Tensor, step: float) -> None:
    """A small step against the gradient makes the loss smaller."""
    start = start.clone().requires_grad_()
    before = loss(start)
    (gradient,) = torch.autograd.grad(before, start)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    assert loss(start - step * gradient / gradient.abs().max()) < before


def pictures(batch: int = 2, side: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found, target = torch.rand(2, batch, 3, side, side, generator=generator) * 2 - 1
    return found, target


class TestL1:
    def test_by_hand(self):
        assert losses.l1(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])) == 1.5

    def test_gradient(self):
        found, target = pictures()
        better_downhill(lambda x: losses.l1(x, target), found, 1e-2)


class TestRegion:
    def test_by_hand(self):
        found, region = torch.zeros(2, 3, 2, 2), torch.zeros(2, 1, 2, 2)
        target = found.clone()
        target[0, :, 0, 0], target[0, :, 1, 1] = 0.5, 9.0  # the second lies outside
        target[1, :, :, 0] = 0.1
        region[0, :, 0, 0], region[1, :, :, 0] = 1, 1
        torch.testing.assert_close(losses.region_l1(found, target, region), torch.tensor((0.5 + 0.1) / 2))

    def test_half_of_a_pixel_counts_half(self):
        target = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
        region = torch.tensor([0.5, 1.0]).view(1, 1, 1, 2)
        torch.testing.assert_close(
            losses.region_l1(torch.zeros(1, 1, 1, 2), target, region), torch.tensor((0.5 * 1 + 3) / 1.5)
        )

    def test_neither_the_batch_nor_frames_without_it_change_its_size(self):
        found, target = pictures(1)
        region = torch.zeros(1, 1, 16, 16)
        region[..., :4, :4] = 1
        once = losses.region_l1(found, target, region)
        many = [part.repeat(3, 1, 1, 1) for part in (found, target, region)]
        torch.testing.assert_close(losses.region_l1(*many), once)
        many[2][2] = 0
        torch.testing.assert_close(losses.region_l1(*many), once)

    def test_no_region_is_no_loss(self):
        found, target = pictures()
        found.requires_grad_()
        loss = losses.region_l1(found, target, torch.zeros(2, 1, 16, 16))
        loss.backward()
        assert loss == 0
        assert (found.grad == 0).all()

    def test_gradient_stays_in_the_region(self):
        found, target = pictures()
        region = torch.zeros(2, 1, 16, 16)
        region[..., :4] = 1
        better_downhill(lambda x: losses.region_l1(x, target, region), found, 1e-2)
        found.requires_grad_()
        losses.region_l1(found, target, region).backward()
        assert (found.grad[..., 4:] == 0).all()


class TestStructure:
    def test_of_a_picture_with_itself_is_nothing(self):
        found, _ = pictures(side=64)
        assert losses.ms_ssim(found, found).abs() < 1e-6

    def test_constants_by_hand(self):
        # at the one scale that fits into 16 pixels; there is no contrast, and luminance is (2ab + c) / (a² + b² + c)
        found, target = torch.full((1, 3, 16, 16), 0.0), torch.full((1, 3, 16, 16), 0.5)
        a, b, c = 0.5, 0.75, 0.01**2
        expected = 1 - (2 * a * b + c) / (a * a + b * b + c)
        torch.testing.assert_close(losses.ms_ssim(found, target), torch.tensor(expected), rtol=1e-4, atol=1e-6)

    def test_at_one_scale_it_is_that_of_scikit_image(self):
        found, target = pictures(batch=1, side=20)
        found = 0.7 * target + 0.3 * found
        expected = structural_similarity(
            *((part[0] / 2 + 0.5).double().numpy() for part in (found, target)),
            data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=0,
        )  # fmt: skip
        torch.testing.assert_close(losses.ms_ssim(found, target).item(), 1 - expected, rtol=1e-4, atol=1e-6)

    def test_scales_multiply(self):
        found, target = pictures(batch=1, side=22)
        found = 0.7 * target + 0.3 * found
        similarity = 1 - losses.ms_ssim(avg_pool2d(found, 2), avg_pool2d(target, 2))
        # contrast of the finer scale, from its windows one by one
        offset = torch.arange(-5.0, 6.0, dtype=torch.float64)
        window = torch.exp(-(offset[:, None].square() + offset.square()) / (2 * 1.5**2)).flatten()
        window /= window.sum()
        x, y = (unfold(part.transpose(0, 1) / 2 + 0.5, 11).double().transpose(1, 2) for part in (found, target))
        mx, my = x @ window, y @ window
        covariance = ((x - mx[..., None]) * (y - my[..., None])) @ window
        variances = ((x - mx[..., None]).square() + (y - my[..., None]).square()) @ window
        contrast = ((2 * covariance + 0.03**2) / (variances + 0.03**2)).mean()
        share = 0.0448 / (0.0448 + 0.2856)
        expected = 1 - contrast**share * similarity.double() ** (1 - share)
        torch.testing.assert_close(losses.ms_ssim(found, target).double(), expected, rtol=1e-4, atol=1e-6)

    def test_gradient(self):
        found, target = pictures(side=32)
        better_downhill(lambda x: losses.ms_ssim(x, target), 0.5 * found + 0.5 * target, 1e-2)

    def test_opposite_pictures_have_a_finite_gradient(self):
        found, _ = pictures(side=32)
        found.requires_grad_()
        losses.ms_ssim(found, -found.detach()).backward()
        assert found.grad.isfinite().all()

    def test_needs_the_window(self):
        with pytest.raises(ValueError, match=r"at least 11 pixels along a side, got \[2, 3, 8, 8\]"):
            losses.ms_ssim(*pictures(side=8))


class TestEdges:
    def test_by_hand(self):
        # a step of 1 between two columns of four: a third of the differences across, none down
        target = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 4, 4)
        torch.testing.assert_close(losses.edges(torch.zeros(1, 1, 4, 4), target), torch.tensor(1 / 3))

    def test_brightness_is_no_edge(self):
        found, _ = pictures()
        assert losses.edges(found, found + 0.3) < 1e-6

    def test_gradient(self):
        found, target = pictures()
        better_downhill(lambda x: losses.edges(x, target), found, 1e-2)


class TestMatte:
    def test_by_hand(self):
        weight = torch.tensor([0.5, 0.9]).view(2, 1, 1, 1)
        target = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
        expected = (-math.log(0.5) - math.log(0.1)) / 2
        torch.testing.assert_close(losses.matte(weight, target), torch.tensor(expected))

    def test_gradient(self):
        target = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
        better_downhill(lambda x: losses.matte(x, target), torch.full((2, 1, 1, 1), 0.5), 1e-2)

    def test_what_is_quite_wrong_is_finite(self):
        assert losses.matte(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).isfinite()


class TestLandmarks:
    camera = cams.pack(cams.look_at(0.0, 0.0, pivot=(0.0, 0.0, 0.0)), cams.intrinsics(2.0))[None]

    def test_projection_by_hand(self):
        # 0.27 to the right and up at distance 2.7, focal length 2: a fifth of the picture from its centre
        points = torch.tensor([[[0.0, 0.0, 0.0], [0.27, 0.0, 0.0], [0.0, 0.27, 0.0]]])
        expected = torch.tensor([[[0.5, 0.5], [0.7, 0.5], [0.5, 0.3]]])
        torch.testing.assert_close(losses.project(points, self.camera), expected)

    def test_by_hand(self):
        # 0.2 beyond the point where it is linear: |0.2| - 0.01 / 2, of two numbers one; in hundredths
        tracked = torch.tensor([[[0.7, 0.5]]])
        found = losses.landmarks(torch.zeros(1, 1, 3), self.camera, tracked)
        torch.testing.assert_close(found, torch.tensor(100 * (0.2 - 0.005) / 2))

    def test_gradient_moves_the_camera(self):
        points = torch.tensor([[[0.0, 0.0, 0.0], [0.27, 0.0, 0.1]]])
        tracked = losses.project(points, self.camera) + 0.05
        better_downhill(lambda camera: losses.landmarks(points, camera, tracked), self.camera, 1e-3)


class TestPhotometric:
    """A wall at a distance of 2.7 that cameras see from two places."""

    intrinsics = cams.intrinsics(1.0)
    here = cams.pack(cams.look_at(0.0, 0.0, pivot=(0.0, 0.0, 0.0)), intrinsics)[None]

    def beside(self, shift: float) -> Tensor:
        pose = cams.look_at(0.0, 0.0, pivot=(0.0, 0.0, 0.0)).clone()
        pose[0, 3] += shift
        return cams.pack(pose, self.intrinsics)[None]

    @property
    def rays(self) -> tuple[Tensor, Tensor]:
        return cams.rays(*cams.unpack(self.here), 8)

    def depth(self, side: int = 8) -> Tensor:
        """Along the rays, of the plane z = 0."""
        _, directions = cams.rays(*cams.unpack(self.here), side)
        return (2.7 / -directions[..., 2]).view(1, 1, side, side)

    def test_a_pixel_beside_by_hand(self):
        # moving by an eighth of what 8 pixels see at that distance, 2.7 wide, moves the picture by a pixel
        picture = torch.arange(8.0).expand(1, 1, 8, 8)
        fetched, inside = losses.warp(picture, self.depth(), self.rays, self.beside(2.7 / 8))
        torch.testing.assert_close(fetched[0, 0, 3, 1:], torch.arange(7.0), atol=1e-4, rtol=0)
        assert inside[0, 0, 3].tolist() == [0, 1, 1, 1, 1, 1, 1, 1]

    def loss(self, depth: Tensor) -> Tensor:
        picture = torch.arange(8.0).expand(1, 3, 8, 8) / 8
        fetched = losses.warp(picture, depth, self.rays, self.beside(2.7 / 8))
        return losses.photometric(picture - 1 / 8, *fetched, torch.ones(1, 1, 8, 8))

    def test_the_true_depth_has_no_loss(self):
        assert self.loss(self.depth()) < 1e-5
        assert self.loss(0.8 * self.depth()) > 0.02

    def test_gradient_moves_the_depth(self):
        better_downhill(self.loss, 0.8 * self.depth(), 1e-2)

    def test_a_part_of_the_rays_is_that_part_of_the_picture(self):
        picture, rays = torch.rand(1, 1, 8, 8), self.rays
        whole, _ = losses.warp(picture, self.depth(), rays, self.beside(0.1))
        some = tuple(part.unflatten(1, (8, 8))[:, 2:6, 1:5].flatten(1, 2) for part in rays)
        part, _ = losses.warp(picture, self.depth()[..., 2:6, 1:5], some, self.beside(0.1))
        torch.testing.assert_close(part, whole[..., 2:6, 1:5])


class TestTemporal:
    def test_by_hand(self):
        found = torch.tensor([[[1.0], [2.0], [4.0]]])  # changes by 1, then 2
        target = torch.tensor([[[0.0], [2.0], [3.0]]])  # by 2, then 1
        assert losses.temporal(found, target) == 1.0
        assert losses.temporal(found) == 1.5

    def test_a_constant_error_does_not_flicker(self):
        found = torch.rand(2, 3, 4)
        assert losses.temporal(found, found + 0.5) < 1e-6

    def test_gradient(self):
        found, target = torch.rand(2, 2, 3, 4)
        better_downhill(lambda x: losses.temporal(x, target), found, 1e-2)


class TestArticulation:
    def test_by_hand(self):
        assert losses.articulation(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])) == 2.5

    def test_gradient(self):
        found, lips = torch.randn(2, 4, 6)
        better_downhill(lambda x: losses.articulation(x, lips), found, 1e-2)


class TestDelta:
    def test_by_hand(self):
        planes = torch.tensor([-1.0, 1.0]).repeat(6).view(1, 3, 1, 2, 2)
        variance = 12 / 11  # of twelve numbers whose squares are 1
        torch.testing.assert_close(
            losses.delta_size(torch.full((2, 3, 1, 2, 2), 0.5), planes), torch.tensor(0.25 / variance)
        )

    def test_gradient(self):
        planes = torch.randn(1, 3, 2, 4, 4)
        better_downhill(lambda x: losses.delta_size(x, planes), torch.randn(2, 3, 2, 4, 4), 1e-2)
