"""Regenerate the stubs beside the `.proto` files: `python -m protos.generate [OUTPUT_FOLDER]`.

Needs grpcio-tools (extra `dev`). It is held below 1.82, the last line whose stubs run with protobuf 6.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent


def generate(output: Path) -> list[Path]:
    """Write `*_pb2.py`, `*_pb2.pyi` and `*_pb2_grpc.py` for every proto here into *output*; the files written."""
    from grpc_tools import protoc

    written = []
    for proto in sorted(HERE.glob("*.proto")):
        arguments = [f"--proto_path={HERE}"]
        arguments += [f"--{kind}_out={output}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", *arguments, proto.name]) != 0:
            raise SystemExit(f"protoc refused {proto.name}")
        stem = proto.stem
        grpc_stub = output / f"{stem}_pb2_grpc.py"
        # protoc writes an absolute import, which a package cannot use.
        relative = re.sub(r"^import (\w+_pb2) as", r"from . import \1 as", grpc_stub.read_text(), flags=re.M)
        grpc_stub.write_text(relative)
        written += [output / f"{stem}_pb2.py", output / f"{stem}_pb2.pyi", grpc_stub]
    return written


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for path in generate(folder):
        print(path)
