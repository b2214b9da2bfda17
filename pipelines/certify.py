"""One family's points 2, 5, 6 and 7: it learns, is tuned, registered and drawn. `rayfield certify` adds the others."""

from components.artifacts import Gate
from components.constraints import Count
from components.families.shapes.voxnet import VoxNet
from components.family import Classifier, Family
from components.representations.descriptors import Descriptors
from components.representations.features import Features
from components.source import Source
from components.steps.evaluate import baseline, evaluate
from components.steps.predict import predict
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import pipeline
from pipelines.zoo.catalog import exemption


@pipeline
def certify(
    family: Family = "voxnet",
    source: Source = "furniture",
    pieces: Source = "furniture --textured",
    size: str = "tiny",
    trials: Count = 8,
    seed: int = 0,
):
    """
    A family as it is and as tuned, on the same rows, beside the baselines.

    family: which
    source: what a family of many assets learns
    pieces: what a family of one asset learns: the first of them
    size: the family's preset
    trials: trials of the search
    seed: of every draw
    """
    model = family.at(size)
    if model.one_asset:
        table = preprocess(pieces.only(value=pieces.groups("id")[0]), [model.representation()])
    elif isinstance(model.representation(), Features):
        teacher = VoxNet.at(size)
        shapes = preprocess(source, [teacher.representation()])
        table = predict(train(teacher, shapes, workers=0), shapes)
    else:
        sets = [model.representation(), *([Descriptors()] if isinstance(model, Classifier) else [])]
        table = preprocess(source, sets)
    if isinstance(model, Classifier):
        for method in ("majority", "forest"):
            baseline(table, method=method)
    scores = evaluate(train(model, table, workers=0), table)
    evaluate(train(tune(model, table, trials=trials), table, workers=0), table)
    if not exemption(model.name, 6):
        register(scores, name=f"certified-{model.name}", gate=Gate())
