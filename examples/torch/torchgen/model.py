"""Operator schemas, as far as the miniature's operators use them."""
import re
from collections import namedtuple

Argument = namedtuple("Argument", "type name default")

_SCHEMA = re.compile(r"^(?P<base>[A-Za-z_]\w*)(\.(?P<overload>\w+))?\((?P<arguments>[^()]*)\) -> (?P<returns>\w+)$")
_CPP_ARGUMENTS = {"Tensor": "const at::Tensor&", "Scalar": "double", "float": "double", "int": "int64_t", "bool": "bool"}
_CPP_RETURNS = {"Tensor": "at::Tensor", "Scalar": "double", "float": "double", "int": "int64_t", "bool": "bool"}


class FunctionSchema:
    """``name[.overload](arguments) -> type``."""

    def __init__(self, text, base, overload, arguments, returns):
        self.text = text
        self.base = base
        self.overload = overload
        self.arguments = arguments
        self.returns = returns

    @classmethod
    def parse(cls, text):
        """Raises RuntimeError for a text that is not a schema."""
        match = _SCHEMA.match(text)
        if match is None:
            raise RuntimeError("failed to parse schema: %s" % text)
        arguments = []
        for part in filter(None, (part.strip() for part in match.group("arguments").split(","))):
            if part == "*":
                continue
            declaration, _, default = part.partition("=")
            kind, _, name = declaration.partition(" ")
            if kind not in _CPP_ARGUMENTS or not name.isidentifier():
                raise RuntimeError("failed to parse argument %r of schema: %s" % (part, text))
            arguments.append(Argument(kind, name, default or None))
        if match.group("returns") not in _CPP_RETURNS:
            raise RuntimeError("failed to parse the return type of schema: %s" % text)
        return cls(text, match.group("base"), match.group("overload") or "", arguments, match.group("returns"))

    @property
    def name(self):
        """Name with overload: ``add.Tensor``."""
        return self.base + ("." + self.overload if self.overload else "")

    def signature(self, function=None):
        """The C++ function of this schema, without a semicolon."""
        arguments = ", ".join("%s %s" % (_CPP_ARGUMENTS[a.type], a.name) for a in self.arguments)
        return "%s %s(%s)" % (_CPP_RETURNS[self.returns], function or self.base, arguments)

    def call(self, function):
        """A C++ expression that hands this function's arguments on to ``function``."""
        return "%s(%s)" % (function, ", ".join(a.name for a in self.arguments))
