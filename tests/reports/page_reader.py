"""Reads a page as a reader sees it: texts and tables by section and heading, with the settings that each row is about."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser

BLOCKS = {"a", "label", "p", "li", "h2", "h3", "summary", "dt", "dd", "pre", "figure", "figcaption", "ul", "section"}


@dataclass
class Row:
    """One row: the numbers of the cells that it is about, and the texts by header; parts of a text are separated by spaces."""

    cells: list[int]
    texts: list[str] = field(default_factory=list)


@dataclass
class PageTable:
    """One table and the headings above it."""

    section: str
    heading: str
    headers: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def entries(self):
        """Yields the cells of each row and its texts by header."""
        for row in self.rows:
            yield row.cells, dict(zip(self.headers, row.texts, strict=True))


class PageReader(HTMLParser):
    """Collects `texts` as (section, tag, text), `tables`, the data of the drawer, and the descriptions of charts."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.tables, self.words, self.charts, self.runs = [], [], [], {}, None
        self.hidden, self.section, self.heading, self.row, self.script = 0, "header", "", None, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        own = dict(attrs)
        self.hidden += tag in ("style", "svg")
        if tag == "script":
            self.script = own
        elif tag in ("section", "nav", "footer"):
            self.section = own.get("id", tag)
        elif tag == "table":
            self.tables.append(PageTable(self.section, self.heading))
        elif tag == "tr":
            self.row = Row([int(cell) for cell in own.get("data-cells", "").split()])
        elif tag in ("th", "td"):
            self.row.texts.append("")
        if own.get("role") == "img":
            self.words.append((self.section, own.get("aria-label", "")))
        if tag in BLOCKS:
            self.texts.append((self.section, tag, ""))

    def handle_endtag(self, tag):
        self.hidden -= tag in ("style", "svg")
        if tag == "script":
            self.script = None
        elif tag == "tr":
            table = self.tables[-1]
            if table.headers:
                table.rows.append(self.row)
            else:
                table.headers = self.row.texts
            self.row = None

    def handle_data(self, data):
        text = " ".join(data.split())
        if self.script is not None:
            if self.script.get("id") == "run-data":
                self.runs = json.loads(data)
            elif self.script.get("type") == "application/json" and text:
                self.charts.setdefault((self.section, self.heading), []).append(json.loads(data))
        elif self.hidden or not text:
            return
        elif self.row is not None:
            self.row.texts[-1] = f"{self.row.texts[-1]} {text}".strip()
        elif self.texts:
            section, tag, before = self.texts[-1]
            self.texts[-1] = (section, tag, f"{before} {text}".strip())
            if tag in ("h2", "h3"):
                self.heading = text
