"""Jinja for chat templates that came with an untrusted checkpoint: sandboxed and bounded.

Jinja's immutable sandbox keeps a template from reaching Python; this module makes each loop step,
call, filter and operator pay from one budget. The invariant: a render ends, or raises OverBudget.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from string import Formatter
from threading import local
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from llamastream.text.budget import (
    CALL_UNITS,
    STEP_UNITS,
    Budget,
    check_int_arguments,
    check_power,
    check_width,
    size,
)

# Filters that turn whatever they are given into text, and the other ones. Those left out could make
# large values of small ones, or draw random numbers.
_TEXT_FILTERS = frozenset(
    "capitalize e escape float forceescape format indent int join lower replace string title "
    "tojson trim truncate upper wordcount".split()
)
_VALUE_FILTERS = frozenset(
    "abs attr count d default dictsort first groupby items last length list map max min reject "
    "rejectattr reverse round safe select selectattr sort sum unique".split()
)
_METHODS_OFF = frozenset({"expandtabs", "hex", "maketrans", "to_bytes", "translate"})


class GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here it only holds its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates and holds, for each thread, the budget of the render it is in."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, filters: dict[str, Callable[..., Any]]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # or operations on constants would run at compile time, unpaid
            extensions=[loopcontrols, GenerationTag],
        )
        self._local = local()
        available = self.filters | filters
        kept = (_TEXT_FILTERS | _VALUE_FILTERS) & available.keys()
        self.filters = {name: _paying(name, available[name]) for name in kept}
        self.filters |= {
            "_steps": _steps,
            "_joined": _joined,
            "_built": _built,
            "_printed": _printed,
        }
        del self.globals["lipsum"]
        self.globals |= {"namespace": _PublicNamespace, "dict": _new_dict}

    @property
    def budget(self) -> Budget:
        budget: Budget = self._local.budget
        return budget

    @budget.setter
    def budget(self, budget: Budget) -> None:
        self._local.budget = budget

    def concat(self, pieces: Iterable[str]) -> str:
        """Join the output, or what a macro or a `set` block captured, paying as it comes."""
        paid = []
        for piece in pieces:
            self.budget.spend(len(piece))
            paid.append(piece)
        return "".join(paid)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            self.budget.check_product(left, right)
        elif operator == "**":
            check_power(left, right)
        elif operator == "%" and isinstance(left, str | bytes):
            self.budget.check_printf(left, right)
        result = super().call_binop(context, operator, left, right)
        self.budget.spend(size(result))
        self.budget.spend_nodes(result)
        return result

    def call(
        __self,  # noqa: B902  # a template's own keyword arguments may be called `self`
        __context: Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        __self.budget.spend(CALL_UNITS + sum(map(size, args)))
        if isinstance(getattr(__obj, "__self__", None), str | bytes | int | float):
            __self._check_method(__obj, (*args, *kwargs.values()))
        result = super().call(__context, __obj, *args, **kwargs)
        __self.budget.spend(size(result))
        __self.budget.spend_nodes(result)
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _METHODS_OFF and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        template, by_map = str(value.__self__), value.__name__ == "format_map"
        formatter = _BoundedFormatter(self)

        def formatted(*args: Any, **kwargs: Any) -> str:
            values = args[0] if by_map else kwargs
            self.budget.spend_printed([*args, values])
            return formatter.vformat(template, () if by_map else args, values)

        return formatted

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _MakePay(self).visit(super()._parse(source, name, filename))
        return tree

    def _check_method(self, method: Any, args: tuple[Any, ...]) -> None:
        name = getattr(method, "__name__", "")
        check_int_arguments(name, args)
        if name == "replace" and len(args) > 1:
            self.budget.check_replace(method.__self__, args[1])
        elif name == "join" and args:
            self.budget.check_join(method.__self__, args[0])


class _MakePay(NodeTransformer):
    """Puts a paying filter where Jinja has no hook: loops, `~`, containers and what is printed."""

    def __init__(self, environment: BoundedEnvironment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = self._filter(node.iter, "_steps")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._filter(nodes.List(node.nodes, lineno=node.lineno), "_joined")

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            child if isinstance(child, nodes.TemplateData) else self._filter(child, "_printed")
            for child in node.nodes
        ]
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._filter(self.generic_visit(node), "_built")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._filter(self.generic_visit(node), "_built")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return node if node.ctx != "load" else self._filter(node, "_built")

    def _filter(self, node: Any, name: str) -> nodes.Filter:
        return nodes.Filter(
            node, name, [], [], None, None, lineno=node.lineno, environment=self._environment
        )


def _paying(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call` as a filter that pays for its input and its result."""
    wants = getattr(call, "jinja_pass_arg", None)

    @pass_context  # which also keeps Jinja from running it at compile time
    @wraps(call)
    def paying(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _budget(context)
        budget.spend(CALL_UNITS + size(value))
        _check_filter(budget, name, value, (*args, *kwargs.values()))
        if isinstance(value, Iterator):
            value = _steps(context, value)
        first = {
            "context": context,
            "eval_context": context.eval_ctx,
            "environment": context.environment,
        }
        given = [] if wants is None else [first[wants.name]]
        result = call(*given, value, *args, **kwargs)
        budget.spend(size(result))
        budget.spend_nodes(result)
        return result

    return paying


def _budget(context: Context) -> Budget:
    environment: Any = context.environment
    budget: Budget = environment.budget
    return budget


def _check_filter(budget: Budget, name: str, value: Any, args: tuple[Any, ...]) -> None:
    check_int_arguments(name, args)
    if name in _TEXT_FILTERS:
        budget.spend_printed([value, *args])
    if name == "replace" and len(args) > 1:
        budget.check_replace(value, args[1])
    elif name == "join":
        budget.check_join(args[0] if args else "", value)
    elif name == "indent" and isinstance(value, str) and args:
        width = args[0] if isinstance(args[0], int) else size(args[0])
        budget.allow((value.count("\n") + 1) * width)
    elif name == "format":
        budget.check_printf(str(value), [*args])


@pass_context
def _steps(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    budget = _budget(context)
    for item in items:
        budget.spend(STEP_UNITS)
        yield item


@pass_context
def _joined(context: Context, items: list[Any]) -> str:
    _printed(context, items)
    return "".join(map(str, items))


@pass_context
def _built(context: Context, value: Any) -> Any:
    _budget(context).spend_nodes(value)
    return value


@pass_context
def _printed(context: Context, value: Any) -> Any:
    _budget(context).spend_printed(value)
    return value


def _new_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """A function in place of the type, which has class attributes."""
    return dict(*args, **kwargs)


class _BoundedFormatter(SandboxedFormatter, Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        check_width(format_spec)
        return str(super().format_field(value, format_spec))


class _PublicNamespace(Namespace):
    """A namespace without private names: they are where sandboxes were escaped."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: B902  # as the base: `self` is a name
        Namespace.__init__(*args, **kwargs)
        for name in dict(*args[1:], **kwargs):
            _check_public(name)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_public(name)
        super().__setitem__(name, value)


def _check_public(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace may not hold the private name {name!r}")
