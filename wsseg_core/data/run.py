"""One run: a profile, a seed, and the folder where its results lie."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsseg_core.base import dependencies
from wsseg_core.base.config import Profile, load_profile
from wsseg_core.base.errors import WorkbookError

if TYPE_CHECKING:  # whoever only asks where a run lies need not wait for OpenCV
    from wsseg_core.data.voc import VocDevkit

PROFILE_VARIABLE, DEVKIT_VARIABLE = "WSSEG_PROFILE", "WSSEG_DEVKIT"  # in the environment, which kernels inherit

# Every store asks for it, and a module stays what it was when it was imported.
code_fingerprint = lru_cache(dependencies.code_fingerprint)


def project_root() -> Path:
    """The folder of the workbook: the nearest one upwards that holds the Snakefile, else the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "Snakefile").is_file()), here)


def notebook_sources(root: Path) -> list[Path]:
    """The notebooks of a workbook, in order."""
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@dataclass(frozen=True)
class Run:
    """What every stage is given.

    Attributes:
        profile: all settings.
        seed: of everything that is trained or drawn, but for the data set.
        folder: `results/<profile>`, or `results/<profile>-seed<k>` for a seed other than 0.
    """

    profile: Profile
    seed: int
    folder: Path

    @cached_property
    def devkit(self) -> VocDevkit:
        """The data set; a procedural one is drawn first where it is missing or damaged."""
        from wsseg_core.data.toyvoc import ensure_toyvoc
        from wsseg_core.data.voc import VocDevkit

        data = self.profile.data
        root = project_root() / data.devkit
        if data.source == "toyvoc":
            ensure_toyvoc(root, self.profile.toyvoc)
        return VocDevkit(root, data.classes)

    @cached_property
    def train_ids(self) -> list[str]:
        """Ids of the training images; without those that show no class, where the profile drops them.

        Raises:
            DevkitError: the split cannot be read, or no image of it shows any class.
        """
        from wsseg_core.data.images import DevkitError

        data, devkit = self.profile.data, self.devkit
        ids = devkit.ids(data.train_split)
        labelled = devkit.label_matrix(ids).sum(1) > 0
        if not labelled.any():
            wrong = f"none of its {len(ids)} images shows any of {', '.join(devkit.classes)}"
            raise DevkitError(devkit.split_file(data.train_split), wrong, "choose other data.classes or another split")
        if data.drop_unlabelled:
            ids = [image_id for image_id, shows_class in zip(ids, labelled, strict=True) if shows_class]
        return ids[: data.max_train_images or None]

    @cached_property
    def val_ids(self) -> list[str]:
        """Ids of the images on which scores are reported."""
        data = self.profile.data
        return self.devkit.ids(data.val_split)[: data.max_val_images or None]

    @cached_property
    def example_ids(self) -> list[str]:
        """The same few validation images that every notebook shows.

        Several classes first, then one, then none; of these the one with most classes that no image before it shows.
        """
        return self._examples(self.val_ids)

    @cached_property
    def train_example_ids(self) -> list[str]:
        """Training images for the same purpose, chosen alike."""
        return self._examples(self.train_ids)

    def _examples(self, ids: list[str]) -> list[str]:
        rows = zip(ids, self.devkit.label_matrix(ids), strict=True)
        classes = {image_id: {*row.nonzero()[0].tolist()} for image_id, row in rows}
        chosen: list[str] = []
        for _ in ids[: self.profile.sweeps.example_images]:
            seen = set().union(*(classes[image_id] for image_id in chosen))
            left = [image_id for image_id in ids if image_id not in chosen]
            chosen.append(max(left, key=lambda other: (min(len(classes[other]), 2), len(classes[other] - seen))))
        return chosen

    def artifacts(self, stage: str) -> Path:
        """Folder of what one stage leaves for the next."""
        return self.folder / "artifacts" / stage

    @property
    def tables(self) -> Path:
        """Folder of the tables, as CSV, Markdown and LaTeX."""
        return self.folder / "tables"

    @property
    def figures(self) -> Path:
        """Folder of the figures, as PNG."""
        return self.folder / "figures"

    def settings(self, *modules: str, **values: Any) -> dict[str, Any]:
        """What a stage's result depends on: data, seed, the code of the given modules, and further values."""
        data = asdict(self.profile.data)
        if self.profile.data.source == "toyvoc":
            data["toyvoc"] = asdict(self.profile.toyvoc)
        return {"data": data, "seed": self.seed, "code": code_fingerprint(modules)} | values


def default_profile() -> str:
    """The profile of notebooks that are opened by hand: the environment variable WSSEG_PROFILE, else `toy`."""
    return os.environ.get(PROFILE_VARIABLE) or "toy"


def open_run(profile: str = "toy", seed: int = 0, results: str = "results") -> Run:
    """Open a run by the name (or TOML file) of its profile; the devkit may be another one, see `DEVKIT_VARIABLE`.

    Args:
        profile: `smoke`, `toy`, `voc`, or the path of a profile of one's own.
        seed: repetition; 0 is the one that reports show.
        results: folder of all results, relative to the workbook's own.

    Raises:
        WorkbookError: the profile does not exist or holds a value that is not known, or the seed is negative.
    """
    if seed < 0:
        raise WorkbookError(f"seed {seed} is negative; use 0, 1, 2, ...")
    values = load_profile(profile)
    if devkit := os.environ.get(DEVKIT_VARIABLE):
        values = replace(values, data=replace(values.data, devkit=devkit))
    name = values.name if seed == 0 else f"{values.name}-seed{seed}"
    return Run(values, seed, project_root() / results / name)


def repetitions(profile: str, results: str) -> list[Run]:
    """The runs of a profile that have a folder, finished or not, in the order of their seeds; as `open_run` opens them.

    Raises:
        WorkbookError: the profile does not exist or holds a value that is not known.
    """
    first = open_run(profile, 0, results)
    return [open_run(profile, seed, results) for seed in repeated_seeds(first)]


def repeated_seeds(run: Run) -> list[int]:
    """Seeds, in order, of the runs beside this one that are of the same profile, its own among them."""
    name = re.compile(rf"{re.escape(run.profile.name)}(?:-seed([1-9]\d*))?")
    matches = [name.fullmatch(folder.name) for folder in run.folder.parent.glob("*")]
    return sorted(int(match[1] or 0) for match in matches if match)
