"""The claims of both papers, on folders where all hold: an edited table turns its own check, and only that one."""

import json
import math
from statistics import stdev

import pytest

import claims
from claims.checks import CLAIMS, read_folders
from claims.paper import beside_the_paper, orderings, why_none
from tests.helpers.claim_folders import (
    EPOCHS,
    MODELS,
    SEEDS,
    convergence,
    edit,
    every_claim_holds,
    hessian,
    landscape,
    paper_as_a_run,
)
from tests.helpers.run_folders import config_row

PAIRS = 3
FULL = {
    "clipping_lowers_sharpness": PAIRS * len(EPOCHS) * len(SEEDS),
    "adam_below_sgd": len(EPOCHS) * len(SEEDS),
    "clipped_adafactor_lowest": len(EPOCHS) * len(SEEDS),
    "clipped_scans_go_lower": PAIRS * len(EPOCHS) * len(SEEDS),
    "clipped_trains_lower": PAIRS * len(SEEDS),
    "gradient_and_curvature_correlate": len(MODELS) * len(SEEDS),
    "transformer_above_resnet": 2 * len(SEEDS),
    "post_norm_above_pre_norm": len(SEEDS),
}
# Claim: the table, the cells that say the opposite, the row they stand in, and the exception that names it.
CLIPPED = "coordinate_clip=0.1"
EDITS = {
    "clipping_lowers_sharpness": (
        "landscape sharpness", dict(ratio=0.25), dict(seed=1, epoch=5, algorithm=f"normalized_sgd, {CLIPPED}"),
        f"seed 1, epoch 5: normalized_sgd, {CLIPPED} (0.25) is not below normalized_sgd (0.2)",
    ),
    "adam_below_sgd": (
        "landscape sharpness", dict(ratio=0.15), dict(seed=0, epoch=2, algorithm="adam"),
        f"seed 0, epoch 2: adam (0.15) is not below normalized_sgd, {CLIPPED} (0.1)",
    ),
    "clipped_adafactor_lowest": (
        "landscape sharpness", dict(ratio=-1e-3), dict(seed=2, epoch=5, algorithm="adam"),
        f"seed 2, epoch 5: adafactor, {CLIPPED} (0.0005) is not below adam (-0.001)",
    ),
    "clipped_scans_go_lower": (
        "landscape scan", dict(loss=4.2), dict(seed=1, epoch=2, algorithm=f"sgd, {CLIPPED}", loss=3.9),
        f"seed 1, epoch 2, batch 3: sgd, {CLIPPED} (4.2) is not below sgd (4)",
    ),
    "clipped_trains_lower": (
        "convergence losses", dict(loss=3.4), dict(seed=2, algorithm=f"adafactor, {CLIPPED}", iteration=4),
        f"seed 2: adafactor, {CLIPPED} (2.7) is not below adafactor (2.2)",
    ),
    "gradient_and_curvature_correlate": (
        "pre_norm1 heterogeneity", dict(spearman=0.2, spearman_low=-0.1), dict(batch="mean", grouping="all"),
        "seed 1: the interval of the correlation 0.20 begins at -0.10",
    ),
    "transformer_above_resnet": (
        "resnet2 heterogeneity", dict(gini_gradient=0.75), dict(batch="mean", grouping="all"),
        "seed 2: 0.700 is not above 0.750",
    ),
    "post_norm_above_pre_norm": (
        "pre_norm0 heterogeneity", dict(gini_gradient=0.85), dict(batch="mean", grouping="all"),
        "seed 0: 0.800 is not above 0.850",
    ),
}  # fmt: skip


def by_name(folders):
    return {check.name: check for check in claims.check(folders)}


# ---- what the checks see ---------------------------------------------------------------------------------------


def test_every_claim_has_a_check_that_holds_where_the_tables_say_so(tmp_path):
    checks = by_name(every_claim_holds(tmp_path).values())
    assert {name: (check.holds, check.of) for name, check in checks.items()} == {n: (k, k) for n, k in FULL.items()}
    assert list(checks) == [claim.name for claim in CLAIMS] == list(EDITS)
    assert all(check.always_holds and not check.exceptions and check.seeds == SEEDS for check in checks.values())


@pytest.mark.parametrize("name", EDITS)
def test_a_table_edited_against_a_claim_turns_that_check_and_only_that_one(name, tmp_path):
    folders = every_claim_holds(tmp_path)
    before = by_name(folders.values())
    place, change, where, exception = EDITS[name]
    folder, table = place.split()
    assert edit(folders[folder], table, change, **where) == 1
    after = by_name(folders.values())
    assert [other for other in FULL if after[other].holds != before[other].holds] == [name]
    assert (after[name].holds, after[name].of, after[name].always_holds) == (FULL[name] - 1, FULL[name], False)
    (said,) = after[name].exceptions
    assert said.endswith(exception) and str(folders[folder]) in said


@pytest.mark.parametrize("task", ["machine_translation", "masked_language_modeling"])
@pytest.mark.parametrize("by", ["sgd", "adam"])
def test_the_papers_own_tables_give_its_counts(task, by, tmp_path):
    """48 of 48 and 16 of 16 over its four tables, so 12 and 4 in each; in its own order, and at its own ratios."""
    folder = paper_as_a_run(tmp_path / "paper", task, by)
    checks = by_name([folder])
    counts = [(checks[claim.name].holds, checks[claim.name].of) for claim in CLAIMS[:3]]
    assert counts == [(12, 12), (4, 4), (4, 4)]
    assert [claim.paper for claim in CLAIMS[:3]] == ["48 of 48", "16 of 16", "16 of 16"]
    (run,) = read_folders([folder])
    assert [one.over_paper for one in beside_the_paper(run)] == [1] * 28
    assert [(order.epoch, order.paper_epoch, order.tau) for order in orderings(run)] == [
        (e, e, 1) for e in (2, 5, 10, 20)
    ]


def test_a_renamed_label_changes_nothing(tmp_path):
    folders = every_claim_holds(tmp_path)
    before = {name: (check.holds, check.of) for name, check in by_name(folders.values()).items()}
    for folder in (folders["landscape"], folders["convergence"]):
        for path in [folder / "config.json", *folder.glob("*.csv")]:
            path.write_text(path.read_text().replace("sgd, coordinate_clip=0.1", "cut").replace("adam", "my favorite"))
    config = json.loads((folders["landscape"] / "config.json").read_text())
    assert {row["label"] for row in config["algorithms"]} >= {"cut", "my favorite"}
    for folder in (folders["landscape"], folders["convergence"]):
        config = json.loads((folder / "config.json").read_text())
        for row in config["algorithms"]:
            row["name"] = row["name"].replace("my favorite", "adam")
        (folder / "config.json").write_text(json.dumps(config))
    assert {name: (check.holds, check.of) for name, check in by_name(folders.values()).items()} == before


def test_a_clipped_row_is_compared_with_the_row_that_shares_its_options(tmp_path):
    folder = landscape(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    of = {row["label"]: row["options"] for row in config["algorithms"]}
    of["sgd, coordinate_clip=0.1"] |= {"momentum": 0.9, "lr": 1.0}
    of["sgd"] |= {"lr": 1.0}  # a clipped row has a rate of its own, so that this tells nothing
    config["algorithms"].append(config_row("heavy", "sgd", momentum=0.9, lr=3.0))
    (folder / "config.json").write_text(json.dumps(config))
    (run,) = read_folders([folder])
    assert {a.label: b.label for a, b in run.pairs()}["sgd, coordinate_clip=0.1"] == "heavy"
    assert by_name([folder])["clipping_lowers_sharpness"].of == 2 * len(EPOCHS) * len(SEEDS)  # heavy was not measured


def test_a_row_that_clips_in_its_groups_alone_is_a_clipped_row(tmp_path):
    folder = landscape(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    (row,) = [row for row in config["algorithms"] if row["label"] == "sgd, coordinate_clip=0.1"]
    row |= {"options": {}, "groups": [{"params": "weight", "coordinate_clip": 0.1}]}
    (folder / "config.json").write_text(json.dumps(config))
    assert by_name([folder])["clipping_lowers_sharpness"].of == FULL["clipping_lowers_sharpness"]


# ---- training --------------------------------------------------------------------------------------------------


def test_rates_that_were_not_tuned_are_named(tmp_path):
    folder = convergence(tmp_path / "run")
    assert by_name([folder])["clipped_trains_lower"].note == ""
    edit(folder, "tuned_learning_rates", dict(chosen=0), algorithm="sgd")
    assert by_name([folder])["clipped_trains_lower"].note == (
        f"{folder}: the learning rate of sgd was not tuned (--tune_lr)"
    )
    edit(folder, "summary", dict(lr=None), algorithm="sgd")  # it sets its own
    assert by_name([folder])["clipped_trains_lower"].note == ""
    (folder / "tuned_learning_rates.csv").unlink()
    edit(folder, "summary", dict(lr=0.1), algorithm="sgd")
    assert "learning rates were not tuned (--tune_lr)" in by_name([folder])["clipped_trains_lower"].note


@pytest.mark.parametrize("label, holds", [("sgd, coordinate_clip=0.1", 2), ("sgd", 3)])
def test_a_seed_that_diverged_ended_above_every_loss(label, holds, tmp_path):
    folder = convergence(tmp_path / "run")
    rows = [
        r
        for r in (folder / "losses.csv").read_text().splitlines()
        if not r.startswith((f"{label},1,2,", f'"{label}",1,2,'))
    ]
    (folder / "losses.csv").write_text("\n".join(rows) + "\n")
    edit(folder, "summary", dict(diverged=1), algorithm=label)
    check = by_name([folder])["clipped_trains_lower"]
    assert (check.holds, check.of) == (6 + holds, 9)
    assert [text.rpartition("run, ")[2] for text in check.exceptions] == (
        [f"seed 1: {label} (diverged) is not below sgd (3)"] if holds == 2 else []
    )


def test_a_row_that_still_trains_is_left_out(tmp_path):
    folder = convergence(tmp_path / "run")
    lines = (folder / "summary.csv").read_text().splitlines()
    (folder / "summary.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert by_name([folder])["clipped_trains_lower"].of == FULL["clipped_trains_lower"] - len(SEEDS)


# ---- over seeds ------------------------------------------------------------------------------------------------


def test_the_interval_counts_seeds_and_not_points(tmp_path):
    few = landscape(tmp_path / "few", seeds=(0, 1), epochs=(2,))
    many = landscape(tmp_path / "many", seeds=(0, 1), epochs=(1, 2, 3, 4, 5, 6))
    for folder in (few, many):  # fails in all of seed 1
        assert edit(folder, "sharpness", dict(ratio=0.9), seed=1, algorithm="adam")
    a, b = (by_name([folder])["adam_below_sgd"] for folder in (few, many))
    assert (a.holds, a.of, b.holds, b.of) == (1, 2, 6, 12)
    assert a.interval == b.interval == pytest.approx((0.0126, 0.9874), abs=1e-4)  # one of two


def test_one_seed_has_no_interval_and_says_so(tmp_path):
    check = by_name([landscape(tmp_path / "run", seeds=(4,))])["adam_below_sgd"]
    assert (check.seeds, check.interval, check.effect.interval) == ((4,), None, None)
    assert check.note == "one seed (4): no interval"


def test_folders_of_one_seed_each_without_a_seed_column_make_an_interval(tmp_path):
    folders = []
    for seed in SEEDS:
        folder = landscape(tmp_path / f"seed{seed}", seeds=(seed,), settings=dict(seed=seed))
        for name in ("sharpness", "scan"):
            lines = (folder / f"{name}.csv").read_text().splitlines()
            (folder / f"{name}.csv").write_text("\n".join(line.partition(",")[2] for line in lines) + "\n")
        folders.append(folder)
    split, together = by_name(folders), by_name([landscape(tmp_path / "together")])
    for name in list(FULL)[:4]:
        assert split[name].seeds == SEEDS and split[name].interval == together[name].interval is not None
    assert [part[1:] for part in split["adam_below_sgd"].by_folder] == [(2, 2)] * 3


def test_the_effect_is_the_mean_over_seeds_of_the_median_of_each(tmp_path):
    folder = landscape(tmp_path / "run", epochs=(1, 2, 3))
    for seed, ratio in ((0, 0.01), (1, 0.02), (2, 0.03)):
        edit(folder, "sharpness", dict(ratio=ratio), seed=seed, algorithm="adam")
        edit(folder, "sharpness", dict(ratio=10 * ratio), seed=seed, algorithm="adam", epoch=1)
    effect = by_name([folder])["adam_below_sgd"].effect
    middle = (0.01 * 0.02 * 0.03) ** (1 / 3)
    factor = math.exp(4.302653 * stdev(map(math.log, (1, 2, 3))) / 3**0.5)  # t of two degrees of freedom
    assert effect.value == pytest.approx(middle)
    assert effect.interval == pytest.approx((middle / factor, middle * factor), rel=1e-6)


def test_an_effect_that_is_no_quotient_has_a_symmetric_interval_within_its_limits(tmp_path):
    folders = [hessian(tmp_path / f"seed{seed}", "post_norm", seed) for seed in SEEDS]
    for folder, spearman in zip(folders, (0.7, 0.8, 0.9), strict=True):
        edit(folder, "heterogeneity", dict(spearman=spearman))
    effect = by_name(folders)["gradient_and_curvature_correlate"].effect
    assert effect.value == pytest.approx(0.8)
    assert effect.interval == (pytest.approx(0.8 - 4.302653 * 0.1 / 3**0.5), 1)  # its upper end would be 1.05


def test_a_negative_sharpness_is_counted(tmp_path):
    folder = landscape(tmp_path / "run")
    edit(folder, "sharpness", dict(ratio=-0.01), seed=0, epoch=2, algorithm="adam")
    found = by_name([folder])
    assert found["adam_below_sgd"].note == "in 1 of them a sharpness is negative: the loss bends down along that step"
    assert found["clipping_lowers_sharpness"].note == ""  # Adam has no clipped row there


def test_a_difference_within_rounding_errors_is_counted(tmp_path):
    folder = landscape(tmp_path / "run")
    assert "rounding" not in by_name([folder])["clipped_adafactor_lowest"].note
    edit(folder, "sharpness", dict(sharpness_error=0.004), seed=1, epoch=2, algorithm="adafactor")  # of 0.01
    edit(folder, "sharpness", dict(sharpness_error=0.002), seed=1, epoch=2, algorithm=f"adafactor, {CLIPPED}")
    note = by_name([folder])["clipped_adafactor_lowest"].note
    assert note == "in 1 of them rounding errors may exceed the difference (--dtype float64 avoids that)"


# ---- what is not there -----------------------------------------------------------------------------------------


def test_a_claim_that_no_folder_measures_says_what_would(tmp_path):
    checks = by_name([hessian(tmp_path / "run", "post_norm")])
    measured = {name for name, check in checks.items() if check.measured}
    assert measured == {"gradient_and_curvature_correlate"}
    assert checks["clipped_trains_lower"].note.startswith("not measured here: run_convergence.py --tune_lr")
    assert checks["clipped_scans_go_lower"].note.startswith("not measured here: run_landscape.py without --skip_search")
    assert "RoBERTa-PreLayerNorm" in checks["post_norm_above_pre_norm"].note
    missing = [check for check in checks.values() if not check.measured]
    assert all((check.holds, check.of, check.interval, check.always_holds) == (0, 0, None, False) for check in missing)


@pytest.mark.parametrize("change", [dict(seed=1), dict(checkpoint="output/trained"), dict(parameters="paper")])
def test_runs_are_compared_under_the_same_conditions_only(change, tmp_path):
    folders = [hessian(tmp_path / "a", "post_norm"), hessian(tmp_path / "b", "resnet", **change)]
    assert by_name(folders)["transformer_above_resnet"].of == 0


def test_other_data_are_named_and_do_not_compare_two_norms(tmp_path):
    post = hessian(tmp_path / "post", "post_norm")
    checks = by_name([post, hessian(tmp_path / "pre", "pre_norm", dataset="other")])
    assert checks["post_norm_above_pre_norm"].of == 0
    checks = by_name([post, hessian(tmp_path / "resnet", "resnet", dataset="pictures")])
    assert "in 1 of 1 the data differ, too" in checks["transformer_above_resnet"].note


def test_a_list_without_reference_is_compared_by_its_sharpness(tmp_path):
    folder = landscape(tmp_path / "run")
    for _ in (edit(folder, "sharpness", dict(ratio=None)),):
        check = by_name([folder])["clipping_lowers_sharpness"]
    assert (check.holds, check.of) == (18, 18)
    assert check.effect.value == pytest.approx(0.5)  # 0.4, 0.5 and 0.5 in each column


def test_a_folder_given_twice_is_refused(tmp_path):
    folder = landscape(tmp_path / "run")
    with pytest.raises(ValueError, match="is given twice"):
        claims.check([folder, tmp_path / "run" / ".." / "run"])


# ---- beside the paper's tables ---------------------------------------------------------------------------------


def test_every_number_stands_beside_the_papers_with_data_and_model_of_both(tmp_path):
    (run,) = read_folders([landscape(tmp_path / "run", epochs=(3, 15))])
    numbers = {(one.algorithm, one.epoch): one for one in beside_the_paper(run)}
    one = numbers["adam", 3]
    assert (one.dataset, one.model, one.paper_dataset, one.paper_model) == (
        "pairs",
        "small",
        "opus_books en-fr",
        "t5-small",
    )
    assert (one.paper_table, one.paper_epoch, one.paper_ratio) == (
        "table 3",
        2,
        0.04595183,
    )  # 3 is nearer to 2 than to 5
    assert one.ratio == pytest.approx(0.05) and one.over_paper == pytest.approx(0.05 / 0.04595183)
    assert (one.seeds, one.ratio_low, one.ratio_high) == (3, pytest.approx(0.05), pytest.approx(0.05))
    assert numbers[f"sgd, {CLIPPED}", 15].paper_algorithm == "sgd, coordinate_clip=0.05"
    assert numbers["adam", 15].paper_epoch == 20  # 20 / 15 is less than 15 / 10
    assert len(numbers) == 14


def test_the_order_of_each_column_has_its_own_tau(tmp_path):
    folder = landscape(tmp_path / "run", seeds=(0, 1))
    for seed in (0, 1):
        edit(folder, "sharpness", dict(ratio=2.0), seed=seed, epoch=5, algorithm="adam")  # above the four of SGD's kind
    (run,) = read_folders([folder])
    first, second = orderings(run)
    # The paper's order at both epochs, by ratio: Adafactor's two, Adam, normalized clipped, normalized, SGD's two.
    assert (first.tau, first.rows, first.seeds, first.tau_low, first.tau_high) == (1, 7, 2, 1, 1)
    assert second.tau == pytest.approx((21 - 2 * 4) / 21)  # Adam exchanged with four of 21 pairs


@pytest.mark.parametrize(
    "settings, reason",
    [
        (dict(task="image_classification"), "the paper has no table of the task image_classification, trained by sgd"),
        (dict(train_optimizer="lion"), "the paper has no table of the task machine_translation, trained by lion"),
        (dict(reference="adam"), "its ratios are not to plain SGD, as the paper's are"),
    ],
)
def test_a_run_that_the_paper_has_no_table_for_says_so(settings, reason, tmp_path):
    folder = landscape(tmp_path / "run", settings=settings)
    (run,) = read_folders([folder])
    assert why_none(run) == f"{folder}: {reason}" and beside_the_paper(run) == orderings(run) == []
    assert by_name([folder])["clipping_lowers_sharpness"].always_holds
