"""Tables in words."""

__all__ = ["change", "columns", "number"]


def number(value):
    """A figure as people read it.

    >>> number(1234), number(1.5), number(None)
    ('1,234', '1.50', '-')
    """
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def change(mine, other):
    """How far one figure lies from another.

    >>> change(110, 100), change(5, None), change(1, 0)
    ('+10.0 %', '-', '-')
    """
    if not mine or not other:
        return "-"
    return f"{100 * (mine / other - 1):+.1f} %"


def columns(rows):
    """Lines of cells, the first column to the left and the others to the right.

    >>> print(columns([["", "a"], ["total", "1"]]))
           a
    total  1
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(width) if column == 0 else text.rjust(width)
                               for column, (text, width) in
                               enumerate(zip(row, widths, strict=True))).rstrip()
                     for row in rows)
