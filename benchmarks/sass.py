"""What a compiled kernel executes: registers, loops and their instructions, read from SASS by ``cuobjdump``.

A loop is what compilers call a natural loop: blocks from which a header is reached again that dominates them. Code that
a compiler moved out of line, and jumps back from, is no loop.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Loop:
    """A loop of a kernel.

    Attributes:
        start: Address of its header.
        instructions: Its own, by their full text; those of inner loops are not among them.
    """

    start: int
    instructions: tuple[str, ...]

    def count(self, name: str) -> int:
        """How many instructions begin with a name, such as ``MUFU``."""
        return sum(bare(text).startswith(name) for text in self.instructions)


@dataclass(frozen=True)
class Compiled:
    """A kernel as it was compiled for one architecture.

    Attributes:
        symbol: Its mangled name.
        arch: Such as ``sm_90``.
        registers: Of a thread.
        stack: Bytes of local memory of a thread: what is spilled, and arrays.
        shared: Bytes of shared memory that its size is known of.
        sass: Address and text of each instruction.
    """

    symbol: str
    arch: str
    registers: int
    stack: int
    shared: int
    sass: tuple[tuple[int, str], ...]

    @cached_property
    def spilled(self) -> int:
        """Bytes that are written to local memory: 4 for each register, more for wide stores."""
        wide = {"64": 8, "128": 16}
        found = (re.match(r"STL(?:\.(\d+))?", bare(text)) for _, text in self.sass)
        return sum(wide.get(match[1], 4) for match in found if match)

    def outside(self, name: str = "") -> int:
        """How many instructions that begin with a name stand in no loop; padding is none."""
        texts = [bare(text) for _, text in self.sass]
        found = sum(text.startswith(name) and not text.startswith("NOP") for text in texts)
        return found - sum(loop.count(name) for loop in self.loops)

    @cached_property
    def loops(self) -> list[Loop]:
        """All loops, by address."""
        return _loops(self.sass)


def bare(text: str) -> str:
    """An instruction without its predicate."""
    return re.sub(r"^@!?U?P\w+\s+", "", text)


def cuobjdump() -> Path:
    """The one that the triton package brings along."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def read(path: Path) -> list[Compiled]:
    """All kernels in a cubin or a library, once for each architecture."""

    def dump(option: str) -> str:
        command = [cuobjdump(), option, path]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    usage: dict[tuple[str, str], dict[str, int]] = {}
    for arch, symbol, line in _sections(dump("-res-usage")):
        if "REG:" in line:
            usage[arch, symbol] = {key: int(count) for key, count in re.findall(r"(REG|STACK|SHARED):(\d+)", line)}
    sass: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for arch, symbol, line in _sections(dump("-sass")):
        if match := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line):
            sass[arch, symbol].append((int(match[1], 16), match[2]))
    found = []
    for (arch, symbol), code in sass.items():
        counts = usage.get((arch, symbol)) or usage["", symbol]  # a cubin does not say the architecture again
        found.append(Compiled(symbol, arch, counts["REG"], counts["STACK"], counts["SHARED"], tuple(code)))
    return found


def _sections(text: str) -> list[tuple[str, str, str]]:
    """Lines of a dump with the architecture and the function that they belong to."""
    found = []
    arch = symbol = ""
    for line in text.splitlines():
        if match := re.match(r"\s*arch = (\w+)|.*\.target\s+(\w+)", line):
            arch = match[1] or match[2]
        elif match := re.match(r"\s*Function\s*:?\s*([^\s:]+)", line):
            symbol = match[1]
        found.append((arch, symbol, line))
    return found


def _loops(sass: tuple[tuple[int, str], ...]) -> list[Loop]:
    blocks = _blocks(sass)
    before: dict[int, list[int]] = defaultdict(list)
    for block, (_, following) in blocks.items():
        for other in following:
            before[other].append(block)
    order = _postorder({block: following for block, (_, following) in blocks.items()})[::-1]
    dominator = _dominators(order, before)

    def dominates(one: int, other: int) -> bool:
        while other != one and other != order[0]:
            other = dominator[other]
        return other == one

    bodies: dict[int, set[int]] = {}
    for block in order:
        for header in blocks[block][1]:
            if dominates(header, block):
                body, waiting = bodies.setdefault(header, {header}), [block]
                while waiting:
                    found = waiting.pop()
                    if found not in body:
                        body.add(found)
                        waiting += [other for other in before[found] if other in dominator]
    loops = []
    for header, body in sorted(bodies.items()):
        inner = set().union(*(other for start, other in bodies.items() if start != header and start in body))
        own = sorted(body - inner)
        texts = tuple(text for block in own for _, text in sass[block : block + blocks[block][0]])
        loops.append(Loop(sass[header][0], texts))
    return loops


def _blocks(sass: tuple[tuple[int, str], ...]) -> dict[int, tuple[int, list[int]]]:
    """Basic blocks by index of their first instruction: length, and the blocks that follow."""
    index = {address: k for k, (address, _) in enumerate(sass)}
    jumps = {}
    for k, (_, text) in enumerate(sass):
        if match := re.match(r"(BRA|BRX|JMX|EXIT|RET)\b(.*)", bare(text)):
            target = re.search(r"0x([0-9a-f]+)", match[2]) if match[1] == "BRA" else None
            # a branch is conditional by a predicate in front, or by one among its operands
            conditional = text.startswith("@") or re.match(r"(\.\w+)*\s+!?U?P\d", match[2]) is not None
            jumps[k] = (index[int(target[1], 16)] if target else None, conditional)
        elif (match := re.match(r"CALL\.REL\.NOINC 0x([0-9a-f]+)", bare(text))) and index[int(match[1], 16)] == k + 2:
            # out of a loop, over the branch back to its header; anything further away is a function, and returns
            jumps[k] = (k + 2, text.startswith("@"))
    starts = sorted({0} | {k + 1 for k in jumps} | {target for target, _ in jumps.values() if target is not None})
    starts = [start for start in starts if start < len(sass)]
    blocks = {}
    for start, end in zip(starts, [*starts[1:], len(sass)], strict=True):
        target, conditional = jumps.get(end - 1, (None, True))
        following = [] if target is None else [target]
        if conditional and end < len(sass):
            following.append(end)
        blocks[start] = (end - start, following)
    return blocks


def _postorder(following: dict[int, list[int]]) -> list[int]:
    order, seen, stack = [], {0}, [(0, iter(following[0]))]
    while stack:
        block, rest = stack[-1]
        for other in rest:
            if other not in seen:
                seen.add(other)
                stack.append((other, iter(following[other])))
                break
        else:
            order.append(block)
            stack.pop()
    return order


def _dominators(order: list[int], before: dict[int, list[int]]) -> dict[int, int]:
    """Immediate dominators (Cooper, Harvey and Kennedy, A Simple, Fast Dominance Algorithm)."""
    number = {block: k for k, block in enumerate(order)}
    dominator, changed = {order[0]: order[0]}, True
    while changed:
        changed = False
        for block in order[1:]:
            known = [other for other in before[block] if other in dominator]
            new = known[0]
            for other in known[1:]:
                while new != other:
                    while number[new] > number[other]:
                        new = dominator[new]
                    while number[other] > number[new]:
                        other = dominator[other]
            if dominator.get(block) != new:
                dominator[block], changed = new, True
    return dominator
