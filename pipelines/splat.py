"""Gaussian splatting of textured pieces from their rendered views, with a search over density control."""

from components.artifacts import at_least
from components.constraints import Count
from components.families.splatting.gaussians import Gaussians
from components.source import Source
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import pipeline


@pipeline
def splat(
    source: Source = "furniture --textured", pieces: Count = 1, size: str = "tiny", trials: Count = 4, seed: int = 0
):
    """
    One piece, one branch: views, a search over the density-control thresholds, and the piece as Gaussians.

    source: furniture --textured, or any other: each asset is a scene of its own
    pieces: how many of the source's pieces, in the order of their names
    size: the family's preset: tiny or paper
    trials: trials of each search
    seed: of every draw
    """
    gaussians = Gaussians.at(size)
    for piece in source.groups("id")[:pieces]:
        table = preprocess(source.only(value=piece), [gaussians.representation()])
        best = tune(gaussians, table, trials=trials)
        scores = evaluate(train(best, table, workers=0), table)
        register(scores, name=f"splat-{piece.replace('/', '-')}", gate=at_least(psnr=20))
