from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from components.errors import UsageError
from components.families.recap.convnet import ConvNet, different, framed, one_of_each, shifted, tinted
from components.layers.attribution import receptive_field
from components.metrics.extractors import features_of
from components.table import Rows
from components.training.learner import Learner, evaluate, parameter_count

SMALL = {"size": 16, "widths": (4, 6, 6, 6, 8), "hidden": 16, "batch": 12, "views": 2}


def marks(count=48, size=16, seed=0, classes=3):
    """Two views each of shapes whose class is the kind of a mark: a bar that lies, one that stands, a square."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) // 2 % classes
    pictures = torch.full((count, size, size, 3), 255, dtype=torch.uint8)
    for place in range(count):
        row, column = torch.randint(1, size - 8, (2,), generator=generator).tolist()
        height, width = ((2, 7), (7, 2), (5, 5))[int(label[place])]
        color = torch.randint(0, 160, (3,), generator=generator, dtype=torch.uint8)
        pictures[place, row : row + height, column : column + width] = color
    return Rows({"color": pictures}, [f"shape {n // 2}" for n in range(count)], label, tuple("abc"[:classes]))


def small(rows=None, **changes):
    family = replace(ConvNet.tiny(), **{**SMALL, **changes})
    return family.adapt(rows) if rows else replace(family, classes=3)


def learned(rows, **changes):
    learner = Learner.begin(small(rows, **changes), rows)
    for _ in learner.run():
        pass
    return learner


# The paper's network


def test_has_as_many_parameters_as_the_paper():
    """Counted from figure 3 of the paper: filters and biases of five convolutions and three full layers."""
    layers = [(3, 96, 49), (96, 256, 25), (256, 384, 9), (384, 384, 9), (384, 256, 9)]
    full = [(256 * 6 * 6, 4096), (4096, 4096), (4096, 1000)]
    counted = sum(a * b * k + b for a, b, k in layers) + sum(a * b + b for a, b in full)
    with torch.device("meta"):
        assert parameter_count(ConvNet.paper().network()) == counted == 62_357_608


def test_its_maps_shrink_as_in_the_paper():
    with torch.device("meta"):
        net = ConvNet.paper().network()
        sides = [maps.shape[-1] for maps in net.layers(torch.zeros(1, 3, 224, 224))]
    assert sides == [110, 26, 13, 13, 13]


def test_its_layers_see_more_the_deeper_they_are():
    with torch.device("meta"):
        net = ConvNet.paper().network()
    assert [receptive_field(net.body[:end]).size[0] for end in net.ends] == [7, 27, 75, 107, 139]


def test_the_presets_are_one_architecture():
    with torch.device("meta"):
        one, other = (replace(family, classes=5).network() for family in (ConvNet.tiny(), ConvNet.paper()))
    assert [type(m) for m in one.modules()] == [type(m) for m in other.modules()]


def test_refuses_pictures_that_its_layers_would_use_up():
    with pytest.raises(UsageError, match="`size` must leave a place to every layer, but of 16 layer"):
        replace(ConvNet.paper(), size=16).network()


def test_its_first_weights_are_as_wide_as_it_is_told():
    torch.manual_seed(0)
    given, he = replace(small(), spread=0.01, widths=(64,) * 5).network(), small(widths=(64,) * 5).network()
    assert given.body[3].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert he.body[6].weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert not he.body[0].bias.any()


def test_the_learning_rate_falls_at_half_and_at_three_quarters():
    family = replace(ConvNet.paper(), steps=100)
    assert [family.schedule("main", step) for step in (0, 49, 50, 74, 75)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


# What it reads


def test_a_picture_of_the_mean_colour_is_zero_to_the_network():
    rows = marks()
    family = small(rows)
    assert_close(torch.tensor(family.mean), rows["color"].float().mean((0, 1, 2)), rtol=0, atol=0.01)
    plain = torch.tensor(family.mean).expand(1, 16, 16, 3)
    assert not family.scaled(plain).any()


def test_refuses_pictures_of_another_size():
    family = small(marks())
    with pytest.raises(UsageError, match="16 pixels that this network learned from, but got 20"):
        family.scaled(torch.zeros(1, 20, 20, 3))


def test_a_shift_moves_every_pixel_and_lets_white_in():
    pictures = torch.randint(0, 255, (3, 8, 8, 3), dtype=torch.uint8)
    moved = shifted(pictures, torch.tensor([[2, 0], [0, -3], [-8, 1]]))
    assert_close(moved[0, 2:], pictures[0, :-2])
    assert moved[0, :2].eq(255).all()
    assert_close(moved[1, :, :-3], pictures[1, :, 3:])
    assert moved[1, :, -3:].eq(255).all()
    assert moved[2].eq(255).all()


def test_a_tint_leaves_white_white_and_stays_a_colour():
    pictures = torch.tensor([[[[255, 100, 0]]]], dtype=torch.uint8)
    result = tinted(pictures, torch.tensor([[1.5, 2.0, 1.5]]))
    assert result.flatten().tolist() == [255, 0, 0]
    assert tinted(pictures, torch.ones(1, 3)).flatten().tolist() == [255, 100, 0]


def test_workers_share_one_draw_of_the_augmentation():
    rows, family = marks(12), small(tint=0.3)

    def augmented(index):
        return family.augment(rows.batch(index, row=index), torch.Generator().manual_seed(3))["color"]

    whole = augmented(np.arange(12))
    assert_close(augmented(np.arange(0, 12, 2)), whole[0::2])
    assert_close(augmented(np.arange(1, 12, 2)), whole[1::2])
    assert not torch.equal(whole, rows["color"].float())


def test_without_its_augmentations_views_stay_as_they_are():
    rows, family = marks(12), small(shift=0, mirror=False, tint=0.0)
    batch = rows.batch(np.arange(12))
    assert_close(family.augment(batch, torch.Generator())["color"], rows["color"].float())


# What it learns


def test_learns_marks_that_it_has_not_seen():
    learner = learned(marks(96), steps=150, dropout=0.0, smoothing=0.0)
    family = learner.family
    scores = family.score(evaluate(family, learner.best_net, marks(48, seed=1)))
    assert scores["accuracy"] > 0.8
    assert scores["view_accuracy"] > 0.7


def test_a_shape_is_answered_by_the_mean_over_its_views():
    """Two views of shape 1 are half wrong, yet the sure one decides; shape 2 is one view, and wrong."""
    sure, unsure, wrong = np.log([[0.9, 0.1]]), np.log([[0.4, 0.6]]), np.log([[0.3, 0.7]])
    totals = {
        "answers": [np.concatenate([sure, wrong]), unsure],
        "truth": [np.array([0, 0]), np.array([0])],
        "shape": [np.array([1, 2]), np.array([1])],
        "count": 3,
    }
    scores = replace(small(), classes=2).score(totals)
    assert scores["accuracy"] == scores["balanced_accuracy"] == 0.5
    assert scores["view_accuracy"] == pytest.approx(1 / 3)
    assert scores["loss"] == pytest.approx(-np.log([0.9, 0.3, 0.4]).mean())


def test_its_features_are_what_the_last_layer_reads():
    rows, family = marks(6), small()
    net = family.network().eval()
    batch = rows.batch(range(6))
    features = family.features(net, batch)
    assert features.shape == (6, 16)
    assert_close(net.head(features), family.logits(net, batch))


def test_it_is_an_extractor_of_pictures():
    rows, family = marks(6), small()
    net = family.network().eval()
    extractor = features_of(family, net)
    assert extractor.name == "convnet"
    with torch.no_grad():
        expected = family.features(net, rows.batch(range(6))).double().numpy()
    np.testing.assert_allclose(extractor(rows["color"]), expected)


# What it shows


def test_draws_what_it_learned():
    rows = marks(24)
    family = small(rows)
    with torch.no_grad():
        figures = family.figures(family.network().eval(), rows.batch(range(24)))
    assert set(figures) == {"confusion", "filters", "deconvnet", "occlusion"}


def test_shapes_of_a_class_that_was_never_learned_are_wrong_and_no_last_class():
    """Every third shape: the network answers as before, and only what it is compared with is another."""
    rows = marks(24)
    family = small(rows)
    net, strange = family.network().eval(), rows.label == 1
    known = evaluate(family, net, rows, index=np.flatnonzero(~strange))
    rows.label[strange] = -1
    totals = evaluate(family, net, rows)

    expected, confusion = family.confusion(known), family.confusion(totals)
    np.testing.assert_array_equal(confusion[:-1], expected[:-1])
    assert (expected[-1].sum(), confusion[-1].sum()) == (0, 4)
    scores, without = family.score(totals), family.score(known)
    assert scores["accuracy"] == pytest.approx(without["accuracy"] * 8 / 12)
    assert scores["view_accuracy"] == pytest.approx(without["view_accuracy"] * 8 / 12)
    assert scores["loss"] == pytest.approx(without["loss"])


def test_shapes_of_no_class_that_was_learned_are_drawn_without_a_probability():
    rows = marks(24)
    family = small(rows)
    rows.label[:] = -1
    with torch.no_grad():
        figures = family.figures(family.network().eval(), rows.batch(range(24)))
    assert set(figures) == {"confusion", "filters", "deconvnet"}
    assert [text.get_text() for text in figures["confusion"].axes[0].get_yticklabels()] == [
        "a",
        "b",
        "c",
        "never learned",
    ]


def test_the_strongest_views_do_not_depend_on_how_many_are_seen_at_once():
    rows, family = marks(24), small()
    net = family.network().eval()
    with torch.no_grad():
        one, other = (family.strongest(net, rows["color"], k=5, at_once=count) for count in (5, 24))
    for a, b in zip(one, other, strict=True):
        assert_close(a.value, b.value)
        assert torch.equal(a.item, b.item)


def test_a_projection_is_grey_outside_the_field_and_not_inside():
    rows, family = marks(24), small()
    net = family.network().eval()
    with torch.no_grad():
        top = family.strongest(net, rows["color"], k=8)[0]
        feature_map = int(top.value[:, 0].argmax())
        back, views = family.projected(net.body[: net.ends[0]], rows.batch(range(24)), feature_map, top)
    assert back.shape == views.shape == (len(back), 5, 5, 3)
    assert ((back - 0.5).abs().amax((1, 2, 3)) - 0.5).abs().max() < 1e-6


def test_one_view_of_each_shape_is_shown_the_strongest():
    item, place = torch.tensor([3, 2, 0, 5, -1]), torch.tensor([7, 8, 9, 6, -1])
    shapes = torch.tensor([10, 10, 11, 11, 12, 12])
    chosen, places = one_of_each(item, place, shapes)
    assert chosen.tolist() == [3, 0, 5]
    assert places.tolist() == [7, 9, 6]
    assert one_of_each(item, place, torch.zeros(6).long())[0].tolist() == [3]


def test_different_shapes_of_different_classes_are_shown_the_right_ones_first():
    batch = {"id": torch.tensor([1, 1, 2, 3, 4]), "label": torch.tensor([0, 0, 0, 1, 1])}
    right = torch.tensor([False, True, True, False, True])
    assert different(batch, right, 3) == [1, 4, 2]
    assert different(batch, right, 9) == [1, 4, 2, 3]


def test_a_window_that_the_edge_cuts_off_is_framed_in_grey():
    square = framed(torch.ones(1, 8, 8, 3), [(slice(0, 2), slice(0, 4))], 4)[0]
    assert square[1:3].eq(1).all()
    assert square[[0, 3]].eq(0.5).all()


def test_a_shape_one_of_whose_views_is_answered_by_nan_leaves_no_accuracy():
    rows = marks()
    family = small(rows)
    totals = evaluate(family, family.network(), rows, index=np.arange(12))
    totals["answers"][0][5, 1] = np.nan

    assert all(np.isnan(value) for name, value in family.score(totals).items() if name != "loss")
