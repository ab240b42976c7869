"""Ask an edge with a stranger's client: `pip install tritonclient[grpc]`, nothing of ours but six images.

    branchynet cloud & branchynet edge &
    python examples/tritonclient_hello.py [HOST:PORT]

Expected output, image by image; with no cloud the fifth line ends in `exit 0 (fallback)`:

    Ankle boot   exit 0 (edge)
    Pullover     exit 0 (edge)
    Trouser      exit 0 (edge)
    Trouser      exit 0 (edge)
    Shirt        exit 1 (cloud)
    Trouser      exit 0 (edge)
"""

import json
import sys

import tritonclient.grpc as triton

from branchynet.data.datasets import load_sample

# A proxy for the web (http_proxy) does not know the nodes, and gRPC would ask it.
no_proxy = [("grpc.enable_http_proxy", 0)]
edge = triton.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001", channel_args=no_proxy)
images = load_sample().images[:6]  # uint8 [6, 1, 28, 28]
image = triton.InferInput("image", images.shape, "UINT8").set_data_from_numpy(images)

answers = edge.infer("lenet-fashion", [image], parameters={"deadline_ms": 10_000})

names = json.loads(edge.get_model_config("lenet-fashion").config.parameters["labels"].string_value)
for label, number, where in zip(*map(answers.as_numpy, ("label", "exit", "where")), strict=True):
    print(f"{names[label]:12} exit {number} ({where.decode()})")
edge.close()
