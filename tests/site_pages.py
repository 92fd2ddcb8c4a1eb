"""A small made-up series to write as a site, and what the tests of the site share."""

import base64
import io
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import nbformat
from bs4 import BeautifulSoup
from conftest import ROOT, freshly_loaded
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

LIVE = """<div class="toylib-live"><label><span>β</span><input type="range" min="0" max="2" value="0"
 oninput="if (this.value > 0 &amp;&amp; true) this.closest('.toylib-live').querySelector('output').textContent = 'β ' + this.value">
</label><output>β 0</output></div>"""
GUESS = """**Predict.** Does the loss fall when β doubles?

<details><summary class="guess">It falls</summary>

**Right.** It falls to $\\ln 2$.

</details>
<details><summary class="guess">It rises</summary>

**Not quite.** Look at the `sign`.

</details>
"""
FIRST = f"""# 01 · Four numbers

**The whole loss by hand.**

See the [data card](../data/README.md#what-is-there), [a table](../data/results/x.csv), [the code](../toylib/),
[the README](../README.md) and [02](02_next.ipynb#Is-it-e-or-not?). [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)

## How low?

$$
\\text{{loss}} = -\\log \\sigma\\bigl(\\beta \\Delta\\bigr), \\quad \\mathcal L \\le \\frac{{1}}{{2}}
$$

| a | long table |
| --- | --- |
| 1 | 2 |

{GUESS}"""
CARD = """### {question}

*Explain it · {level}.* **Think:** of a reason.

<details><summary>Answer</summary>

{answer}

**Evidence:** [01](01_four_numbers.ipynb#How-low?)

**A weak answer:** Says so.

**Follow-up:** [{follow}](#{anchor})

</details>"""
QUESTIONS = [f"What is number {number}?" for number in range(1, 7)]
README = """# DPO, from four numbers

Two notebooks that teach it.

![A picture](data/results/x.png)

## Start

    python3 lab.py

## The notebooks

| | title | what you leave with | minutes |
| --- | --- | --- | --- |
| [01](notebooks/01_four_numbers.ipynb) | Four numbers | the pair by **hand** | 0.2 |
| [02](notebooks/02_next.ipynb) | Next | tokens | 0.5 |
"""


def png(width=700):
    written = io.BytesIO()
    Image.new("RGB", (width, 300), "#FCFBF7").save(written, "PNG")
    return written.getvalue()


def figure(alt):
    data = {"image/png": base64.b64encode(png()).decode(), "text/plain": alt}
    return new_output("display_data", data=data)


def stream(text):
    return new_output("stream", name="stdout", text=text)


def cells_of_interview(sheet):
    cards = []
    for at, question in enumerate(QUESTIONS):
        follow = QUESTIONS[(at + 1) % len(QUESTIONS)]
        level = ("warm-up", "standard", "hard")[at % 3]
        words = {"question": question, "answer": f"It is {at}.", "follow": follow, "anchor": follow.replace(" ", "-")}
        cards.append(new_markdown_cell(CARD.format(level=level, **words)))
    mock = new_code_cell("widgets.mock_interview(cards)", id="mock", outputs=[figure("What the cards cover.")])
    start = [new_markdown_cell("# 10 · The interview\n\n**Questions.**")]
    start += (
        [new_markdown_cell("## The one-page cheat sheet\n\nln 2 is 0.6931.\n\n### Numbers\n\n- β 0.1")] if sheet else []
    )
    return [*start, mock, new_markdown_cell("## Explain it"), *cards, new_markdown_cell("## Check yourself")]


def make_series(root, sheet=True, repository=""):
    """Write the files of a small series into the folder `root`."""
    for folder in ("notebooks/live", "data/results", "toylib"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", root)
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    address = f'repository = "{repository}"'
    (root / "pyproject.toml").write_text(re.sub(r'^repository = ".*"', address, project, flags=re.MULTILINE), "utf-8")
    (root / "README.md").write_text(README, encoding="utf-8")
    (root / "data" / "README.md").write_text("# Data card\n\n## What is there\n\n[x](results/x.csv)\n", "utf-8")
    (root / "data" / "results" / "x.csv").write_text("a\n1\n", encoding="utf-8")
    (root / "data" / "results" / "x.png").write_bytes(png())
    (root / "notebooks" / "live" / "01_slider.html").write_text(LIVE + "\n", encoding="utf-8")
    (root / "notebooks" / "live" / "01_gone.html").write_text(LIVE + "\n", encoding="utf-8")
    frame = "<div><style scoped>td { color: red }</style><table border='1' class='dataframe'><tr><th></th><th>kl</th></tr></table></div>"
    first = [
        new_markdown_cell(FIRST, id="first"),
        new_code_cell('import importlib.util\nimportlib.util.find_spec("toylib")', id="setup"),
        new_code_cell("print(answer)", id="answer", execution_count=1, outputs=[stream("the answer is < 1\n")]),
        new_code_cell("slider()", id="slider", execution_count=2, outputs=[figure("Still.")]),
        new_markdown_cell("**What we saw.** It fell.\n\n## Second\n\n" + GUESS, id="second"),
        new_code_cell("frame", id="frame", outputs=[new_output("execute_result", data={"text/html": frame})]),
        new_code_cell(
            "# @title Checks\nclaim()",
            id="claims",
            metadata={"jupyter": {"source_hidden": True}},
            outputs=[figure("Chart.")],
        ),
    ]
    second = [
        new_markdown_cell("# 02 · Next\n\n**More.**\n\n## Is it `e` or not?\n\nBack to [01](01_four_numbers.ipynb).")
    ]
    series = {"01_four_numbers": first, "02_next": second, "10_the_interview": cells_of_interview(sheet)}
    for name, cells in series.items():
        notebook = new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
        nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")


def write_site(root, output):
    """Write the series in `root` as a site to `output`; return what site.py's `Site.write` returns."""
    return freshly_loaded(ROOT / "notebooks" / "site.py").Site(output, root).write()


def soup_of(path):
    return BeautifulSoup(Path(path).read_text(encoding="utf-8"), "html.parser")


def lost(site):
    """Return (page, address) of each link or source of the site's pages that leads nowhere on it."""
    pages = {path.name: soup_of(path) for path in site.glob("*.html")}
    names = {name: {element["id"] for element in soup.find_all(id=True)} for name, soup in pages.items()}
    found = []
    for page, soup in pages.items():
        for element in soup.find_all(lambda tag: tag.get("href") or tag.get("src")):
            address = element.get("href") or element["src"]
            if re.match(r"(https?|data|mailto):", address):
                continue
            name, _, anchor = address.partition("#")
            there = (site / unquote(name)).is_file() if name else True
            if not there or (anchor and unquote(anchor) not in names.get(unquote(name) or page, ())):
                found.append((page, address))
    return found


def foreign(site):
    """Return (page, address) of all content that a page would ask another host for. Links are not content."""
    found = []
    for path in [*site.glob("*.html"), *site.glob("*.css"), *site.glob("*.js")]:
        text = path.read_text(encoding="utf-8")
        found += [
            (path.name, address)
            for address in re.findall(r"(?:url\(|import |@import |fetch\()['\"]?(https?:[^)'\"]*)", text)
        ]
        if path.suffix == ".html":
            content = BeautifulSoup(text, "html.parser").find_all(
                ["script", "img", "iframe", "link", "source", "video"]
            )
            addresses = [tag.get("src") or tag.get("href") or "" for tag in content]
            found += [(path.name, address) for address in addresses if re.match(r"(https?:)?//", address)]
    return found


def small_site(root):
    """Make the small series in `root` and write it as a site. Return the site's folder."""
    make_series(root)
    write_site(root, root / "out")
    return root / "out"
