"""The site: what it refuses, what it must not ask for, and the whole of it built once."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from mtep import site
from mtep.core import ExperimentError, InputError, write_json, write_text
from mtep.site import build_site, fold, outside_requests, page_of, readme_text, settle_links, stage, tidy_notebook

SETTINGS = "\n".join(
    ["[DEFAULT]", "min_python = 3.11", "nbs_path = nbs", "doc_path = _docs", "status = 3", "branch = main"]
    + ["git_url = https://example.org/tiny", "doc_host = https://example.org", "doc_baseurl = /tiny"]
    + [f"{name} = tiny" for name in "repo lib_name lib_path title user version license author audience".split()]
    + [f"{name} = tiny" for name in "author_email copyright description keywords language".split()]
)


def notebook(*cells):
    "A notebook of texts: prose as it is, code where it begins with `#|` or `code:`."
    new = nbformat.v4
    made = [
        new.new_code_cell(c.removeprefix("code:")) if c.startswith(("#|", "code:")) else new.new_markdown_cell(c)
        for c in cells
    ]
    return nbformat.writes(new.new_notebook(cells=made))


@pytest.fixture
def project(tmp_path):
    "A checkout of one notebook."
    home = tmp_path / "tiny"
    write_text(home / "nbs" / "10_echo.ipynb", notebook("# echo\n\n> Says it.", "## Again", "code:1 + 1"))
    write_text(home / "settings.ini", SETTINGS)
    return home


def add_run(project, name="0123456789ab", synthetic=False, title="An echo", **parameters):
    "A finished run with a figure."
    home = project / "reports" / "echo" / name
    metric = {
        "name": "uar",
        "value": 0.5,
        "corpus": "toy",
        "protocol": "speakers5",
        "system": "echo",
        "low": 0.4,
        "high": 0.6,
    }
    write_json(home / "result.json", {"metrics": [metric], "synthetic": synthetic, "files": [], "notes": []})
    record = {"id": name, "experiment": "echo", "title": title, "parameters": {"corpus": "toy", **parameters}}
    write_json(home / "run.json", {**record, "started": "2026-01-01T00:00:00Z", "seconds": 1.5, "synthetic": synthetic})
    write_text(home / "figures" / "levels.svg", '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>')
    write_text(home / "report.html", "<p>the report</p>")
    captioned = '#| fig-cap: How loud it is.\nfinish_figure(fig, "levels", out_dir)'
    write_text(home / "report.ipynb", notebook(captioned))
    return home


def smalldocs_warnings(project, tmp_path, **more):
    "What `smalldocs check` says about the staged pages."
    from smalldocs.check import check

    staged = stage(tmp_path / "staged", project, **more)
    site.render_smalldocs(staged, tmp_path / "rendered")
    return check(staged.folder)


# ------------------------------------------------------------------------------------------------ parts


def test_pages_are_named_without_numbers(tmp_path):
    path = tmp_path / "03b_two words.ipynb"
    write_text(path, notebook("# Two *words*\n\n> With `code` and [a link](x).", "#| default_exp emotion.two"))
    page = page_of(path)
    assert (page.title, page.subtitle) == ("Two words", "With code and a link.")
    assert (page.chapter, page.module) == ("Foundations", "mtep.emotion.two")


def test_a_page_without_a_title_takes_its_name(tmp_path):
    write_text(tmp_path / "77_odd.ipynb", notebook("no title"))
    assert page_of(tmp_path / "77_odd.ipynb")[:4] == ("odd", "odd", "", "Further")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 1}', '{"cells": [{}]}'])
def test_a_broken_notebook_is_named(tmp_path, text):
    write_text(tmp_path / "10_bad.ipynb", text)
    with pytest.raises(InputError, match="10_bad.ipynb cannot be read"):
        page_of(tmp_path / "10_bad.ipynb")


def test_links_to_files_of_the_checkout(tmp_path):
    write_text(tmp_path / "LICENSE", "terms")
    (tmp_path / "reports").mkdir()
    text = (
        "[a](LICENSE) [b](reports/) [c](CHANGELOG.md#x) [d](https://x.org) [e](forest.ipynb) [f](#here) [g](gone.txt)"
    )
    assert settle_links(text, tmp_path, "https://x.org/p", ["CHANGELOG.md"]) == (
        "[a](https://x.org/p/blob/main/LICENSE) [b](https://x.org/p/tree/main/reports/) [c](CHANGELOG.md#x) "
        "[d](https://x.org) [e](forest.ipynb) [f](#here) g"
    )
    assert settle_links("[a](LICENSE)", tmp_path, "", []) == "a"
    assert settle_links("![a](picture.png)", tmp_path, "", []) == "![a](picture.png)"


def test_only_drawing_or_long_code_is_folded():
    short = {"cell_type": "code", "source": "1 + 1", "outputs": [{"data": {"text/plain": "2"}}]}
    drawn = {"cell_type": "code", "source": "#| label: fig-a\nplot()", "outputs": [{"data": {"image/png": "…"}}]}
    assert fold(short) is short
    assert fold(drawn)["source"].startswith("#| code-fold: true") and "#| label: fig-a" in fold(drawn)["source"]
    assert fold(fold(drawn)) == fold(drawn)


def test_definitions_come_in_order_with_their_source(root):
    def shown(name):
        text = f'---\n\n[source](https://x.org/blob/main/m.py#L1){{target="_blank"}}\n\n### {name}\n\n*About.*'
        output = {"output_type": "execute_result", "data": {"text/markdown": text}}
        return {"cell_type": "code", "metadata": {}, "source": f"#| echo: false\nshow_doc({name})", "outputs": [output]}

    page = site.Page("core", "core", "", "Foundations", "00_core.ipynb", "mtep.core")
    cells = tidy_notebook([shown("InputError"), shown("MtepError"), shown("Unknown")], page, root)["cells"]
    heads = [cell["source"].splitlines()[0] for cell in cells if cell["source"].startswith("###")]
    assert heads == ["### `Unknown`", "### `MtepError`", "### `InputError`"]
    sources = [cell["source"] for cell in cells if "code-summary: source" in cell["source"]]
    assert len(sources) == 2 and "class MtepError(Exception):" in sources[0]
    assert not any("[source]" in cell["source"] for cell in cells)


FETCHING = {
    "script": '<script async src="https://cdn.example.org/x.js"></script>',
    "picture": "<img alt='' src='//example.org/a.png'>",
    "set": '<source srcset="http://example.org/a.webp 2x">',
    "bare": "<img src=https://example.org/a.png>",
    "style": '<link href="https://example.org/a.css" rel="stylesheet">',
    "early": '<link rel=preconnect href="https://fonts.example.org">',
    "import": "<style>@import 'https://example.org/a.css';</style>",
    "font": "<style>@font-face{src:url(https://example.org/f.woff2)}</style>",
    "frame": '<iframe src="https://example.org"></iframe>',
    "object": '<object data="https://example.org/a.svg"></object>',
}


@pytest.mark.parametrize("name", FETCHING)
def test_what_a_page_would_fetch_is_found(tmp_path, name):
    write_text(tmp_path / "sub" / "a.html", FETCHING[name])
    assert list(outside_requests(tmp_path)) == ["sub/a.html"]


def test_what_a_page_only_links_to_is_no_request(tmp_path):
    links = '<a href="https://x.org">x</a><link rel="canonical" href="https://x.org/">'
    links += '<img src="data:image/png;base64,AA=="><img src="a.png">'
    write_text(tmp_path / "a.html", links + '<pre>&lt;img src="https://x.org/a.png"&gt; url(https://x.org)</pre>')
    write_text(tmp_path / "a.svg", '<svg xmlns="http://www.w3.org/2000/svg"><use href="#a"/></svg>')
    assert outside_requests(tmp_path) == {}


def test_readme_keeps_what_is_read(tmp_path):
    new = nbformat.v4
    output = new.new_output("display_data", {"text/markdown": "| a |\n|---|\n| 1 |", "text/plain": "x"})
    cells = [
        new.new_markdown_cell("# Title\n\n> Line."),
        new.new_code_cell("#| hide\nimport os"),
        new.new_code_cell("#| include: false\nimport sys"),
        new.new_code_cell("#| echo: false\nshow()", outputs=[output]),
        new.new_code_cell("1 + 1", outputs=[new.new_output("execute_result", {"text/plain": "2"})]),
        new.new_markdown_cell("  The end.  "),
    ]
    write_text(tmp_path / "nbs" / "index.ipynb", nbformat.writes(new.new_notebook(cells=cells)))
    expected = "# Title\n\n> Line.\n\n| a |\n|---|\n| 1 |\n\n```python\n1 + 1\n```\n\n```\n2\n```\n\nThe end.\n"
    assert readme_text(tmp_path / "nbs" / "index.ipynb") == expected
    assert site.write_readme(tmp_path).read_text(encoding="utf-8") == expected
    assert site.write_readme(tmp_path / "nbs") is None


# ------------------------------------------------------------------------------------------------ refusals


def test_folders_that_cannot_be_used(project, tmp_path):
    write_text(tmp_path / "mine" / "thesis.txt", "mine")
    with pytest.raises(InputError, match="holds something else than a site"):
        build_site(tmp_path / "mine", project=project)
    with pytest.raises(InputError, match="holds something else than a site"):
        build_site(tmp_path / "mine" / "thesis.txt", project=project)
    with pytest.raises(InputError, match="holds no notebooks"):
        build_site(tmp_path / "out", project=tmp_path / "mine")
    with pytest.raises(InputError, match="name a folder of reports"):
        build_site(tmp_path / "out", reports=tmp_path / "nowhere", project=project)
    with pytest.raises(InputError, match="renderer 'quarto' is not known"):
        build_site(tmp_path / "out", project=project, renderer="quarto")
    assert not (tmp_path / "out").exists()


def test_a_notebook_that_nbdev_cannot_process(project, tmp_path):
    write_text(project / "nbs" / "11_bad.ipynb", "{")
    with pytest.raises(ExperimentError, match="could not be prepared"):
        build_site(tmp_path / "out", project=project)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_whole(project, tmp_path):
    (add_run(project) / "result.json").write_text("{", encoding="utf-8")
    with pytest.raises(ExperimentError, match="is not a whole run"):
        build_site(tmp_path / "out", project=project)
    assert not (tmp_path / "out").exists()


def test_a_page_that_would_ask_somebody_is_refused(project, tmp_path, monkeypatch):
    def careless(staged, out):
        write_text(out / "index.html", '<script src="https://cdn.example.org/x.js"></script>')

    monkeypatch.setitem(site.RENDERERS, "careless", careless)
    with pytest.raises(ExperimentError, match="would ask https://cdn.example.org/x.js"):
        build_site(tmp_path / "out", project=project, renderer="careless")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ small sites


def test_without_runs_the_site_says_so(project, tmp_path):
    out = build_site(tmp_path / "out", project=project)
    for name in ("results", "gallery", "runs"):
        assert "No run is here yet" in (out / f"{name}.html").read_text(encoding="utf-8")
    assert "Says it." in (out / "index.html").read_text(encoding="utf-8"), "a front page is made where none is written"
    assert sorted(path.name for path in project.iterdir()) == ["nbs", "settings.ini"], "the checkout is left as it was"
    assert [path.name for path in (project / "nbs").iterdir()] == ["10_echo.ipynb"]
    assert smalldocs_warnings(project, tmp_path) == 0


def test_runs_are_shown_with_their_figures(project, tmp_path):
    add_run(project, seed=0)
    add_run(project, "ba9876543210", synthetic=True, seed=1)
    out = build_site(tmp_path / "out", project=project)
    plain = (out / "runs/echo/0123456789ab/index.html").read_text(encoding="utf-8")
    marked = (out / "runs/echo/ba9876543210/index.html").read_text(encoding="utf-8")
    assert "SYNTHETIC" not in plain and "SYNTHETIC" in marked
    assert "How loud it is." in plain and 'href="report.html"' in plain and "echo · toy · seed 0" in plain
    assert (out / "runs/echo/0123456789ab/report.html").is_file()
    gallery = (out / "gallery.html").read_text(encoding="utf-8")
    assert gallery.count('class="mtep-card"') == 2 and gallery.count("mtep-badge") == 1
    assert "runs/echo/0123456789ab/index.html#fig-levels" in gallery
    results = (out / "results.html").read_text(encoding="utf-8")
    assert results.count("mtep-badge") == 1, "one of two numbers is SYNTHETIC"
    assert (out / "results.csv").is_file()
    assert smalldocs_warnings(project, tmp_path) == 0


def test_failed_runs_and_drafts_are_passed_over(project, tmp_path):
    shutil.move(add_run(project), project / "reports" / "echo" / "0123456789ab.failed")
    shutil.copytree(project / "reports" / "echo" / "0123456789ab.failed", project / "reports" / "echo" / ".0123-draft")
    out = build_site(tmp_path / "out", project=project)
    assert not (out / "runs").exists()


def test_text_of_a_run_cannot_become_markup(project, tmp_path):
    home = add_run(project, title='</h1><script>alert("x")</script>', corpus="<img src=x onerror=alert(1)>")
    write_text(home / "report.ipynb", notebook('#| fig-cap: <b>"loud"</b>\nfinish_figure(fig, "levels", out_dir)'))
    out = build_site(tmp_path / "out", project=project)
    for name in ("gallery.html", "runs.html", "results.html", "runs/echo/0123456789ab/index.html"):
        text = (out / name).read_text(encoding="utf-8")
        assert "<script>alert" not in text and "<img src=x" not in text and '<b>"loud"' not in text


def test_a_site_is_replaced_whole(project, tmp_path):
    out = build_site(tmp_path / "out", project=project)
    write_text(out / "old.html", "old")
    build_site(tmp_path / "out", project=project)
    assert not (out / "old.html").exists() and (out / "index.html").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_another_renderer_can_take_the_place(project, tmp_path, monkeypatch):
    def names(staged, out):
        write_text(out / "index.html", "\n".join(sorted(staged.pages)))

    monkeypatch.setitem(site.RENDERERS, "names", names)
    out = build_site(tmp_path / "out", project=project, renderer="names")
    assert (out / "index.html").read_text(encoding="utf-8").split() == [
        "echo.ipynb",
        "gallery.md",
        "index.md",
        "results.md",
        "runs.md",
    ]


# ------------------------------------------------------------------------------------------------ the whole


class Links(HTMLParser):
    "The links and pictures of a page, and what they could point to on it."

    def __init__(self, text):
        super().__init__()
        self.targets, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        self.targets += [found[name] for name in ("href", "src") if found.get(name)]


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    "This checkout's site."
    before = {path for path in root.rglob("*") if ".git" not in path.parts and "__pycache__" not in path.parts}
    home = tmp_path_factory.mktemp("site")

    def keep(staged, out):
        site.render_smalldocs(staged, out)
        shutil.copytree(staged.folder, home / "staged", ignore=shutil.ignore_patterns("_site"))

    site.RENDERERS["keep"] = keep
    out = build_site(home / "docs", project=root, renderer="keep")
    del site.RENDERERS["keep"]
    after = {path for path in root.rglob("*") if ".git" not in path.parts and "__pycache__" not in path.parts}
    left = [path for path in after - before if path.parts[len(root.parts)] in ("nbs", "_proc", "_docs")]
    assert left == [], "the build left something in the checkout"
    return out


def test_every_notebook_has_a_page(whole, root):
    names = {page_of(path).name for path in (root / "nbs").glob("*.ipynb")}
    assert names <= {path.stem for path in whole.glob("*.html")}


def test_the_whole_site_asks_nobody(whole):
    assert outside_requests(whole) == {}


def test_every_link_within_the_site_leads_somewhere(whole):
    pages = {
        path: Links(path.read_text(encoding="utf-8")) for path in whole.rglob("*.html") if path.name != "report.html"
    }
    broken = []
    for path, page in pages.items():
        for target in page.targets:
            place, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:|//", target) or target == "":
                continue
            goal = (path.parent / unquote(place)).resolve() if place else path
            goal = goal / "index.html" if goal.is_dir() else goal
            missing = anchor and goal in pages and unquote(anchor) not in pages[goal].ids
            if not goal.is_file() or missing:
                broken.append(f"{path.relative_to(whole)}: {target}")
    assert broken == []


def test_smalldocs_has_nothing_to_say(whole):
    from smalldocs.check import check

    assert check(whole.parent / "staged") == 0


def test_search_knows_the_pages(whole):
    index = next(whole.glob("search.json"), None)
    assert index is not None
    assert {"core.html", "results.html"} <= {
        entry["href"].split("#")[0] for entry in json.loads(index.read_text(encoding="utf-8"))
    }


def test_its_own_colours_come_with_the_package():
    home = Path(site.__file__).parent / "assets" / "site"
    assert {"site.css", "light.css", "dark.css", "favicon.svg"} <= {path.name for path in home.iterdir()}
