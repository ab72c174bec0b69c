"""A mypy plugin: what a checker cannot see of actors by itself.

mypy takes no notice of what a decorator makes of a class, and no type says "the methods of T, each
with `remote`". With `plugins = rostral.mypy_plugin` in its configuration, `A.remote(...)` and
`A.options(...)` of an `@remote` class, and `handle.method.remote(...)`, are checked against the
constructor and the methods of the class. Loaded by mypy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mypy.checker import TypeChecker
from mypy.maptype import map_instance_to_supertype
from mypy.nodes import ARG_STAR, ARG_STAR2, CallExpr, Decorator, IntExpr, MemberExpr, TypeInfo
from mypy.plugin import AttributeContext, ClassDefContext, Plugin
from mypy.plugins.common import add_attribute_to_class
from mypy.types import (
    AnyType,
    CallableType,
    FunctionLike,
    Instance,
    Parameters,
    Type,
    TypeOfAny,
    get_proper_type,
)
from mypy.typevars import fill_typevars_with_any

DECORATOR: Final = "rostral.decorator.remote"
HANDLE: Final = "rostral.actor.ActorHandle"
# What an actor class has that its plain class has not.
FACE: Final = ("remote", "options")
STREAMS: Final = ("typing.Iterator", "typing.AsyncIterator")


class RostralPlugin(Plugin):
    """Types of actor classes and of the methods of handles."""

    def get_class_decorator_hook_2(self, fullname: str) -> Callable[[ClassDefContext], bool] | None:
        """Of `@remote`, with options or without."""
        return _add_face if fullname == DECORATOR else None

    def get_class_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        """Of what `_add_face` has added."""
        return _face_of if fullname.rpartition(".")[2] in FACE else None

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        """Of handles."""
        return _method_of if fullname.startswith(f"{HANDLE}.") else None


def plugin(version: str) -> type[Plugin]:
    """Where mypy comes in."""
    del version
    return RostralPlugin


def _add_face(context: ClassDefContext) -> bool:
    for name in FACE:
        if name not in context.cls.info.names:
            # Its type is known once the constructor's is: see `_face_of`.
            unknown = AnyType(TypeOfAny.special_form)
            add_attribute_to_class(context.api, context.cls, name, unknown, is_classvar=True)
    return True


def _face_of(context: AttributeContext) -> Type:
    """The type of `remote` or `options` of an actor class."""
    cls, member = get_proper_type(context.type), context.context
    if not (isinstance(cls, FunctionLike) and cls.is_type_obj() and isinstance(member, MemberExpr)):
        return context.default_attr_type
    info = cls.type_object()
    symbol = info.get(member.name)
    if symbol is None or not symbol.plugin_generated:
        return context.default_attr_type
    arguments: list[Type] = [_anything(), fill_typevars_with_any(info)]
    if isinstance(cls, CallableType) and not cls.variables:
        arguments = [_parameters(cls), cls.ret_type]
    return _member(
        context, member, Instance(_class(context, "rostral.actor", "ActorClass"), arguments)
    )


def _method_of(context: AttributeContext) -> Type:
    """The type of a method of a handle: with the parameters, and the result, of the class's."""
    handle, member = get_proper_type(context.type), context.context
    if not (isinstance(handle, Instance) and handle.args and isinstance(member, MemberExpr)):
        return context.default_attr_type
    actor = get_proper_type(handle.args[0])
    is_own = handle.type.get(member.name) is not None or member.name.startswith("__ray_")
    if is_own or not isinstance(actor, Instance):
        return context.default_attr_type
    method = get_proper_type(_member(context, member, actor))
    if not isinstance(method, FunctionLike | AnyType):
        context.api.fail(f'"{member.name}" of "{actor.type.name}" is not a method', member)
    if not isinstance(method, CallableType) or method.variables:
        return context.default_attr_type
    given = _given(context, method, actor.type.get(member.name))
    checked = _class(context, "rostral.actor_method", "CheckedMethod")
    return Instance(checked, [_parameters(method), given])


def _given(context: AttributeContext, method: CallableType, symbol: object) -> Type:
    """What a call of the method gives: a reference, or a generator of them."""
    node = getattr(symbol, "node", None)
    if isinstance(node, Decorator) and not _is_one(node):
        return AnyType(TypeOfAny.special_form)
    value = get_proper_type(method.ret_type)
    if isinstance(value, Instance):
        for name in STREAMS:
            if value.type.has_base(name):
                base = next(base for base in value.type.mro if base.fullname == name)
                [item] = map_instance_to_supertype(value, base).args
                stream = _class(context, "rostral.generator", "ObjectRefGenerator")
                return Instance(stream, [item])
        if value.type.fullname == "typing.Coroutine":
            return Instance(_class(context, "rostral.object_ref", "ObjectRef"), [value.args[2]])
    return Instance(_class(context, "rostral.object_ref", "ObjectRef"), [method.ret_type])


def _is_one(method: Decorator) -> bool:
    """Whether its decorators say nothing of `num_returns`, or a literal 1."""
    for decorator in method.original_decorators:
        if isinstance(decorator, CallExpr):
            for name, value in zip(decorator.arg_names, decorator.args, strict=True):
                if name == "num_returns":
                    return isinstance(value, IntExpr) and value.value == 1
    return True


def _member(context: AttributeContext, member: MemberExpr, of: Type) -> Type:
    """The type of a member of the same name; complains if there is none."""
    assert isinstance(context.api, TypeChecker)
    expressions = context.api.expr_checker
    return expressions.analyze_external_member_access(member.name, of, member)


def _class(context: AttributeContext, module: str, name: str) -> TypeInfo:
    assert isinstance(context.api, TypeChecker)
    info = context.api.modules[module].names[name].node
    assert isinstance(info, TypeInfo)
    return info


def _parameters(function: CallableType) -> Parameters:
    return Parameters(function.arg_types, function.arg_kinds, function.arg_names)


def _anything() -> Parameters:
    unknown = AnyType(TypeOfAny.special_form)
    return Parameters([unknown, unknown], [ARG_STAR, ARG_STAR2], [None, None])
