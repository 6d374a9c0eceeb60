"""The model of the report's tests, and its page in a real browser."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack

import onnx
import pytest

from optimum_htp import report_document, write_report
from optimum_htp.onnxfile import rewrite_model

CHROMIUM = shutil.which("chromium")
LINK = '<a href="http://evil">x</a>'


@pytest.fixture(scope="module")
def file(zoo_export):
    return zoo_export("bert").output / "model.onnx"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, file, tmp_path):
    """The report of a file with markup in some names, opened from disk."""
    shutil.copy(file, tmp_path / "model.onnx")
    hostile = "<img src=x onerror=document.title='owned'></script><script>document.title='owned'</script>"
    rewrite_model(tmp_path / "model.onnx", metadata={"hf_task": hostile, "hf_model_class": hostile})
    rename_a_module(tmp_path / "model.onnx")
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
    """Opens a page from disk; keyword arguments are those of `Browser.new_context`."""
    with ExitStack() as closing:

        def opened(path, **options):
            options = {"viewport": {"width": 1200, "height": 1000}, **options}
            page = closing.enter_context(browser.new_context(**options)).new_page()
            page.goto(path.as_uri())
            if options.get("java_script_enabled", True):
                page.wait_for_selector(".plot .box")
            return page

        yield opened


def rename_a_module(path):
    """Give modules names that are markup."""
    proto = onnx.load(path)
    for one in proto.metadata_props:
        if one.key == "htp.modules":
            one.value = json.dumps({**json.loads(one.value), LINK: LINK})
    for prop in proto.graph.node[0].metadata_props:
        if prop.key == "htp.module":
            prop.value = LINK
    onnx.save(proto, path)
