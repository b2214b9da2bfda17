"""Projection, colour, blending, density and files of Gaussians, each against its own definition."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from components.errors import DataError, UsageError
from components.layers import density, splat_ply, splats
from components.layers.splats import BLUR, Camera, Limits, covariances, project, rasterize

DOUBLE = torch.float64
ALL = Limits(cut=0, least=0)


def camera(height=48, width=48, focal=50.0, dtype=DOUBLE):
    """At the origin, looking along z."""
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=dtype)
    return Camera(torch.eye(4, dtype=dtype), intrinsics, height, width)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def cloud(count=6):
    """Means in front of the camera, scales, quaternions, opacities and colours."""
    means = draw(count, 3) * 0.4 + torch.tensor([0, 0, 3.0])
    opacities, colors = draw(count, seed=3).sigmoid() * 0.9, draw(count, 3, seed=4).sigmoid()
    return means, (draw(count, 3, seed=1) * 0.3 - 2).exp(), draw(count, 4, seed=2), opacities, colors


def render(means, scales, quaternions, opacities, colors, seen=None, background=None, limits=ALL):
    seen = seen or camera(12, 10, 12.0)
    background = torch.zeros(3, dtype=DOUBLE) if background is None else background
    flat = project(means, scales, quaternions, seen)
    return rasterize(flat, opacities, colors, background, seen, limits)


# Shape


def test_scales_are_the_roots_of_the_covariances_eigenvalues():
    _, scales, quaternions, *_ = cloud(20)
    found = covariances(scales, quaternions)
    assert_close(torch.linalg.eigvalsh(found), (scales**2).sort(1).values)


def test_the_length_and_the_sign_of_a_quaternion_do_not_matter():
    _, scales, quaternions, *_ = cloud(20)
    assert_close(covariances(scales, -3 * quaternions), covariances(scales, quaternions))
    assert_close(torch.linalg.det(splats.rotations(quaternions)), torch.ones(20, dtype=DOUBLE))


def test_a_quaternion_turns_as_scipy_says():
    from scipy.spatial.transform import Rotation

    quaternions = draw(20, 4)
    truth = Rotation.from_quat(quaternions.numpy()[:, [1, 2, 3, 0]]).as_matrix()
    assert_close(splats.rotations(quaternions), torch.from_numpy(truth))


def flat_covariance(flat):
    a, b, c = flat.conics.unbind(1)
    return torch.linalg.inv(torch.stack([a, b, b, c], 1).view(-1, 2, 2))


def test_the_flat_covariance_is_that_of_projected_samples():
    """EWA is exact for small Gaussians: with 400,000 samples within a hundredth."""
    means = torch.tensor([[0.4, -0.3, 3.0]], dtype=DOUBLE)
    scales, quaternions = torch.tensor([[0.04, 0.02, 0.03]], dtype=DOUBLE), draw(1, 4)
    seen = camera()
    found = flat_covariance(project(means, scales, quaternions, seen, blur=0.0))[0]
    root = splats.rotations(quaternions)[0] * scales[0]
    samples = means + draw(400_000, 3, seed=7) @ root.T
    pixels = seen.intrinsics[0, 0] * samples[:, :2] / samples[:, 2:]
    assert_close(pixels.T.cov(), found, rtol=0.01, atol=0.005)


def test_the_error_of_the_flat_covariance_falls_with_the_square_of_the_scale():
    means = torch.tensor([[0.8, -0.6, 3.0]], dtype=DOUBLE)
    samples = draw(200_000, 3, seed=7)
    samples = torch.cat([samples, -samples])  # without the error of odd moments
    errors = []
    for scale in (0.4, 0.2):
        found = flat_covariance(
            project(means, torch.full((1, 3), scale, dtype=DOUBLE), draw(1, 4), camera(), blur=0.0)
        )[0]
        points = means + scale * samples
        truth = (50 * points[:, :2] / points[:, 2:]).T.cov()
        errors.append(float((truth - found).norm() / found.norm()))
    assert 2.5 < errors[0] / errors[1] < 8


def test_the_blur_is_added_to_every_variance():
    means, scales, quaternions, *_ = cloud()
    sharp, blurred = (flat_covariance(project(means, scales, quaternions, camera(), blur=b)) for b in (0.0, BLUR))
    assert_close(blurred - sharp, 0.3 * torch.eye(2, dtype=DOUBLE).expand(len(means), 2, 2))


def test_a_camera_that_moves_with_the_scene_sees_the_same():
    means, scales, quaternions, *_ = cloud()
    seen, turn = camera(), splats.rotations(draw(1, 4, seed=9))[0]
    pose = torch.eye(4, dtype=DOUBLE)
    pose[:3, :3], pose[:3, 3] = turn, torch.tensor([1.0, 2.0, 3.0])
    covariance = turn @ covariances(scales, quaternions) @ turn.T
    values, vectors = torch.linalg.eigh(covariance)
    vectors = vectors * torch.linalg.det(vectors)[:, None, None]
    moved = project(means @ turn.T + pose[:3, 3], values.sqrt(), quaternion_of(vectors), seen._replace(pose=pose))
    assert_close(tuple(moved), tuple(project(means, scales, quaternions, seen)))


def quaternion_of(rotation):
    from scipy.spatial.transform import Rotation

    return torch.from_numpy(Rotation.from_matrix(rotation.numpy()).as_quat()[:, [3, 0, 1, 2]])


def test_far_beside_the_picture_the_projection_is_that_of_its_margin():
    """Where J is followed no further, moving sideways does not stretch a Gaussian any more."""
    means = torch.tensor([[5.0, 0, 1], [9.0, 0, 1], [0.6, 0, 1]], dtype=DOUBLE)
    scales, quaternions = torch.full((3, 3), 0.1, dtype=DOUBLE), torch.ones(3, 4, dtype=DOUBLE)
    found = flat_covariance(project(means, scales, quaternions, camera()))
    margin = 1.3 * 24 / 50
    assert_close(found[0], found[1])
    assert float(found[0, 0, 0]) == pytest.approx((0.1 * 50) ** 2 * (1 + margin**2) + BLUR)
    assert float(found[2, 0, 0]) == pytest.approx((0.1 * 50) ** 2 * (1 + 0.6**2) + BLUR)


def test_what_is_behind_is_not_seen_and_has_no_gradient():
    means, scales, quaternions, opacities, colors = cloud()
    means[:3, 2] = torch.tensor([-1.0, 0.0, 0.005])
    means.requires_grad_()
    picture = render(means, scales, quaternions, opacities, colors)
    picture.color.sum().backward()
    assert picture.visible.tolist() == [False] * 3 + [True] * 3
    assert not means.grad[:3].any()
    assert means.grad[3:].any() and means.grad.isfinite().all()


# Colour


def sphere(count=24):
    """Points and weights that integrate polynomials of degree 6 over the unit sphere exactly."""
    z, weight = np.polynomial.legendre.leggauss(count)
    angle = 2 * np.pi * np.arange(count) / count
    z, angle = (torch.from_numpy(v).flatten() for v in np.meshgrid(z, angle, indexing="ij"))
    flat = (1 - z * z).sqrt()
    weights = torch.from_numpy(np.repeat(weight, count)) * 2 * np.pi / count
    return torch.stack([flat * angle.cos(), flat * angle.sin(), z], 1), weights


def test_harmonics_are_orthonormal():
    points, weights = sphere()
    basis = splats.harmonics(points, 3)
    assert_close(basis.T @ (basis * weights[:, None]), torch.eye(16, dtype=DOUBLE), rtol=0, atol=1e-13)


def test_harmonics_are_those_of_scipy():
    """Up to order and the sign of odd orders: the real part for m >= 0, the imaginary part for m < 0."""
    from scipy.special import sph_harm_y

    points, _ = sphere(8)
    polar, around = torch.arccos(points[:, 2]).numpy(), torch.arctan2(points[:, 1], points[:, 0]).numpy()
    truth = []
    for degree in range(4):
        for order in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(order), polar, around)
            part = value.imag if order < 0 else value.real
            truth.append(part * (1 if order == 0 else np.sqrt(2)))
    assert_close(splats.harmonics(points, 3), torch.from_numpy(np.stack(truth, 1)))


def test_a_colour_is_shown_as_it_was_given():
    means, *_, colors = cloud()
    coefficients = torch.zeros(len(means), 16, 3, dtype=DOUBLE)
    coefficients[:, 0] = splats.constant_of(colors)
    for degree in range(4):
        assert_close(splats.colors(means, coefficients, camera(), degree), colors)


def test_colours_are_never_negative_and_depend_on_the_side_they_are_seen_from():
    coefficients = draw(6, 16, 3)
    means = cloud()[0]
    front = splats.colors(means, coefficients, camera(), 3)
    pose = torch.eye(4, dtype=DOUBLE)
    pose[2, 3] = 6
    assert front.min() == 0
    assert (splats.colors(means, coefficients, camera()._replace(pose=pose), 3) - front).abs().max() > 0.1
    assert_close(
        splats.colors(means, coefficients, camera()._replace(pose=pose), 0),
        splats.colors(means, coefficients, camera(), 0),
    )


# Blending


def test_the_whole_way_from_parameters_to_pixels_has_the_right_gradient():
    inputs = tuple(value.requires_grad_() for value in cloud(5))
    background = torch.full((3,), 0.3, dtype=DOUBLE, requires_grad=True)
    coefficients = draw(5, 16, 3, seed=5).mul(0.1).requires_grad_()

    def picture(means, scales, quaternions, opacities, coefficients, background):
        shades = splats.colors(means, coefficients, camera(12, 10, 12.0), 3)
        return render(means, scales, quaternions, opacities, shades, background=background)[:2]

    assert torch.autograd.gradcheck(picture, (*inputs[:4], coefficients, background))


def test_one_gaussian_has_the_closed_form():
    means = torch.tensor([[0.0, 0, 2.5]], dtype=DOUBLE)
    scales = torch.full((1, 3), 0.1, dtype=DOUBLE)
    opacities, colors = torch.tensor([0.8], dtype=DOUBLE), torch.ones(1, 3, dtype=DOUBLE)
    seen = camera(21, 21)
    color, rest, _ = render(means, scales, torch.ones(1, 4, dtype=DOUBLE), opacities, colors, seen)
    offset = torch.arange(21, dtype=DOUBLE) + 0.5 - 10.5
    square = offset[:, None] ** 2 + offset**2
    truth = 0.8 * torch.exp(-square / (2 * (50**2 * 0.1**2 / 2.5**2 + 0.3)))
    assert_close(color, truth[:, :, None].expand(21, 21, 3))
    assert_close(rest, 1 - truth)


def test_the_nearer_of_two_covers_the_farther():
    means = torch.tensor([[0.0, 0, 4], [0.0, 0, 2]], dtype=DOUBLE)
    scales = torch.tensor([[0.4] * 3, [0.2] * 3], dtype=DOUBLE)
    opacities, colors = torch.tensor([0.9, 0.6], dtype=DOUBLE), torch.eye(3, dtype=DOUBLE)[:2]
    color, rest, _ = render(means, scales, torch.ones(2, 4, dtype=DOUBLE), opacities, colors, camera(1, 1))
    assert_close(color[0, 0], torch.tensor([0.9 * 0.4, 0.6, 0.0], dtype=DOUBLE))
    assert float(rest) == pytest.approx(0.1 * 0.4)


def test_weights_and_what_is_left_add_up_to_one():
    means, scales, quaternions, opacities, colors = cloud(100)
    color, rest, _ = render(means, scales, quaternions, opacities, torch.ones_like(colors), limits=Limits())
    assert_close(color, (1 - rest)[:, :, None].expand_as(color))
    assert rest.min() < 0.5


def test_the_formula_without_the_first_kernel_value_gives_weights_that_exceed_one():
    """sum of alpha_i prod (1 - alpha_j w_j), as it is sometimes written: why `rasterize` has alpha_i w_i."""
    kernel = torch.full((20,), 0.05, dtype=DOUBLE)
    through = torch.cat([torch.ones(1, dtype=DOUBLE), (1 - 0.9 * kernel).cumprod(0)[:-1]])
    assert float((0.9 * through).sum()) > 5
    assert float((0.9 * kernel * through).sum()) < 1


@pytest.fixture
def gpu(monkeypatch):
    """Tensors that say that they are on a GPU, and a gsplat that notes what it is asked."""
    asked = {}

    def isect_tiles(centers, radii, depths, tile, columns, rows):
        asked["tiles"] = tuple(centers.shape), tuple(radii.shape), radii.dtype, tuple(depths.shape), tile, columns, rows
        return None, torch.zeros(3), torch.zeros(3)

    def rasterize_to_pixels(centers, conics, colors, opacities, width, height, tile, starts, order, *, backgrounds):
        asked["pixels"] = tuple(conics.shape), tuple(opacities.shape), width, height, tuple(backgrounds.shape)
        return torch.ones(1, height, width, 3), torch.full((1, height, width, 1), 0.25)

    module = SimpleNamespace(
        isect_tiles=isect_tiles,
        isect_offset_encode=lambda keys, count, columns, rows: torch.zeros(count, rows, columns),
        rasterize_to_pixels=rasterize_to_pixels,
    )
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    return module, asked, monkeypatch


def test_a_gpu_is_left_to_gsplat(gpu):
    module, asked, monkeypatch = gpu
    monkeypatch.setitem(sys.modules, "gsplat", module)
    color, rest, visible = render(*cloud(), seen=camera(20, 40), limits=Limits())
    assert color.shape == (20, 40, 3) and (rest == 0.75).all() and visible.all()
    assert asked["tiles"] == ((1, 6, 2), (1, 6, 2), torch.int32, (1, 6), 16, 3, 2)
    assert asked["pixels"] == ((1, 6, 3), (1, 6), 40, 20, (1, 3))


def test_a_gpu_without_gsplat_is_told_what_to_install(gpu):
    gpu[2].setitem(sys.modules, "gsplat", None)
    with pytest.raises(UsageError, match=r"pip install 'rayfield\[gpu\]'"):
        render(*cloud())


def test_first_scales_are_the_distances_to_the_three_nearest():
    points = np.random.default_rng(0).random((50, 3))
    squares = ((points[:, None] - points) ** 2).sum(2)
    truth = np.sqrt(np.sort(squares, 1)[:, 1:4].mean(1))
    np.testing.assert_allclose(splats.nearest_distances(points), truth)
    assert splats.nearest_distances(np.zeros((5, 3))).min() == pytest.approx(np.sqrt(1e-7))
    assert splats.nearest_distances(np.zeros((1, 3))).tolist() == [1.0]


# Density


class Cloud(nn.Module):
    """Eight Gaussians whose numbers all differ."""

    def __init__(self):
        super().__init__()
        for seed, (name, width) in enumerate({"means": 3, "log_scales": 3, "quaternions": 4, "logits": 0}.items()):
            self.register_parameter(name, nn.Parameter(draw(8, *[width] * bool(width), seed=seed).float()))


@pytest.fixture
def learned():
    """A cloud, and an optimizer that has made three steps."""
    net = Cloud()
    optimizer = torch.optim.Adam([{"name": n, "params": [p]} for n, p in net.named_parameters()], lr=0.1)
    for seed in range(3):
        for parameter in net.parameters():
            parameter.grad = draw(*parameter.shape, seed=seed).float()
        optimizer.step()
    return net, optimizer


def snapshot(net, optimizer):
    return {
        name: {"value": value.detach().clone(), **{m: optimizer.state[value][m].clone() for m in density.MOMENTS}}
        for name, value in net.named_parameters()
    }


def rows(*chosen):
    return torch.tensor([n in chosen for n in range(8)])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_survivors_keep_their_numbers_and_their_moments_and_new_ones_have_none(learned):
    net, optimizer = learned
    before = snapshot(net, optimizer)
    density.multiply(net, optimizer, rows(1, 2), rows(4, 6, 7), 1.6, generator())
    kept = [0, 1, 2, 3, 5]
    for name, after in snapshot(net, optimizer).items():
        assert len(after["value"]) == 8 + 2 + 3, name
        for key, value in after.items():
            assert_close(value[:5], before[name][key][kept], rtol=0, atol=0)
        assert_close(after["value"][5:7], before[name]["value"][[1, 2]], rtol=0, atol=0)
        for moment in density.MOMENTS:
            assert before[name][moment].all() and not after[moment][5:].any()


def test_halves_are_smaller_and_drawn_from_their_parent():
    net = Cloud()
    optimizer = torch.optim.Adam(net.parameters())
    parent = {name: value.detach().clone() for name, value in net.named_parameters()}
    density.multiply(net, optimizer, rows(), torch.ones(8, dtype=torch.bool), 1.6, generator())
    assert len(net.means) == 16
    assert_close(net.log_scales.exp(), parent["log_scales"].exp().repeat(2, 1) / 1.6)
    assert_close(net.quaternions.detach(), parent["quaternions"].repeat(2, 1), rtol=0, atol=0)
    turn = splats.rotations(parent["quaternions"]).repeat(2, 1, 1)
    offset = (turn.mT @ (net.means - parent["means"].repeat(2, 1))[:, :, None])[:, :, 0]
    expected = torch.randn(16, 3, generator=generator())
    assert_close(offset / parent["log_scales"].exp().repeat(2, 1), expected, rtol=1e-4, atol=1e-4)


def test_an_optimizer_goes_on_with_what_is_left(learned):
    net, optimizer = learned
    density.rearrange(net, optimizer, rows(0, 3), {})
    assert [len(group["params"][0]) for group in optimizer.param_groups] == [2, 2, 2, 2]
    before = net.means.detach().clone()
    net.means.square().sum().backward()
    optimizer.step()
    assert (net.means != before).all()
    assert len(optimizer.state) == 4


def test_a_reset_lowers_opacities_and_forgets_their_moments_only(learned):
    net, optimizer = learned
    before = snapshot(net, optimizer)
    faint = net.logits.detach() < -4.6
    density.reset(net, optimizer, 0.01)
    after = snapshot(net, optimizer)
    assert net.logits.sigmoid().max() <= 0.01 + 1e-8
    assert_close(net.logits.detach()[faint], before["logits"]["value"][faint], rtol=0, atol=0)
    assert not after["logits"]["exp_avg"].any() and not after["logits"]["exp_avg_sq"].any()
    for name in ("means", "log_scales", "quaternions"):
        assert_close(after[name], before[name], rtol=0, atol=0)


def test_where_not_all_may_multiply_the_neediest_do():
    values = torch.tensor([0.1, 0.9, 0.5, 0.8])
    wanting = torch.tensor([True, False, True, True])
    assert density.best(values, wanting, 2).tolist() == [False, False, True, True]
    assert density.best(values, wanting, 3).tolist() == wanting.tolist()
    assert density.best(values, wanting, -1).tolist() == [False] * 4


# Files


def parts(count=7, coefficients=15):
    shapes = {"means": (3,), "log_scales": (3,), "quaternions": (4,), "logits": (), "constant": (1, 3)}
    return {
        name: draw(count, *shape, seed=seed).float().numpy()
        for seed, (name, shape) in enumerate({**shapes, "rest": (coefficients, 3)}.items())
    }


def test_a_file_holds_every_bit():
    made = parts()
    found = splat_ply.read(splat_ply.write(**made))
    assert found.keys() == made.keys()
    for name, value in made.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_file_has_the_layout_that_viewers_read():
    made = parts(count=2)
    header, _, body = splat_ply.write(**made).partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 2"]
    names = [line.split()[2] for line in lines[3:]]
    assert names[:10] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "f_rest_0"]
    assert names[-9:] == ["f_rest_44", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert len(body) == 2 * 248
    table = np.frombuffer(body, "<f4").reshape(2, 62)
    column = {name: table[:, place] for place, name in enumerate(names)}
    np.testing.assert_array_equal(column["f_rest_1"], made["rest"][:, 1, 0])  # red comes first, all of it
    np.testing.assert_array_equal(column["f_rest_15"], made["rest"][:, 0, 1])
    np.testing.assert_array_equal(column["opacity"], made["logits"])
    np.testing.assert_array_equal(column["rot_0"], made["quaternions"][:, 0])
    assert not column["nx"].any()


def test_absent_harmonics_are_written_as_zero():
    made = parts(coefficients=3)
    found = splat_ply.read(splat_ply.write(**made))["rest"]
    np.testing.assert_array_equal(found[:, :3], made["rest"])
    assert not found[:, 3:].any()


@pytest.mark.parametrize("harm", [lambda d: d[:-4], lambda d: d.replace(b"f_rest_3\n", b"f_rest_x\n"), lambda d: b""])
def test_refuses_a_file_that_is_something_else(harm):
    with pytest.raises(DataError, match="Gaussians"):
        splat_ply.read(harm(splat_ply.write(**parts())))
