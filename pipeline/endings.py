"""How a command ends: 0 fine, 1 a bug (traceback), 2 a refusal (one message), 130 and 143 by Ctrl-C or SIGTERM.

Messages go to stderr, one problem a line, with control characters written out. A reader of stdout that goes
away is no failure worth words: 141, as a shell would report it.
"""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from pipeline.errors import Problems, Refusal

REFUSED = 2
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The process was asked to end, and `go_on` is the command that goes on, where there is one."""

    def __init__(self, go_on: str = "") -> None:
        super().__init__(go_on)
        self.go_on = go_on


_asked: list[int] = []
"""Signals that asked this process to end, in order."""


def ended(work: Callable[[], object]) -> int:
    """Do `work`, and return the exit code; whatever had to be said is on stderr by then. A bug is raised."""
    _asked.clear()
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS if main}
    try:
        listen()
        return _ended(work)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen() -> None:
    """Have Ctrl-C and SIGTERM end the command in order, the second one at once.

    To be called again where a library has put handlers of its own in their place, as Ray does for SIGTERM.
    """
    if threading.current_thread() is threading.main_thread() and not _asked:
        for number in SIGNALS:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    # Not an exception of our own: C extensions, Ray's among them, look for this one alone.
    raise KeyboardInterrupt


def _ended(work: Callable[[], object]) -> int:
    try:
        work()
        sys.stdout.flush()
        return 0
    except Interrupted as stop:
        return _interrupted(stop.go_on)
    except KeyboardInterrupt:
        return _interrupted("")
    except SystemExit as end:
        # typer turns a KeyboardInterrupt into one of these.
        return _interrupted("") if _asked else _code(end.code)
    except Problems as error:
        _say(*(f"rematch: {problem}" for problem in error.problems))
        return REFUSED
    except Refusal as error:
        _say(f"rematch: {error}")
        return REFUSED
    except BrokenPipeError:
        from pipeline.views.screen import BROKEN_PIPE, hush

        hush()
        return BROKEN_PIPE


def bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What the interpreter does with an exception that nobody expected (`sys.excepthook`); the exit code is then 1."""
    sys.__excepthook__(kind, error, trace)
    _say("rematch: this is a bug; finished parts are kept. Please report it with the traceback above and `rematch --version`.")


def _code(code: Any) -> int:
    return code if isinstance(code, int) else 0 if code is None else 1


def _interrupted(go_on: str) -> int:
    _say("rematch: interrupted; finished parts are kept." + (f" `{go_on}` goes on." if go_on else ""))
    return 128 + (_asked[0] if _asked else signal.SIGINT)


def _say(*lines: str) -> None:
    from pipeline.views.screen import safe

    for line in lines:
        sys.stderr.write(safe(line) + "\n")
    sys.stderr.flush()
