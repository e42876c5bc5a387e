"""Reads README and the manuals: their code blocks, commands, inline code and headings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FOLDERS = ("orchestrator", "workloads", "cluster", "reports", "tests")
MANUALS = {folder: ROOT / folder / "README.md" for folder in FOLDERS}
PAGES = [README, *MANUALS.values(), ROOT / "reports" / "schema.md", *sorted((ROOT / "reports" / "results").glob("*.md"))]
SHELL = ("sh", "console")


def name_of(page: Path) -> str:
    """Returns the path of a page from the root, as the id of a test."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    """Returns the contents of a page's fenced blocks in some languages."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.M | re.S)
    return [text for language, text in fenced if language in languages]


def prose(page: Path) -> str:
    """Returns a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def inline_code(page: Path) -> list[str]:
    """Returns the code spans of a page, line breaks in them as spaces."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def command_lines(page: Path) -> list[list[str]]:
    """Returns the commands of a page's shell blocks and code spans, as words, each from `pruneyard` or `python` on."""
    joined = "\n".join(blocks(page, *SHELL)).replace("\\\n", " ")
    texts = [part for line in joined.splitlines() for part in _commands(line.removeprefix("$ "))]
    found = [_words(text) for text in [*texts, *inline_code(page)] if re.match(r"(pruneyard|python) [a-z-]", text)]
    return [words for words in found if len(words) > 1]


def _commands(line: str) -> Iterator[str]:
    """Yields the commands of a line, without what the shell runs before them."""
    yield from (part.strip() for part in re.split(r"&&|;| & ", re.sub(r"\S*/bin/", "", line)))


def _words(text: str) -> list[str]:
    words = shlex.split(text, comments=True)
    return words[2:] if words[:3] == ["python", "-m", "pruneyard"] else words


def example_files() -> dict[str, str]:
    """Returns the files that workloads/README.md gives to copy, by the path that it says to save them as."""
    shown = r"[Ss]ave (?:it|this) as\s+`(workloads/[\w/]+\.py)`:\n\n```python\n(.*?)^```$"
    return dict(re.findall(shown, MANUALS["workloads"].read_text(), flags=re.M | re.S))


def anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def user_files() -> dict[str, str]:
    """Returns the files that workloads/README.md gives to save in the folder in which a study is started, by name."""
    shown = r"[Ss]ave this as `(\w+\.py)`:\n\n```python\n(.*?)^```$"
    return dict(re.findall(shown, MANUALS["workloads"].read_text(), flags=re.M | re.S))
