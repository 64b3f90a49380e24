"""A plain PyTorch loop: report each epoch, stop when told, resume from a checkpoint after an interrupt."""

from __future__ import annotations

from pathlib import Path

import optuna
import torch

import tunesmith

generator = torch.Generator().manual_seed(0)
x = torch.randn(512, 8, generator=generator)
y = (x[:, :1] * x[:, 1:2]).tanh()
train, held_out = slice(0, 384), slice(384, 512)
EPOCHS = 15


def objective(trial):
    """Train a small network; the value is the loss on held-out data."""
    torch.manual_seed(0)
    width = trial.suggest_int("width", 4, 64, log=True)
    model = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=trial.suggest_float("lr", 1e-4, 1e-1, log=True))
    first = 0
    if trial.resume_from is not None:
        saved = torch.load(Path(trial.resume_from) / "state.pt")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["epoch"] + 1
    loss = torch.tensor(0.0)
    for epoch in range(first, EPOCHS):
        for batch in torch.arange(384).split(32):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = torch.nn.functional.mse_loss(model(x[held_out]), y[held_out])
        folder = Path("checkpoints") / f"trial-{trial.number}" / f"epoch-{epoch}"
        folder.mkdir(parents=True, exist_ok=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(state, folder / "state.pt")
        trial.report(loss.item(), epoch, share=(epoch + 1) / EPOCHS, checkpoint=str(folder.resolve()))
        if trial.should_prune():
            raise optuna.TrialPruned
    return loss.item()


study = tunesmith.search(objective, n_trials=10, seed=0, pruner=optuna.pruners.MedianPruner())
print("best", study.best_trial.value, dict(study.best_trial.params))
