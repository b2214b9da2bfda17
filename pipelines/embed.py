"""A map of the shapes: a trained network's features on a plane by t-SNE, with a search over perplexity."""

from components.constraints import Count
from components.families.recap.tsne import Tsne
from components.family import Classifier
from components.source import Source
from components.steps.evaluate import evaluate
from components.steps.predict import predict
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import pipeline


@pipeline
def embed(
    source: Source = "furniture", family: Classifier = "voxnet", size: str = "tiny", trials: Count = 8, seed: int = 0
):
    """
    Features of every shape, a search over perplexity, and the map.

    source: furniture, or folder with --root
    family: whose features: a classifier
    size: the families' preset: tiny or paper
    trials: trials of t-SNE's search
    seed: of every draw
    """
    classifier, tsne = family.at(size), Tsne.at(size)
    table = preprocess(source, [classifier.representation()])
    features = predict(train(classifier, table, workers=0), table)
    best = tune(tsne, features, trials=trials)
    evaluate(train(best, features, workers=0), features)
