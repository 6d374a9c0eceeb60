"""The report's page on a phone, with the keyboard alone, and without JavaScript."""

from __future__ import annotations

import re

import pytest

from optimum_htp import compare_models, report_document, write_report
from optimum_htp.modules.comparison.render import write_comparison
from tests.support.changed_weights import changed, weight_of

NAME = "bert.encoder.layer.1.intermediate.dense"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
FOCUSED = "document.activeElement.dataset.key"


def change(arrays, model):
    arrays[weight_of(model, NAME)][0, 0] += 0.5


@pytest.fixture
def reports(file, tmp_path):
    """The pages of a report and of a comparison."""
    other = changed(file, tmp_path / "other.onnx", change)
    return {
        "report": write_report(report_document([file]), tmp_path / "report.html"),
        "compare": write_comparison(compare_models(file, other), tmp_path / "compare.html"),
    }


@pytest.mark.parametrize("kind", ["report", "compare"])
def test_phone_shows_the_plot_on_the_first_screen_and_scrolls_in_one_direction(open_page, reports, kind):
    page = open_page(reports[kind], **PHONE)
    plot, table = (page.locator(name).bounding_box() for name in (".plot", "table"))
    assert plot["y"] + plot["height"] < 740
    assert plot["y"] < table["y"]
    page.locator(".unfold").click()
    for opened in (True, False):
        page.locator(".facts").evaluate("(one, opened) => { one.open = opened; }", opened)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.locator(".scroll").evaluate("one => one.scrollWidth <= one.clientWidth")


@pytest.mark.parametrize("kind", ["report", "compare"])
def test_phone_has_targets_that_a_finger_hits(open_page, reports, kind):
    page = open_page(reports[kind], **PHONE)
    page.locator(".unfold").click()
    for target in page.locator("button:not(.twist), select, input, summary, .scroll td:first-child").all():
        assert target.bounding_box()["height"] >= 44
    for twist in page.locator(".twist:not(:empty)").all():
        box = twist.bounding_box()
        assert min(box["width"], box["height"]) >= 28
    page.locator("tbody td", has_text="BertEncoder").tap(position={"x": 100, "y": 35})
    assert page.locator(".plot").get_attribute("data-level") == "bert.encoder"


def test_caption_explains_widths_and_colours(open_page, reports):
    caption = open_page(reports["report"]).locator(".caption")
    assert "Width: number of parameters. Colour: kind of module." in caption.inner_text()
    caption.page.locator(".measure").select_option("bytes")
    caption.page.locator(".colour").select_option("nodes")
    assert "Width: size of the weights in bytes. Colour: share of the model's nodes." in caption.inner_text()
    compared = open_page(reports["compare"]).locator(".caption").inner_text()
    assert "(max abs)" in compared
    assert "red border: beyond the tolerance" in compared


@pytest.mark.parametrize("kind", ["report", "compare"])
def test_page_without_javascript_lists_all_modules_as_text(open_page, reports, file, kind):
    page = open_page(reports[kind], **PHONE, java_script_enabled=False)
    modules = report_document([file])["files"][0]["modules"]
    lines = page.locator(".plain li").all_inner_texts()
    assert len(lines) == len(modules)
    dense = next(line for line in lines if line.startswith(NAME))
    assert re.search(r"Linear · [\d,]+ parameters · [\d,]+ bytes · \d nodes", dense)
    assert ("beyond the tolerance" in dense) is (kind == "compare")
    assert page.locator("dd", has_text="BertForMaskedLM").is_visible()
    for hidden in (".plot", ".controls", ".scroll", ".theme", ".caption"):
        assert not page.locator(hidden).is_visible()


def test_page_without_javascript_follows_the_systems_theme(open_page, reports):
    colours = [
        open_page(reports["report"], java_script_enabled=False, color_scheme=scheme)
        .locator("body")
        .evaluate("body => getComputedStyle(body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert colours == ["rgb(255, 255, 255)", "rgb(18, 22, 29)"]


def test_arrow_keys_move_through_the_plot(open_page, reports):
    page = open_page(reports["report"])
    page.locator(".plot .box").first.focus()
    level = page.locator(".plot")
    for key, expected in [
        ("ArrowDown", "bert"),
        ("ArrowLeft", "bert"),
        ("ArrowRight", "cls"),
        ("ArrowLeft", "bert"),
        ("ArrowDown", "bert.embeddings"),
        ("ArrowRight", "bert.encoder"),
        ("Enter", "bert.encoder"),
        ("ArrowUp", "bert.encoder"),
        ("ArrowDown", "bert.encoder.layer.0\u00d72"),
        ("ArrowUp", "bert.encoder"),
    ]:
        page.keyboard.press(key)
        assert page.evaluate(FOCUSED) == expected
    assert level.get_attribute("data-level") == "bert.encoder"
    page.keyboard.press("Escape")
    assert level.get_attribute("data-level") == ""
    assert page.evaluate(FOCUSED) == "bert.encoder"
    page.keyboard.press("End")
    assert page.evaluate(FOCUSED) != "bert.encoder"
    page.keyboard.press("Home")
    assert page.evaluate(FOCUSED) == ""


@pytest.mark.parametrize(("tree", "member"), [(".plot", ".plot .box"), ("tbody", "tbody tr")])
def test_one_member_of_a_tree_is_in_the_tab_order_and_keeps_the_focus(open_page, reports, tree, member):
    page = open_page(reports["report"])
    page.locator(member).first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    key = page.evaluate(FOCUSED)
    assert key
    style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    rect = page.locator(f"{member}:focus rect")
    stroke = rect.evaluate("rect => getComputedStyle(rect).strokeWidth") if rect.count() else None
    assert (style, stroke) in [("none", "4px"), ("solid", None)]
    assert [one.get_attribute("data-key") for one in page.locator(f"{tree} > [tabindex='0']").all()] == [key]
    page.set_viewport_size({"width": 1000, "height": 900})
    page.wait_for_function("() => views[0].width < 1000")
    assert page.evaluate(FOCUSED) == key
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(FOCUSED) == key


def test_focus_moves_to_the_module_around_a_box_that_disappears(open_page, reports):
    page = open_page(reports["report"])
    page.locator(".plot .box[data-key='bert.embeddings.token_type_embeddings']").focus()
    page.set_viewport_size({"width": 500, "height": 900})
    page.wait_for_function("() => views[0].width < 500")
    assert page.evaluate(FOCUSED) == "bert.embeddings"
