"""Links: how frames reach a device, by URL.

==========================  ========================================================
``model:``                  the NumPy model of the machine, in this process
``sim:[?baud=N&clock=HZ]``  the simulated board: the gateware, compiled; the default. With
                            the pace of a serial port, of 1 Mbaud on a machine of 50 MHz
                            unless told otherwise, if either is given
``serial:PORT[?baud=N]``    a board on a serial port
==========================  ========================================================

A transport moves bytes: ``send(data)``, ``receive(deadline)`` (whatever has arrived; empty when
the deadline, a ``time.monotonic`` value, has passed), ``close()``. ``cycles`` is the machine's
clock count since power-up, or None where nobody sees it; ``clocked`` says whether there is a clock,
which programs are measured by.
"""

import math
import os
import time
from urllib.parse import parse_qs, urlsplit

from host.errors import ArgumentError, LinkError

__all__ = ["DEFAULT_BAUD", "open_transport"]

#: Baud rate of the boards' bitstreams.
DEFAULT_BAUD = 1_000_000

#: Clock of the machine, Hz, where a simulated board has the pace of a serial port.
_SIM_CLOCK = 50_000_000
#: Clock cycles that the simulated board runs between looks at the deadline.
_SIM_SLICE = 200_000


class ModelTransport:
    """The model of the machine as a device."""
    cycles, clocked = None, False

    def __init__(self, params):
        from sim.model.machine import Machine
        self._machine = Machine(params)
        self._answers = b""

    def send(self, data):
        self._answers += self._machine.feed(data)

    def receive(self, deadline):
        answers, self._answers = self._answers, b""
        if not answers:
            time.sleep(max(0.0, deadline - time.monotonic()))
        return answers

    def close(self):
        pass


class SimTransport:
    """The simulated board: the verilated gateware in a shared library.

    A byte takes ``byte_clocks`` clocks of the machine in either direction; 0 for one, and no more
    than the machine needs.
    """
    clocked = True

    def __init__(self, params, progress, byte_clocks=0):
        from sim.board import Board, ToolError
        try:
            self._board = Board(params, progress=progress)
        except ToolError as error:
            raise LinkError(str(error)) from None
        self._byte_clocks = byte_clocks
        #: What is to be sent, the clock at which its first byte is, and answers by the clock at
        #: which they are here.
        self._waiting, self._byte_end, self._coming = b"", 0, []

    @property
    def cycles(self):
        return self._board.cycles

    def send(self, data):
        if not self._byte_clocks:
            self._board.send(data)
            return
        if not self._waiting:
            self._byte_end = max(self._byte_end, self._board.cycles) + self._byte_clocks
        self._waiting += data

    def receive(self, deadline):
        # Bytes on their way are no silence, however long they take to simulate.
        patience = deadline - time.monotonic()
        while True:
            self._take()
            now = self._board.cycles
            if self._coming and self._coming[0][0] <= now:
                return self._coming.pop(0)[1]
            if self._waiting and self._byte_end <= now:
                self._board.send(self._waiting[:1])
                self._waiting = self._waiting[1:]
                self._byte_end += self._byte_clocks * bool(self._waiting)
                deadline = time.monotonic() + patience
            elif self._waiting or self._coming:
                then = min([self._byte_end] * bool(self._waiting)
                           + [clock for clock, _ in self._coming[:1]])
                self._board.run(math.ceil(then - now))
            elif time.monotonic() >= deadline:
                return b""
            else:
                self._board.run(_SIM_SLICE)

    def _take(self):
        """What the board has sent comes in its order, each answer after those before it."""
        if data := self._board.recv():
            start = max([self._board.cycles, *(clock for clock, _ in self._coming[-1:])])
            self._coming.append((start + self._byte_clocks * len(data), data))

    def close(self):
        self._board.close()


class SerialTransport:
    """A board on a serial port."""
    cycles, clocked = None, True

    def __init__(self, port, baud):
        import serial
        self._name = port
        try:
            self._port = serial.Serial(port, baud, timeout=0, write_timeout=5)
            self._port.reset_input_buffer()
        except (OSError, ValueError) as error:
            reason = os.strerror(error.errno) if getattr(error, "errno", None) else error
            raise LinkError(f"cannot open serial port {port} at {baud} baud: {reason}") from None

    def send(self, data):
        import serial
        try:
            self._port.write(data)
        except (OSError, serial.SerialException) as error:
            raise LinkError(f"cannot write to serial port {self._name}: {error}") from None

    def receive(self, deadline):
        import serial
        try:
            self._port.timeout = max(0.0, deadline - time.monotonic())
            data = self._port.read(1)
            return data + self._port.read(self._port.in_waiting) if data else b""
        except (OSError, serial.SerialException) as error:
            raise LinkError(f"cannot read from serial port {self._name}: {error}") from None

    def close(self):
        self._port.close()


def open_transport(url, params, progress=None):
    """The transport that a URL names; ``progress`` is called with a line of text on long work."""
    parts = urlsplit(url)
    if parts.scheme == "model" and not parts.path:
        return ModelTransport(params)
    if parts.scheme == "sim" and not parts.path:
        if not parts.query:
            return SimTransport(params, progress)
        baud = _number(parts, "baud", "the baud rate", DEFAULT_BAUD)
        clock = _number(parts, "clock", "the clock in Hz", _SIM_CLOCK)
        # Start and stop bit.
        return SimTransport(params, progress, 10 * clock / baud)
    if parts.scheme == "serial" and parts.path:
        return SerialTransport(parts.path, _number(parts, "baud", "the baud rate", DEFAULT_BAUD))
    raise ArgumentError(
        f"device must be model:, sim: or serial:PORT, got {url!r}")


def _number(parts, name, words, default):
    """A number in the query of a URL."""
    try:
        number = int(parse_qs(parts.query).get(name, [default])[0])
    except ValueError:
        number = 0
    if number <= 0:
        raise ArgumentError(f"{words} must be a whole number above 0, got {parts.geturl()!r}")
    return number
