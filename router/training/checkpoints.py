"""Keeps a training's state after each epoch, so that an interrupted run goes on instead of beginning again."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

_DECAY = 0.995
"""Of the moving average, at every fourth step: it covers about the last 800 steps."""
_AVERAGED_EVERY = 4


def with_bfloat16() -> torch.autocast:
    """Computes in bfloat16 where the CPU has it, which is twice as fast; weights stay float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())


def moving_average(model: nn.Module) -> AveragedModel:
    """A moving average of the weights, which ranks unseen texts better than the last weights."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(_DECAY))


@dataclass(slots=True)
class Training:
    """All that changes while a model is trained."""

    model: nn.Module
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    chance: random.Random
    steps: int = 0

    def step(self, loss: Tensor) -> None:
        """Learn from the loss of one batch.

        Raises:
            FloatingPointError: the loss is not a number.
        """
        if not loss.isfinite():
            raise FloatingPointError(f"the loss of step {self.steps + 1} is not a number")
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1
        if self.steps % _AVERAGED_EVERY == 0:
            self.average.update_parameters(self.model)

    @property
    def averaged(self) -> nn.Module:
        """The model with averaged weights."""
        found: nn.Module = self.average.module
        return found


class Checkpoints:
    """The states of one training in a file, which is removed when the training is over."""

    def __init__(self, file: Path, about: object, say: Callable[[str], None]) -> None:
        """`about` is everything that the result depends on: a file about something else is not used."""
        self._file, self._say = file, say
        self._about = hashlib.blake2b(repr(about).encode(), digest_size=16).hexdigest()

    def restore(self, training: Training) -> int:
        """Bring a training to its last saved state. Returns the number of whole epochs, 0 when nothing fits."""
        if not self._file.is_file():
            return 0
        state = torch.load(self._file, weights_only=False)  # our own file
        if state["about"] != self._about:
            self._say(f"{self._file} is of another training, begins anew")
            return 0
        training.model.load_state_dict(state["model"])
        training.average.load_state_dict(state["average"])
        training.optimizer.load_state_dict(state["optimizer"])
        training.schedule.load_state_dict(state["schedule"])
        training.chance.setstate(state["chance"])
        torch.set_rng_state(state["torch"])
        training.steps = state["steps"]
        self._say(f"goes on after epoch {state['epoch']}, from {self._file}")
        return int(state["epoch"])

    def save(self, training: Training, epoch: int) -> None:
        """Keep the state after an epoch."""
        state = {
            "about": self._about,
            "epoch": epoch,
            "model": training.model.state_dict(),
            "average": training.average.state_dict(),
            "optimizer": training.optimizer.state_dict(),
            "schedule": training.schedule.state_dict(),
            "chance": training.chance.getstate(),
            "torch": torch.get_rng_state(),
            "steps": training.steps,
        }
        whole = self._file.with_suffix(".new")
        torch.save(state, whole)
        whole.replace(self._file)

    def remove(self) -> None:
        """Remove the file."""
        self._file.unlink(missing_ok=True)
