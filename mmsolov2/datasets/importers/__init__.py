from mmsolov2.datasets.importers.find import LAYOUTS, find_source
from mmsolov2.datasets.importers.source import Source

__all__ = ['LAYOUTS', 'Source', 'find_source']
