from mmsolov2.evaluation.dump import DumpInstances

__all__ = ['DumpInstances']
