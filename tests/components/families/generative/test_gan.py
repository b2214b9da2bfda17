import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from components.errors import DataError, UsageError
from components.families.generative.gan import (
    Gan,
    diagnose,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    slerp,
)
from components.table import Rows
from components.training.learner import Learner, evaluate, measure, parameter_count

SMALL = {"size": 16, "width": 4, "z": 6, "batch": 8, "steps": 50}


def discs(count=48, size=16):
    """Discs of several places and colours on white."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), -1)
    centre = torch.randint(3, size - 3, (count, 1, 1, 2), generator=generator)
    inside = ((grid - centre) ** 2).sum(-1, keepdim=True) <= 9
    color = torch.randint(0, 200, (count, 1, 1, 3), generator=generator)
    pictures = torch.where(inside, color, torch.tensor(255)).to(torch.uint8)
    return Rows({"color": pictures}, [f"disc {n // 2}" for n in range(count)], torch.zeros(count).long(), ("disc",))


def small(**fields):
    return Gan(**{**SMALL, **fields})


def run(family, updates, seed=0):
    learner = Learner.begin(family, discs(), seed=seed)
    return learner, list(learner.run(updates))


def frozen_copy(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


# Networks


def test_the_paper_size_has_the_papers_parameters():
    with torch.device("meta"):
        net = Gan.paper().network()

    assert parameter_count(net.generator) == 3_576_704
    assert parameter_count(net.discriminator) == 2_765_568


def test_the_paper_size_has_the_papers_shapes():
    with torch.device("meta"):
        net = Gan.paper().network()
        x, shapes = torch.empty(2, 100), []
        for layer in net.generator:
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
        answer = net.discriminator(x)

    steps = [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64)]
    assert [shape for shape in dict.fromkeys(shapes) if shape in steps] == steps
    assert answer.shape == (2,)


@pytest.mark.parametrize("size", [8, 16, 32, 128])
def test_every_size_makes_pictures_of_that_size(size):
    net = small(size=size).network()

    assert net(torch.randn(2, 6)).shape == (2, 3, size, size)
    assert net.discriminator(net(torch.randn(2, 6))).shape == (2,)


def test_another_size_is_refused():
    with pytest.raises(UsageError, match="gan.size must be 8 or 16 or 32 or 64 or 128 or 256, but got 48"):
        small(size=48)


def test_takes_the_size_of_the_pictures_that_there_are():
    assert Gan.tiny().adapt(discs()).size == 16


def test_weights_start_as_in_the_paper():
    net = Gan(size=32).network()

    assert float(net.generator[1].weight.detach().std()) == pytest.approx(0.02, rel=0.01)
    assert float(net.discriminator[0].weight.detach().mean()) == pytest.approx(0, abs=0.002)
    assert float(net.generator[2].weight.detach().mean()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("output", "low"), [("tanh", -1), ("sigmoid", 0)])
def test_pictures_lie_in_the_range_of_the_last_function(output, low):
    family = small(output=output)
    x = family.network()(100 * torch.randn(64, 6)).detach()
    real = family.scaled(discs()["color"])

    assert low <= float(x.min()) < float(x.max()) <= 1
    assert (float(real.min()), float(real.max())) == (pytest.approx(low, abs=0.05), 1)


@pytest.mark.parametrize("output", ["tanh", "sigmoid"])
def test_scaling_and_rounding_are_inverse(output):
    family, color = small(output=output), discs()["color"]

    class Echo(torch.nn.Module):
        generator = staticmethod(lambda z: z)

    assert torch.equal(family.pictures(Echo(), family.scaled(color)), color)


def test_spectral_normalisation_bounds_every_layer_and_leaves_no_batch_norm():
    net = small(norm_d="spectral").network().train()
    for _ in range(50):
        net.discriminator(torch.randn(8, 3, 16, 16))

    kinds = {type(layer).__name__ for layer in net.discriminator}
    assert "BatchNorm2d" not in kinds
    convolutions = [layer for layer in net.discriminator if hasattr(layer, "weight")]
    for layer in convolutions:
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.02)
    assert len(convolutions) == 3


@pytest.mark.parametrize(("slope", "kind"), [(0.0, torch.nn.ReLU), (0.2, torch.nn.LeakyReLU)])
def test_the_slope_chooses_the_generators_units(slope, kind):
    assert any(type(layer) is kind for layer in small(slope=slope).network().generator)


# Losses


def test_losses_are_the_logarithms_that_the_paper_writes():
    on_real, on_fake = torch.randn(2, 20, dtype=torch.float64)
    d_real, d_fake = on_real.sigmoid(), on_fake.sigmoid()

    assert_close(discriminator_loss(on_real, on_fake), -d_real.log().mean() - (1 - d_fake).log().mean())
    assert_close(generator_loss(on_fake, "minimax"), (1 - d_fake).log().mean())
    assert_close(generator_loss(on_fake, "heuristic"), -d_fake.log().mean())


def test_losses_stay_finite_where_a_sigmoid_would_not():
    sure = torch.tensor([1000.0])

    assert discriminator_loss(-sure, sure).item() == 2000
    assert generator_loss(-sure, "heuristic").item() == 1000


@pytest.mark.parametrize("logit", [-10.0, -2.0, 0.0, 3.0])
def test_the_gradients_of_both_objectives_have_closed_forms(logit):
    def gradient(objective):
        x = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
        generator_loss(x, objective).backward()
        return float(x.grad)

    sigmoid = 1 / (1 + math.exp(-logit))
    assert gradient("minimax") == pytest.approx(-sigmoid, rel=1e-12)
    assert gradient("heuristic") == pytest.approx(-(1 - sigmoid), rel=1e-12)


def test_where_the_discriminator_is_sure_minimax_vanishes():
    """At a logit of -10 its gradient is 4.5e-5 of the heuristic's (lecture notes, 7.3)."""
    assert 1 / (1 + math.exp(10)) == pytest.approx(4.54e-5, rel=1e-3)


def best_discriminator(p, q, smoothing=0.0):
    """Logits that minimise the loss for discrete real p and made q, found by Newton's method."""
    logits = torch.zeros(len(p), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-18, lr=0.8)

    def loss():
        optimizer.zero_grad()
        # the loss of single logits, weighted as often as they occur
        each = [discriminator_loss(one[None], one.new_full((1,), -1e9), smoothing) for one in logits]
        made = [discriminator_loss(one.new_full((1,), 1e9), one[None]) for one in logits]
        value = sum(a * b for a, b in zip(p, each, strict=True)) + sum(a * b for a, b in zip(q, made, strict=True))
        value.backward()
        return value

    optimizer.step(loss)
    return logits.detach(), float(loss().detach())


P = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15], dtype=torch.float64)
Q = torch.tensor([0.3, 0.1, 0.1, 0.1, 0.4], dtype=torch.float64)


def test_the_best_discriminator_is_p_over_p_plus_q():
    logits, loss = best_discriminator(P, Q)

    middle = (P + Q) / 2
    divergence = float((P * (P / middle).log()).sum() + (Q * (Q / middle).log()).sum()) / 2  # Jensen and Shannon's
    assert_close(logits.sigmoid(), P / (P + Q), atol=1e-7, rtol=0)
    assert -loss == pytest.approx(-math.log(4) + 2 * divergence, abs=1e-12)


def test_against_itself_the_best_discriminator_says_one_half():
    logits, loss = best_discriminator(P, P)

    assert_close(logits.sigmoid(), torch.full_like(P, 0.5))
    assert -loss == pytest.approx(-2 * math.log(2), abs=1e-12)


def test_one_sided_smoothing_only_scales_the_best_discriminator():
    """(1 - s) p / (p + q): made pictures stay in the denominator alone, so no bad mode is kept (Salimans, 2016)."""
    logits, _ = best_discriminator(P, Q, smoothing=0.1)

    assert_close(logits.sigmoid(), 0.9 * P / (P + Q), atol=1e-7, rtol=0)


def test_the_gradient_penalty_of_a_linear_discriminator_is_its_squared_weight():
    weight = torch.randn(3 * 8 * 8)
    real = torch.randn(5, 3, 8, 8, requires_grad=True)

    assert_close(gradient_penalty(real.flatten(1) @ weight, real), weight.square().sum())


def test_the_gradient_penalty_reaches_the_weights():
    weight = torch.randn(3, requires_grad=True)
    real = torch.randn(5, 3, requires_grad=True)
    gradient_penalty(real @ weight, real).backward()

    assert_close(weight.grad, 2 * weight.detach())


# Updates


def test_a_step_of_the_discriminator_leaves_the_generator_as_it_was():
    family, rows = small(), discs()
    learner = Learner.begin(family, rows)
    net = learner.state.net.train()
    fake = net.generator(torch.randn(8, 6))
    before, judged = frozen_copy(net.generator), frozen_copy(net.discriminator)
    family.discriminate(learner.state, family.scaled(rows["color"][:8]), fake.detach())

    assert_close(frozen_copy(net.generator), before, rtol=0, atol=0)
    assert all(p.grad is None for p in net.generator.parameters())
    assert not torch.equal(net.discriminator[0].weight, judged["0.weight"])


def test_a_step_of_the_generator_leaves_the_discriminators_weights_and_gradients_as_they_were():
    family = small()
    learner = Learner.begin(family, discs())
    net = learner.state.net.train()
    before = [p.detach().clone() for p in net.discriminator.parameters()]
    made = net.generator[1].weight.detach().clone()
    family.deceive(learner.state, net.generator(torch.randn(8, 6)))

    assert_close([p.detach() for p in net.discriminator.parameters()], before, rtol=0, atol=0)
    assert all(p.grad is None and p.requires_grad for p in net.discriminator.parameters())
    assert not torch.equal(net.generator[1].weight, made)


SWITCHES = [
    {},
    {"norm_d": "spectral"},
    {"norm_d": "none"},
    {"r1": 10.0},
    {"optimizer_d": "sgd", "lr_d": 0.02},
    {"objective": "minimax", "smoothing": 0.1},
    {"noise": "uniform", "output": "sigmoid", "slope": 0.2},
    {"n_disc": 3},
    {"separate": False, "mirror": False, "ema": 0.9},
]


@pytest.mark.parametrize("fields", SWITCHES, ids=lambda fields: ",".join(map(str, fields)) or "paper")
def test_every_switch_trains_repeats_and_continues_from_a_checkpoint(fields):
    family = small(**fields)
    one, logged = run(family, 3)
    other, again = run(family, 2)
    continued = Learner.begin(family, discs(), seed=0)
    continued.load(other.dump())

    assert logged[:2] == again
    assert_close(continued.update(2), logged[2], rtol=0, atol=0)
    assert continued.dump() == one.dump()
    assert all(value.isfinite() for value in logged[2].values())


@pytest.mark.parametrize("fields", SWITCHES[1:], ids=lambda fields: ",".join(fields))
def test_every_switch_changes_what_is_learned(fields):
    plain, switched = run(small(), 2)[1], run(small(**fields), 2)[1]

    assert plain[1]["generator_loss"] != switched[1]["generator_loss"]


def test_another_seed_gives_another_start():
    assert run(small(), 1)[1] != run(small(), 1, seed=1)[1]


def test_several_steps_of_the_discriminator_each_see_pictures_of_their_own():
    seen = []

    class Watching(Gan):
        def discriminate(self, state, real, fake):
            seen.append((real.clone(), fake.clone()))
            return super().discriminate(state, real, fake)

    Learner.begin(Watching(**SMALL, n_disc=3), discs()).update(0)

    assert [len(real) for real, _ in seen] == [8, 8, 8]
    assert len({real.numpy().tobytes() for real, _ in seen}) == 3
    assert len({fake.numpy().tobytes() for _, fake in seen}) == 3


def test_the_noise_of_a_row_does_not_depend_on_the_number_of_workers():
    seen = []

    class Watching(Gan):
        def discriminate(self, state, real, fake):
            seen.append(fake.clone())
            return super().discriminate(state, real, fake)

    family, rows = Watching(**SMALL), discs()
    for mine in (np.arange(8), np.arange(1, 8, 2)):
        state = Learner.begin(family, rows).state
        state.net.eval()
        family.update(state, rows.batch(mine, row=mine))

    assert_close(seen[1], seen[0][1::2])


def test_reflection_is_the_same_for_a_row_however_many_workers_there_are():
    family, rows = small(), discs()
    alone = family.augment(rows.batch(np.arange(8)), torch.Generator().manual_seed(0))["color"]
    half = family.augment(rows.batch(np.arange(1, 8, 2), row=np.arange(1, 8, 2)), torch.Generator().manual_seed(0))

    assert torch.equal(half["color"], alone[1::2])
    changed = (alone != rows["color"][:8]).flatten(1).any(1)
    assert 0 < int(changed.sum()) < 8
    assert torch.equal(alone[changed], rows["color"][:8][changed].flip(2))


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_noise_is_drawn_as_it_says(noise):
    z = small(noise=noise).draw(20_000, torch.Generator().manual_seed(0))

    assert float(z.mean()) == pytest.approx(0, abs=0.01)
    assert float(z.var()) == pytest.approx(1 if noise == "gaussian" else 1 / 3, rel=0.02)
    assert noise == "gaussian" or float(z.abs().max()) <= 1


# The averaged generator


def test_the_average_has_its_closed_form_for_constant_weights():
    """Under a learning rate of 0 for weights that were moved once: w + (w0 - w) times the product of what is kept."""
    family = small(ema=0.5, lr=1e-30, lr_d=1e-30)
    learner = Learner.begin(family, discs())
    start = learner.state.net.generator[1].weight.detach().clone()
    with torch.no_grad():
        learner.state.net.generator[1].weight.add_(1.0)
    for _ in learner.run(6):
        pass

    kept = math.prod(min(0.5, (1 + n) / (10 + n)) for n in range(6))
    assert_close(learner.best_net.generator[1].weight, start + 1 - kept, atol=1e-5, rtol=0)


def test_only_the_generator_of_a_network_is_judged():
    family = small()
    net = family.network()
    batch = discs().batch(np.arange(12))
    before = family.score(measure(family, net, batch))
    for parameter in net.discriminator.parameters():
        torch.nn.init.constant_(parameter, float("nan"))

    assert family.score(measure(family, net, batch)) == pytest.approx(before, nan_ok=True)


def test_the_average_keeps_the_statistics_of_the_last_network():
    learner, _ = run(small(ema=0.9), 3)

    assert_close(dict(learner.best_net.named_buffers()), dict(learner.state.net.named_buffers()), rtol=0, atol=0)


# Scores and answers


def test_a_row_always_gets_the_same_noise_and_rows_get_different_ones():
    family, rows = small(), discs()

    assert torch.equal(family.noise_of(torch.tensor([3, 5])), family.noise_of(torch.tensor([5, 3])).flip(0))
    batch = rows.batch(np.arange(4))
    assert batch["id"][0] == batch["id"][1]  # two views of one shape
    made = family.made(family.network().eval(), batch)
    assert len({picture.numpy().tobytes() for picture in made}) == 4


def test_scores_have_the_names_that_it_states():
    family = small()
    scores = family.score(evaluate(family, family.network(), discs()))

    assert tuple(scores) == family.scores
    assert family.goal.name == "kid_random"


def test_real_pictures_score_better_than_an_untrained_generator():
    class Real(Gan):
        def made(self, net, batch):
            return discs()["color"][(batch["index"] + 24) % 48]

    rows = discs()
    untrained = small().score(evaluate(small(), small().network(), rows, index=range(24)))
    real = Real(**SMALL)
    assert (
        real.score(evaluate(real, real.network(), rows, index=range(24)))["kid_random"] < untrained["kid_random"] / 10
    )


def test_learns_discs_within_150_updates():
    family = small(width=8, batch=16, steps=150, lr=2e-3, lr_d=1e-3)
    learner = Learner.begin(family, discs())
    before = family.score(evaluate(family, learner.best_net, discs()))["kid_random"]
    for _ in learner.run():
        pass

    assert family.score(evaluate(family, learner.best_net, discs()))["kid_random"] < before / 2


def test_another_models_features_can_judge_it():
    class Mean(Gan):
        def features(self, net, batch):
            return batch["color"].float().mean((1, 2))

    family = small()
    judged = family.judged_by(Mean(**SMALL), family.network())
    scores = judged.score(evaluate(judged, family.network(), discs()))

    assert judged.goal.name in scores
    assert set(family.scores) < set(scores)
    assert np.isfinite(scores["fd_mean"])


def test_it_answers_noise_with_pictures():
    family = small()
    example = family.example(discs())
    answer = family.predict(family.network().eval(), example)["color"]

    assert example["z"].shape == (2, 6)
    assert (answer.dtype, answer.shape) == (torch.uint8, (2, 16, 16, 3))


def test_doubles_from_numpy_are_an_answerable_question():
    family = small()
    z = np.random.default_rng(0).standard_normal((2, 6))

    assert len(family.predict(family.network().eval(), {"z": torch.from_numpy(z)})["color"]) == 2


def test_its_sheets_show_the_same_noise_every_time():
    family, rows = small(), discs()
    net = family.network().eval()
    with torch.no_grad():
        one, other = (family.figures(net, rows.batch(np.arange(start, start + 8))) for start in (0, 8))

    assert np.array_equal(one["samples"], other["samples"])
    assert np.array_equal(one["interpolation"], other["interpolation"])
    assert not np.array_equal(one["real above made"], other["real above made"])


# Great circles


def test_slerp_begins_and_ends_where_it_should():
    a, b = torch.randn(2, 5, 100, dtype=torch.float64)

    assert_close(slerp(a, b, 0.0), a)
    assert_close(slerp(a, b, 1.0), b)


def test_slerp_keeps_the_radius_and_turns_evenly():
    a, b = torch.nn.functional.normalize(torch.randn(2, 100, dtype=torch.float64), dim=1)
    whole = float((a @ b).acos())

    for t in (0.1, 0.5, 0.9):
        between = slerp(a, b, t)
        assert float(between.norm()) == pytest.approx(1, abs=1e-12)
        assert float((a @ between).acos()) == pytest.approx(t * whole, rel=1e-9)


def test_slerp_between_gaussians_stays_where_gaussians_are():
    """In 512 dimensions: ends at about 22.6, the straight line's middle at 16, the great circle's at 22.6."""
    a, b = torch.randn(2, 200, 512, generator=torch.Generator().manual_seed(0))

    assert float(((a + b) / 2).norm(dim=1).mean()) == pytest.approx(16.0, abs=0.1)
    assert float(slerp(a, b, 0.5).norm(dim=1).mean()) == pytest.approx(22.62, abs=0.1)


def test_slerp_between_parallel_vectors_is_a_straight_line():
    a = torch.randn(3, 10)

    assert_close(slerp(a, 3 * a, 0.5), 2 * a)
    assert_close(slerp(a, a, 0.3), a)


# Training curves


def curves(updates=400, **changed):
    """A healthy run's, with some of them replaced."""
    noise = np.random.default_rng(0).standard_normal((6, updates))
    healthy = {
        "discriminator_loss": 0.9 + 0.1 * noise[0],
        "generator_loss": 1.6 + 0.4 * noise[1],
        "real_accuracy": 0.8 + 0.05 * noise[2],
        "fake_accuracy": 0.82 + 0.05 * noise[3],
        "data_std": 0.36 + 0.01 * noise[4],
        "sample_std": 0.33 + 0.02 * noise[5],
    }
    return {**healthy, **changed}


def test_healthy_curves_are_called_healthy():
    assert diagnose(curves()) == ["healthy"]


def test_a_generator_loss_that_only_climbs_does_not_oscillate():
    assert diagnose(curves(generator_loss=np.linspace(1, 4, 400))) == ["healthy"]


@pytest.mark.parametrize("periods", [4, 10])
def test_a_generator_loss_that_swings_oscillates(periods):
    swinging = 2 + 1.5 * np.sin(np.linspace(0, 2 * np.pi * periods, 400))

    (said,) = diagnose(curves(generator_loss=swinging))
    assert said.startswith("oscillation")


def test_a_discriminator_that_is_always_right_wins():
    (said,) = diagnose(curves(real_accuracy=np.full(400, 1.0), fake_accuracy=np.full(400, 0.99)))
    assert said.startswith("the discriminator wins: 99% right")


def test_a_discriminator_that_is_right_about_one_kind_only_has_not_won():
    assert diagnose(curves(real_accuracy=np.full(400, 1.0))) == ["healthy"]


def test_a_discriminator_below_chance_is_lost():
    (said,) = diagnose(curves(real_accuracy=np.full(400, 0.3), fake_accuracy=np.full(400, 0.35)))
    assert said.startswith("the discriminator is lost: 35% right")


def test_samples_that_hardly_vary_have_collapsed():
    (said,) = diagnose(curves(sample_std=np.full(400, 0.036)))
    assert said.startswith("mode collapse: samples vary 10%")


def test_what_was_bad_only_at_first_is_forgiven():
    right = np.where(np.arange(400) < 200, 1.0, 0.8)

    assert diagnose(curves(real_accuracy=right, fake_accuracy=right)) == ["healthy"]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_number_that_is_none_has_diverged(wrong):
    values = np.where(np.arange(400) < 123, 1.0, wrong)

    (said,) = diagnose(curves(generator_loss=values))
    assert said.startswith("diverged: generator_loss is not finite from value 123 on")


def test_a_discriminator_that_learns_far_too_fast_is_seen_in_a_real_run():
    bad = small(width=8, batch=16, lr=1e-6, lr_d=5e-3, norm_d="none", mirror=False, steps=120)
    _, logged = run(bad, 120)

    history = {name: [float(row[name]) for row in logged] for name in logged[0]}
    assert any(said.startswith("the discriminator wins") for said in bad.diagnose(history))
    assert np.mean(history["discriminator_loss"][-30:]) < 0.1


def test_a_shortened_training_averages_over_the_same_share_of_it():
    assert Gan.tiny().shortened(600).ema == pytest.approx(0.995**5)
    assert small(ema=0.0).shortened(10).ema == 0


def test_pictures_that_are_no_numbers_are_refused_and_not_black():
    family = small()
    net = family.network().eval()
    net.generator[1].weight.data.fill_(torch.nan)

    with pytest.raises(DataError, match="the generator makes NaN. Lower lr and lr_d"):
        family.predict(net, discs().batch([0, 1]))
