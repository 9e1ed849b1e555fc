"""Threads may be the first of a process to save, load or resume, all at once: msgspec, which looks into a class when it
first meets it and crashes where two threads do so together, has met all of ours when they are imported."""

from __future__ import annotations

from pathlib import Path

from tests.processes import run

USE = """
import threading, sys, torch, casckpt
import casckpt.training.run

met = []

def watch(frame, event, argument):
    if event == "call" and frame.f_code.co_name == "get_class_annotations":
        while frame is not None and frame.f_code.co_name != "<module>":
            frame = frame.f_back
        if frame is None or "casckpt" not in frame.f_code.co_filename:  # not on the way in
            met.append(argument)

def use(path):
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    with casckpt.open(path) as repo:
        for step in range(3):
            repo.commit({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, step=step)
            repo.load(), repo.log(), repo.open_tensor("HEAD", "model.weight")[:1]
        repo.gc(), repo.stats(), repo.fsck(read_data=True), repo.store.openers()
    for step in (1, 2):
        with casckpt.Checkpointer(path + " run", model=model, every_steps=1) as ckpt:
            ckpt.resume()
            ckpt.step(step)

threading.setprofile(watch)
thread = threading.Thread(target=use, args=(sys.argv[1],))
thread.start()
thread.join()
print(len(met))
"""


def test_nothing_is_looked_into_by_the_first_thread_that_comes_to_it(tmp_path: Path) -> None:
    assert run(USE, tmp_path / "store").splitlines()[-1] == "0"
