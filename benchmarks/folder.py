"""Thirty checkpoints of a real training run, imported as a folder: bytes before and after, and whether all come back.

    python -m benchmarks.folder [--checkpoints 30] [--width 128] [--json]

A small transformer is trained with AdamW on sequences that can be learned; its embedding and the lower half of its
blocks are frozen, as when a model is tuned. Every 10 updates `torch.save` writes model, optimizer, scheduler, step and
the generator's state, as such scripts do. `--width 512` makes checkpoints of some 80 MiB. All of it is made in a
temporary folder, and is the same in each run on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import casckpt
from casckpt.cli.units import human_bytes
from casckpt.tensors.intake.report import ImportReport
from tests.equality import assert_same

VOCABULARY = 4096
WORDS = 64  # of the vocabulary, in what is trained on
BLOCKS = 4
BETWEEN = 10


class Model(nn.Module):
    """A language model of `BLOCKS` blocks. The upper half of them and the norm train, all else is frozen."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(BLOCKS)
        )
        self.norm = nn.LayerNorm(width)
        for part in (self.embedding, *self.blocks[: BLOCKS // 2]):
            part.requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits for the token behind each: (batch, length) to (batch, length, vocabulary)."""
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        found = self.embedding(tokens)
        for block in self.blocks:
            found = block(found, src_mask=mask, is_causal=True)
        return functional.linear(self.norm(found), self.embedding.weight)


def train(
    folder: Path, checkpoints: int, width: int, vocabulary: int = VOCABULARY, between: int = BETWEEN
) -> list[float]:
    """Train, and write `step_N.pt` every `between` updates; returns the losses at these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices so small gain nothing from more
    try:
        return _train(folder, checkpoints, width, vocabulary, between)
    finally:
        torch.set_num_threads(threads)


def _train(folder: Path, checkpoints: int, width: int, vocabulary: int, between: int) -> list[float]:
    torch.manual_seed(0)
    model = Model(width, vocabulary)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.95))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, checkpoints * between)
    losses = []
    for step in range(1, checkpoints * between + 1):
        start = torch.randint(WORDS, (4, 1))
        tokens = (start + 7 * torch.arange(17)) % WORDS
        loss = functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % between == 0:
            losses.append(loss.item())
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "step": step,
                    "rng": torch.get_rng_state(),
                },
                folder / f"step_{step}.pt",
            )
    return losses


def check(repo: casckpt.Repository, folder: Path, steps: list[int]) -> None:
    """Every commit is there, in order, and loads equal to its file, to the last bit."""
    history = list(repo.log())[::-1]
    assert [commit.step for commit in history] == steps
    for commit in history:
        saved = torch.load(folder / commit.message, weights_only=True)
        assert_same(repo.load(commit.id), saved)


def run(checkpoints: int, width: int) -> tuple[ImportReport, dict[str, object]]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        folder.mkdir()
        losses = train(folder, checkpoints, width)
        with casckpt.open(Path(place) / "store") as repo:
            began = time.perf_counter()
            report = repo.import_folder(folder)
            seconds = time.perf_counter() - began
            check(repo, folder, [BETWEEN * number for number in range(1, checkpoints + 1)])
            assert repo.import_folder(folder).taken == 0
    return report, {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "loss": [losses[0], losses[-1]],
        "checkpoints": report.taken,
        "files_bytes": report.nbytes,
        "stored_bytes": report.stored,
        "ratio": report.saved,
        "store_file_bytes": report.after.file,
        "import_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=30)
    parser.add_argument("--width", type=int, default=128, help="a multiple of 4")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report, found = run(options.checkpoints, options.width)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'file':<14}{'step':>6}{'bytes':>12}{'new':>12}")
    for item in report.items:
        print(f"{item.name:<14}{item.step:>6}{human_bytes(item.nbytes):>12}{human_bytes(item.stored):>12}")
    print("every commit loads equal to its file")
    for name, figure in found.items():
        shown = human_bytes(figure) if name.endswith("_bytes") and isinstance(figure, int) else figure
        print(f"{name:20}{round(shown, 3) if isinstance(shown, float) else shown}")


if __name__ == "__main__":
    main()
