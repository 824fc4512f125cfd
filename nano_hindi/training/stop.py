"""Stop a run by a signal: at the end of an update, with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from nano_hindi.distributed import World

_LAST_EVENTS = (2, 5, 6)  # CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT of Windows
_LAST_SECONDS = 60  # Windows itself ends the process 5 seconds after its window is closed


class StopSignal:
    """Signal handlers, installed inside a `with` block: after the first Ctrl-C, SIGTERM or SIGHUP
    (the terminal was closed) the loop finishes the update and saves; a second Ctrl-C quits at once.
    On Windows, Ctrl-Break is like the first Ctrl-C, and so are a closed window, logoff and
    shutdown, if the update and the save take no longer than Windows waits.

    An ignored SIGHUP stays ignored: `nohup` starts a program so.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.everywhere = False  # whether any rank was asked to stop: agreed on in every update and evaluation
        self.is_repeated = False  # whether Ctrl-C was pressed a second time
        self._ended = threading.Event()  # the block has ended

    def __enter__(self) -> StopSignal:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # Windows has none
            numbers.append(signal.SIGHUP)
        if sys.platform == "win32":
            numbers.append(signal.SIGBREAK)
        self.before = {number: signal.signal(number, self._on_signal) for number in numbers}
        self.unraisablehook, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        self.events = console_events(self._on_last_event)
        self.events.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self.events.__exit__(None, None, None)
        sys.unraisablehook = self.unraisablehook
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _on_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Be silent about a KeyboardInterrupt in a finalizer, which Python drops:
        `raise_if_repeated` raises it again."""
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self.unraisablehook(unraisable)

    def _on_signal(self, number: int, frame: object) -> None:
        if number == self.signal == signal.SIGINT:
            self.is_repeated = True
            raise KeyboardInterrupt
        self.signal = number

    def _on_last_event(self, event: int) -> bool:
        """Handle an event of the console, on a thread of Windows. Returns whether it is handled:
        after a close, logoff or shutdown Windows ends the process as soon as this returns."""
        if event not in _LAST_EVENTS:
            return False
        self.signal = self.signal or signal.SIGINT
        self._ended.wait(_LAST_SECONDS)
        return True

    def agree(self, world: World) -> bool:
        """Return on every rank whether any rank was asked to stop. Collective."""
        stops = torch.tensor(float(self.signal is not None), device=world.device)
        if world.size > 1:
            dist.all_reduce(stops)
        self.everywhere = stops.item() > 0
        return self.everywhere

    def raise_if_repeated(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed a second time."""
        if self.is_repeated:
            raise KeyboardInterrupt

    @property
    def exit_code(self) -> int:
        """Return the exit code of a stopped run: 128 + the signal's number, and 130 after
        Ctrl-Break too."""
        is_break = self.signal is not None and self.signal == getattr(signal, "SIGBREAK", None)
        return 128 + (signal.SIGINT if is_break else self.signal or signal.SIGTERM)


@contextlib.contextmanager
def console_events(handle: Callable[[int], bool]) -> Iterator[None]:
    """Call `handle` with the number of each event of the console of Windows, until the block ends.
    Python's signals do not delay the end of the process, which follows a close, logoff or
    shutdown."""
    if sys.platform == "win32":
        import ctypes

        callback = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)(handle)
        set_handler = ctypes.windll.kernel32.SetConsoleCtrlHandler
        set_handler(callback, True)
        try:
            yield
        finally:
            set_handler(callback, False)
    else:
        yield
