"""docs/results.md holds what follows from the stored cells, and its counts are right by another route, too."""

import re

from study.page import read, replaced
from tests.helpers.study_page import ROOT, cell, cells, column


def test_the_page_holds_what_follows_from_the_stored_tables():
    document = (ROOT / "docs/results.md").read_text()
    assert replaced(document, read(ROOT / "docs/study")) == document


def test_sentences_of_the_page_are_those_of_the_tables_cells():
    """Each count of the page's sentences, taken from the CSV files by another route."""
    text = (ROOT / "docs/results.md").read_text()
    for row in cells("claims"):
        if row["data"] == "all":
            assert re.search(rf" in {row['holds']:g} of {row['of']:g} comparisons", text), row["claim"]
    names = ("pairs", "flatter", "predicted_further", "fell_further", "as_predicted")
    pairs, flatter, predicted, fell, agree = (sum(int(row[name]) for row in cells("scans")) for name in names)
    assert f"Of {pairs} clipped steps {flatter} are flatter than their partner's, and {predicted} should" in text
    assert f"{fell} do along the scan. In {agree} of {pairs} pairs scan and model agree." in text
    for row in cells("class_imbalance"):
        begin, gap, whose = row["quantity"].rpartition("loss of SGD less that of Adam")
        if gap and not begin:
            said = rf"less Adam's{whose}{',' * bool(whose)} is [^.]*(\.\d+[^.]*)*"
            assert re.search(rf"{said}{row['value']:.3g} at exponent {row['zipf']:g}\b", text), row
    for row in cells("pretraining"):
        if row["quantity"] == "loss of SGD less that of Adam":
            data = {"imdb": "IMDb", "snli": "SNLI"}[row["data"]]
            assert f"{row['value']:.3g} on {data} from {row['start']} weights" in text
    scaling = cells("parameter_scaling")
    for row in scaling:
        if row["epoch"] == scaling[-1]["epoch"] and row["algorithm"] == "adafactor":
            assert f"Adafactor's ratio is {row['ratio']:.3g} with parameter scaling" in text
    batches = cells("batches_compared")
    both = [row["low"] <= 1 <= row["high"] for row in batches if row["epoch"] == batches[-1]["epoch"]]
    assert f"both batches agree, in {sum(both)} of {len(both)} cells" in text
    losses = {(row["data"], row["algorithm"]): row["loss"] for row in cells("losses")}
    data = {name for name, _ in losses}
    ahead = sum(losses[name, "adam"] < losses[name, "sgd"] for name in data)
    assert f"Adam ends below SGD on {ahead} of {len(data)} data sets" in text
    last = max(row["epoch"] for row in cells("ratios"))
    ratios = {(r["data"], r["trajectory"], r["algorithm"]): r for r in cells("ratios") if r["epoch"] == last}
    upward = [key[:2] for key, row in ratios.items() if key[2] == "sgd" and row["ratio"] == 1]
    adam = [ratios[*place, "adam"] for place in upward]
    below, sure = (sum(row[name] < 1 for row in adam) for name in ("ratio", "high"))
    assert f"In {len(upward)} of these trajectories" in text
    assert f"Adam's ratio is below 1 in {below}, and its whole interval in {sure}." in text
    for row in cells("batch_sizes"):
        said = rf"At equally many {row['equal']} SGD's loss less Adam's is [^.]*(\.\d+[^.]*)*"
        assert re.search(rf"{said}{row['gap']:.3g} at batch size {row['batch_size']:g}\b", text), row


def test_sentences_beyond_the_claims_are_those_of_the_tables_cells():
    text = (ROOT / "docs/results.md").read_text()
    taus = cells("flat_and_fast")
    positive, sure = (sum((row[name] or 0) > 0 for row in taus) for name in ("tau", "low"))
    assert f"It is positive in {positive} of {len(taus)} cells, and its whole interval in {sure}." in text
    (rows,) = column("flat_and_fast", "rows", data="readme")
    assert f"that of README's figure, with {rows:g} rows and one seed." in text
    steps = {batch: column("own_steps", "edge", measured_on=batch) for batch in ("test", "training")}
    below = {batch: f"{sum(edge < 1 for edge in edges)} of {len(edges)}" for batch, edges in steps.items()}
    assert f"on the test batch in {below['test']} cases, and on the batch that the step came from in " in text
    assert f"came from in {below['training']}. It is smaller there in " in text
    edges = {}
    for row in cells("own_steps"):
        edges.setdefault((row["data"], row["trajectory"], row["epoch"]), {})[row["measured_on"]] = row["edge"]
    both = [pair for pair in edges.values() if len(pair) == 2]
    smaller = sum(pair["training"] < pair["test"] for pair in both)
    assert f"It is smaller there in {smaller} of {len(both)}." in text


def test_readme_shows_the_ratios_of_the_stored_run():
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r"^(\w+(?:, \w+=\S+)?) {2,}(\S+) {2,}(\S+) {2,}(\S+)$", text, re.MULTILINE)
    assert [label for label, *_ in shown] == ["sgd", "sgd, coordinate_clip=0.1", "adam"]
    for label, *ratios in shown:
        for epoch, ratio in zip((1, 3, 5), ratios, strict=True):
            assert f"{cell('readme', 'value', algorithm=label, quantity=f'ratio, epoch {epoch}'):.4g}" == ratio


def test_sentences_about_the_largest_eigenvalue_are_those_of_the_tables_cells():
    text = (ROOT / "docs/results.md").read_text()
    last = max(column("eigenvalues", "epoch"))
    of_p, of_threshold, own = (f"{value:.3g}" for value in column("eigenvalues", "value", epoch=last))
    assert f"In epoch {last:g} the eigenvalue is {of_p} times 2 / lr, {of_threshold} of the threshold" in text
    assert f"the step's own edge number is {own}." in text


def test_sentences_about_later_optimizers_are_those_of_the_tables_cells():
    text = (ROOT / "docs/results.md").read_text()

    def quantity(name):
        return {row["algorithm"]: row["value"] for row in cells("modern", quantity=name)}

    losses, edges, spectral = map(quantity, ("loss", "edge at this rate", "ratio, spectral"))
    (ending,) = re.findall(r"^(.*) ends? below Adam\.", text, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", ending)) == {name for name in losses if losses[name] < losses["adam"]}
    for said, values in (("final loss", losses), ("sharpness", quantity("ratio")),
                         ("sharpness in the spectral norm", spectral)):  # fmt: skip
        name, least = min(values.items(), key=lambda item: item[1])
        assert f"The lowest {said} is that of `{name}`, {least:.3g}." in text
    muon, adam = (f"{spectral[name]:.3g}" for name in ("muon_adamw", "adam"))
    assert f"In the spectral norm, its own, Muon's sharpness is {muon} of SGD's, and Adam's is {adam}." in text
    (past,) = re.findall(r"At the tuned rate (.*) steps? past the edge", text)
    assert set(re.findall(r"`(\w+)`", past)) == {name for name, edge in edges.items() if edge is not None and edge > 1}
    quotients = cells("own_curvature", quantity="adam over muon_adamw")
    above, sure = (sum(row[name] > 1 for row in quotients) for name in ("value", "low"))
    assert f"larger curvature in {above} of {len(quotients)} means, and by the whole interval in {sure}." in text
    for row in quotients:
        if row["measured_on"] == "test":
            assert re.search(rf"the quotient is [^\n]*{row['value']:.3g} at exponent {row['zipf']:g}[,.]", text), row


def test_sentences_about_clipping_are_those_of_the_tables_cells():
    text = (ROOT / "docs/results.md").read_text()
    for label in ("sgd", "adam", "adafactor", "lion"):
        rows = cells("clip_sweep", algorithm=label, quantity="sharpness")
        lower = {row["fraction"]: row["lower"] == row["of"] for row in rows if row["fraction"]}
        from_here = [k for k in lower if all(lower[other] for other in lower if other >= k)]
        said = f"From k = {min(from_here)} on, the sharpness of `{label}` is lower" if from_here else None
        assert (said or f"No range of k up to the largest lowers the sharpness of `{label}` at every point.") in text
        (row,) = cells("clip_sweep", algorithm=label, quantity="predicted decrease", fraction=0.9)
        said = rf"At k = 0.9 the predicted decrease is larger than at k = 0 at [^.]*{row['higher']:g} \(`{label}`\)"
        assert re.search(said, text) and f" of {row['of']:g} points." in text
    share, alone, _, left = (f"{value:.3g}" for value in column("curvature_by_size", "value", fraction=0.1))
    assert (
        f"The largest 10 % of the coordinates hold {share} of the squared length and {alone} of the curvature." in text
    )
    assert f"Without them the sharpness is {left} of the whole." in text
