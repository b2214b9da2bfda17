"""
kill -9 at every point that the code names, and at random: the next run makes of it what an undisturbed run makes.
"""

import ast
import random
from typing import Any

import pytest

from components.runtime.objects import where
from tests.faults.conftest import Case
from tests.faults.drivers import EVERY, ROOT

KILLED = -9
KILLS = 5  # of one random case
UNTOLD = ("when", "run", "host", "cost")
"""what a manifest says of the making, not of what was made"""


def points() -> list[str]:
    """Every point that the code names."""
    found = []
    for path in sorted([*(ROOT / "components").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "point" and call.args:
                found.append(ast.literal_eval(call.args[0]))
    return found


def test_the_code_names_at_least_forty_points_each_once():
    assert len(points()) >= 40
    assert len(points()) == len(set(points()))


@pytest.mark.parametrize("point", points())
def test_a_run_that_is_killed_at_a_point_is_continued_as_if_it_had_not_been(
    point, request, side_by_side, new_case, undisturbed
):
    case = side_by_side(request.node, lambda point: killed_at(point, new_case()))

    assert case.codes == [KILLED, 0], case.output()
    same_as_undisturbed(case, undisturbed)
    assert case.noted("aliases").count("champion 2") == 1


@pytest.mark.parametrize("seed", range(10))
def test_a_run_that_is_killed_again_and_again_gets_there(seed, request, side_by_side, new_case, undisturbed):
    """Fifty kills: of even seeds at points of any name, of odd ones by the clock."""
    cases = side_by_side(request.node, lambda seed: killed_often(seed, new_case, undisturbed))

    assert sum(case.codes.count(KILLED) for case in cases) == KILLS
    for case in cases:
        assert set(case.codes) <= {KILLED, 0}, case.output()
        same_as_undisturbed(case, undisturbed)


def killed_at(point: str, case: Case) -> Case:
    case.drive(point)
    case.drive()
    return case


def killed_often(seed: int, new_case: Any, undisturbed: Case) -> list[Case]:
    """Kills drivers of one place until it is done or enough are killed, and goes on with a new place if it is done."""
    chance, cases, kills = random.Random(seed), [], 0
    many = int(undisturbed.noted("points")[0])
    while kills < KILLS:
        cases.append(new_case())
        while kills < KILLS:
            code = _kill(cases[-1], chance, many, by_clock=bool(seed % 2))
            if code != KILLED:
                break
            kills += 1
        cases[-1].drive()
    return cases


def _kill(case: Case, chance: random.Random, many: int, by_clock: bool) -> int:
    if by_clock:
        return case.drive(after=chance.uniform(0.2, 3.0))
    return case.drive(f"*:{chance.randrange(1, many // (1 + len(case.codes)))}")


def same_as_undisturbed(case: Case, undisturbed: Case) -> None:
    """What every kill must leave behind once another run has ended."""
    assert made(case) == made(undisturbed)
    _objects_are_whole(case, undisturbed)
    _nothing_finished_ran_again(case)
    _training_lost_no_more_than_an_interval(case)
    _one_version_and_one_champion(case)
    _nothing_says_running(case)


def made(case: Case) -> dict[str, dict[str, Any]]:
    """Every manifest, of steps and of parts, without what says who made it and when."""
    store = case.store
    found = {name: store.manifest(name.removesuffix(".json")) or {} for name in store.names("keys")}
    return {name: {k: v for k, v in held.items() if k not in UNTOLD} for name, held in found.items()}


def _objects_are_whole(case: Case, undisturbed: Case) -> None:
    """Byte for byte the files that an undisturbed run keeps: all that its manifests name are among them."""
    for folder in undisturbed.store.names("objects"):
        for digest in undisturbed.store.names(f"objects/{folder}"):
            assert case.store.read(where(digest)) == undisturbed.store.read(where(digest)), digest


def _nothing_finished_ran_again(case: Case) -> None:
    for number in range(len(case.codes)):
        assert not set(case.noted("steps", number)) & set(case.noted("committed", number))


def _training_lost_no_more_than_an_interval(case: Case) -> None:
    reached = 0
    for number in range(len(case.codes)):
        updates = [int(line) for line in case.noted("updates", number)]
        if updates:
            assert reached - updates[0] <= EVERY
            assert updates == list(range(updates[0], updates[-1] + 1))
            reached = updates[-1] + 1
    assert reached == 10


def _one_version_and_one_champion(case: Case) -> None:
    versions = case.mlflow.search_model_versions("name = 'whole'")
    keys = [version.tags["rayfield.key"] for version in versions]

    assert len(keys) == len(set(keys)) == 2
    assert {w: str(v) for w, v in case.mlflow.get_registered_model("whole").aliases.items()} == {
        "champion": "2",
        "previous": "1",
    }
    assert case.noted("aliases").count("champion 2") <= 1


def _nothing_says_running(case: Case) -> None:
    api = case.mlflow
    runs = api.search_runs([experiment.experiment_id for experiment in api.search_experiments()])

    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    assert len({_place(run) for run in runs}) == len(runs), "an MLflow run was made twice"
    assert all(record.get("ended") for _, record in case.store.runs())
    assert case.store.names("open") == []


def _place(run: Any) -> tuple[str, str]:
    tags = run.data.tags
    return (tags["rayfield.run"], tags["rayfield.place"]) if "rayfield.run" in tags else ("", tags["rayfield.key"])
