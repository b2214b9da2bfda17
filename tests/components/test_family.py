"""
Families: presets, settings, scores of classifiers, and how one is found by its name.
"""

import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Annotated, get_args, get_origin

import numpy as np
import pytest
import torch

from components.errors import UsageError
from components.families.shapes.pointnet import PointNet
from components.families.shapes.voxnet import VoxNet
from components.family import Goal, find, largest, names, overriding, read_field
from components.table import Rows

every_family = pytest.mark.parametrize("name", names())


def rows(*labels: str) -> Rows:
    return Rows({"points": torch.zeros(2, 4, 3)}, ["a", "b"], torch.zeros(2, dtype=torch.int64), labels)


def test_a_family_is_a_frozen_dataclass_that_takes_keywords_only():
    family = PointNet(lr=0.5)

    assert family == PointNet(lr=0.5)
    assert hash(family) == hash(pickle.loads(pickle.dumps(family)))
    with pytest.raises(FrozenInstanceError):
        family.lr = 0.1
    with pytest.raises(TypeError):
        PointNet(0.5)


def test_a_familys_name_is_its_files():
    assert [find(name).tiny().name for name in names()] == names()


@every_family
def test_presets_are_found_by_name_and_tiny_is_the_first(name):
    family = find(name)

    assert family.sizes()[0] == "tiny"
    assert family.at("tiny") == family.tiny()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: find("pointnett"), "No family 'pointnett'. Did you mean 'pointnet'? `rayfield families` lists all;"),
        (
            lambda: PointNet.at("tny"),
            "`size` of PointNet must be tiny or authors or paper, but got 'tny'. Did you mean",
        ),
        (lambda: read_field(PointNet, "lrr", "1"), "Family 'pointnet' has no field 'lrr'. Did you mean 'lr'?"),
        (lambda: read_field(PointNet, "lr", "x"), "pointnet.lr must be a number, but got 'x'."),
    ],
    ids=["name", "size", "field", "value"],
)
def test_what_is_not_there_is_refused_with_the_nearest_name(call, words):
    with pytest.raises(UsageError) as caught:
        call()

    assert words in str(caught.value)


@every_family
def test_a_setting_reaches_every_family_and_ends_with_the_drawing(name):
    """A family that had its own __post_init__ and forgot its parent's would never hear of --set."""
    family = find(name)
    with overriding({name: {"ema": "0.25"}}) as met:
        inside = family.tiny()

    assert inside.ema == 0.25
    assert met == {(name, "ema")}
    assert family.tiny().ema != 0.25
    assert replace(inside, ema=0.5).ema == 0.5


@pytest.mark.parametrize(
    ("name", "field", "text", "words"),
    [
        ("voxnet", "lr", "-1", "voxnet.lr must be above 0, but got -1.0. Pass --set voxnet.lr=..."),
        ("voxnet", "lr", "nan", "voxnet.lr must be a number, but got 'nan'."),
        ("voxnet", "lr", "inf", "voxnet.lr must be above 0, but got inf. Pass --set voxnet.lr=..."),
        ("voxnet", "dropout", "7", "voxnet.dropout must be 0 to 2, but got 7.0."),
        ("voxnet", "resolution", "3", "voxnet.resolution must be at least 16, but got 3."),
        ("pointnet", "points", "0", "pointnet.points must be at least 1, but got 0."),
        ("pointnet", "batch", "0", "pointnet.batch must be at least 1, but got 0."),
        ("pointnet", "steps", "0", "pointnet.steps must be at least 1, but got 0."),
        ("tsne", "perplexity", "-4", "tsne.perplexity must be above 1, but got -4.0."),
        ("convnet", "widths", "8,0", "convnet.widths must be at least 1, but got 0."),
        ("gan", "size", "48", "gan.size must be 8 or 16 or 32 or 64 or 128 or 256, but got '48'."),
        ("gaussians", "fall", "0", "gaussians.fall must be above 0, but got 0.0."),
    ],
)
def test_a_number_out_of_its_range_is_refused_when_the_family_is_made(name, field, text, words):
    with pytest.raises(UsageError) as caught, overriding({name: {field: text}}):
        find(name).tiny()

    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_number_out_of_its_range_is_refused_in_a_notebook_too():
    with pytest.raises(UsageError, match="voxnet.dropout must be 0 to 2, but got 3"):
        replace(VoxNet.tiny(), dropout=3)


@every_family
def test_every_number_of_a_family_has_a_range(name):
    """One without would be refused by a library, hours later, or by none."""
    plain = {one.name for one in fields(find(name)) if {one.type, *get_args(one.type)} & {int, float}}
    ranged = {one.name for one in fields(find(name)) if get_origin(one.type) is Annotated}

    assert plain <= ranged


def test_a_classifier_takes_its_classes_from_the_training_rows():
    family = VoxNet.tiny().adapt(rows("chair", "table"))

    assert (family.classes, family.labels) == (2, ("chair", "table"))


@pytest.mark.parametrize("labels", [(), ("chair",)])
def test_a_classifier_refuses_less_than_two_classes(labels):
    with pytest.raises(
        UsageError, match="needs at least two classes, but the training split has .* a folder of its own"
    ):
        VoxNet.tiny().adapt(rows(*labels))


def test_scores_of_a_classifier_are_those_of_its_confusion():
    """Two classes of ten and two rows: a lazy answer is right for most rows and for half of the classes."""
    confusion = np.array([[10, 0, 0], [2, 0, 0], [0, 0, 0]])
    scores = VoxNet(classes=3).score({"confusion": confusion, "loss": 6.0, "count": 12})

    assert scores == pytest.approx({"accuracy": 10 / 12, "balanced_accuracy": 0.5, "loss": 0.5})


def test_what_is_of_a_class_that_was_never_learned_is_wrong_and_has_no_loss():
    """Six of twelve rows are right; of the three classes that occur one half, all, and none."""
    confusion = np.array([[2, 2, 0], [0, 4, 0], [0, 0, 0], [0, 3, 1]])
    scores = VoxNet(classes=3).score({"confusion": confusion, "loss": 4.0, "count": 12})

    assert scores == pytest.approx({"accuracy": 6 / 12, "balanced_accuracy": 0.5, "loss": 0.5})


@pytest.mark.parametrize(
    ("direction", "one", "other", "better"),
    [
        ("max", 0.6, 0.5, True),
        ("max", 0.5, 0.5, False),
        ("min", 0.4, 0.5, True),
        ("min", 0.6, 0.5, False),
        ("min", 0.5, float("nan"), True),
        ("max", float("nan"), 0.5, False),
    ],
)
def test_a_number_is_better_than_no_number(direction, one, other, better):
    assert Goal("loss", direction).better(one, other) is better


def test_a_family_without_features_says_which_have_some():
    from components.families.generative.gan import Gan

    with pytest.raises(UsageError, match="gan has no features: choose a family that has"):
        Gan.tiny().features(torch.nn.Identity(), {})


# Numbers that are none


@pytest.mark.parametrize("direction", ["min", "max"])
def test_nan_is_ranked_last_whichever_way_is_better(direction):
    goal = Goal("score", direction)
    ranked = sorted([float("nan"), 0.1, 0.3, float("nan"), 0.2], key=goal.rank)

    assert ranked[:3] == ([0.1, 0.2, 0.3] if direction == "min" else [0.3, 0.2, 0.1])
    assert np.isnan(ranked[3:]).all()


def test_the_largest_of_values_is_none_where_one_is_nan():
    values = torch.tensor([[0.0, 2, 1], [3, torch.nan, 1], [torch.nan] * 3, [-1, -2, -3]])

    assert largest(values).tolist() == [1, -1, -1, 0]


def test_a_classifier_that_answers_nan_to_one_row_has_no_accuracy_and_no_label_for_it():
    family = VoxNet(classes=2, resolution=16, filters=2, hidden=4)
    net = family.network().eval()
    voxels = torch.zeros(3, 16, 16, 16)
    batch = {"voxels": voxels, "label": torch.tensor([0, 1, 0]), "index": torch.arange(3)}
    with torch.no_grad():
        sound = family.score(family.metrics(net, batch))
        voxels[1] = torch.nan
        scores = family.score(family.metrics(net, batch))

    assert 0 <= sound["accuracy"] <= 1
    assert all(np.isnan(value) for value in scores.values())
    assert family.predict(net, batch)["label"][1] == -1
