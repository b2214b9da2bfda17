"""
`rayfield new family NAME`: a family that works, and its test.
"""

import keyword
from pathlib import Path

from components.errors import UsageError
from pipelines.engine.clone import of_clone
from pipelines.engine.code import ROOT

FAMILY = '''"""
{title}: a shape, classified by the mean of its points' features. Yours to change.

Paper       none: a start for your own
Reference   none
Size        {size} parameters at paper(): 40 classes
Run         rayfield run classify --family {name} --size tiny
Expect      tiny: to be measured by `rayfield certify {name}`
"""

# B clouds, N points, C channels, K classes

from typing import Self

from torch import Tensor, nn

from components import space
from components.family import Batch, Classifier
from components.ranges import Count
from components.representation import Representation
from components.representations.points import Points


class {title}(Classifier):
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

    def space(self) -> dict[str, space.Domain]:
        return {{"lr": space.loguniform(3e-4, 3e-2), "smoothing": space.uniform(0, 0.2)}}


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

TEST = """import torch

from components.families.{name} import {title}


def test_the_order_of_points_does_not_matter():
    torch.manual_seed(0)
    net = {title}(classes=3).network().eval()
    cloud = torch.randn(2, 64, 3)

    torch.testing.assert_close(net(cloud), net(cloud[:, torch.randperm(64)]))
"""


def family(name: str) -> list[Path]:
    """Writes components/families/NAME.py and its test; the conformance suite finds both by itself."""
    if not name.isidentifier() or name != name.lower():
        raise UsageError(f"A family's name is a file's: small letters, digits and _, but got {name!r}.")
    title = "".join(part.capitalize() for part in name.split("_"))
    if keyword.iskeyword(name) or keyword.iskeyword(title) or not title.isidentifier():
        law = "A family's module and class are imported by its name, so it has letters and is no word of Python"
        raise UsageError(f"{law}, but got {name!r}. Choose another.")
    module = ROOT / "components" / "families" / f"{name}.py"
    test = of_clone(ROOT / "tests" / "components" / "families", "new family") / f"test_{name}.py"
    for path in (module, test):
        if path.exists():
            raise UsageError(f"{path.relative_to(ROOT)} exists. Choose another name.")
    size = f"{(3 + 1) * 128 + (128 + 1) * 128 + (128 + 1) * 40:,}"
    module.write_text(FAMILY.format(name=name, title=title, size=size), encoding="utf-8")
    test.write_text(TEST.format(name=name, title=title), encoding="utf-8")
    return [module.relative_to(ROOT), test.relative_to(ROOT)]
