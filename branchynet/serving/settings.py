"""The one reader of flags, environment and settings files, in that order of weight.

A node's settings are a subclass of `NodeSettings`: its fields are the flags (`--max-batch`), the environment variables
(`BRANCHYNET_EDGE_MAX_BATCH`) and the keys of its table in a TOML file (`[edge]`, `max_batch = …`), with one default
and one help text each.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import (
    SettingsError as PydanticSettingsError,
)

from branchynet.data.text_files import read_toml
from branchynet.errors import SettingsError
from branchynet.network.runner import Engine
from branchynet.serving.address import checked_host
from branchynet.serving.logging import LogFormat, LogLevel

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["NodeSettings", "engine_of", "flags_of", "read_settings"]

ROLES = ("edge", "cloud")


class NodeSettings(BaseSettings):
    """The settings that both nodes share."""

    role: ClassVar[str]
    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, cli_kebab_case=True, cli_implicit_flags=True, cli_hide_none_type=True
    )

    config: Path | None = Field(None, description="settings file (TOML); flags and environment win over it")
    artifact: str = Field("lenet-fashion", description="name of a shipped artifact, or folder of a trained one")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(description="port to listen on; 0 takes a free one", ge=0, le=65535)
    max_batch: int = Field(256, description="most images in one request", ge=1, le=65536)
    engine: Literal["eager", "onnx"] | None = Field(
        None,
        description="onnx (ONNX Runtime) or eager (torch, the reference); if not given, onnx where the artifact has "
        "graphs or torch is not installed",
    )
    threads: int = Field(1, description="threads for the network's layers", ge=1, le=1024)
    slowdown: float = Field(
        1.0, description="compute as a device would that is so many times as slow", ge=1, allow_inf_nan=False
    )
    grace_s: float = Field(
        10.0, description="seconds that running requests get after SIGTERM", ge=0, allow_inf_nan=False
    )
    control: bool = Field(
        False,
        description="let whoever reaches the port have this node profiled, which costs compute time, set its plan, and "
        "move it to another artifact of --artifacts",
    )
    artifacts: Path | None = Field(
        None, description="folder of the artifacts that `branchynet deploy` may load here by name; needs --control"
    )
    log_level: LogLevel = Field("info", description="least severe event that is logged")
    log_format: LogFormat = Field("console", description="console (for people) or json (one object a line)")
    exit_with_parent: bool = Field(
        False, description="stop when standard input closes, so that a child never outlives its parent"
    )

    @field_validator("host")
    @classmethod
    def _host(cls, value: str) -> str:
        return checked_host(value)


def engine_of(settings: NodeSettings) -> Engine | None:
    """The engine that was asked for; None leaves it to the artifact."""
    return None if settings.engine is None else Engine(settings.engine)


Settings = TypeVar("Settings", bound=NodeSettings)


def read_settings(kind: type[Settings], argv: Sequence[str], program: str) -> Settings:
    """The settings of a node of *kind* from flags (*argv*), environment and the file that `--config` names.

    Prints help and exits for `--help`. Raises `SettingsError`, naming the value and where it came from: the flag, the
    environment variable, or the key and the file.
    """
    read = _parse(kind, argv, program, {})
    if read.config is not None:
        read = _parse(kind, argv, program, _table(read.config, kind.role), read.config)
    return kind.model_construct(**read.model_dump())


def flags_of(settings: NodeSettings) -> list[str]:
    """The flags that make `read_settings` return *settings*, as far as they are not the defaults."""
    flags = []
    for name, field in type(settings).model_fields.items():
        value, flag = getattr(settings, name), f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value != field.default:
            flags.append(f"{flag}={value}" if value is not False else f"--no-{flag[2:]}")
    return flags


def _parse(
    kind: type[Settings], argv: Sequence[str], program: str, table: dict[str, Any], file: Path | None = None
) -> Settings:
    """Flags over environment over *table*, which was read from *file*."""

    class WithFile(kind):  # type: ignore[valid-type,misc]
        model_config = SettingsConfigDict(env_prefix=_prefix(kind), cli_prog_name=program)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (the signature is pydantic's)
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, _without_services(env_settings), InitSettingsSource(settings_cls, init_kwargs=table)

    WithFile.__doc__ = inspect.getdoc(kind)  # the help keeps its lines, so they should not be indented
    try:
        return cast(Settings, WithFile(_cli_parse_args=list(argv)))
    except ValidationError as error:
        problems = [_problem(problem, _source(kind, str(problem["loc"][0]), argv, file)) for problem in error.errors()]
        raise SettingsError("; ".join(problems)) from None
    except PydanticSettingsError as error:
        raise SettingsError(str(error)) from None


def _prefix(kind: type[NodeSettings]) -> str:
    return f"BRANCHYNET_{kind.role.upper()}_"


def _without_services(source: PydanticBaseSettingsSource) -> PydanticBaseSettingsSource:
    """*source* without the variables by which Kubernetes and Docker tell of a service called `branchynet-edge`."""
    if isinstance(source, EnvSettingsSource):
        source.env_vars = {name: value for name, value in source.env_vars.items() if not _tells_of_service(name, value)}
    return source


def _tells_of_service(name: str, value: str | None) -> bool:
    # BRANCHYNET_EDGE_PORT=tcp://10.96.3.8:8001; no other of these variables has the name of a setting.
    return name.upper().endswith("_PORT") and re.match("(tcp|udp|sctp)://", value or "") is not None


def _source(kind: type[NodeSettings], name: str, argv: Sequence[str], file: Path | None) -> str:
    """Where the value of setting *name* came from, the first of flags, environment and file that has it."""
    flag = name.replace("_", "-")
    given = {word.partition("=")[0].lower() for word in argv}
    if given & {f"--{flag}", f"--no-{flag}"}:
        return f"--{flag}"
    for variable, value in os.environ.items():
        if variable.upper() == f"{_prefix(kind)}{name}".upper() and not _tells_of_service(variable, value):
            return f"environment variable {variable}"
    return f"{name} in table [{kind.role}] of {file}"


def _problem(found: ErrorDetails, source: str) -> str:
    """What is wrong with the value from *source*."""
    if found["type"] == "value_error":  # our own, which names the value
        return f"{source}: {found['ctx']['error']}"
    message = "there is no such setting" if found["type"] == "extra_forbidden" else found["msg"]
    return f"{source} is {found.get('input')!r}: {message}"


def _table(path: Path, role: str) -> dict[str, Any]:
    """The table `[role]` of the TOML file at *path*; empty if it has none."""
    try:
        document = read_toml(path)
    except OSError as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from None
    if unknown := set(document) - set(ROLES):
        raise SettingsError(f"{path}: {', '.join(sorted(unknown))} is not a table [{'] or ['.join(ROLES)}]")
    table = document.get(role, {})
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: {role} is {table!r}; it must be a table [{role}]")
    return table
