"""Pictures of results, drawn by Matplotlib (https://matplotlib.org)."""

from pathlib import Path

from pipeline.comparison import Study
from pipeline.errors import PipelineError, RequestError
from pipeline.outputs import replacing

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = {"functional": "#0072b2", "sequential": "#d55e00"}  # of Okabe and Ito, told apart by the colour-blind too


def check_picture(file: Path) -> None:
    """Refuse a picture that could not be written, before any work is spent on it.

    Raises:
        RequestError: The suffix is not one of SUFFIXES, or the folder does not exist.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise RequestError(
            f"--plot {file}: pictures are written as {', '.join(SUFFIXES)}; give the file such a suffix."
        )
    if not file.parent.is_dir():
        raise RequestError(f"--plot {file}: the folder {file.parent} does not exist; make it first.")


def plot_study(study: Study, ceiling: float, file: Path) -> None:
    """Draw the cosine after each epoch: a panel for each scenario, a line for each model and seed.

    Args:
        study: The study.
        ceiling: The highest cosine that its decoder can reach.
        file: Where to write the picture.

    Raises:
        PipelineError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    for panel, (name, pairs) in zip(panels, study.scenarios.items(), strict=True):
        for pair in pairs:
            for style, fitted in pair.fitted.items():
                curve = fitted.curves["validation_cosine"]
                label = style if pair is pairs[0] else None
                dashes = "--" if style == "sequential" else "-"  # where one line covers the other, both are seen
                panel.plot(range(1, len(curve) + 1), curve, dashes, color=COLOURS[style], linewidth=1.2, label=label)
        panel.axhline(ceiling, color="0.5", linewidth=0.8, linestyle=":", label="ceiling")
        panel.set(title=name, xscale="log")
        panel.grid(alpha=0.2)
    panels[0].legend(loc="lower right", frameon=False)
    figure.supxlabel("epoch")
    figure.supylabel("cosine to the target")
    try:
        with replacing(file) as unfinished:
            figure.savefig(unfinished, dpi=150)
    except OSError as error:
        raise PipelineError(f"{file} cannot be written ({error.strerror or error}).") from error
