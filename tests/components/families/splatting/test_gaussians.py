"""A small ball, fitted: what the number of Gaussians does to everything that hangs on it."""

from dataclasses import asdict, replace
from functools import cache
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from components.errors import UsageError
from components.families.splatting.gaussians import Gaussians, scattered, surface
from components.formats.mesh import Mesh
from components.layers import splat_ply, splats
from components.metrics.images import psnr
from components.table import Rows
from components.training.learner import Learner, evaluate
from tests.support import doubled, learn_together, stacked

SMALL = Gaussians(
    views=18,
    size=48,
    hold_out=6,
    points=200,
    max_gaussians=300,
    steps=150,
    sh_degree=1,
    sh_every=40,
    reset_every=0,
    lr=3e-3,
    lr_color=0.01,
    lr_rotation=0.01,
    lr_scale=0.02,
    lr_opacity=0.1,
    densify_gradient=1e-3,
    prune_opacity=0.02,
    refine_start=20,
    refine_every=20,
    refine_stop=0.7,
)


def ball(sides=32):
    """A ball painted in soft waves."""
    around, up = np.meshgrid(np.linspace(0, 2 * np.pi, sides + 1), np.linspace(0, np.pi, sides + 1))
    vertices = np.stack([np.sin(up) * np.sin(around), np.cos(up), np.sin(up) * np.cos(around)], -1).reshape(-1, 3)
    corner = (np.arange(sides)[:, None] * (sides + 1) + np.arange(sides)).reshape(-1, 1)
    faces = np.concatenate([corner + [0, sides + 1, 1], corner + [1, sides + 1, sides + 2]])
    colors = (127 + 120 * np.sin(vertices @ [[4, 0, 2], [0, 5, 2], [1, 2, 4]])).astype(np.uint8)
    return Mesh(vertices.astype(np.float32), faces.astype(np.int32), vertex_colors=colors)


@cache
def scene():
    """The ball's training and held-out pictures, and the small family adapted to them."""
    views = SMALL.representation()
    made = list(views.rows(ball(), views.generator(0, "ball")))
    rows = {}
    for split in ("train", "test"):
        some = [row for row in made if row["split"] == split]
        columns = {name: stacked([row[name] for row in some]) for name in views.columns()}
        rows[split] = Rows(columns, ["ball"] * len(some), torch.zeros(len(some), dtype=torch.int64), ("ball",), views)
    return SMALL.adapt(rows["train"]), rows["train"], rows["test"]


def learner(**changes):
    family, rows, _ = scene()
    return Learner.begin(replace(family, **changes), rows)


def count(one):
    return len(one.state.net.means)


# What it learns from


def test_reads_the_extent_and_the_number_of_points_from_the_training_views():
    family, rows, _ = scene()
    places = rows["camera_to_world"][:, :3, 3].numpy()
    assert family.extent == pytest.approx(1.1 * np.linalg.norm(places - places.mean(0), axis=1).max(), rel=1e-5)
    assert replace(SMALL, points=10**6).adapt(rows).points == int(rows["mask"].sum())
    assert replace(SMALL, points=10**6, init="random").adapt(rows).points == 10**6


def test_refuses_more_than_one_scene():
    _, rows, _ = scene()
    with pytest.raises(UsageError, match="one scene, but the training split has 2: ball, cube"):
        SMALL.adapt(replace(rows, ids=["ball", "cube"] * 7 + ["ball"]))


def test_points_from_depth_lie_on_the_surface_and_have_its_colours():
    family, rows, _ = scene()
    points, rgb = surface(rows, 500, torch.Generator().manual_seed(0))
    assert points.shape == rgb.shape == (500, 3)
    assert_close(points.norm(dim=1), torch.ones(500), rtol=0, atol=0.01)
    hue = torch.from_numpy(127 + 120 * np.sin(points.numpy() @ [[4, 0, 2], [0, 5, 2], [1, 2, 4]])).float()
    light = (rgb / (hue / 255)).median(1).values  # shading changes the brightness of a colour and not the hue
    assert ((rgb - hue / 255 * light[:, None]).abs() < 0.06).float().mean() > 0.9


def test_random_points_fill_the_cube():
    points, rgb = scattered(scene()[1], 4000, torch.Generator().manual_seed(0))
    assert 1.29 < points.abs().max() <= 1.3
    assert_close(points.mean(0), torch.zeros(3), rtol=0, atol=0.05)
    assert rgb.min() >= 0 and rgb.max() <= 1


def test_begins_with_round_faint_gaussians_as_wide_as_the_gaps():
    net = learner().state.net
    assert_close(net.logits.sigmoid(), torch.full((200,), 0.1))
    assert_close(net.log_scales[:, 0], net.log_scales[:, 2])
    gaps = torch.cdist(net.means, net.means).sort(1).values[:, 1:4].square().mean(1).sqrt()
    assert_close(net.log_scales[:, 0].exp(), gaps, rtol=1e-3, atol=1e-4)


def test_builds_without_data():
    with torch.device("meta"):
        net = Gaussians.paper().network()
    assert sum(p.numel() for p in net.parameters()) == 59 * Gaussians.paper().points


def test_refuses_an_average_of_gaussians_that_come_and_go():
    with pytest.raises(UsageError, match="`ema` of gaussians must be 0"):
        replace(SMALL, ema=0.9).network()


# How it learns


def test_held_out_pictures_are_better_than_the_mean_picture():
    family, rows, held_out = scene()
    one = learner()
    logged = list(one.run())
    scores = family.score(evaluate(family, one.best_net, held_out))
    truth, mean = held_out["color"].double() / 255, rows["color"].double().mean(0, keepdim=True) / 255
    assert scores["psnr"] > float(psnr(mean.expand_as(truth), truth).mean()) + 4
    assert scores["gaussians"] == count(one)
    assert logged[-1]["loss"] < logged[0]["loss"] / 2
    assert 0.5 < scores["ssim"] < 1


def test_their_number_is_the_old_one_and_the_cloned_and_the_split_less_the_pruned():
    one, before, changed = learner(max_gaussians=10_000, densify_gradient=2e-3), 200, 0
    for logged in one.run(70):
        parts = {name: int(logged[name]) for name in ("cloned", "split", "pruned", "gaussians")}
        assert parts["gaussians"] == count(one) == before + parts["cloned"] + parts["split"] - parts["pruned"]
        changed += parts["gaussians"] != before
        before = parts["gaussians"]
    assert changed >= 2
    for parameter in one.state.net.parameters():
        assert len(parameter) == before
        assert len(one.state.optimizers["main"].state[parameter]["exp_avg"]) == before


def test_small_ones_are_cloned_and_large_ones_split():
    split = [sum(int(logged["split"]) for logged in learner(percent_dense=p).run(21)) for p in (1e-4, 10)]
    cloned = [sum(int(logged["cloned"]) for logged in learner(percent_dense=p).run(21)) for p in (1e-4, 10)]
    assert split[0] > 0 == split[1]
    assert cloned[1] > 0 == cloned[0]


def test_a_lower_threshold_gives_more_gaussians():
    found = []
    for threshold in (1e-1, 4e-3, 1e-3):
        one = learner(densify_gradient=threshold, max_gaussians=10_000, prune_opacity=1e-9)
        list(one.run(21))
        found.append(count(one))
    assert found[0] == 200 < found[1] < found[2]


def test_growth_stops_at_its_limit():
    one = learner(max_gaussians=230, densify_gradient=1e-9, prune_opacity=1e-9)
    list(one.run(61))
    assert count(one) == 230


def test_growth_stops_when_it_should():
    one = learner(refine_stop=0.2, densify_gradient=1e-9, max_gaussians=10_000, prune_opacity=1e-9)
    found = [int(logged["gaussians"]) for logged in one.run(45)]
    assert found[19] == 200 < found[20]
    assert found[20] == found[-1]


def test_gradients_by_centres_are_per_half_width_and_do_not_depend_on_the_batch():
    family, rows, _ = scene()
    net = learner().state.net
    alone = [family.descend(net, rows.batch([view])) for view in (0, 1)]
    losses, gradient, seen = family.descend(net, rows.batch([0, 1]))
    assert_close(losses, torch.cat([alone[0][0], alone[1][0]]))
    assert_close(gradient, alone[0][1] + alone[1][1], rtol=1e-4, atol=1e-8)
    assert_close(seen, alone[0][2] + alone[1][2])


def test_a_gradient_by_a_centre_is_what_moving_it_does_to_the_loss():
    """Against finite differences, in half picture widths."""
    family, rows, _ = scene()
    net, batch = learner().state.net, rows.batch([0])
    _, gradient, _ = family.descend(net, batch)
    chosen, project, slopes = int(gradient.argmax()), splats.project, []
    for axis in (0, 1):
        found = []
        for step in (-0.05, 0.05):

            def moved(*arguments, axis=axis, step=step):
                flat = project(*arguments)
                flat.centers.data[chosen, axis] += step
                return flat

            with patch.object(splats, "project", moved):
                found.append(float(family.descend(net, batch)[0]))
        slopes.append((found[1] - found[0]) / 0.1 * 48 / 2)
    assert float(gradient[chosen]) == pytest.approx(np.hypot(*slopes), rel=0.05)


def test_a_reset_of_opacities_comes_in_time_and_the_pictures_recover():
    one = learner(reset_every=30, refine_start=1000, prune_opacity=1e-9)
    before = [float(logged["loss"]) for logged in one.run(30)][-1]
    assert one.state.net.logits.sigmoid().max() > 0.1
    dark = float(one.update(30)["loss"])
    assert one.state.net.logits.sigmoid().max() <= 0.01 + 1e-6
    state = one.state.optimizers["main"].state[one.state.net.logits]
    assert not state["exp_avg"].any() and not state["exp_avg_sq"].any()
    worse = float(one.update(31)["loss"])
    after = [float(logged["loss"]) for logged in one.run(110)][-1]
    assert worse > 1.5 * max(before, dark) and after < worse / 2


def test_says_when_a_score_follows_a_reset_too_closely():
    family = Gaussians.paper()
    quiet = [step for step in (1, 2900, 3000, 3001, 3500, 5900, 6100, 14_900, 15_100, 29_000) if family.quiet(step)]
    assert quiet == [1, 2900, 3000, 5900, 14_900, 15_100, 29_000]
    assert all(Gaussians.tiny().quiet(step) for step in range(0, 1500, 50))


def test_the_degree_of_the_harmonics_grows():
    one = learner(sh_every=3, sh_degree=2, steps=10)
    assert [int(logged["degree"]) for logged in one.run()] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    state = one.state.net.harmonics.grad
    assert state.any()


def test_only_the_means_learn_ever_more_slowly():
    one = learner()
    list(one.run(1))
    first = {group["name"]: group["lr"] for group in one.state.optimizers["main"].param_groups}
    one._schedule(149)
    last = {group["name"]: group["lr"] for group in one.state.optimizers["main"].param_groups}
    assert first.pop("means") == pytest.approx(3e-3 * scene()[0].extent)
    assert last.pop("means") == pytest.approx(3e-5 * scene()[0].extent, rel=0.05)
    assert last == first


def test_the_same_seed_gives_the_same_gaussians():
    one, other = learner(), learner()
    list(one.run(45)), list(other.run(45))
    assert count(one) != 200
    assert one.dump() == other.dump()


def test_a_checkpoint_restores_whatever_their_number():
    one, other = learner(), learner()
    list(one.run(50))
    assert count(one) != 200
    assert {"gradient", "seen"} == set(one.state.memory)
    other.load(one.dump())
    for step in range(50, 62):  # beyond the next refinement
        assert_close(other.update(step), one.update(step), rtol=0, atol=0)
    assert one.dump() == other.dump()


class Dented(Gaussians):
    """No Gaussian is round: turning a round one has no gradient but rounding, and Adam makes whole steps of that."""

    def initialize(self, net, rows, generator):
        super().initialize(net, rows, generator)
        net.log_scales.data += torch.randn(net.log_scales.shape, generator=generator) / 3


def test_workers_decide_alike_and_as_one_alone():
    """Two workers, one with two views and one with one, through two refinements, in double precision."""
    family, rows, _ = scene()
    family, rows = (
        replace(Dented(**asdict(family)), batch=3, refine_start=4, refine_every=4, max_gaussians=10_000),
        doubled(rows),
    )

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        (alone,) = learn_together(family, rows, size=1, updates=10)
        with patch.object(dist, "is_initialized", lambda: True):
            first, second = learn_together(family, rows, size=2, updates=10)
    finally:
        torch.set_default_dtype(default)
    alone, first, second = (dict(one.state.net.named_parameters()) for one in (alone, first, second))
    assert len(alone["means"]) > 200
    assert_close(first, alone, rtol=0, atol=1e-6)
    assert_close(second, first, rtol=0, atol=0)


def test_a_worker_without_a_view_does_not_hold_up_the_others():
    family, rows, _ = scene()
    net = learner().state.net
    losses, gradient, seen = family.descend(net, rows.batch([]))
    assert losses.tolist() == [0] and not gradient.any() and not seen.any()
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())


# What it answers


def test_draws_what_cameras_see():
    family, _, held_out = scene()
    one = learner()
    list(one.run(15))
    net = one.best_net
    with torch.no_grad():
        answer = family.predict(net, family.example(held_out))["color"]
        figures = family.figures(net, held_out.batch([0, 1, 2]))
    assert answer.shape == (2, 48, 48, 3) and answer.dtype == torch.uint8
    assert (answer[:, 0, 0] > 200).all() and answer[:, 24, 24].min() < 200
    assert figures["truth_beside_splats"].shape[2] == figures["turntable"].shape[2] == 3
    assert (figures["truth_beside_splats"][:48, :48] == held_out["color"][0].numpy()).all()


def test_its_file_holds_its_gaussians():
    one = learner()
    list(one.run(25))
    net = one.state.net
    found = splat_ply.read(SMALL.files(net)["splats.ply"])
    assert len(found["means"]) == count(one)
    for name in ("means", "log_scales", "quaternions", "logits", "constant"):
        np.testing.assert_array_equal(found[name], getattr(net, name).detach().numpy())
    np.testing.assert_array_equal(found["rest"][:, :3], net.harmonics.detach().numpy())


def test_a_shortened_training_refines_and_resets_as_often():
    family = Gaussians.paper()
    short = family.shortened(family.steps // 10)

    assert (short.refine_start, short.refine_every, short.reset_every, short.sh_every) == (50, 10, 300, 100)
    assert Gaussians.tiny().shortened(240).reset_every == 0  # none stays none
