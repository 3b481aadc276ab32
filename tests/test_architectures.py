"""Slope and directional sharpness of every architecture that a task can have, in float64, by three routes."""

from functools import partial

import pytest
import torch

import run_convergence
import run_hessian
import run_landscape
from curvature.borrowing import check_twice_differentiable, measuring, twice_differentiable
from curvature.objective import functional_loss, trainable_parameters
from landscape.cross_checks import central_differences
from landscape_utils import directional_sharpness
from tasks import load_task
from tasks.architectures import TINY
from tasks.loading.pretrained import check_runs_examples

# model class -> a task that takes it; its configuration's defaults except for the size, which `Task.tiny` sets
MODELS = {
    "T5ForConditionalGeneration": "machine_translation",
    "RobertaForMaskedLM": "masked_language_modeling",
    "BertForMaskedLM": "masked_language_modeling",
    "GPTNeoForCausalLM": "autoregressive",
    "GPT2LMHeadModel": "autoregressive",
    "LlamaForCausalLM": "autoregressive",
    "DistilBertForSequenceClassification": "binary_classification",
    "BertForSequenceClassification": "binary_classification",
    "RobertaWithLinearHead": "glue/rte",
    "ResNetForImageClassification": "image_classification",
    "ViTForImageClassification": "flowers102",
}


def tiny(name: str):
    """The tiny version of a model of this class, in its task."""
    import transformers

    from tasks.roberta_linear import RobertaWithLinearHead

    task = load_task(MODELS[name], dataset="toy", model="toy", dataset_size=8)
    model_class = getattr(transformers, name, RobertaWithLinearHead)
    if not isinstance(task.model, model_class):
        config = model_class.config_class()
        with torch.device("meta"):  # full size: `tiny` only reads its class and configuration
            task.model = model_class(config)
    return task.tiny()


def random_direction(params: dict, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator).to(p) for name, p in params.items()}


@pytest.mark.parametrize("name", MODELS)
def test_slope_and_sharpness_agree_with_central_differences_and_vhp(name):
    model, losses, batch = tiny(name)
    assert type(model).__name__ == name
    assert sum(p.numel() for p in model.parameters()) <= 3000
    model.double()
    batch = {k: t.double() if t.is_floating_point() else t for k, t in batch.items()}
    with measuring(model):
        params, loss_fn = trainable_parameters(model), functional_loss(model, losses)
        directions = [random_direction(params, seed) for seed in (1, 2)]
        halves = [{k: t[:1] for k, t in batch.items()}, {k: t[1:] for k, t in batch.items()}]
        measured = directional_sharpness(loss_fn, params, directions, halves)
        for direction, ours in zip(directions, measured, strict=True):
            names, values = zip(*params.items(), strict=True)
            v = tuple(direction[n] for n in names)
            length = sum((t * t).sum() for t in v).sqrt()
            mean = lambda *p: loss_fn(dict(zip(names, p, strict=True)), batch).mean()  # noqa: B023, E731
            with twice_differentiable():
                gradient = torch.autograd.functional.jacobian(mean, values)
                _, product = torch.autograd.functional.vhp(mean, values, v)
            slope = sum((g * t).sum() for g, t in zip(gradient, v, strict=True)) / length
            sharpness = sum((p * t).sum() for p, t in zip(product, v, strict=True)) / length**2
            assert ours.slope == pytest.approx(slope.item(), rel=1e-9)
            assert ours.sharpness == pytest.approx(sharpness.item(), rel=1e-9)
            by_differences = central_differences(loss_fn, params, direction, [batch])
            assert (ours.slope, ours.sharpness) == pytest.approx(by_differences, rel=1e-5)


def test_tiny_models_of_every_known_type_are_checked_above():
    import transformers

    checked = {getattr(transformers, n).config_class.model_type for n in MODELS if hasattr(transformers, n)}
    assert checked == set(TINY)


def test_a_model_that_cannot_run_two_examples_together_is_refused_by_name(monkeypatch):
    def alone(hidden):
        if len(hidden) > 1:
            raise IndexError("index out of range in self")
        return hidden @ task.model.lm_head.weight.T

    task = load_task("toy", dataset_size=8)
    monkeypatch.setattr(task.model.lm_head, "forward", alone)
    with pytest.raises(ValueError, match="model a/b .T5.*. cannot run the examples of toy: index out of range in self"):
        check_runs_examples(task, "a/b")
    assert task.model.training


def test_a_model_without_second_derivative_is_refused_by_name(monkeypatch):
    class Once(torch.autograd.Function):
        """Like a fused kernel: a gradient, and no gradient of that."""

        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context, grad):
            return grad

    task = load_task("toy", dataset_size=8)
    check = partial(check_twice_differentiable, task.model, task.losses, task.collate(task.examples[:1]), "some/model")
    check()
    monkeypatch.setattr(task.model.lm_head, "forward", lambda x: Once.apply(x @ task.model.lm_head.weight.T))
    with pytest.raises(ValueError, match="model some/model .T5.*. cannot be differentiated twice"):
        check()
    assert task.model.training
    assert all(p.grad is None for p in task.model.parameters())


def test_only_what_measures_asks_for_a_second_derivative(tmp_path, monkeypatch, capsys):
    """Training needs none; both scripts that measure curvature say so before they write anything."""
    load_task("toy", dataset_size=8).save_model(tmp_path / "model")
    flags = ["--dataset", "toy", "--model", str(tmp_path / "model"), "--dataset_size", "8", "--batch_size", "4"]

    def refuse(model, losses, batch, name):
        assert losses(model, batch).shape == (1,)
        raise ValueError(f"{name} bends nowhere")

    for script in (run_landscape, run_hessian):
        monkeypatch.setattr(script, "check_twice_differentiable", refuse)
        with pytest.raises(SystemExit):
            script.main([*flags, "--output_dir", str(tmp_path / "run")])
        assert "model bends nowhere" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
    monkeypatch.setattr("curvature.borrowing.check_twice_differentiable", None)
    settings = run_convergence.make_parser().parse_args([*flags, "--task", "toy"])
    run_convergence.resolve(settings)
    assert len(run_convergence.load(settings, 0).examples) == 8


def test_batch_norm_runs_on_its_running_statistics_while_measuring():
    model, losses, batch = tiny("ResNetForImageClassification")
    model.train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with measuring(model):
        together = losses(model, batch)
        alone = torch.cat([losses(model, {k: t[i : i + 1] for k, t in batch.items()}) for i in range(4)])
    assert model.training
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
