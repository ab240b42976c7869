"""Flags win over the environment, that over the file, that over the default; what is not known is refused by name."""

import os
from pathlib import Path

import pytest

from branchynet.errors import SettingsError
from branchynet.serving.settings import NodeSettings, flags_of, read_settings
from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings

KINDS = [EdgeSettings, CloudSettings]
both = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.role)

# For every field: a value that is not its default, as the file has it, and as flags and variables have it.
OTHER = {
    "config": None,
    "artifact": ("other", "other"),
    "artifacts": (Path("models"), "models"),
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": (1234, "1234"),
    "max_batch": (7, "7"),
    "engine": ("onnx", "onnx"),
    "threads": (3, "3"),
    "grace_s": (2.5, "2.5"),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
    "exit_with_parent": (True, "true"),
    "control": (True, "true"),
    "cloud": ("far:1", "far:1"),
    "cut": (2, "2"),
    "offload_timeout_ms": (99.5, "99.5"),
    "reserve_ms": (0.0, "0"),
    "keep_exit_share": (0.8, "0.8"),
    "adapt": (Path("plans.json"), "plans.json"),
    "plan": (Path("plan.json"), "plan.json"),
    "slowdown": (2.5, "2.5"),
    "codec": ("uint8+zstd", "uint8+zstd"),
    "image_codec": ("png", "png"),
    "first_stage": (1, "1"),
}
CASES = [(kind, name) for kind in KINDS for name in kind.model_fields if name != "config"]
every_field = pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda value: getattr(value, "role", value))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch, tmp_path):
    for name in os.environ:
        if name.upper().startswith("BRANCHYNET_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def read(kind, *argv):
    return read_settings(kind, argv, "node")


def variable(kind, name):
    return f"BRANCHYNET_{kind.role}_{name}".upper()


def flag(name):
    return "--" + name.replace("_", "-")


def written(path, text):
    path.write_text(text)
    return str(path)


def toml(value):
    value = str(value) if isinstance(value, Path) else value
    return {True: "true", False: "false"}.get(value) if isinstance(value, bool) else repr(value).replace("'", '"')


@both
def test_nothing_given_means_the_defaults(kind):
    settings = read(kind)
    for name, field in kind.model_fields.items():
        assert getattr(settings, name) == field.default
    assert isinstance(settings, kind)


@every_field
def test_a_value_is_taken_from_flag_variable_and_file(kind, name, tmp_path, monkeypatch):
    value, word = OTHER[name]
    assert kind.model_fields[name].default != value
    assert getattr(read(kind, *([flag(name)] if value is True else [flag(name), word])), name) == value
    if value is not True:
        assert getattr(read(kind, f"{flag(name)}={word}"), name) == value
    file = written(tmp_path / "node.toml", f"[{kind.role}]\n{name} = {toml(value)}\n")
    assert getattr(read(kind, "--config", file), name) == value
    monkeypatch.setenv(variable(kind, name), word)
    assert getattr(read(kind), name) == value


@both
@pytest.mark.parametrize("name", ["port", "max_batch", "threads"])
def test_flags_win_over_variables_and_those_over_the_file(kind, name, tmp_path, monkeypatch):
    file = written(tmp_path / "node.toml", f"[{kind.role}]\n{name} = 11\n")
    assert getattr(read(kind, f"--config={file}"), name) == 11
    monkeypatch.setenv(variable(kind, name), "22")
    assert getattr(read(kind, f"--config={file}"), name) == 22
    assert getattr(read(kind, flag(name), "33", "--config", file), name) == 33


@both
def test_sources_are_merged_setting_by_setting(kind, tmp_path, monkeypatch):
    file = written(tmp_path / "node.toml", f"[{kind.role}]\nport = 11\nmax_batch = 11\nthreads = 11\n")
    monkeypatch.setenv(variable(kind, "max_batch"), "22")
    monkeypatch.setenv(variable(kind, "threads"), "22")
    settings = read(kind, "--config", file, "--threads", "33")
    assert (settings.port, settings.max_batch, settings.threads, settings.grace_s) == (11, 22, 33, 10.0)


@both
def test_the_file_can_be_named_by_a_variable_and_a_flag_wins(kind, tmp_path, monkeypatch):
    monkeypatch.setenv(variable(kind, "config"), written(tmp_path / "one.toml", f"[{kind.role}]\nport = 1\n"))
    assert read(kind).port == 1
    assert read(kind, "--config", written(tmp_path / "two.toml", f"[{kind.role}]\nport = 2\n")).port == 2


@both
@pytest.mark.parametrize("argv", [("--CONFIG", "one"), ("--Config=one",), ("--config", "two", "--config", "one")])
def test_the_file_that_is_reported_is_the_file_that_was_read(kind, argv, tmp_path):
    for port, name in ((1, "one"), (2, "two")):
        written(tmp_path / name, f"[{kind.role}]\nport = {port}\n")
    try:
        settings = read(kind, *argv)
    except SystemExit:
        return  # refused is fine as well
    assert (str(settings.config), settings.port) == ("one", 1)


@both
def test_a_variable_in_small_letters_names_the_file_or_nothing(kind, tmp_path, monkeypatch):
    file = written(tmp_path / "node.toml", f"[{kind.role}]\nport = 1\n")
    monkeypatch.setenv(variable(kind, "config").lower(), file)
    settings = read(kind)
    assert (settings.config is None) == (settings.port != 1)


def test_an_exit_flag_can_be_taken_back(monkeypatch):
    monkeypatch.setenv("BRANCHYNET_EDGE_EXIT_WITH_PARENT", "true")
    assert read(EdgeSettings).exit_with_parent
    assert not read(EdgeSettings, "--no-exit-with-parent").exit_with_parent


def test_one_file_serves_both_nodes_each_reading_its_table(tmp_path):
    file = written(tmp_path / "both.toml", '[edge]\nport = 1\ncloud = "c:2"\n[cloud]\nport = 2\nfirst_stage = 1\n')
    edge, cloud = (read(kind, "--config", file) for kind in KINDS)
    assert (edge.port, edge.cloud, cloud.port, cloud.first_stage) == (1, "c:2", 2, 1)


def test_variables_of_the_other_node_do_not_count(monkeypatch):
    monkeypatch.setenv("BRANCHYNET_CLOUD_PORT", "5")
    monkeypatch.setenv("PORT", "6")
    monkeypatch.setenv("BRANCHYNET_PORT", "7")
    assert read(EdgeSettings).port == 8001


@both
def test_settings_do_not_change_afterwards(kind):
    with pytest.raises(ValueError, match="frozen"):
        read(kind).port = 1


# --- what is refused --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("word", ["--nope", "--max-bat", "--max_batch", "stray"])
def test_an_unknown_flag_is_refused_with_its_name(kind, word, capsys):
    with pytest.raises(SystemExit) as ended:
        read(kind, word, "7")
    assert ended.value.code == 2
    assert word in capsys.readouterr().err


def test_a_flag_of_the_other_node_is_refused(capsys):
    with pytest.raises(SystemExit):
        read(CloudSettings, "--reserve-ms", "5")
    assert "--reserve-ms" in capsys.readouterr().err


@both
def test_an_unknown_key_in_the_file_is_refused_with_its_name(kind, tmp_path):
    file = written(tmp_path / "node.toml", f"[{kind.role}]\nmax_bacth = 4\n")
    with pytest.raises(
        SettingsError, match=rf"max_bacth in table \[{kind.role}\] of .*node\.toml is 4: there is no such setting"
    ):
        read(kind, "--config", file)


BAD = [
    ("port", "-1"),
    ("port", "65536"),
    ("port", "web"),
    ("port", "1.5"),
    ("max_batch", "0"),
    ("max_batch", "65537"),
    ("threads", "0"),
    ("slowdown", "0.9"),
    ("slowdown", "inf"),
    ("grace_s", "-0.1"),
    ("log_level", "loud"),
    ("log_format", "xml"),
    ("exit_with_parent", "perhaps"),
]


@both
@pytest.mark.parametrize(("name", "word"), BAD)
def test_a_bad_variable_is_refused_with_its_name_and_value(kind, name, word, monkeypatch):
    monkeypatch.setenv(variable(kind, name), word)
    with pytest.raises(SettingsError, match=rf"^environment variable {variable(kind, name)} is '{word}': "):
        read(kind)


@both
@pytest.mark.parametrize(("name", "word"), BAD)
def test_a_bad_key_in_the_file_is_refused_with_its_name_and_value(kind, name, word, tmp_path):
    file = written(tmp_path / "node.toml", f'[{kind.role}]\n{name} = "{word}"\n')
    with pytest.raises(SettingsError, match=rf"^{name} in table \[{kind.role}\] of .*node\.toml is '{word}': "):
        read(kind, "--config", file)


@both
def test_a_refused_value_is_blamed_on_the_source_that_won(kind, tmp_path, monkeypatch):
    file = written(tmp_path / "node.toml", f"[{kind.role}]\nport = -1\n")
    with pytest.raises(SettingsError, match=rf"^port in table \[{kind.role}\] of {file} is -1: "):
        read(kind, "--config", file)
    monkeypatch.setenv(variable(kind, "port").lower(), "-2")
    with pytest.raises(SettingsError, match=rf"^environment variable {variable(kind, 'port').lower()} is '-2': "):
        read(kind, "--config", file)
    with pytest.raises(SettingsError, match=r"^--port is '-3': "):
        read(kind, "--config", file, "--port=-3")


@both
@pytest.mark.parametrize("scheme", ["tcp", "udp", "sctp"])
def test_what_kubernetes_tells_of_a_service_of_this_name_is_not_for_us(kind, scheme, tmp_path, monkeypatch):
    for name, value in {
        "PORT": f"{scheme}://10.96.3.8:8001",
        "PORT_8001_TCP": f"{scheme}://10.96.3.8:8001",
        "PORT_8001_TCP_ADDR": "10.96.3.8",
        "PORT_8001_TCP_PORT": "8001",
        "PORT_8001_TCP_PROTO": "tcp",
        "SERVICE_HOST": "10.96.3.8",
        "SERVICE_PORT": "8001",
        "SERVICE_PORT_GRPC": "8001",
    }.items():
        monkeypatch.setenv(variable(kind, name), value)
    assert read(kind).port == kind.model_fields["port"].default
    file = written(tmp_path / "node.toml", f"[{kind.role}]\nport = 7\n")
    assert read(kind, "--config", file).port == 7
    assert read(kind, "--port", "8").port == 8
    with pytest.raises(SettingsError, match=r"^port in table .* is -1: "):
        read(kind, "--config", written(tmp_path / "node.toml", f"[{kind.role}]\nport = -1\n"))


@pytest.mark.parametrize(
    ("name", "word", "fault"),
    [
        ("cloud", "http://127.0.0.1:8011", "it begins with http://"),
        ("cloud", "127.0.0.1", "it has no port"),
        ("cloud", "::1:8011", "an IPv6 host stands in brackets"),
        ("cloud", "127.0.0.1:99999", "its port is '99999'"),
        ("host", "127.0.0.1:8001", "it has a port"),
        ("host", "", "its host is empty"),
        ("host", "*", "is no name of a host"),
    ],
)
def test_an_address_that_is_none_is_refused_at_the_start_with_its_source(name, word, fault, tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match=rf"^--{name}: .*{fault}"):
        read(EdgeSettings, f"--{name}={word}")
    with pytest.raises(SettingsError, match=rf"^{name} in table \[edge\] of .*node\.toml: .*{fault}"):
        read(EdgeSettings, "--config", written(tmp_path / "node.toml", f'[edge]\n{name} = "{word}"\n'))
    monkeypatch.setenv(variable(EdgeSettings, name), word)
    with pytest.raises(SettingsError, match=rf"^environment variable BRANCHYNET_EDGE_{name.upper()}: .*{fault}"):
        read(EdgeSettings)


def test_an_edge_may_have_no_cloud_and_listen_on_a_host_in_brackets():
    settings = read(EdgeSettings, "--cloud=", "--host=[::1]")
    assert (settings.cloud, settings.host) == ("", "::1")


@pytest.mark.parametrize(
    ("kind", "name", "word"),
    [
        *((kind, name, word) for kind in KINDS for name, word in BAD if name not in ("log_level", "log_format")),
        (EdgeSettings, "cut", "0"),
        (EdgeSettings, "cut", "two"),
        (EdgeSettings, "offload_timeout_ms", "0"),
        (EdgeSettings, "offload_timeout_ms", "-1"),
        (EdgeSettings, "reserve_ms", "-1"),
        (EdgeSettings, "reserve_ms", "nan"),
        (EdgeSettings, "reserve_ms", "inf"),
        (EdgeSettings, "keep_exit_share", "0"),
        (EdgeSettings, "keep_exit_share", "1"),
        (EdgeSettings, "offload_timeout_ms", "inf"),
        (CloudSettings, "first_stage", "-1"),
    ],
)
def test_a_bad_flag_is_refused_with_its_name_and_value(kind, name, word, capsys):
    with pytest.raises((SettingsError, SystemExit)) as ended:
        read(kind, f"{flag(name)}={word}")
    message = f"{ended.value} {capsys.readouterr().err}"
    assert name in message or flag(name) in message
    assert word in message


@both
@pytest.mark.parametrize("name", ["log_level", "log_format"])
def test_a_flag_with_a_word_that_is_no_choice_is_refused_with_the_choices(kind, name, capsys):
    with pytest.raises((SettingsError, SystemExit)) as ended:
        read(kind, f"{flag(name)}=loud")
    message = f"{ended.value} {capsys.readouterr().err}"
    assert "loud" in message
    assert ("debug" if name == "log_level" else "console") in message


@both
def test_all_problems_are_named_at_once(kind, monkeypatch):
    monkeypatch.setenv(variable(kind, "port"), "x")
    monkeypatch.setenv(variable(kind, "threads"), "y")
    with pytest.raises(SettingsError, match=r"_PORT is 'x': .*; environment variable .*_THREADS is 'y': "):
        read(kind)


@both
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[edge\n", "is not TOML"),
        (b"\xff\xfe[edge]", "is not TOML"),
        (b"edge = 3\ncloud = 3\n", r"must be a table \[(edge|cloud)\]"),
        (b"[[edge]]\n[[cloud]]\n", r"must be a table \[(edge|cloud)\]"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused_with_its_name(kind, content, complaint, tmp_path):
    file = tmp_path / "node.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"node\.toml.*{complaint}"):
        read(kind, "--config", str(file))


@both
def test_a_file_that_cannot_be_read_is_refused_with_its_name(kind, tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        read(kind, "--config", str(tmp_path / "nowhere.toml"))
    with pytest.raises(SettingsError, match=tmp_path.name):
        read(kind, f"--config={tmp_path}")


@both
def test_help_names_every_setting_and_says_what_it_is(kind, capsys):
    with pytest.raises(SystemExit) as ended:
        read(kind, "--help")
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "node" in shown
    for name, field in kind.model_fields.items():
        assert flag(name) in shown
        assert " ".join(field.description.split()) in shown
    for role in ("BRANCHYNET_", kind.role.upper()):
        assert role in shown


def test_every_field_has_a_case_here():
    assert {name for kind in KINDS for name in kind.model_fields} == set(OTHER)
    assert all(issubclass(kind, NodeSettings) for kind in KINDS)


@pytest.mark.parametrize("text", ["port = 5", "[egde]\nport = 5", "[edge]\nport = 5\n[fog]\nport = 6"])
def test_what_belongs_to_no_node_is_refused(tmp_path, text):
    (tmp_path / "nodes.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"(port|egde|fog) is not a table \[edge\] or \[cloud\]"):
        read_settings(EdgeSettings, ["--config", str(tmp_path / "nodes.toml")], "edge")


@pytest.mark.parametrize("value", ["inf", "1e15", "nan", "0"])
def test_a_wait_that_no_deadline_can_hold_is_refused(value):
    with pytest.raises(SettingsError, match="offload"):
        read_settings(EdgeSettings, ["--offload-timeout-ms", value], "edge")


@every_field
def test_flags_of_settings_make_the_same_settings(kind, name):
    value, word = OTHER[name]
    settings = read(kind, *([flag(name)] if value is True else [flag(name), word]))
    [made] = flags_of(settings)
    assert made.partition("=")[0] == flag(name)
    assert read(kind, *flags_of(settings)) == settings
    assert flags_of(read(kind)) == []
