"""The pages of the documentation, taken apart: fenced blocks, inline code, links, and the commands they name."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=lambda path: str(path.relative_to(ROOT)))
_FENCE = re.compile(r"(<!-- run -->\n)?^```(\w*)\n(.*?)^```\n", flags=re.S | re.M)
_BEFORE_A_CALL = re.compile(r"^(\$ |\w+=\S+ |taskset -c \d+ )+")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block; *run* if `<!-- run -->` stands before it; *shows* is the plain block that follows at once."""

    page: Path
    language: str
    text: str
    run: bool
    shows: str | None

    def __str__(self) -> str:
        return f"{name(self.page)}: {self.text.split(maxsplit=1)[0]}"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> Iterator[Block]:
    matches = list(_FENCE.finditer(text(page)))
    for match, following in itertools.zip_longest(matches, matches[1:]):
        adjacent = following is not None and not following[2] and following.start() - match.end() == 1
        yield Block(page, match[2], match[3], bool(match[1]), following[3] if following and adjacent else None)


def inline_codes(page: Path) -> Iterator[str]:
    for code in re.findall(r"`([^`]+)`", _FENCE.sub("", text(page))):
        yield " ".join(code.split())


def links(page: Path) -> Iterator[str]:
    yield from (link for link in _LINK.findall(_FENCE.sub("", text(page))) if not link.startswith("http"))


def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, as MkDocs and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text(page)), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def calls(page: Path, program: str) -> Iterator[list[str]]:
    """The arguments of each call of *program* in the page's blocks and inline code, comments and `&` left out."""
    lines = [line for block in blocks(page) if not block.language for line in _joined(block.text)]
    for line in [*lines, *inline_codes(page)]:
        for part in re.split(r"&&|&$|\s#\s", line):
            call = _BEFORE_A_CALL.sub("", part.strip())
            if call.startswith(f"{program} "):
                yield shlex.split(call)[1:]


def _joined(block: str) -> list[str]:
    return re.sub(r"\\\n\s*", " ", block).splitlines()
