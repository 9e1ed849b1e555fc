"""A training script, as its own process: `python -m tests.training.child STORE LOADER STEPS EVERY`. Says each step.

It trains a bf16 model with fp32 moments, accumulating gradients over two batches.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch

import casckpt
from tests.tensors.test_restore_optimizer import MixedAdam
from tests.training.runs import LOADERS, seed_all


def main(path: str, loader: str, steps: int, every: int, say: Callable[[list[Any]], None]) -> None:
    seed_all(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Dropout(0.2), torch.nn.Linear(64, 1)).bfloat16()
    optimizer = MixedAdam(model.parameters())
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    accumulated = 0
    with casckpt.Checkpointer(
        path,
        model=model,
        optimizer=optimizer,
        ema=ema,
        scheduler=scheduler,
        dataloader=LOADERS[loader](),
        every_steps=every,
        keep=casckpt.Keep(last=3),
    ) as ckpt:
        step = ckpt.resume()
        say(["resumed", step])
        while step < steps:
            for batch in ckpt.batches():
                loss = model(batch.bfloat16()).float().pow(2).mean()
                loss.backward()
                accumulated += 1
                if accumulated < 2:
                    continue
                accumulated = 0
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                ema.update_parameters(model)
                step += 1
                say([step, loss.item(), scheduler.get_last_lr()[0]])
                ckpt.step(step, metrics={"loss": loss})
                if step >= steps:
                    break
    weights = torch.cat([held.flatten().float() for held in [*model.parameters(), *ema.parameters()]])
    say(["weights", *weights.tolist()])


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), lambda said: print(json.dumps(said), flush=True))
