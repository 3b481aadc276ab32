"""Every sentence of docs/results.md that somebody wrote by hand follows from the stored cells, or counts nothing.

A sentence that is new or changed belongs into one of the two lists below, or into that of helpers.
"""

import itertools
import json
import math
import re

import pytest

from runs.intervals import CONFIDENCE, share_interval
from study.figures import SMALLEST
from study.plan import FULL, PAPER_RATE, SOURCES
from tests.helpers.said_beyond_the_claims import HOLDS as BEYOND
from tests.helpers.study_page import ROOT, cell, cells, column, sentences

GAP = "loss of SGD less that of Adam"
FIRST, SECOND, LOWEST = "clipping_lowers_sharpness", "adam_below_sgd", "clipped_adafactor_lowest"
FAST = ("translation-sgd", "translation-adam_tuned")
ZIPF = (0, 0.5, 1)


def paper(task, setting):
    """A setting of the workshop paper."""
    protocols = json.loads((ROOT / "docs/paper_protocols.json").read_text())
    (found,) = (one["paper"] for one in protocols["task_settings"] if (one["task"], one["setting"]) == (task, setting))
    return found


def exceptions(*claims):
    """The run folders of the exceptions to these claims."""
    return [row["exception"].split(",")[0] for row in cells("exceptions") if row["claim"] in claims]


def gaps(quantity):
    return [cell("class_imbalance", "value", zipf=zipf, quantity=quantity) for zipf in ZIPF]


def negative_in_some_seed(row, name):
    """Intervals and means of logarithms, which positive numbers have, are positive."""
    return row[name] < 0 or row["low"] <= 0


def flatter_steps_are_exceptions_in_two_runs():
    where = exceptions(FIRST, SECOND)
    return sum(run in FAST for run in where) > len(where) / 2


def most_steps_bend_down_by_epoch_5():
    rows = [row for row in cells("ratios", data="translation", epoch=5) if row["trajectory"] in ("sgd", "adam_tuned")]
    of_sgd = [row["ratio"] < 1 for row in rows if row["algorithm"] == "sgd"]  # 1 where it is positive in every seed
    others = [negative_in_some_seed(row, "ratio") for row in rows if row["algorithm"] != "sgd"]
    return of_sgd == [True, True] and sum(others) > len(others) / 2


def other_exceptions_are_on_two_data_sets():
    others = [run for run in exceptions(FIRST, SECOND) if run not in FAST]
    return sum(run.startswith(("cifar10-", "imdb-")) for run in others) > len(others) / 2


def clipped_adafactor_is_lowest_on_text():
    rows = {row["data"]: row for row in cells("claims", claim=LOWEST)}
    picture, whole = rows["cifar10"], rows["all"]
    holds, of = (whole[name] - picture[name] for name in ("holds", "of"))
    return holds / of > 0.5 > picture["holds"] / picture["of"]


def scaling(epoch):
    return cell("parameter_scaling", "ratio", algorithm="adafactor, scale_parameter=False", epoch=epoch)


def scans(name):
    return sum(column("scans", name))


def only_adafactor_trains_no_lower_when_clipped():
    names = ("translation", "masked", "cifar10")
    texts = [text for text in column("exceptions", "exception", claim="clipped_trains_lower") if text.startswith(names)]
    return len(texts) == 3 * len(FULL.seeds) and all(": adafactor, coordinate_clip" in text for text in texts)


def few_rows_learn_labels():
    def learned(data, classes):
        return {row["algorithm"] for row in cells("losses", data=data) if row["loss"] < math.log(classes) - 0.05}

    clipped = "normalized_sgd, coordinate_clip=0.05"
    return (
        learned("snli", 3) == {clipped} and learned("imdb", 2) == {clipped, "adam"} and FULL.epochs * FULL.batches == 50
    )


def batch_gaps(equal):
    rows = sorted(cells("batch_sizes", equal=equal), key=lambda row: row["batch_size"])
    return [row["gap"] for row in rows]


def full_batch(name):
    return cell("batch_sizes", name, batch_size=FULL.swept, equal="updates")


def last_batch_ratios():
    rows = cells("batch_ratios")
    sizes = {row["batch_size"] for row in rows}
    return [max((row for row in rows if row["batch_size"] == s), key=lambda row: row["epoch"])["ratio"] for s in sizes]


def momentum_matters_more_than_the_exponent():
    zero, first = gaps(GAP), gaps(f"{GAP}, momentum from the first gradient")
    wider = [b - a for a, b in zip(zero, first, strict=True)]
    return min(wider) > max(zero) - min(zero) and all(0.4 < a / b < 0.6 for a, b in zip(zero, first, strict=True))


def fine_tuned(data, start, quantity):
    return cell("pretraining", "value", data=data, start=start, quantity=quantity)


def fine_tuned_below_chance(data, classes):
    cases = itertools.product(("pretrained", "fresh"), ("sgd", "adam"))
    return {(start, label) for start, label in cases
            if fine_tuned(data, start, f"loss of {label}") < math.log(classes) - 0.05}  # fmt: skip


def batches(trajectory):
    return [row for row in cells("batches_compared", epoch=5) if row["trajectory"] == trajectory]


def signs_change_in_most_rows():
    fast = batches("sgd") + batches("adam_tuned")
    return sum(negative_in_some_seed(row, "train_over_test") for row in fast) > len(fast) / 2


HOLDS = BEYOND | {
    "All models are the tasks' small ones, trained from scratch from the seeds 0, 1 and 2.": lambda: (
        FULL.seeds == (0, 1, 2)
    ),
    "Tatoeba's translations follow the workshop paper at half its size, with 5,120 examples in batches of "
    "512.": lambda: (
        (FULL.examples, SOURCES["translation"].examples, FULL.examples / FULL.batches) == (5120, 5120, 512)
        and paper("machine_translation", "dataset_size") == 2 * 5120
    ),
    "The others take 1,280 examples in batches of 128.": lambda: (
        {source.examples for name, source in SOURCES.items() if name != "translation"} == {1280}
        and 1280 / FULL.batches == 128
    ),
    "Each runs for 5 epochs, and one random point of epochs 1, 3 and 5 is measured on 64 examples.": lambda: (
        (FULL.epochs, FULL.points, FULL.test_epochs, FULL.test_batch) == (5, 1, (1, 3, 5), 64)
    ),
    "Adam trains at the paper's rate of 2e-3, SGD at the rate that was tuned here.": lambda: PAPER_RATE == "2e-3",
    "*Losses*: 640 examples in batches of 64, for 5 epochs.": lambda: (
        (FULL.compared, FULL.compared / FULL.batches, FULL.epochs) == (640, 64, 5)
    ),
    "Each row has the rate that was best over 2 epochs on the first seed.": lambda: FULL.tune_epochs == 2,
    "Every interval is a 95 % interval over the seeds.": lambda: CONFIDENCE == 0.95,
    "Three seeds make wide ones: a claim that holds in every comparison has an interval of 0.29 to 1.": lambda: (
        [round(end, 2) for end in share_interval([1, 1, 1])] == [0.29, 1]
        and {round(r["low"], 2) for r in cells("claims") if r["holds"] == r["of"] and r["seeds"] == 3} == {0.29}
    ),
    "In the figure, a line is a row of the list, the first on top, with its 95 % interval.": lambda: CONFIDENCE == 0.95,
    "Where a ratio is negative, the loss bends down along that step, and the axis is linear between -0.001 and "
    "0.001.": lambda: SMALLEST == 0.001,
    "*Flatter steps.* Most exceptions to the first two claims lie in two runs on Tatoeba, those of SGD and of Adam at "
    "the rates that train fastest.": flatter_steps_are_exceptions_in_two_runs,
    "Adam's is 15 times the paper's.": lambda: (
        cell("losses", "lr", data="translation", algorithm="adam") / float(PAPER_RATE) == pytest.approx(15)
    ),
    "By epoch 5 the sharpness of SGD's step and of most others is negative there in some seed.": (
        most_steps_bend_down_by_epoch_5
    ),
    "At the paper's rate, on the same data, both claims hold but for one pair.": lambda: (
        exceptions(FIRST, SECOND).count("translation-adam") == 1
    ),
    "Of the other exceptions most are on CIFAR-10 and on IMDb's labels.": other_exceptions_are_on_two_data_sets,
    "*Clipped Adafactor* has the lowest sharpness in most comparisons on text, but not on CIFAR-10.": (
        clipped_adafactor_is_lowest_on_text
    ),
    "Its flatness is that of parameter scaling, part (c): without it, Adafactor's step is sharper than SGD's from "
    "epoch 3 on.": lambda: scaling(1) < 1 < min(scaling(3), scaling(5)),
    "*Lower minima.* Clipping makes most steps flatter, but it takes slope away, too: by the quadratic model only "
    "about half of the clipped steps lead lower.": lambda: (
        scans("flatter") > 0.8 * scans("pairs") and 0.4 < scans("predicted_further") / scans("pairs") < 0.6
    ),
    "The scans mostly agree with the model.": lambda: scans("as_predicted") > 0.8 * scans("pairs"),
    "*Lower training losses.* On Tatoeba, masked words and CIFAR-10 clipping helps SGD and normalized descent from "
    "every seed, and never Adafactor.": only_adafactor_trains_no_lower_when_clipped,
    "On SNLI and on IMDb's labels few rows learn anything within 50 updates: clipped normalized descent does on both, "
    "Adam on IMDb.": few_rows_learn_labels,
    "Adam ends below SGD at every size, also with the full batch, which has no noise.": lambda: (
        min(column("batch_sizes", "gap")) > 0 and max(column("batch_sizes", "batch_size")) == FULL.swept
    ),
    "At equally many examples the gap shrinks as the batch grows, and the larger batch makes fewer updates.": lambda: (
        (found := batch_gaps("examples")) == sorted(found, reverse=True)
        and (updates := column("batch_sizes", "updates", equal="examples")) == sorted(updates, reverse=True)
    ),
    "At equally many updates it is largest in the middle; with the full batch both losses end below 2.": lambda: (
        batch_gaps("updates")[1] == max(batch_gaps("updates")) and max(full_batch("sgd"), full_batch("adam")) < 2
    ),
    "Adam's step is flatter than SGD's at the end of all three runs, by about the same factor.": lambda: (
        max(ratios := last_batch_ratios()) < 1 and max(ratios) / min(ratios) < 1.2 and len(ratios) == 3
    ),
    "The gap is there without imbalance.": lambda: cell("class_imbalance", "low", zipf=0, quantity=GAP) > 0,
    "It is largest at the middle exponent, and with momentum from the first gradient it is about the same at the two "
    "larger ones.": lambda: (
        gaps(GAP)[1] == max(gaps(GAP))
        and math.isclose(*gaps(f"{GAP}, momentum from the first gradient")[1:], rel_tol=0.05)
    ),
    "At every exponent it is wider per frequent token than per rare one.": lambda: all(
        a > b for a, b in zip(*(gaps(f"{GAP}, per {t} token") for t in ("frequent", "rare")), strict=True)
    ),
    "How SGD's momentum starts matters more than the exponent: from zero, as in the paper, the gap is about half as "
    "wide.": momentum_matters_more_than_the_exponent,
    "An encoder that learned masked words lets Adam learn IMDb's labels within 50 updates, and SGD not; from fresh "
    "weights neither does.": lambda: fine_tuned_below_chance("imdb", 2) == {("pretrained", "adam")},
    "On SNLI nothing is learned from either.": lambda: fine_tuned_below_chance("snli", 3) == set(),
    "So at this size pretraining widens the gap.": lambda: all(
        fine_tuned(data, "pretrained", GAP) > fine_tuned(data, "fresh", GAP) for data in ("snli", "imdb")
    ),
    "Along Adam's run the two agree within their intervals.": lambda: all(
        row["low"] <= 1 <= row["high"] for row in batches("adam")
    ),
    "Along the two fast runs the sharpness changes its sign between seeds in most rows, and the quotient says "
    "little.": (signs_change_in_most_rows),
}

# What explains, leads on or concludes, without a number or a comparison of its own.
SAYS = [
    "This page collects what the scripts of this repository found, each result with its command.",
    "All of it comes from CPU runs on small models and small data.",
    "None of it repeats the size of the papers' experiments.",
    "These commands make every run of this section, continue a run that was stopped, and write its tables.",
    "With `--small` the first makes tiny runs on generated data, in minutes.",
    "The folder of data holds `en_fr_tatoeba/train.jsonl.gz`, `imdb/train.jsonl.gz`, `snli/train.jsonl.gz` and "
    "`cifar10/train.parquet`; what is missing is left out.",
    "Part (d) below fine-tunes an encoder that the study has trained itself, and the same as it was before.",
    "Where the hub is at hand, this command does so with the papers' own weights: it fine-tunes them, and the "
    "same architecture from fresh weights, on SNLI and IMDb.",
    "*Trajectories*:",
    '"Tuned" means that Adam trains at its tuned rate, too.',
    '"Tuned" is Adam\'s trajectory at its tuned rate.',
    '"Flatter" then means further below zero, and the order of the rows says nothing about how far each step may go.',
    "So they are claims about trajectories that train slowly enough to stay where the loss bends up.",
    "[exceptions.csv](study/exceptions.csv) names all of them.",
    "So the missing half of this claim is no contradiction to flatter steps: sharpness alone does not decide how far "
    "the loss falls.",
    "*Batch size*, part (a).",
    "So noise is not needed for the gap.",
    "*Class imbalance*, part (b).",
    "*Pretrained weights*, part (d).",
    "*Training batch against test batch*, part (e).",
    "The claims about heterogeneity are answered in [heterogeneity.md](heterogeneity.md), too.",
    "The same commands make these tables.",
    "They answer what the claims leave open.",
    "With `--only modern`, `--only clip_sweep` or `--only own_step` the first command makes a part of them.",
]


@pytest.fixture(scope="module")
def written():
    return sentences((ROOT / "docs/results.md").read_text())


@pytest.mark.parametrize("sentence", HOLDS)
def test_a_sentence_of_the_page_follows_from_the_cells(sentence, written):
    assert sentence in written, "it no longer stands there: change this list with the page"
    assert HOLDS[sentence]()


def test_each_sentence_of_the_page_is_known(written):
    """So a sentence with a number that nothing recomputes cannot be added."""
    assert [sentence for sentence in written if sentence not in HOLDS and sentence not in SAYS] == []
    assert [sentence for sentence in SAYS if sentence not in written] == []


def test_sentences_without_a_check_have_no_number():
    number = re.compile(r"\d|\b(two|three|four|five|half|twice|most|never|always)\b")
    assert [s for s in SAYS if number.search(re.sub(r"`[^`]*`|\([^)]*\)", "", s).replace("missing half", ""))] == []
