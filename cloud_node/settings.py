"""The settings of a cloud node."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from branchynet.serving.settings import NodeSettings

__all__ = ["CloudSettings"]


class CloudSettings(NodeSettings):
    """Run the deeper stages for edge nodes. Flags win over BRANCHYNET_CLOUD_* variables, those over --config.

    examples:
      branchynet cloud
      branchynet cloud --artifact runs/lenet-mnist/artifact --host 0.0.0.0 --port 8011
    """

    role: ClassVar[str] = "cloud"

    port: int = Field(8011, description="port to listen on; 0 takes a free one", ge=0, le=65535)
    first_stage: int = Field(0, description="first stage to load; 0 can resume at every cut, raw images included", ge=0)
