"""The config that mmengine keeps in a checkpoint: read as data, never run."""

import ast
from collections.abc import Iterator, Mapping

from mmengine.config import Config
from mmengine.registry import Registry, root
from mmengine.runner.checkpoint import CheckpointLoader

from mmsolov2.cli.config import with_options
from mmsolov2.errors import InputError

BUILT = ('default_scope', 'model', 'test_dataloader')  # what predicting needs of a config
REMEDY = 'give the config with model= or --config'


def checkpoint_config(filename: str, options: Mapping | None = None) -> Config:
    """Model and test data of the config in a checkpoint, with options set.

    Its text is Python, of which assignments of literals and of ``dict(...)`` are taken, without
    running any. A ``type`` must be the name of a registered class: mmengine would import others by
    their path, and call them.

    Raises:
        InputError: if the checkpoint cannot be read or holds no config, or one that is more.
    """
    meta = CheckpointLoader.load_checkpoint(filename, 'cpu', logger='silent').get('meta')
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f'{filename}: the checkpoint holds no config: {REMEDY}')
    try:
        settings = parse_literals(text)
        kept = {name: settings[name] for name in BUILT if name in settings}
        require_registered(kept)
    except InputError as error:
        raise InputError(f'{filename}: the config in the checkpoint {error}: {REMEDY}') from error
    return with_options(Config(kept, cfg_text=text, filename=filename), options)


def parse_literals(text: str) -> dict:
    """The values of a config's text, of literals and ``dict(...)`` alone.

    >>> parse_literals('model = dict(size=(4, -1), more=dict({"b c": None}))')
    {'model': {'size': (4, -1), 'more': {'b c': None}}}

    Raises:
        InputError: if anything else is in it.
    """
    try:
        return dict(_assigned(line) for line in ast.parse(text).body)
    except InputError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f'cannot be read ({type(error).__name__})') from error


def _assigned(line: ast.stmt) -> tuple[str, object]:
    """The name and the value of ``name = literal``."""
    if isinstance(line, ast.Assign) and len(line.targets) == 1:
        target = line.targets[0]
        if isinstance(target, ast.Name):
            return target.id, _literal(line.value)
    raise _refused(line)


def _literal(node: ast.expr) -> object:
    """The value of a literal; calls of ``dict`` may be in it."""
    match node:
        case ast.List(elts=parts):
            return [_literal(part) for part in parts]
        case ast.Tuple(elts=parts):
            return tuple(_literal(part) for part in parts)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            names = [ast.literal_eval(key) for key in keys if key is not None]
            return dict(zip(names, map(_literal, values), strict=True))
        case ast.Call(func=ast.Name(id='dict'), args=[] | [ast.Dict()], keywords=pairs):
            found = [_literal(part) for part in node.args]
            if all(pair.arg for pair in pairs):
                return dict(*found, **{str(pair.arg): _literal(pair.value) for pair in pairs})
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise _refused(node) from error


def _refused(node: ast.stmt | ast.expr) -> InputError:
    return InputError(
        f'has {type(node).__name__} in line {node.lineno}, and is not run: it may hold '
        'assignments of plain values and of dict(...) alone'
    )


def require_registered(settings: object) -> None:
    """Raise InputError unless all types and scopes in settings are those of registries."""
    names, scopes = _registered()
    for part in _dicts(settings):
        kind, scope = part.get('type', 'type'), part.get('_scope_', part.get('default_scope'))
        if 'type' in part and not (isinstance(kind, str) and kind in names):
            raise InputError(
                f'has the type {kind!r}, which is no registered class and may be any code; where '
                'it is your own, import its module before'
            )
        if not (scope is None or (isinstance(scope, str) and scope in scopes)):
            raise InputError(f'has the scope {scope!r}, which no registry has')


def _dicts(value: object) -> Iterator[Mapping]:
    """A value and all that is in it, as far as they are dicts."""
    if isinstance(value, Mapping):
        yield value
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _dicts(part)


def _registered() -> tuple[set[str], set[str]]:
    """The names of all registered classes, with and without their scope, and the scopes."""
    waiting = [each for each in vars(root).values() if isinstance(each, Registry)]
    names: set[str] = set()
    scopes: set[str] = set()
    while waiting:
        registry = waiting.pop()
        waiting.extend(registry.children.values())
        scopes.add(registry.scope)
        for name in registry.module_dict:
            names |= {name, f'{registry.scope}.{name}'}
    return names, scopes
