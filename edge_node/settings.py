"""The settings of an edge node."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from branchynet.serving.address import Address
from branchynet.serving.settings import NodeSettings

__all__ = ["EdgeSettings"]

DAY_MS = 24 * 3600 * 1000


class EdgeSettings(NodeSettings):
    """Classify images beside the camera. Flags win over BRANCHYNET_EDGE_* variables, those over --config.

    examples:
      branchynet edge --cloud 127.0.0.1:8011
      branchynet edge --artifact runs/lenet-mnist/artifact --codec uint8+zstd --offload-timeout-ms 300
    """

    role: ClassVar[str] = "edge"

    port: int = Field(8001, description="port to listen on; 0 takes a free one", ge=0, le=65535)
    cloud: str = Field(
        "127.0.0.1:8011", description="host:port of the cloud node; empty: none, the edge answers everything"
    )
    cut: int | None = Field(
        None,
        description="stages [0, cut) are held here; default: what --plan or --adapt needs, or the artifact's own cut",
        ge=1,
    )
    codec: str = Field(
        "fp32",
        description="how feature maps are sent: fp32, fp16, uint8 or uint4, with -calibrated, +mask, +zstd; bottleneck",
    )
    image_codec: str = Field(
        "raw", description="how images are sent (policy cloud-only): raw, raw+zstd, png, webp, jpeg-90, ..."
    )
    offload_timeout_ms: float = Field(
        2_000,
        description="longest wait for the cloud, beside the time a large message takes, before the edge answers itself",
        gt=0,
        le=DAY_MS,
    )
    reserve_ms: float = Field(
        20,
        description="part of a request's deadline kept back for joining and returning the answers",
        ge=0,
        allow_inf_nan=False,
    )
    plan: Path | None = Field(
        None,
        description="file with the plan to serve by: cut, exit rule, codec, edge only or not; if not given, the "
        "artifact's own cut and rule",
    )
    adapt: Path | None = Field(
        None,
        description="file of `branchynet plan --out`: choose cut, thresholds and codec from it as the link changes",
    )
    keep_exit_share: float | None = Field(
        None,
        description="move the thresholds so that this share of the images leaves on the edge; needs an artifact whose "
        "manifest has the scores of its calibration",
        gt=0,
        lt=1,
    )

    @field_validator("cloud")
    @classmethod
    def _cloud(cls, value: str) -> str:
        return str(Address.parse(value)) if value else ""
