"""The module tree as an HTML page, in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from math import inf

import pytest

from optimum_htp import compare_models, report_document, write_report
from optimum_htp.modules.comparison.render import write_comparison
from tests.report.conftest import LINK, rename_a_module
from tests.support.changed_weights import changed, weight_of


def test_comparison_opens_the_module_that_differs(open_page, file, tmp_path):
    """One of several similar layers differs. Its module is open, with the same note as in the terminal."""
    name = "bert.encoder.layer.1.intermediate.dense"

    def change(arrays, model):
        arrays[weight_of(model, name)][0, 0] += 0.5

    found = compare_models(file, changed(file, tmp_path / "other.onnx", change))
    page = open_page(write_comparison(found, tmp_path / "found.html"))
    marked = page.locator("tbody tr", has=page.locator(".note"))
    assert marked.get_attribute("data-key") == name
    assert marked.locator(".note").inner_text() == "first beyond the tolerance, adds most to the difference"
    assert page.locator("thead th").last.inner_text() == "Max abs"
    assert float(marked.locator("td").last.inner_text()) == pytest.approx(found.first.worst.absolute, rel=0.01)
    box = page.locator(f".plot .box[data-key='{name}']")
    assert "beyond" in box.get_attribute("class")
    assert "max abs" in box.locator("title").text_content()
    assert "beyond" not in page.locator(".plot .box[data-key='bert.encoder.layer.0']").get_attribute("class")


@pytest.mark.parametrize(
    ("value", "colour"), [(0.0, "r0"), (1e-6, "r0"), (1e-5, "r1"), (0.01, "r2"), (0.5, "r3"), (7, "r4"), (inf, "r4")]
)
def test_legend_of_a_comparison_matches_the_colours(open_page, file, tmp_path, value, colour):
    document = report_document([file])
    for module in document["files"][0]["modules"]:
        module |= {"max_abs": value, "exceeds": False}
    document["files"][0]["compared"] = {"with": "other.onnx", "verdict": [], "notes": {}}
    page = open_page(write_report(document, tmp_path / "found.html"))
    page.locator(".colour").select_option("difference")
    assert colour in page.locator(".plot .box >> nth=0").get_attribute("class").split()
    (text,) = page.locator(".legend span", has=page.locator(f"svg.{colour}")).all_inner_texts()
    bound = float(text.strip().split()[-1])
    assert (value <= bound) is text.strip().startswith("\u2264")


def test_page_of_deeply_nested_or_many_modules_is_fast(browser, tmp_path):
    """Three similar siblings with 60 levels each, and 20,000 similar siblings."""
    names = [""] + [f"layer.{at}" + ".a" * depth for at in range(3) for depth in range(61)]
    names += ["wide"] + [f"wide.{at}" for at in range(20_000)]
    modules = {name: {"name": name, "class_name": "M", "children": []} for name in names}
    for name in names[1:]:
        holder = "" if name == "wide" or re.fullmatch(r"layer\.\d", name) else name.rpartition(".")[0]
        modules[holder]["children"].append(name)
    counts = {"parameters": 1, "bytes": 4, "nodes": 1, "microseconds": 1, "saved_bytes": 0, "weights": {}}
    file = {
        "file": "deep.onnx",
        "bytes": 1,
        "external_files": [],
        "context": {"record": None, "producer": "x", "opsets": {"": 17}},
        "model": {"nodes": 1, "initializers": 1},
        "coverage": {},
        "timed": False,
        "modules": [{**module, **counts} for module in modules.values()],
    }
    path = write_report({"files": [file]}, tmp_path / "deep.html")
    page = browser.new_page()
    page.goto(path.as_uri(), timeout=30_000)
    page.wait_for_selector("tbody tr", timeout=30_000)
    found = page.evaluate("() => performance.getEntriesByType('navigation')[0].domComplete")
    assert found < 20_000  # milliseconds; minutes before the fix
    texts = page.locator("tbody tr").all_inner_texts()
    assert any("\u00d73" in text for text in texts)
    assert page.evaluate("() => views[0].model.numbers.size") <= 70
    page.close()


def test_page_shows_links_in_names_as_text(page):
    assert page.locator("svg a").count() == 0
    assert page.locator("tbody td", has_text=LINK).count() == 1
    assert all(link.get_attribute("href").startswith("#") for link in page.locator("a").all())
    page.locator(".search").fill("evil")
    page.locator(".search").press("Enter")
    assert page.locator(".plot text", has_text=LINK).count() >= 1


def test_page_is_small_and_has_no_markup_from_names(file, tmp_path):
    shutil.copy(file, tmp_path / "model.onnx")
    rename_a_module(tmp_path / "model.onnx")
    text = write_report(report_document([tmp_path / "model.onnx"]), tmp_path / "report.html").read_text()
    assert len(text) < 100_000
    assert LINK not in text
    assert 'href="http://evil' not in text
    data = text.partition('<script id="report" type="application/json">')[2].partition("</script>")[0]
    assert "<" not in data
    assert LINK in json.loads(data)[0]["names"]


def test_page_makes_no_request_and_runs_no_code_from_names(page, tmp_path):
    assert [url for url in page.requested if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.failures == []
    assert page.title() == "model.onnx"
    assert page.locator("dd img").count() == 0
    page.screenshot(path=tmp_path / "page.png")


def level(page):
    return page.locator(".plot").get_attribute("data-level")


def row(page, name):
    return page.locator("tbody tr", has=page.locator("a", has_text=re.compile(rf"^{re.escape(name)}$")))


def test_click_zooms_and_button_shows_the_whole_model(page):
    assert level(page) == ""
    page.locator(".plot .box[data-key='bert.encoder']").click()
    assert level(page) == "bert.encoder"
    page.locator(".crumbs button", has_text="bert").click()
    assert level(page) == "bert"
    page.locator(".whole").click()
    assert level(page) == ""


def test_search_finds_and_enter_zooms(page):
    page.locator(".search").fill("layer.1 query")
    assert page.locator("tbody tr").count() == 1
    assert page.locator(".found").inner_text().startswith("1 of ")
    page.locator(".search").press("Enter")
    assert level(page) == "bert.encoder.layer.1.attention.self.query"
    page.locator(".search").fill("Linear")
    assert page.locator("tbody tr").count() > 5


def test_repeated_layers_are_folded(page, file):
    modules = report_document([file])["files"][0]["modules"]
    layers = [module for module in modules if module["class_name"] == "BertLayer"]
    box = page.locator(".plot .box.folded[data-key^='bert.encoder.layer.0'] >> nth=0")
    assert box.locator("title").text_content().startswith("bert.encoder.layer.0 and 1 like it")
    folded = page.locator("tbody tr", has=page.locator(".count"))
    page.locator("tbody tr").first.focus()
    page.locator(".unfold").click()
    assert page.locator("tbody tr", has_text="BertLayer").count() == 1 + len(layers)
    assert folded.first.locator("td").nth(1).inner_text() == f"{sum(layer['parameters'] for layer in layers):,}"
    assert page.locator(".plot .box[data-key='bert.encoder.layer.1']").count() == 1


def test_measures_and_colours_can_be_chosen(page, file):
    width = "box => box.querySelector('rect').width.baseVal.value"
    shares = []
    for measure in ("parameters", "nodes"):
        page.locator(".measure").select_option(measure)
        boxes = [page.locator(f".plot .box[data-key='{key}'] >> nth=0") for key in ("", "bert.encoder")]
        inner, outer = (box.evaluate(width) for box in reversed(boxes))
        shares.append(inner / outer)
    modules = {module["name"]: module for module in report_document([file])["files"][0]["modules"]}
    expected = [modules["bert.encoder"][key] / modules[""][key] for key in ("parameters", "nodes")]
    assert shares == pytest.approx(expected, rel=0.05)
    encoder = page.locator(".plot .box[data-key='bert.encoder']")
    assert "block" in encoder.get_attribute("class")
    page.locator(".colour").select_option("nodes")
    assert re.search(r"\br[0-4]\b", encoder.get_attribute("class"))


def test_keys_move_through_the_table(page):
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.className") == "search"
    page.locator("tbody tr").first.focus()
    focused = "document.activeElement.dataset.key"
    page.keyboard.press("ArrowDown")  # the module with the hostile name
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == "bert"
    assert row(page, "bert").get_attribute("aria-expanded") == "true"
    page.keyboard.press("ArrowLeft")
    assert row(page, "bert").get_attribute("aria-expanded") == "false"
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == ""
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert level(page) == "bert"
    page.keyboard.press("Escape")
    assert level(page) == ""


def test_link_to_a_module_opens_and_marks_it(page):
    page.goto(page.url + "#0:bert.encoder.layer.1.attention")
    page.wait_for_selector("tr.marked")
    marked = page.locator("tr.marked")
    assert marked.get_attribute("data-key") == "bert.encoder.layer.1.attention"
    assert marked.locator("a").get_attribute("href") == "#0%3Abert.encoder.layer.1.attention"
    page.goto(page.url.partition("#")[0] + "#99:%E0%A4%A")
    assert page.failures == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_page_fits_every_screen_in_light_and_dark_and_paper(page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_function("scheme => document.documentElement.dataset.theme == scheme", arg=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") != scheme
    page.emulate_media(media="print")
    assert not page.locator(".controls").is_visible()
    assert page.locator(".plot").is_visible()
    assert page.failures == []
