"""The row of thumbnails: what the style sheet says, for which list, and that it costs nothing twice."""

import asyncio
import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import selectors

from wsseg_core.data.run import Run
from wsseg_core.data.voc import VocDevkit
from wsseg_core.workbook.thumbnails import HEIGHT, WIDEST, image_list, style_sheet, when_idle
from wsseg_core.workbook.widgets import HEADLESS, explorer


def pictures(css: str) -> list[np.ndarray]:
    encoded = [base64.b64decode(text) for text in re.findall(r"base64,([^)]+)\)", css)]
    return [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for jpeg in encoded]


def test_every_option_gets_its_image_whole_and_of_one_height(run: Run) -> None:
    css = style_sheet(image_list(), run.devkit, run.train_ids)
    assert [int(number) for number in re.findall(r"nth-child\((\d+)\)", css)] == list(range(1, len(run.train_ids) + 1))
    for image_id, small in zip(run.train_ids, pictures(css), strict=True):
        height, width = run.devkit.image(image_id).shape[:2]
        assert small.shape[:2] == (HEIGHT, round(width * HEIGHT / height))


def test_a_panorama_is_drawn_smaller(run: Run) -> None:
    path = run.devkit.image_path(run.val_ids[0])
    cv2.imwrite(str(path), np.full((10, 90, 3), (0, 0, 255), np.uint8))
    (small,) = pictures(style_sheet(image_list(), run.devkit, run.val_ids[:1]))
    assert small.shape[:2] == (round(WIDEST * 10 / 90), WIDEST)
    np.testing.assert_allclose(small.mean((0, 1)), [255, 0, 0], atol=4)  # red, from first to last


def test_two_lists_on_a_page_leave_each_other_alone(run: Run) -> None:
    first, second = (re.findall(r"^\.(\S+) ", style_sheet(image_list(), run.devkit, run.val_ids), re.M) for _ in "12")
    assert len({*first}) == len({*second}) == 1
    assert {*first}.isdisjoint(second)


def test_an_image_is_read_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    images, read = image_list(), []
    monkeypatch.setattr(VocDevkit, "image", lambda _, image_id: read.append(image_id) or np.zeros((4, 6, 3), np.uint8))
    assert style_sheet(images, run.devkit, run.val_ids) == style_sheet(images, run.devkit, run.val_ids)
    assert read == run.val_ids


def test_work_waits_until_the_cell_is_done() -> None:
    done: list[str] = []

    async def cell() -> None:
        when_idle(lambda: done.append("work"))
        done.append("cell")
        await asyncio.sleep(0)

    asyncio.run(cell())
    when_idle(lambda: done.append("without a loop"))
    assert done == ["cell", "work", "without a loop"]


def test_an_explorer_offers_forty_images_and_says_which_is_chosen(
    run: Run, tiny_devkit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HEADLESS, raising=False)
    (source,) = (tiny_devkit / "JPEGImages").glob("2008_000001.jpg")
    ids = [f"copy_{number:02}" for number in range(70)]
    for image_id in ids:
        (tiny_devkit / f"JPEGImages/{image_id}.jpg").write_bytes(source.read_bytes())
        (tiny_devkit / f"Annotations/{image_id}.xml").write_text(
            (tiny_devkit / "Annotations/2008_000001.xml").read_text()
        )
    box = explorer(run, ids, lambda image_id: {"image": run.devkit.image(image_id)}, {}, [{}])
    (pickers, (images, sheet, _)) = (row.children for row in box.children[:2])
    assert len(images.options) >= 40
    assert sheet.value.count("nth-child") == len(images.options)
    images.index = 5
    assert pickers[-1].value == images.label == "cat, dog (copy_05)"
    selectors(box)["shows"].value = "sheep"
    assert "nth-child" not in sheet.value
    assert pickers[-1].value == ""
