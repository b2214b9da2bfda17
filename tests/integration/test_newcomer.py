"""
What a new user does: a folder of one's own, outside the project, and nothing but the command.

Meshes, some of them bad; a pipeline in a file with a step, a family and a representation, and a helper beside it. The
commands run as they are typed, in the order of this file, with another HOME and no variable of ours.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.meshes import write_shapes

RAYFIELD = Path(sys.executable).with_name("rayfield")
INTERRUPTED = 5
STEPS = ["preprocess", "tune mynet", "train mynet", "evaluate mynet", "verdict mynet", "register shapes"]
HELPER = '''
"""Beside the pipeline."""

WIDTH = 16


def centred(points):
    return points - points.mean(0)
'''
MINE = '''
"""Mine: a net of my own on points of my own."""

from helper import WIDTH, centred
from torch import nn

from components.artifacts import Scores, at_least
from components.family import Classifier
from components.representation import Column, Representation
from components.representations.points import Points
from components.source import Source
from components.step import step
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import called, pipeline


class Cloud(Representation):
    count: int = 64
    """points"""

    def columns(self):
        return {"points": Column((self.count, 3), "float32", "centroid at 0")}

    def rows(self, asset, generator):
        (row,) = Points(count=self.count).rows(asset, generator)
        yield {"points": centred(row["points"])}


class MyNet(Classifier):
    width: int = WIDTH
    """channels"""

    @classmethod
    def tiny(cls):
        return cls(steps=24, batch=16, lr=1e-2)

    def representation(self):
        return Cloud()

    def network(self):
        return Net(self.width, self.classes)

    def logits(self, net, batch):
        return net(batch["points"])


class Net(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.each, self.whole = nn.Linear(3, width), nn.Linear(width, classes)

    def forward(self, points):
        return self.whole(self.each(points).relu().amax(1))


@step
def verdict(scores: Scores) -> str:
    print("weighed with care")
    return "good" if scores.test["accuracy"] > 0.5 else "poor"


@pipeline
def mine(source: Source = "folder", trials: int = 2, workers: int = 1):
    """
    From my meshes to a model.

    trials: trials of the search
    """
    family = MyNet.tiny()
    table = preprocess(source, [family.representation()], on="here")
    best = tune(family, table, trials=trials)
    scores = evaluate(train(best, table, workers=workers), table)
    verdict(scores)
    register(scores, name=called(source), gate=at_least(accuracy=0.4))
'''
RUN = ("run", "mine.py", "--root", "shapes")


@dataclass
class Newcomer:
    """Somebody at a terminal."""

    folder: Path
    home: Path

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [str(RAYFIELD), *words], cwd=self.folder, env=environment, stdout=pipe, stderr=pipe, text=True
        )

    def types(self, *words: str) -> str:
        """What a command prints, which ends well."""
        code, out, said = self.ends(*words)
        assert code == 0, out + said
        return out + said

    def ends(self, *words: str) -> tuple[int, str, str]:
        with self.start(*words) as process:
            return heard(process)


def heard(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """How a command ended, and what it printed; one that does not end is ended."""
    try:
        out, said = process.communicate(timeout=900)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, said


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    folder, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home")
    write_shapes(folder / "shapes", each=20)
    (folder / "shapes" / "flat" / "empty.obj").write_text("")
    (folder / "shapes" / "long" / "cut.glb").write_bytes(b"glTF\x02\x00")
    (folder / "mine.py").write_text(MINE)
    (folder / "helper.py").write_text(HELPER)
    return Newcomer(folder, home)


@pytest.fixture(scope="module")
def interrupted(newcomer: Newcomer) -> tuple[int, str]:
    """The first run, which is left with Ctrl-C when its table is made: its code, and what it said."""
    process, lines = newcomer.start(*RUN), list[str]()
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if "+ preprocess" in line:
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            break
    code, _, said = heard(process)
    return code, "".join([*lines, said])


@pytest.fixture(scope="module")
def ran(newcomer: Newcomer, interrupted: tuple[int, str]) -> str:
    """The same command again: what it printed."""
    return newcomer.types(*RUN)


def test_the_command_is_learned_from_its_own_help(newcomer):
    said = newcomer.types("--help")

    assert all(f"  {name} " in said for name in ("run", "plan", "explain", "show", "predict", "new", "doctor"))
    assert "--trials" in newcomer.types("run", "mine.py", "--help")
    assert newcomer.types("doctor")


def test_a_file_of_each_kind_is_written_and_its_plan_is_known(newcomer):
    for noun, name in (("pipeline", "first"), ("step", "tally"), ("representation", "spread_out")):
        assert f"rayfield run {name}.py" in newcomer.types("new", noun, name)
        assert "preprocess" in newcomer.types("plan", f"{name}.py", "--source", "folder", "--root", "shapes")
    newcomer.types("new", "family", "mean_field")
    newcomer.types("new", "source", "boxes")

    said = newcomer.types("plan", "classify", "--family", "mean_field.py", "--source", "boxes.py", "--folds", "2")
    assert "train meanfield" in said and "preprocess" in said


def test_a_run_that_is_interrupted_says_that_it_may_be_continued(interrupted):
    code, said = interrupted

    assert code == INTERRUPTED
    assert said.endswith("Interrupted. The same command continues.\n")
    assert "Traceback" not in said


def test_the_same_command_continues_and_what_was_done_is_kept(newcomer, ran):
    rows = {row["step"]: row["status"] for row in json.loads(newcomer.ends(*RUN, "--json")[1])}

    assert "kept  preprocess" in ran and "done  tune mynet" in ran
    assert rows == dict.fromkeys(STEPS, "cached")


def test_bad_files_are_named_at_the_end_and_by_show(newcomer, ran):
    for said in (ran, newcomer.types("show", "last")):
        assert "2 in quarantine" in said
        assert "flat/empty.obj" in said and "long/cut.glb" in said


def test_a_plan_says_that_nothing_is_to_be_done_and_explain_names_the_edit(newcomer, ran):
    assert "0 of 6 steps would run" in newcomer.types("plan", *RUN[1:])

    (newcomer.folder / "mine.py").write_text(MINE.replace('"good" if', '"fine" if'))
    plan, why = newcomer.types("plan", *RUN[1:]), newcomer.types("explain", *RUN[1:])
    (newcomer.folder / "mine.py").write_text(MINE)

    assert "1 of 6 steps would run" in plan and "run   verdict mynet" in plan
    assert "rayfield_mine.verdict changed" in why


def test_an_edit_of_the_helper_concerns_the_table_and_all_that_follows(newcomer, ran):
    helper = newcomer.folder / "helper.py"
    helper.write_text(HELPER.replace("mean(0)", "mean(1, keepdims=True)"))
    steps = json.loads(newcomer.ends("plan", *RUN[1:], "--json")[1])["steps"]
    helper.write_text(HELPER)

    assert {row["step"]: row["action"] for row in steps} == dict.fromkeys(STEPS, "run")


def test_what_happened_is_in_the_store(newcomer, ran):
    assert "mine" in newcomer.types("runs")
    assert "weighed with care" in newcomer.types("logs", "last", "verdict mynet")
    assert ".html" in newcomer.types("report")


def test_the_champion_is_listed_and_asked_about_a_file(newcomer, ran):
    assert "mynet" in newcomer.types("models", "list")

    said = json.loads(newcomer.ends("predict", "models:/shapes@champion", "shapes/flat/3.obj", "--json")[1])
    assert said["answers"][0][0] == "flat"


def test_a_mistake_in_ones_own_file_is_one_line_with_its_place(newcomer, ran):
    (newcomer.folder / "broken.py").write_text("import nowhere_at_all\n" + MINE)
    code, out, said = newcomer.ends("run", "broken.py", "--root", "shapes")

    assert (code, out, len(said.splitlines())) == (2, "", 1)
    assert "broken.py, line 1, imports what is not there" in said
