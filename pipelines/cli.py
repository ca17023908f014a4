"""The command line: every stage of dvc.yaml is a verb, and so is what stands around them."""

from __future__ import annotations

import errno
import inspect
import io
import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperGroup

from clflow.config.params import Params, check, effective, load, part_defaults
from clflow.config.spelling import did_you_mean
from clflow.errors import ClflowError
from clflow.imports import quick_imports
from pipelines import console
from pipelines.compute.signals import interruptible
from pipelines.workspace.cells import Selection
from pipelines.workspace.names import require_known
from pipelines.workspace.paths import Workspace

# Libraries are imported inside the verbs: `clflow fetch` must not wait for torch, Ray and MLflow.

OWN = "Your own images"
BENCHMARK = "Benchmarks"
STAGES = "Stages of a benchmark, as dvc.yaml calls them"
REGISTRY = "Model registry"
COSTS = "Costs"

_FORMER = {"bench-accelerator": "bench accelerator"}


class _Verbs(TyperGroup):
    """The verbs; a former name is refused with the present one."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _FORMER:
            raise ClflowError(f"`clflow {cmd_name}` is `clflow {_FORMER[cmd_name]}` now.")
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="CL-Flow visual anomaly detection: train, score, track and compare, one verb per stage.",
)

config = typer.Typer(no_args_is_help=True, help="Parameters: what is in force, and where it is stated.")
app.add_typer(config, name="config", rich_help_panel=BENCHMARK)

bench = typer.Typer(
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True},  # those of the verb that it was
    help="Measure what training and inference cost, on a machine that is idle otherwise.",
)
app.add_typer(bench, name="bench", rich_help_panel=COSTS)

ParamsFile = Annotated[Path, typer.Option("--params", help="Parameter file; its folder is the workspace.")]
DatasetName = Annotated[str, typer.Option("--dataset", help="A dataset of the parameter file.")]
DatasetOrAll = Annotated[
    str | None, typer.Option("--dataset", help="A dataset of the parameter file; default: all of the benchmark.")
]
CategoryName = Annotated[str, typer.Option("--category", help="A category of the dataset.")]
CategoryNames = Annotated[list[str] | None, typer.Option("--category", help="Repeat for several; default: all.")]
MethodNames = Annotated[list[str] | None, typer.Option("--method", help="Repeat for several; default: all.")]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="Repeat for several; default: all.")]
BenchFolder = Annotated[Path, typer.Option("--out", help="Folder for the figures and their page.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines: JSON with all keys.")]
DEFAULT = Path("params.yaml")
_log = logging.getLogger("pipelines.cli")

_EXTRAS = {
    **dict.fromkeys(("ray", "pyarrow", "mlflow", "dvc", "optuna", "sklearn"), "workflow"),
    **dict.fromkeys(("fastapi", "fastapi_offline", "python_multipart", "prometheus_client"), "serve"),
}
"""Packages that the extras of pyproject.toml bring, by the name that is imported."""


Verb = Callable[..., None]
T = TypeVar("T", str, int)


def _set_level(verbose: bool | None) -> None:
    if verbose is not None:
        os.environ[console.LEVEL] = "debug" if verbose else "warning"
    console.configure()


Verbose = Annotated[
    bool | None,
    typer.Option(
        *("--verbose/--quiet", "-v/-q"),
        callback=_set_level,
        help="Say more, with times; or only warnings and errors, and the result.",
        show_default=False,
    ),
]


def _verb(panel: str | None, example: str, group: typer.Typer = app, name: str | None = None) -> Callable[[Verb], Verb]:
    """A verb in a panel of the help, with an example of its arguments; --verbose and --quiet may stand behind it."""

    def register(verb: Verb) -> Verb:
        @wraps(verb)
        def call(verbose: bool | None = None, **arguments: Any) -> None:
            verb(**arguments)

        signature = inspect.signature(verb, eval_str=True)
        option = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Verbose)
        call.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # pyright: ignore[reportAttributeAccessIssue]
        return group.command(name, rich_help_panel=panel, epilog=f"Example: clflow {example}")(call)

    return register


def _print_version(wanted: bool) -> None:
    if wanted:
        from clflow import __version__

        print(f"clflow {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Verbose = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@_verb(None, "config show --origin", config, "show")
def show_config(
    params: ParamsFile = DEFAULT,
    origin: Annotated[bool, typer.Option("--origin", help="Beside each value, the file that states it.")] = False,
) -> None:
    """Print all parameters, those of the file and those that it takes from the files below it."""
    from clflow.config.show import render

    found = effective(params)
    check(found)
    print(render(found, origin), end="")


@_verb(OWN, "fit images/line-3 --out line-3")
def fit(
    images: Annotated[Path, typer.Argument(help="Folder of normal images, or of a part in the layout of MVTec AD.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the detector.")],
    params: Annotated[
        Path | None, typer.Option("--params", help="Parameter file of what differs from the defaults.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="To train.")] = "clflow",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of weights and sampling.")] = 0,
) -> None:
    """Train a detector on a folder of images, without a workspace."""
    from pipelines.inference import fit as verb

    verb.run(images, out, params, method, seed)


@_verb(OWN, "init line-3 --images images/line-3")
def init(
    folder: Annotated[Path, typer.Argument(help="Folder for the parameter file.")],
    images: Annotated[Path | None, typer.Option("--images", help="Folder of a folder for each category.")] = None,
) -> None:
    """Begin a benchmark of one's own images: write a short parameter file with comments."""
    from pipelines import init as verb

    verb.run(folder, images)


@_verb(STAGES, "fetch --dataset demo --params pipelines/demo.yaml")
def fetch(dataset: DatasetName, params: ParamsFile = DEFAULT) -> None:
    """Bring a dataset's images here, verified, with a manifest."""
    from pipelines.stages import fetch as stage

    stage.run(*_workspace(params, dataset))


@_verb(STAGES, "plan --dataset mvtec_ad --explain screw-clflow-s0")
def plan(
    dataset: DatasetOrAll = None,
    params: ParamsFile = DEFAULT,
    explain: Annotated[
        str | None,
        typer.Option("--explain", help="Print why this cell (<category>-<method>-s<seed>) is to be trained."),
    ] = None,
    inputs_only: Annotated[
        bool, typer.Option("--inputs-only", help="Only synthetic sets and the search, which come before a search.")
    ] = False,
) -> None:
    """Write which synthetic sets, cells and scores are asked for, and what their keys are made of."""
    from pipelines.stages import plan as stage

    loaded, workspace = _load(params)
    if explain is not None:
        if dataset is None:
            raise ClflowError("--explain is about one cell; name its --dataset, too.")
        stage.explain(loaded, dataset, workspace, explain)
        return
    for name in (dataset,) if dataset else loaded.benchmark.datasets:
        stage.run(loaded, name, workspace, inputs_only)


@_verb(STAGES, "synthesize --dataset mvtec_ad")
def synthesize(dataset: DatasetName, params: ParamsFile = DEFAULT) -> None:
    """Make synthetic anomalies with masks and boxes, and a contact sheet per category."""
    from pipelines.stages import synthesize as stage

    stage.run(*_workspace(params, dataset))


@_verb(STAGES, "train --dataset mvtec_ad --category screw --seed 0 --dry-run")
def train(
    dataset: DatasetName,
    category: CategoryNames = None,
    method: MethodNames = None,
    seed: Seeds = None,
    params: ParamsFile = DEFAULT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Train the cells that are missing, as many at once as fit."""
    from pipelines.stages import train as stage
    from pipelines.workspace.plan import Plan

    loaded, dataset, workspace = _workspace(params, dataset)
    selection = _selection(loaded, dataset, category, method, seed)
    if dry_run:
        print("\n".join(Plan(loaded, dataset, workspace).describe(selection)))
    else:
        stage.run(loaded, dataset, workspace, selection)


@_verb(STAGES, "tune --dataset mvtec_ad --category screw --trials 20")
def tune(
    dataset: DatasetName,
    category: CategoryNames = None,
    each: Annotated[bool, typer.Option("--each", help="Search every category alone, not one for all.")] = False,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Instead of tune.trials.")] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=1, help="Seconds, instead of tune.timeout.")] = None,
    params: ParamsFile = DEFAULT,
) -> None:
    """Search better parameters on validation data; what is found becomes a file that params.yaml can name."""
    from pipelines.stages import tune as stage

    loaded, dataset, workspace = _workspace(params, dataset)
    stage.run(loaded, dataset, workspace, _categories(loaded, dataset, category), each, trials, timeout)


@_verb(STAGES, "evaluate --dataset mvtec_ad --category screw")
def evaluate(
    dataset: DatasetName,
    category: CategoryNames = None,
    method: MethodNames = None,
    seed: Seeds = None,
    params: ParamsFile = DEFAULT,
) -> None:
    """Score the test images with every trained cell."""
    from pipelines.stages import evaluate as stage

    loaded, dataset, workspace = _workspace(params, dataset)
    stage.run(loaded, dataset, workspace, _selection(loaded, dataset, category, method, seed))


@_verb(STAGES, "aggregate --allow-missing")
def aggregate(
    params: ParamsFile = DEFAULT,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Leave out cells without scores.")] = False,
) -> None:
    """Compute all metrics from the stored scores."""
    from pipelines.stages import aggregate as stage

    loaded, workspace = _load(params)
    stage.run(loaded, workspace, allow_missing)


@_verb(STAGES, "report")
def report(params: ParamsFile = DEFAULT) -> None:
    """Write leaderboard, plots and galleries, and bring the results to MLflow."""
    from pipelines.stages import report as stage

    loaded, workspace = _load(params)
    stage.run(loaded, workspace)
    stage.publish(loaded, workspace)


@_verb(OWN, "predict new-images --model line-3 --out judged")
def predict(
    images: Annotated[list[str], typer.Argument(help="Folders, images, or quoted patterns ('line/*.png').")],
    model: Annotated[str, typer.Option("--model", help="A detector's folder, models:/<name>@champion, or a graph.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for scores, heat maps and watched statistics.")],
    table_format: Annotated[Literal["csv", "parquet"], typer.Option("--format", help="Of the table.")] = "csv",
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Of the image score, instead of the stored one.")
    ] = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option("--false-alarm-rate", min=0, max=1, help="That the threshold is to keep, instead of the stored."),
    ] = None,
) -> None:
    """Score new images: table with verdicts, heat maps. Exit code 2 if some could not be read; the others are done."""
    from pipelines.inference import predict as verb

    verb.run(model, images, out, table_format, threshold, false_alarm_rate)


@_verb(OWN, "export --model line-3 --out line-3-graph --format openvino")
def export(
    model: Annotated[str, typer.Option("--model", help="A detector's folder, or models:/<name>@champion in MLflow.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the graph.")],
    to: Annotated[Literal["onnx", "openvino", "torch"], typer.Option("--format")] = "openvino",
) -> None:
    """Write a detector as one graph, from pixels to scores, verdicts and maps, verified against the detector."""
    from pipelines.inference import export as verb

    verb.run(model, out, to)


@_verb(OWN, "serve --model line-3 --port 8000")
def serve(
    dataset: Annotated[str | None, typer.Option("--dataset", help="A dataset of the parameter file.")] = None,
    category: CategoryNames = None,
    model: Annotated[Path | None, typer.Option("--model", help="Instead: a detector's folder.")] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    params: Annotated[
        Path | None, typer.Option("--params", help="Parameter file; default: params.yaml, with --model the defaults.")
    ] = None,
) -> None:
    """Answer over HTTP, until it is told to stop: with a dataset's champions, or with a detector in a folder."""
    if (model is None) == (dataset is None) or (model is not None and category):
        raise ClflowError("name a --dataset, with --category or all its categories, or a --model.")
    from pipelines.inference import serve as verb

    if model is not None:
        loaded = load(params) if params is not None else part_defaults(model)
        verb.run_folder(loaded, model, Workspace(Path.cwd()), host, port)
        return
    assert dataset is not None
    loaded, dataset, workspace = _workspace(params or DEFAULT, dataset)
    verb.run(loaded, dataset, workspace, _categories(loaded, dataset, category), host, port)


@_verb(OWN, "drift judged/watch")
def drift(
    folder: Annotated[Path, typer.Argument(help="A folder watch/, of a prediction or of the workspace that serves.")],
    as_json: AsJson = False,
    confirmed: Annotated[
        Path | None,
        typer.Option("--accept", help="Instead: make the images of this folder watch/, which are good, references."),
    ] = None,
    params: Annotated[
        Path | None, typer.Option("--params", help="Parameter file; default: params.yaml, or else the defaults.")
    ] = None,
) -> None:
    """Test whether recent scores have moved from those of good images. Exit code 1 if any category has."""
    from pipelines.inference import drift as verb

    if confirmed is not None:
        verb.accept(folder, confirmed)
        return
    loaded = _load(params or DEFAULT)[0] if params or DEFAULT.exists() else part_defaults(folder)
    raise typer.Exit(1 if verb.run(folder, loaded.watching, as_json) else 0)


@_verb(BENCHMARK, "list cells", name="list")
def list_(
    what: Annotated[Literal["cells", "results", "models"], typer.Argument(help="What to list.")] = "cells",
    dataset: DatasetOrAll = None,
    as_json: AsJson = False,
    params: ParamsFile = DEFAULT,
) -> None:
    """List cells with their state, the leaderboard, or the versions of models in the registry."""
    loaded, datasets, workspace = _datasets(params, dataset)
    if what == "cells":
        from pipelines.inventory.cells import COLUMNS, entries

        console.write_table([each.row() for each in entries(loaded, datasets, workspace)], COLUMNS, as_json)
    elif what == "results":
        from pipelines.inventory.results import COLUMNS, leaderboard

        console.write_table(leaderboard(datasets, workspace), COLUMNS, as_json)
    else:
        from pipelines.inventory.models import COLUMNS, versions

        console.write_table(versions(loaded, datasets, workspace), COLUMNS, as_json)


@_verb(BENCHMARK, "show screw-clflow-s0")
def show(
    name: Annotated[str, typer.Argument(help="A cell, <category>-<method>-s<seed>, or models:/<name>@champion.")],
    dataset: DatasetOrAll = None,
    as_json: AsJson = False,
    params: ParamsFile = DEFAULT,
) -> None:
    """Show all of one cell or model: what it was made of, figures, files, MLflow run."""
    loaded, datasets, workspace = _datasets(params, dataset)
    from pipelines.inventory.show import show as verb

    console.write_record(verb(name, loaded, datasets, workspace), as_json)


@_verb(BENCHMARK, "gc --keep-days 30")
def gc(
    keep_days: Annotated[
        float, typer.Option("--keep-days", min=0, help="Keep what was written within so many days.")
    ] = 0.0,
    remove: Annotated[bool, typer.Option("--remove", help="Remove it; without this, it is only listed.")] = False,
    params: ParamsFile = DEFAULT,
) -> None:
    """List cells, scores and synthetic anomalies that are no longer asked for, and remove them if told so."""
    from pipelines.workspace import garbage as verb

    verb.run(*_load(params), keep_days, remove)


@_verb(BENCHMARK, "sync")
def sync(params: ParamsFile = DEFAULT) -> None:
    """Bring to MLflow what it missed while it could not be reached."""
    from pipelines.stages import report as stage
    from pipelines.workspace.plan import plan_cells

    loaded, workspace = _load(params)
    wanted = plan_cells(loaded, workspace)
    tracker = stage.sync(loaded, wanted, workspace)
    tracker.require()
    _log.info("MLflow at %s has all of %d cells that are complete.", tracker.uri, len(wanted))


@_verb(REGISTRY, "promote --dataset mvtec_ad --category screw --dry-run")
def promote(
    dataset: Annotated[str | None, typer.Option("--dataset", help="A dataset of the parameter file.")] = None,
    category: CategoryNames = None,
    everything: Annotated[bool, typer.Option("--all", help="All datasets of the benchmark.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the verdicts and change nothing.")] = False,
    source: Annotated[
        str | None, typer.Option("--source", help="MLflow URI; its champions are copied, not this workspace's cells.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make it champion, whatever speaks against it.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, with --force; it is kept with the version.")] = "",
    params: ParamsFile = DEFAULT,
) -> None:
    """Register models, and make those champion that are better than the present one."""
    if everything == (dataset is not None) or (everything and category):
        raise ClflowError("name one --dataset, with --category or all its categories, or --all datasets.")
    if force != bool(reason.strip()) or (force and not category):
        raise ClflowError("--force needs the --category that it is about, and a --reason, which needs --force in turn.")
    if dataset is None:
        loaded, workspace = _load(params)
        wanted = {name: loaded.data[name].categories for name in loaded.benchmark.datasets}
    else:
        loaded, dataset, workspace = _workspace(params, dataset)
        wanted = {dataset: _categories(loaded, dataset, category)}
    from pipelines.stages import promote as stage

    stage.run(loaded, wanted, workspace, source, dry_run, reason if force else None)


@_verb(REGISTRY, "rollback --dataset mvtec_ad --category screw")
def rollback(
    dataset: DatasetName,
    category: CategoryName,
    params: ParamsFile = DEFAULT,
) -> None:
    """Make the version champion again that the present champion replaced."""
    loaded, dataset, workspace = _workspace(params, dataset)
    (category,) = _categories(loaded, dataset, [category])
    from pipelines.stages import promote as stage

    stage.rollback(dataset, category, workspace)


@_verb(BENCHMARK, "doctor --params line-3/params.yaml --workspace line-3/run")
def doctor(
    params: Annotated[Path, typer.Option("--params", help="Parameter file.")] = DEFAULT,
    workspace: Annotated[
        Path | None, typer.Option("--workspace", help="Folder that a benchmark will work in; default: of the file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check resources, paths, names, weights, images and tracking; say what is wrong, and write nothing."""
    from pipelines.doctor import examine

    place = Workspace((workspace or params.parent).resolve())
    raise typer.Exit(2 if examine(load(params), place, as_json) else 0)


@_verb(BENCHMARK, "benchmark --params line-3/params.yaml --workspace line-3/run")
def benchmark(
    params: Annotated[Path, typer.Option("--params", help="Parameter file of the benchmark.")],
    workspace: Annotated[Path, typer.Option("--workspace", help="Folder to work in; kept and continued.")],
) -> None:
    """Run the pipeline of this checkout on any parameter file, in a folder of its own."""
    from pipelines import benchmark as runner

    runner.run(params.resolve(), workspace.resolve())


def _refuse_former_bench(value: str | bool | None) -> None:
    if value:
        raise ClflowError("`clflow bench` is `clflow bench methods` now, and with --growth `clflow bench scaling`.")


@bench.callback()
def _bench(
    dataset: Annotated[str | None, typer.Option("--dataset", hidden=True, callback=_refuse_former_bench)] = None,
    growth: Annotated[bool, typer.Option("--growth", hidden=True, callback=_refuse_former_bench)] = False,
) -> None:
    pass


@_verb(None, "bench methods --dataset mvtec_ad --category screw", bench)
def methods(
    dataset: DatasetName, category: CategoryName, out: BenchFolder = Path("reports/bench"), params: ParamsFile = DEFAULT
) -> None:
    """Training and inference, beside other methods and runtimes."""
    from pipelines.costs import bench as verb

    loaded, dataset, workspace = _workspace(params, dataset)
    (category,) = _categories(loaded, dataset, [category])
    verb.run(loaded, dataset, category, workspace, out)


@_verb(None, "bench scaling --dataset mvtec_ad --category screw", bench)
def scaling(
    dataset: DatasetName, category: CategoryName, out: BenchFolder = Path("reports/bench"), params: ParamsFile = DEFAULT
) -> None:
    """The way cost grows with images, their size, seeds and categories."""
    from pipelines.costs import scaling as verb

    loaded, dataset, workspace = _workspace(params, dataset)
    (category,) = _categories(loaded, dataset, [category])
    verb.run(loaded, dataset, category, workspace, out)


@_verb(None, "bench accelerator --dataset mvtec_ad", bench)
def accelerator(
    dataset: DatasetName,
    category: CategoryNames = None,
    out: BenchFolder = Path("reports/bench"),
    params: ParamsFile = DEFAULT,
) -> None:
    """Training and inference on this machine's first CUDA device, and what limits them there."""
    from pipelines.costs import accelerator as verb

    loaded, dataset, workspace = _workspace(params, dataset)
    verb.run(loaded, dataset, _categories(loaded, dataset, category), workspace, out)


def _load(params: Path) -> tuple[Params, Workspace]:
    loaded = load(params)
    require_known(loaded)
    return loaded, Workspace(params.resolve().parent)


def _workspace(params: Path, dataset: str) -> tuple[Params, str, Workspace]:
    loaded, workspace = _load(params)
    if dataset not in loaded.data:
        near = did_you_mean(dataset, loaded.data) or f"; it has {', '.join(loaded.data)}."
        raise ClflowError(f"--dataset {dataset!r} is not described in {params}{near}")
    return loaded, dataset, workspace


def _datasets(params: Path, dataset: str | None) -> tuple[Params, tuple[str, ...], Workspace]:
    """One dataset, or all of the benchmark."""
    if dataset is None:
        loaded, workspace = _load(params)
        return loaded, loaded.benchmark.datasets, workspace
    loaded, dataset, workspace = _workspace(params, dataset)
    return loaded, (dataset,), workspace


def _categories(params: Params, dataset: str, named: list[str] | None) -> tuple[str, ...]:
    return _chosen("--category", named, params.data[dataset].categories, dataset)


def _selection(
    params: Params, dataset: str, category: list[str] | None, method: list[str] | None, seed: list[int] | None
) -> Selection:
    asked = params.benchmark
    return Selection(
        _categories(params, dataset, category),
        _chosen("--method", method, asked.methods, "benchmark.methods"),
        _chosen("--seed", seed, asked.seeds, "benchmark.seeds"),
    )


def _chosen(option: str, named: list[T] | None, known: tuple[T, ...], owner: str) -> tuple[T, ...]:
    """The values of an option that chooses among what is known, all of it by default.

    Raises:
        ClflowError: a value is none of it.
    """
    for value in named or ():
        if value not in known:
            texts = [str(each) for each in known]
            near = did_you_mean(str(value), texts) or f"; it has {', '.join(texts)}."
            raise ClflowError(f"{option} {value!r} is none of {owner}{near}")
    return tuple(dict.fromkeys(named or known))


def main() -> None:
    """Run a verb. What a person can mend is one sentence and exit code 2, and what is interrupted ends with 130 or 143;
    anything else is a bug, with its trace."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    # Weights come from where the parameters say; a hub that cannot be reached must fail at once, not after a minute.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "10")
    # What runs here is told nobody; of Ray and DVC that holds, too.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        with interruptible(), quick_imports():  # a verb imports what it needs
            app()
    except ClflowError as error:
        _stop(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        _stop(f"this needs {package}, which is not installed; pip install 'clflow[{_EXTRAS[package]}]'.")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        _stop(
            f"{error.strerror}: {error.filename or 'the workspace'}; free space or correct the permissions, run again."
        )


def _stop(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
