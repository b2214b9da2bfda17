"""
The texts that `rayfield new` writes: the smallest of its kind that works.
"""

FAMILY = '''"""
$title: a shape, classified by the mean of its points' features. Yours to change.

Paper       none: a start for your own
Reference   none
Size        $size parameters at paper(): 40 classes
Run         $run
Expect      tiny: to be measured$certify
"""

# B clouds, N points, C channels, K classes

from typing import Self

from torch import Tensor, nn

from components import search_space
from components.constraints import Count
from components.family import Batch, Classifier
from components.representation import Representation
from components.representations.points import Points


class $title(Classifier):
    points: Count = 256
    """points drawn from each shape, at least 1"""
    width: Count = 64
    """channels of the hidden layers, at least 1"""

    @classmethod
    def paper(cls) -> Self:
        return cls(classes=40, points=1024, width=128, steps=20_000)

    @classmethod
    def tiny(cls) -> Self:
        return cls(steps=400, lr=3e-3)

    def representation(self) -> Representation:
        return Points(count=self.points)

    def network(self) -> nn.Module:
        return Net(self.width, self.classes)

    def logits(self, net: nn.Module, batch: Batch) -> Tensor:
        return net(batch["points"])

    def features(self, net: nn.Module, batch: Batch) -> Tensor:
        return net.pooled(batch["points"])

    def space(self) -> dict[str, search_space.Domain]:
        return {"lr": search_space.loguniform(3e-4, 3e-2), "smoothing": search_space.uniform(0, 0.2)}


class Net(nn.Module):
    """Points [B, N, 3] -> logits [B, K]."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.whole = nn.Linear(width, classes)

    def pooled(self, points_BN3: Tensor) -> Tensor:
        return self.each(points_BN3).mean(1)  # [B, C]

    def forward(self, points_BN3: Tensor) -> Tensor:
        return self.whole(self.pooled(points_BN3))
'''

STEP = '''"""$name: how many assets of each class a table has. Yours to change."""

from collections import Counter

import pyarrow.parquet as pq

$imports


@step
def $name(table: Table, *, least: Count = 1, context: Context) -> dict[str, int]:
    """
    The number of assets of each class that has at least `least`, those in quarantine among them.

    What it returns is kept under a key: of this code, of `least` and of the table.
    """
    labels = pq.read_table(table.assets.path(), columns=["label"])["label"].to_pylist()
    found = {label: count for label, count in sorted(Counter(labels).items()) if count >= least}
    context.log({"classes": len(found), "assets": sum(found.values())}, 0)  # MLflow and the run's page show these
    return found
'''

SOURCE = '''"""$title: made-up boxes of three kinds. Yours to change: list your own things, and decode one."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np

from components.constraints import AtLeast, Count, Natural
from components.formats.mesh import Mesh
from components.source import Asset, Source, split_by_hash

SIDES = {"flat": (1, 0.1, 1), "long": (0.2, 1, 0.2), "thick": (1, 1, 1)}
CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
FACES = np.array([face for a, b, c, d in QUADS for face in ((a, b, c), (a, c, d))], np.int32)


class $title(Source):
    count: Count = 30
    """boxes of each kind, at least 1"""
    fold: Natural = 0
    """which of the folds is the test set"""
    folds: Annotated[int, AtLeast(2)] = 5
    """parts, one of which is the test set"""

    def rows(self) -> list[Asset]:
        listed = [self._asset(kind, number) for kind in SIDES for number in range(self.count)]
        return split_by_hash(listed, fold=self.fold, folds=self.folds, val=0.12)

    def _asset(self, kind: str, number: int) -> Asset:
        name = f"{kind}/{number}"
        # of all that decides what `open` gives, bytes of files and fields of this class: a key has nothing else
        digest = hashlib.blake2b(vertices(name).tobytes(), digest_size=16).hexdigest()
        return Asset(id=name, uri="", label=kind, split="", digest=digest)

    def open(self, asset: Asset) -> Mesh:
        return Mesh(vertices(asset.id), FACES)  # what cannot be decoded raises components.source.Unreadable

    def watch(self) -> Iterable[Path]:
        return []  # files and folders whose change may change the listing


def vertices(name: str) -> np.ndarray:
    """The corners of a box, [8, 3]: its kind's, each side changed a little by chance."""
    kind, number = name.split("/")
    chance = np.random.default_rng([len(kind), int(number)])
    return CORNERS * (np.array(SIDES[kind]) * chance.uniform(0.8, 1.2, 3)).astype(np.float32)
'''

REPRESENTATION = '''"""
$title: how far apart two points of a shape's surface are, as a histogram. Yours to change.

Osada, Funkhouser, Chazelle, Dobkin 2002, "Shape distributions": D2.
"""

from collections.abc import Iterator, Mapping

import numpy as np

$imports


class $title(Representation):
    bins: Count = 64
    """bins of the histogram, at least 1"""
    pairs: Count = 4096
    """pairs of points that are drawn, at least 1"""

    def columns(self) -> Mapping[str, Column]:
        return {"$name": Column((self.bins,), "float32", "share of pairs; distances from 0 to 3 times their mean")}

    def rows(self, asset: Mesh, generator: np.random.Generator) -> Iterator[Mapping[str, np.ndarray]]:
        points, _, _ = sample(asset.triangles, 2 * self.pairs, generator)
        one, other = np.split(generator.permutation(points), 2)
        distances = np.linalg.norm(one - other, axis=1)
        shares, _ = np.histogram(distances / distances.mean(), self.bins, (0, 3))
        yield {"$name": (shares / self.pairs).astype(np.float32)}
'''

PIPELINE = '''"""$title: shapes to a registered classifier. Yours to change."""

from components.artifacts import at_least, model_name
from components.constraints import Count
from components.families.shapes.voxnet import VoxNet
from components.source import Source
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import called, pipeline


@pipeline
def $name(source: Source = "furniture", size: str = "tiny", trials: Count = 2, workers: int = 1, seed: int = 0):
    """
    Voxels, a search, a training, scores, and a version in the registry.

    source: furniture, or folder with --root, or PATH.py of your own
    size: the family's preset: tiny or paper
    trials: trials of the search
    workers: Ray Train's workers
    seed: of every draw
    """
    family = VoxNet.at(size)
    table = preprocess(source, [family.representation()])
    best = tune(family, table, trials=trials)
    scores = evaluate(train(best, table, workers=workers), table)
    register(scores, name=model_name(called(source)), gate=at_least(accuracy=0.4))
'''

# Outside the project a step and a representation have a pipeline in their file, which shows them

STEP_IMPORTS = """from components.constraints import Count
from components.step import Context, step
from components.table import Table"""

STEP_IMPORTS_OUTSIDE = """from components.constraints import Count
from components.representations.points import Points
from components.source import Source
from components.step import Context, step
from components.steps.preprocess import preprocess
from components.table import Table
from pipelines.engine.pipeline import pipeline"""

STEP_SHOWN = '''

@pipeline
def shown(source: Source = "furniture", least: Count = 1):
    """The step on a table of points."""
    $name(preprocess(source, [Points(count=256)]), least=least)
'''

REPRESENTATION_IMPORTS = """from components.constraints import Count
from components.formats.mesh import Mesh
from components.kernels.sampling import sample
from components.representation import Column, Representation"""

REPRESENTATION_IMPORTS_OUTSIDE = (
    REPRESENTATION_IMPORTS
    + """
from components.source import Source
from components.steps.preprocess import preprocess
from pipelines.engine.pipeline import pipeline"""
)

REPRESENTATION_SHOWN = '''

@pipeline
def shown(source: Source = "furniture", bins: Count = 64):
    """A table of it."""
    preprocess(source, [$title(bins=bins)])
'''

# Inside the project each has its test

FAMILY_TEST = """import torch

from components.families.$name import $title


def test_the_order_of_points_does_not_matter():
    torch.manual_seed(0)
    net = $title(classes=3).network().eval()
    cloud = torch.randn(2, 64, 3)

    torch.testing.assert_close(net(cloud), net(cloud[:, torch.randperm(64)]))
"""

STEP_TEST = """from components.representations.points import Points
from components.sources.folder import Folder
from components.steps.$name import $name
from components.steps.preprocess import preprocess
from tests.meshes import write_shapes


def test_assets_are_counted_by_class(tmp_path):
    table = preprocess(Folder(root=str(write_shapes(tmp_path / "shapes", each=4))), [Points(count=8)], on="here")

    assert $name(table) == {"flat": 4, "long": 4, "round": 4}
    assert $name(table, least=5) == {}
"""

SOURCE_TEST = """from components.sources.$name import $title


def test_every_asset_is_a_usable_mesh_and_each_split_has_some():
    source = $title(count=20)
    assets = source.rows()

    assert [asset.id for asset in assets if source.open(asset).problem()] == []
    assert {asset.split for asset in assets} == {"train", "val", "test"}
"""

REPRESENTATION_TEST = """import numpy as np

from components.representations.$name import $title
from components.sources.furniture import Furniture


def test_the_shares_of_all_pairs_are_one_at_most():
    source, kind = Furniture(), $title(bins=8, pairs=64)
    (row,) = kind.rows(source.open(source.rows()[0]), np.random.default_rng(0))

    assert row["$name"].shape == (8,) and 0.9 < row["$name"].sum() <= 1
"""

PIPELINE_TEST = """from pathlib import Path

from pipelines import $name
from pipelines.engine.graph.tracing import draw
from pipelines.engine.pipeline import load, values


def test_its_steps_are_drawn():
    function = load(Path($name.__file__))
    drawn = draw(function, values(function, {}, {}), {}).nodes.values()

    titles = ["preprocess", "tune voxnet", "train voxnet", "evaluate voxnet", "register furniture"]
    assert [node.title for node in drawn] == titles
"""
