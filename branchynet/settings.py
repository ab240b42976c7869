"""The one reader of flags, environment and settings files, in that order of weight.

A node's settings are a subclass of `NodeSettings`: its fields are the flags (`--max-batch`), the environment variables
(`BRANCHYNET_EDGE_MAX_BATCH`) and the keys of its table in a TOML file (`[edge]`, `max_batch = …`), with one default
and one help text each.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import (
    SettingsError as PydanticSettingsError,
)

from branchynet.errors import SettingsError
from branchynet.telemetry import LogFormat, LogLevel

__all__ = ["NodeSettings", "read_settings"]

ROLES = ("edge", "cloud")


class NodeSettings(BaseSettings):
    """What both nodes can be told."""

    role: ClassVar[str]
    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, cli_kebab_case=True, cli_implicit_flags=True, cli_hide_none_type=True
    )

    config: Path | None = Field(None, description="settings file (TOML); flags and environment win over it")
    artifact: str = Field("lenet-fashion", description="name of a shipped artifact, or folder of a trained one")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(description="port to listen on; 0 takes a free one", ge=0, le=65535)
    max_batch: int = Field(256, description="most images in one request", ge=1, le=65536)
    engine: Literal["eager", "onnx"] = Field(
        "eager", description="eager (torch, the same bits on every node) or onnx (quicker; 'branchynet[onnx]')"
    )
    threads: int = Field(1, description="threads for the network's layers", ge=1, le=1024)
    grace_s: float = Field(
        10.0, description="seconds that running requests get after SIGTERM", ge=0, allow_inf_nan=False
    )
    control: bool = Field(
        False, description="let whoever reaches the port have this node profiled; costs it compute time"
    )
    log_level: LogLevel = Field("info", description="least severe event that is logged")
    log_format: LogFormat = Field("console", description="console (for people) or json (one object a line)")
    exit_with_parent: bool = Field(
        False, description="stop when standard input closes, so that a child never outlives its parent"
    )


Settings = TypeVar("Settings", bound=NodeSettings)


def read_settings(kind: type[Settings], argv: Sequence[str], program: str) -> Settings:
    """The settings of a node of *kind* from flags (*argv*), environment and the file that `--config` names.

    Prints help and exits for `--help`. Raises `SettingsError`, naming the setting and its value.
    """
    read = _parse(kind, argv, program, {})
    if read.config is not None:
        read = _parse(kind, argv, program, _table(read.config, kind.role))
    return kind.model_construct(**read.model_dump())


def _parse(kind: type[Settings], argv: Sequence[str], program: str, table: dict[str, Any]) -> Settings:
    """Flags over environment over *table*."""

    class WithFile(kind):  # type: ignore[valid-type,misc]
        model_config = SettingsConfigDict(env_prefix=f"BRANCHYNET_{kind.role.upper()}_", cli_prog_name=program)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (the signature is pydantic's)
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=table)

    WithFile.__doc__ = kind.__doc__
    try:
        return cast(Settings, WithFile(_cli_parse_args=list(argv)))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']} (given: {problem.get('input')!r})"
            for problem in error.errors()
        )
        raise SettingsError(problems) from None
    except PydanticSettingsError as error:
        raise SettingsError(str(error)) from None


def _table(path: Path, role: str) -> dict[str, Any]:
    """The table `[role]` of the TOML file at *path*; empty if it has none."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from None
    if unknown := set(document) - set(ROLES):
        raise SettingsError(f"{path}: {', '.join(sorted(unknown))} is not a table [{'] or ['.join(ROLES)}]")
    table = document.get(role, {})
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: {role} is {table!r}; it must be a table [{role}]")
    return table
