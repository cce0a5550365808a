"""What stands around the accelerator on a board: clock, reset, serial port and lights."""

from amaranth.build import ResourceError
from amaranth.hdl import ClockDomain, ClockSignal, Instance, Module, Signal
from amaranth.lib import io, wiring
from amaranth.lib.cdc import ResetSynchronizer

from boards.pll import pll_settings
from hdl.link.uart import UartReceiver, UartTransmitter

__all__ = ["BAUD", "INPUT_MHZ", "BoardTop"]

#: Bits per second on the serial port; what ``host.transport`` uses unless told otherwise.
BAUD = 1_000_000
#: The clock that every board and part of :mod:`boards.platforms` brings.
INPUT_MHZ = 25
#: Clocks of the heartbeat's full period, as a power of two.
_HEARTBEAT_BITS = 26


class BoardTop(wiring.Component):
    """The accelerator between a board's pins.

    The clock of domain ``sync`` is made by a PLL from the board's 25 MHz, and that of ``array``
    where it is another; their resets are released two clocks after the PLL has locked and taken
    again when it loses lock. The first light beats,
    the second shows bytes on their way; a board without lights needs none.

    Parameters
    ----------
    accelerator : hdl.top.Accelerator
        Anything with byte streams ``i`` and ``o``.
    clock_mhz : number
        The clock wanted.
    array_clock : int
        How many times as fast that of domain ``array`` is; there is one for more than one.

    Attributes
    ----------
    pll : boards.pll.PllSettings
        The settings; ``pll.clock`` is the clock that there will be, in MHz.
    """
    def __init__(self, accelerator, clock_mhz, array_clock=1):
        self.accelerator = accelerator
        self.pll = pll_settings(INPUT_MHZ, clock_mhz, array_clock)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        hertz = int(self.pll.clock * 1_000_000)

        # Clock and reset.
        m.submodules.clock_pin = clock_pin = io.Buffer(
            "i", platform.request(platform.default_clk, dir="-"))
        m.domains.sync = ClockDomain()
        feedback, locked, fast = Signal(), Signal(), {}
        if self.pll.multiple > 1:
            # What it has to reset, the machine does, after its own reset.
            m.domains.array = ClockDomain("array", reset_less=True)
            fast = {"o_CLKOS2": ClockSignal("array")}
        m.submodules.pll = Instance(
            "EHXPLLL", **self.pll.instance(),
            i_CLKI=clock_pin.i, i_CLKFB=feedback,
            o_CLKOP=feedback, o_CLKOS=ClockSignal("sync"), o_LOCK=locked, **fast)
        m.submodules.reset = ResetSynchronizer(~locked, domain="sync")

        # Serial port -> accelerator -> serial port.
        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx_pin = rx_pin = io.Buffer("i", uart.rx)
        m.submodules.tx_pin = tx_pin = io.Buffer("o", uart.tx)
        m.submodules.receiver = receiver = UartReceiver(hertz, BAUD)
        m.submodules.accelerator = accelerator = self.accelerator
        m.submodules.transmitter = transmitter = UartTransmitter(hertz, BAUD)
        m.d.comb += receiver.rx.eq(rx_pin.i)
        wiring.connect(m, receiver.o, accelerator.i)
        wiring.connect(m, accelerator.o, transmitter.i)
        m.d.comb += tx_pin.o.eq(transmitter.tx)

        # Lights.
        beat = Signal(_HEARTBEAT_BITS)
        m.d.sync += beat.eq(beat + 1)
        for number, light in enumerate([beat[-1], ~rx_pin.i | ~transmitter.tx]):
            try:
                port = platform.request("led", number, dir="-")
            except ResourceError:
                break
            m.submodules[f"led{number}_pin"] = pin = io.Buffer("o", port)
            m.d.comb += pin.o.eq(light)
        return m
