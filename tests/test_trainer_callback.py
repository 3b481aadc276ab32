"""LandscapeCallback in the Trainer of transformers: what it logs, and that the run does not feel it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from landscape_core.example_losses import example_losses
from landscape_probe import LandscapeCallback, LandscapeProbe
from tests.test_landscape_probe import NUMBERS


def gpt2(dropout=0.1):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    rates = dict(resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout)
    sizes = dict(vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(GPT2Config(**sizes, **rates))


def examples(count=24):
    ids = torch.randint(1, 32, (count, 8), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in ids]


# ---- the callback alone: a stand-in for the Trainer ----------------------------------------------------------------


class Stand:
    """What the callback asks of a Trainer."""

    def __init__(self, model):
        self.model = self.model_wrapped = model
        self.optimizer, self.logs = torch.optim.AdamW(model.parameters(), lr=1e-2), []

    def get_test_dataloader(self, rows):
        torch.rand(1)  # as a collator that masks
        pairs = [rows[i : i + 4] for i in range(0, len(rows), 4)]
        return [{k: torch.stack([row[k] for row in part]) for k in part[0]} for part in pairs]

    def log(self, numbers):
        self.logs.append(numbers)


def run(model, folder, updates, callback=None, trainer=None, first=0, save_at=None):
    trainer = trainer or Stand(model)
    callback = callback(trainer) if callback else None
    args, state = SimpleNamespace(output_dir=str(folder)), SimpleNamespace(global_step=first)
    data = trainer.get_test_dataloader(examples())
    torch.manual_seed(first)
    if callback:
        callback.on_train_begin(args, state, None)
    for step in range(first, first + updates):
        state.global_step = step
        model.train()
        model(**data[step % len(data)]).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        if callback:
            callback.on_pre_optimizer_step(args, state, None)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        state.global_step += 1
        if callback and state.global_step == save_at:
            (folder / f"checkpoint-{save_at}").mkdir()
            callback.on_save(args, state, None)
    return trainer, callback


def test_it_logs_the_columns_of_every_row_at_the_updates_asked_for(tmp_path):
    model = gpt2()
    trainer, callback = run(model, tmp_path, 5, lambda t: LandscapeCallback(t, examples(8), every=2))
    assert len(trainer.logs) == 3
    assert {"landscape/loss", "landscape/training/sharpness", "landscape/sgd/ratio"} <= trainer.logs[0].keys()
    assert [row["step"] for row in callback.rows if row["algorithm"] == "adam"] == [0, 2, 4]
    assert list(callback.rows[0]) == ["step", *NUMBERS]
    by_hand = example_losses(gpt2().eval(), trainer.get_test_dataloader(examples(8))[0])
    half = example_losses(gpt2().eval(), trainer.get_test_dataloader(examples(8))[1])
    assert trainer.logs[0]["landscape/loss"] == pytest.approx(torch.cat([by_hand, half]).mean().item(), rel=1e-5)
    assert trainer.logs[2]["landscape/adam/sharpness"] == callback.rows[-1]["sharpness"]


def test_a_run_with_it_ends_in_the_same_bits(tmp_path):
    plain, probed = gpt2(), gpt2()
    run(plain, tmp_path, 4)
    run(probed, tmp_path, 4, lambda t: LandscapeCallback(t, examples(8), every=2))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), probed.parameters(), strict=True))


def test_the_rows_go_on_from_the_checkpoint(tmp_path):
    def make(t):
        return LandscapeCallback(t, examples(8), every=3, algorithms=["sgd", "adam"])

    whole = run(gpt2(dropout=0), tmp_path / "whole", 4, make)[1].rows
    model = gpt2(dropout=0)
    trainer, _ = run(model, tmp_path, 2, make, save_at=2)
    rows = run(model, tmp_path, 2, make, trainer=trainer, first=2)[1].rows
    assert [row["sharpness"] for row in rows] == pytest.approx([row["sharpness"] for row in whole[-3:]], rel=1e-6)


def test_a_run_that_goes_on_without_the_state_of_the_rows_says_so(tmp_path, caplog):
    run(gpt2(), tmp_path, 1, lambda t: LandscapeCallback(t, examples(8)), first=2)
    assert "landscape_probe.pt is not there: the rows start with fresh states at update 2" in caplog.text


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((Stand(nn.Linear(1, 1)), [], 0), "every is a number of updates, 1 or more, got 0"),
        (([1], [], 5), r"takes the Trainer first, got list"),
    ],
)
def test_wrong_arguments_are_refused(arguments, text):
    trainer, rows, every = arguments
    with pytest.raises(ValueError, match=text):
        LandscapeCallback(trainer, rows, every=every)


# ---- the losses of models of transformers --------------------------------------------------------------------------


def test_the_loss_of_one_example_is_that_of_the_model():
    import transformers

    masked = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    translation = transformers.T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    ids = torch.randint(1, 32, (1, 8), generator=torch.Generator().manual_seed(1))
    scored = ids.clone()
    scored[0, 2:4] = -100
    for model, labels in (
        (gpt2(), scored),
        (transformers.BertForMaskedLM(masked), scored),
        (transformers.BertForSequenceClassification(masked), torch.tensor([1])),
        (transformers.T5ForConditionalGeneration(translation), scored),
    ):
        model.eval()
        batch = {"input_ids": ids, "labels": labels}
        losses = example_losses(model, batch)
        assert losses.shape == (1,) and losses.item() == pytest.approx(model(**batch).loss.item(), rel=1e-5)


def test_losses_that_are_not_known_are_refused():
    model = gpt2()
    model.__class__ = type("GPT2Model", (type(model),), {})
    ids = torch.ones(2, 4, dtype=torch.long)
    for batch, text in (
        ({"input_ids": ids, "labels": ids}, "no losses are known for GPT2Model, a model of an unknown kind"),
        ({"input_ids": ids}, "the losses of GPT2Model need a batch with the entry labels"),
    ):
        with pytest.raises(ValueError, match=f"^{text}.*pass losses_of_batch=[^\n]*$"):
            example_losses(model, batch)


# ---- the Trainer itself --------------------------------------------------------------------------------------------


def trained(folder, with_callback, **options):
    from transformers import Trainer, TrainingArguments

    plan = TrainingArguments(
        str(folder),
        max_steps=4,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        per_device_train_batch_size=4,
        **options,
    )
    trainer = Trainer(gpt2(), plan, train_dataset=examples())
    if with_callback:
        callback = LandscapeCallback(trainer, examples(8), every=2, algorithms=["sgd", "adam"])
        trainer.add_callback(callback)
    return trainer, callback if with_callback else None


def test_the_trainer_logs_it_and_ends_in_the_same_bits(tmp_path):
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
    found = []
    for with_callback in (False, True):
        trainer, callback = trained(
            tmp_path / str(with_callback), with_callback, save_steps=2, gradient_accumulation_steps=2, max_grad_norm=0.5
        )
        trainer.train()
        found.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(map(torch.equal, *found))
    logged = [entry for entry in trainer.state.log_history if "landscape/adam/sharpness" in entry]
    assert [entry["step"] for entry in logged] == [0, 2] and "epoch" in logged[0]
    own = [row for row in callback.rows if row["algorithm"] == "training"]
    assert [row["step"] for row in own] == [0, 2] and own[1]["learning_rate"] == pytest.approx(1e-2 / 2)
    assert (tmp_path / "True" / "checkpoint-2" / "landscape_probe.pt").is_file()
    again, callback = trained(tmp_path / "True", True, save_steps=2, gradient_accumulation_steps=2, max_grad_norm=0.5)
    again.train(resume_from_checkpoint=str(tmp_path / "True" / "checkpoint-2"))
    resumed = {row["algorithm"]: row["sharpness"] for row in callback.rows}
    for row in own[1:]:
        assert resumed["training"] == pytest.approx(row["sharpness"], rel=1e-4)


def test_the_numbers_in_the_trainer_are_those_of_a_plain_loop(tmp_path):
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
    from transformers import Trainer, TrainingArguments

    plan = TrainingArguments(
        str(tmp_path),
        max_steps=3,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        per_device_train_batch_size=8,
        report_to=[],
        use_cpu=True,
    )

    def mean(outputs, labels, num_items_in_batch=None):  # the Trainer's own divides by the tokens before the shift
        return nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    trainer = Trainer(gpt2(dropout=0).double(), plan, train_dataset=examples(8), compute_loss_func=mean)
    callback = LandscapeCallback(trainer, examples(8), every=2)
    trainer.add_callback(callback)
    trainer.train()
    model = gpt2(dropout=0).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    probe, expected = LandscapeProbe(model, example_losses, optimizer=optimizer), []
    batch = {name: torch.stack([row[name] for row in examples(8)]) for name in ("input_ids", "labels")}
    for step in range(3):
        example_losses(model, batch).mean().backward()
        probe.observe()
        if step % 2 == 0:
            expected += [{"step": step, **row} for row in probe.measure(batch)]
        optimizer.step()
        optimizer.zero_grad()
    assert len(callback.rows) == len(expected) == 10
    for ours, theirs in zip(callback.rows, expected, strict=True):
        for name in ("step", "algorithm", "loss", "slope", "sharpness", "ratio", "step_norm", "edge_realized"):
            wanted = theirs[name]
            assert ours[name] == (wanted if isinstance(wanted, str) else pytest.approx(wanted, rel=1e-6)), name


def test_lightning_recipe_of_the_page_runs(tmp_path):
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
    from tests.test_your_own_loop import program

    names: dict = {}
    exec(program("class Landscape(lightning.Callback)"), names)
    model, logged = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), []

    def losses_of_batch(model, batch):
        net = getattr(model, "net", model)
        return nn.functional.cross_entropy(net(batch[0]), batch[1], reduction="none")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model

        def training_step(self, batch, index):
            return losses_of_batch(self, batch).mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

        def log_dict(self, numbers, **options):
            logged.append(numbers)

    data = torch.utils.data.TensorDataset(torch.randn(16, 3), torch.randint(2, (16,)))
    trainer = lightning.Trainer(
        max_steps=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[names["Landscape"](losses_of_batch, data[:8], every=2)],
        default_root_dir=tmp_path,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=4))
    assert len(logged) == 10 and "landscape/training/sharpness" in logged[0]
    assert LandscapeProbe is not None
