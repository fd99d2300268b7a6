"""The commands `wsseg data`: draw, download, import and check a data set; see `command_line`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from wsseg_core.base.errors import WorkbookError

data_app = typer.Typer(no_args_is_help=True, help="Draw, download, import or check a data set.")

ProfileOption = Annotated[
    str, typer.Option(help="smoke, toy, study, animals, voc, or the TOML file of a profile of your own.")
]


@data_app.command("toyvoc")
def data_toyvoc(profile: ProfileOption = "toy") -> None:
    """Draw the procedural data set; one that is whole is kept.

    Its factors (co-occurrence, occlusion, noise and others) are in the table `toyvoc` of the profile: copy
    wsseg_core/profiles/toy.toml, change one, and see which part of the method breaks.

        wsseg data toyvoc --profile smoke
    """
    from wsseg_core.data.run import open_run

    devkit = open_run(profile).devkit
    typer.echo(f"{devkit.root}: {devkit.num_classes} classes")


@data_app.command("fetch")
def data_fetch(
    dataset: Annotated[str, typer.Argument(help="Only voc: VOC 2012 with the SBD masks.")],
    archives: Annotated[Path | None, typer.Option(help="Folder of archives that you have already.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to unpack; data/ of the workbook if left out.")] = None,
    only: Annotated[str, typer.Option(help="Just the images of a list, data/lists/ONLY_*.txt: animals.")] = "",
) -> None:
    """Download a data set, or unpack archives that lie here already; their hashes are checked either way.

    A download that broke off goes on where it stopped.

        wsseg data fetch voc

        wsseg data fetch voc --archives ~/Downloads

        wsseg data fetch voc --only animals
    """
    from wsseg_core.data.download import fetch_subset, fetch_voc
    from wsseg_core.data.run import project_root

    folder = folder or project_root() / "data"
    if dataset != "voc":
        raise WorkbookError(f"no data set {dataset!r} to fetch; use: wsseg data fetch voc")
    typer.echo(fetch_subset(only, folder, archives) if only else fetch_voc(folder, archives))


@data_app.command("check")
def data_check(
    root: Annotated[
        Path | None, typer.Argument(help="Folder that holds JPEGImages; the profile's if left out.")
    ] = None,
    profile: ProfileOption = "toy",
) -> None:
    """Look at every file of a devkit, list what is wrong and say what there is; exit status 1 if anything is wrong.

    wsseg data check data/VOCdevkit/VOC2012

    wsseg data check --profile mine.toml
    """
    from wsseg_core.base.config import load_profile
    from wsseg_core.data.check import inspect_devkit
    from wsseg_core.data.run import project_root

    data = load_profile(profile).data
    root = root or project_root() / data.devkit
    raise typer.Exit(_tell_check(root, *inspect_devkit(root, classes=data.classes, val_split=data.val_split)))


def _tell_check(root: Path, problems: Sequence[object], notes: Sequence[str]) -> bool:
    """Print what `inspect_devkit` found; whether anything is wrong."""
    for line in [*problems, *notes]:
        typer.echo(line)
    typer.echo(f"{root}: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    return bool(problems)


def listed(names: str) -> list[str]:
    """What stands between the commas of an option."""
    return [name.strip() for name in names.split(",") if name.strip()]


@data_app.command("import")
def data_import(
    path: Annotated[Path, typer.Argument(help="Folder or file of the data set.")],
    out: Annotated[Path, typer.Option(help="Folder of the devkit to write.")],
    kind: Annotated[str, typer.Option(help="Form of the data set; found out if left out.")] = "",
    names: Annotated[str, typer.Option(help="Classes, between commas; CycleGAN's A and B.")] = "",
    val_share: Annotated[float, typer.Option(help="Share of val, where the data set has no splits.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images; they are linked if left out.")] = False,
) -> None:
    """Write a devkit of your own data: class folders, a table of labels, CycleGAN, CVAT, labelme or COCO.

    wsseg data import photographs --out data/mine

    wsseg data import horse2zebra --names horse,zebra --out data/horses
    """
    from wsseg_core.data.check import inspect_devkit
    from wsseg_core.data.importing import read_dataset
    from wsseg_core.data.importing.writer import check_place, planned, write_devkit

    check_place(out)
    plan = planned(*read_dataset(path, kind, listed(names)), val_share, seed)
    for line in plan.lines():
        typer.echo(line)
    write_devkit(plan, out, copy)
    raise typer.Exit(_tell_check(out, *inspect_devkit(out)))
