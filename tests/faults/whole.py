"""Small and whole: shapes to a champion, for the tests that kill it."""

from components.artifacts import at_least
from components.source import Source
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import pipeline
from tests.meshes import small_pointnet


@pipeline
def whole(source: Source = "folder", trials: int = 2):
    """The whole way."""
    family = small_pointnet(steps=10)
    table = preprocess(source, [family.representation()], on="here")
    best = tune(family, table, trials=trials)
    scores = evaluate(train(best, table, workers=0), table, on="here")
    # by force: whichever of the two is better, the alias moves
    register(scores, name="whole", gate=at_least(accuracy=0.0), force=True)
