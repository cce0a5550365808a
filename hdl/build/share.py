"""Equal modules of an RTLIL design made one, so that each is synthesised once.

Amaranth writes a module for every instance: eight lanes become eight modules of the same text.
Synthesis of the default design takes three times as long with them as without.
"""

import re
from collections import Counter, defaultdict
from functools import cache

__all__ = ["share_modules"]

_MODULE = re.compile(r"^(?:attribute [^\n]*\n)*module (\S+)\n.*?^end\n", re.M | re.S)
_CELL = re.compile(r"^(\s*cell )(\\\S+)( )", re.M)
#: Ports whose names Amaranth made up: other modules refer to them, so their numbers matter.
_NUMBERED_PORT = re.compile(r"^\s*wire .*(?:input|output) .*\$\d", re.M)


def share_modules(text, top="top"):
    """``(text, repeated)``: the design without repeated modules, and which to keep whole.

    Two modules are equal when their text is, apart from their own names, the numbers in names
    that Amaranth made up, and the names of equal modules within. ``repeated`` are the modules of
    more than one instance that do not lie in another such module: with their hierarchy kept they
    are synthesised once, and everything else is flattened as before.

    >>> text = "".join(f"module {name}\\n  cell {kind} x\\n  end\\nend\\n" for name, kind in (
    ...     (r"\\a", "$add"), (r"\\b", "$add"), (r"\\top", r"\\a"), (r"\\top2", r"\\b")))
    >>> text = text.replace("x\\n  end\\nend\\nmodule \\\\top2\\n", "x\\n  end\\n")
    >>> shared, repeated = share_modules(text)
    >>> shared.count("module "), repeated
    (2, ['a'])
    """
    bodies = {match[1]: match[0] for match in _MODULE.finditer(text)}
    alias = {}

    def renamed(body):
        return _CELL.sub(lambda cell: cell[1] + alias.get(cell[2], cell[2]) + cell[3], body)

    def canonical(name, body):
        body = renamed(body.replace(f"module {name}\n", "module \\\n", 1))
        if _NUMBERED_PORT.search(body):
            return body
        numbers = {}
        return re.sub(r"\$(\d+)", lambda n: f"${numbers.setdefault(n[1], len(numbers))}", body)

    # Modules are equal only after those within them are: repeat until nothing changes.
    while True:
        first, found = {}, {}
        for name, body in bodies.items():
            if name not in alias:
                equal = first.setdefault(canonical(name, body), name)
                if equal != name:
                    found[name] = equal
        if not found:
            break
        alias.update(found)
        # A name found equal to one that is itself an alias now means what that one means.
        alias.update({name: alias.get(equal, equal) for name, equal in alias.items()})

    kept = {name: renamed(body) for name, body in bodies.items() if name not in alias}
    parents = defaultdict(Counter)
    for name, body in kept.items():
        for _, kind, _ in _CELL.findall(body):
            if kind in kept:
                parents[kind][name] += 1

    @cache
    def instances(name):
        if name == f"\\{top}":
            return 1
        return sum(count * instances(parent) for parent, count in parents[name].items())

    repeated = [name[1:] for name in kept if instances(name) > 1
                and all(instances(parent) == 1 for parent in parents[name])]
    head = text[:next(_MODULE.finditer(text)).start()]
    return head + "".join(kept.values()), repeated
