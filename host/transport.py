"""Links: how frames reach a device, by URL.

============================  ======================================================
``model:``                    the NumPy model of the machine, in this process
``sim:``                      the simulated board: the gateware, compiled; the default
``serial:PORT[?baud=N]``      a board on a serial port
============================  ======================================================

A transport moves bytes: ``send(data)``, ``receive(deadline)`` (whatever has arrived; empty when
the deadline, a ``time.monotonic`` value, has passed), ``close()``. ``cycles`` is the machine's
clock count since power-up, or None where nobody sees it; ``clocked`` says whether there is a clock,
which programs are measured by.
"""

import os
import time
from urllib.parse import parse_qs, urlsplit

from host.errors import ArgumentError, LinkError

__all__ = ["DEFAULT_BAUD", "open_transport"]

#: Baud rate of the boards' bitstreams.
DEFAULT_BAUD = 1_000_000

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
    """The simulated board: the verilated gateware in a shared library."""
    clocked = True

    def __init__(self, params, progress):
        from sim.board import Board, ToolError
        try:
            self._board = Board(params, progress=progress)
        except ToolError as error:
            raise LinkError(str(error)) from None

    @property
    def cycles(self):
        return self._board.cycles

    def send(self, data):
        self._board.send(data)

    def receive(self, deadline):
        while True:
            data = self._board.recv()
            if data or time.monotonic() >= deadline:
                return data
            self._board.run(_SIM_SLICE)

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
        return SimTransport(params, progress)
    if parts.scheme == "serial" and parts.path:
        try:
            baud = int(parse_qs(parts.query).get("baud", [DEFAULT_BAUD])[0])
        except ValueError:
            baud = 0
        if baud <= 0:
            raise ArgumentError(f"the baud rate must be a whole number above 0, got {url!r}")
        return SerialTransport(parts.path, baud)
    raise ArgumentError(
        f"device must be model:, sim: or serial:PORT, got {url!r}")
