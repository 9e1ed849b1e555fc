"""The training run of the demo, as anybody would write it: model, AdamW, a schedule, a shuffled loader. No casckpt."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from casckpt.cli.demo.corpus import Windows, read_sources
from casckpt.cli.demo.model import ByteTransformer
from casckpt.cli.demo.plan import Plan

Batch = tuple[Tensor, Tensor]


class Training:
    """Everything that a run consists of, the same in every process that is given the same plan."""

    def __init__(self, plan: Plan) -> None:
        # one thread: sums in another order are other sums, and the reference runs beside on a second core
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(plan.seed)
        random.seed(plan.seed)
        self.model = ByteTransformer(
            width=plan.width, layers=plan.layers, heads=plan.heads, context=plan.context, dropout=plan.dropout
        )
        self.optimizer = AdamW(self.model.parameters(), lr=plan.rate, betas=(0.9, 0.95), weight_decay=0.1)

        def rate(step: int) -> float:
            return min((step + 1) / plan.warmup, 0.55 + 0.45 * math.cos(math.pi * min(step / plan.steps, 1)))

        self.scheduler = LambdaLR(self.optimizer, rate)
        windows = Windows(read_sources(plan.corpus), plan.context)
        self.loader = DataLoader(
            windows,
            batch_size=plan.batch,
            shuffle=True,
            drop_last=True,
            generator=torch.Generator().manual_seed(plan.seed),
        )

    def epochs(self) -> Iterator[Batch]:
        """Batches for ever."""
        while True:
            yield from self.loader

    def update(self, batch: Batch) -> float:
        """One optimizer update; returns the loss before it."""
        text, following = batch
        loss = functional.cross_entropy(self.model(text).flatten(0, 1), following.flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        return float(loss.item())

    def state(self) -> dict[str, Any]:
        """What a script would hand to torch.save."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def weights_hash(self) -> str:
        """A hash of every bit of the weights."""
        return _hash(self.model.state_dict())

    def state_hash(self) -> str:
        """A hash of every bit of weights and optimizer moments."""
        moments = self.optimizer.state_dict()["state"]
        flat = {f"{index} {name}": value for index, held in moments.items() for name, value in held.items()}
        return _hash({**self.model.state_dict(), **flat})


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
