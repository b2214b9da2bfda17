from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.spatial.distance import squareform
from sklearn.manifold import TSNE, trustworthiness
from sklearn.manifold._t_sne import _joint_probabilities
from sklearn.neighbors import KNeighborsClassifier
from torch.testing import assert_close

from components.errors import DataError, UsageError
from components.families.recap.tsne import (
    NEAREST,
    DeltaBarDelta,
    Tsne,
    affinities,
    apart,
    approximate_gradient,
    conditional,
    divergences,
    exact_joint,
    gradient,
    neighbour_joint,
    principal,
)
from components.table import Rows
from components.training.learner import Learner, add, evaluate, measure


def cloud(count=80, dim=6, seed=0):
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def blobs(count=150, classes=3):
    """Well separated groups in ten dimensions."""
    centres = 10 * torch.randn(classes, 10, generator=torch.Generator().manual_seed(5))
    label = torch.arange(count) % classes
    x = centres[label] + torch.randn(count, 10, generator=torch.Generator().manual_seed(6))
    return Rows({"features": x}, [f"shape {n}" for n in range(count)], label, tuple("abcdef"[:classes]))


@pytest.fixture(scope="module")
def learned():
    """Three blobs, embedded at perplexity 30."""
    rows = blobs()
    family = Tsne(perplexity=30, steps=750).adapt(rows)
    learner = Learner.begin(family, rows)
    logged = [float(update["loss"]) for update in learner.run()]
    return family, learner.best_net, rows, logged


def squares(x):
    return torch.cdist(x, x).square().fill_diagonal_(torch.inf)


# The joint distribution


@pytest.mark.parametrize("perplexity", [3.0, 10.0, 30.0])
def test_each_row_has_the_perplexity_that_was_asked_for(perplexity):
    p = conditional(squares(cloud()), perplexity)
    entropy = -(p * p.clamp(min=1e-300).log2()).sum(1)

    assert_close(p.sum(1), torch.ones(80).double())
    assert_close(2**entropy, torch.full((80,), perplexity).double(), rtol=0, atol=1e-5)


def test_the_joint_is_symmetric_with_an_empty_diagonal_and_sums_to_one():
    (p,) = exact_joint(cloud(), 10)
    assert_close(p, p.T, rtol=0, atol=0)
    assert not p.diagonal().any()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)


def test_the_joint_is_that_of_scikit_learn():
    x = cloud()
    theirs = squareform(_joint_probabilities(squares(x).fill_diagonal_(0).numpy(), 10, False))
    np.testing.assert_allclose(exact_joint(x, 10)[0].numpy(), theirs, atol=2e-6)


def test_the_sparse_joint_is_the_exact_one_where_all_points_are_neighbours():
    x = cloud(30)
    values, columns, offsets = neighbour_joint(x, 10)  # 3 x 10 neighbours of 29
    dense = csr_array((values, columns, offsets), shape=(30, 30)).toarray()
    assert_close(torch.from_numpy(dense), exact_joint(x, 10)[0])


def test_the_joint_does_not_change_when_the_data_are_turned_moved_or_scaled():
    x = cloud()
    turn, _ = torch.linalg.qr(cloud(6))
    expected = exact_joint(x, 10)[0]
    assert_close(exact_joint(x @ turn + 3, 10)[0], expected)
    assert_close(exact_joint(x * 1000, 10)[0], expected)


def test_the_joint_is_nearly_uniform_where_every_point_is_a_neighbour():
    p = exact_joint(cloud(40), 38.999)[0]
    others = p[~torch.eye(40, dtype=torch.bool)]
    assert_close(others, torch.full_like(others, 1 / (40 * 39)), rtol=0.05, atol=0)


def test_points_that_coincide_make_no_holes():
    x = torch.cat([cloud(20), cloud(20)[:1].expand(20, -1)])
    assert exact_joint(x, 5)[0].isfinite().all()


# The gradient


@pytest.mark.parametrize("factor", [1.0, 12.0])
def test_the_gradient_is_that_of_the_divergence(factor):
    (p,) = exact_joint(cloud(), 10)
    y = cloud(80, 2, seed=1).requires_grad_()
    kernel, q = affinities(y)
    # with a factor the attraction alone grows, which no longer is a divergence's gradient: add the part by hand
    divergences(p, q).sum().backward()
    with torch.no_grad():
        pull = 4 * (factor - 1) * ((p * kernel).sum(1, keepdim=True) * y - (p * kernel) @ y)
        assert_close(gradient(factor * p, kernel, q, y), y.grad + pull, rtol=0, atol=1e-10)


def test_the_gradient_is_that_of_finite_differences():
    (p,) = exact_joint(cloud(12), 4)
    y = cloud(12, 2, seed=1)
    kernel, q = affinities(y)
    slope = gradient(p, kernel, q, y)

    def at(step):
        moved = y.clone()
        moved[3, 1] += step
        return divergences(p, affinities(moved)[1]).sum()

    assert slope[3, 1].item() == pytest.approx(((at(1e-5) - at(-1e-5)) / 2e-5).item(), rel=1e-5)


def test_the_tree_gives_nearly_the_exact_gradient():
    x, y = cloud(30), cloud(30, 2, seed=1)
    net = Tsne(points=30, method="barnes_hut").network().double()
    net.attract(*neighbour_joint(x, 10))
    kernel, q = affinities(y)
    (p,) = exact_joint(x, 10)
    for factor in (1.0, 12.0):
        divergence, slope = approximate_gradient(net.sparse(), y, factor, 0.01)
        assert_close(slope, gradient(factor * p, kernel, q, y), rtol=1e-3, atol=1e-6)
        assert divergence.item() == pytest.approx(divergences(p, q).sum().item(), rel=1e-4)


def test_the_divergence_does_not_change_when_the_map_is_turned_mirrored_or_moved():
    (p,) = exact_joint(cloud(), 10)
    y = cloud(80, 2, seed=1)
    turn, _ = torch.linalg.qr(cloud(2, 2))
    expected = divergences(p, affinities(y)[1]).sum()
    for same in (y @ turn, y * torch.tensor([-1, 1]), y + 5):
        assert_close(divergences(p, affinities(same)[1]).sum(), expected)


# The optimizer


def test_a_gain_grows_while_steps_agree_and_shrinks_when_they_do_not():
    x = torch.zeros(1, requires_grad=True)
    optimizer = DeltaBarDelta([x], lr=1.0, momentum=0.0)
    gains = []
    for slope in (1.0, 1.0, 1.0, -1.0):
        x.grad = torch.tensor([slope])
        optimizer.step()
        gains.append(optimizer.state[x]["gain"].item())
    assert gains == pytest.approx([0.8, 1.0, 1.2, 0.96])


def test_no_gain_falls_below_the_least():
    x = torch.zeros(1, requires_grad=True)
    optimizer = DeltaBarDelta([x], lr=1.0, momentum=0.0, least=0.01)
    for turn in range(60):
        x.grad = torch.tensor([(-1.0) ** turn])
        optimizer.step()
    assert optimizer.state[x]["gain"].item() == pytest.approx(0.01)


# The family


def test_three_blobs_are_embedded_as_well_as_by_scikit_learn(learned):
    family, net, rows, logged = learned
    theirs = TSNE(method="exact", perplexity=30, init="pca", max_iter=750, random_state=0).fit(rows["features"].numpy())
    scores = family.score(evaluate(family, net, rows))

    assert scores["divergence"] <= 1.05 * theirs.kl_divergence_
    assert scores["divergence"] == pytest.approx(logged[-1], rel=0.01)
    assert scores["neighbour_accuracy"] == 1.0


def test_barnes_hut_embeds_them_nearly_as_well(learned):
    family, net, rows, _ = learned
    exact = family.score(evaluate(family, net, rows))
    tree = replace(family, method="barnes_hut")
    learner = Learner.begin(tree, rows)
    for _ in learner.run():
        pass
    scores = tree.score(evaluate(tree, learner.best_net, rows))

    assert scores["divergence"] == pytest.approx(exact["divergence"], rel=0.15)
    assert scores["neighbour_accuracy"] == 1.0


def test_the_divergence_falls_once_exaggeration_is_over(learned):
    *_, logged = learned
    smooth = np.convolve(logged[260:], np.ones(50) / 50, "valid")[::50]
    assert (np.diff(smooth) <= 1e-4).all()


def test_its_trustworthiness_is_that_of_scikit_learn(learned):
    family, best, rows, _ = learned
    for net in (best, Learner.begin(family, rows).best_net):
        ours = family.score(evaluate(family, net, rows))["trustworthiness"]
        theirs = trustworthiness(rows["features"].numpy(), net.positions.detach().numpy(), n_neighbors=12)
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_the_vote_of_neighbours_is_that_of_scikit_learn(learned):
    family, _, rows, _ = learned
    mixed = replace(rows, label=torch.randint(0, 2, (150,), generator=torch.Generator().manual_seed(0)))
    net = Learner.begin(family, mixed).best_net
    y = net.positions.detach().numpy()
    answers = []
    for place in range(150):
        rest = np.arange(150) != place
        model = KNeighborsClassifier(12).fit(y[rest], mixed.label.numpy()[rest])
        answers.append(model.predict(y[[place]])[0] == int(mixed.label[place]))
    assert family.score(evaluate(family, net, mixed))["neighbour_accuracy"] == pytest.approx(np.mean(answers))


def test_parts_of_the_map_are_judged_by_the_share_that_they_make(learned):
    family, net, rows, _ = learned
    parts = [measure(family, net, rows.batch(np.arange(first, 150, 2))) for first in (0, 1)]
    assert family.score(add(*parts)) == pytest.approx(family.score(evaluate(family, net, rows)))


def test_the_first_map_is_small_and_made_of_principal_axes():
    rows = blobs()
    family = Tsne(perplexity=30).adapt(rows)
    y = Learner.begin(family, rows).best_net.positions.detach()
    axes = principal(rows["features"].double(), 2)

    assert y[:, 0].std().item() == pytest.approx(1e-4, rel=1e-3)
    assert abs(np.corrcoef(y[:, 1].numpy(), axes[:, 1].numpy())[0, 1]) > 0.999


def test_the_learning_rate_follows_from_the_number_of_points():
    def rate(family):
        return family.optimizers(family.network(), family.phases()[0])["main"].param_groups[0]["lr"]

    assert rate(Tsne(points=4800)) == 100
    assert rate(Tsne(points=48)) == 50
    assert rate(Tsne(points=4800, lr=7.0)) == 7


def test_answers_where_a_point_lies_whatever_the_order(learned):
    family, net, rows, _ = learned
    batch = rows.batch([7, 3])
    assert_close(family.predict(net, batch)["position"], net.positions[[7, 3]])


def test_several_rows_of_one_asset_are_refused():
    """They share an id: all of them would be put where the first one is."""
    rows = blobs()
    with pytest.raises(UsageError, match="maps assets, by a row of each, but 'shape 0' has 2. .* by their mean"):
        Tsne.tiny().adapt(replace(rows, ids=["shape 0", *rows.ids[:-1]]))


def test_refuses_new_points_and_says_how_many(learned):
    family, net, rows, _ = learned
    strangers = replace(rows, ids=[*rows.ids[:148], "new", "newer"])
    with pytest.raises(UsageError, match="2 of 150 are new"):
        family.predict(net, strangers.batch(np.arange(150)))


@pytest.mark.parametrize("count", [5, 6, 20])
def test_too_few_points_for_a_perplexity_get_the_largest_wise_one_and_it_is_said(count):
    rows = blobs(count)
    family = Tsne(perplexity=20, steps=20, exaggerated=5).adapt(rows)
    learner = Learner.begin(family, rows)
    scores = [float(update["loss"]) for update in learner.run()]

    assert family.perplexity == (count - 1) / 3
    assert family.adapt(rows) == family
    assert f"the most that is wise for {count} points" in family.diagnose({})[0]
    assert np.isfinite(scores).all()
    assert np.isfinite(family.score(evaluate(family, learner.best_net, rows))["trustworthiness"])


def test_a_perplexity_that_the_points_allow_is_left_as_it_is():
    for perplexity in (20, 100, 149.5):
        family = Tsne(perplexity=perplexity).adapt(blobs())

        assert family.perplexity == perplexity
        assert family.diagnose({}) == []


@pytest.mark.parametrize(("count", "perplexity"), [(2, 1.5), (3, 20), (4, 20)])
def test_too_few_points_for_any_map_are_refused(count, perplexity):
    with pytest.raises(UsageError, match=f"or 3 with --set tsne.perplexity=2, but the training split has {count}"):
        Tsne(perplexity=perplexity).adapt(blobs(count))


def test_three_points_have_a_map_of_a_perplexity_that_is_asked_for():
    assert Tsne(perplexity=2).adapt(blobs(3)).perplexity == 2


def test_perplexity_is_searched_below_a_third_of_the_points():
    assert Tsne().adapt(blobs()).space()["perplexity"].high == 50


def test_the_map_says_that_distances_mean_nothing(learned):
    family, net, rows, _ = learned
    with torch.no_grad():
        picture = family.figures(net, rows.batch(np.arange(150)))["map"]
    assert "mean nothing" in picture.axes[0].get_xlabel()


# What scikit-learn's tree does not guard


def made_of(x):
    return Rows({"features": x}, [f"shape {n}" for n in range(len(x))], torch.zeros(len(x)).long(), ("a",))


@pytest.mark.parametrize("method", ["exact", "barnes_hut"])
def test_points_that_are_all_the_same_are_refused(method):
    """The first map was 0 / 0, and NaN ends the tree's process in a segmentation fault."""
    rows = made_of(torch.full((40, 6), 3.0))
    family = Tsne(method=method, perplexity=5).adapt(rows)
    with pytest.raises(DataError, match="A map needs points that differ, but all 40 are the same"):
        Learner.begin(family, rows)


def test_points_of_one_direction_are_the_same_by_their_cosine():
    rows = made_of(torch.tensor([1.0, 2, 4]) * torch.tensor([[1.0], [2.0], [4.0]]).repeat(10, 1))
    with pytest.raises(DataError, match="all 30 are the same"):
        Learner.begin(Tsne(metric="cosine", perplexity=5).adapt(rows), rows)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_no_finite_numbers_are_refused_with_how_many(bad):
    x = cloud(40).float()
    x[[7, 9], 2] = bad
    rows = made_of(x)
    with pytest.raises(DataError, match="must be finite numbers, but 2 of 40 are not, shape 7 among them"):
        Learner.begin(Tsne(perplexity=5).adapt(rows), rows)


@pytest.mark.parametrize("start", ["pca", "random"])
def test_duplicates_have_the_divergence_that_they_have_exactly(start):
    """Ten of each: it was -4.5 from principal axes, since the tree takes points that coincide for one."""
    rows = made_of(cloud(20).float().repeat(10, 1))
    family = Tsne(perplexity=10, steps=400, method="barnes_hut", start=start).adapt(rows)
    learner = Learner.begin(family, rows)
    logged = [float(update["loss"]) for update in learner.run()]
    scores = family.score(evaluate(family, learner.best_net, rows))

    assert min(logged) >= 0
    assert logged[-1] == pytest.approx(scores["divergence"], rel=0.05)
    assert scores["divergence"] < 0.05


def test_the_tree_gives_nearly_the_exact_gradient_where_points_coincide():
    x, y = cloud(30), cloud(10, 2, seed=1).repeat(3, 1)
    net = Tsne(points=30, method="barnes_hut").network().double()
    net.attract(*neighbour_joint(x, 10))
    kernel, q = affinities(y)
    (p,) = exact_joint(x, 10)
    divergence, slope = approximate_gradient(net.sparse(), y, 1.0, 0.01)

    assert divergence.item() == pytest.approx(divergences(p, q).sum().item(), rel=1e-3)
    assert_close(slope, gradient(p, kernel, q, y), rtol=1e-2, atol=1e-5)


def test_points_that_coincide_are_put_apart_by_what_the_tree_sees_and_others_stay():
    y = np.array([[0, 0], [5, 5], [0, 0], [0, 5e-7], [40, 1], [40, 1]], np.float32)
    moved = apart(y)
    gaps = np.abs(moved[:, None] - moved[None]).max(2) + np.eye(6)

    assert gaps.min() > NEAREST
    assert np.abs(moved - y).max() < 1e-4
    assert (moved[1] == y[1]).all()
    assert apart(y[[0, 1, 4]]) is not None and (apart(y[[0, 1, 4]]) == y[[0, 1, 4]]).all()


def test_a_map_that_has_diverged_is_an_error_and_no_segmentation_fault():
    net = Tsne(points=30, method="barnes_hut").network().double()
    net.attract(*neighbour_joint(cloud(30), 10))
    with pytest.raises(DataError, match="this one has grown beyond them. Lower tsne.lr"):
        approximate_gradient(net.sparse(), torch.full((30, 2), torch.nan), 1.0, 0.5)


def test_data_of_one_number_each_have_a_map_of_two():
    """The one principal axis was taken for both coordinates: a map on its diagonal, for ever."""
    rows = made_of(cloud(30, 1).float())
    y = Learner.begin(Tsne(perplexity=5).adapt(rows), rows).best_net.positions.detach()

    assert y[:, 0].std().item() == pytest.approx(1e-4, rel=1e-3)
    assert abs(np.corrcoef(y.numpy().T)[0, 1]) < 0.9


# How it is compared


def test_a_score_means_something_when_the_map_was_free_for_as_long_as_it_was_exaggerated():
    family = Tsne.tiny()

    assert [family.quiet(step) for step in (1, 187, 250, 499, 500, 750)] == [False] * 4 + [True] * 2
    assert Tsne(steps=100).quiet(100)


def test_a_shortened_map_is_still_free_for_as_long_as_it_is_exaggerated():
    assert Tsne.tiny().shortened(150) == replace(Tsne.tiny(), steps=500)
    assert Tsne.tiny().shortened(600).steps == 600
    assert Tsne(steps=100).shortened(20).steps == 100


def test_what_the_score_is_measured_by_is_not_searched():
    assert "metric" not in Tsne().space()
