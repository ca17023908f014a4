"""Stage `fetch`: brings one dataset to ``data/<dataset>``. It always runs, and mostly finds nothing to do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from clflow.config.params import Params
from clflow.data.catalogue import Counts, find
from clflow.data.checks import check_count
from clflow.data.download import Progress
from clflow.data.fetch import fetch, read_notes
from clflow.errors import ParameterError
from clflow.files import cache_folder
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import count_images, missing_images

_log = logging.getLogger(__name__)


def run(params: Params, dataset: str, workspace: Workspace) -> None:
    """Fetch the categories of ``dataset`` that the parameters list, and say what each holds and what is odd about it.

    A relative source is one in the workspace.

    Raises:
        ParameterError: the parameters do not describe the dataset, or do not suit it.
        DataError: see `clflow.data.fetch.fetch`.
    """
    if dataset not in params.data:
        raise ParameterError(f"The parameters do not describe dataset {dataset!r}; add it under data.")
    wanted = params.data[dataset]
    entry = find(dataset, wanted.layout)
    if wanted.source is not None:
        source = workspace.root / Path(wanted.source).expanduser()
        wanted = wanted.model_copy(update={"source": str(source.absolute())})
    with _progress() as progress:
        manifest = fetch(
            dataset,
            wanted,
            folder=workspace.data(dataset),
            downloads=cache_folder() / "downloads",
            record=workspace.fetch_record(dataset),
            progress=progress,
        )
    _log.info("%s; licence: %s", entry.title, " ".join(filter(None, (entry.licence, entry.licence_url))))
    notes = read_notes(workspace.fetch_record(dataset))
    for category in wanted.categories:
        rows = manifest.loc[manifest["category"] == category]
        _log.info(_summary(category, rows, entry.counts.get(category)))
        few = check_count(rows["split"].tolist().count("train"), params.protocol.false_alarm_rate)
        for note in [*notes[category], *filter(None, [few])]:
            _log.warning("%s: %s", category, note)


def _summary(category: str, rows: pd.DataFrame, published: Counts | None) -> str:
    kinds = list(zip(rows["split"], rows["label"], strict=True))
    counts = Counts(*(kinds.count(kind) for kind in (("train", 0), ("test", 0), ("test", 1))))
    missing = missing_images(*count_images(rows.loc[rows["split"] == "test"]))
    notes = [missing] if missing else []
    if published not in (None, counts):
        notes.append(f"published were {_numbers(published)}")
    return "; ".join([f"  {category}: {_numbers(counts)}", *notes])


def _numbers(counts: Counts) -> str:
    return f"{counts.train} train / {counts.test_good} test good / {counts.test_defective} test defective"


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A progress bar in a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not (console.is_terminal and _log.isEnabledFor(logging.INFO)):
        yield None
        return
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Bars(*columns, console=console, transient=True) as bars:
        tasks = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show
