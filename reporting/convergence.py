"""The answer of run_convergence.py: how far each algorithm's loss fell, and how fast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from figures.run_tables import RunTables
from figures.seeds import diverged_seeds
from reporting.contents import Sentence, View, quoted
from reporting.numbers import count, said
from runs.intervals import mean_interval

Row = Mapping[str, Any]


def answer(run: RunTables) -> Iterator[Sentence]:
    rows = run.table("losses", "algorithm seed epoch iteration loss")
    summary = run.table("summary", "algorithm lr final_loss_mean steps_to_sgd_loss diverged")
    if not rows or not summary:
        return
    finals, seeds = final_losses(run), len({row["seed"] for row in rows})
    epochs = count(max(row["epoch"] for row in rows), "epoch")
    text = f"{count(len(summary), 'algorithm').capitalize()} trained for {epochs} from {count(seeds, 'seed')}, "
    yield Sentence(text + "all with the same start and the same batches.", ("losses.csv",))
    finished = [row for row in summary if row["final_loss_mean"] is not None]
    if finished:
        best = min(finished, key=lambda row: row["final_loss_mean"])
        text = f"The loss of the last epoch is lowest for {quoted(best['algorithm'])}: {best['final_loss_mean']:.4g}."
        yield Sentence(text, ("summary.csv",))
    yield from _cautions(run, summary, seeds)
    yield from _scores(run)
    sgd = next((row for row in summary if run.styles[row["algorithm"]].is_plain_sgd), None)
    steps = max(row["iteration"] for row in rows)
    for row in summary:
        text = _of_row(row, finals.get(row["algorithm"], []), sgd, seeds, steps)
        yield Sentence(text, ("summary.csv", "losses.csv"), of_row=True)


def final_losses(run: RunTables) -> dict[str, list[float]]:
    """Label -> of every seed that did not diverge the mean loss of its last epoch, over its examples."""
    diverged, losses = diverged_seeds(run), {}
    cells: dict[tuple[str, int], list[Row]] = {}
    for row in run.table("losses", "algorithm seed epoch examples loss"):
        if row["loss"] is not None and row["seed"] not in diverged.get(row["algorithm"], ()):
            cells.setdefault((row["algorithm"], row["seed"]), []).append(row)
    for (label, _), rows in cells.items():
        last = max(row["epoch"] for row in rows)
        rows = [row for row in rows if row["epoch"] == last]
        losses.setdefault(label, []).append(fmean([r["loss"] for r in rows], [r["examples"] for r in rows]))
    return losses


def _cautions(run: RunTables, summary: Sequence[Row], seeds: int) -> Iterator[Sentence]:
    trials = run.table("tuned_learning_rates", "algorithm lr")
    if trials:
        text = f"Every learning rate is the best of its trials, {len(trials)} in all, on the first seed."
        yield Sentence(text, ("tuned_learning_rates.csv",))
    else:
        text = (
            "The learning rates are those of the list. They were not tuned here (--tune_lr does), so a row may be slow "
        )
        yield Sentence(text + "only because its rate does not fit.", ("summary.csv",))
    if seeds == 1:
        text = "One seed was run, so nothing is known of the differences between seeds."
        yield Sentence(text, ("losses.csv",))
    else:
        yield Sentence(f"Brackets below are 95 % intervals over {seeds} seeds.", ("losses.csv",))
    lost = [row for row in summary if row["diverged"]]
    if lost:
        runs = count(sum(row["diverged"] for row in lost), "run")
        verb = "diverged; it is" if runs == "one run" else "diverged; they are"
        text = f"{runs.capitalize()} of {count(len(lost), 'algorithm')} {verb} left out of the means."
        yield Sentence(text, ("summary.csv",))


def _scores(run: RunTables) -> Iterator[Sentence]:
    rows = run.table("best_epochs", "algorithm seed test_accuracy")
    means = {
        label: fmean(values)
        for label in run.styles
        if (values := [r["test_accuracy"] for r in rows if r["algorithm"] == label and r["test_accuracy"] is not None])
    }
    if means:
        best = max(means, key=lambda label: means[label])
        text = (
            f"On the test examples {quoted(best)} is right most often, in {100 * means[best]:.1f} % of them, after the "
        )
        yield Sentence(text + "epoch that is best on the evaluation examples (mean over seeds).", ("best_epochs.csv",))


def _of_row(row: Row, finals: Sequence[float], sgd: Row | None, seeds: int, steps: int) -> str:
    name, mean = quoted(row["algorithm"]), row["final_loss_mean"]
    rate = "" if row["lr"] is None else f" with the learning rate {row['lr']:.3g}"
    if mean is None:
        return f"{name} diverged{rate}, from {'its only seed' if seeds == 1 else f'all {seeds} seeds'}."
    interval = mean_interval(finals)
    basis = f"{interval[0]:.4g} to {interval[1]:.4g}, {len(finals)} seeds" if interval else "one seed"
    text = f"{name} ended at the loss {mean:.4g} ({basis}){rate}"
    if sgd is not None and row is not sgd and sgd["final_loss_mean"] is not None:
        apart = mean - sgd["final_loss_mean"]
        text += f", {said(abs(apart))} {'below' if apart < 0 else 'above'} {quoted(sgd['algorithm'])}"
        if row["steps_to_sgd_loss"] is not None:
            text += f", whose loss it reached after {row['steps_to_sgd_loss']:,.0f} of {steps:,} updates"
    if row["diverged"]:
        text += f"; it diverged from {row['diverged']} of {count(seeds, 'seed')}"
    return f"{text}."


# ---- tables --------------------------------------------------------------------------------------------------

NOTE = (
    "Means over the seeds that did not diverge. “best” is the lowest loss averaged over one epoch’s worth of examples, "
    "“updates to SGD’s loss” the number until that average is down at plain SGD’s final loss; empty if a seed never "
    "gets there."
)


def views(run: RunTables) -> Iterator[View]:
    names = {
        "algorithm": "algorithm",
        "learning rate": "lr",
        "final loss": "final_loss_mean",
        "std": "final_loss_std",
        "best": "best_loss",
        "updates to SGD’s loss": "steps_to_sgd_loss",
        "diverged": "diverged",
    }
    rows = run.table("summary", " ".join(names.values()))
    if rows:
        shown = [{name: row[column] for name, column in names.items()} for row in rows]
        yield View("losses", "Loss of the last epoch", NOTE, list(names), shown, "summary.csv")
    rows = [row for row in run.table("scores", "algorithm seed epoch split metric value") if row["value"] is not None]
    if rows:
        last = max(row["epoch"] for row in rows)
        note = f"Means over the seeds whose run came to epoch {last}."
        yield View("scores", f"Scores after epoch {last}", note, *_scores_by_split(run, rows, last), "scores.csv")


def _scores_by_split(run: RunTables, rows: Sequence[Row], epoch: int) -> tuple[list[str], list[dict[str, Any]]]:
    cells: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["epoch"] == epoch:
            of_row = cells.setdefault(row["algorithm"], {})
            of_row.setdefault(f"{row['split']} {row['metric']}", []).append(row["value"])
    names = list(dict.fromkeys(name for of_row in cells.values() for name in of_row))
    means = [
        {"algorithm": label, **{name: fmean(values) for name, values in cells[label].items()}}
        for label in run.styles
        if label in cells
    ]
    return ["algorithm", *names], means


def headline(run: RunTables) -> tuple[str, dict[str, float | None]]:
    """(what it is, label -> number): the one number that tells two runs apart."""
    rows = run.table("summary", "algorithm final_loss_mean")
    return "Loss of the last epoch", {row["algorithm"]: row["final_loss_mean"] for row in rows}
