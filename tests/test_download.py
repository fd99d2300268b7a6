"""Downloads against a server on this machine, with small archives of the layout of VOC and SBD."""

import hashlib
import io
import tarfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from conftest import TINY_SPLITS, write_tiny_devkit

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data import download
from wsseg_core.data.download import Archive, fetch_subset, fetch_voc
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.voc import VocDevkit


@dataclass
class Server:
    """Serves `files`, breaks the next connections after `break_after` bytes each, and notes what was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    break_after: list[int] = field(default_factory=list)
    knows_ranges: bool = True
    requests: list[tuple[str, int]] = field(default_factory=list)  # path and first byte


def make_handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            server.requests.append((self.path, start))
            content = server.files.get(self.path)
            if content is None:
                return self.send_error(404)
            if not server.knows_ranges:
                start = 0
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206 if server.knows_ranges else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = start + server.break_after.pop(0) if server.break_after else len(content)
            self.wfile.write(content[start:stop])

        def log_message(self, *arguments):
            pass

    return Handler


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "TIMEOUT", None)
    state = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(state))
    state.url = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield state
    http.shutdown()
    http.server_close()


def pack(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# Noise, so that the archive does not shrink to less than a block of the sending socket.
CONTENT = pack({"tree/data/a.bin": np.random.default_rng(0).bytes(50_000), "tree/readme": b"hello"})


def archive_of(content: bytes, *mirrors: str) -> Archive:
    return Archive("tree.tgz", hashlib.md5(content).hexdigest(), "tree/data", mirrors)


def fails(folder: Path, archives: Path | None, source: Archive) -> str:
    with pytest.raises(WorkbookError) as caught:
        fetch_voc(folder, archives, [source])
    assert not (folder / source.creates).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_downloads_verifies_and_extracts(server, tmp_path):
    server.files["/tree.tgz"] = CONTENT
    source = archive_of(CONTENT, f"{server.url}/tree.tgz")
    assert fetch_voc(tmp_path, None, [source]) == tmp_path / "tree/data"
    assert (tmp_path / "tree/data/a.bin").stat().st_size == 50_000
    assert leftovers(tmp_path) == ["downloads", "tree"]
    assert leftovers(tmp_path / "downloads") == ["tree.tgz"]
    fetch_voc(tmp_path, None, [source])  # all is there
    assert len(server.requests) == 1


def test_a_mirror_that_is_down_is_passed_over(server, tmp_path):
    server.files["/good"] = CONTENT
    down = "http://127.0.0.1:9"  # the discard port, on which nothing listens
    fetch_voc(tmp_path, None, [archive_of(CONTENT, down, f"{server.url}/gone", f"{server.url}/good")])
    assert (tmp_path / "tree/data/a.bin").exists()
    assert [path for path, _ in server.requests] == ["/gone", "/good"]


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.files = {"/one": CONTENT, "/two": CONTENT}
    server.break_after = [20_000, 5_000]
    fetch_voc(tmp_path, None, [archive_of(CONTENT, f"{server.url}/one", f"{server.url}/two")])
    assert server.requests == [("/one", 0), ("/two", 20_000), ("/one", 25_000)]
    assert (tmp_path / "tree/data/a.bin").exists()


def test_a_killed_download_goes_on_in_the_next_run(server, tmp_path):
    server.files["/tree.tgz"] = CONTENT
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/tree.tgz.part").write_bytes(CONTENT[:30_000])
    fetch_voc(tmp_path, None, [archive_of(CONTENT, f"{server.url}/tree.tgz")])
    assert server.requests == [("/tree.tgz", 30_000)]


def test_killed_between_the_last_byte_and_the_check(server, tmp_path):
    server.files["/tree.tgz"] = CONTENT
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/tree.tgz.part").write_bytes(CONTENT)
    fetch_voc(tmp_path, None, [archive_of(CONTENT, f"{server.url}/tree.tgz")])
    assert server.requests == [("/tree.tgz", len(CONTENT))]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.files["/tree.tgz"] = CONTENT
    server.knows_ranges = False
    server.break_after = [20_000]
    fetch_voc(tmp_path, None, [archive_of(CONTENT, f"{server.url}/tree.tgz")])
    assert server.requests == [("/tree.tgz", 0), ("/tree.tgz", 20_000)]  # whose answer replaces the part
    assert (tmp_path / "tree/data/a.bin").exists()


def test_wrong_content_is_thrown_away(server, tmp_path):
    other = pack({"tree/data/b.bin": b"other"})
    server.files = {"/bad": other, "/good": CONTENT}
    message = fails(tmp_path, None, archive_of(CONTENT, f"{server.url}/bad"))
    assert f"{server.url}/bad (wrong md5)" in message
    assert leftovers(tmp_path / "downloads") == []
    fetch_voc(tmp_path, None, [archive_of(CONTENT, f"{server.url}/bad", f"{server.url}/good")])
    assert leftovers(tmp_path / "tree/data") == ["a.bin"]


def test_a_part_of_another_file_is_noticed(server, tmp_path):
    server.files["/tree.tgz"] = CONTENT
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/tree.tgz.part").write_bytes(b"x" * 1000)
    fetch_voc(tmp_path, None, [archive_of(CONTENT, f"{server.url}/tree.tgz")])
    assert server.requests == [("/tree.tgz", 1000), ("/tree.tgz", 0)]


def test_no_network_names_urls_and_remedy(tmp_path):
    message = fails(tmp_path, None, archive_of(CONTENT, "http://127.0.0.1:9/a", "http://127.0.0.1:9/b"))
    assert "http://127.0.0.1:9/a" in message
    assert "http://127.0.0.1:9/b" in message
    assert "refused" in message
    assert "--archives" in message


def test_archives_of_the_user_need_no_network(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    (given / "tree.tgz").write_bytes(CONTENT)
    fetch_voc(tmp_path / "data", given, [archive_of(CONTENT, "http://127.0.0.1:9/a")])
    assert leftovers(tmp_path / "data") == ["tree"]
    assert (given / "tree.tgz").read_bytes() == CONTENT


def test_a_wrong_archive_of_the_user_is_named(tmp_path):
    (tmp_path / "tree.tgz").write_bytes(b"other")
    message = fails(tmp_path, tmp_path, archive_of(CONTENT))
    assert f"{tmp_path / 'tree.tgz'}: its md5 is {hashlib.md5(b'other').hexdigest()}" in message


@pytest.mark.parametrize("name", ["../outside", "tree/data/../../../outside", "/outside"])
def test_nothing_is_written_outside(tmp_path, name):
    folder = tmp_path / "inside"
    folder.mkdir()
    content = pack({"tree/data/a": b"fine", name: b"not fine"})
    (folder / "tree.tgz").write_bytes(content)
    if name.startswith("/"):  # the filter takes the leading slash away, which keeps the file inside
        fetch_voc(folder, folder, [archive_of(content)])
    else:
        assert "cannot be extracted" in fails(folder, folder, archive_of(content))
    assert not (tmp_path / "outside").exists()
    assert not Path("/outside").exists()
    assert ".tree.tgz.extracting" not in leftovers(folder)


USELESS = {"truncated": CONTENT[:20_000], "no archive": b"words", "another tree": pack({"elsewhere/a": b""})}


@pytest.mark.parametrize("content", USELESS.values(), ids=USELESS)
def test_a_useless_archive_leaves_no_tree(tmp_path, content):
    (tmp_path / "tree.tgz").write_bytes(content)
    assert f"{tmp_path / 'tree.tgz'}: cannot be extracted" in fails(tmp_path, tmp_path, archive_of(content))
    assert ".tree.tgz.extracting" not in leftovers(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'}/downloads: cannot be made" in fails(tmp_path / "file", None, archive_of(CONTENT))


def test_remains_of_a_killed_extraction_are_swept_away(tmp_path):
    stale = tmp_path / ".tree.tgz.extracting/tree/data/half"
    stale.mkdir(parents=True)
    (tmp_path / "tree.tgz").write_bytes(CONTENT)
    fetch_voc(tmp_path, tmp_path, [archive_of(CONTENT)])
    assert leftovers(tmp_path / "tree/data") == ["a.bin"]


def test_the_reader_finds_what_was_fetched(server, tmp_path):
    write_tiny_devkit(tmp_path / "devkit")
    files = {path.relative_to(tmp_path / "devkit"): path for path in (tmp_path / "devkit").rglob("*") if path.is_file()}
    voc = pack({f"VOCdevkit/VOC2012/{name}": path.read_bytes() for name, path in files.items()})
    lists = {"train": b"2007_000001\n2009_000001\n", "val": b"2008_000001\n"}
    sbd = pack({f"benchmark_RELEASE/dataset/{name}.txt": content for name, content in lists.items()})
    server.files = {"/voc": voc, "/sbd": sbd}
    sources = [
        Archive(real.name, hashlib.md5(content).hexdigest(), real.creates, (server.url + path,))
        for real, content, path in [(download.VOC2012, voc, "/voc"), (download.SBD, sbd, "/sbd")]
    ]
    devkit = VocDevkit(fetch_voc(tmp_path / "data", None, sources))
    assert devkit.root == tmp_path / "data/VOCdevkit/VOC2012"
    assert devkit.ids("train_aug") == [*TINY_SPLITS["train"], "2009_000001"]


@pytest.fixture
def small_archives(tmp_path, monkeypatch) -> tuple[Path, list[Archive]]:
    """Archives of the tiny devkit and of SBD masks of two of its images, and a list of three of them.

    2007_000002 has no mask in VOC; 2007_000001 has one in both.
    """
    write_tiny_devkit(tmp_path / "devkit")
    (tmp_path / "devkit/SegmentationClass/2007_000002.png").unlink()
    files = [path for path in (tmp_path / "devkit").rglob("*") if path.is_file()]
    voc = pack({f"VOCdevkit/VOC2012/{path.relative_to(tmp_path / 'devkit')}": path.read_bytes() for path in files})
    masks = {}
    for image_id, shape in {"2007_000001": (32, 48), "2007_000002": (34, 46), "2007_000003": (36, 44)}.items():
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"GTcls": {"Segmentation": np.full(shape, 2, np.uint8)}})
        masks[f"benchmark_RELEASE/dataset/cls/{image_id}.mat"] = buffer.getvalue()
    sbd = pack(masks | {"benchmark_RELEASE/dataset/train.txt": b"2007_000002\n"})
    sources = []
    for real, content in ((download.VOC2012, voc), (download.SBD, sbd)):
        (tmp_path / real.name).write_bytes(content)
        sources.append(Archive(real.name, hashlib.md5(content).hexdigest(), real.creates, ()))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/few_train.txt").write_text("2007_000001\n2007_000002\n")
    (tmp_path / "lists/few_val.txt").write_text("2008_000002\n")
    monkeypatch.setattr(download, "LIST_FOLDER", tmp_path / "lists")
    return tmp_path, sources


def test_just_the_images_of_a_list(small_archives):
    archives, sources = small_archives
    root = fetch_subset("few", archives / "data", archives, sources)
    assert root == archives / "data/voc_few"
    assert leftovers(archives / "data") == ["voc_few"]
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    ids = ["2007_000001", "2007_000002", "2008_000002"]
    assert files == {
        *(f"JPEGImages/{image_id}.jpg" for image_id in ids),
        *(f"Annotations/{image_id}.xml" for image_id in ids),
        *(
            "SegmentationClass/2007_000001.png",
            "SegmentationClass/2007_000002.mat",
            "SegmentationClass/2008_000002.png",
        ),
        *("ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt"),
    }
    devkit = VocDevkit(root, ("dog",))
    assert (devkit.ids("train"), devkit.ids("val")) == (ids[:2], ids[2:])
    assert devkit.label_matrix(ids).tolist() == [[1], [1], [1]]
    assert VocMasks(VocDevkit(root)).mask("2007_000002").tolist() == np.full((34, 46), 2).tolist()
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_000001")
    assert VocDevkit(fetch_subset("few", archives / "data", None, sources)).ids("val") == ids[:1]  # is left alone


def test_an_image_that_the_archives_lack(small_archives):
    archives, sources = small_archives
    with (archives / "lists/few_val.txt").open("a") as file:
        file.write("2012_000009\n")
    with pytest.raises(WorkbookError, match=r"JPEGImages of 1 of 4 images are not in them, for instance 2012_000009"):
        fetch_subset("few", archives / "data", archives, sources)
    assert leftovers(archives / "data") == []


def test_an_unknown_list_names_those_there_are(small_archives):
    with pytest.raises(WorkbookError, match="no list 'birds' of images to fetch; use one of: few"):
        fetch_subset("birds", *small_archives)


def test_the_list_of_animals_has_each_image_once():
    train, val = ((download.LIST_FOLDER / f"animals_{split}.txt").read_text().split() for split in ("train", "val"))
    assert (len(train), len(val), len({*train, *val})) == (1346, 224, 1570)
