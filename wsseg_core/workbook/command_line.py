"""The command line `wsseg`. Each command imports what it needs when it is called, so that --help answers at once."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from wsseg_core.base.errors import WorkbookError
from wsseg_core.workbook.data_commands import ProfileOption, data_app, listed

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""From image-level labels to segmentation masks, step by step.

    The steps are notebooks; this command line runs them, and the parts of them that are useful alone.

    Start here:

    - wsseg run: every notebook on the toy data set, then the report

    - wsseg tables: the tables of that run

    - wsseg COMMAND --help: what a command does, with examples
    """,
)
app.add_typer(data_app, name="data")

SeedOption = Annotated[int, typer.Option(help="Repetition; 0 is the one that the report shows.")]
ResultsOption = Annotated[str, typer.Option(help="Folder of all results, relative to the workbook's.")]


def main() -> None:
    """Run the command line; a problem that the user can mend is told in one line, and the exit status is 1."""
    try:
        app()
    except WorkbookError as error:
        sys.exit(f"wsseg: {error}")


@app.command()
def run(
    profile: ProfileOption = "toy",
    seed: Annotated[int | None, typer.Option(help="Repetition; 0, the one that the report shows, if left out.")] = None,
    seeds: Annotated[int, typer.Option(help="Repetitions 0 to N-1: the last stages of all, and all of 0.")] = 1,
    results: ResultsOption = "results",
    only: Annotated[str, typer.Option(help="Number of one notebook: run it again, after whatever it needs.")] = "",
    dry_run: Annotated[bool, typer.Option(help="Only say what would run.")] = False,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores to use; all if left out.")] = None,
    devkit: Annotated[Path | None, typer.Option(help="Data set, in place of the profile's.")] = None,
) -> None:
    """Run the notebooks that are out of date, in order, and write the report.

    Nothing is done twice: what was run stays valid until its notebook, profile or code changes, and a run
    that was stopped goes on from what is on disk.

        wsseg run --profile smoke

        wsseg run --only 03 --seed 1

        wsseg run --seeds 3

        wsseg run --profile animals --devkit ~/voc_animals
    """
    from wsseg_core.data.run import DEVKIT_VARIABLE, open_run
    from wsseg_core.workbook.headless import run_seeds, run_workflow

    if seeds < 1:
        raise WorkbookError(f"--seeds {seeds}: nothing to run; use 1 or more")
    if seeds > 1 and (seed is not None or only):
        raise WorkbookError("--seeds runs several seeds as a whole; leave out --seed and --only, or --seeds")
    seed = seed or 0
    if devkit:
        os.environ[DEVKIT_VARIABLE] = str(devkit.resolve())
    if seeds > 1:
        done = run_seeds(profile, seeds, results, dry_run, cores)
    else:
        done = run_workflow(profile, seed, results, only, dry_run, cores)
    if not done:
        raise typer.Exit(1)
    if not only and not dry_run:
        typer.echo(f"report: {open_run(profile, seed, results).folder / 'report' / 'index.html'}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context, profile: ProfileOption = "toy") -> None:
    """Open the notebooks in JupyterLab, all of them with one profile; further options are JupyterLab's.

    wsseg lab --profile smoke

    wsseg lab --no-browser --port 8889
    """
    from wsseg_core.workbook.headless import open_lab

    open_lab(profile, context.args)


@app.command()
def train(
    profile: ProfileOption = "toy",
    seed: SeedOption = 0,
    results: ResultsOption = "results",
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes where there is none.")] = 1,
) -> None:
    """Train the classifier outside its notebook, on several GPUs; notebook 01 then finds it trained.

    wsseg train --profile voc --devices 4
    """
    from wsseg_core.classify.classifier import train_classifier
    from wsseg_core.data.run import open_run

    train_classifier(open_run(profile, seed, results), devices)


@app.command()
def new(
    profile: Annotated[Path, typer.Argument(help="TOML file to write.")],
    data: Annotated[Path, typer.Option(help="Devkit, as `wsseg data import` writes it.")],
    test: Annotated[str, typer.Option(help="Split on which scores are reported.")] = "val",
    names: Annotated[str, typer.Option(help="Some of its classes, between commas; all if left out.")] = "",
) -> None:
    """Write a commented profile for a devkit of your own, its steps and sizes for so many photographs on a laptop.

    wsseg new mine.toml --data data/mine

    wsseg new two.toml --data data/voc_animals --names cow,horse
    """
    from wsseg_core.workbook.new_profile import write_profile

    written = write_profile(profile, data, test, listed(names))
    typer.echo(f"{written}: written; now:")
    typer.echo(f"wsseg run --profile {profile}")
    typer.echo(f"wsseg segment IMAGES --profile {profile} --out masks")


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(help="Image files of any size, folders of them, or patterns.")],
    out: Annotated[Path, typer.Option(help="Folder of the masks; made if missing.")],
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint of a classifier trained with PROFILE, toy if left out.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Profile whose run draws, with its last trained stage; what is shipped if left out.")
    ] = "",
    seed: SeedOption = 0,
    results: ResultsOption = "results",
    labelme: Annotated[bool, typer.Option("--labelme", help="Also polygons, a JSON for labelme an image.")] = False,
    coco: Annotated[bool, typer.Option("--coco", help="Also coco.json, with all masks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line: file, classes, shares.")] = False,
) -> None:
    """Segment images of your own: for each a palette PNG of class indices, and an overlay to look at.

    wsseg segment cat.jpg dog.png --out masks

    wsseg segment photographs --profile mine.toml --out masks --labelme

    wsseg segment scene.png --out masks --weights results/toy/artifacts/classifier/all.ckpt
    """
    from wsseg_core.base.config import load_profile
    from wsseg_core.data.run import open_run
    from wsseg_core.segment.shipped import load_shipped
    from wsseg_core.workbook import own_images

    made_by = ""
    if weights:
        segmenter = own_images.checkpoint_segmenter(weights, load_profile(profile or "toy"))
    elif profile:
        made_by, segmenter = own_images.run_segmenter(open_run(profile, seed, results))
    else:
        segmenter = own_images.shipped_segmenter(load_shipped())
    seen = ", ".join(segmenter.classes)
    typer.echo(f"classes that can be seen: {seen}{f'; drawn by what {made_by} trained' * bool(made_by)}", err=True)
    drawn = own_images.segment_files(own_images.expanded(images), segmenter, out, labelme, coco)
    for path, shares in drawn.items():
        words = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
        typer.echo(
            json.dumps({"file": str(path), "classes": shares}) if as_json else f"{path}: {words or 'background only'}"
        )


@app.command()
def demo(
    images: Annotated[list[Path] | None, typer.Argument(help="Image files of your own, beside the two shown.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the page; made if missing.")] = Path("results/demo"),
) -> None:
    """Show the method on two free photographs and on images of your own, with the weights that are shipped.

    wsseg demo my_dog.jpg
    """
    from wsseg_core.segment.shipped import load_shipped
    from wsseg_core.workbook.demo import shown_images, write_demo
    from wsseg_core.workbook.demo_run import prepare_run

    page = write_demo(images or [], out, load_shipped())
    prepare_run(shown_images(images or []))
    typer.echo("notebooks 02 to 04 on the same images: wsseg lab --profile demo")
    typer.echo(f"page: {page}")


@app.command()
def ship(
    profile: ProfileOption = "animals",
    network: Annotated[str, typer.Option(help="Network of notebook 06 to ship beside the classifier, as psa.")] = "",
    seed: SeedOption = 0,
    results: ResultsOption = "results",
) -> None:
    """Write trained networks of a run into weights/, for `wsseg demo` and `wsseg segment`.

    wsseg ship --profile animals --network psa
    """
    from wsseg_core.affinity.cam import NOTEBOOK
    from wsseg_core.data.run import open_run
    from wsseg_core.evaluate.tables import read_figures
    from wsseg_core.segment.shipped import ship as write_weights

    run = open_run(profile, seed, results)
    scores = {name: value for name, value in read_figures(run.folder).items() if isinstance(value, dict)}
    scores.pop("machine", None)
    facts = {"training_images": len(run.train_ids), "validation_images": len(run.val_ids), "scores": scores}
    typer.echo(f"{write_weights(run, network, NOTEBOOK, facts)}: written")


@app.command()
def tables(profile: ProfileOption = "toy", seed: SeedOption = 0, results: ResultsOption = "results") -> None:
    """Print the tables of the last run, published figures beside ours.

    wsseg tables --profile toy
    """
    from wsseg_core.data.run import open_run

    folder = open_run(profile, seed, results).tables
    found = sorted(folder.glob("*.md"))
    if not found:
        raise WorkbookError(f"{folder}: no tables yet; run: wsseg run --profile {profile}")
    for path in found:
        typer.echo(path.read_text(encoding="utf-8"))


@app.command()
def figures(
    profile: ProfileOption = "toy",
    seed: SeedOption = 0,
    results: ResultsOption = "results",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on one line.")] = False,
) -> None:
    """Print the headline numbers of the last run, and how long each notebook took.

    wsseg figures --profile toy --json
    """
    from wsseg_core.data.run import open_run
    from wsseg_core.evaluate.tables import read_figures
    from wsseg_core.workbook.progress import costs

    folder = open_run(profile, seed, results).folder
    values = read_figures(folder) | costs(folder)
    typer.echo(json.dumps(values) if as_json else "\n".join(f"{key}: {value}" for key, value in values.items()))


@app.command()
def docs(
    take: Annotated[str, typer.Option(help="Profile whose finished run becomes the reference first.")] = "",
    results: ResultsOption = "results",
) -> None:
    """Write docs/results.md from the tracked reference tables.

    wsseg docs --take toy
    """
    from wsseg_core.base.files import write_json
    from wsseg_core.data.run import open_run, project_root
    from wsseg_core.evaluate.tables import FIGURES_FILE, read_figures
    from wsseg_core.workbook.progress import costs
    from wsseg_core.workbook.results_page import take_reference, write_results_page

    if take:
        run = open_run(take, 0, results)
        # The machine that is noted is the one that ran it, and not this one.
        write_json(run.folder / FIGURES_FILE, read_figures(run.folder) | costs(run.folder))
        typer.echo(f"{take_reference(run.folder)}: taken")
    typer.echo(f"{write_results_page(project_root())}: written")


@app.command()
def pack(
    profile: ProfileOption = "toy",
    seed: SeedOption = 0,
    results: ResultsOption = "results",
    out: Annotated[Path | None, typer.Option(help="File to write; wsseg-PROFILE.tar.gz here if left out.")] = None,
) -> None:
    """Pack what a finished run has left into one file, for a class that opens the notebooks without training.

    wsseg pack --profile toy
    """
    from wsseg_core.data.run import open_run
    from wsseg_core.workbook.packing import pack as write_pack

    run = open_run(profile, seed, results)
    path = out or Path(f"wsseg-{run.folder.name}.tar.gz")
    count = write_pack(run, path)
    typer.echo(f"{path}: {count} files, {path.stat().st_size / 1e6:.1f} MB; unpack it with: wsseg unpack {path}")


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(help="What `wsseg pack` wrote.")],
    results: ResultsOption = "results",
    profile: Annotated[str, typer.Option(help="TOML file of the profile, if it is none of the workbook's.")] = "",
) -> None:
    """Unpack a run that somebody has packed, after a check of its files and of the version of the code.

    wsseg unpack wsseg-toy.tar.gz
    """
    from wsseg_core.workbook.packing import unpack as read_pack

    run = read_pack(file, results, profile)
    typer.echo(f"{run.folder}: unpacked; open the notebooks with: wsseg lab --profile {profile or run.profile.name}")


@app.command()
def slides(
    profile: ProfileOption = "toy",
    seed: SeedOption = 0,
    results: ResultsOption = "results",
    reveal: Annotated[str, typer.Option(help="Address or folder of reveal.js; on the network if left out.")] = "",
) -> None:
    """Write slides with speaker notes from the marked cells of the notebooks and the pictures of the last run.

    wsseg slides --profile toy
    """
    from wsseg_core.data.run import open_run
    from wsseg_core.workbook.slides import REVEAL, write_slides

    for page in write_slides(open_run(profile, seed, results), reveal or REVEAL):
        typer.echo(page)


@app.command()
def exercises() -> None:
    """Write the exercises and the quiz of every notebook from notebooks/solutions.

    wsseg exercises
    """
    from wsseg_core.data.run import project_root
    from wsseg_core.workbook.exercises import write_exercises

    changed = write_exercises(project_root())
    typer.echo("\n".join(f"{path}: written" for path in changed) or "nothing to do")


@app.command(hidden=True)
def execute(notebook: Path, output: Path, profile: ProfileOption, seed: SeedOption, results: ResultsOption) -> None:
    """Run one notebook, and show it in the report; a rule of the Snakefile."""
    from wsseg_core.data.run import open_run
    from wsseg_core.workbook.headless import run_notebook
    from wsseg_core.workbook.report import reported

    with reported(open_run(profile, seed, results), notebook.stem):
        run_notebook(notebook, output, {"profile": profile, "seed": seed, "results": results})


@app.command(hidden=True)
def report(profile: ProfileOption, seed: SeedOption, results: ResultsOption) -> None:
    """Write the web pages of a run; a rule of the Snakefile."""
    from wsseg_core.data.run import notebook_sources, open_run, project_root
    from wsseg_core.workbook.report import export_html

    export_html(open_run(profile, seed, results), notebook_sources(project_root()))


if __name__ == "__main__":
    main()
