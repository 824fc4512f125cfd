"""Stop a run by a signal: at the end of an update, with a checkpoint."""

from __future__ import annotations

import signal
import sys

import torch
import torch.distributed as dist

from nano_hindi.distributed import World


class StopSignal:
    """Signal handlers, installed inside a `with` block: after the first Ctrl-C, SIGTERM or SIGHUP
    (the terminal was closed) the loop finishes the update and saves; a second Ctrl-C quits at once.

    An ignored SIGHUP stays ignored: `nohup` starts a program so.
    """

    def __init__(self):
        self.signal: int | None = None
        self.everywhere = False  # whether any rank was asked to stop: agreed on once per update
        self.is_repeated = False  # a second Ctrl-C came

    def __enter__(self) -> StopSignal:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # Windows has none
            numbers.append(signal.SIGHUP)
        self.before = {number: signal.signal(number, self._on_signal) for number in numbers}
        self.unraisablehook, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        return self

    def __exit__(self, *exc_info) -> None:
        sys.unraisablehook = self.unraisablehook
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _on_unraisable(self, unraisable) -> None:
        """Be silent about a KeyboardInterrupt in a finalizer, which Python drops:
        `raise_if_repeated` raises it again."""
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self.unraisablehook(unraisable)

    def _on_signal(self, number: int, frame) -> None:
        if number == self.signal == signal.SIGINT:
            self.is_repeated = True
            raise KeyboardInterrupt
        self.signal = number

    def agree(self, world: World) -> bool:
        """Return on every rank whether any rank was asked to stop. Collective."""
        if world.size > 1:
            asked = torch.tensor(float(self.signal is not None), device=world.device)
            dist.all_reduce(asked)
            self.everywhere = asked.item() > 0
        else:
            self.everywhere = self.signal is not None
        return self.everywhere

    def raise_if_repeated(self) -> None:
        """Raise KeyboardInterrupt if a second Ctrl-C came."""
        if self.is_repeated:
            raise KeyboardInterrupt

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or signal.SIGTERM)
