import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from components.families.shapes.pointnet import PointNet, TNet, irregularity, rotated, turn
from components.table import Rows
from components.training.learner import Learner, evaluate, parameter_count


def small(**changes):
    defaults = {"stored": 64, "points": 64, "width": 0.125, "transforms": "both", "classes": 4, "batch": 8}
    return replace(PointNet.tiny(), **(defaults | changes))


@pytest.fixture
def net():
    """A small network in double precision whose T-nets and statistics are no longer those of the beginning."""
    torch.manual_seed(0)
    net = small(transforms="both").network().double()
    for module in net.modules():
        if isinstance(module, TNet):
            nn.init.normal_(module.last.weight, std=0.05)
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, std=0.1)
    return net.eval()


@pytest.fixture
def cloud():
    return torch.randn(2, 100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def shapes(count=8, points=96):
    """Rows of ellipsoids, each stretched in its own way, each its own class of four."""
    generator = torch.Generator().manual_seed(0)
    clouds = nn.functional.normalize(torch.randn(count, points, 3, generator=generator), dim=2)
    clouds = clouds * torch.rand(count, 1, 3, generator=generator).clamp(min=0.2)
    return Rows({"points": clouds}, [str(n) for n in range(count)], torch.arange(count) % 4, tuple("abcd"))


@pytest.mark.parametrize(("preset", "count"), [("paper", 3_471_473), ("authors", 3_480_049)])
def test_has_as_many_parameters_as_the_reference(preset, count):
    with torch.device("meta"):
        assert parameter_count(PointNet.at(preset).network()) == count


def test_the_order_of_points_does_not_matter(net, cloud):
    shuffled = cloud[:, torch.randperm(100, generator=torch.Generator().manual_seed(2))]
    assert_close(net(shuffled), net(cloud), rtol=0, atol=1e-13)


def test_points_given_twice_do_not_matter(net, cloud):
    assert_close(net(torch.cat([cloud, cloud[:, :50]], 1)), net(cloud), rtol=0, atol=1e-13)


def test_the_critical_points_alone_decide_the_answer(cloud):
    net = small(transforms="none").network().double().eval()  # a T-net has critical points of its own
    values = net.pointwise(cloud[:1]).values[0]  # [C, N]
    critical = values.argmax(1).unique()
    others = torch.tensor([n for n in range(100) if n not in critical.tolist()])

    assert len(critical) < 100
    assert_close(net(cloud[:1, critical]), net(cloud[:1]), rtol=0, atol=1e-13)
    assert_close(net(cloud[:1, torch.cat([critical, others[::3]])]), net(cloud[:1]), rtol=0, atol=1e-13)


def test_without_a_critical_point_the_feature_changes(cloud):
    net = small(transforms="none").network().double().eval()
    winner = net.pointwise(cloud[:1]).values[0].max(1)
    loud = winner.indices[winner.values.argmax()]
    rest = torch.tensor([n for n in range(100) if n != loud])
    assert not torch.allclose(net(cloud[:1, rest]).feature, net(cloud[:1]).feature)


def test_both_transforms_begin_as_the_identity(cloud):
    net = small(transforms="both").network().double()
    assert_close(net.turn_points(cloud.transpose(1, 2)), torch.eye(3).double().expand(2, 3, 3), rtol=0, atol=0)
    transform = net(cloud).transform
    assert_close(transform, torch.eye(8).double().expand(2, 8, 8), rtol=0, atol=0)
    assert irregularity(transform).eq(0).all()


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0, 2.0])
def test_the_regulariser_of_a_multiple_of_the_identity_is_known(c):
    matrices = c * torch.eye(64, dtype=torch.float64).expand(3, 64, 64)
    assert irregularity(matrices).sum().item() == pytest.approx(0.5 * 3 * 64 * (c**2 - 1) ** 2)


def test_the_regulariser_of_a_rotation_is_zero():
    rotation, _ = torch.linalg.qr(torch.randn(5, 64, 64, dtype=torch.float64))
    assert irregularity(rotation).max() < 1e-24


def test_the_regulariser_is_a_sum_over_the_batch_however_it_is_cut():
    rows = shapes()
    family = small(stored=96, points=96, orthogonality=1.0, dropout=0.0)
    net = family.network().eval()
    nn.init.normal_(net.turn_features.last.bias)

    def term(index):
        _, parts = family.loss(net, rows.batch(index), torch.Generator())
        return parts["irregularity"]

    whole = irregularity(net(rows["points"]).transform).sum()
    assert_close(term(np.arange(8)), whole)
    assert_close((term([0, 2, 4, 6]) + term([1, 3, 5, 7])) / 2, whole)


def test_points_are_rows_where_a_transform_is_applied(cloud):
    matrix = torch.randn(2, 3, 3, dtype=torch.float64)
    assert_close(turn(cloud.transpose(1, 2), matrix).transpose(1, 2), cloud @ matrix)


def test_its_gradients_are_those_of_finite_differences():
    net = small(width=0.125, transforms="both").network().double().eval()
    cloud = torch.randn(1, 8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: net(x).logits, cloud)


def test_equals_the_plain_formula_without_transforms(cloud):
    """Every shared layer is a full layer at each point, normalised by its running statistics."""
    net = small(transforms="none").network().double().eval()
    x = cloud
    for block in (net.lower, net.upper):
        for convolution, normal, _ in zip(block[0::3], block[1::3], block[2::3], strict=True):
            x = x @ convolution.weight[:, :, 0].T + convolution.bias
            x = (x - normal.running_mean) / (normal.running_var + normal.eps).sqrt() * normal.weight + normal.bias
            x = x.clamp(min=0)
    assert_close(net(cloud).feature, x.max(1).values)


def test_normalisation_forgets_less_at_every_stage():
    family = PointNet.paper()  # 200,000 samples are 6,250 updates of 32
    assert [family.momentum(step) for step in (0, 6_249, 6_250, 12_500, 10**6)] == [0.5, 0.5, 0.25, 0.125, 0.01]


def test_an_update_sets_the_momentum_of_every_normalisation():
    rows = shapes()
    family = small(stored=96, stage=8)
    learner = Learner.begin(family, rows)
    for _ in learner.run(3):
        pass
    found = {m.momentum for m in learner.state.net.modules() if isinstance(m, nn.BatchNorm1d)}
    assert found == {0.125}


def test_the_learning_rate_falls_by_stairs_to_a_hundredth():
    family = PointNet.paper()
    assert family.schedule("main", 6_249) == 1
    assert family.schedule("main", 6_250) == pytest.approx(0.7)
    assert family.schedule("main", 10**6) == pytest.approx(0.01)


def test_a_rotation_keeps_heights_and_distances(cloud):
    angle = torch.tensor([0.3, math.pi / 2], dtype=torch.float64)
    result = rotated(cloud, angle)
    assert_close(result[..., 1], cloud[..., 1])
    assert_close(torch.cdist(result, result), torch.cdist(cloud, cloud))
    assert_close(result[1, :, 0], cloud[1, :, 2])


def test_augmented_points_are_some_of_the_stored_ones_turned_and_moved_a_little():
    rows = shapes()
    family = small(stored=96, points=32, turn=0.0, jitter=0.01, stretch=1.0)
    result = family.augment(rows.batch(np.arange(8)), torch.Generator().manual_seed(0))["points"]
    nearest = torch.cdist(result, rows["points"]).min(2)

    assert result.shape == (8, 32, 3)
    assert 0 < nearest.values.max() <= 0.05 * math.sqrt(3)


def test_workers_share_one_draw_of_the_augmentation():
    rows = shapes()
    family = small(stored=96, points=32, turn=180.0, stretch=1.3)

    def augmented(index):
        return family.augment(rows.batch(index, row=index), torch.Generator().manual_seed(3))["points"]

    whole = augmented(np.arange(8))
    assert_close(augmented(np.arange(0, 8, 2)), whole[0::2])
    assert_close(augmented(np.arange(1, 8, 2)), whole[1::2])


def test_learns_eight_shapes_by_heart_in_under_200_updates():
    rows = shapes()
    family = small(stored=96, dropout=0.0, turn=0.0, jitter=0.0, stretch=1.0, smoothing=0.0, stage=10**6)
    learner = Learner.begin(replace(family, lr=3e-3), rows)
    for _ in learner.run(150):
        pass
    assert family.score(evaluate(family, learner.best_net, rows))["accuracy"] == 1.0


def test_draws_its_confusion_and_its_critical_points():
    rows = shapes()
    family = small(stored=96, labels=tuple("abcd"))
    with torch.no_grad():
        figures = family.figures(family.network().eval(), rows.batch(np.arange(8)))
    assert set(figures) == {"confusion", "critical_points"}


def test_a_shortened_training_has_as_many_stages():
    short = PointNet.tiny().shortened(90)

    assert (short.steps, short.stage) == (90, 800)
    assert PointNet.tiny().shortened(1).stage == 9
