"""What values are, asked by name, and what asking costs."""

import subprocess
import sys

from components.artifacts import Gate, at_least
from components.families.shapes.voxnet import VoxNet
from pipelines.engine.graph.kinds import FAMILY, GATE, is_a, is_kind


def test_an_instance_is_of_its_class_and_of_those_that_it_is_made_from():
    assert is_a(VoxNet.tiny(), FAMILY)
    assert is_a(at_least(accuracy=0.5), GATE)
    assert not is_a(at_least(accuracy=0.5), FAMILY)
    assert not any(is_a(value, FAMILY) for value in (None, 3, "voxnet", VoxNet))


def test_a_class_is_itself():
    assert is_kind(VoxNet, FAMILY) and is_kind(Gate, GATE)
    assert not any(is_kind(kind, FAMILY) for kind in (int, "VoxNet", int | None, tuple[int, int]))


def test_what_draws_and_runs_a_pipeline_imports_torch_for_its_families_only():
    words = "import sys, pipelines.engine.execution.driver, tests.benchmarks.trivial; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)

    assert said.stdout == "False\n"
