"""
Drawing: what a handle refuses, where handles are found, and which fields --set changes.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from components import step as step_module
from components.artifacts import at_least, at_most
from components.errors import RayfieldError, UsageError
from components.families.generative.gan import Gan
from components.families.shapes.pointnet import PointNet
from components.families.shapes.voxnet import VoxNet
from components.representations.descriptors import Descriptors
from components.representations.points import Points
from components.sources.furniture import Furniture
from components.step import Handle, HandleError, current_drawing, step
from components.steps.evaluate import best_of, evaluate
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from pipelines.classify import classify
from pipelines.engine.graph.tracing import draw, handles, resources_of
from pipelines.engine.pipeline import values
from tests.pipelines.engine.toys import bounds, broken, gated, learn, number, sums, total

HANDLE = Handle("train", "k")


@dataclass(frozen=True)
class Pair:
    left: object
    right: object


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (bool, "neither true nor false"),
        (list, "looped over"),
        (len, "no length"),
        (str, "no text"),
        (lambda h: f"{h}", "no text"),
        (lambda h: f"{h:>8}", "no text"),
        (lambda h: h == 3, "cannot be compared"),
        (lambda h: h != 3, "cannot be compared"),
        (lambda h: h < 3, "no number"),
        (lambda h: h > 0.5, "no number"),
        (lambda h: h + 1, "no number"),
        (lambda h: 1 - h, "no number"),
        (lambda h: h / 2, "no number"),
        (lambda h: h // 2, "no number"),
        (lambda h: h % 2, "no number"),
        (lambda h: h**2, "no number"),
        (lambda h: -h, "no number"),
        (lambda h: sum([h, h]), "no number"),
        (float, "no number"),
        (int, "no number"),
        (round, "no number"),
        (lambda h: range(h), "no number"),
        (lambda h: h.accuracy, "no .accuracy"),
        (lambda h: h["accuracy"], "no ['accuracy']"),
        (lambda h: 1 in h, "looped over"),
        (lambda h: not h, "neither true nor false"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_handle_refuses_what_needs_its_value_and_says_what_to_do_instead(use, words):
    with pytest.raises(HandleError) as caught:
        use(HANDLE)

    said = str(caught.value)
    assert words in said
    assert "train" in said
    assert len(said.splitlines()) == 1
    assert caught.value.code == 2


def test_a_handle_in_a_familys_field_is_refused():
    def pipeline():
        learn(replace(PointNet.tiny(), lr=number(1)))

    with pytest.raises(HandleError, match="pointnet.lr is a step's result"):
        draw(pipeline, {}, {})


def test_a_handle_as_a_threshold_is_refused():
    def pipeline():
        gated(number(1), gate=at_least(accuracy=number(2)))

    with pytest.raises(UsageError, match="threshold of 'accuracy' must be a number"):
        draw(pipeline, {}, {})


def test_a_handle_has_a_picture_for_debuggers():
    assert repr(HANDLE) == "<what train will make>"


@pytest.mark.parametrize(
    "value",
    [HANDLE, [HANDLE], (1, (HANDLE,)), {"a": {"b": HANDLE}}, Pair(1, HANDLE), [{"a": Pair((HANDLE,), 2)}]],
    ids=["itself", "list", "tuple", "dict", "dataclass", "all of them"],
)
def test_handles_are_found_wherever_they_lie(value):
    assert [handle.key for handle in handles(value)] == ["k"]


def test_a_step_needs_the_steps_behind_its_handles():
    graph = draw(sums, {"values": (1, 2), "extra": 3}, {})
    *numbers, last = graph.nodes.values()

    assert last.needs == tuple(sorted(node.key for node in numbers))
    assert [node.needs for node in numbers] == [(), (), ()]


def test_two_calls_with_one_key_are_one_node():
    graph = draw(sums, {"values": (1, 1, 1), "extra": 1}, {})

    assert [node.step.rpartition(":")[2] for node in graph.nodes.values()] == ["number", "total"]


def test_calls_that_differ_only_in_workers_are_one_node():
    def pipeline():
        number(1, workers=1)
        number(1, workers=4)

    assert len(draw(pipeline, {}, {}).nodes) == 1


def test_named_outputs_are_handles_of_one_node():
    def pipeline():
        low, high = bounds([number(1), number(2)])
        total([low, high])

    graph = draw(pipeline, {}, {})
    *_, spread, last = graph.nodes.values()

    assert last.needs == (spread.key,)
    assert [one["output"] for one in last.parameters["numbers"]] == ["low", "high"]


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_some_generator_would_not_take_is_refused(seed):
    with pytest.raises(UsageError, match=f"--seed must be 0 to 4294967295, but got {seed}. Pass another --seed."):
        draw(lambda seed: number(seed), {"seed": seed}, {})


def test_a_step_called_wrongly_is_refused_in_one_line():
    def pipeline():
        number(1, wokers=2)

    with pytest.raises(UsageError, match=r"number\(\) takes value, workers: .*wokers"):
        draw(pipeline, {}, {})


def test_a_step_of_a_file_that_no_worker_can_import_is_refused():
    @step
    def mine(value: int) -> int:
        return value

    def pipeline():
        mine(1)

    with pytest.raises(UsageError, match="A step is defined at the top of a file, where workers find it, but"):
        draw(pipeline, {}, {})


@pytest.mark.parametrize("place", ["rayfield_mine", "pipelines.mine"])
def test_a_class_of_a_file_that_no_worker_makes_again_is_refused(place):
    """Wherever it lies in what a step is given."""

    @dataclass(frozen=True)
    class Mine:
        size: int = 1

    Mine.__module__ = place

    Mine.__qualname__ = "Mine"

    with pytest.raises(UsageError, match=f"at the top of a file, .* but Mine is defined in {place}. Move it"):
        draw(lambda: total([number({"of": [Mine()]})]), {}, {})


def test_drawing_ends_when_the_pipeline_fails():
    def pipeline():
        number(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        draw(pipeline, {}, {})

    assert current_drawing.get() is None
    assert step_module.current_drawing is current_drawing


# Gates


def scored(*families):
    """A pipeline that ends in a gate on a made-up score."""

    def pipeline(gate):
        scores, _ = best_of([evaluate(train(family, number(1)), number(1)) for family in families])
        register(scores, name="toy", gate=gate)

    return pipeline


def test_a_gate_on_a_score_that_no_family_has_is_refused_before_anything_runs():
    with pytest.raises(UsageError, match="got 'acuracy'. Did you mean 'accuracy'?"):
        draw(scored(PointNet.tiny(), VoxNet.tiny()), {"gate": at_least(acuracy=0.5)}, {})


def test_a_gate_on_a_score_that_the_family_has_is_drawn():
    assert draw(scored(PointNet.tiny()), {"gate": at_least(accuracy=0.5)}, {}).nodes
    assert draw(scored(Gan.tiny()), {"gate": at_most(kid_random=0.5)}, {}).nodes


# --set


def test_a_setting_reaches_every_instance_that_is_built_while_drawing():
    seen = []

    def pipeline():
        seen.extend([PointNet.tiny(), PointNet(), replace(PointNet.tiny(), batch=8), VoxNet.tiny()])

    draw(pipeline, {}, {"pointnet": {"lr": "3e-4"}})

    assert [family.lr for family in seen[:3]] == [3e-4] * 3
    assert seen[2].batch == 8
    assert seen[3].lr == VoxNet.tiny().lr


def test_a_setting_reaches_no_instance_that_is_built_later():
    """A trial's `replace` must not be undone."""
    kept = []
    draw(lambda: kept.append(PointNet.tiny()), {}, {"pointnet": {"lr": "3e-4"}})

    assert replace(kept[0], lr=1e-2).lr == 1e-2
    assert PointNet.tiny().lr != 3e-4


def test_a_setting_changes_the_key():
    def pipeline():
        learn(PointNet.tiny())

    plain = draw(pipeline, {}, {})
    changed = draw(pipeline, {}, {"pointnet": {"lr": "3e-4"}})

    assert plain.nodes.keys() != changed.nodes.keys()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"voxnet": {"lr": "1"}}, "--set voxnet.lr met no voxnet"),
        ({"pointnett": {"lr": "1"}}, "No family 'pointnett'. Did you mean 'pointnet'?"),
        ({"pointnet": {"lrr": "1"}}, "Family 'pointnet' has no field 'lrr'. Did you mean 'lr'?"),
        ({"pointnet": {"lr": "fast"}}, "pointnet.lr must be a number, but got 'fast'."),
        (
            {"pointnet": {"transforms": "inputs"}},
            "must be none or input or both, but got 'inputs'. Did you mean 'input'?",
        ),
    ],
    ids=["no instance", "family", "field", "value", "word"],
)
def test_a_setting_that_is_wrong_is_refused(settings, words):
    def pipeline():
        learn(PointNet.tiny())

    with pytest.raises(UsageError) as caught:
        draw(pipeline, {}, settings)

    assert words in str(caught.value)


# Titles


def test_a_title_tells_a_step_from_its_like():
    def pipeline():
        table = number(1)
        for family in (PointNet.tiny(), VoxNet.tiny()):
            evaluate(train(family, table), table)
        broken(table)

    titles = [node.title for node in draw(pipeline, {}, {}).nodes.values()]

    assert titles == ["number", "train pointnet", "evaluate pointnet", "train voxnet", "evaluate voxnet", "broken"]


def test_the_folds_of_a_cross_validation_are_told_apart_by_their_titles_and_keep_their_keys():
    found = draw(classify, values(classify, {"family": "voxnet", "folds": "2"}, {}), {}).nodes
    titles = [node.title for node in found.values()]
    one = draw(lambda: preprocess(Furniture(fold=1, folds=2), [VoxNet.tiny().representation(), Descriptors()]), {}, {})

    of_a_fold = ["preprocess", "train voxnet", "evaluate voxnet", "baseline majority", "baseline forest"]
    assert titles == [*(f"{title}, fold {n} of 2" for n in (1, 2) for title in of_a_fold), "compare"]
    assert [(key, node.title) for key, node in one.nodes.items()] == [(list(found)[5], "preprocess")]


def test_like_steps_of_one_fold_are_not_told_apart_by_it():
    def pipeline():
        for points in (64, 128):
            preprocess(Furniture(), [Points(count=points)])

    assert [node.title for node in draw(pipeline, {}, {}).nodes.values()] == ["preprocess", "preprocess"]


@pytest.mark.parametrize(
    ("workers", "cpus", "own"),
    [(0, 1, 1), (1, 1, 0), (4, 5, 0), ((2, 4), 3, 0)],
    ids=["in its own process", "one worker", "four", "elastic: the least"],
)
def test_a_training_takes_a_cpu_for_each_worker_or_for_itself(workers, cpus, own):
    """And several workers one more, which loads their data: `check_workers` asks for as many."""
    assert resources_of({"workers": workers, "gpus": None}, spreads=True) == {"CPU": cpus, "GPU": 0, "own": own}


def test_a_step_takes_a_cpu_unless_others_do_its_work():
    """Ten trainings or forests at once would share two cores."""
    assert resources_of({}, number.spreads)["own"] == 1
    assert resources_of({}, evaluate.spreads)["own"] == 0


class Thing:
    pass


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ({1, 2}, "set"),
        (lambda: 1, "function"),
        (Thing(), "Thing"),
        (b"bytes", "bytes"),
        (Path("a"), "PosixPath"),
        (sys.__stdout__, "TextIOWrapper"),
        (VoxNet, "type"),
        ([{"of": {1}}], "set"),
        (Pair({1}, 2), "set"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_parameter_that_no_plan_can_hold_is_refused_by_its_name(value, got):
    with pytest.raises(UsageError) as caught:
        draw(lambda: number(value), {}, {})

    law = "What is kept is text, numbers, lists, dicts and dataclasses"
    assert str(caught.value) == f"`value` of number: {law}, but got {got}. Make one of these of it."


def test_a_parameter_that_utf_8_cannot_hold_is_refused_by_its_name():
    with pytest.raises(UsageError, match="`value` of number: Text that is kept is UTF-8, but got"):
        draw(lambda: number("\udcff"), {}, {})


@pytest.mark.parametrize("seed", ["many", "1.5", None, [1]])
def test_a_seed_that_is_no_number_is_refused(seed):
    with pytest.raises(UsageError, match="--seed must be a whole number, but got "):
        draw(lambda seed: number(1), {"seed": seed}, {})


def test_a_seed_may_be_written_as_text():
    assert draw(lambda seed: number(1), {"seed": "3"}, {}).seed == 3


def unmarked(value: int) -> int:
    return value


marked = step(unmarked)


def test_a_step_that_its_process_would_not_find_is_refused():
    with pytest.raises(UsageError, match="found by the name of its function, but .*test_tracing.unmarked is no step"):
        draw(lambda: marked(1), {}, {})


def test_a_pipeline_that_calls_exit_is_refused_in_one_line():
    with pytest.raises(RayfieldError, match=r"A pipeline ends by returning or raising, but called sys.exit\(3\)."):
        draw(lambda: sys.exit(3), {}, {})
