"""Models of timm and torchvision for tests; how to import timm beside a CPU torch is written once, in the benchmark."""

import runpy

from running_programs import ROOT

_benchmark = runpy.run_path(str(ROOT / "benchmarks" / "attach.py"))
create, import_timm, CLASSES = (_benchmark[name] for name in ("create", "import_timm", "CLASSES"))
SHAPE = (3, _benchmark["SIDE"], _benchmark["SIDE"])
