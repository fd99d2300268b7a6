"""The order of the notebooks. Each one is run with papermill, and again only when something behind it changed.

`wsseg run --profile toy` calls this file; so may you:

    snakemake --cores all --config profile=toy seed=0 results=results

A notebook runs again when one of these differs from its last run: what its cells say (running and saving it
changes nothing), a value of the profile, the code of a module that it imports (comments and docstrings do not
count), a published table that it compares with, a notebook upstream, or, for the tables, the last stage of another
seed. Within a notebook, every stage keeps what is still valid on disk.
"""

import sys
from functools import cache

from wsseg_core.base.dependencies import code_fingerprint, notebook_fingerprint, notebook_modules
from wsseg_core.data.run import open_run, repetitions
from wsseg_core.workbook.headless import LAST_STAGE
from wsseg_core.workbook.progress import announce
from wsseg_core.workbook.report import report_fingerprint

# Every notebook, and the notebooks whose results it reads. Of those that may run, the one with the lowest number does.
UPSTREAM = {
    "00_overview_and_data": [],
    "01_training": ["00_overview_and_data"],
    "02_saliency_extraction": ["01_training"],
    "03_subtraction_ablations": ["02_saliency_extraction"],
    "04_crf_tuning": ["03_subtraction_ablations"],
    "05_forward_and_backward_maps": ["02_saliency_extraction"],
    "06_cam_and_pixel_affinity": ["02_saliency_extraction"],
    "07_static_refinement": ["06_cam_and_pixel_affinity"],
    "08_dynamic_refinement": ["07_static_refinement"],
    "09_self_training": ["08_dynamic_refinement"],
    "10_tables_and_claims": [
        "01_training",
        "03_subtraction_ablations",
        "04_crf_tuning",
        "05_forward_and_backward_maps",
        "06_cam_and_pixel_affinity",
        "07_static_refinement",
        "08_dynamic_refinement",
        "09_self_training",
    ],
    "11_factor_lab": ["01_training"],
}

PROFILE = str(config.get("profile", "toy"))
SEED = int(config.get("seed", 0))
RESULTS = str(config.get("results", "results"))
RUN = open_run(PROFILE, SEED, RESULTS)
EXECUTED = f"{RUN.folder}/notebooks"
WSSEG = f"{sys.executable} -m wsseg_core.workbook.command_line"


def source(name):
    return Path("notebooks", f"{name}.ipynb")


@cache
def modules(name):
    return notebook_modules(source(name))


def published_tables(wildcards):
    compares = "wsseg_core.evaluate.tables" in modules(wildcards.name)
    return sorted(map(str, Path("data/published").glob("*.csv"))) if compares else []


def other_seeds(wildcards):
    """The last stage of every other seed that has it, for the notebook that reads them."""
    reads = "wsseg_core.evaluate.spread" in modules(wildcards.name)
    others = [run for run in repetitions(PROFILE, RESULTS) if run.seed != SEED] if reads else []
    executed = [run.folder / "notebooks" / f"{LAST_STAGE}.ipynb" for run in others]
    return [str(path) for path in executed if path.is_file()]


onstart:
    needed = [job for job in workflow.dag.needrun_jobs() if job.name != "all"]
    announce(RUN.folder, sorted(job.wildcards.name if job.name == "notebook" else job.name for job in needed))


rule all:
    # The notebooks too: one that was stopped is missing, whatever the report behind it says.
    input:
        expand(EXECUTED + "/{name}.ipynb", name=UPSTREAM),
        f"{RUN.folder}/report/index.html",


rule report:
    input:
        expand(EXECUTED + "/{name}.ipynb", name=UPSTREAM),
    output:
        f"{RUN.folder}/report/index.html",
    params:
        made_with=report_fingerprint(),
    shell:
        "{WSSEG} report --profile {PROFILE:q} --seed {SEED} --results {RESULTS:q}"


rule notebook:
    input:
        # Whether it was touched says nothing; what it says is among the params.
        source=lambda wildcards: ancient(str(source(wildcards.name))),
        upstream=lambda wildcards: expand(EXECUTED + "/{name}.ipynb", name=UPSTREAM[wildcards.name]),
        published=published_tables,
        seeds=other_seeds,
    output:
        EXECUTED + "/{name}.ipynb",
    wildcard_constraints:
        name="|".join(UPSTREAM),
    params:
        values=repr(RUN.profile),
        cells=lambda wildcards: notebook_fingerprint(source(wildcards.name)),
        code=lambda wildcards: code_fingerprint(modules(wildcards.name)),
    priority: lambda wildcards: -int(wildcards.name[:2])
    # All cores: two trainings at once take far longer than one after the other.
    threads: workflow.cores or 8
    shell:
        "{WSSEG} execute {input.source:q} {output:q} --profile {PROFILE:q} --seed {SEED} --results {RESULTS:q}"
