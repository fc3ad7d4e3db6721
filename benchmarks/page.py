"""Self-contained HTML pages: tables, and figures as embedded images or inline SVG."""

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path
from string import Template

import matplotlib
from matplotlib.figure import Figure

from edge.storage import write_file

BLUE, ORANGE, GREY = "#2563eb", "#ea580c", "#94a3b8"
PAGE = Path(__file__).with_name("page.html")


def write_page(path: Path, title: str, body: Iterable[str]) -> None:
    """Write a page; `body` is HTML."""
    page = Template(PAGE.read_text())
    write_file(path, page.substitute(title=html.escape(title), body="\n".join(body)))


def table(columns: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Return an HTML table."""
    head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def image_tag(figure: Figure) -> str:
    """Return a figure as an HTML image with embedded data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def inline_svg(figure: Figure) -> str:
    """Return a figure as inline SVG, whose text stays text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    image = buffer.getvalue()
    return image[image.index("<svg") :]
