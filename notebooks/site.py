"""Write the notebooks as a web site: `python3 lab.py site` starts this with the Python of .venv. Nothing is executed.

What a page is made of lies in notebooks/site/: nbconvert's template and ours, styles, scripts, and what exports a page.
"""

import argparse
import posixpath
import re
import shutil
import sys
import time
import tomllib
from pathlib import Path
from urllib.parse import quote, unquote

NOTEBOOKS = Path(__file__).resolve().parent
ROOT = NOTEBOOKS.parent
PARTS = NOTEBOOKS / "site"
sys.path.insert(0, str(PARTS))

import export
from jinja2 import Environment, FileSystemLoader, select_autoescape

ASSETS = ("site.css", "site.js", "guess.js", "cards.js", "sheet.css")
INTERVIEW = ("interview.css", "interview.js")  # the notebook's own, in toylib/widgets/
CHEAT_SHEET = "cheat sheet"  # words in the heading of notebook 10 whose section becomes a page to print


class Site:
    """The site while it is written to the folder `output`."""

    def __init__(self, output, root=ROOT):
        self.output, self.root = Path(output), root
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        self.series, self.repository = project["project"]["description"], github(project["tool"]["lab"]["repository"])
        self.notebooks = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
        self.documents = []  # Markdown files that a page links to, each a page of its own
        environment = Environment(loader=FileSystemLoader(PARTS), autoescape=select_autoescape(["j2"]))
        self.template = lambda name: environment.get_template(name)
        self.nav = [{"number": path.name[:2], "title": title(path), "href": page_of(path)} for path in self.notebooks]

    def write(self):
        """Write everything, and return the names of the pages."""
        shutil.rmtree(self.output, ignore_errors=True)
        (self.output / "img").mkdir(parents=True)
        for name in ASSETS:
            shutil.copy(PARTS / name, self.output / name)
        for name in INTERVIEW:
            shutil.copy(ROOT / "toylib" / "widgets" / name, self.output / name)
        (self.output / ".nojekyll").touch()
        pages = [self.write_notebook(at, path) for at, path in enumerate(self.notebooks)]
        pages.append(self.write_front())
        for path in self.documents:  # grows while pages that link to further ones are written
            pages.append(self.write_document(path))
        return pages

    def write_page(self, name, template, live=None, **values):
        context = {"series": self.series, "nav": self.nav, "repository": self.repository, "here": name}
        html = self.template(template).render(context | values)
        (self.output / name).write_text(export.with_live(html, live or {}), encoding="utf-8", newline="\n")
        return name

    # ---- pages ----

    def write_notebook(self, at, path):
        soup, pictures, live = export.export_notebook(path)
        for name, data in pictures.items():
            (self.output / name).write_bytes(data)
        export.tidy(soup, self.resolver(path), pictures)
        sheet = export.section(soup, CHEAT_SHEET) if path.name.startswith("10") else []
        if sheet:
            self.write_page("cheat-sheet.html", "sheet.html.j2", body="".join(map(str, sheet)), page=page_of(path))
            link = '<p class="print"><a href="cheat-sheet.html">The cheat sheet as one page to print</a></p>'
            sheet[0].insert_after(export.BeautifulSoup(link, "html.parser"))
        lead = soup.find("strong")
        return self.write_page(
            page_of(path),
            "page.html.j2",
            live,
            title=self.nav[at]["title"],
            about=lead.get_text() if lead else self.series,
            body=str(soup),
            sections=export.sections(soup),
            before=self.nav[at - 1] if at else None,
            after=self.nav[at + 1] if at + 1 < len(self.nav) else None,
            scripts=["guess.js", *(["interview.js", "cards.js"] if soup.find(attrs={"data-interview": True}) else [])],
        )

    def write_front(self):
        """The front page: the README's opening and how to start, and its table of the notebooks as a list."""
        readme = self.root / "README.md"
        soup = export.tidy(export.export_markdown(readme), self.resolver(readme), slug=export.github_anchor)
        name = soup.h1.get_text()
        rows = rows_by_page(soup)
        opening = [
            str(element)
            for element in soup.h1.find_next_siblings()
            if not (element.name == "h2" or element.find_previous("h2"))
        ]
        return self.write_page(
            "index.html",
            "front.html.j2",
            title=name,
            about=soup.p.get_text(),
            opening="".join(opening),
            rows=[entry | rows.get(entry["href"], {"cells": []}) for entry in self.nav],
            start="".join(map(str, export.section(soup, "start")[1:])),
            readme=self.resolver(readme)("README.md"),
            scripts=[],
        )

    def write_document(self, path):
        soup = export.tidy(export.export_markdown(path), self.resolver(path), slug=export.github_anchor)
        name = soup.h1.get_text() if soup.h1 else path.name
        sections = export.sections(soup)
        page = document_page(path.relative_to(self.root))
        return self.write_page(
            page, "page.html.j2", title=name, about=name, body=str(soup), sections=sections, scripts=[]
        )

    # ---- links ----

    def resolver(self, source):
        """Return what turns an address that stands in the file `source` into one on the site, or None without a place."""

        def resolve(address, content=False):
            name, _, anchor = address.partition("#")
            if re.match(r"[a-z]+:|//", name):
                badge = "colab.research.google.com/github"
                return None if name.rstrip("/").endswith(badge) else address  # a badge before there is a repository
            if not name:
                return address
            target = (source.parent / unquote(name)).resolve()
            if content:
                return self.copied(target), target.read_bytes()
            place = self.place(target)
            return f"{place}#{anchor}" if place and anchor else place

        return resolve

    def place(self, target):
        """Return where a file of the repository is on the site or in the repository on the web, or None."""
        if not target.is_relative_to(self.root) or not target.exists():
            return None
        inside = target.relative_to(self.root)
        if target in self.notebooks:
            return page_of(target)
        if target.suffix == ".md":
            if target not in self.documents:
                self.documents.append(target)
            return document_page(inside)
        if self.repository:
            return f"{self.repository}/{'tree' if target.is_dir() else 'blob'}/main/{quote(inside.as_posix())}"
        return None if target.is_dir() else self.copied(target)

    def copied(self, target):
        address = posixpath.join("files", target.relative_to(self.root).as_posix())
        (self.output / address).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(target, self.output / address)
        return quote(address)


def github(repository):
    """Return the address of a repository's pages on GitHub, or "" for any other."""
    found = re.fullmatch(r"(https://github\.com/[\w.-]+/[\w.-]+?)(\.git)?/?", repository)
    return found[1] if found else ""


def title(path):
    """Return a notebook's title, without its number."""
    cells = export.nbformat.read(path, as_version=4).cells
    return re.sub(r"^#+\s*\d*\s*·?\s*", "", cells[0].source.split("\n")[0])


def page_of(path):
    return f"{path.stem}.html"


def document_page(inside):
    return "-".join(inside.with_suffix("").parts).lower() + ".html"


def rows_by_page(soup):
    """Return the rows of the README's table of notebooks by the page they link to: the heads and words of its columns."""
    found = {}
    for table in soup.find_all("table"):
        heads = [cell.get_text().strip() for cell in table.find("tr").find_all(["th", "td"])]
        for row in table.find_all("tr")[1:]:
            cells = row.find_all(["th", "td"])
            link = cells[0].find("a") or row.find("a")
            if link and re.match(r"\d\d_", link["href"]):
                words = [cell.decode_contents().strip() for cell in cells]
                found[link["href"]] = {"cells": list(zip(heads, words, strict=False))[2:]}
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="lab.py site", description="Write the notebooks as web pages.")
    parser.add_argument("--output", type=Path, default=ROOT / "site", help="the folder, which is written anew")
    output = parser.parse_args(arguments).output.resolve()
    if output.exists() and any(output.iterdir()) and not (output / ".nojekyll").exists():
        sys.exit(f"lab.py: {output} has files that are not a site of ours; choose another folder with --output.")
    start = time.monotonic()
    pages = Site(output).write()
    print(f"{len(pages)} pages in {time.monotonic() - start:.0f} seconds: open {output / 'index.html'}")


if __name__ == "__main__":
    main()
