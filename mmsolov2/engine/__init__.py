from mmsolov2.engine.curves import CurvesHook
from mmsolov2.engine.hooks import ClassCheckHook, EpochSeedHook, FiniteHook, NMSTimeHook

__all__ = ['ClassCheckHook', 'CurvesHook', 'EpochSeedHook', 'FiniteHook', 'NMSTimeHook']
