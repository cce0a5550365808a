"""Settings of the ECP5's PLL: any clock from one input clock, by a search in whole numbers."""

from dataclasses import dataclass
from fractions import Fraction

__all__ = ["CLOCK_RANGE_MHZ", "PllSettings", "pll_settings"]

#: Clocks in MHz that a PLL output can have.
CLOCK_RANGE_MHZ = (5, 400)
#: Range of the PLL's oscillator in MHz.
_VCO = (400, 800)
#: Lowest frequency in MHz that the phase detector takes.
_PHASE_DETECTOR = 10
_DIVIDER = 128


@dataclass(frozen=True)
class PllSettings:
    """One setting of an EHXPLLL whose feedback is CLKOP and whose clock is CLKOS; CLKOS2 is
    ``multiple`` times as fast, and there for more than one.

    ``vco = input / input_divider * vco_multiplier``, ``clock = vco / output_divider``. Rising edges
    of CLKOS are edges of CLKOS2 too. Frequencies are exact fractions of MHz.
    """
    input: Fraction
    input_divider: int
    vco_multiplier: int
    output_divider: int
    multiple: int = 1

    @property
    def vco(self):
        return self.input / self.input_divider * self.vco_multiplier

    @property
    def clock(self):
        return self.vco / self.output_divider

    def instance(self):
        """Keyword arguments of an ``Instance`` of EHXPLLL, without its clocks."""
        faster, fast = self.output_divider // self.multiple, {}
        if self.multiple > 1:
            fast = {
                "a_FREQUENCY_PIN_CLKOS2": f"{float(self.clock * self.multiple):.6g}",
                "p_CLKOS2_ENABLE": "ENABLED", "p_CLKOS2_DIV": faster,
                "p_CLKOS2_CPHASE": faster - 1, "p_CLKOS2_FPHASE": 0,
            }
        # CLKFB_DIV is 1, so CLKOP runs at the phase detector's frequency.
        return {
            **fast,
            "a_FREQUENCY_PIN_CLKI": f"{float(self.input):.6g}",
            "a_FREQUENCY_PIN_CLKOS": f"{float(self.clock):.6g}",
            "a_ICP_CURRENT": "12", "a_LPF_RESISTOR": "8",
            "a_MFG_ENABLE_FILTEROPAMP": "1", "a_MFG_GMCREF_SEL": "2",
            "p_PLLRST_ENA": "DISABLED", "p_INTFB_WAKE": "DISABLED",
            "p_STDBY_ENABLE": "DISABLED", "p_DPHASE_SOURCE": "DISABLED",
            "p_OUTDIVIDER_MUXA": "DIVA", "p_OUTDIVIDER_MUXB": "DIVB",
            "p_OUTDIVIDER_MUXC": "DIVC", "p_OUTDIVIDER_MUXD": "DIVD",
            "p_CLKI_DIV": self.input_divider, "p_CLKFB_DIV": 1,
            "p_CLKOP_ENABLE": "ENABLED", "p_CLKOP_DIV": self.vco_multiplier,
            "p_CLKOP_CPHASE": self.vco_multiplier - 1, "p_CLKOP_FPHASE": 0,
            "p_CLKOS_ENABLE": "ENABLED", "p_CLKOS_DIV": self.output_divider,
            "p_CLKOS_CPHASE": self.output_divider - 1, "p_CLKOS_FPHASE": 0,
            "p_FEEDBK_PATH": "CLKOP",
            "i_RST": 0, "i_STDBY": 0, "i_PHASESEL0": 0, "i_PHASESEL1": 0, "i_PHASEDIR": 1,
            "i_PHASESTEP": 1, "i_PHASELOADREG": 1, "i_PLLWAKESYNC": 0, "i_ENCLKOP": 0,
        }


def pll_settings(input_mhz, clock_mhz, multiple=1):
    """The settings whose clock is nearest to ``clock_mhz``, with another ``multiple`` times as
    fast; among equals the highest frequency at the phase detector, then the slowest oscillator.

    >>> settings = pll_settings(25, 72)
    >>> float(settings.vco), float(settings.clock)
    (575.0, 71.875)
    >>> pll_settings(25, 60).clock
    Fraction(60, 1)
    >>> settings = pll_settings(25, 62.5, 3)
    >>> float(settings.vco), float(settings.clock), settings.output_divider
    (750.0, 62.5, 12)
    """
    source, wanted = Fraction(input_mhz), Fraction(clock_mhz)
    if not CLOCK_RANGE_MHZ[0] <= wanted <= CLOCK_RANGE_MHZ[1]:
        raise ValueError(f"a PLL's clock must be {CLOCK_RANGE_MHZ[0]} to {CLOCK_RANGE_MHZ[1]} "
                         f"MHz, got {clock_mhz}")
    if wanted * multiple > CLOCK_RANGE_MHZ[1]:
        raise ValueError(f"a PLL's clock must be at most {CLOCK_RANGE_MHZ[1]} MHz, got {multiple} "
                         f"times {clock_mhz}")
    best = None
    for input_divider in range(1, _DIVIDER + 1):
        detector = source / input_divider
        if detector < _PHASE_DETECTOR:
            break
        for multiplier in range(1, _DIVIDER + 1):
            vco = detector * multiplier
            if not _VCO[0] <= vco <= _VCO[1]:
                continue
            below = int(vco / wanted / multiple)
            for faster in {below, below + 1} & set(range(1, _DIVIDER // multiple + 1)):
                settings = PllSettings(source, input_divider, multiplier, faster * multiple,
                                       multiple)
                key = (abs(settings.clock - wanted), input_divider, vco)
                if best is None or key < best[0]:
                    best = key, settings
    if best is None:
        raise ValueError(f"no PLL setting makes a clock from {input_mhz} MHz")
    return best[1]
