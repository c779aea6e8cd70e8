"""What one render of a chat template may cost, counted in units, and the checks before big values.

Knows no Jinja. One unit is a character copied or a node visited, some nanoseconds; the invariant:
no value is made, printed or compared whose size was not paid for, so a budget bounds both the time
and the memory of a render, and a deadline is looked at often enough to hold.
"""

import re
import time
from typing import Any

MAX_SECONDS = 2.0  # of the processor, one render; an honest one takes well under a millisecond
BASE_UNITS = 20_000_000  # some 0.3 s of loop steps, or 80 MB of text
UNITS_PER_CHAR = 200  # of the conversation: templates copy what they render a few times
LOOK_EVERY = 32  # payments between two looks at the clock, which take longer than these
STEP_UNITS = 50  # of a loop step: it takes as long as copying so many characters
CALL_UNITS = 250  # of a call or a filter
NODE_UNITS = 10  # of an item in a list, tuple or dict
MAX_INT_ARGUMENT = 100_000  # of methods such as `ljust`, and of widths in format strings
MAX_INT_BITS = 4096

_CONTAINERS = (list, tuple, dict, set, frozenset)
_SIZED = (str, bytes, range, *_CONTAINERS)
_PRINTF_WIDTH = re.compile(r"%[^%a-zA-Z]*(?:\*|\d{6,})")
_LONG_NUMBER = re.compile(r"\d{6,}")


class OverBudget(Exception):
    """The template does more than any honest one. The message completes "the template ..."."""


def size(value: Any) -> int:
    """How long a value is, without looking inside."""
    return len(value) if isinstance(value, _SIZED) else 0


class Budget:
    """Units left for one render."""

    def __init__(self, conversation_chars: int) -> None:
        self._left = BASE_UNITS + UNITS_PER_CHAR * conversation_chars
        self._deadline = time.thread_time() + MAX_SECONDS
        self._num_spent = 0  # times

    def spend(self, units: int) -> None:
        self._left -= units
        if self._left < 0:
            raise OverBudget("does more work than any honest one")
        self._num_spent += 1
        if self._num_spent % LOOK_EVERY == 0 and time.thread_time() > self._deadline:
            raise OverBudget(f"ran longer than {MAX_SECONDS:.0f} s")

    def allow(self, units: int) -> None:
        """Refuse, before it is made, a value that the budget does not hold."""
        if units > self._left:
            raise OverBudget(f"makes a value of size {units}")

    def spend_nodes(self, value: Any) -> None:
        """Pay for a new container: for each thing in it, however deep and however often."""
        self.spend(1 + self._measure(value, text=False))

    def spend_printed(self, value: Any) -> None:
        """Pay for turning a value into text."""
        self.spend(1 + self._measure(value, text=True))

    def _measure(self, value: Any, *, text: bool) -> int:
        if not isinstance(value, _CONTAINERS):
            return size(value) if text else 0
        total, stack = 0, [value]
        while stack:
            item = stack.pop()
            if isinstance(item, _CONTAINERS):
                total += NODE_UNITS * (1 + len(item))
                stack += [*item, *item.values()] if isinstance(item, dict) else item
                self.allow(total)
            elif text:
                total += size(item)
        return total

    def check_product(self, left: Any, right: Any) -> None:
        for many, times in ((left, right), (right, left)):
            if isinstance(many, _SIZED) and isinstance(times, int):
                self.allow(len(many) * times)
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())

    def check_join(self, separator: Any, items: Any) -> None:
        self.allow(size(separator) * size(items))
        self.spend_printed(items)

    def check_replace(self, text: Any, new: Any) -> None:
        self.allow((size(text) + 1) * max(1, size(new)))

    def check_printf(self, template: str | bytes, values: Any) -> None:
        self.spend_printed(values)
        if _PRINTF_WIDTH.search(
            template if isinstance(template, str) else template.decode("latin-1")
        ):
            raise OverBudget(f"formats with a width over {MAX_INT_ARGUMENT}")


def check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * abs(right))


def check_width(format_spec: str) -> None:
    if _LONG_NUMBER.search(format_spec):
        raise OverBudget(f"formats with a width over {MAX_INT_ARGUMENT}")


def check_int_arguments(name: str, args: tuple[Any, ...]) -> None:
    for arg in args:
        if isinstance(arg, int) and abs(arg) > MAX_INT_ARGUMENT:
            raise OverBudget(f"calls {name} with {arg}")


def _check_bits(bits: int) -> None:
    if bits > MAX_INT_BITS:
        raise OverBudget(f"makes a number of {bits} bits")
