"""The monitor where people train: Lightning, Hugging Face, compiled and autocast loops; the same weights throughout."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import eigenstep as es
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.training import read_log

EXAMPLES = Path(__file__).parent.parent / "examples"
KEYS = {f"curvature/{n}" for n in ("sharpness", "stability_ratio", "max_stable_lr", "seconds")}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {key: [(e.step, e.value) for e in read.Scalars(key)] for key in read.Tags()["scalars"]}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    import importlib

    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for name in ("training_plain", "training_lightning", "training_hugging_face", "digits_mlp"):
        sys.modules.pop(name, None)


def agrees(folder: Path, measured: list[dict], names: set[str]) -> None:
    """The event files hold the keys, at the records' steps and with their values; the log holds the same."""
    found = events(folder)
    assert names <= set(found)
    for key in names:
        name = key.removeprefix("curvature/")
        expected = [(r["step"], r[name]) for r in measured if r[name] is not None]
        assert [s for s, _ in found[key]] == [s for s, _ in expected]
        assert [v for _, v in found[key]] == pytest.approx([v for _, v in expected], rel=1e-6)
    log = read_log(folder / "run.jsonl")
    assert [r["step"] for r in log.measured] == [r["step"] for r in measured]


@pytest.mark.slow
def test_the_plain_example_writes_the_keys_and_is_rescued(example, tmp_path: Path) -> None:
    monitor = example("training_plain").main(tmp_path, epochs=4)
    agrees(tmp_path, monitor.measured, KEYS)
    losses = [r["loss"] for r in monitor.records]
    assert losses[-1] < 0.5 * losses[0]  # at lr = 10, momentum .9, as given, it is nan by now


@pytest.mark.slow
def test_the_lightning_example_writes_the_keys(example, tmp_path: Path) -> None:
    monitor = example("training_lightning").main(tmp_path, epochs=2).monitor
    agrees(tmp_path, monitor.measured, KEYS | {"curvature/preconditioned_sharpness"})
    assert len(monitor.records) == 30 and monitor.records[0]["certified"]
    assert all(r["grad_norm"] <= 1.001 for r in monitor.records)  # as clipped


@pytest.mark.slow
def test_the_hugging_face_example_writes_the_keys(example, tmp_path: Path) -> None:
    monitor = example("training_hugging_face").main(tmp_path, steps=14).monitor
    agrees(tmp_path, monitor.measured, KEYS | {"curvature/preconditioned_sharpness"})
    assert [r["step"] for r in monitor.records] == list(range(1, 15))
    assert monitor.records[0]["lr"] == 0 and monitor.records[0]["stability_ratio"] is None
    assert all(r["loss"] is not None for r in monitor.records)


def lightning_run(watch: bool, folder: Path, package: str = "lightning.pytorch", **options: object):
    import importlib

    pl = importlib.import_module(package)
    from eigenstep.training.adapters import lightning as adapter

    adapter = importlib.reload(adapter)

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 3))

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            value = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("train/loss", value)
            return value

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(k / 3, 1.0))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    torch.manual_seed(0)
    model = Model()
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(64, 6, generator=generator), torch.randint(3, (64,), generator=generator))
    callback = adapter.MonitorCallback(every=2, budget=1.0, dense=2) if watch else None
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",
        devices=1,
        callbacks=[callback] if callback else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(model, DataLoader(data, batch_size=8, shuffle=True))
    return model, callback, torch.rand(2), trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "options"),
    [
        ("lightning.pytorch", {"gradient_clip_val": 0.5}),
        ("lightning.pytorch", {"accumulate_grad_batches": 4, "precision": "bf16-mixed"}),
        ("pytorch_lightning", {}),
    ],
)
def test_lightning_trains_the_same_bit_for_bit(package: str, options: dict, tmp_path: Path) -> None:
    model, callback, drawn, trainer = lightning_run(True, tmp_path, package, **options)
    same, _, same_drawn, _ = lightning_run(False, tmp_path, package, **options)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True))
    assert torch.equal(drawn, same_drawn)
    monitor = callback.monitor
    updates = 32 // options.get("accumulate_grad_batches", 1)
    assert [r["step"] for r in monitor.records] == list(range(1, updates + 1))
    assert len(monitor.measured) >= 2 + 3
    assert all(r["loss"] > 0.1 for r in monitor.records)
    assert "curvature/sharpness" in trainer.callback_metrics
    assert callback.state_dict()["count"] == updates


@pytest.mark.slow
def test_lightning_resumes_from_its_checkpoint_and_refuses_processes(tmp_path: Path) -> None:
    _, callback, _, trainer = lightning_run(True, tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    from eigenstep.training.adapters.lightning import MonitorCallback

    again = MonitorCallback(every=2, budget=1.0)
    again.load_state_dict(callback.state_dict())
    trainer.callbacks[-1:] = [again]
    trainer.fit_loop.max_epochs = 5
    trainer.fit(trainer.model, trainer.train_dataloader, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert [r["step"] for r in again.monitor.records] == list(range(33, 41))
    trainer.strategy.world_size = 2

    class Two:
        world_size = 2

    with pytest.raises(Unsupported, match="2 processes"):
        again.on_fit_start(Two(), None)
    with pytest.raises(InvalidValue, match="batches"):
        MonitorCallback(batches=0)


def trainer_run(watch: bool, folder: Path, **options: object):
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    from eigenstep.training.adapters.hugging_face import MonitorCallback

    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model = BertForSequenceClassification(config)
    words = torch.randint(1, 50, (48, 8), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": w, "attention_mask": torch.ones_like(w), "labels": (w[0] > 25).long()} for w in words]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=10,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    callback = MonitorCallback(every=2, budget=1.0, dense=2) if watch else None
    trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback] if callback else [])
    trainer.train()
    return model, callback, torch.rand(2), trainer


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"warmup_steps": 3}, {"gradient_accumulation_steps": 2, "bf16": True}])
def test_the_trainer_trains_the_same_bit_for_bit(options: dict, tmp_path: Path) -> None:
    model, callback, drawn, trainer = trainer_run(True, tmp_path, **options)
    same, _, same_drawn, _ = trainer_run(False, tmp_path, **options)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True))
    assert torch.equal(drawn, same_drawn)
    records = callback.monitor.records
    assert [r["step"] for r in records] == list(range(1, 11))
    assert len(callback.monitor.measured) >= 2 + 3
    logged = [h["loss"] for h in trainer.state.log_history if "loss" in h]
    assert [r["loss"] for r in records] == pytest.approx(logged)
    assert [h["step"] for h in trainer.state.log_history if "curvature/sharpness" in h] == [
        r["step"] for r in callback.monitor.measured if r["sharpness"] is not None
    ]


def falling_to_the_end(scheduler: es.StabilityLR, lrs: list[float], wild: float) -> bool:
    """Whether lr began far below what was asked for, and ended at the schedule's end."""
    return max(lrs) < wild / 10 and lrs[-1] < max(lrs) / 3 and scheduler.get_last_lr() == [0.0]


@pytest.mark.slow
def test_in_lightning_stability_lr_is_a_scheduler_like_any_other(tmp_path: Path) -> None:
    import lightning.pytorch as pl

    x, y = torch.randn(64, 6, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 3

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))

        def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            value = self.loss(batch)
            self.monitor.step(value)
            return value

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=1e3, momentum=0.9)
            self.monitor = es.Monitor(es.Objective(self, Model.loss, (x, y)), optimizer)
            self.scheduler = es.StabilityLR(optimizer, self.monitor, total_steps=40)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler, "interval": "step"}}

    torch.manual_seed(0)
    model = Model()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=5, accelerator="cpu", devices=1, enable_model_summary=False, **quiet)
    trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True))
    lrs = [r["lr"] for r in model.monitor.records]
    assert len(lrs) == 40 and falling_to_the_end(model.scheduler, lrs, 1e3)
    assert float(model.loss((x, y)).detach()) < 1.1


@pytest.mark.slow
def test_in_the_trainer_stability_lr_is_a_scheduler_like_any_other(tmp_path: Path) -> None:
    from transformers import Trainer

    model, _, _, made = trainer_run(False, tmp_path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=10.0)
    probe = made.data_collator(made.train_dataset[:16])
    monitor = es.Monitor(es.Objective(model, lambda m, b: m(**b).loss, dict(probe)), optimizer)
    scheduler = es.StabilityLR(optimizer, monitor, total_steps=10)
    trainer = Trainer(model=model, args=made.args, train_dataset=made.train_dataset, optimizers=(optimizer, scheduler))
    trainer.train()
    lrs = [r["lr"] for r in monitor.records]
    assert len(lrs) == 10 and falling_to_the_end(scheduler, lrs, 10.0)
    assert trainer.state.log_history[-2]["loss"] < 0.8


def test_the_probe_of_a_training_loader_is_rows_of_its_set_and_the_loader_is_not_touched() -> None:
    from eigenstep.training.adapters.hugging_face import probe_of

    loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=2, shuffle=True)
    model = nn.Linear(1, 1)
    state = torch.get_rng_state()
    (batch,) = es.Objective(model, lambda m, b: m(torch.ones(1, 1)).sum(), probe_of(loader, 5)).batches
    assert batch[0].tolist() == [0, 2, 4, 6, 8] and torch.equal(state, torch.get_rng_state())
    with pytest.raises(Unsupported, match="give data="):
        probe_of(iter([]), 5)


@pytest.mark.slow
def test_importing_eigenstep_brings_neither_package() -> None:
    import subprocess

    code = (
        "import sys, eigenstep; eigenstep.Monitor; eigenstep.StabilityLR; import eigenstep.training.adapters;"
        "assert not {'lightning', 'pytorch_lightning', 'transformers', 'tensorboard', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def plain(watch: bool, compiled: str, autocast: bool) -> tuple[list[Tensor], es.Monitor | None]:
    """Accumulation and clipping, a probe through the module that trains, autocast around everything, the step too."""
    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 3))
    model = torch.compile(net, backend="aot_eager") if compiled == "whole" else net
    if compiled == "in place":
        net.compile(backend="aot_eager")
    if compiled == "in part":
        net[0] = torch.compile(net[0], backend="aot_eager")
    x, y = torch.randn(24, 6), torch.randint(3, (24,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    monitor = es.Monitor(es.Objective(model, loss, (x, y)), optimizer, every=2, budget=1, dense=1) if watch else None
    for _ in range(8):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            optimizer.zero_grad()
            for part in range(3):
                value = loss(model, (x[part::3], y[part::3])) / 3
                value.backward()
                if monitor is not None:
                    monitor.step(3 * value)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    return list(net.state_dict().values()), monitor


@pytest.mark.parametrize("autocast", [False, True])
def test_a_plain_loop_with_autocast_accumulation_and_clipping(autocast: bool) -> None:
    weights, monitor = plain(True, "", autocast)
    without, _ = plain(False, "", autocast)
    assert all(torch.equal(a, b) for a, b in zip(weights, without, strict=True))
    assert monitor is not None and len(monitor.measured) >= 4
    assert [r["step"] for r in monitor.records] == list(range(1, 9))


@pytest.mark.parametrize("several", [{"world_size": 2, "n_gpu": 1}, {"world_size": 1, "n_gpu": 2}])
def test_the_trainer_of_several_processes_or_devices_is_refused(several: dict[str, int]) -> None:
    from eigenstep.training.adapters.hugging_face import MonitorCallback

    with pytest.raises(Unsupported, match="several processes"):
        MonitorCallback().on_train_begin(SimpleNamespace(**several), None, None)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["whole", "in place", "in part"])
def test_a_compiled_model_is_measured_as_the_module_that_it_is(how: str) -> None:
    weights, monitor = plain(True, how, False)
    without, _ = plain(False, how, False)
    assert all(torch.equal(a, b) for a, b in zip(weights, without, strict=True))
    _, plainly = plain(True, "", False)
    assert monitor is not None and plainly is not None
    pairs = zip(monitor.measured, plainly.measured, strict=True)
    assert all(a["sharpness"] == pytest.approx(b["sharpness"], rel=1e-6) for a, b in pairs)
