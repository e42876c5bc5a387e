"""Charts as files for papers: SVG and PDF with text as text, and PNG."""

from typing import Any

import vl_convert

from pruneyard.reports.charts.catalog import AnyChart
from pruneyard.reports.charts.figure import vega_lite_version

FORMATS = ("svg", "pdf", "png")
PIXELS_PER_UNIT = 3  # of PNG, which makes a chart of 560 units 1,680 pixels wide


def content(chart: AnyChart, form: str) -> bytes:
    """Returns a chart as the content of a file. Nothing is loaded from the network. Raises `ValueError` for another format."""
    # No base URL is allowed, so that rendering loads nothing from the network.
    settings: dict[str, Any] = {"vl_version": vega_lite_version(), "allowed_base_urls": []}
    spec = chart.to_dict()
    if form == "svg":
        svg: str = vl_convert.vegalite_to_svg(spec, **settings)
        return svg.encode()
    if form == "pdf":
        return bytes(vl_convert.vegalite_to_pdf(spec, **settings))
    if form == "png":
        return bytes(vl_convert.vegalite_to_png(spec, scale=PIXELS_PER_UNIT, **settings))
    raise ValueError(f"form is {form!r}; it must be one of {', '.join(FORMATS)}")
