"""`models`: the runs in a folder, with their held-out scores."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import RequestError
from pipeline.core.runs import RUN_FILE, read_run


@dataclass(frozen=True)
class RunSummary:
    """A summary of a run.

    Attributes:
        name: The name of its folder.
        status: "finished"; "unfinished" if training was interrupted or is still running; "unreadable".
        images: The source of its images, else the file of its vectors; None if unreadable.
        targets: The file of its targets; None for those in the images' list.
        trained_on: The number of training images.
        held_out: The number of held-out images.
        models: API style -> mean held-out cosine; empty for a run that is not finished.
        baselines: Name -> mean held-out cosine.
        error: Why the run is unreadable, or None.
    """

    name: str
    status: Literal["finished", "unfinished", "unreadable"]
    images: str | None = None
    targets: str | None = None
    trained_on: int | None = None
    held_out: int | None = None
    models: Mapping[str, float] = field(default_factory=dict)
    baselines: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class RunList:
    """The result of `models`: the folder, and its runs sorted by name."""

    folder: str
    runs: Sequence[RunSummary]

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `models`."""
        return asdict(self)


def list_runs(folder: Path) -> RunList:
    """List the runs in a folder.

    Args:
        folder: The folder that `train` saves runs in.

    Returns:
        Its runs; folders without a `run.json` are left out.

    Raises:
        RequestError: The folder does not exist.
    """
    if not folder.is_dir():
        raise RequestError(f"There is no folder {folder}; name the one that train saves runs in.")
    runs = sorted(file.parent for file in folder.glob(f"*/{RUN_FILE}"))
    return RunList(str(folder), [_summary(run) for run in runs])


def _summary(folder: Path) -> RunSummary:
    try:
        run = read_run(folder, allow_edits=True)
    except RequestError as error:
        return RunSummary(folder.name, "unreadable", error=str(error))
    result = run.result or {}
    return RunSummary(
        name=folder.name,
        status="finished" if run.result else "unfinished",
        images=run.options.get("images") or run.options.get("features"),
        targets=run.options.get("targets"),
        trained_on=len(run.split.train),
        held_out=result.get("validation", len(run.split.validation)),
        models={style: model["validation_cosine"] for style, model in result.get("models", {}).items()},
        baselines=result.get("baselines", {}),
    )
