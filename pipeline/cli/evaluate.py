"""`evaluate`: scores of saved decoders."""

from typing import TYPE_CHECKING

from pipeline.cli.command import command
from pipeline.cli.terminal import cell, interval, new_table, print_paths, print_result, print_rich
from pipeline.commands.options import EvaluateOptions
from pipeline.core.wording import counted

if TYPE_CHECKING:
    from pipeline.evaluation.results import EvaluationResult


@command
def evaluate(options: EvaluateOptions, as_json: bool) -> None:
    """Score saved decoders by cosine to the targets, on the images that their run held out or on IMAGES."""
    from pipeline.commands.evaluate import evaluate

    print_result(evaluate(options), as_json, print_evaluation)


def print_evaluation(result: "EvaluationResult") -> None:
    """Print the result of `evaluate`: a table, the conclusions, and the path of the report."""
    title = f"Cosine to the target, {counted(result.images, 'image')}; rank of the target among {result.candidates}"
    table = new_table(title, "", "mean", "95 % interval", "centred", "progress", "top-1", "top-5")
    parts = ({name: result.models[name].scores for name in result.titles}, result.baselines)
    over_clusters = any(scores.cosine.ci95 for rows in parts for scores in rows.values())
    for rows in parts:
        for name, scores in rows.items():
            cosine = scores.cosine
            table.add_row(
                cell(name),
                f"{cosine.mean:.3f}",
                interval(cosine.ci95 if over_clusters else cosine.ci95_same_labels),
                f"{scores.centred_cosine.mean:.3f}",
                "-" if scores.progress is None else _percent(scores.progress),
                _percent(scores.retrieval.top1),
                _percent(scores.retrieval.top5),
            )
        table.add_section()
    table.add_row("output ceiling", f"{result.ceiling:.3f}")
    if result.noise_ceiling is not None:
        table.add_row("noise ceiling", f"{result.noise_ceiling:.3f}", interval(result.noise_ceiling_ci95))
    captions = [f"{title}, bit for bit" for name, title in result.titles.items() if title != name]
    if over_clusters or any(scores.cosine.ci95_same_labels for rows in parts for scores in rows.values()):
        question = result.clusters.question if over_clusters else f"new images of these {result.clusters.kind}s"
        captions.append(f"95 % intervals: for {question}")
    table.caption, table.caption_justify = "\n".join(captions), "left"
    print_rich(table)
    for sentence in result.conclusions:
        print_rich(cell(sentence))
    paths = {"report": result.report, "scores": result.scores}
    if files := {name: file for name, file in paths.items() if file}:
        print()
        print_paths(**files)


def _percent(share: float) -> str:
    """A share in percent; never -0%."""
    return f"{round(100 * share)}%"
