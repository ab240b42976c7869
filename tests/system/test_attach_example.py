"""examples/attach_timm.py, from timm's model to answers of a real edge and a real cloud."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running_programs import ROOT

from branchynet import artifact

PROGRAM = """
import runpy, sys
sys.path.insert(0, "tests")
from timm_models import import_timm
import_timm()
sys.argv = ["examples/attach_timm.py", sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.timeout(300)
def test_it_trains_exports_and_serves(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^layer1 +64×7×7 +12\.5 ", done.stdout, re.MULTILINE)
    answers, right = re.findall(r"(\d+) answers, (\d\.\d+) right", done.stdout)[0]
    places = re.findall(r"exit (\d) on the (edge|cloud): (\d+)", done.stdout)
    assert int(answers) == sum(int(count) for *_, count in places) == 150
    assert {(int(number), place) for number, place, _ in places} <= {(0, "edge"), (1, "cloud"), (2, "cloud")}
    assert float(right) > 0.5
    manifest = artifact.read_manifest(tmp_path)
    assert (manifest.exported, manifest.stages, manifest.cut_shapes[1]) == (True, 3, (64, 7, 7))
