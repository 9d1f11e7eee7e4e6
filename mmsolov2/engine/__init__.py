from mmsolov2.engine.hooks import ClassCheckHook, EpochSeedHook, FiniteHook, NMSTimeHook

__all__ = ['ClassCheckHook', 'EpochSeedHook', 'FiniteHook', 'NMSTimeHook']
