from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from components.families.shapes.voxnet import VoxNet, occluded, reflected, shifted, turned
from components.table import Rows
from components.training.learner import Learner, evaluate, parameter_count


@pytest.fixture
def grids():
    """Random grids, filled up to their borders, [4, 16, 16, 16]."""
    return (torch.rand(4, 16, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.4).to(torch.uint8)


def blocks(count=12, classes=3):
    """Rows of solid boxes whose height tells the class."""
    grids = torch.zeros(count, 16, 16, 16, dtype=torch.uint8)
    label = torch.arange(count) % classes
    for place in range(count):
        grids[place, 3:13, 3 : 6 + 3 * int(label[place]), 3 : 8 + place // classes] = 1
    return Rows({"voxels": grids}, [str(n) for n in range(count)], label, tuple("abc"[:classes]))


def small(rows=None, **changes):
    family = replace(VoxNet.tiny(), resolution=16, filters=4, hidden=16, batch=12, **changes)
    return family.adapt(rows) if rows else replace(family, classes=3)


@pytest.mark.parametrize(("classes", "count"), [(40, 921_736), (10, 917_866)])
def test_has_as_many_parameters_as_the_paper(classes, count):
    with torch.device("meta"):
        assert parameter_count(replace(VoxNet.paper(), classes=classes).network()) == count


def test_its_grids_shrink_as_in_the_paper():
    net = VoxNet.paper().network().eval()
    x, sides = torch.zeros(1, 1, 32, 32, 32), []
    for layer in net.body[:7]:
        x = layer(x)
        sides.append(x.shape[-1])
    assert [sides[0], sides[3], sides[5]] == [14, 12, 6]


def test_its_first_weights_are_spread_as_in_the_paper():
    torch.manual_seed(0)
    net = VoxNet.paper().network()
    convolution, full = net.body[3], net.body[8]

    assert convolution.weight.std().item() == pytest.approx((2 / (1.01 * 27 * 32)) ** 0.5, rel=0.02)
    assert full.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not convolution.bias.any()
    assert not full.bias.any()


def test_the_learning_rate_falls_when_the_paper_says():
    family = VoxNet.paper()
    assert [family.schedule("main", step) for step in (0, 59_999, 60_000, 400_000, 600_000)] == [1, 1, 0.1, 0.05, 0.01]


def test_a_shift_moves_every_voxel_and_lets_nothing_back_in(grids):
    steps = torch.tensor([[2, 0, 0], [0, -3, 0], [0, 0, 5], [-16, 0, 0]])
    moved = shifted(grids, steps)

    for grid, result, step in zip(grids.numpy(), moved.numpy(), steps.tolist(), strict=True):
        expected = np.zeros_like(grid)
        for x, y, z in np.argwhere(grid):
            place = (x + step[0], y + step[1], z + step[2])
            if all(0 <= p < 16 for p in place):
                expected[place] = 1
        np.testing.assert_array_equal(result, expected)


def test_a_shift_that_pushes_a_shape_out_does_not_wrap_it_around():
    grid = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    grid[0, 15] = 1
    assert not shifted(grid, torch.tensor([[1, 0, 0]])).any()


def test_four_quarter_turns_are_none_and_up_stays_up(grids):
    once = turned(grids, torch.ones(4, dtype=torch.int64))
    back = turned(once, torch.full((4,), 3))

    assert_close(back, grids)
    assert not torch.equal(once, grids)
    assert_close(once.sum((1, 3)), grids.sum((1, 3)))


def test_each_grid_has_a_turn_of_its_own(grids):
    quarters = torch.tensor([0, 1, 2, 3])
    result = turned(grids, quarters)
    for place, quarter in enumerate(quarters.tolist()):
        np.testing.assert_array_equal(result[place], np.rot90(grids[place].numpy(), quarter, (0, 2)))


def test_a_mirror_flips_only_the_axes_that_it_is_told(grids):
    flags = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
    result = reflected(grids, flags)
    assert_close(result[0], grids[0])
    assert_close(result[1], grids[1].flip(0))
    assert_close(result[2], grids[2].flip(2))
    assert_close(result[3], grids[3].flip(0, 2))


def test_a_convolution_with_turned_kernels_gives_the_turned_answer(grids):
    kernel = torch.randn(2, 1, 3, 3, 3, dtype=torch.float64)
    x = grids[:, None].double()

    straight = torch.nn.functional.conv3d(x, kernel).rot90(1, (2, 4))
    around = torch.nn.functional.conv3d(x.rot90(1, (2, 4)), kernel.rot90(1, (2, 4)))

    assert_close(straight, around)


def test_workers_share_one_draw_of_the_augmentation():
    rows, family = blocks(), small(turn=True)

    def augmented(index):
        batch = rows.batch(index, row=index)
        return family.augment(batch, torch.Generator().manual_seed(3))["voxels"]

    whole = augmented(np.arange(12))
    assert_close(augmented(np.arange(0, 12, 2)), whole[0::2])
    assert_close(augmented(np.arange(1, 12, 2)), whole[1::2])
    assert not torch.equal(whole, rows["voxels"])


def test_learns_twelve_boxes_by_heart():
    rows = blocks()
    family = small(rows, shift=0, mirror=0.0, lr=1e-2, steps=60)
    learner = Learner.begin(family, rows)
    for _ in learner.run():
        pass
    assert family.score(evaluate(family, learner.best_net, rows))["accuracy"] == 1.0


def test_its_features_are_what_the_last_layer_reads():
    rows, family = blocks(), small()
    net = family.network().eval()
    batch = rows.batch([0, 5])
    features = family.features(net, batch)

    assert features.shape == (2, 16)
    assert_close(net.head(features), family.logits(net, batch))


def test_occlusion_finds_the_only_voxels_that_the_net_looks_at():
    class Corner(torch.nn.Module):
        def forward(self, grids):
            seen = grids[:, 4:8, 8:12].float().sum((1, 2, 3))
            return torch.stack([seen, torch.zeros_like(seen)], 1)

    fall = occluded(Corner(), torch.ones(16, 16, 16, dtype=torch.uint8), 0, 4)
    assert fall[1, 2] > 0.4
    assert fall.count_nonzero() == 1


def test_draws_its_confusion_and_what_it_looks_at():
    rows = blocks()
    family = small(rows)
    with torch.no_grad():
        figures = family.figures(family.network().eval(), rows.batch(np.arange(12)))
    assert set(figures) == {"confusion", "occlusion"}


def test_a_shortened_training_falls_at_the_same_shares():
    assert VoxNet.tiny().shortened(100).falls == (70, 86, 96)
    assert VoxNet.tiny().shortened(100).steps == 100
