"""
A driver that is told to end, ends as the engine says: not as Ray's own handler would have it.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import os, signal
def ours(*_): raise SystemExit(5)
signal.signal(signal.SIGTERM, ours)
from pipelines.engine.execution.executors import connect
connect()
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()
"""


def test_sigterm_reaches_the_handler_that_was_there_before_ray():
    ended = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert ended.returncode == 5, ended.stderr
