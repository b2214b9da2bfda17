"""Pictures that never were: a GAN on rendered views, judged by the features of a classifier of the same views."""

from dataclasses import replace

from components.artifacts import at_most
from components.constraints import Count
from components.families.generative.gan import Gan
from components.families.recap.convnet import ConvNet
from components.source import Source
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import pipeline


@pipeline
def imagine(
    source: Source = "furniture",
    size: str = "tiny",
    trials: Count = 4,
    workers: int | tuple[int, int] = 1,
    seed: int = 0,
):
    """
    Views of every shape, a search over the GAN's learning rates, and its samples beside real views.

    source: furniture, or folder with --root
    size: the family's preset: tiny or paper
    trials: trials of the search
    workers: Ray Train's workers; 1,4 is as many of them as there is room for
    seed: of every draw
    """
    gan = Gan.at(size)
    table = preprocess(source, [gan.representation()])
    # a small classifier is judge enough, and it must read the GAN's own pictures
    judge = train(replace(ConvNet.tiny(), size=gan.size, views=gan.views), table, workers=workers)
    best = tune(gan, table, trials=trials)
    scores = evaluate(train(best, table, workers=workers), table, extractor=judge)
    register(scores, name="pictures", gate=at_most(kid_random=0.05))
