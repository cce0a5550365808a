"""What the commands that measure steps of a perceptron have in common: options, and the machine."""

import argparse

from hdl.params import ParameterError, Params, parse_groups

__all__ = ["machine", "parser"]


def parser(prog, doc, options):
    """A parser of ``(name, default, what it is)`` of whole numbers, of ``--groups`` and
    ``--json``."""
    made = argparse.ArgumentParser(
        prog=prog, description=doc.partition("\n\n")[0].partition(": ")[2])
    for name, default, text in options:
        made.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    made.add_argument("--groups", default="4x4", help="sample x channel groups (4x4)")
    made.add_argument("--json", action="store_true", help="print the figures as JSON")
    return made


def machine(given, fields, counts):
    """The machine of parsed options, of which ``fields`` are its own and ``counts`` are from 1 on;
    one that keeps masters, or a :class:`~hdl.params.ParameterError`."""
    samples, channels = parse_groups(given.groups)
    params = Params(sample_groups=samples, channel_groups=channels,
                    **{name: getattr(given, name) for name in fields})
    if not params.masters:
        raise ParameterError("masters must be a whole number from 1 to 256, got 0")
    for name in counts:
        if getattr(given, name) < 1:
            raise ParameterError(f"{name} must be a whole number from 1 on, "
                                 f"got {getattr(given, name)}")
    return params
