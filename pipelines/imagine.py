"""Pictures that never were: a GAN on rendered views, with a search over its learning rates."""

from components.artifacts import at_most
from components.families.gan import Gan
from components.source import Source
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import pipeline


@pipeline
def imagine(
    source: Source = "furniture", size: str = "tiny", trials: int = 4, workers: int | tuple[int, int] = 1, seed: int = 0
):
    """
    Views of every shape, a search over the GAN's learning rates, and its samples.

    source: furniture, or folder with --root
    size: the family's preset: tiny or paper
    trials: trials of the search
    workers: Ray Train's workers; 1,4 is as many of them as there is room for
    seed: of every draw
    """
    gan = Gan.at(size)
    table = preprocess(source, [gan.representation()])
    best = tune(gan, table, trials=trials)
    scores = evaluate(train(best, table, workers=workers), table)
    register(scores, name="pictures", gate=at_most(kid_random=0.05))
