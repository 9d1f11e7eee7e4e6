"""The fuzz of annotation files: a short run, and that it finds what is wrong."""

import importlib.util
import random
from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO

from mmsolov2.datasets import CocoInstanceDataset

SCRIPT = Path(__file__).parents[2] / 'tools' / 'fuzz_annotations.py'


@pytest.fixture
def tool():
    """tools/fuzz_annotations.py as a module."""
    spec = importlib.util.spec_from_file_location('fuzz_annotations', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mutated_files_work_or_are_refused(tool, tmp_path, capsys):
    assert tool.main(['--cases', '150', '--seed', '2026', '--out-dir', str(tmp_path)]) == 0
    assert '0 fail' in capsys.readouterr().out
    assert not list(tmp_path.glob('*.json'))  # what did not fail is gone


def test_the_same_seed_gives_the_same_files(tool):
    first, second = (tool.mutated(random.Random('5 7')) for _ in range(2))
    assert first == second != tool.mutated(random.Random('5 8'))


@pytest.mark.parametrize('mutation', ['odd_optional', 'no_instance', 'retype_ids', 'junk_value'])
def test_a_careless_reader_fails(tool, tmp_path, monkeypatch, mutation):
    """With mmdet's own reader each kind of mutation is found to lose instances, or to crash."""
    monkeypatch.setattr(CocoInstanceDataset, 'load_data_list', CocoDataset.load_data_list)
    monkeypatch.setattr(CocoInstanceDataset, 'filter_data', CocoDataset.filter_data)
    monkeypatch.setattr(CocoInstanceDataset, 'parse_data_info', CocoDataset.parse_data_info)
    monkeypatch.setattr(CocoInstanceDataset, 'COCOAPI', COCO)
    monkeypatch.setattr(tool, 'HARMLESS', (getattr(tool, mutation),) * 3)
    monkeypatch.setattr(tool, 'HARMFUL', (getattr(tool, mutation),))
    counts, faults = tool.fuzz(tmp_path, 20, 0)
    assert counts.total() == 20 and faults
    assert len(list(tmp_path.glob('*.json'))) == len(faults)
