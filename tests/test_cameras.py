"""Cameras keep the convention of ``talk3d.cameras``, and reproduce the published ones."""

import doctest
import math
import re

import pytest
import torch
from torch import Tensor

from talk3d import cameras
from talk3d.testing import assert_golden, golden

PUBLISHED = 5e-7  # error of an independent implementation: README of the golden vectors, section h
PIVOTS = [cameras.FFHQ_PIVOT, cameras.TALK3D_PIVOT, (0.0, 0.0, 0.0), (0.3, -0.2, 0.1)]
R = math.sqrt(0.5)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def project(points: Tensor, cam2world: Tensor, intrinsics: Tensor) -> Tensor:
    """Where points ``[..., 3]`` appear in the picture: ``(u, v)`` in [0, 1]."""
    homogeneous = torch.cat((points, torch.ones_like(points[..., :1])), -1)
    camera = homogeneous @ torch.linalg.inv(cam2world)[..., :3, :].mT
    assert (camera[..., 2] > 0).all(), "behind the camera"
    picture = camera @ intrinsics.mT
    return picture[..., :2] / picture[..., 2:]


def three_cameras() -> Tensor:
    poses = cameras.look_at(double(0, 50, 70), double(0, 20, -10), double(0, 5, 40))
    return cameras.pack(poses, cameras.intrinsics(double(4.0, 3.5, 3.0), double(4.0, 3.6, 3.2), skew=0.1))


def test_golden_rays():
    vectors = golden("eg3d/h_cameras_rays")
    resolutions = [int(found[1]) for key in vectors if (found := re.fullmatch(r"res(\d+)_directions", key))]
    assert resolutions
    for resolution in resolutions:
        origins, directions = cameras.rays(vectors["cam2world"], vectors["intrinsics"], resolution)
        assert_golden(origins, vectors[f"res{resolution}_origins"], PUBLISHED, "origins")
        assert_golden(directions, vectors[f"res{resolution}_directions"], PUBLISHED, "directions")


def test_golden_look_at_eg3d():
    vectors = golden("eg3d/h_cameras_rays")
    h, v = math.pi / 2 + vectors["lookat_yaw"][:, None], math.pi / 2 + vectors["lookat_pitch"]
    grid = cameras.look_at_eg3d(h, v, radius=vectors["lookat_radius"], pivot=vectors["lookat_pivot"])
    assert_golden(grid, vectors["lookat_cam2world"], PUBLISHED, "grid")
    front = cameras.look_at_eg3d(3.14 / 2, 3.14 / 2, radius=vectors["lookat_radius"])
    assert_golden(front, vectors["lookat_front_314_pivot002"], PUBLISHED, "front")


def test_golden_true_angles_reach_every_published_pose():
    vectors = golden("eg3d/h_cameras_rays")
    poses = vectors["lookat_cam2world"]
    yaw, pitch, roll = cameras.angles(poses)
    again = cameras.look_at(yaw, pitch, roll, radius=vectors["lookat_radius"], pivot=vectors["lookat_pivot"])
    assert_golden(again, poses, PUBLISHED)
    assert roll.abs().max() < 1e-4


def test_golden_field_of_view():
    vectors = golden("eg3d/h_cameras_rays")
    focal = cameras.focal_from_fov_eg3d(vectors["fov_deg"])
    assert_golden(cameras.intrinsics(focal), vectors["fov_intrinsics"], PUBLISHED)


@pytest.mark.parametrize(
    ("turned", "right", "down", "forward"),
    [
        ((0.0, 0.0, 0.0), (1, 0, 0), (0, -1, 0), (0, 0, -1)),
        ((90.0, 0.0, 0.0), (0, 0, -1), (0, -1, 0), (-1, 0, 0)),
        ((0.0, 90.0, 0.0), (1, 0, 0), (0, 0, 1), (0, -1, 0)),
        ((0.0, 0.0, 90.0), (0, -1, 0), (-1, 0, 0), (0, 0, -1)),
        ((180.0, 45.0, 0.0), (-1, 0, 0), (0, -R, -R), (0, -R, R)),
    ],
)
def test_axes_by_hand(turned, right, down, forward):
    pose = cameras.look_at(*double(*turned), radius=2.0, pivot=(0.0, 0.0, 0.0))
    expected = torch.stack([double(*axis) for axis in (right, down, forward)], -1)
    torch.testing.assert_close(pose[:3, :3], expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(pose[:3, 3], -2 * expected[:, 2], rtol=0, atol=1e-15)
    assert pose[3].tolist() == [0, 0, 0, 1]


def test_position_by_hand():
    # with the pivot at z = 0.6 and yaw 90 the camera is beside it, on the sphere of radius 1: a 3-4-5 triangle
    position = cameras.look_at(double(90)[0], 0.0, radius=1.0, pivot=(0.0, 0.0, 0.6))[:3, 3]
    torch.testing.assert_close(position, double(0.8, 0, 0.6), rtol=0, atol=1e-15)


def test_frontal_poses_agree():
    for pose in (cameras.look_at(0.0, 0.0), cameras.look_at_eg3d(math.pi / 2, math.pi / 2)):
        expected = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        expected[2, 3] = cameras.RADIUS
        torch.testing.assert_close(pose, expected, rtol=0, atol=5e-7)


def test_signs_in_the_picture():
    """A nose before the pivot, and a crown above it, move as the module's text says."""
    matrix = cameras.intrinsics(double(3.0)[0])
    nose, crown = double(0, 0, 0.4), double(0, 0.3, 0.2)
    assert project(nose, cameras.look_at(double(20)[0], 0.0), matrix)[0] < 0.49, "yaw: the nose points to the left"
    assert project(nose, cameras.look_at(double(0)[0], 20.0), matrix)[1] > 0.51, "pitch: the nose points down"
    assert project(crown, cameras.look_at(double(0)[0], 0.0, 20.0), matrix)[0] < 0.49, "roll: the crown goes left"
    left_cheek = cameras.look_at_eg3d(math.pi / 2 + 0.3, math.pi / 2)[:3, 3]
    from_below = cameras.look_at_eg3d(math.pi / 2, math.pi / 2 + 0.3)[:3, 3]
    assert left_cheek[0] > 0.7
    assert from_below[1] < -0.4


@pytest.mark.parametrize("pivot", PIVOTS)
def test_line_of_sight(pivot):
    yaw, pitch = double(-170, -90, -30, 0, 30, 120)[:, None], double(-90, -40, 0, 15, 90)
    pose = cameras.look_at(yaw, pitch, radius=2.7, pivot=pivot)
    assert pose.shape == (6, 5, 4, 4)
    offset = pose[..., :3, 3] - double(*pivot)
    y, p = torch.deg2rad(yaw), torch.deg2rad(pitch)
    direction = torch.stack(torch.broadcast_tensors(p.cos() * y.sin(), p.sin(), p.cos() * y.cos()), -1)
    torch.testing.assert_close(offset / offset.norm(dim=-1, keepdim=True), direction)
    torch.testing.assert_close(pose[..., :3, 3].norm(dim=-1), torch.full((6, 5), 2.7, dtype=torch.float64))
    rotation = pose[..., :3, :3]
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3, dtype=torch.float64).expand(6, 5, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(6, 5, dtype=torch.float64))


@pytest.mark.parametrize("pivot", PIVOTS)
def test_angles_invert_look_at(pivot):
    generator = torch.Generator().manual_seed(0)
    wanted = (torch.rand(3, 50, dtype=torch.float64, generator=generator) * 2 - 1) * double(179, 89, 179)[:, None]
    found = torch.stack(cameras.angles(cameras.look_at(*wanted, pivot=pivot)))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_published_pitch_is_warped_and_clamped():
    v = double(math.pi / 2 - math.radians(20), 0, -1, math.pi + 1)
    height = cameras.look_at_eg3d(math.pi / 2, v)[:, 1, 3] / cameras.RADIUS
    assert math.degrees(math.asin(height[0])) == pytest.approx(12.84, abs=0.005)
    pole = 1 - 2e-5 / math.pi
    torch.testing.assert_close(height[1:], double(pole, pole, -pole), rtol=1e-12, atol=0)


def test_numbers_take_the_type_and_shape_of_tensors():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        pose = cameras.look_at(torch.zeros(2, 1, dtype=dtype), 10.0, radius=torch.full((3,), 2.5, dtype=dtype))
        matrix = cameras.intrinsics(torch.ones((), dtype=dtype))
        origins, directions = cameras.rays(pose, matrix, 4)
        assert pose.dtype == matrix.dtype == origins.dtype == directions.dtype == dtype
        assert origins.shape == directions.shape == (2, 3, 16, 3)
    assert cameras.look_at(0.0, torch.tensor([1, 2])).dtype == torch.float32


def test_fields_of_view():
    assert cameras.focal_from_fov(90.0) == pytest.approx(0.5)
    focal = cameras.focal_from_fov(double(30)[0])
    edge = project(
        double(math.tan(math.radians(15)), 0, -1), torch.diag(double(1, -1, -1, 1)), cameras.intrinsics(focal)
    )
    torch.testing.assert_close(edge, double(1, 0.5))


def test_intrinsics_by_hand():
    matrix = cameras.intrinsics(4.0, 3.0, cx=0.4, cy=0.6, skew=0.25)
    assert matrix.equal(torch.tensor([[4.0, 0.25, 0.4], [0.0, 3.0, 0.6], [0.0, 0.0, 1.0]]))
    assert cameras.intrinsics(torch.tensor([1.0, 2.0])).shape == (2, 3, 3)


def test_camera_vector():
    poses, matrix = cameras.look_at(torch.tensor([0.0, 30.0]), 5.0), cameras.intrinsics(4.0)
    vector = cameras.pack(poses, matrix)
    assert vector.shape == (2, 25)
    assert vector[1, :16].equal(poses[1].reshape(-1))
    assert vector[1, 16:].equal(matrix.reshape(-1))
    back, matrices = cameras.unpack(vector)
    assert back.equal(poses)
    assert matrices.equal(matrix.expand(2, 3, 3))
    transposed = vector.T.contiguous().T
    assert cameras.unpack(transposed)[0].equal(poses)


def test_rays_by_hand():
    pose = cameras.look_at(*double(0, 0))[None]
    matrix = cameras.intrinsics(double(0.5)[0])
    long, middle = 0.5 / math.sqrt(1.25), 1 / math.sqrt(1.25)
    origins, directions = cameras.rays(pose, matrix, (1, 2))  # u = 0.25 and 0.75
    torch.testing.assert_close(directions, double(-long, 0, -middle, long, 0, -middle).reshape(1, 2, 3))
    torch.testing.assert_close(origins, double(0, 0, 2.7, 0, 0, 2.7).reshape(1, 2, 3))
    _, directions = cameras.rays(pose, matrix, (2, 1))  # v = 0.25 and 0.75: the upper row looks up
    torch.testing.assert_close(directions, double(0, long, -middle, 0, -long, -middle).reshape(1, 2, 3))
    # row by row
    _, directions = cameras.rays(pose, matrix, (2, 3))
    assert (directions[0, :3, 1] > 0).all()
    assert (directions[0, 0::3, 0] < 0).all()


@pytest.mark.parametrize("resolution", [1, 5, (3, 7), (8, 2)])
def test_rays_meet_the_pixels_they_come_from(resolution):
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    poses, matrices = cameras.unpack(three_cameras())
    origins, directions = cameras.rays(poses, matrices, resolution)
    assert origins.shape == directions.shape == (3, height * width, 3)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(3, height * width, dtype=torch.float64))
    v, u = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    centers = torch.stack((u, v), -1).reshape(-1, 2).double()
    found = project(origins + 2.5 * directions, poses, matrices)
    torch.testing.assert_close(found, centers.expand_as(found), rtol=0, atol=1e-7)


def test_rays_are_the_same_under_autocast():
    poses, matrices = cameras.unpack(three_cameras().float())
    plain = cameras.rays(poses, matrices, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(a.equal(b) for a, b in zip(cameras.rays(poses, matrices, 6), plain, strict=True))
        assert cameras.look_at(30.0, 10.0, 5.0).equal(cameras.look_at(*torch.tensor([30.0, 10.0, 5.0])))


def test_no_cameras():
    origins, directions = cameras.rays(torch.zeros(0, 4, 4), cameras.intrinsics(4.0), (2, 3))
    assert origins.shape == directions.shape == (0, 6, 3)


def test_gradients():
    poses, matrices = (part.clone().requires_grad_() for part in cameras.unpack(three_cameras()))
    assert torch.autograd.gradcheck(lambda *camera: cameras.rays(*camera, (2, 3)), (poses, matrices))
    turned, shared = double(20, -40).requires_grad_(), double(10)[0].requires_grad_()
    radius, pivot = double(2.7)[0].requires_grad_(), double(0.1, 0.05, 0.2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda y, p, r, q: cameras.look_at(y, p, p, radius=r, pivot=q), (turned, shared, radius, pivot)
    )
    h, v = double(1.2, 2.0).requires_grad_(), double(1.4)[0].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda h, v, r, q: cameras.look_at_eg3d(h, v, radius=r, pivot=q), (h, v, radius, pivot)
    )
    assert torch.autograd.gradcheck(cameras.angles, poses)
    from_above = cameras.look_at(*double(0, 90)).round().requires_grad_()
    assert torch.autograd.grad(cameras.angles(from_above)[1], from_above)[0].isfinite().all()
    times = double(0.0, 0.3, 1.6).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: cameras.interpolate(three_cameras(), t), times[1:])
    resting = three_cameras()[:1].expand(2, -1).clone().requires_grad_()
    gradients = torch.autograd.grad(cameras.interpolate(resting, times).sum(), (resting, times))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.compile
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(dynamic):
    rays, look_at = (
        torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for function in (cameras.rays, cameras.look_at)
    )
    camera = cameras.unpack(three_cameras())
    for resolution in (4, (3, 5)):
        for mine, plain in zip(rays(*camera, resolution), cameras.rays(*camera, resolution), strict=True):
            torch.testing.assert_close(mine, plain)
    for size in (2, 3):
        yaw = torch.linspace(-30, 30, size, requires_grad=True)
        poses = look_at(yaw, 10.0, radius=2.5), cameras.look_at(yaw, 10.0, radius=2.5)
        torch.testing.assert_close(*poses)
        torch.testing.assert_close(*(torch.autograd.grad(pose[:, 0].square().sum(), yaw)[0] for pose in poses))


def test_values_off_the_cpu_are_not_read():
    """On a GPU a look at a value would wait; a tensor without data cannot be looked at."""
    yaw = torch.zeros(3, device="meta")
    poses = cameras.look_at(yaw, 10.0, radius=torch.ones((), device="meta"))
    matrices = cameras.intrinsics(torch.ones(3, device="meta"))
    assert cameras.rays(poses, matrices, 4)[1].device == yaw.device
    assert cameras.interpolate(cameras.pack(poses, matrices), torch.zeros(2, device="meta")).shape == (2, 25)


def test_orbit():
    poses, matrices = cameras.unpack(cameras.orbit(30.0, 15.0, frames=40, focal=3.6, radius=2.5))
    yaw, pitch, roll = cameras.angles(poses)
    turn = torch.arange(40) * (2 * math.pi / 40)
    torch.testing.assert_close(yaw, 30 * turn.sin(), rtol=0, atol=1e-4)
    torch.testing.assert_close(pitch, 15 * turn.cos(), rtol=0, atol=1e-4)
    torch.testing.assert_close(roll, torch.zeros(40), rtol=0, atol=1e-4)
    torch.testing.assert_close(poses[:, :3, 3].norm(dim=-1), torch.full((40,), 2.5))
    assert matrices.equal(cameras.intrinsics(3.6).expand(40, 3, 3))


def turns(vectors: Tensor) -> Tensor:
    return torch.stack(cameras.angles(cameras.unpack(vectors)[0]), -1)


def test_path_passes_through_its_keys():
    keys = double(0, 0, 0, 30, 10, 5, -20, 15, 0, 10, -10, -5).reshape(4, 3)
    torch.testing.assert_close(turns(cameras.path(keys, frames=31))[::10], keys, rtol=0, atol=1e-10)
    torch.testing.assert_close(turns(cameras.path(keys, frames=40, closed=True))[::10], keys, rtol=0, atol=1e-10)
    torch.testing.assert_close(turns(cameras.path(keys[:1], frames=3)), keys[:1].expand(3, 3), rtol=0, atol=1e-10)
    even = double(0, 7.5, 15, 22.5, 30)  # between two keys there is a straight line
    torch.testing.assert_close(turns(cameras.path(keys[:2], frames=5))[:, 0], even, rtol=0, atol=1e-10)
    assert cameras.path([(0.0, 5.0), (10.0, 5.0)], frames=1).shape == (1, 25)


@pytest.mark.parametrize("closed", [False, True])
def test_path_has_no_kinks(closed):
    keys = double(0, 0, 30, 10, -20, 15, 10, -10).reshape(4, 2)
    found = turns(cameras.path(keys, frames=4000, closed=closed))
    if closed:
        found = torch.cat((found, found[:2]))
    jerks = found.diff(n=2, dim=0).abs().amax()
    # a path of straight lines would turn by 80 degrees a key within one frame: 0.08 degrees
    assert jerks < 1e-3


def test_interpolation_returns_the_keys():
    vectors = three_cameras()
    torch.testing.assert_close(cameras.interpolate(vectors, [0.0, 1.0, 2.0]), vectors)
    torch.testing.assert_close(cameras.interpolate(vectors, [-3.0, 7.0]), vectors[[0, 2]])
    torch.testing.assert_close(cameras.interpolate(vectors[:1], [0.0, 0.5]), vectors[[0, 0]])
    assert cameras.interpolate(vectors, torch.zeros(2, 3)).shape == (2, 3, 25)


def test_interpolation_turns_evenly_and_moves_straight():
    vectors = cameras.pack(cameras.look_at(double(10, 70), 0.0), cameras.intrinsics(double(4, 2)))
    found = cameras.interpolate(vectors, [0.25, 0.5, 0.75])
    torch.testing.assert_close(turns(found)[:, 0], double(25, 40, 55))
    poses, matrices = cameras.unpack(found)
    torch.testing.assert_close(matrices[:, 0, 0], double(3.5, 3, 2.5))
    ends = cameras.unpack(vectors)[0][:, :3, 3]
    torch.testing.assert_close(poses[1, :3, 3], ends.mean(0))


def test_interpolation_takes_the_shorter_way():
    """All around, the signs of the two quaternions agree or not: the way between must not depend on it."""
    yaw = torch.arange(0, 361, 20, dtype=torch.float64)
    poses = cameras.look_at(yaw, 10.0, 30.0)
    found = cameras.interpolate(cameras.pack(poses, cameras.intrinsics(4.0)), torch.arange(18) + 0.5)
    chord = (poses[1:, :3, :3].mT @ cameras.unpack(found)[0][:, :3, :3]).diagonal(dim1=-2, dim2=-1).sum(-1)
    whole = (poses[1:, :3, :3].mT @ poses[:-1, :3, :3]).diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(torch.acos((chord - 1) / 2), torch.acos((whole - 1) / 2) / 2)


@pytest.mark.parametrize("step", [0.0, 1e-12, 1e-9, 1e-6, 1e-3])
def test_interpolation_over_tiny_angles(step):
    vectors = cameras.pack(cameras.look_at(double(20, 20 + step), 5.0), cameras.intrinsics(4.0))
    torch.testing.assert_close(
        turns(cameras.interpolate(vectors, [0.25]))[0, 0], double(20 + step / 4)[0], rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("turned", [(180.0, 0.0, 0.0), (0.0, 180.0, 0.0), (0.0, 0.0, 180.0)])
def test_interpolation_over_half_a_turn(turned):
    front = double(0, 0, 0)
    poses = torch.stack([cameras.look_at(*front), cameras.look_at(*double(*turned))])
    found = cameras.unpack(cameras.interpolate(cameras.pack(poses, cameras.intrinsics(4.0)), [0.5]))[0][0, :3, :3]
    for pose in poses:
        quarter = ((found.mT @ pose[:3, :3]).diagonal().sum() - 1) / 2
        torch.testing.assert_close(quarter, double(0)[0], rtol=0, atol=1e-12)


GOOD, MATRIX, MIRRORED = torch.eye(4), torch.eye(3), torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cameras.look_at(math.nan, 0.0), "yaw must be finite, got nan"),
        (lambda: cameras.look_at(0.0, torch.full((2,), math.inf)), r"pitch must be finite, got .* of shape \(2,\)"),
        (lambda: cameras.look_at(0.0, 0.0, radius=0.0), "radius must be positive, got 0.0"),
        (lambda: cameras.look_at(0.0, 0.0, radius=-torch.ones(2)), r"radius must be positive, got .* of shape \(2,\)"),
        (lambda: cameras.look_at(torch.ones(1, device="meta"), 0.0, radius=-1.0), "radius must be positive, got -1.0"),
        (lambda: cameras.look_at_eg3d(1.0, 1.0, radius=math.inf), "radius must be finite"),
        (lambda: cameras.look_at(0.0, 0.0, pivot=(0.0, 3.0, 0.0)), "pivot must be nearer to the world origin than"),
        (lambda: cameras.look_at(0.0, 0.0, pivot=(0.0, math.nan, 0.0)), r"pivot\[1\] must be finite"),
        (lambda: cameras.look_at(0.0, 0.0, pivot=torch.zeros(3, 2)), r"pivot must be \[..., 3\], got \(3, 2\)"),
        (lambda: cameras.look_at(torch.zeros(2), torch.zeros(3)), r"do not broadcast: yaw \(2,\), pitch \(3,\)"),
        (lambda: cameras.look_at(GOOD, GOOD.to("meta")), "one device, got yaw on cpu, pitch on meta"),
        (lambda: cameras.angles(torch.zeros(3, 4)), r"cam2world must be \[..., 4, 4\] .* got \(3, 4\)"),
        (lambda: cameras.intrinsics(0.0), "focal must be positive, got 0.0"),
        (lambda: cameras.intrinsics(1.0, -1.0), "focal_y must be positive"),
        (lambda: cameras.focal_from_fov(180.0), "degrees must be between 0 and 180"),
        (lambda: cameras.pack(GOOD, GOOD), r"intrinsics must be \[..., 3, 3\] of a floating type, got \(4, 4\)"),
        (lambda: cameras.pack(GOOD.expand(2, 4, 4), MATRIX.expand(3, 3, 3)), r"cam2world \(2,\), intrinsics \(3,\)"),
        (lambda: cameras.unpack(torch.zeros(2, 24)), r"cameras must be \[..., 25\] of a floating type, got \(2, 24\)"),
        (lambda: cameras.rays(GOOD * math.nan, MATRIX, 4), "cam2world must be finite"),
        (lambda: cameras.rays(GOOD, MATRIX, (4, 0)), r"resolution must be .* got \(4, 0\)"),
        (lambda: cameras.rays(GOOD, MATRIX, (4, 4, 4)), "resolution must be"),
        (lambda: cameras.path(torch.zeros(0, 2), frames=3), r"angles must be \[K, 2\] or \[K, 3\]"),
        (lambda: cameras.path([(0.0,)], frames=3), r"angles must be .* got \(1, 1\)"),
        (lambda: cameras.path([(0.0, math.nan)], frames=3), "angles must be finite"),
        (lambda: cameras.path([(0.0, 0.0)], frames=2.5), "frames must be a whole number"),
        (lambda: cameras.interpolate(torch.zeros(25), [0.0]), r"cameras must be \[K, 25\], got \(25,\)"),
        (lambda: cameras.interpolate(cameras.pack(MIRRORED, MATRIX)[None], [0.0]), r"cameras \(1, 25\) must hold rot"),
        (lambda: cameras.interpolate(cameras.pack(1.01 * GOOD, MATRIX)[None], [0.0]), "must hold rotations"),
        (lambda: cameras.interpolate(cameras.pack(GOOD, MATRIX)[None], [math.nan]), "times must be finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_examples_run():
    assert doctest.testmod(cameras).failed == 0
