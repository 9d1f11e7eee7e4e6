from mmsolov2.engine.atomic_backend import AtomicLocalBackend
from mmsolov2.engine.checkpoint import latest_checkpoint, load_from_local, require_match
from mmsolov2.engine.hooks import ClassCheckHook, EpochSeedHook, FiniteHook, NMSTimeHook

__all__ = [
    'AtomicLocalBackend', 'ClassCheckHook', 'EpochSeedHook', 'FiniteHook', 'NMSTimeHook',
    'latest_checkpoint', 'load_from_local', 'require_match'
]
