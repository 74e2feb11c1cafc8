"""`config.yml` of a run, read as data: nerfstudio's own reader calls whatever the file names."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field
from enum import Enum
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from nerfstudio.utils.rich_utils import CONSOLE
from yaml.constructor import ConstructorError

from fmgs_nerfstudio.method import FMGSTrainerConfig

_OURS_AND_THE_HOSTS = ("nerfstudio.", "fmgs_nerfstudio.", "fmgs_dataparsers.")
_TARGETS = (*_OURS_AND_THE_HOSTS, "torch.optim.")
_PATHS = {
    f"{module}.{kind}": PureWindowsPath if "Windows" in kind else PurePosixPath
    for module in ("pathlib", "pathlib._local")  # Python 3.13 has them in the latter
    for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
}
_YAML, _PYTHON = "tag:yaml.org,2002:", "tag:yaml.org,2002:python/"
_GETATTR = _PYTHON + "object/apply:builtins.getattr"
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
_MOST_BYTES = 2**18  # 25 times a real one


class RunError(ValueError):
    """There is no run to use; the message says where and what was expected."""


def read_config(path: Path) -> FMGSTrainerConfig:
    """The configuration of a run, as nerfstudio's reader gives it, but that nothing in the file is called.

    Admitted are dataclasses and enums of nerfstudio and of ours, paths (of Windows, too), tuples, and as `_target` the
    class that a dataclass has by default. Fields that this version does not have are left out, and told.

    Raises:
        RunError: the file is no such configuration, or holds anything else; names file, line and tag.
    """
    try:
        loader = _Loader(_text(path), path)
        config = loader.get_single_data()
    except (yaml.YAMLError, LookupError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RunError(_message(path, error)) from error
    if not isinstance(config, FMGSTrainerConfig):
        raise RunError(f"{path} is a run of another method; expected one of fmgs-avatar")
    return config


def refused(path: Path) -> list[str]:
    """What nerfstudio's reader would run or build and ours refuses, one line each: where, the tag, its arguments.

    Raises:
        RunError: the file cannot be parsed.
    """
    try:
        loader = _Loader(_text(path), path)
        root = loader.get_single_node()
        found: list[str] = []
        for node in _nodes(root):
            try:
                loader.admit(node)
            except ConstructorError:
                scalars = (inside for inside in _nodes(node) if isinstance(inside, yaml.ScalarNode))
                content = " ".join(str(scalar.value)[:80] for scalar in itertools.islice(scalars, 5))
                found.append(f"line {node.start_mark.line + 1}: {_short(node.tag)} {content}".rstrip())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RunError(_message(path, error)) from error
    return found


def line_of(path: Path, *keys: str) -> int | None:
    """The line of a nested field, such as `line_of(config, "pipeline", "datamanager", "data")`; None: not there."""
    node = _Loader(_text(path), path).get_single_node()
    line = None
    for key in keys:
        inside = node.value if isinstance(node, yaml.MappingNode) else []
        line, node = next(((k.start_mark.line + 1, v) for k, v in inside if k.value == key), (None, None))
    return line


def _text(path: Path) -> str:
    if not path.is_file():
        raise RunError(f"{path} is no file")
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise RunError(f"{path} has more than {_MOST_BYTES // 1024} kB; expected a config.yml that ns-train wrote")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is no text; expected a config.yml that ns-train wrote") from error


def _message(path: Path, error: Exception) -> str:
    if isinstance(error, RunError):
        return str(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{path}, line {error.problem_mark.line + 1}: {error.problem}"
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return f"{path} cannot be read as a config.yml that ns-train wrote: {reason}"


def _nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Every node once, in order; aliases may make a graph of the tree."""
    seen: set[int] = set()
    waiting = [] if root is None else [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.CollectionNode):
            inside = node.value
            if isinstance(node, yaml.MappingNode):
                inside = [part for pair in node.value for part in pair]
            waiting.extend(reversed(inside))


class _Loader(yaml.SafeLoader):
    """Everything is built at once (`deep`), so that a value that holds itself is an error."""

    # Not those of dates, sets and binary data, which no configuration holds.
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in {_YAML + kind for kind in _PLAIN}
    }
    yaml_multi_constructors: ClassVar[dict[Any, Any]] = {}

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self.path = path

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As a SafeLoader's, and what `config.yml` holds of Python."""
        self.admit(node)
        return super().construct_object(node, deep=True)

    def admit(self, node: yaml.Node) -> Any:
        """The class that a tag names, if it names one; a ConstructorError where it is not admitted."""
        if node.tag in self.yaml_constructors:
            return None
        kind, _, name = node.tag.removeprefix(_PYTHON).partition(":")
        if node.tag.startswith(_PYTHON) and kind in ("object", "object/apply", "name"):
            if kind == "object/apply" and name in _PATHS:
                return _PATHS[name]
            if kind == "object/apply" and (named := _member_by_name(node)) is not None:
                return type(named)
            found = _loaded_class(name, _TARGETS if kind == "name" else _OURS_AND_THE_HOSTS)
            if found is not None and (
                kind == "name"
                or (kind == "object" and dataclasses.is_dataclass(found))
                or (kind == "object/apply" and issubclass(found, Enum))
            ):
                return found
        what = "dataclasses and enums of nerfstudio and of fmgs-avatar"
        raise _error(node, f"{_short(node.tag)} is refused: a configuration holds {what} only")

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuses what no configuration has, and what grows without bound: merged mappings and compound keys."""
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _YAML + "merge":
                raise _error(key, "expected a name; merged mappings and compound keys are refused")

    def config(self, suffix: str, node: yaml.Node) -> Any:
        """A dataclass, without a call of its own code."""
        kind = self.admit(node)
        if not isinstance(node, yaml.MappingNode):
            raise _error(node, f"{kind.__name__} holds no fields")
        self.flatten_mapping(node)
        known, hints = {field.name: field for field in dataclasses.fields(kind)}, get_type_hints(kind)
        values: dict[str, Any] = {}
        for key, value_node in node.value:
            name = key.value
            if name == "_target" and value_node.tag.startswith(_PYTHON + "name:"):
                value = self.admit(value_node)
            else:
                value = self.construct_object(value_node)
            if name not in known:
                line = f"{self.path}, line {key.start_mark.line + 1}"
                CONSOLE.log(f"{line}: this version has no {kind.__name__}.{name}; left out", markup=False)
                continue
            values[name] = _fitted(value, hints[name], known[name], value_node)
        for name, field in known.items():
            if name not in values:
                values[name] = _default(field)
                if values[name] is MISSING:
                    raise _error(node, f"{kind.__name__} lacks {name}")
        made = object.__new__(kind)
        vars(made).update(values)
        return made

    def value(self, suffix: str, node: yaml.Node) -> Any:
        """A path or a member of an enum."""
        kind = self.admit(node)
        if (named := _member_by_name(node)) is not None:
            return named
        arguments = self._sequence(node)
        if issubclass(kind, Enum):
            if len(arguments) == 1 and arguments[0] in [member.value for member in kind]:
                return kind(arguments[0])
            raise _error(node, f"no member of {kind.__name__}")
        if not all(isinstance(part, str) and "\0" not in part for part in arguments):
            raise _error(node, "expected the parts of a path")
        return Path(kind(*arguments).as_posix())

    def name(self, suffix: str, node: yaml.Node) -> None:
        raise _error(node, f"{_short(node.tag)} is refused: a class is named as a _target only")

    def fixed_list(self, node: yaml.Node) -> tuple[Any, ...]:
        return tuple(self._sequence(node))

    def _sequence(self, node: yaml.Node) -> list[Any]:
        if not isinstance(node, yaml.SequenceNode):
            raise _error(node, "expected a list")
        return [self.construct_object(item) for item in node.value]


_Loader.add_constructor(_PYTHON + "tuple", _Loader.fixed_list)
_Loader.add_multi_constructor(_PYTHON + "object:", _Loader.config)
_Loader.add_multi_constructor(_PYTHON + "object/apply:", _Loader.value)
_Loader.add_multi_constructor(_PYTHON + "name:", _Loader.name)


def _short(tag: str) -> str:
    return tag.replace(_YAML, "!!")[:200]


def _error(node: yaml.Node, problem: str) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)


def _loaded_class(name: str, packages: tuple[str, ...]) -> type | None:
    """A class by its own name, in a module that is loaded: an import would run what is at a module's top."""
    module, _, attribute = name.rpartition(".")
    if not module.startswith(packages) or module not in sys.modules:
        return None
    found = vars(sys.modules[module]).get(attribute)
    own = isinstance(found, type) and (found.__module__, found.__qualname__) == (module, attribute)
    return found if own else None


def _member_by_name(node: yaml.Node) -> Enum | None:
    """Python 3.11.0 to 3.11.3 (Debian 12 has one) write a member of an enum as getattr(its class, its name)."""
    parts = node.value if isinstance(node, yaml.SequenceNode) and node.tag == _GETATTR else []
    if len(parts) != 2 or not isinstance(parts[1], yaml.ScalarNode) or parts[1].tag != _YAML + "str":
        return None
    found = _loaded_class(parts[0].tag.removeprefix(_PYTHON + "name:"), _OURS_AND_THE_HOSTS)
    if found is None or not issubclass(found, Enum):
        return None
    return found.__members__.get(parts[1].value)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _fitted(value: Any, hint: Any, field: Field[Any], node: yaml.Node) -> Any:
    """`value` of the field's type; what people write by hand as a path is one."""
    if field.name == "_target":
        expected = _default(field)  # or a base of it, where ours was the host's in an older version
        if not isinstance(value, type) or not isinstance(expected, type) or not issubclass(expected, value):
            raise _error(node, f"_target is not {getattr(expected, '__name__', expected)}, which it always is")
        return value
    if _fits(value, hint):
        return value
    if isinstance(value, str) and "\0" not in value and _fits(Path(value), hint):
        return Path(value)
    found = repr(value) if isinstance(value, (str, int, float, bool)) else type(value).__name__
    raise _error(node, f"{field.name} is {found[:80]}; expected {getattr(hint, '__name__', None) or hint}")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is tuple:
        kinds = arguments[:1] * len(value) if isinstance(value, tuple) and arguments[-1] is ... else arguments
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is dict:
        return isinstance(value, dict) and all(all(map(_fits, item, arguments)) for item in value.items())
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)
