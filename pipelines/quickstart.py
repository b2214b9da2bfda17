"""Real furniture to a registered model: two representations, two classifiers, the better one registered and mapped."""

from components.artifacts import at_least, model_name
from components.constraints import Count
from components.families.recap.tsne import Tsne
from components.families.shapes.pointnet import PointNet
from components.families.shapes.voxnet import VoxNet
from components.representations.descriptors import Descriptors
from components.source import Source
from components.steps.evaluate import baseline, best_of, evaluate
from components.steps.predict import predict
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import called, pipeline


@pipeline
def quickstart(
    source: Source = "furniture",
    size: str = "tiny",
    trials: Count = 4,
    workers: int | tuple[int, int] = 1,
    name: str = "",
    seed: int = 0,
):
    """
    Real furniture to a registered model, on one machine.

    source: where the shapes come from: furniture, or folder with --root
    size: the families' preset: tiny or paper
    trials: trials of PointNet's tuning
    workers: Ray Train's workers for each training; 1,4 is as many of them as there is room for
    name: of the registered model; if empty furniture, or the folder's own
    seed: of every draw
    """
    pointnet, voxnet = PointNet.at(size), VoxNet.at(size)
    sets = [pointnet.representation(), voxnet.representation(), Descriptors()]
    table = preprocess(source, sets, on="ray")
    tuned = tune(pointnet, table, trials=trials)
    checkpoints = [train(tuned, table, workers=workers), train(voxnet, table, workers=workers)]
    scores = [evaluate(checkpoint, table) for checkpoint in checkpoints]
    for method in ("majority", "forest"):
        baseline(table, method=method)
    best, checkpoint = best_of(scores)
    register(best, name=model_name(name or called(source)), gate=at_least(accuracy=0.4))
    features = predict(checkpoint, table)
    evaluate(train(Tsne.at(size), features, workers=0), features)
