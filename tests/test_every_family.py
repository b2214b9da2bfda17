"""
What every file of components/families must keep, without naming any: CONTRIBUTING.md says why of each.
"""

import ast
import inspect
import pickle
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from components.errors import DataError
from components.family import Classifier, Family, find, names
from components.table import Rows
from components.training.learner import Learner, add, evaluate, measure, parameter_count, phases
from components.training.microbatch import may_cut
from tests.support import adapted, begin, doubled, learn_together, without_chance

every_family = pytest.mark.parametrize("name", names())

SECTIONS = ("Paper", "Reference", "Size", "Run", "Expect")
EXEMPTIONS = {  # of `rayfield certify`: point 3, several workers; point 6, the registered model
    "tsne": {3, 6},
    "gaussians": {3},
    "dynamic_gaussians": {3},
    "surfels": {3},
    "plenoxels": {3},
    "nerf": {3},
    "field": {3},
    "field_codes": {3},
}


def sections(name: str) -> dict[str, str]:
    """The docstring's headed lines, each with those that continue it."""
    found: dict[str, str] = {}
    heading = None
    for line in inspect.getdoc(inspect.getmodule(find(name))).splitlines():
        if match := re.match(r"([A-Z][a-z]+) {2,}(\S.*)", line):
            heading = match[1]
            found[heading] = match[2]
        elif heading and line.startswith(" "):
            found[heading] += " " + line.strip()
        else:
            heading = None
    return found


def exempt(name: str) -> set[int]:
    return {
        int(point) for point in re.findall(r"(?:^|point |points |[;,] |and )(\d)\b", sections(name).get("Exempt", ""))
    }


@lru_cache(maxsize=8)
def prepared(name: str) -> tuple[Family, Rows]:
    """The tiny preset, adapted to a few rows of what it says that it learns from."""
    family, rows = adapted(find(name).tiny())
    return replace(family, batch=min(family.batch, 6) if family.batch != len(rows) else len(rows)), rows


def starts(family: Family) -> Iterator[int]:
    """The first update of each phase."""
    first = 0
    for phase in phases(family):
        if phase.steps:
            yield first
        first += phase.steps


def at(learner: Learner, step: int) -> Learner:
    """The learner, as if `step` updates were behind it."""
    learner.state.step = step
    return learner


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.state.net.state_dict().items()}


def goal(learner: Learner) -> float:
    family = learner.family
    return family.score(evaluate(family, learner.best_net, learner.rows))[family.goal.name]


# What it says of itself


@every_family
def test_the_docstring_states_what_a_reader_needs(name):
    said = sections(name)
    assert not [section for section in SECTIONS if not said.get(section)]
    assert said["Run"].startswith("rayfield run ")


@every_family
def test_is_exempt_only_from_what_the_list_allows(name):
    assert exempt(name) <= EXEMPTIONS.get(name, set())


@every_family
def test_every_field_is_documented(name):
    family = find(name)
    tree = ast.parse(inspect.getsource(inspect.getmodule(family)))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == family.__name__)
    bare = [
        node.target.id
        for node, after in zip(body, [*body[1:], None], strict=True)
        if isinstance(node, ast.AnnAssign)
        and "ClassVar" not in ast.unparse(node.annotation)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    ]
    assert not bare


@every_family
def test_has_as_many_parameters_at_paper_as_it_says(name):
    """The whole, or each part of the network with its own number."""
    with torch.device("meta"):
        net = find(name).paper().network()
    said = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\d", sections(name)["Size"])}
    parts = {parameter_count(child) for child in net.children()} - {0}
    assert parameter_count(net) in said or parts <= said


@every_family
def test_equals_its_pickle(name):
    for size in find(name).sizes():
        family = find(name).at(size)
        assert pickle.loads(pickle.dumps(family)) == family


@every_family
def test_imports_neither_ray_nor_mlflow(name):
    tree = ast.parse(inspect.getsource(inspect.getmodule(find(name))))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {module.partition(".")[0] for module in found} & {"ray", "mlflow", "pipelines"}


@every_family
def test_searches_fields_that_it_has_and_that_its_table_does_not_depend_on(name):
    family, _ = prepared(name)
    domains = family.space()
    assert domains
    assert set(domains) <= {field.name for field in fields(family)}
    for field, domain in domains.items():
        for u in (0.0, 0.5, 0.999):
            trial = replace(family, **{field: domain.at(u)})
            assert trial.representation() == family.representation(), field
            assert len(list(trial.network().parameters())), field


@every_family
def test_its_phases_add_up(name):
    for size in find(name).sizes():
        phases(find(name).at(size))


# What it answers


@every_family
def test_what_it_reads_feeds_its_network(name):
    family, rows = prepared(name)
    net = begin(family, rows).best_net
    scores = family.score(evaluate(family, net, rows))
    assert family.goal.name in scores
    assert np.isfinite(scores[family.goal.name])


@every_family
def test_answers_its_example(name):
    family, rows = prepared(name)
    net = begin(family, rows).best_net.eval()
    example = family.example(rows)
    with torch.no_grad():
        answer = family.predict(net, example)
        again = family.predict(net, example)
    assert answer
    for column, value in answer.items():
        assert len(value) == len(example["id"]), column
        assert value.isfinite().all(), column
        assert_close(again[column], value, rtol=0, atol=0)


@every_family
def test_the_answer_for_a_row_does_not_depend_on_the_others(name):
    family, rows = prepared(name)
    net = begin(family, rows).best_net.eval()
    with torch.no_grad():
        together = family.predict(net, rows.batch([0, 1, 2]))
        alone = family.predict(net, rows.batch([1]))
    for column, value in together.items():
        assert_close(alone[column], value[1:2], rtol=1e-4, atol=1e-5)


@every_family
def test_half_batches_add_up(name):
    family, rows = prepared(name)
    net = begin(family, rows).best_net
    count = len(rows)
    whole = measure(family, net, rows.batch(np.arange(count)))
    halves = add(
        measure(family, net, rows.batch(np.arange(count // 2))),
        measure(family, net, rows.batch(np.arange(count // 2, count))),
    )
    one, other = family.score(whole), family.score(halves)
    assert one.keys() == other.keys()
    assert other == pytest.approx(one, rel=1e-4, abs=1e-6, nan_ok=True)


@every_family
def test_gives_the_scores_that_it_says_it_gives(name):
    family, rows = prepared(name)
    learner = begin(family, rows)

    given = set(family.score(evaluate(family, learner.best_net, rows)))

    assert given <= set(family.scores)
    assert family.goal.name in given
    assert family.cost in {"", *given}


@every_family
def test_draws_the_figures_that_it_wants_watched(name):
    family, rows = prepared(name)
    with torch.no_grad():
        drawn = family.figures(begin(family, rows).best_net.eval(), rows.batch(range(len(rows))))

    assert set(family.watched) <= set(drawn)


@every_family
def test_draws_its_figures(name):
    family, rows = prepared(name)
    net = begin(family, rows).best_net.eval()
    with torch.no_grad():
        for title, picture in family.figures(net, rows.batch(np.arange(min(8, len(rows))))).items():
            assert hasattr(picture, "savefig") or (picture.dtype == np.uint8 and picture.shape[2] == 3), title


# How it learns


@every_family
def test_every_trainable_parameter_is_reached_by_a_finite_gradient(name):
    family, rows = prepared(name)
    learner = begin(family, rows)
    reached: set[str] = set()
    for first in starts(family):
        at(learner, first)
        for step in range(first, first + 3):
            learner.update(step)
            for parameter, value in learner.state.net.named_parameters():
                if value.grad is not None:
                    assert value.grad.isfinite().all(), f"{parameter}, update {step}"
                    if value.grad.any():
                        reached.add(parameter)
    trainable = {n for n, p in learner.state.net.named_parameters() if p.requires_grad}
    assert reached >= trainable, sorted(trainable - reached)


@every_family
def test_learns_a_few_rows_by_heart(name):
    """Overfitting as a debugging tool (lecture notes, 4.3): within 600 updates its goal is better than before."""
    family, rows = prepared(name)
    family = replace(family, batch=len(rows))
    learner = begin(family, rows)
    before = goal(learner)
    after = before
    for until in range(15, min(family.steps, 600) + 1, 15):
        for _ in learner.run(until):
            pass
        after = goal(learner)
        if family.goal.better(after, before):
            break
    assert family.goal.better(after, before), f"{family.goal.name} was {before:.4g} and became {after:.4g}"


@every_family
def test_the_same_seed_gives_the_same_first_updates(name):
    family, rows = prepared(name)
    one, other = begin(family, rows), begin(family, rows)
    assert [list(one.run(3))] == [list(other.run(3))]
    assert_close(weights(one), weights(other), rtol=0, atol=0)


@every_family
def test_a_checkpoint_restores_to_the_same_next_update(name):
    """Optimizers, memory and chance included; in every phase."""
    family, rows = prepared(name)
    for first in starts(family):
        one, other = at(begin(family, rows), first), begin(family, rows, seed=0)
        one.update(first)
        one.update(first + 1)
        other.load(one.dump())
        assert_close(one.update(first + 2), other.update(first + 2), rtol=0, atol=0)
        assert one.dump() == other.dump()


@every_family
def test_two_workers_give_the_result_of_one(name):
    """1e-6 in double precision after five updates, without dropout, with normalisation in evaluation mode."""
    if 3 in exempt(name):
        pytest.skip(sections(name)["Exempt"])
    family, rows = prepared(name)
    family = replace(family, batch=5)  # of which one worker gets three rows and the other two
    rows = doubled(rows)

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        (alone,) = learn_together(family, rows, size=1, updates=5)
        first, second = learn_together(family, rows, size=2, updates=5)
    finally:
        torch.set_default_dtype(default)
    assert_close(weights(first), weights(alone), rtol=0, atol=1e-6)
    assert_close(weights(second), weights(alone), rtol=0, atol=1e-6)


@every_family
def test_a_batch_in_pieces_teaches_what_the_whole_one_does(name):
    """Where memory runs out a batch may be cut: 1e-6 in double precision after three updates, without dropout."""
    family, rows = prepared(name)
    learner = begin(family, rows)
    if type(family).update is not Family.update or not may_cut(family, learner.state.net.train()):
        pytest.skip("it is never cut")
    rows = doubled(rows)

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        whole, cut = begin(family, rows), begin(family, rows)
        cut.state.pieces = 4
        for one in (whole, cut):
            without_chance(one.state.net)
        logged = list(zip(whole.run(3), cut.run(3), strict=True))
    finally:
        torch.set_default_dtype(default)
    assert_close(weights(cut), weights(whole), rtol=0, atol=1e-6)
    assert all(one.keys() == other.keys() for one, other in logged)


@every_family
def test_a_classifier_gives_probabilities_that_sum_to_one(name):
    family, rows = prepared(name)
    if not isinstance(family, Classifier):
        pytest.skip("it names no class")
    net = begin(family, rows).best_net.eval()
    with torch.no_grad():
        answer = family.predict(net, family.example(rows))
    assert_close(answer["probabilities"].sum(1), torch.ones(len(answer["label"])))


# How it is compared


@every_family
def test_a_network_of_nan_scores_nothing(name):
    """`argmax` takes NaN for the most, a byte for black, a sort for anything: none of them is an answer."""
    family, rows = prepared(name)
    learner = Learner.begin(family, rows)
    with torch.no_grad():
        for parameter in learner.best_net.parameters():
            parameter.fill_(torch.nan)
    try:
        score = goal(learner)
    except DataError as refused:
        assert "NaN" in str(refused)
    else:
        assert np.isnan(score)


@every_family
def test_a_shortened_training_has_the_schedule_of_the_whole_one(name):
    """At each share of its updates the learning rates are those of the whole training."""
    family, _ = prepared(name)
    short = family.shortened(max(1, family.steps // 5))
    groups = {group for optimizer in begun(family) for group in optimizer}

    assert short.steps <= family.steps and len(phases(short)) == len(phases(family))
    assert family.shortened(family.steps) == family
    for share in (0.1, 0.25, 0.45, 0.65, 0.72, 0.9):
        whole = [family.schedule(group, int(share * family.steps)) for group in groups]
        assert [short.schedule(group, int(share * short.steps)) for group in groups] == pytest.approx(whole, rel=0.05)


def begun(family: Family) -> list[list[str]]:
    """The names of the parameter groups of each optimizer."""
    made = family.optimizers(family.network(), phases(family)[0]).items()
    return [[group.get("name", name) for group in optimizer.param_groups] for name, optimizer in made]
