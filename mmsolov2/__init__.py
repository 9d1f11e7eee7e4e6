"""SOLOv2 for the OpenMMLab stack. Importing this package registers everything in it."""

from mmsolov2.compat import stack

stack.apply()

from mmdet.utils import register_all_modules  # noqa: E402

register_all_modules(init_default_scope=False)

from mmsolov2 import datasets, engine, evaluation, fileio, models, visualization  # noqa: E402
from mmsolov2.compat import checkpoint_loaders  # noqa: E402
from mmsolov2.version import __version__  # noqa: E402

__all__ = [
    '__version__',
    'checkpoint_loaders',
    'datasets',
    'engine',
    'evaluation',
    'fileio',
    'models',
    'visualization',
]
