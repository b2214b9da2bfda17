"""
t-SNE: points of many dimensions on a plane, such that near ones stay near.

C = KL(P || Q); p_ij from Gaussians whose widths give each point the same perplexity; q_ij from (1 + |y_i - y_j|^2)^-1.

Paper       van der Maaten, Hinton, JMLR 2008; Barnes-Hut: van der Maaten, JMLR 2014
Reference   github pavlin-policar/openTSNE @6287bbf; scikit-learn 1.9.1
Size        12,000 parameters at paper(): the map, 2 N, of N = 6,000 points; what is kept of the points is not counted
Run         rayfield run embed --size tiny
Expect      tiny, on VoxNet's 128 features of the 446 bundled shapes (one run, 3 s): trustworthiness 0.980.
            With the splits of version 0.2: 0.974, where the two principal axes have 0.852; 0.738 of the shapes have
            their neighbours' class (axes: 0.561), but VoxNet was trained on 309 of them: on its 95 test shapes alone
            0.897 (axes 0.831), and 0.379 (axes 0.326)
Exempt      3: one map, one worker (its gradient needs all points); 6: new points are refused, for the method has no
            function from a new point to the map
"""

# N points, B of them, D features, K neighbours

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor, nn

from components import search_space
from components.constraints import Above, AtLeast, Natural, NotNegative, Share
from components.errors import DataError, UsageError
from components.family import Batch, Family, Goal, Phase, Picture, State
from components.representation import Representation
from components.representations.features import Features
from components.table import Rows

NEAR = 12  # neighbours that trustworthiness and the vote look at
TINY = 1e-12  # least probability
NEAREST = 1e-6  # distance in each coordinate up to which scikit-learn's tree takes two points for one


class Tsne(Family):
    """
    Chosen by trustworthiness: how few of a point's neighbours on the map are strangers in the data.

    Not by the divergence, which falls whenever perplexity rises. `criterion` (Cao and Wang, 2017) makes up for that,
    but says nothing about the map; it is reported beside.
    """

    lr: NotNegative = 0.0
    """learning rate, above 0; or 0 for max(N / exaggeration / 4, 50), the 4 being that of the gradient"""
    points: Natural = 0
    """points on the map; 0 is read from the training split"""
    labels: tuple[str, ...] = ()
    """names of the labels, for the legend"""
    perplexity: Annotated[float, Above(1)] = 30.0
    """effective number of neighbours, above 1; (N - 1) / 3 where it is N or more; wise below that"""
    exaggeration: Annotated[float, AtLeast(1)] = 12.0
    """factor of P in the first phase, at least 1"""
    exaggerated: Natural = 250
    """updates of the first phase"""
    momentum: Share = 0.8
    """share of the last displacement that is kept, 0 to 1"""
    early_momentum: Share = 0.5
    """the same in the first 250 updates"""
    start: Literal["pca", "random"] = "pca"
    """first map: the principal axes, or chance; both with a deviation of 1e-4"""
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """distance between the data; cosine is euclidean between vectors of length 1"""
    components: Natural = 50
    """principal axes kept before distances are taken; 0 keeps the data as they are"""
    method: Literal["exact", "barnes_hut"] = "exact"
    """exact needs memory for N^2 numbers; choose the other, approximate, above some 3,000 points"""
    angle: Share = 0.5
    """how coarsely barnes_hut sums, 0 to 1; less is more exact"""

    goal: ClassVar[Goal] = Goal("trustworthiness", "max")
    scores: ClassVar[tuple[str, ...]] = ("trustworthiness", "divergence", "criterion", "neighbour_accuracy")

    @classmethod
    def paper(cls) -> Self:
        """Section 4.2: 6,000 digits of MNIST, 30 principal axes, perplexity 40."""
        first = cls(points=6000, batch=6000, lr=100, steps=1000, start="random")
        return replace(first, perplexity=40, exaggeration=4, exaggerated=50, components=30)

    @classmethod
    def tiny(cls) -> Self:
        return cls(perplexity=20, steps=750)

    def representation(self) -> Representation:
        return Features()

    def adapt(self, rows: Rows) -> Self:
        """
        With the points, and a perplexity that they allow: where they are too few for it, the largest wise one.

        Between a third of the points and all of them is unwise, but can be, and is left as it was asked for.
        """
        few, most = len(rows), widest(len(rows))
        for name, count in Counter(rows.ids).items():
            if count > 1:
                raise UsageError(
                    f"t-SNE maps assets, by a row of each, but {name!r} has {count}. "
                    "Make the table with `predict`, which joins an asset's rows by their mean."
                )
        if few < 3 or (self.perplexity >= few and most <= 1):
            raise UsageError(
                f"A map needs at least 5 points, or 3 with --set tsne.perplexity=2, but the training split has {few}. "
                "Give it more shapes that can be read."
            )
        perplexity = self.perplexity if self.perplexity < few else most
        return replace(self, points=few, batch=few, labels=tuple(rows.labels), perplexity=perplexity)

    def network(self) -> nn.Module:
        return Map(self.points)

    @torch.no_grad()
    def initialize(self, net: Any, rows: Rows, generator: torch.Generator) -> None:
        x = finite(rows)
        if self.metric == "cosine":
            x = x / x.norm(dim=1, keepdim=True).clamp(min=TINY)
        if (x == x[0]).all():
            raise DataError(
                f"A map needs points that differ, but all {len(x)} are the same. Take the features of a model that has "
                "learned."
            )
        net.remember(rows.id, rows.label, x)
        reduced = principal(x, self.components) if 0 < self.components < min(x.shape) else x
        net.attract(*(neighbour_joint if self.method == "barnes_hut" else exact_joint)(reduced, self.perplexity))
        first = torch.randn(len(x), 2, generator=generator, device=x.device)
        if self.start == "pca":
            axes = principal(x, 2)  # a single one, where the data have one number each: chance gives the other
            first = torch.cat([axes, first * axes.std()], 1)[:, :2]
        net.positions.copy_(first / first[:, 0].std() * 1e-4)

    def phases(self) -> list[Phase]:
        """The rows of a batch are not read: every update moves all points, and the network holds what it needs."""
        first = min(self.exaggerated, self.steps)
        return [Phase("exaggeration", first, columns=()), Phase("free", self.steps - first, columns=())]

    def optimizers(self, net: nn.Module, phase: Phase) -> dict[str, torch.optim.Optimizer]:
        rate = self.lr or max(self.points / self.exaggeration / 4, 50.0)
        return {"main": DeltaBarDelta(net.parameters(), lr=rate)}

    def update(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """One step of gradient descent; the divergence that it logs is without exaggeration."""
        net, (optimizer,) = state.net, state.optimizers.values()
        factor = self.exaggeration if state.phase.name == "exaggeration" else 1.0
        divergence, net.positions.grad = self.descend(net, factor)
        for group in optimizer.param_groups:
            group["momentum"] = self.early_momentum if state.step < 250 else self.momentum
        optimizer.step()
        return {"loss": divergence}

    @torch.no_grad()
    def descend(self, net: Any, factor: float) -> tuple[Tensor, Tensor]:
        """The divergence, and the gradient [N, 2] with P multiplied by `factor`."""
        if self.method == "barnes_hut":
            return approximate_gradient(net.sparse(), net.positions, factor, self.angle)
        kernel, q = affinities(net.positions)
        return divergences(net.joint, q).sum(), gradient(factor * net.joint, kernel, q, net.positions)

    def metrics(self, net: Any, batch: Batch) -> dict[str, Any]:
        """Each point's part of the divergence, of the untrustworthiness, and of the vote of its neighbours."""
        mine = self.places(net, batch)
        gap = torch.cdist(net.positions[mine].double(), net.positions.double())  # [B, N]
        gap[torch.arange(len(mine)), mine] = torch.inf
        reach = min(NEAR, (self.points - 1) // 2)
        near = gap.argsort(dim=1, stable=True)[:, :reach]  # [B, K]
        lost = torch.nan if net.positions.isnan().any() else 0.0  # NaN has neighbours too, as argsort sees it
        vote = net.label[near].mode(1).values
        known = net.label[mine] >= 0
        return {
            "divergence": net.divergence_of(mine),
            "strangeness": strangeness(net.data, mine, near) + lost,
            "right": ((vote == net.label[mine]) & known).sum() + lost,
            "known": known.sum(),
            "count": len(mine),
        }

    def score(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """Shares of the points that were asked for, so that a part of the map can be judged alone."""
        count, n, k = totals["count"], self.points, min(NEAR, (self.points - 1) // 2)
        divergence = float(totals["divergence"]) * n / count
        scores = {
            "trustworthiness": 1 - 2 * float(totals["strangeness"]) / (count * k * (2 * n - 3 * k - 1)),
            "divergence": divergence,
            "criterion": 2 * divergence + float(np.log(n)) * self.perplexity / n,
        }
        if totals["known"]:
            scores["neighbour_accuracy"] = float(totals["right"] / totals["known"])
        return scores

    def diagnose(self, curves: Mapping[str, Sequence[float]]) -> list[str]:
        if self.perplexity != widest(self.points):
            return []
        return [f"perplexity is {self.perplexity:.3g}, the most that is wise for {self.points} points"]

    def predict(self, net: Any, batch: Batch) -> dict[str, Tensor]:
        """`position` [B, 2] on the map of points that it was fitted on."""
        return {"position": net.positions[self.places(net, batch)]}

    def places(self, net: Any, batch: Batch) -> Tensor:
        """Where the rows of a batch stand on the map, [B], by their ids."""
        same = batch["id"][:, None] == net.id[None]
        if not same.any(1).all():
            raise UsageError(
                f"t-SNE places only the points that it was fitted on, but {int((~same.any(1)).sum())} of {len(same)} "
                "are new. Fit it again with them among its training rows."
            )
        return same.int().argmax(1)

    def figures(self, net: nn.Module, batch: Batch) -> dict[str, Picture]:
        from components.plotting.figures import scatter_map

        words = [self.labels[i] if 0 <= i < len(self.labels) else "unknown" for i in batch["label"].tolist()]
        title = f"{len(words)} points, perplexity {self.perplexity:g}"
        note = "distances between groups and sizes of groups mean nothing here; other perplexities draw other maps"
        return {"map": scatter_map(self.predict(net, batch)["position"].cpu().numpy(), words, title, note)}

    def quiet(self, step: int) -> bool:
        """True once the map has had as many updates without exaggeration as with it: until then it means nothing."""
        return step >= min(self.steps, 2 * self.exaggerated)

    def shortened(self, steps: int) -> Self:
        """Never to less than a map takes to mean something: exaggeration is as long as it was."""
        return replace(self, steps=min(self.steps, max(steps, 2 * self.exaggerated)))

    def space(self) -> dict[str, search_space.Domain]:
        """Not `metric`, which changes what is near in the data, and with it what trustworthiness asks for."""
        most = min(100, max(6, self.points / 3)) if self.points else 30
        return {
            "perplexity": search_space.loguniform(5, most),
            "exaggeration": search_space.loguniform(4, 32),
            "components": search_space.choice(0, 30, 50),
        }


class Map(nn.Module):
    """The positions, and what must be remembered of the points: sizes are known only once they are seen."""

    def __init__(self, points: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(points, 2))
        self.register_buffer("id", torch.empty(0, dtype=torch.int64))  # [N]
        self.register_buffer("label", torch.empty(0, dtype=torch.int64))  # [N]
        self.register_buffer("data", torch.empty(0))  # [N, D]
        self.register_buffer("joint", torch.empty(0))  # P: [N, N], or its stored entries
        self.register_buffer("columns", torch.empty(0, dtype=torch.int64))  # of the stored entries, row after row
        self.register_buffer("offsets", torch.empty(0, dtype=torch.int64))  # [N + 1] where each row begins

    def remember(self, id_N: Tensor, label_N: Tensor, data_ND: Tensor) -> None:
        self.id, self.label, self.data = id_N.clone(), label_N.clone(), data_ND.to(self.positions.dtype)

    def attract(self, joint: Tensor, columns: Tensor | None = None, offsets: Tensor | None = None) -> None:
        self.joint = joint.to(self.positions.dtype)
        if columns is not None and offsets is not None:
            self.columns, self.offsets = columns, offsets

    def sparse(self) -> csr_array:
        """P with its stored entries alone."""
        size = (len(self.positions),) * 2
        return csr_array((self.joint.cpu().numpy(), self.columns.cpu().numpy(), self.offsets.cpu().numpy()), shape=size)

    def divergence_of(self, rows_B: Tensor) -> Tensor:
        """The part of KL(P || Q) that those rows make."""
        total = sum(self._kernel(part).sum() for part in torch.arange(len(self.positions)).split(1000))
        if self.joint.ndim == 2:
            joint = self.joint[rows_B]
        else:
            joint = torch.from_numpy(self.sparse()[rows_B.cpu().numpy()].toarray()).to(self.joint.device)
        return divergences(joint.double(), self._kernel(rows_B) / total).sum()

    def _kernel(self, rows_B: Tensor) -> Tensor:
        y = self.positions.detach().double()
        kernel = 1 / (1 + torch.cdist(y[rows_B], y).square())
        kernel[torch.arange(len(rows_B)), rows_B] = 0
        return kernel


class DeltaBarDelta(torch.optim.Optimizer):
    """
    Momentum, and a gain for each number: more while steps agree in sign, less when they do not (Jacobs, 1988).

    The gains and their least value are those of the t-SNE authors: + 0.2, x 0.8, 0.01.
    """

    def __init__(self, parameters: Iterable[Tensor], *, lr: float, momentum: float = 0.8, least: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "least": least})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state, slope = self.state[parameter], parameter.grad
                if not state:
                    state.update(gain=torch.ones_like(parameter), velocity=torch.zeros_like(parameter))
                velocity, gain = state["velocity"], state["gain"]
                onward = velocity * slope < 0  # the last displacement was downhill, and still would be
                gain.copy_(torch.where(onward, gain + 0.2, gain * 0.8).clamp(min=group["least"]))
                velocity.mul_(group["momentum"]).sub_(group["lr"] * gain * slope)
                parameter.add_(velocity)


def finite(rows: Rows) -> Tensor:
    """The data, [N, D], which must be numbers: scikit-learn's tree ends the process on NaN."""
    x = rows["features"].double()
    bad = [name for name, good in zip(rows.ids, x.isfinite().all(1).tolist(), strict=True) if not good]
    if bad:
        raise DataError(
            f"Points must be finite numbers, but {len(bad)} of {len(x)} are not, {bad[0]} among them. "
            "Take the features of a model that has learned."
        )
    return x


def widest(points: int) -> float:
    """The largest wise perplexity: each point has three neighbours for each of it."""
    return (points - 1) / 3


def conditional(distances_NK: Tensor, perplexity: float) -> Tensor:
    """
    p_{j|i} from squared distances [N, K] such that 2^H of each row is `perplexity`; infinity is no neighbour.

    Bisection in the precision beta = 1 / (2 s^2), from entropies in nats. Where points coincide no beta may exist: the
    row ends near the largest one tried.
    """
    distances_NK = distances_NK - distances_NK.amin(1, keepdim=True)  # so that no row of exponentials is all zeros
    reached = distances_NK.masked_fill(distances_NK.isinf(), 0)
    low = torch.zeros_like(distances_NK[:, :1])
    high = torch.full_like(low, torch.inf)
    beta = 1 / reached.mean(1, keepdim=True).clamp(min=TINY)
    for _ in range(100):
        p = torch.softmax(-distances_NK * beta, 1)
        entropy = beta * (p * reached).sum(1, keepdim=True) + torch.exp(-distances_NK * beta).sum(1, keepdim=True).log()
        too_wide = entropy > np.log(perplexity)
        low, high = torch.where(too_wide, beta, low), torch.where(too_wide, high, beta)
        beta = torch.where(high.isinf(), 2 * beta, (low + high) / 2)
        if (entropy - np.log(perplexity)).abs().max() < 1e-9:
            break
    return p


def exact_joint(x_ND: Tensor, perplexity: float) -> tuple[Tensor]:
    """P [N, N]: (p_{j|i} + p_{i|j}) / 2N, symmetric, its diagonal zero, its sum one."""
    distances = torch.cdist(x_ND, x_ND, compute_mode="donot_use_mm_for_euclid_dist").square().fill_diagonal_(torch.inf)
    p = conditional(distances, perplexity)
    return ((p + p.T) / (2 * len(p)),)


def neighbour_joint(x_ND: Tensor, perplexity: float) -> tuple[Tensor, Tensor, Tensor]:
    """P between each point and its 3 x perplexity nearest, as values, columns and offsets."""
    from sklearn.neighbors import NearestNeighbors

    n = len(x_ND)
    count = min(n - 1, int(3 * perplexity + 1))
    distances, columns = NearestNeighbors(n_neighbors=count).fit(x_ND.cpu().numpy()).kneighbors()
    p = conditional(torch.from_numpy(distances).square(), perplexity).numpy()
    one_way = csr_array((p.ravel(), columns.ravel(), np.arange(0, n * count + 1, count)), shape=(n, n))
    both = csr_array((one_way + one_way.T) / (2 * n))
    both.sort_indices()
    parts = both.data, both.indices.astype(np.int64), both.indptr.astype(np.int64)
    return tuple(torch.from_numpy(part).to(x_ND.device) for part in parts)  # type: ignore[return-value]


def affinities(y_N2: Tensor) -> tuple[Tensor, Tensor]:
    """The kernel (1 + |y_i - y_j|^2)^-1 with a zero diagonal, and Q, which is it over its sum; [N, N]."""
    square = y_N2.square().sum(1)
    kernel = 1 / (1 + (square[:, None] + square[None] - 2 * y_N2 @ y_N2.T).clamp(min=0))
    kernel = kernel * (1 - torch.eye(len(y_N2)).to(y_N2))
    return kernel, kernel / kernel.sum()


def divergences(p: Tensor, q: Tensor) -> Tensor:
    """p log(p / q) for each entry."""
    return p * (p.clamp(min=TINY) / q.clamp(min=TINY)).log()


def gradient(p_NN: Tensor, kernel_NN: Tensor, q_NN: Tensor, y_N2: Tensor) -> Tensor:
    """4 sum_j (p_ij - q_ij) (y_i - y_j) (1 + |y_i - y_j|^2)^-1, [N, 2] (the paper's equation 5)."""
    force = (p_NN - q_NN) * kernel_NN
    return 4 * (force.sum(1, keepdim=True) * y_N2 - force @ y_N2)


def approximate_gradient(joint: csr_array, y_N2: Tensor, factor: float, angle: float) -> tuple[Tensor, Tensor]:
    """The same by scikit-learn's tree: an inner function, for its public class can neither be stopped nor continued."""
    from sklearn.manifold._t_sne import _kl_divergence_bh

    if not y_N2.isfinite().all():
        raise DataError("A map must be of finite numbers, but this one has grown beyond them. Lower tsne.lr.")
    flat = apart(y_N2.detach().cpu().numpy().astype(np.float32)).ravel()
    value, slope = _kl_divergence_bh(flat, joint * factor, 1, len(y_N2), 2, angle=angle)
    divergence = torch.tensor(value / factor - np.log(factor))  # KL(fP || Q) = f KL(P || Q) + f log f
    return divergence, torch.from_numpy(slope).view(-1, 2).to(y_N2)


def apart(y_N2: np.ndarray) -> np.ndarray:
    """
    Positions such that no two are within the tree's `NEAREST`, in both coordinates.

    It takes such points for one, and leaves their pairs out of the sum over all that Q is divided by: with many
    duplicates the divergence became negative. They are put side by side, too near to matter to any other.
    """
    unique, own, count = np.unique(y_N2, axis=0, return_inverse=True, return_counts=True)
    pairs = cKDTree(unique).query_pairs(NEAREST, p=np.inf, output_type="ndarray")
    if not len(pairs) and count.max() == 1:
        return y_N2
    links = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(unique),) * 2)
    group = connected_components(links, directed=False)[1][own.ravel()]
    order = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    place = np.empty(len(group))
    place[order] = np.arange(len(group)) - np.repeat(first, np.diff([*first, len(group)]))
    return (y_N2 + place[:, None] * [_step(y_N2), 0]).astype(y_N2.dtype)


def _step(y_N2: np.ndarray) -> float:
    """A distance that the tree sees, and that float32 has at such coordinates."""
    return max(4 * NEAREST, 4 * float(np.spacing(np.abs(y_N2).max())))


def strangeness(data_ND: Tensor, rows_B: Tensor, near_BK: Tensor) -> Tensor:
    """
    By how many ranks the neighbours on the map are too far in the data, summed over rows.

    Venna and Kaski, ICANN 2001: the inner sum of trustworthiness.
    """
    data = data_ND.double()
    gap = torch.cdist(data[rows_B], data)
    gap[torch.arange(len(rows_B)), rows_B] = torch.inf
    rank = gap.argsort(dim=1, stable=True).argsort(dim=1, stable=True) + 1  # [B, N], from 1
    return (rank.gather(1, near_BK) - near_BK.shape[1]).clamp(min=0).sum()


def principal(x_ND: Tensor, count: int) -> Tensor:
    """The first `count` principal components, [N, count]."""
    centred = x_ND - x_ND.mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    return left[:, :count] * values[:count]
