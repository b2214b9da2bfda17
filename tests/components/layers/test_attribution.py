"""Attribution against captum, against definitions written differently, and against nets whose answer is known."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from captum.attr import Deconvolution, GuidedBackprop, Occlusion, Saliency
from torch import nn
from torch.testing import assert_close

from components.layers.attribution import (
    Strongest,
    class_score,
    deconvnet,
    guided,
    occlusion,
    of_class,
    of_unit,
    point_occlusion,
    receptive_field,
    saliency,
)

CONV, POOL = {2: nn.Conv2d, 3: nn.Conv3d}, {2: nn.MaxPool2d, 3: nn.MaxPool3d}


def classifier(axes=2, seed=0):
    """conv, relu, overlapping pool, conv, relu, full, relu, full: 12 places along each axis, five classes."""
    torch.manual_seed(seed)
    body = [CONV[axes](2, 4, 3), nn.ReLU(), POOL[axes](3, 2, ceil_mode=True), CONV[axes](4, 3, 3, padding=1), nn.ReLU()]
    full = [nn.Flatten(), nn.Linear(3 * 5**axes, 8), nn.ReLU(), nn.Linear(8, 5)]
    return nn.Sequential(*body, *full).double().eval()


def inputs(axes=2, count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, *[12] * axes, generator=generator, dtype=torch.float64)


def by_captum(method, net, x, label):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks
        return method(net).attribute(x.clone().requires_grad_(), target=label)


# Occlusion


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(("window", "stride"), [(4, 4), (5, 3), (5, 2), (12, 1), (1, 1)])
def test_the_drop_is_that_of_captum_up_to_the_edges(axes, window, stride):
    if axes == 3 and stride == 1 and window == 1:
        window, stride = 2, 2  # as many windows as places are slow in three dimensions
    net, x = classifier(axes), inputs(axes, count=1)
    shape, step = (2, *[window] * axes), (2, *[stride] * axes)
    theirs = Occlusion(net).attribute(x, shape, strides=step, target=3, baselines=0.25, perturbations_per_eval=32)

    ours = occlusion(class_score(net, 3, "logit"), x[0], window=window, stride=stride, baseline=0.25)

    assert_close(ours.expand(2, *ours.shape), theirs[0].double(), rtol=0, atol=1e-6)  # theirs is float32


def test_windows_may_differ_along_axes():
    net, x = classifier(), inputs(count=1)
    theirs = Occlusion(net).attribute(x, (2, 6, 3), strides=(2, 4, 2), target=0, baselines=0)
    ours = occlusion(class_score(net, 0, "logit"), x[0], window=(6, 3), stride=(4, 2))
    assert_close(ours, theirs[0, 0].double(), rtol=0, atol=1e-6)


def linear(axes=2):
    weight = torch.randn(2, *[12] * axes, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return weight, lambda x: (x * weight).flatten(1).sum(1)


@pytest.mark.parametrize("axes", [2, 3])
def test_of_a_linear_model_a_drop_is_the_sum_of_what_was_covered(axes):
    (weight, score), x = linear(axes), inputs(axes)[0]
    baseline = torch.tensor([0.5, -1.0], dtype=torch.float64).view(2, *[1] * axes)

    drop = occlusion(score, x, window=4, stride=4, baseline=baseline)

    part = ((x - baseline) * weight)[:, *[slice(4, 8)] * axes].sum()
    middle = drop[*[slice(4, 8)] * axes]
    assert_close(middle, part.expand_as(middle))


def test_of_a_linear_model_drops_of_windows_side_by_side_add_up_to_the_whole():
    (_, score), x = linear(), inputs()[0]
    drop = occlusion(score, x, window=3, stride=3, baseline=0.5)
    whole = score(x[None]) - score(torch.full_like(x, 0.5)[None])
    assert_close(drop[::3, ::3].sum(), whole[0])


def test_the_score_that_is_left_and_the_drop_add_up_to_the_score():
    score, x = class_score(classifier(), 2), inputs()[0]
    left, drop = (occlusion(score, x, window=5, stride=2, map=name) for name in ("score", "drop"))
    assert_close(left + drop, score(x[None]).expand(12, 12))


def test_evidence_in_one_patch_leaves_the_map_elsewhere_exactly_zero():
    x = inputs()[0]
    drop = occlusion(lambda many: many[:, :, 4:8, 8:12].sum((1, 2, 3)).tanh(), x, window=4, stride=4)
    outside = torch.ones(12, 12, dtype=torch.bool)
    outside[4:8, 8:12] = False
    assert not drop[outside].any()
    assert drop[~outside].all()


def test_covering_with_the_input_itself_changes_nothing():
    score, x = class_score(classifier(), 1, "logp"), inputs()[0]
    assert_close(
        occlusion(score, x, window=4, stride=2, baseline=x), torch.zeros(12, 12, dtype=x.dtype), atol=1e-12, rtol=0
    )


def test_batches_of_windows_do_not_change_the_map():
    score, x = class_score(classifier(), 1), inputs()[0]
    one, many = (occlusion(score, x, window=4, stride=3, batch=size) for size in (1, 1000))
    assert_close(one, many, rtol=0, atol=1e-12)


def test_occlusion_leaves_its_input_as_it_was():
    x = inputs()[0]
    before = x.clone()
    occlusion(class_score(classifier(), 1), x, window=4, stride=4)
    assert torch.equal(x, before)


def test_the_scores_of_a_class_are_its_logit_its_probability_and_the_logarithm():
    net, x = classifier(), inputs()
    logit, prob, logp = (class_score(net, 4, of)(x) for of in ("logit", "prob", "logp"))
    assert_close(logit, net(x)[:, 4])
    assert_close(prob, net(x).softmax(1)[:, 4])
    assert_close(logp.exp(), prob)


def test_a_logit_still_moves_where_the_probability_is_one():
    x = torch.ones(1, 4, 4, dtype=torch.float64)

    def sure(many):
        seen = 100 * many.flatten(1).sum(1)
        return torch.stack([seen, torch.zeros_like(seen)], 1)

    assert not occlusion(class_score(sure, 0, "prob"), x, window=2, stride=2).any()
    assert occlusion(class_score(sure, 0, "logit"), x, window=2, stride=2).eq(400).all()


@pytest.mark.parametrize(("window", "stride"), [(2, 3), (13, 1), (2, 0)])
def test_refuses_windows_that_leave_places_between_them(window, stride):
    with pytest.raises(ValueError, match="1 <= stride <= window <= 12 must hold"):
        occlusion(class_score(classifier(), 0), inputs()[0], window=window, stride=stride)


@pytest.mark.parametrize(
    "call", [lambda: class_score(len, 0, "odds"), lambda: occlusion(len, inputs()[0], window=2, map="heat")]
)
def test_refuses_words_that_it_does_not_know(call):
    with pytest.raises(ValueError, match="must be"):
        call()


def test_points_whose_patch_holds_the_evidence_are_the_ones_that_matter():
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points[:5] += 10  # far from the others, and alone in what the score sees
    drop = point_occlusion(lambda many: (many[:, :, 0] > 5).double().sum(1), points, neighbours=5)
    assert_close(drop[:5], torch.full((5,), 5.0, dtype=torch.float64))
    assert not drop[5:].any()


def test_the_drop_of_points_is_a_mean_over_the_patches_that_they_are_in():
    points = torch.randn(12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def score(many):
        return many.square().sum((1, 2))

    total, count = torch.zeros(2, 12, dtype=torch.float64)
    for middle in points:
        near = (points - middle).norm(dim=1).argsort()[:4]
        left = torch.tensor([n for n in range(12) if n not in near.tolist()])
        total[near] += score(points[None]) - score(points[left][None])
        count[near] += 1
    assert_close(point_occlusion(score, points, neighbours=4, batch=5), total / count)


def test_refuses_patches_of_all_points():
    with pytest.raises(ValueError, match="neighbours < 4 must hold"):
        point_occlusion(len, torch.zeros(4, 3), neighbours=4)


# Projections


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(deconvnet, Deconvolution), (guided, GuidedBackprop), (saliency, Saliency)]
)
def test_projections_are_those_of_captum(axes, ours, theirs):
    net, x = classifier(axes), inputs(axes)
    labels = torch.tensor([0, 3, 4])

    found = ours(net, x, of_class(labels))

    assert found.any()
    assert_close(found, by_captum(theirs, net, x, labels), rtol=0, atol=0)


def unpooled(values, switches, shape):
    """Maxima back in their places, overlapping ones added up."""
    flat = values.new_zeros(*values.shape[:2], shape[-2] * shape[-1])
    return flat.scatter_add(2, switches.flatten(2), values.flatten(2)).view(shape)


def test_the_projection_is_that_of_the_deconvnet_layer_by_layer():
    """Zeiler and Fergus's own construction: rectify, filter with the transposed filters, unpool with the switches."""
    net, x = classifier()[:5], inputs()
    first, pool, second = net[0], net[2], net[3]
    before = first(x).relu()
    pooled, switches = F.max_pool2d(before, 3, 2, ceil_mode=True, return_indices=True)
    maps = second(pooled).relu()
    chosen = of_unit(1, torch.tensor([0, 7, 24]))(maps)

    back = F.conv_transpose2d(chosen.relu(), second.weight, padding=1)
    back = unpooled(back, switches, before.shape)
    back = F.conv_transpose2d(back.relu(), first.weight)

    assert_close(deconvnet(net, x, of_unit(1, torch.tensor([0, 7, 24]))), back)
    assert back.any()
    assert pool.kernel_size > pool.stride  # the switches overlap


def test_maxima_go_back_to_where_they_came_from():
    x = inputs()
    values, switches = F.max_pool2d(x, 2, return_indices=True)
    back = saliency(nn.MaxPool2d(2).eval(), x, lambda maps: maps)
    assert_close(back, F.max_unpool2d(values, switches, 2).abs())
    assert_close(F.max_pool2d(back * x.sign(), 2).abs().amax(), values.abs().amax())
    assert_close(back[back > 0], x.abs()[back > 0])


def test_the_three_rules_differ_where_they_should():
    """What went forward: 2 and -1; what comes back: -3 and 4."""
    x = torch.tensor([[2.0, -1.0, 2.0]])

    def net(given):
        return given.relu()

    def back(maps):
        return torch.tensor([[-3.0, 4.0, 5.0]])

    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        (plain,) = torch.autograd.grad(net(leaf), leaf, back(x))
    assert plain.tolist() == [[-3, 0, 5]]
    assert deconvnet(net, x, back).tolist() == [[0, 4, 5]]
    assert guided(net, x, back).tolist() == [[0, 0, 5]]


class Reused(nn.Module):
    """What hooks on modules pass over: a ReLU that is used twice, functional ones, one in place."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.three = (nn.Linear(6, 6, dtype=torch.float64) for _ in range(3))
        self.relu, self.in_place, self.way = nn.ReLU(), nn.ReLU(inplace=True), way

    def forward(self, x):
        relu = {"module": self.relu, "in place": self.in_place, "functional": F.relu, "torch": torch.relu}[self.way]
        return self.three(relu(self.two(relu(self.one(x)))))


@pytest.mark.parametrize("way", ["module", "in place", "functional", "torch"])
@pytest.mark.parametrize("rule", [deconvnet, guided])
def test_a_relu_is_met_however_it_is_written(rule, way):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = Reused("module")
    separate = nn.Sequential(net.one, nn.ReLU(), net.two, nn.ReLU(), net.three).eval()

    assert_close(rule(Reused(way).eval(), x, of_class(2)), rule(separate, x, of_class(2)), rtol=0, atol=0)


@pytest.mark.parametrize("unit", [F.leaky_relu, F.gelu, F.relu_, torch.relu_, F.softplus])
def test_refuses_units_that_the_rules_are_not_about(unit):
    with pytest.raises(ValueError, match="must be a ReLU"):
        deconvnet(lambda x: unit(x * 1.0), torch.randn(2, 3), of_class(0))


def test_refuses_a_network_without_any_relu():
    with pytest.raises(ValueError, match="met none"):
        guided(nn.Linear(3, 2).eval(), torch.randn(2, 3), of_class(0))


@pytest.mark.parametrize("method", [saliency, deconvnet, guided])
def test_refuses_a_network_in_training(method):
    with pytest.raises(ValueError, match="evaluation mode"):
        method(classifier().train(), inputs(), of_class(0))


@pytest.mark.parametrize("method", [saliency, deconvnet, guided])
def test_projections_leave_no_gradients_behind_and_work_without_gradients(method):
    net, x = classifier(), inputs()
    with torch.no_grad():
        found = method(net, x, of_class(0))
    assert not found.requires_grad
    assert not x.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_backward_of_relu_is_as_before_afterwards():
    deconvnet(classifier(), inputs(), of_class(0))
    x = torch.tensor([1.0, -1.0], requires_grad=True)
    torch.autograd.backward(x.relu(), torch.tensor([-2.0, 3.0]))
    assert x.grad.tolist() == [-2, 0]


def test_other_weights_at_the_top_change_saliency():
    """The randomisation test of Adebayo et al.: an explanation must depend on what was learned."""
    x, net, other = inputs(count=1), classifier(seed=0), classifier(seed=0)
    torch.manual_seed(9)
    other[-1].reset_parameters()
    ranks = [saliency(one, x, of_class(1)).flatten().argsort().argsort().double() for one in (net, other)]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] < 0.9


# Receptive fields


@pytest.mark.parametrize("axes", [2, 3])
def test_a_field_is_the_support_of_the_gradient(axes):
    average = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[axes]
    conv = CONV[axes]
    net = nn.Sequential(conv(1, 1, 5, 2, 1), nn.ReLU(), average(3, 2), conv(1, 1, 2, padding=1, dilation=2)).double()
    for parameter in net.parameters():
        nn.init.ones_(parameter)  # nothing cancels, and every unit is on
    x = torch.ones(1, 1, *[31] * axes, dtype=torch.float64)
    side = net(x).shape[-1]

    for unit in (0, side // 2, side - 1):
        place = sum(unit * side**axis for axis in range(axes))
        support = saliency(net.eval(), x, of_unit(0, place))[0, 0] > 0
        expected = torch.zeros_like(support)
        window = receptive_field(net, axes).window([unit] * axes, x.shape[2:])
        expected[window] = True
        if 0 < unit < side - 1:  # at the edges one half of the dilated filter sees padding alone
            reach = support.nonzero()
            assert [(s.start, s.stop) for s in window] == [
                (int(low), int(high) + 1) for low, high in zip(reach.amin(0), reach.amax(0), strict=True)
            ]
        assert not (support & ~expected).any()


def test_the_field_of_plain_filters_is_the_support_of_the_gradient_everywhere():
    net = nn.Sequential(nn.Conv2d(1, 1, 5, 2, 2), nn.ReLU(), nn.AvgPool2d(3, 2), nn.Conv2d(1, 1, 3, padding=1)).double()
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    x = torch.ones(1, 1, 29, 25, dtype=torch.float64)  # strides leave no rest
    rows, columns = net(x).shape[2:]
    for unit in range(rows * columns):
        support = saliency(net.eval(), x, of_unit(0, unit))[0, 0] > 0
        expected = torch.zeros_like(support)
        expected[receptive_field(net).window(divmod(unit, columns), x.shape[2:])] = True
        assert torch.equal(support, expected)


def test_what_is_outside_a_field_changes_nothing():
    net, x = classifier()[:5], inputs(count=1)
    field = receptive_field(net)
    maps = net(x)
    for unit in [(0, 0), (2, 3), (4, 4)]:
        inside = field.window(unit, x.shape[2:])
        noise = 100 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
        noise[:, :, *inside] = 0
        assert torch.equal(net(x + noise)[:, :, *unit], maps[:, :, *unit])
        assert not torch.equal(net(x + 1)[:, :, *unit], maps[:, :, *unit])


def test_fields_grow_as_in_the_formula():
    layers = [nn.Conv2d(3, 8, 7, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(8, 8, 5, 2), nn.MaxPool2d(3, 2)]
    sizes = [receptive_field(layers[:count]) for count in (1, 3, 4, 5)]
    assert [one.size[0] for one in sizes] == [7, 11, 27, 43]
    assert [one.jump[0] for one in sizes] == [2, 4, 8, 16]
    assert sizes[-1].start == (-1, -1)


def test_refuses_layers_that_see_everything():
    with pytest.raises(ValueError, match="but got Flatten"):
        receptive_field([nn.Conv2d(1, 1, 3), nn.Flatten()])


# Strongest activations


def seen(parts, k=4, seed=0):
    """The strongest of each of some parts of 24 inputs; few distinct values, so that many are equal."""
    maps = torch.randint(0, 4, (24, 3, 5, 5), generator=torch.Generator().manual_seed(seed)).double()
    return [Strongest.of(maps[part], part, k) for part in parts], maps


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_merging_is_associative_and_commutative_ties_included():
    (a, b, c), _ = seen(torch.randperm(24, generator=torch.Generator().manual_seed(1)).split([3, 11, 10]))
    assert same(a.merge(b), b.merge(a))
    assert same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert same(c.merge(a).merge(b), a.merge(b).merge(c))


def test_parts_merged_are_the_whole():
    (whole,), _ = seen([torch.arange(24)])
    parts, _ = seen(torch.arange(24).split(5))
    together = parts[3]
    for place in (1, 0, 4, 2):
        together = together.merge(parts[place])
    assert same(together, whole)


def test_the_strongest_are_the_largest_and_where_they_are():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(10, 2, 4, 4, generator=generator)
    found = Strongest.of(maps, torch.arange(100, 110), 3)
    assert_close(found.value, maps.flatten(2).amax(2).T.sort(1, descending=True).values[:, :3])
    for feature_map in range(2):
        for value, item, place in zip(
            found.value[feature_map], found.item[feature_map], found.place[feature_map], strict=True
        ):
            assert maps[item - 100, feature_map].flatten()[place] == value


def test_too_few_inputs_leave_places_empty():
    found = Strongest.of(torch.ones(2, 1, 3, 3), torch.tensor([4, 5]), 4)
    assert found.item.tolist() == [[4, 5, -1, -1]]
    assert found.value.isinf().tolist() == [[False, False, True, True]]
