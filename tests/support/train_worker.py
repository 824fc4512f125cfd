"""Run train.py under torchrun with injected faults, and record the transfers: python
train_worker.py RECORDS [EVENT...] -- FLAGS of train.py.

An EVENT is ACT:RANK:UPDATE:START: a fault on a rank before an update, at the first start of the job
(0) or after so many restarts. `kill` sends the rank SIGKILL, `spoil` changes one of its weights,
`exhaust` lets it run out of memory at the end of the next backward. RECORDS/{rank}.pt holds the
transfers of a rank, RECORDS/pids/{pid} its rank from the start. The event late:RANK holds a rank up
for three seconds whenever the ranks have compared something.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import train
from dist_muon_worker import numbers_sent
from nano_hindi.training import loop
from short_ends import shorten_ends

RANK, START = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])


def main(records: Path, events: list[str], flags: list[str]) -> int:
    (records / "pids").mkdir(parents=True, exist_ok=True)
    (records / "pids" / str(os.getpid())).write_text(str(RANK))
    record = {"sent": [], "sent_after_each_backward": []}
    exhausted, tried = [], []
    real_update, real_backward = loop.train_update, torch.Tensor.backward

    def train_update(run, stop):
        acts = {event.partition(":")[0] for event in events if event.partition(":")[2] == f"{RANK}:{run.update}:{START}"}
        if "kill" in acts:
            os.kill(os.getpid(), signal.SIGKILL)
        if "spoil" in acts:
            run.model.lm_head.weight.data[3, 5] += 1e-6
        if "exhaust" in acts and not tried:  # else it is the second try of the same update
            exhausted.append(True)
            tried.append(True)
        record["sent_after_each_backward"].append([])
        with numbers_sent() as sent:
            record["sent"].append(sent)
            return real_update(run, stop)

    def backward(self, *args, **kwargs):
        real_backward(self, *args, **kwargs)
        record["sent_after_each_backward"][-1].append({kind: sum(numbers) for kind, numbers in record["sent"][-1].items()})
        if exhausted:
            exhausted.clear()
            raise torch.cuda.OutOfMemoryError

    if f"late:{RANK}" in events:
        gather = torch.distributed.all_gather_object
        torch.distributed.all_gather_object = lambda *args: (gather(*args), time.sleep(3))
    shorten_ends()
    loop.train_update, torch.Tensor.backward = train_update, backward
    code = train.main(flags)
    torch.save(record, records / f"{RANK}.pt")
    return code


if __name__ == "__main__":
    border = sys.argv.index("--")
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:border], sys.argv[border + 1 :]))
