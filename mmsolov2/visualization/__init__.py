from mmsolov2.visualization.instance_visualizer import InstanceVisualizer

__all__ = ['InstanceVisualizer']
