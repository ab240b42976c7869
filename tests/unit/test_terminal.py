"""What we print: others' texts as they are and harmless, on any terminal, through any pipe."""

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from branchynet.serving.logging import Event, configure_logging, logger
from branchynet.terminal import shown, shown_lines
from cli.options import console, printing_after, progress_bar

ROOT = Path(__file__).parents[2]
CODE = sorted(
    path for room in ("branchynet", "edge_node", "cloud_node", "orchestrator", "simulations", "cli")
    for path in (ROOT / room).rglob("*.py")
)  # fmt: skip
TROUBLE = ["cam [front].png", "cam [rear].png", "[/]", "[bold]", ":bug:", "[link=https://example.org]x", "a\\[b]"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain – übermütig … ×", "plain – übermütig … ×"),
        ("two\nlines\r\ttab", r"two\nlines\r\ttab"),
        ("\x1b[31mred\x07\x9b", r"\x1b[31mred\x07\x9b"),
        ("left\u202eright\u2028line", r"left\u202eright\u2028line"),
        ("no\u00a0break", "no\u00a0break"),
        (os.fsdecode(b"cam \xff.png"), r"cam \xff.png"),
        ("half \ud83d", r"half \ud83d"),
        (Path("a") / "b\nc", r"a/b\nc"),
    ],
)
def test_what_would_move_the_cursor_is_escaped(text, expected):
    assert shown(text) == expected
    assert shown_lines(f"{text}") == expected.replace(r"\n", "\n")


def printed(content):
    with console.capture() as captured:
        console.print(content)
    return captured.get()


@pytest.mark.parametrize("text", TROUBLE)
def test_a_text_that_looks_like_markup_is_printed_as_it_is(text):
    assert printed(text) == f"{text}\n"
    table = Table(text, title=f"title {text}", caption=f"caption {text}", show_footer=True)
    table.columns[0].footer = f"footer {text}"
    table.add_row(f"cell {text}")
    for where in ("title ", "caption ", "footer ", "cell ", ""):
        assert f"{where}{text}" in printed(table)


def test_no_text_reaches_the_terminal_with_an_escape_in_it():
    table = Table(title="\x1b[31mtitle")
    table.add_column("head\x9b")
    table.add_row("cell\x1b]0;x\x07")
    assert printed(table).isprintable() or not {"\x1b", "\x9b", "\x07"} & set(printed(table))
    assert r"cell\x1b]0;x\x07" in printed(table)
    assert printed("a\x1bb\nc") == "a\\x1bb\nc\n"


def test_a_progress_display_shows_texts_as_they_are():
    bar = progress_bar()
    bar.add_task("scoring [/] \x1b[31m", total=1, note=":bug:")
    assert "scoring [/] \\x1b[31m" in printed(bar.get_renderable())
    assert ":bug:" in printed(bar.get_renderable())


def test_what_is_found_is_printed_after_files_are_written_and_also_if_they_fail(tmp_path):
    with console.capture() as captured:
        with printing_after(lambda: console.print(f"written before: {(tmp_path / 'a').exists()}")):
            (tmp_path / "a").touch()
        with pytest.raises(NotADirectoryError), printing_after(lambda: console.print("found")):
            (tmp_path / "a" / "b").touch()
    assert captured.get() == "written before: True\nfound\n"


def test_nothing_of_ours_is_read_as_markup():
    """Every console and every column of text says that it takes texts as they are."""
    wrong = []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            plain = any(one.arg == "markup" and ast.unparse(one.value) == "False" for one in node.keywords)
            if name in ("Console", "TextColumn") and not plain:
                wrong.append(f"{path}:{node.lineno}: {name} without markup=False")
            if name in ("from_markup", "from_ansi", "rprint", "secho"):
                wrong.append(f"{path}:{node.lineno}: {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_log_has_one_line_an_event_whatever_others_said(log_format, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logging("info", log_format)
    logger(role="edge").warning(
        Event.CLOUD_LOST, details="away\n2026 [error] forged \x1b[2J [/] {0}", word="\x1b[2J[/]"
    )
    try:
        raise ValueError("of our own")
    except ValueError:
        logger().exception(Event.FAILED)
    first, _, rest = stream.getvalue().partition("\n")
    if log_format == "json":
        assert json.loads(first)["details"] == "away\n2026 [error] forged \x1b[2J [/] {0}"
    else:
        assert "forged" in first
        assert first.isprintable()
        assert r"word=\x1b[2J[/]" in first
        assert '\n    raise ValueError("of our own")\n' in rest


# --- streams ----------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys
from branchynet.terminal import complain, steady_output

@steady_output()
def main():
    exec(sys.argv[1])

main()
"""


def run(body, *, shell="{}", **environment):
    """Exit code, standard output and standard error of *body* as a program, with the redirections of *shell*."""
    return subprocess.run(
        ["sh", "-c", shell.format('"$@"'), "sh", sys.executable, "-c", PROGRAM, body],
        env={**os.environ, **environment}, capture_output=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", rb"1 - 2 x ... r\xe9sum\xe9 \xff \u4e2d"),
        ("latin-1", rb"1 - 2 " + "×".encode("latin-1") + b" ... " + "résumé".encode("latin-1") + rb" \xff \u4e2d"),
        ("utf-8", "1 – 2 × … résumé ".encode() + rb"\xff " + "中".encode()),
    ],
)
def test_characters_that_a_stream_has_not_are_written_otherwise(encoding, expected):
    body = r"for stream in (sys.stdout, sys.stderr): print('1 – 2 × … résumé \udcff 中', file=stream)"
    done = run(body, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected + b"\n", expected + b"\n")


def test_a_pipe_that_ends_early_ends_the_program_without_a_word():
    body = "print('first', flush=True)\nwhile True: print('more ' * 1000)"
    done = run(body, shell="{{ {0}; echo $? >&2; }} | head -1")
    assert (done.stdout, done.stderr) == (b"first\n", b"141\n")


def test_so_does_one_that_ended_before_the_last_words():
    done = run("print('all')", shell="{{ sleep 0.1; {0}; echo $? >&2; }} | true")
    assert (done.stdout, done.stderr) == (b"", b"141\n")


def test_what_has_to_be_done_is_still_done_then():
    body = "try:\n  while True: print('x' * 9999)\nfinally: print('cleaned up', file=sys.stderr)"
    assert run(body, shell="{0} | true").stderr == b"cleaned up\n"


def test_standard_error_that_nobody_reads_ends_nothing():
    done = run("for _ in range(9): complain('we', 'x' * 9999)\nprint('done')", shell="{{ {0} 2>&1 >&3 | true; }} 3>&1")
    assert done.stdout == b"done\n"


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_is_as_good_as_one_that_nobody_reads(redirection, tmp_path):
    body = (
        "print('out'); complain('we', 'err'); sys.stdout.isatty()\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w')\n"
        "assert file.fileno() > 2\n"  # else what is printed would be in it
        "os.write(sys.stdout.fileno(), b'raw'); file.write('kept'); file.close()"
    )
    done = run(body, shell="{} " + redirection)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_full_disk_is_no_broken_pipe():
    done = run("print('x')", shell="{} >/dev/full")
    assert (done.returncode, done.stderr) == (2, b"standard output: No space left on device\n")


def test_the_exit_code_is_that_of_the_program():
    assert run("print('x'); sys.exit(3)").returncode == 3
    assert run("raise KeyError('x')").returncode == 1
