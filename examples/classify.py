"""Asks an edge node from Python.

    python examples/classify.py [PICTURE …]

The node is that of BRANCHYNET_EDGE, else 127.0.0.1:8001. Without files, the first images of the package are sent:

    Ankle boot  0.847  exit 0  edge
    Pullover    0.995  exit 0  edge
    Trouser     1.000  exit 0  edge
    Trouser     1.000  exit 0  edge
    Shirt       0.704  exit 1  cloud
    Trouser     1.000  exit 0  edge
"""

import os
import sys

from branchynet import Client
from branchynet.data.datasets import load_sample

with Client(os.environ.get("BRANCHYNET_EDGE", "127.0.0.1:8001")) as edge:
    names = edge.describe().labels
    for answer in edge.classify(sys.argv[1:] or load_sample().images[:6]):
        print(f"{names[answer.label]:<11} {answer.probability:.3f}  exit {answer.exit}  {answer.place}")
