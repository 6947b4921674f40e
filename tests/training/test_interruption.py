"""Signals that ask a run to stop, and those that its caller has it ignore."""

from __future__ import annotations

import os
import signal

import pytest

from seekr.training.interruption import stopping_politely


def test_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_politely() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not interruption.signalled
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_that_is_heard_stops_after_the_step(number: signal.Signals) -> None:
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), stopping_politely() as interruption:
            os.kill(os.getpid(), number)
        assert interruption.signalled
    finally:
        signal.signal(number, before)
