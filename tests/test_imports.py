"""Imports run one way: a table of the package's rooms, and of the rooms that each may know."""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {  # what a module or a folder of the package may import of it, beside itself
    'errors': '',
    'version': '',
    'utils': '',
    'device': 'errors',
    'registry': '',
    'fileio': 'errors',
    'ops': 'errors',
    'structures': 'errors device',
    'models.position_terms': '',
    'models.dynamic_conv': 'models.position_terms models.pyramid',
    'models.state_dicts': 'errors models.position_terms',
    'models.bands': 'errors registry',
    'models.backbones': 'errors registry structures models.bands models.state_dicts',
    'models.targets': 'errors device registry structures models.dynamic_conv models.position_terms '
    'models.pyramid',
    'models.decode': 'errors device registry structures models.bilinear models.data_samples '
    'models.dynamic_conv',
    'models': 'errors device registry structures',
    'compat.checkpoint_loaders': 'errors compat models.state_dicts',  # its patch compares them
    'compat': 'errors ops structures',
    'datasets': 'errors registry structures',
    'evaluation': 'errors registry structures datasets',
    'visualization.statistics': 'datasets',
    'visualization': 'registry',
    'report': 'datasets evaluation visualization',
    'engine': 'errors fileio registry datasets models.state_dicts',
    'cli': 'errors fileio models.state_dicts',
    'apis': 'errors fileio registry structures datasets models visualization report cli',
    'converters': 'errors registry models cli',
}
OUTSIDE = {  # what some rooms alone may import from elsewhere, beside Python's own modules
    'ops': 'torch',
    'structures': 'cv2 mmdet mmengine numpy pycocotools torch',
}
ARGPARSE = 'cli'  # the room of command lines


def module_of(path: Path) -> str:
    """The name that an import gives to a file."""
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(part for part in parts if part != '__init__')


MODULES = {
    module_of(path): path
    for path in sorted((ROOT / 'mmsolov2').rglob('*.py'))
    if '.mim' not in path.parts
}


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each module that a file imports, also within a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f'{node.module}.{alias.name}'
                yield node.lineno, inner if inner in MODULES else node.module


def for_types_alone(path: Path) -> set[int]:
    """The lines of a file that no program runs: imports for the types of a signature."""
    return {
        line
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
        for line in range(node.lineno, node.end_lineno + 1)
    }


def is_inside(module: str, room: str) -> bool:
    return module == room or module.startswith(f'{room}.')


def room_of(module: str) -> str | None:
    """The innermost room of a module's name without ``mmsolov2.``."""
    return max((room for room in ROOMS if is_inside(module, room)), key=len, default=None)


def wrong_imports(path: Path, room: str) -> Iterator[str]:
    """What is said of each import of a file that its room does not allow."""
    outside = {*OUTSIDE.get(room, '').split(), *sys.stdlib_module_names}
    for line, imported in imports_of(path):
        top, _, own = imported.partition('.')
        said = f'{path.relative_to(ROOT)}:{line} imports {imported}, but '
        if top != 'mmsolov2':
            if room in OUTSIDE and top not in outside:
                yield f'{said}of other packages {room} may import only {OUTSIDE[room]}'
            if top == 'argparse' and room != ARGPARSE:
                yield f'{said}command lines are read in {ARGPARSE} alone'
        elif not any(is_inside(own, allowed) for allowed in (room, *ROOMS[room].split())):
            yield f'{said}{room} may import only {ROOMS[room] or "nothing"} of this package'


@pytest.mark.parametrize('module', [name for name in MODULES if name != 'mmsolov2'])
def test_a_module_imports_what_its_room_may(module):
    room = room_of(module.removeprefix('mmsolov2.'))
    assert room, f'{module} is in no room of the table'
    wrong = list(wrong_imports(MODULES[module], room))
    assert not wrong, '\n'.join(wrong)


def test_no_imports_in_a_circle():
    known = {
        name: {
            imported
            for line, imported in imports_of(path)
            if imported in MODULES and imported != name and line not in for_types_alone(path)
        }
        for name, path in MODULES.items()
    }
    try:
        TopologicalSorter(known).prepare()
    except CycleError as error:
        pytest.fail(f'these import each other: {" <- ".join(error.args[1])}')
