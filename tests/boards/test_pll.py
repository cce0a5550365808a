"""boards.pll: the settings make the clock they say, within the PLL's limits."""

from fractions import Fraction

import pytest

from boards.pll import CLOCK_RANGE_MHZ, pll_settings


@pytest.mark.parametrize("clock", [
    *range(25, 201, 25), 5, 10, 20, 30, 40, 60, 62.5, 65, 70, 80, 87.5, 120, 150, 400])
def test_common_clocks_are_exact(clock):
    assert pll_settings(25, clock).clock == Fraction(clock)


@pytest.mark.parametrize("clock", [
    *range(CLOCK_RANGE_MHZ[0], CLOCK_RANGE_MHZ[1] + 1, 7), 61.7, 205, 399.9])
def test_any_clock_is_near_and_within_limits(clock):
    settings = pll_settings(25, clock)
    assert abs(settings.clock / Fraction(clock) - 1) < Fraction(1, 50)
    assert 400 <= settings.vco <= 800
    assert settings.input / settings.input_divider >= 10
    assert settings.clock == Fraction(25 * settings.vco_multiplier,
                                      settings.input_divider * settings.output_divider)
    ports = settings.instance()
    assert (ports["p_CLKI_DIV"], ports["p_CLKFB_DIV"], ports["p_CLKOP_DIV"],
            ports["p_CLKOS_DIV"]) == (settings.input_divider, 1, settings.vco_multiplier,
                                      settings.output_divider)


@pytest.mark.parametrize("clock", [4.99, 401])
def test_a_clock_out_of_range_is_refused(clock):
    with pytest.raises(ValueError, match="must be 5 to 400 MHz"):
        pll_settings(25, clock)


@pytest.mark.parametrize("multiple", [1, 2, 3, 4])
@pytest.mark.parametrize("clock", [30, 50, 61.7, 62.5])
def test_the_faster_clock_is_a_whole_multiple(clock, multiple):
    settings = pll_settings(25, clock, multiple)
    assert abs(settings.clock / Fraction(clock) - 1) < Fraction(1, 40)
    assert 400 <= settings.vco <= 800
    ports = settings.instance()
    assert ports["p_CLKOS_CPHASE"] == ports["p_CLKOS_DIV"] - 1
    if multiple == 1:
        assert "p_CLKOS2_ENABLE" not in ports
        return
    assert ports["p_CLKOS_DIV"] == multiple * ports["p_CLKOS2_DIV"]
    # Edges fall together.
    assert ports["p_CLKOS2_CPHASE"] == ports["p_CLKOS2_DIV"] - 1
    assert float(ports["a_FREQUENCY_PIN_CLKOS2"]) == pytest.approx(
        float(multiple * settings.clock), rel=1e-5)


def test_a_faster_clock_out_of_range_is_refused():
    with pytest.raises(ValueError, match="at most 400 MHz, got 4 times 101"):
        pll_settings(25, 101, 4)


def test_nothing_nearer_exists():
    # Every setting by brute force, for one awkward clock.
    wanted = Fraction("61.7")
    clocks = [Fraction(25 * multiplier, divider * output)
              for divider in (1, 2) for multiplier in range(1, 129) for output in range(1, 129)
              if 400 <= Fraction(25 * multiplier, divider) <= 800]
    assert pll_settings(25, wanted).clock == min(clocks, key=lambda clock: abs(clock - wanted))
