"""A block RAM of the ECP5, clock by clock."""

__all__ = ["BlockRam"]

#: Address bits that lie within a word, by its width; those of words that are written are the
#: enables of its bytes of nine bits, where it has more than one.
_WITHIN = {1: 0, 2: 1, 4: 2, 9: 3, 18: 4, 36: 5}


class BlockRam:
    """A DP16KD with words of one width, both sides on the same clock, and no reset.

    A side reads the word at its address where it is enabled, and in the clock after that it has
    it; with ``REGMODE`` ``OUTREG`` a clock later, if the output register is enabled. What a side
    reads while it writes is its ``WRITEMODE``: nothing new, the old word or the new one. Words of
    36 bits are written at side A and read at side B; the low half has the pins of side A.

    A word that one side writes must not be read by the other in the same clock.

    Parameters
    ----------
    parameters : dict of str to str
        Those of the cell in Yosys' JSON.
    """
    def __init__(self, parameters):
        self._parameters = parameters
        self._width = int(parameters["DATA_WIDTH_A"], 2)
        assert self._width == int(parameters["DATA_WIDTH_B"], 2)
        assert not any(int(value.replace("x", "0"), 2) for name, value in parameters.items()
                       if name.startswith("INITVAL"))
        self._words = {}
        self._read = {"A": 0, "B": 0}
        self._registers = {"A": 0, "B": 0}

    def clock(self, pins):
        """One clock with these levels of the pins; the outputs behind its edge."""
        for side in "AB":
            assert pins[f"RST{side}"] == 0
            if pins[f"OCE{side}"]:
                self._registers[side] = self._read[side]
        (self._clock_wide if self._width == 36 else self._clock_sides)(pins)
        outputs = {"OUTREG": self._registers, "NOREG": self._read}
        return {f"DO{side}{i}": outputs[self._parameters[f"REGMODE_{side}"]][side] >> i & 1
                for side in "AB" for i in range(18)}

    def _clock_wide(self, pins):
        written = self._address(pins, "A") if pins["CEA"] and pins["WEA"] else None
        if pins["CEB"]:
            address = self._address(pins, "B")
            assert address != written or not self._bytes(pins, "A")
            word = self._words.get(address, 0)
            self._read = {"A": word & (1 << 18) - 1, "B": word >> 18}
        if written is not None:
            self._write(written, self._bytes(pins, "A"),
                        self._data(pins, "A") | self._data(pins, "B") << 18)

    def _clock_sides(self, pins):
        address = {side: self._address(pins, side) for side in "AB" if pins[f"CE{side}"]}
        writes = {side: self._bytes(pins, side) for side in address if pins[f"WE{side}"]}
        assert not (any(writes.values()) and len(set(address.values())) < len(address))
        for side, at in address.items():
            mode = self._parameters[f"WRITEMODE_{side}"] if side in writes else "READBEFOREWRITE"
            if mode == "READBEFOREWRITE":
                self._read[side] = self._words.get(at, 0)
            if side in writes:
                self._write(at, writes[side], self._data(pins, side))
            if mode == "WRITETHROUGH":
                self._read[side] = self._words.get(at, 0)

    def _address(self, pins, side):
        return sum(pins[f"AD{side}{i}"] << i for i in range(14)) >> _WITHIN[self._width]

    def _bytes(self, pins, side):
        """Mask of the bits that a side writes."""
        if self._width < 18:
            return (1 << self._width) - 1
        return sum(0x1FF * pins[f"AD{side}{i}"] << 9 * i for i in range(self._width // 9))

    @staticmethod
    def _data(pins, side):
        return sum(pins[f"DI{side}{i}"] << i for i in range(18))

    def _write(self, address, mask, data):
        self._words[address] = self._words.get(address, 0) & ~mask | data & mask
