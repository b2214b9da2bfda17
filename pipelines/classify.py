"""Which classifier is best on these shapes: five folds, hyperparameters chosen inside the training folds."""

from dataclasses import replace
from typing import Annotated

from components.constraints import AtLeast, Count
from components.errors import UsageError
from components.family import Classifier
from components.representations.descriptors import Descriptors
from components.source import Source
from components.steps.evaluate import baseline, compare, evaluate
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import pipeline


@pipeline
def classify(
    source: Source = "furniture",
    family: tuple[Classifier, ...] = ("pointnet", "voxnet"),
    size: str = "tiny",
    trials: Count = 1,
    folds: Annotated[int, AtLeast(2)] = 5,
    workers: int | tuple[int, int] = 0,
    seed: int = 0,
):
    """
    Cross-validation: mean test accuracy and its standard error, beside a random forest and the commonest class.

    source: furniture, or folder with --root
    family: classifiers, with commas between
    size: the families' preset: tiny or paper
    trials: trials of each family in each fold, scored on a part of the training folds; 1 takes the preset
    folds: parts of the data, each of them the test of the others once
    workers: Ray Train's workers for each training; 0 trains in the step's process
    seed: of every draw
    """
    if getattr(source, "fold", 0):
        raise UsageError("Cross-validation takes each fold in turn, but got --fold. Leave it out, or pass --folds.")
    models = [one.at(size) for one in dict.fromkeys(family)]
    sets = [*(model.representation() for model in models), Descriptors()]
    entries = []
    for fold in range(folds):
        table = preprocess(replace(source, fold=fold, folds=folds), sets)
        for model in models:
            best = tune(model, table, trials=trials) if trials > 1 else model
            entries.append(evaluate(train(best, table, workers=workers), table))
        entries += [baseline(table, method=method) for method in ("majority", "forest")]
    compare(entries)
