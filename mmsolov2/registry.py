"""One child for every mmdet registry, in the scope ``mmsolov2``.

All of them exist, also those that nothing is registered in: a config inherited through
``mmsolov2::`` stamps the scope ``mmsolov2`` on every dict with a ``type``, and mmengine then asks
the registry of that scope, which falls back on its parent, mmdet's.
"""

from mmdet import registry as mmdet_registry
from mmengine.registry import Registry


def _child_of(parent: Registry) -> Registry:
    return Registry(parent.name, parent=parent, scope='mmsolov2', locations=['mmsolov2'])


RUNNERS = _child_of(mmdet_registry.RUNNERS)
RUNNER_CONSTRUCTORS = _child_of(mmdet_registry.RUNNER_CONSTRUCTORS)
LOOPS = _child_of(mmdet_registry.LOOPS)
HOOKS = _child_of(mmdet_registry.HOOKS)
DATASETS = _child_of(mmdet_registry.DATASETS)
DATA_SAMPLERS = _child_of(mmdet_registry.DATA_SAMPLERS)
TRANSFORMS = _child_of(mmdet_registry.TRANSFORMS)
MODELS = _child_of(mmdet_registry.MODELS)
MODEL_WRAPPERS = _child_of(mmdet_registry.MODEL_WRAPPERS)
WEIGHT_INITIALIZERS = _child_of(mmdet_registry.WEIGHT_INITIALIZERS)
OPTIMIZERS = _child_of(mmdet_registry.OPTIMIZERS)
OPTIM_WRAPPERS = _child_of(mmdet_registry.OPTIM_WRAPPERS)
OPTIM_WRAPPER_CONSTRUCTORS = _child_of(mmdet_registry.OPTIM_WRAPPER_CONSTRUCTORS)
PARAM_SCHEDULERS = _child_of(mmdet_registry.PARAM_SCHEDULERS)
METRICS = _child_of(mmdet_registry.METRICS)
EVALUATOR = _child_of(mmdet_registry.EVALUATOR)
TASK_UTILS = _child_of(mmdet_registry.TASK_UTILS)
VISUALIZERS = _child_of(mmdet_registry.VISUALIZERS)
VISBACKENDS = _child_of(mmdet_registry.VISBACKENDS)
LOG_PROCESSORS = _child_of(mmdet_registry.LOG_PROCESSORS)
