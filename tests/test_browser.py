"""An explorer as a reader has it: in JupyterLab, in a browser, by keyboard alone."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from wsseg_core.base.dependencies import PACKAGE
from wsseg_core.data.run import Run
from wsseg_core.workbook.widgets import HEADLESS

CHROMIUM, DRIVER = shutil.which("google-chrome") or shutil.which("chromium"), shutil.which("chromedriver")
WIDTH, HEIGHT = 1366, 768  # pixels of a small laptop's screen
HANGS = 300  # seconds; only of a machine that does nothing any more
FLAGS = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
FLAGS += ["disable-background-networking", "disable-component-update"]
CELL = """\
import pickle
from wsseg_core.workbook.explorers.affinity import walk_explorer
walk_explorer(pickle.load(open("run.pickle", "rb")))"""

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is missing")


@pytest.fixture(scope="module")
def folder(staged: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a notebook whose only cell shows the explorer of a small run."""
    folder = tmp_path_factory.mktemp("browser")
    (folder / "run.pickle").write_bytes(pickle.dumps(staged))
    cell = {"cell_type": "code", "id": "0", "metadata": {}, "outputs": [], "execution_count": None, "source": CELL}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "explorer.ipynb").write_text(json.dumps(notebook))
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Of the notebook, served by `wsseg lab`, which keeps what it writes in the notebook's folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "wsseg_core.workbook.command_line", "lab", "--profile", "smoke", "--no-browser"]
    command += ["--allow-root", "--IdentityProvider.token=", f"--port={port}", f"--notebook-dir={folder}"]
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    environment = os.environ | dict.fromkeys(own, str(folder / "jupyter"))
    environment.pop(HEADLESS, None)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=PACKAGE.parent, env=environment, stdout=log, stderr=log)
    root = f"http://127.0.0.1:{port}"
    try:
        WebDriverWait(root, HANGS, ignored_exceptions=[OSError]).until(
            lambda _: server.poll() is not None or urllib.request.urlopen(f"{root}/api/status")
        )
        assert server.poll() is None, (folder / "log").read_text()
        yield f"{root}/lab/tree/explorer.ipynb"
    finally:
        server.terminate()  # its kernel goes with it
        server.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    with Chrome(options, Service(DRIVER)) as browser:
        screen = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        yield browser


class Explorer:
    """What a reader sees of the explorer, and the keys that they press."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def find(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, f".jp-OutputArea-output {selector}")

    def control(self, name: str, selector: str) -> WebElement:
        """The part of a control that takes keys, by the name that stands beside it."""
        rows = self.find(".widget-inline-hbox")
        return next(row for row in rows if row.text.split("\n")[0] == name).find_element(By.CSS_SELECTOR, selector)

    def pictures(self) -> dict[str, str]:
        """Source of every picture by its title, at one moment."""
        read = "return Object.fromEntries([...document.querySelectorAll('figure img')].map(i => [i.alt, i.src]))"
        return self.browser.execute_script(read)

    def scores(self) -> list[str]:
        """What stands below the masks."""
        read = "return [...document.querySelectorAll('figure div')].map(words => words.innerText)"
        return [words for words in self.browser.execute_script(read) if "IoU" in words]

    def press(self, element: WebElement, key: str, changes: Callable[[], object]) -> None:
        """Press a key, and wait until what it changes is another."""
        before = changes()
        element.send_keys(key)
        self.until(lambda: changes() != before)

    def until(self, happened: Callable[[], object]) -> None:
        WebDriverWait(self.browser, HANGS, 0.25).until(lambda _: happened())


@pytest.fixture(scope="module")
def shown(browser: Chrome, address: str) -> Explorer:
    """The explorer, after shift and enter in its cell."""
    explorer = Explorer(browser)
    browser.get(address)
    explorer.until(lambda: "| Idle" in "".join(bar.text for bar in browser.find_elements(By.ID, "jp-bottom-panel")))
    browser.find_element(By.CSS_SELECTOR, ".jp-CodeCell .cm-content").send_keys(Keys.SHIFT + Keys.ENTER)
    explorer.until(lambda: len(explorer.pictures()) == 5 and explorer.find("style"))
    return explorer


@pytest.fixture
def explorer(shown: Explorer) -> Iterator[Explorer]:
    """With the truth hidden, as it was at first."""
    yield shown
    if (truth := shown.control("truth", "input")).is_selected():
        shown.press(truth, Keys.SPACE, shown.scores)


def test_the_truth_is_hidden_at_first(explorer: Explorer) -> None:
    assert not explorer.control("truth", "input").is_selected()
    assert {*explorer.pictures()} == {"image", "largest CAM", "mask before", "after the walk", "mask after"}
    assert not explorer.scores()


def test_keys_move_a_slider_which_changes_the_masks_and_their_scores(explorer: Explorer) -> None:
    explorer.press(explorer.control("truth", "input"), Keys.SPACE, explorer.scores)
    pictures, scores = explorer.pictures(), explorer.scores()
    explorer.press(explorer.control("steps", "[role=slider]"), Keys.END, explorer.scores)
    now = explorer.pictures()
    assert {title for title in pictures if now[title] != pictures[title]} == {"after the walk", "mask after"}
    assert len(explorer.scores()) == len(scores) == 2


def test_arrows_are_the_sliders_and_do_not_move_to_another_cell(explorer: Explorer) -> None:
    for key in (Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_UP):
        slider = explorer.control("steps", "[role=slider]")
        explorer.press(slider, key, lambda: explorer.pictures()["after the walk"])
        assert explorer.browser.switch_to.active_element == slider


def test_keys_walk_along_the_thumbnails(explorer: Explorer) -> None:
    images = explorer.control("image", "select")
    first, second, *_ = images.find_elements(By.TAG_NAME, "option")
    assert "2007_00000" in first.accessible_name
    assert first.rect["y"] == second.rect["y"]  # in one row
    assert first.value_of_css_property("background-image").startswith('url("data:image/jpeg')
    explorer.press(images, Keys.ARROW_DOWN, lambda: explorer.pictures()["image"])
    assert second.is_selected()
    explorer.press(images, Keys.ARROW_UP, lambda: explorer.pictures()["image"])
    assert explorer.browser.switch_to.active_element == images


def test_the_walk_is_played_to_its_end(explorer: Explorer) -> None:
    steps, before = explorer.control("steps", "[role=slider]"), explorer.pictures()["after the walk"]
    explorer.press(steps, Keys.HOME, lambda: explorer.pictures()["after the walk"])
    explorer.find(".widget-play button")[0].send_keys(Keys.ENTER)
    explorer.until(lambda: steps.get_attribute("aria-valuenow") == steps.get_attribute("aria-valuemax"))
    explorer.until(lambda: explorer.pictures()["after the walk"] == before)  # which was that of the last step


def test_everything_fits_the_screen(explorer: Explorer) -> None:
    explorer.press(explorer.control("truth", "input"), Keys.SPACE, explorer.scores)
    box, panel = explorer.find(".widget-vbox")[0], explorer.browser.find_element(By.CSS_SELECTOR, ".jp-WindowedPanel")
    explorer.browser.execute_script("arguments[0].scrollIntoView()", box)
    inner, outer = box.rect, panel.rect
    assert outer["x"] <= inner["x"]
    assert inner["x"] + inner["width"] <= outer["x"] + outer["width"] <= WIDTH
    assert inner["height"] <= outer["height"] <= HEIGHT
    for element in explorer.find("figure, select, .widget-slider, .widget-play, .widget-checkbox"):
        assert element.rect["x"] + element.rect["width"] <= inner["x"] + inner["width"]
