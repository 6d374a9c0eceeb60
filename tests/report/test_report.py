"""The module tree for people: in the terminal, and as reports; the HTML page in a real browser."""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
from contextlib import ExitStack
from math import inf

import onnx
import pytest

from optimum_htp import compare_models, report_document, write_report
from optimum_htp.errors import MetadataError, OptimumHTPError
from optimum_htp.hierarchy.tags import TAG
from optimum_htp.modules.comparison.render import write_comparison
from optimum_htp.onnxfile import rewrite_model
from optimum_htp.report.html import KINDS, kinds_of
from tests.conftest import ROOT, optimum_cli, run
from tests.support.changed_weights import changed, weight_of
from tests.support.zoo import ZOO

CHROMIUM = shutil.which("chromium")
_LINK = '<a href="http://evil">x</a>'
EXPLORER = ROOT / ".venv-model-explorer" / "bin" / "python"


@pytest.fixture
def schema():
    import jsonschema  # takes seconds

    schema = json.loads((importlib.resources.files("optimum_htp") / "schema" / "report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def file(zoo_export):
    return zoo_export("bert").output / "model.onnx"


def module_of(document, name):
    return next(one for one in document["files"][0]["modules"] if one["name"] == name)


def test_tree_in_the_terminal(file):
    lines = optimum_cli("htp", "info", file, "--tree", "--depth", "3").stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("module "))
    rows = [line.split() for line in lines[start + 1 :]]
    assert rows[0][:2] == ["(model)", "BertForMaskedLM"]
    assert ["layer.0", "BertLayer"] in [row[:2] for row in rows]
    assert not [row for row in rows if row[0] == "query"]  # deeper than asked for


def test_tree_as_json(file):
    content = json.loads(optimum_cli("htp", "info", file, "--tree", "--json").stdout)
    assert content["files"][0]["modules"][0]["class_name"] == "BertForMaskedLM"


def test_counts_are_those_of_the_model(file, zoo_export):
    from transformers import BertForMaskedLM

    document = report_document([file])
    model = BertForMaskedLM.from_pretrained(zoo_export("bert").model)
    for name in ("bert.encoder.layer.0.attention.self.query", "bert.encoder.layer.1", "bert.encoder"):
        expected = sum(one.numel() for one in model.get_submodule(name).parameters())
        found = module_of(document, name)["parameters"]
        assert expected <= found <= expected + 20  # and a few constants
        assert module_of(document, name)["bytes"] >= 4 * expected
    root = module_of(document, "")
    assert root["nodes"] == document["files"][0]["model"]["nodes"]
    assert sum(one["own_nodes"] for one in document["files"][0]["modules"]) == root["nodes"]


def test_json_follows_the_shipped_schema(file, schema, zoo_export, tmp_path):
    files = sorted(zoo_export("t5").output.glob("*.onnx"))
    write_report(report_document([file, *files]), tmp_path / "report.json")
    schema.validate(json.loads((tmp_path / "report.json").read_text()))


def test_markdown(file, tmp_path):
    text = write_report(report_document([file]), tmp_path / "report.md").read_text()
    assert "- **class**: BertForMaskedLM" in text
    assert "| `bert.encoder.layer.0.attention.self.query` | Linear | 2 |" in text


def test_report_at_export(published, tmp_path):
    report = tmp_path / "report.json"
    optimum_cli("export", "htp", "--model", published("bert").repo_id, "--report", report, tmp_path / "out")
    assert json.loads(report.read_text())["files"][0]["context"]["record"]["hub_id"] == "tiny/bert"


def test_unknown_format_is_refused_before_any_work(file, tmp_path):
    done = optimum_cli("htp", "report", file, "-o", tmp_path / "report.pdf", check=False)
    assert done.returncode == 1
    assert ".json, .md, .html" in done.stderr
    with pytest.raises(OptimumHTPError, match="no name for a report"):
        write_report({}, tmp_path / "report")


def test_file_without_tags_says_what_to_do(file, tmp_path):
    shutil.copy(file, tmp_path / "plain.onnx")
    optimum_cli("htp", "strip", tmp_path / "plain.onnx")
    with pytest.raises(MetadataError, match="htp tag"):
        report_document([tmp_path / "plain.onnx"])


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("There is no chromium here: `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, file, tmp_path):
    """The report of a file whose names are hostile in places, opened from disk."""
    shutil.copy(file, tmp_path / "model.onnx")
    hostile = "<img src=x onerror=document.title='owned'></script><script>document.title='owned'</script>"
    rewrite_model(tmp_path / "model.onnx", metadata={"hf_task": hostile, "hf_model_class": hostile})
    _rename_a_module(tmp_path / "model.onnx")
    path = write_report(report_document([tmp_path / "model.onnx"]), tmp_path / "report.html")
    context = browser.new_context(viewport={"width": 1200, "height": 1000})
    page = context.new_page()
    page.requested, page.failures = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector(".plot .box")
    yield page
    context.close()


@pytest.fixture
def open_page(browser):
    """Opens a page from disk."""
    with ExitStack() as closing:

        def opened(path):
            page = closing.enter_context(browser.new_context(viewport={"width": 1200, "height": 1000})).new_page()
            page.goto(path.as_uri())
            page.wait_for_selector(".plot .box")
            return page

        yield opened


def test_comparison_shows_where_the_difference_is_without_unfolding(open_page, file, tmp_path):
    """One layer of several that are alike differs; its module is open, and told as the terminal tells it."""
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
def test_legend_of_a_comparison_says_what_a_colour_means(open_page, file, tmp_path, value, colour):
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


def test_page_of_deeply_nested_or_many_modules_is_drawn_at_once(browser, tmp_path):
    """Three alike siblings with 60 levels below each, and 20,000 alike siblings."""
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
    assert found < 20_000  # milliseconds; it took minutes
    texts = page.locator("tbody tr").all_inner_texts()
    assert any("\u00d73" in text for text in texts)
    assert page.evaluate("() => views[0].model.numbers.size") <= 70
    page.close()


def _rename_a_module(path):
    """Give modules names that are markup."""
    proto = onnx.load(path)
    for one in proto.metadata_props:
        if one.key == "htp.modules":
            one.value = json.dumps({**json.loads(one.value), _LINK: _LINK})
    for prop in proto.graph.node[0].metadata_props:
        if prop.key == "htp.module":
            prop.value = _LINK
    onnx.save(proto, path)


def test_page_shows_links_in_names_as_text(page):
    assert page.locator("svg a").count() == 0
    assert page.locator("tbody td", has_text=_LINK).count() == 1
    assert all(link.get_attribute("href").startswith("#") for link in page.locator("a").all())
    page.locator(".search").fill("evil")
    page.locator(".search").press("Enter")
    assert page.locator(".plot text", has_text=_LINK).count() >= 1


def test_page_is_small_and_has_no_markup_of_the_file(file, tmp_path):
    shutil.copy(file, tmp_path / "model.onnx")
    _rename_a_module(tmp_path / "model.onnx")
    text = write_report(report_document([tmp_path / "model.onnx"]), tmp_path / "report.html").read_text()
    assert len(text) < 100_000
    assert "evil" not in re.sub(r"(?s)<script id=.*?</script>", "", text)
    data = text.partition('<script id="report" type="application/json">')[2].partition("</script>")[0]
    assert "<" not in data
    assert _LINK in json.loads(data)[0]["names"]


def test_page_makes_no_request_and_runs_nothing_of_the_file(page, tmp_path):
    assert [url for url in page.requested if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.failures == []
    assert page.title() == "model.onnx"
    assert page.locator("dd img").count() == 0
    page.screenshot(path=tmp_path / "page.png")


def level(page):
    return page.locator(".plot").get_attribute("data-level")


def row(page, name):
    return page.locator("tbody tr", has=page.locator("a", has_text=re.compile(rf"^{re.escape(name)}$")))


def test_click_zooms_and_the_whole_model_comes_back(page):
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


def test_repeated_layers_are_one_until_they_are_unfolded(page, file):
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


def test_keys_walk_the_tree(page):
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


@pytest.mark.parametrize("name", list(ZOO))
def test_every_module_has_a_kind_and_what_attends_is_attention(zoo_export, name):
    path = next(iter(sorted(zoo_export(name).output.glob("*.onnx"))))
    modules = report_document([path])["files"][0]["modules"]
    holders = {child: module["name"] for module in modules for child in module["children"]}
    kinds = kinds_of({module["name"]: module["class_name"] for module in modules}, holders)
    assert set(kinds.values()) <= set(KINDS)
    for module in modules:
        if "Attention" in module["class_name"]:
            assert kinds[module["name"]] == "attention"
        if "Norm" in module["class_name"]:
            assert kinds[module["name"]] == "norm"


_EXPLORER = """
import json, sys
from model_explorer_onnx.main import ONNXAdapter
graphs = ONNXAdapter().convert(sys.argv[1], {})["graphs"]
print(json.dumps([[node.label, node.namespace] for graph in graphs for node in graph.nodes]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not EXPLORER.is_file(), reason="Model Explorer has no environment: `make test-slow` makes one")
def test_model_explorer_shows_the_hierarchy(file, tmp_path):
    proto = onnx.load(file)
    for index, node in enumerate(proto.graph.node):  # it falls back to names, which here say nothing
        node.name = f"scrambled_{index}"
    onnx.save(proto, tmp_path / "scrambled.onnx")
    nodes = json.loads(run(EXPLORER, "-c", _EXPLORER, tmp_path / "scrambled.onnx").stdout.splitlines()[-1])
    namespaces = {namespace for label, namespace in nodes if label == "MatMul"}
    assert any(one.endswith("bert/encoder/layer/0/attention/self/query") for one in namespaces)
    assert all(any(one.key == TAG for one in node.metadata_props) for node in proto.graph.node)


def test_nothing_is_left_behind_where_a_report_cannot_be_written(file, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("here first")
    done = optimum_cli("htp", "report", file, "-o", blocked / "report.md", check=False)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert blocked.read_text() == "here first"


HOSTILE = [
    "![x](http://evil/y.png)",
    "[x](http://evil)",
    "http://evil www.evil.com",
    "`a` | b",
    "<img src=x>",
    "a\nb\x1b",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_no_pictures_links_or_rows_of_the_file(text, tmp_path):
    path = _tagged(tmp_path / "m.onnx", {"": text, text: text}, text, {"hf_license": text})
    report = write_report(report_document([path]), tmp_path / "r.md").read_text()
    rows = [line for line in report.splitlines() if line.startswith("| ")]
    assert len(rows) == 4  # headings, their line is not one, the root and the module
    for row in rows[1:]:
        plain = row.replace("\\\\", "").replace("\\|", "")
        assert plain.count("|") == 6
        assert not [one for one in ("![", "](", "http:", "www.", "<img", "`") if _without_escapes(one, plain)]
    assert "\x1b" not in report


def _without_escapes(sign, text):
    """Whether a sign that means something in Markdown stands there with no backslash before its first character."""
    return any(text[at - 1] != "\\" for at in range(1, len(text)) if text.startswith(sign, at))


def _tagged(path, modules, module, metadata=None):
    """Write a model of one tagged node."""
    from optimum_htp.onnxfile import rewrite_model
    from tests.vectors import make

    proto = make.model({**make.HUB, **(metadata or {}), "htp.modules": json.dumps(modules)})
    onnx.helper.set_model_props(proto.graph.node[0], {"htp.module": module})
    path.write_bytes(proto.SerializeToString())
    rewrite_model(path, ir_version=10)
    return path


def test_reports_of_what_utf8_cannot_say_are_written(schema, tmp_path):
    path = _tagged(
        tmp_path / "m.onnx", {"": "\ud800", "a": "\udfff"}, "a", {"htp.coverage": '{"name": NaN, "root": "x"}'}
    )
    for suffix in ("json", "md", "html"):
        text = write_report(report_document([path]), tmp_path / f"r.{suffix}").read_text(encoding="utf-8")
        assert "\\ud800" in text
    content = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    schema.validate(content)
    assert content["files"][0]["modules"][0]["class_name"] == "\ud800"
    assert content["files"][0]["coverage"] == {}


def test_report_looks_at_no_data_outside_the_files_folder(tmp_path):
    folder, secret = tmp_path / "model", tmp_path / "secret.bin"
    (folder / "sub").mkdir(parents=True)
    secret.write_bytes(b"12345")
    (folder / "sub" / "inside.bin").write_bytes(b"123")
    (folder / "link.bin").symlink_to(secret)
    (folder / "pipe").mkdir()
    path = _tagged(folder / "m.onnx", {"": "Model"}, "")
    names = [str(secret), "../secret.bin", "sub/../../secret.bin", "link.bin", "pipe", "", "x" * 5000, "a\0b"]
    proto = onnx.load(path)
    for name in [*names, "sub/inside.bin"]:
        tensor = proto.graph.initializer.add(name=name[:99], data_type=1, data_location=1)
        tensor.external_data.add(key="location", value=name)
    path.write_bytes(proto.SerializeToString())
    (file,) = report_document([path])["files"]
    assert file["external_files"] == [{"file": "sub/inside.bin", "bytes": 3}]


def test_report_has_the_data_of_files_in_the_hubs_cache(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "1", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    path = blobs / "abc"
    proto = onnx.load(_tagged(tmp_path / "m.onnx", {"": "Model"}, ""))
    tensor = proto.graph.initializer.add(name="w", data_type=1, data_location=1)
    tensor.external_data.add(key="location", value="m.onnx_data")
    path.write_bytes(proto.SerializeToString())
    (blobs / "def").write_bytes(b"1234")
    (snapshot / "m.onnx").symlink_to(path)
    (snapshot / "m.onnx_data").symlink_to(blobs / "def")
    (file,) = report_document([snapshot / "m.onnx"])["files"]
    assert file["external_files"] == [{"file": "m.onnx_data", "bytes": 4}]
