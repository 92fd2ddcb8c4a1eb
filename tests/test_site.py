"""The web site: what is written for a small made-up series, and for the real one that its links, size and time are right."""

import re
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from conftest import ROOT
from site_pages import foreign, lost, make_series, small_site, soup_of, write_site

ROW = ["01_four_numbers.html", "02_next.html", "10_the_interview.html"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The small series as a site: its folder."""
    return small_site(tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def first(site):
    return soup_of(site / "01_four_numbers.html")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real series as a site: its folder, and the seconds that it took."""
    output, start = tmp_path_factory.mktemp("real") / "site", time.monotonic()
    done = subprocess.run(
        [sys.executable, ROOT / "notebooks" / "site.py", "--output", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return output, time.monotonic() - start


# ---- links ----


def test_every_local_link_of_a_page_leads_to_a_file_and_to_a_heading(site):
    assert not lost(site)


def test_no_page_asks_another_host_for_content(site, first):
    assert not foreign(site)
    assert "Open in Colab" not in first.get_text()  # a badge without a repository behind it


def test_links_to_notebooks_lead_to_their_pages_and_headings(first):
    assert "02_next.html#Is-it-e-or-not?" in [a["href"] for a in first.select("article a")]


def test_markdown_files_become_pages_and_data_is_copied(site, first):
    addresses = [a["href"] for a in first.select("article a")]
    assert "data-readme.html#what-is-there" in addresses and "readme.html" in addresses
    assert (site / "files" / "data" / "results" / "x.csv").read_text() == "a\n1\n"
    assert "the code" in first.get_text() and not first.find("a", string="the code")  # a folder cannot be copied


def test_with_a_repository_on_github_files_and_folders_are_links_to_it(tmp_path):
    make_series(tmp_path, repository="https://github.com/owner/name.git")
    write_site(tmp_path, tmp_path / "out")
    addresses = [a["href"] for a in soup_of(tmp_path / "out" / "01_four_numbers.html").select("article a")]
    assert "https://github.com/owner/name/blob/main/data/results/x.csv" in addresses
    assert "https://github.com/owner/name/tree/main/toylib" in addresses
    assert not lost(tmp_path / "out")


# ---- what is on a page ----


def test_every_page_has_the_series_as_navigation_and_says_where_it_is(site):
    for name in ROW:
        soup = soup_of(site / name)
        assert [a["href"] for a in soup.select(".contents > details > ol > li > a")] == ROW
        assert [a["href"] for a in soup.select("[aria-current=page]")] == [name]
        assert len(soup.find_all("h1")) == 1 and soup.html["lang"] == "en" and soup.title.get_text().strip()


def test_set_up_and_prompts_are_left_out_and_hidden_code_is_folded(first):
    assert "find_spec" not in first.get_text() and not re.search(r"(In|Out) ?\[", first.get_text())
    fold = first.select_one("details.code")
    assert fold.summary.get_text() == "Checks" and "claim()" in fold.get_text() and "@title" not in fold.get_text()
    assert "the answer is < 1" in first.select_one(".stream").get_text()


def test_a_live_figure_stands_in_place_of_its_picture_as_it_was_written(site, first):
    assert "this.value > 0 &amp;&amp; true" in (site / "01_four_numbers.html").read_text(encoding="utf-8")
    cell = first.select_one("[data-cell=slider]")
    assert cell.select_one(".toylib-live input[type=range]") and not cell.find("img")


def test_pictures_are_files_with_their_alternative_text_and_size(site, first):
    image = first.select_one("[data-cell=claims] img")
    assert (image["alt"], image["width"], image["height"]) == ("Chart.", "700", "300")
    assert (site / image["src"]).read_bytes().startswith(b"\x89PNG")


def test_formulas_are_drawn_and_named(first):
    formula = first.select_one(".formula svg")
    assert formula["role"] == "img" and formula["aria-label"] == "loss = -log sigma(beta Delta), L le (1)/(2)"
    assert len(formula.path["d"]) > 1000 and "$" not in first.article.get_text()


def test_a_formula_that_cannot_be_drawn_is_shown_as_it_is_and_reported(tmp_path, capsys):
    make_series(tmp_path)
    notebook = tmp_path / "notebooks" / "02_next.ipynb"
    notebook.write_text(
        notebook.read_text(encoding="utf-8").replace("**More.**", "$\\\\nonsense{x}$"), encoding="utf-8"
    )
    write_site(tmp_path, tmp_path / "out")
    assert soup_of(tmp_path / "out" / "02_next.html").find("code", string=r"\nonsense{x}")
    assert "no formula that mathtext can draw" in capsys.readouterr().err


def test_tables_scroll_in_a_box_and_bring_no_style_of_their_own(first):
    tables = first.select("article table")
    assert len(tables) == 2 and all("scroll" in table.parent["class"] for table in tables)
    assert "color: red" not in str(first) and not first.select("th:empty")


def test_the_front_page_has_the_table_of_the_readme_and_its_opening(site):
    soup = soup_of(site / "index.html")
    assert soup.h1.get_text() == "DPO, from four numbers" and "Two notebooks that teach it." in soup.article.get_text()
    rows = soup.select(".cards li")
    assert [row.a["href"] for row in rows] == ROW
    assert rows[0].strong.get_text() == "hand" and "0.2 minutes" in rows[0].get_text()
    assert "python3 lab.py" in soup.get_text() and (site / soup.img["src"]).is_file()


def test_the_cheat_sheet_is_a_page_of_its_own_where_there_is_one(site, tmp_path):
    sheet = soup_of(site / "cheat-sheet.html")
    assert "ln 2 is 0.6931" in sheet.main.get_text() and "β 0.1" in sheet.main.get_text()
    assert "What is number" not in sheet.main.get_text()
    make_series(tmp_path, sheet=False)
    write_site(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "cheat-sheet.html").exists()
    assert "cheat-sheet" not in (tmp_path / "out" / "10_the_interview.html").read_text(encoding="utf-8")


def test_a_folder_with_other_files_is_not_written_over(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    command = [sys.executable, ROOT / "notebooks" / "site.py", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "choose another folder" in done.stderr and (tmp_path / "letter.txt").exists()


def test_lab_hands_the_site_over_with_its_options(lab, monkeypatch):
    handed = []
    monkeypatch.setattr(lab, "ensure_venv", lambda: None)
    monkeypatch.setattr(lab, "hand_over", lambda *arguments: handed.append(arguments))
    lab.main(["site", "--output", "there"])
    assert handed == [(lab.NOTEBOOKS / "site.py", "--output", "there")]


# ---- the real series ----


def test_the_real_site_has_no_lost_link_no_foreign_content_and_pages_of_at_most_3_mb(real):
    site, seconds = real
    assert not lost(site) and not foreign(site)
    assert {path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")} <= {
        path.stem for path in site.glob("*.html")
    }
    for path in site.glob("*.html"):
        pictures = [
            site / image["src"] for image in soup_of(path).find_all("img") if not image["src"].startswith("data:")
        ]
        assert path.stat().st_size + sum(picture.stat().st_size for picture in pictures) <= 3e6, path.name
    assert seconds < 180


def test_the_real_site_shows_every_picture_with_words_and_headings_in_order(real):
    for path in real[0].glob("[0-9][0-9]_*.html"):
        soup = soup_of(path)
        assert not [
            image["src"] for image in soup.find_all("img") if not image["alt"] and not image.find_parent(class_="live")
        ]
        levels = [int(heading.name[1]) for heading in soup.article.find_all(re.compile("^h[1-6]$"))]
        assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels)), path.name
