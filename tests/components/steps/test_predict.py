"""
predict: a model's features, as a table that another family learns from.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from components.artifacts import Checkpoint
from components.errors import DataError, UsageError
from components.families.recap.convnet import ConvNet
from components.families.recap.tsne import Tsne
from components.sources.folder import Folder
from components.steps.evaluate import evaluate
from components.steps.predict import predict
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.table import Table
from tests.meshes import small_voxnet


@pytest.fixture
def checkpoint(table: Table) -> Checkpoint:
    return train(small_voxnet(), table, workers=0)


def test_a_models_features_are_a_table_that_another_family_learns_from(table, checkpoint):
    features = predict(checkpoint, table, on="here")
    rows = features.open(features.sets[0].declared, "train")
    model = train(Tsne(steps=4, perplexity=5), features, workers=0)

    assert rows["features"].shape == (24, 8)
    assert rows.ids == sorted(rows.ids)
    assert model.family.name == "tsne"
    assert evaluate(model, features, on="here").name == "tsne"


def test_features_are_those_that_the_network_answers(table, checkpoint):
    features = predict(checkpoint, table, split="test", on="here")
    rows = features.open(features.sets[0].declared, "train")
    own = table.open(checkpoint.representation, "test", checkpoint.family.labels)
    net = checkpoint.network()
    answered = checkpoint.family.features(net, own.batch(range(len(own)))).detach()

    assert rows.ids == own.ids
    np.testing.assert_allclose(rows["features"].numpy(), answered.numpy(), rtol=1e-6)


@pytest.fixture
def seen_from_three_sides(shapes) -> tuple[Table, Checkpoint]:
    """A ConvNet, of which an asset is three rows."""
    family = replace(ConvNet.tiny(), size=16, views=3, widths=(4, 4, 4, 4, 4), hidden=8, steps=2)
    table = preprocess(Folder(root=str(shapes)), [family.representation()], on="here")
    return table, train(family, table, workers=0)


def test_the_rows_of_an_asset_are_joined_by_their_mean(seen_from_three_sides):
    table, checkpoint = seen_from_three_sides
    features = predict(checkpoint, table, split="test", on="here")
    rows = features.open(features.sets[0].declared, "train")
    own = table.open(checkpoint.representation, "test", checkpoint.family.labels)
    with torch.no_grad():
        answered = checkpoint.family.features(checkpoint.network(), own.batch(range(len(own))))

    assert own.ids == [name for name in rows.ids for _ in range(3)]
    np.testing.assert_allclose(rows["features"], answered.reshape(-1, 3, 8).mean(1), rtol=1e-5, atol=1e-6)


def test_a_map_of_views_has_a_point_of_its_own_for_each_asset(seen_from_three_sides):
    """Each view was put where the first of its shape is: of 240 positions 20 were drawn, and scored for all."""
    table, checkpoint = seen_from_three_sides
    features = predict(checkpoint, table, on="here")
    model = train(Tsne(steps=4, perplexity=5), features, workers=0)
    rows = features.open(features.sets[0].declared, "train")
    places = model.family.places(model.network(), rows.batch(range(len(rows))))

    assert model.family.points == len(rows) == 24
    assert places.tolist() == list(range(24))


def test_a_table_that_the_model_does_not_read_is_refused(table, checkpoint):
    features = predict(checkpoint, table, on="here")

    with pytest.raises(UsageError, match="This table has no Voxels.*it has Features"):
        predict(checkpoint, features, on="here")


def test_a_split_without_rows_is_refused(table, checkpoint):
    features = predict(checkpoint, table, on="here")
    model = train(Tsne(steps=2, perplexity=5), features, workers=0)

    with pytest.raises(DataError, match="The split 'val' has no rows to predict"):
        predict(model, features, split="val", on="here")
