"""torch.ops.<namespace>.<operator>[.<overload>](...), by the schemas that native code has registered."""
import ast
import re

from torch import _C


class Tensor(list):
    """A list of numbers; what an operator returns."""

    def tolist(self):
        """The numbers as a plain list."""
        return list(self)

    @property
    def shape(self):
        """The number of elements, as a tuple of one."""
        return (len(self),)


def tensor(values):
    """A tensor of ``values``."""
    return Tensor(float(value) for value in values)


def _parameters(schema):
    """[(name, default or ...)] of a schema; keyword-only arguments are last, as C++ takes them."""
    inside = schema[schema.index("(") + 1 : schema.rindex(") ->")]
    found = []
    for part in re.split(r",\s*(?![^\[]*\])", inside):
        if part.strip() in ("", "*"):
            continue
        declaration, equals, default = part.partition("=")
        found.append((declaration.split()[-1], ast.literal_eval(default) if equals else ...))
    return found


class _Overload:
    def __init__(self, qualified, schema):
        self.name = qualified
        self.schema = schema

    def __call__(self, *arguments, **keywords):
        parameters = _parameters(self.schema)
        if len(arguments) > len(parameters):
            raise TypeError("%s takes %d arguments, %d given" % (self.schema, len(parameters), len(arguments)))
        values = list(arguments)
        for name, default in parameters[len(arguments) :]:
            value = keywords.pop(name, default)
            if value is ...:
                raise TypeError("%s lacks the argument %r" % (self.schema, name))
            values.append(value)
        if keywords:
            raise TypeError("%s has no argument %r" % (self.schema, sorted(keywords)[0]))
        result = _C._call(self.name, tuple(values))
        return Tensor(result) if isinstance(result, list) else result


class _Packet:
    def __init__(self, space, name):
        overloads = {}
        for schema in _C._schemas(space):
            base, _, overload = schema[: schema.index("(")].partition(".")
            if base == name:
                qualified = "%s::%s" % (space, schema[: schema.index("(")])
                overloads[overload or "default"] = _Overload(qualified, schema)
        if not overloads:
            raise AttributeError("'_OpNamespace' '%s' object has no attribute '%s'" % (space, name))
        self.__dict__.update(overloads)
        self._first = next(iter(overloads.values()))

    def __call__(self, *arguments, **keywords):
        return self._first(*arguments, **keywords)


class _Namespace:
    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Packet(self._name, name)

    def __dir__(self):
        return sorted({schema[: schema.index("(")].partition(".")[0] for schema in _C._schemas(self._name)})


class _Ops:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Namespace(name)


ops = _Ops()
