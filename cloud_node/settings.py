"""What a cloud node can be told."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from branchynet.settings import NodeSettings

__all__ = ["CloudSettings"]


class CloudSettings(NodeSettings):
    """Run the deeper stages for edge nodes. Flags win over BRANCHYNET_CLOUD_* variables, those over --config."""

    role: ClassVar[str] = "cloud"

    port: int = Field(8011, description="port to listen on; 0 takes a free one", ge=0, le=65535)
    first_stage: int = Field(0, description="first stage to load; 0 can resume at every cut, raw images included", ge=0)
