"""A small training run that depends on everything that a checkpoint must bring back, and says what it saw."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

import casckpt

ITEMS = 22
BATCH = 4
EPOCH = 6  # batches of an epoch, the last one short


class Numbers(Dataset[torch.Tensor]):
    """Item i is i in the first of four numbers."""

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, 1.0, index % 3, -index])


class Augmented(Numbers):
    """Draws from the global generators for every item."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(index) + random.random() + np.random.rand() + torch.rand(())


class OwnNoise(Numbers):
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        self.noise = np.random.default_rng(7)

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(index) + float(self.noise.random())


class Stream(IterableDataset[torch.Tensor]):
    """Gives its share of the items, one after the other."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, ITEMS, step):
            yield torch.tensor([index, 1.0, index % 3, -index])


class NoisyStream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        for index in range(ITEMS):
            yield torch.tensor([index, random.random(), 0, torch.rand(())])


class Shuffled(Sampler[int]):
    """Shuffles with a random.Random of its own, when it is asked for an iterator rather than when that is pulled."""

    def __init__(self) -> None:
        self.random = random.Random(5)

    def __len__(self) -> int:
        return ITEMS

    def __iter__(self) -> Iterator[int]:
        order = list(range(ITEMS))
        self.random.shuffle(order)
        return iter(order)


class LazyLoader(DataLoader[torch.Tensor]):
    """Builds its iterator only when it is pulled."""

    def __iter__(self) -> Any:
        yield from super().__iter__()


class Cursor:
    """A loader with a state of its own, which draws when its iterator is built."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        torch.rand(())
        return self._rest()

    def _rest(self) -> Iterator[torch.Tensor]:
        while self.at < EPOCH:
            self.at += 1
            yield torch.full((BATCH, 4), float(self.at)) + torch.rand(())
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _workers(count: int, **settings: Any) -> dict[str, Any]:
    return {"num_workers": count, "multiprocessing_context": "fork" if count else None, **settings}


_BATCHED: dict[str, Any] = {"batch_size": BATCH, "shuffle": True}
LOADERS: dict[str, Callable[[], Any]] = {
    "global": lambda: DataLoader(Numbers(), **_BATCHED),
    "own": lambda: DataLoader(Numbers(), **_BATCHED, generator=seeded()),
    "sequential": lambda: DataLoader(Numbers(), batch_size=BATCH),
    "augmented": lambda: DataLoader(Augmented(), **_BATCHED),
    "own-noise": lambda: DataLoader(OwnNoise(), **_BATCHED),
    "unbatched": lambda: DataLoader(Numbers(), batch_size=None, shuffle=True),
    "custom-sampler": lambda: DataLoader(Numbers(), batch_size=BATCH, sampler=Shuffled()),
    "batch-sampler": lambda: DataLoader(
        Numbers(), batch_sampler=torch.utils.data.BatchSampler(Shuffled(), BATCH, drop_last=True)
    ),
    "lazy": lambda: LazyLoader(Numbers(), **_BATCHED),
    "stream": lambda: DataLoader(Stream(), batch_size=BATCH),
    "noisy-stream": lambda: DataLoader(NoisyStream(), batch_size=BATCH),
    "list": lambda: [torch.full((BATCH, 4), float(index)) for index in range(EPOCH)],
    "cursor": Cursor,
    "global-2": lambda: DataLoader(Numbers(), **_BATCHED, **_workers(2)),
    "own-2": lambda: DataLoader(Numbers(), **_BATCHED, generator=seeded(), **_workers(2)),
    "custom-sampler-2": lambda: DataLoader(Numbers(), batch_size=BATCH, sampler=Shuffled(), **_workers(2)),
    "stream-2": lambda: DataLoader(Stream(), batch_size=BATCH, **_workers(2)),
    "persistent-2": lambda: DataLoader(Numbers(), **_BATCHED, **_workers(2, persistent_workers=True)),
    "persistent-own-2": lambda: DataLoader(
        Numbers(), **_BATCHED, generator=seeded(), **_workers(2, persistent_workers=True)
    ),
    "persistent-stream-2": lambda: DataLoader(Stream(), batch_size=BATCH, **_workers(2, persistent_workers=True)),
    "stateful": lambda: StatefulDataLoader(Numbers(), **_BATCHED),
    "stateful-own": lambda: StatefulDataLoader(Numbers(), **_BATCHED, generator=seeded()),
    "stateful-2": lambda: StatefulDataLoader(Numbers(), **_BATCHED, **_workers(2)),
    "stateful-persistent-2": lambda: StatefulDataLoader(Numbers(), **_BATCHED, **_workers(2, persistent_workers=True)),
}


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@dataclass
class Run:
    """Live objects as a script makes them, from one seed. loader: one of LOADERS."""

    loader: str
    seed: int = 0
    seen: list[tuple[Any, ...]] = field(default_factory=list)
    """For each step: the epoch, the batch, the loss, and a draw from each global generator."""

    def __post_init__(self) -> None:
        seed_all(self.seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3, 0.9)
        self.data = LOADERS[self.loader]()

    def checkpointer(self, repo: Any, **settings: Any) -> casckpt.Checkpointer:
        return casckpt.Checkpointer(
            repo,
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            dataloader=self.data,
            **{"every_steps": 1, "signals": (), **settings},
        )

    def train(self, batch: torch.Tensor, epoch: int) -> float:
        self.optimizer.zero_grad()
        loss = self.model(batch.reshape(-1, 4)).pow(2).mean()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        drawn = (random.random(), float(np.random.rand()), float(torch.rand(())))
        self.seen.append((epoch, batch.tolist(), loss.item(), *drawn))
        return loss.item()

    def go(self, ckpt: casckpt.Checkpointer, step: int, until: int) -> None:
        """Train on to step `until`, through `batches()`."""
        while step < until:
            for batch in ckpt.batches():
                loss = self.train(batch, ckpt.epoch)
                step += 1
                ckpt.step(step, metrics={"loss": loss})
                if step >= until:
                    return

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: held.clone() for name, held in self.model.state_dict().items()}


def uninterrupted(loader: str, steps: int) -> Run:
    """The run as it goes without casckpt: a plain loop over the loader."""
    run = Run(loader)
    step = epoch = 0
    while step < steps:
        for batch in run.data:
            run.train(batch, epoch)
            step += 1
            if step >= steps:
                break
        else:
            epoch += 1
    return run
