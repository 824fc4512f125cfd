"""Stop a run by a signal: at the end of an update, with a checkpoint."""

from __future__ import annotations

import signal


class StopSignal:
    """Signal handlers, installed inside a `with` block: after the first Ctrl-C or SIGTERM the loop
    finishes the update and saves; a second Ctrl-C quits at once.
    """

    def __init__(self):
        self.signal: int | None = None
        self.everywhere = False  # whether any rank was asked to stop: agreed on once per update
        self.is_repeated = False  # a second Ctrl-C came

    def __enter__(self) -> StopSignal:
        self.before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc_info) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame) -> None:
        if number == self.signal == signal.SIGINT:
            self.is_repeated = True
            raise KeyboardInterrupt
        self.signal = number

    def raise_if_repeated(self) -> None:
        """Raise KeyboardInterrupt if a second Ctrl-C came: Python drops one that it raises in a
        finalizer, as within `collect_garbage`."""
        if self.is_repeated:
            raise KeyboardInterrupt

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or signal.SIGTERM)
