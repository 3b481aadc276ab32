"""The block curvature script from its flags to its files, and the tensors that --parameters chooses."""

import math
import shutil

import pytest
import torch
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

import hessian.jobs
import run_hessian
from hessian.blocks import BlockCurvature
from hessian.heterogeneity import gini, spearman
from hessian.jobs import StartVectors, parts_of
from hessian.tables import BLOCKS, HETEROGENEITY, block_row, heterogeneity_rows, mean_rows
from run_hessian import inherit, log_unconverged, main, make_parser, report, resolve, saved_model, selected
from runs.config import read_config, write_config
from runs.folder import create_run_folder
from runs.tables import Table, read_table
from tasks import load_task
from tasks.roberta_linear import RobertaWithLinearHead
from training.loop import ORDER, random_stream

QUICK = ["--dataset_size", "32", "--batch_size", "4", "--num_batches", "2", "--parameters", r"decoder.block.1.*norm"]


def run(folder, *flags):
    assert main([*QUICK, "--output_dir", str(folder), *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "quick")


@pytest.fixture
def without_figures(monkeypatch):
    monkeypatch.setattr(run_hessian, "draw_all", lambda folder: [])


# ---- the run folder ---------------------------------------------------------------------------------------------


def test_run_leaves_config_tables_and_figures(folder):
    names = {"config.json", "log.txt", "blocks.csv", "heterogeneity.csv", "figures", "report.html"}
    assert {path.name for path in folder.iterdir()} == names
    assert {path.stem for path in (folder / "figures").iterdir()} == {
        "gradient_against_curvature", "along_depth", "lorenz",
    }  # fmt: skip
    settings = read_config(folder)["settings"]
    assert (settings["task"], settings["model"], settings["seed"], settings["num_batches"]) == ("toy", "toy", 0, 2)


def test_every_block_has_a_row_for_each_batch_and_for_their_mean(folder):
    rows = read_table(folder / "blocks.csv")
    assert list(rows[0]) == BLOCKS
    assert [row["batch"] for row in rows] == [1] * 3 + [2] * 3 + ["mean"] * 3
    for one, two, mean in zip(rows[:3], rows[3:6], rows[6:], strict=True):
        assert one["block"] == two["block"] == mean["block"]
        assert mean["kind"] == "norm"
        assert mean["layer"] == "decoder.block.1"
        for column in ("gradient_norm", "eigenvalue", "residual", "magnitude_eigenvalue"):
            assert mean[column] == pytest.approx((one[column] + two[column]) / 2)
        assert mean["products"] == one["products"] + two["products"]


def test_gradient_norms_are_those_of_the_first_examples_of_the_training_order(folder):
    task = load_task("toy", "toy", "toy", dataset_size=32)
    indices = random_stream(0, ORDER, 1).permutation(32)[:4]
    model = task.model.eval()
    task.losses(model, task.collate([task.examples[i] for i in indices])).mean().backward()
    for row in read_table(folder / "blocks.csv")[:3]:
        assert row["gradient_norm"] == pytest.approx(model.get_parameter(row["block"]).grad.norm().item(), rel=1e-4)


def test_heterogeneity_is_measured_for_each_batch_and_for_the_mean(folder):
    rows = read_table(folder / "heterogeneity.csv")
    assert [row["batch"] for row in rows if row["grouping"] == "all"] == [1, 2, "mean"]
    assert {row["group"] for row in rows} == {"all", "norm", "decoder.block.1"}
    blocks = read_table(folder / "blocks.csv")
    for row in rows:
        if row["grouping"] == "all":
            norms = [block["gradient_norm"] for block in blocks if block["batch"] == row["batch"]]
            assert row["gini_gradient"] == pytest.approx(gini(norms))
    assert all(0 <= row["gini_gradient"] < 1 for row in rows)


def test_same_seed_gives_the_same_bytes_and_another_seed_another_run(folder, tmp_path, without_figures):
    again, other = run(tmp_path / "again"), run(tmp_path / "other", "--seed", "1")
    for table in ("blocks.csv", "heterogeneity.csv"):
        assert (again / table).read_bytes() == (folder / table).read_bytes()
        assert (other / table).read_bytes() != (folder / table).read_bytes()


def test_micro_batches_rebuilt_graphs_and_float64_change_no_value(folder, tmp_path, without_figures):
    split = run(tmp_path / "split", "--micro_batch_size", "3", "--dtype", "float64", "--num_batches", "1")
    rebuilt = run(tmp_path / "rebuilt", "--rebuild_graphs", "--dtype", "float64", "--num_batches", "1")
    for column, rel in (("gradient_norm", 1e-10), ("eigenvalue", 1e-9)):
        values = [[row[column] for row in read_table(place / "blocks.csv")[:3]] for place in (split, rebuilt, folder)]
        assert values[0] == pytest.approx(values[1], rel=rel)
        assert values[2] == pytest.approx(values[0], rel=1e-3)  # float32, tolerance 1e-3


def test_all_batches_are_those_of_an_epoch_and_the_last_may_be_smaller(tmp_path, capsys, without_figures):
    folder = run(tmp_path / "all", "--num_batches", "all", "--dataset_size", "10", "--parameters", "final_layer_norm")
    rows = read_table(folder / "blocks.csv")
    assert [row["batch"] for row in rows] == [1, 1, 2, 2, 3, 3, "mean", "mean"]
    assert "Mean over 3 batches of 4 examples" in capsys.readouterr().out
    task = load_task("toy", "toy", "toy", dataset_size=10)
    for batch, (first, last) in enumerate([(0, 4), (4, 8), (8, 10)], start=1):
        task.model.zero_grad()
        indices = random_stream(0, ORDER, 1).permutation(10)[first:last]
        task.losses(task.model.eval(), task.collate([task.examples[i] for i in indices])).mean().backward()
        for row in rows:
            if row["batch"] == batch:
                norm = task.model.get_parameter(row["block"]).grad.norm().item()
                assert row["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert read_config(folder)["settings"]["num_batches"] == "all"
    assert main(["--resume", str(folder)]) == 0


def test_printed_table_shows_residual_products_and_what_did_not_converge(tmp_path, capsys, without_figures):
    run(tmp_path / "short", "--max_iterations", "2")
    printed = capsys.readouterr().out
    header = printed.splitlines()[1]
    assert all(column in header for column in ("eigenvalue", "residual", "converged", "products"))
    assert " NO " in printed
    assert {row["converged"] for row in read_table(tmp_path / "short" / "blocks.csv")} == {0}


def test_what_did_not_converge_is_counted_and_what_is_not_told_from_zero(monkeypatch):
    said = []
    monkeypatch.setattr(run_hessian.log, "warning", lambda text, *values: said.append(text % values))
    row = dict(batch=1, eigenvalue=2.0, residual=0.1, converged=True)
    rows = [
        row,
        row | dict(converged=False),
        row | dict(converged=False, residual=3.0),
        row | dict(converged=False, residual=2.0),
        row | dict(converged=False, eigenvalue=None),  # not finite: said when it was measured
        row | dict(converged=False, batch="mean"),
    ]
    settings = make_parser().parse_args(["--tolerance", "0.25", "--max_iterations", "7"])
    log_unconverged(rows, settings)
    assert len(said) == 1
    assert said[0].startswith("3 of 4 eigenvalues did not converge")
    assert "--tolerance 0.25, --max_iterations 7" in said[0]
    assert "2 of them cannot be told from 0" in said[0]
    log_unconverged(rows[:1], settings)
    assert len(said) == 1


def test_the_printed_table_is_of_means_the_largest_first_and_groups_them_by_kind():
    row = dict(numel=3, gradient_norm=1.0, residual=0.1, converged=True, products=4)
    blocks, unevenness = Table("blocks.csv", ["batch", "block", "eigenvalue", *row]), Table("h.csv", HETEROGENEITY)
    for k in range(25):
        blocks.append(row, batch=1, block=f"first{k}", eigenvalue=100.0 + k)
        blocks.append(row, batch="mean", block=f"mean{k}", eigenvalue=None if k == 7 else float(k))
    measures = dict.fromkeys(HETEROGENEITY, 0.5)
    for batch in (1, "mean"):
        for grouping, group in (("all", "all"), ("kind", "norm"), ("layer", "h.0")):
            unevenness.append(measures | dict(batch=batch, grouping=grouping, group=f"{group} {batch}"))
    settings = make_parser().parse_args(["--batch_size", "6"])
    lines = report(blocks, unevenness, settings).splitlines()
    assert lines[0] == "Mean over 1 batches of 6 examples: the 20 of largest eigenvalue, of 25 tensors"
    assert [line.split()[0] for line in lines[3:23]] == [f"mean{k}" for k in range(24, 3, -1) if k != 7]
    assert lines[23] == ""
    assert [line.split("  ")[0] for line in lines[28:]] == ["all mean", "norm mean"]


def test_a_row_of_blocks_has_every_field_of_the_measurement_under_its_name():
    block = BlockCurvature(
        eigenvalue=1.0, residual=2.0, converged=True, magnitude_eigenvalue=-3.0, magnitude_residual=4.0,
        magnitude_converged=False, products=5, name="encoder.layer.2.attention.self.key.weight", numel=6,
        gradient_norm=7.0,
    )  # fmt: skip
    assert block_row(block, 8) == dict(
        batch=8, block="encoder.layer.2.attention.self.key.weight", kind="attention", layer="encoder.layer.2", numel=6,
        gradient_norm=7.0, eigenvalue=1.0, residual=2.0, converged=True, magnitude_eigenvalue=-3.0,
        magnitude_residual=4.0, magnitude_converged=False, products=5,
    )  # fmt: skip
    assert list(block_row(block, 8)) == BLOCKS


def test_rows_of_heterogeneity_leave_out_what_is_not_finite_and_take_the_unresolved_for_zero():
    shared = dict(kind="mlp", layer="h.0", numel=4)
    numbers = [(1.0, 5.0), (2.0, 0.5), (4.0, 3.0), (3.0, None), (2.5, 7.0), (0.5, 1.5), (1.5, 2.0)]
    rows = [
        shared | dict(block=f"h.0.mlp.{k}", gradient_norm=norm, eigenvalue=value, residual=1.0)
        for k, (norm, value) in enumerate(numbers)
    ]
    measures = heterogeneity_rows(rows, 3, seed=11)
    assert [(row["batch"], row["grouping"], row["group"]) for row in measures] == [
        (3, "all", "all"), (3, "kind", "mlp"), (3, "layer", "h.0"),
    ]  # fmt: skip
    norms, values = zip(*((norm, 0.0 if value == 0.5 else value) for norm, value in numbers if value), strict=True)
    for row in measures:
        assert list(row) == HETEROGENEITY
        assert (row["blocks"], row["parameters"]) == (6, 24)
        assert row["gini_eigenvalue"] == pytest.approx(gini(values))
        assert row["spearman_low"] == spearman(norms, values, seed=11).low


def test_the_intervals_are_drawn_from_the_seed():
    draw = torch.Generator().manual_seed(0)
    numbers = torch.rand(12, 2, generator=draw).tolist()
    rows = [dict(block=f"h.{i}.mlp", gradient_norm=norm, eigenvalue=value, residual=0.0, numel=4)
            for i, (norm, value) in enumerate(numbers)]  # fmt: skip
    one, again, other = (heterogeneity_rows(rows, "mean", seed)[0] for seed in (11, 11, 12))
    assert one == again and one["log_log_low"] != other["log_log_low"]


def test_flags_reach_the_measurement(tmp_path, monkeypatch, capsys):
    seen = {}

    def micro_batches(task, indices, *rest):
        seen.update(indices=indices, micro_batches=rest)
        return real(task, indices, *rest)

    def gradient_graph(loss_fn, params, batches, names, keep_graphs):
        seen.update(names=names, types={p.dtype for p in params.values()}, keep_graphs=keep_graphs)

    def block_curvature(graph, name, tolerance, max_iterations, generator):
        seen.update(tolerance=tolerance, max_iterations=max_iterations, generator=generator)
        raise FloatingPointError("enough")

    real = hessian.jobs.micro_batches
    for spy in (micro_batches, gradient_graph, block_curvature):
        monkeypatch.setattr(hessian.jobs, spy.__name__, spy)
    flags = ["--tolerance", "0.03", "--max_iterations", "9", "--rebuild_graphs", "--dtype", "float64", "--seed", "4"]
    assert main([*QUICK, *flags, "--micro_batch_size", "3", "--output_dir", str(tmp_path / "run")]) == 1
    assert "enough" in capsys.readouterr().err
    assert (seen["tolerance"], seen["max_iterations"], seen["keep_graphs"]) == (0.03, 9, False)
    assert seen["generator"].initial_seed() == 4
    assert seen["indices"] == random_stream(4, ORDER, 1).permutation(32)[:4].tolist()
    assert seen["micro_batches"] == (3, torch.device("cpu"), torch.float64)
    assert seen["types"] == {torch.float64}
    assert len(seen["names"]) == 3 and all("norm" in name for name in seen["names"])


def test_flags_left_out_have_the_values_that_help_names():
    settings = make_parser().parse_args([])
    resolve(settings)
    assert (settings.task, settings.seed, settings.num_batches, settings.batch_size) == ("toy", 0, 2, 32)
    assert (settings.tolerance, settings.max_iterations, settings.dtype) == (1e-3, 100, "float32")
    assert (settings.parameters, settings.rebuild_graphs) == (None, False)
    assert settings.output_dir == "output/hessian-toy"


def test_a_tensor_starts_from_the_same_vector_in_whatever_order_all_are_measured():
    """Those of today follow each other in one stream: of all tensors in their order, batch after batch."""
    sizes, stream = {"a": 20, "b": 3, "c": 5}, torch.Generator().manual_seed(7)
    expected = [(batch, name, torch.randn(sizes[name], generator=stream)) for batch in (1, 2, 3) for name in sizes]
    for order in (expected, expected[::-1], expected[::2] + expected[1::2]):
        starts = StartVectors(7, sizes, torch.float32)
        for batch, name, vector in order:
            assert torch.equal(torch.randn(sizes[name], generator=starts.of(batch, name)), vector), (batch, name)
    again = starts.of(2, "b")
    torch.rand(100, generator=again)  # a second vector of one tensor is no other tensor's matter
    assert torch.equal(torch.randn(5, generator=starts.of(2, "c")), expected[5][2])


@pytest.mark.parametrize(("tensors", "batches", "sizes"), [
    (6, 2, [1] * 6), (100, 2, [3, 3, 3, 3, 3, 3, 3, 4] * 4), (5, 64, [5]), (5, 200, [5]), (5, 32, [2, 3]), (1, 1, [1]),
])  # fmt: skip
def test_the_tensors_of_a_batch_are_cut_into_enough_jobs_and_none_is_left_out(tensors, batches, sizes):
    names = [f"tensor{i}" for i in range(tensors)]
    parts = parts_of(names, batches)
    assert [name for part in parts for name in part] == names
    assert [len(part) for part in parts] == sizes


def test_mean_is_empty_where_a_batch_has_no_number_and_unconverged_where_one_is():
    shared = dict(block="x", kind="mlp", layer="h.0", numel=3, gradient_norm=1.0, residual=0.1,
                  magnitude_eigenvalue=2.0, magnitude_residual=0.1, magnitude_converged=True)  # fmt: skip
    rows = [
        shared | dict(batch=1, eigenvalue=2.0, converged=True, products=4),
        shared | dict(batch=2, eigenvalue=None, converged=False, products=5),
    ]
    (mean,) = mean_rows(rows, ["x"])
    assert (mean["batch"], mean["eigenvalue"], mean["converged"], mean["products"]) == ("mean", None, False, 9)
    assert (mean["gradient_norm"], mean["magnitude_eigenvalue"], mean["magnitude_converged"]) == (1.0, 2.0, True)


def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(tmp_path, capsys):
    task = load_task("toy", "toy", "toy", dataset_size=32)
    with torch.no_grad():
        task.model.shared.weight.fill_(math.nan)
    task.save_model(tmp_path / "model")
    flags = [*QUICK, "--checkpoint", str(tmp_path / "model"), "--output_dir", str(tmp_path / "run")]
    assert main([*flags, "--task", "toy", "--dataset", "toy"]) == 1
    assert "stopped: the loss is not finite" in capsys.readouterr().err


# ---- which tensors ----------------------------------------------------------------------------------------------


def on_meta(model_class, config):
    with torch.device("meta"):
        return model_class(config)


def test_papers_choice_in_roberta_base_is_its_22_tensors():
    names = selected(on_meta(RobertaWithLinearHead, RobertaConfig()), "paper")
    assert len(names) == 22
    assert [name.split(".")[3] for name in names[:-1]] == ["0"] * 7 + ["6"] * 7 + ["11"] * 7
    assert names[-1] == "classifier.out_proj.weight"
    assert all(name.endswith(".weight") for name in names)


def test_papers_choice_in_resnet_18_is_its_21_tensors():
    config = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    names = selected(on_meta(ResNetForImageClassification, config), "paper")
    stages = [name.split(".")[3] for name in names[:-1]]
    assert stages == ["0"] * 6 + ["2"] * 7 + ["3"] * 7
    assert names[-1] == "classifier.1.weight"
    assert sum("shortcut.convolution" in name for name in names) == 2
    assert sum("normalization" in name for name in names) == 6  # the first norm of each block, none of the shortcuts


def test_papers_choice_in_vit_base_has_queries_keys_and_values_apart():
    names = selected(on_meta(ViTForImageClassification, ViTConfig()), "paper")
    assert len(names) == 16 + 2 * 3
    assert names[-1] == "classifier.weight"


def test_smaller_models_give_first_middle_and_last_layer_once():
    config = RobertaConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    assert len(selected(on_meta(RobertaWithLinearHead, config), "paper")) == 2 * 7 + 1
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    assert len(selected(on_meta(ResNetForImageClassification, config), "paper")) == 3 + 1


def test_frozen_tensors_are_not_chosen():
    model = on_meta(RobertaWithLinearHead, RobertaConfig(num_hidden_layers=1))
    model.classifier.out_proj.weight.requires_grad_(False)
    assert selected(model, "out_proj") == ["classifier.out_proj.bias"]


def test_a_regular_expression_chooses_by_any_part_of_the_name():
    model = on_meta(RobertaWithLinearHead, RobertaConfig(num_hidden_layers=2))
    assert selected(model, r"layer\.1\..*key") == [
        f"roberta.encoder.layer.1.attention.self.key.{end}" for end in ("weight", "bias")
    ]
    assert len(selected(model, None)) == len(list(model.parameters()))


def test_papers_choice_is_refused_for_other_models():
    with pytest.raises(ValueError, match="--parameters paper is for RoBERTa, ResNet and ViT, not t5"):
        selected(on_meta(T5ForConditionalGeneration, T5Config(num_layers=1)), "paper")


# ---- checkpoints and flags --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder with one saved model, as run_convergence.py --save_model leaves it."""
    folder = create_run_folder(tmp_path_factory.mktemp("trained") / "run")
    settings = dict(task="glue/rte", dataset="toy", dataset_size=40, max_length=32, seeds=[5, 6])
    write_config(folder, settings, [])
    load_task("glue/rte", "toy", "toy", 40, seed=5, max_length=32).save_model(folder / "model" / "seed5-1-adam")
    return folder


def test_checkpoint_brings_the_task_data_and_seed_of_its_run(trained):
    settings = make_parser().parse_args(["--checkpoint", str(trained)])
    resolve(settings)
    assert settings.model == str(trained / "model" / "seed5-1-adam")
    assert (settings.task, settings.dataset, settings.dataset_size, settings.max_length) == ("glue/rte", "toy", 40, 32)
    assert settings.seed == 5
    assert settings.batch_size == 8  # the task's, smaller than 32


def test_flags_given_beside_a_checkpoint_stand(trained):
    settings = make_parser().parse_args(["--checkpoint", str(trained), "--seed", "0", "--dataset_size", "20"])
    resolve(settings)
    assert (settings.seed, settings.dataset_size, settings.max_length) == (0, 20, 32)


def test_a_saved_model_is_measured_at_its_own_weights(trained, tmp_path, without_figures):
    flags = ["--checkpoint", str(trained), "--num_batches", "1", "--batch_size", "4", "--parameters", "out_proj"]
    assert main([*flags, "--output_dir", str(tmp_path / "run")]) == 0
    task = load_task("glue/rte", "toy", str(trained / "model" / "seed5-1-adam"), 40, seed=5, max_length=32)
    indices = random_stream(5, ORDER, 1).permutation(40)[:4]
    task.losses(task.model.eval(), task.collate([task.examples[i] for i in indices])).mean().backward()
    row = read_table(tmp_path / "run" / "blocks.csv")[0]
    norm = task.model.get_parameter(row["block"]).grad.norm().item()
    assert row["gradient_norm"] == pytest.approx(norm, rel=1e-4)


def test_a_trained_model_is_measured_though_its_earlier_epochs_lie_below_it(trained):
    """As run_convergence.py --save_model --num_epoch_to_save leaves them."""
    final = trained / "model" / "seed5-1-adam"
    for epoch in ("epoch1", "epoch2"):
        (final / epoch).mkdir(exist_ok=True)
        (final / epoch / "model.safetensors").touch()
    try:
        assert saved_model(final) == final
        assert saved_model(final / "epoch1") == final / "epoch1"
        with pytest.raises(ValueError, match="holds 3 models; choose one: .*seed5-1-adam, .*epoch1, .*epoch2"):
            saved_model(trained)
        settings = make_parser().parse_args(["--checkpoint", str(final / "epoch1")])
        resolve(settings)
        assert (settings.model, settings.seed) == (str(final / "epoch1"), 5)
    finally:
        for epoch in ("epoch1", "epoch2"):
            shutil.rmtree(final / epoch)


ODD = {
    "seeds empty": (dict(task="glue/rte", seeds=[]), None),
    "seeds a number": (dict(task="glue/rte", seeds=3), None),
    "a seed of text": (dict(task="glue/rte", seeds=["x"]), "gives no seed to measure with: expected int"),
    "a seed of nothing": (dict(task="glue/rte", seed=-1), "gives no seed"),
    "task unknown": (dict(task="gleu/rte"), "gives no task to measure with: unknown task 'gleu/rte'; did you mean"),
    "task a number": (dict(task=3), "gives no task"),
    "task a list": (dict(task=["glue/rte"]), "gives no task"),
    "size of text": (dict(task="glue/rte", dataset_size="many"), "gives no dataset_size to measure with: expected int"),
    "size true": (dict(task="glue/rte", dataset_size=True), "gives no dataset_size"),
    "size of a fraction": (dict(task="glue/rte", dataset_size=2.5), "gives no dataset_size"),
    "length in a mapping": (dict(task="glue/rte", max_length={"x": 1}), "gives no max_length"),
    "data empty": (dict(task="glue/rte", dataset=""), "gives no dataset to measure with: expected a name"),
    "nothing": ({}, None),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_config_of_the_checkpoints_run_is_answered_in_one_line(name, tmp_path):
    settings, answer = ODD[name]
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").touch()
    write_config(tmp_path, settings, [])
    parsed = make_parser().parse_args(["--checkpoint", str(tmp_path)])
    if answer is None:
        inherit(parsed, model)
        assert (parsed.task, parsed.seed) == (settings.get("task"), None)
    else:
        with pytest.raises(ValueError, match=answer) as error:
            resolve(parsed)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 3}'])
def test_a_damaged_config_of_the_checkpoints_run_is_not_passed_over(text, tmp_path):
    """Passed over, the model would be measured on another task's data."""
    model = tmp_path / "model" / "seed0-0-adam" / "epoch1"
    model.mkdir(parents=True)
    (model / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        resolve(make_parser().parse_args(["--checkpoint", str(tmp_path)]))


def test_a_model_outside_of_a_run_hands_on_no_settings(tmp_path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "model.safetensors").touch()
    (tmp_path / "copy" / "config.json").write_text('{"model_type": "t5"}')  # the model's own
    parsed = make_parser().parse_args(["--checkpoint", str(tmp_path / "copy")])
    inherit(parsed, tmp_path / "copy")
    assert (parsed.task, parsed.seed, parsed.dataset_size) == (None, None, None)


def test_checkpoints_that_are_none_or_many_are_named(trained, tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        saved_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no saved model; --save_model keeps one"):
        saved_model(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    with pytest.raises(ValueError, match="holds 2 models; choose one: .*a, .*b"):
        saved_model(tmp_path)
