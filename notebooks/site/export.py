"""Notebooks and Markdown files as tidy HTML, through nbconvert's exporter, its Markdown and its template of one page."""

import io
import re
import sys
from pathlib import Path
from urllib.parse import quote, unquote

import nbformat
from bs4 import BeautifulSoup
from formulas import as_svg
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import ExtractOutputPreprocessor
from PIL import Image

HERE = Path(__file__).resolve().parent
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
LONG = 40  # characters in a table's cell from which on it may be broken into lines


class Renderer(IPythonRenderer):
    """nbconvert's Markdown, with formulas drawn."""

    def block_math(self, body):
        return self.formula(body, display=True)

    def inline_math(self, body):
        return self.formula(body, display=False)

    def latex_environment(self, name, body):
        return self.formula(body, display=True)

    def formula(self, tex, display):
        try:
            return as_svg(tex, display)
        except ValueError as error:
            print(f"site: {error}", file=sys.stderr)
            return f"<code>{self.escape_html(tex)}</code>"


def markdown(text):
    """Return Markdown as HTML; anchors are set later, by `tidy`."""
    return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(text)


class Exporter(HTMLExporter):
    """nbconvert's HTML exporter with our template: the body of a page, its pictures as files of their own."""

    def __init__(self, **settings):
        super().__init__(template_name="page", extra_template_basedirs=[str(HERE)], **settings)
        self.register_preprocessor(ExtractOutputPreprocessor(extract_output_types={"image/png"}), enabled=True)

    def default_filters(self):
        yield from super().default_filters()
        yield "markdown2html", markdown


def is_set_up(cell):
    """Return whether a code cell only fetches the project in Colab, where it is shown as a form."""
    form = cell.source.startswith("#@title") or cell.source.startswith("# @title") or "cellView" in cell.metadata
    return cell.cell_type == "code" and (form or 'find_spec("toylib")' in cell.source)


def export_notebook(path):
    """Return a notebook as a soup, its pictures as file name → bytes, and its live figures as mark → HTML."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for number, cell in enumerate(notebook.cells) if not (number < 3 and is_set_up(cell))]
    live = mark_live(notebook, path)
    resources = {"unique_key": path.stem, "output_files_dir": "img", "metadata": {"path": str(path.parent)}}
    html, resources = Exporter().from_notebook_node(notebook, resources)
    pictures = {name.replace("\\", "/"): data for name, data in resources["outputs"].items()}
    return BeautifulSoup(html, "html.parser"), pictures, live


def mark_live(notebook, path):
    """Put marks in place of the pictures that stand for live figures. `build.py` wrote these to live/NN_CELL.html."""
    live = {}
    for cell in notebook.cells:
        file = path.parent / "live" / f"{path.name[:2]}_{cell.id}.html"
        if cell.cell_type != "code" or not file.exists():
            continue
        pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        figures = re.split(r"\n(?=<div class=\"toylib-live\")", file.read_text(encoding="utf-8"))
        for picture, figure in zip(pictures, figures, strict=False):
            mark = f"LIVE-FIGURE-{len(live)}-"
            live[mark] = f'<div class="live">{figure}</div>'
            picture["data"] = nbformat.from_dict({"text/html": mark})
    return live


def export_markdown(path):
    """Return a Markdown file as a soup."""
    return BeautifulSoup(markdown(path.read_text(encoding="utf-8")), "html.parser")


# ---- what is done to the HTML of every page ----


def tidy(soup, resolve, pictures=None, slug=None):
    """Give headings anchors, tables and formulas a box that scrolls, pictures a size, and links their place on the site.

    `resolve(address)` returns where a link leads, or None: then its words stay. `slug` makes an anchor of a heading.
    """
    for heading in soup.find_all(HEADINGS):
        heading["id"] = (slug or notebook_anchor)(heading.get_text())
    for summary in soup.select("details > summary.guess"):
        summary.parent["class"] = "guess"
    for style in soup.find_all("style"):
        style.decompose()  # pandas' own
    for table in soup.find_all("table"):
        tidy_table(soup, table)
    for image in soup.find_all("img"):
        tidy_image(soup, image, resolve, pictures or {})
    for link in soup.find_all("a", href=True):
        address = resolve(link["href"])
        if address is not None:
            link["href"] = address
        elif link.get_text().strip() == "Open in Colab":
            before = link.previous_sibling
            if isinstance(before, str):
                before.replace_with(re.sub(r"[\s·]+$", "", before))
            link.decompose()
        else:
            link.unwrap()
    return soup


def notebook_anchor(text):
    return text.strip().replace(" ", "-")


def github_anchor(text):
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def tidy_table(soup, table):
    """Put a table into a box; a data frame's cells do not break unless they are long."""
    frame = "dataframe" in table.get("class", [])
    table.attrs = {"class": "frame" if frame else "words"}
    rows = table.find_all("tr")
    if frame and len(rows) > 1 and rows[1].parent.name == "thead":  # the index's name has a row to itself in pandas
        first, *rest = rows[1].find_all(["td", "th"])
        if not any(cell.get_text().strip() for cell in rest) and len(table.thead.find_all("tr")) == 2:
            rows[0].find(["td", "th"]).string = first.get_text()
            rows[1].decompose()
            rows = table.find_all("tr")
    table["style"] = f"--columns: {max(len(row.find_all(['td', 'th'])) for row in rows) if rows else 1}"
    for cell in table.find_all(["th", "td"]):
        if cell.name == "th" and not cell.get_text().strip():
            cell.name = "td"  # no header
        if len(cell.get_text()) > LONG:
            cell["class"] = "long"
    if table.caption is None:
        box = soup.new_tag("div", attrs={"class": "scroll", "data-name": "Table"})
        table.wrap(box)


def tidy_image(soup, image, resolve, pictures):
    """Give a picture its size. One from another host becomes its alternative text: a page asks nobody else for content."""
    address = image.get("src", "")
    if re.match(r"(https?:)?//", address):
        image.replace_with(image.get("alt", ""))
        return
    data = pictures.get(unquote(address))
    if data is None and not address.startswith("data:"):
        image["src"], data = resolve(address, content=True)
    if data:
        image["width"], image["height"] = Image.open(io.BytesIO(data)).size
        if image["width"] > 600:
            image["class"] = "wide"  # on a phone it scrolls in its box instead of shrinking until nobody can read it
    image["loading"], image["decoding"] = "lazy", "async"
    if image.parent.name == "div":
        image.wrap(soup.new_tag("figure"))


def with_live(html, live):
    """Put the HTML of the live figures into a finished page, as it is."""
    for mark, figure in live.items():
        html = html.replace(mark, figure)
    return html


def sections(soup):
    """Return (address, words) of each second-level heading that is not inside something else."""
    return [("#" + quote(h["id"]), h.get_text().strip()) for h in soup.find_all("h2", recursive=False)]


def section(soup, words):
    """Return the elements under the first heading that contains `words`, that heading first, or an empty list."""
    heading = next((h for h in soup.find_all(HEADINGS, recursive=False) if words in h.get_text().lower()), None)
    if heading is None:
        return []
    found = [heading]
    for element in heading.find_next_siblings():
        if element.name in HEADINGS and element.name <= heading.name:
            break
        found.append(element)
    return found
