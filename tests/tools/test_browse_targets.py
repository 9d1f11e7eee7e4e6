"""What tools/browse_targets.py prints and paints, on a small set of shapes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmsolov2.apis import find_config

TOOLS = Path(__file__).parents[2] / 'tools'
CONFIG = 'solov2-light_r18_fpn_shapes'


def load_script(name: str) -> ModuleType:
    """A tool as a module."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_script('browse_targets')


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    """Six train and two val images of shapes."""
    out = tmp_path_factory.mktemp('data') / 'shapes'
    load_script('make_shapes').main([str(out), '--num-train', '6', '--num-val', '2'])
    return out


@pytest.fixture
def browse(shapes, tmp_path, capsys):
    """Run the tool: its lines, but for those of the COCO reader, and its pictures."""

    def run(*options: str, settings: tuple[str, ...] = ()) -> tuple[list[str], list[Path]]:
        roots = [f'{split}_dataloader.dataset.data_root={shapes}/' for split in ('train', 'val')]
        command = [CONFIG, '--out-dir', str(tmp_path / 'out'), *options]
        assert tool.main([*command, '--cfg-options', *roots, *settings]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if 'instances' in line]
        return lines, sorted((tmp_path / 'out').iterdir())

    return run


def test_a_picture_and_a_line_for_each_image(browse, shapes):
    lines, pictures = browse('--num', '3', settings=('model.backbone.type=NoSuchBackbone',))
    assert [p.name for p in pictures] == [f'00{i}_00000{i + 1}.png' for i in range(3)]
    coco = COCO(str(shapes / 'annotations' / 'train.json'))
    for number, line in enumerate(lines[:-1], 1):
        count = len(coco.getAnnIds(imgIds=number))
        assert line.startswith(f'{number:06d}.png: instances: {count}, positive cells by level: ')
    height, width = cv2.imread(str(pictures[0])).shape[:2]
    assert width == 5 * (640 + 8) and height > 480
    total = sum(len(coco.getAnnIds(imgIds=number)) for number in (1, 2, 3))
    assert lines[-1].startswith(f'{total} instances, 0 without a cell: ')


def test_val_images_come_with_targets_and_at_most_as_many_as_there_are(browse):
    lines, pictures = browse('--split', 'val')
    assert len(pictures) == 2 and len(lines) == 3
    assert all(' by level: 0 0 0 0 0,' not in line for line in lines)


def test_joined_sets_all_come_with_targets(shapes, tmp_path, capsys):
    config = tmp_path / 'joined.py'
    config.write_text(
        f"""
_base_ = {str(find_config(CONFIG))!r}
part = dict(
    type='mmsolov2.CocoInstanceDataset',
    data_root='{shapes}/',
    ann_file='annotations/val.json',
    data_prefix=dict(img='val/'),
    metainfo=dict(classes=('circle', 'square', 'triangle', 'star', 'ring')),
    pipeline=[],
)
train_dataloader = dict(dataset=dict(data_root='{shapes}/'))
val_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[part, part]))
"""
    )
    tool.main([str(config), '--split', 'val', '--out-dir', str(tmp_path / 'out')])
    lines = [line for line in capsys.readouterr().out.splitlines() if 'instances' in line]
    assert len(lines) == 5 and lines[:2] == lines[2:4]


def test_a_split_that_is_not_there_is_named(shapes, tmp_path, capsys):
    options = ['val_dataloader=None', f'train_dataloader.dataset.data_root={shapes}/']
    with pytest.raises(SystemExit):
        tool.main([CONFIG, '--split', 'val', '--cfg-options', *options])
    assert 'this config has no val_dataloader' in capsys.readouterr().err


def test_instances_without_a_cell_are_told(browse):
    ranges = '[(1000,1001),(1000,1001),(1000,1001),(1000,1001),(1000,1001)]'
    lines, _ = browse('--num', '1', settings=(f'model.mask_head.assigner.scale_ranges={ranges}',))
    count = int(lines[-1].split()[0])
    assert lines[-1].startswith(f'{count} instances, {count} without a cell: ')
    assert len(lines[0].split('without a cell: ')[1].split(', ')) == count
    assert 'by level: 0 0 0 0 0, claimed by several: 0' in lines[0]


def test_targets_without_boxes_are_those_of_the_masks(browse):
    """Shapes' boxes are around their masks, up to the rounding of the resize."""
    expected, _ = browse('--num', '3')
    lines, _ = browse(
        '--num', '3', settings=('train_dataloader.dataset.pipeline.2.with_bbox=False',)
    )
    assert lines[-1] == expected[-1]


def test_heads_without_an_assigner_are_refused(browse, capsys):
    with pytest.raises(SystemExit):
        browse(settings=('model.mask_head._delete_=True', 'model.mask_head.type=SOLOHead'))
    assert 'the head is a SOLOHead: only SOLOv2Head has an assigner' in capsys.readouterr().err


def test_another_number_of_classes_is_refused_as_in_training(browse, capsys, tmp_path):
    with pytest.raises(SystemExit):
        browse(settings=('model.mask_head.num_classes=80',))
    error = capsys.readouterr().err.strip()
    assert "solov2-light_r18_fpn_shapes.py: the head's num_classes is 80, but the dataset " in error
    assert 'has 5 classes' in error and '\n' not in error
    assert not (tmp_path / 'out').exists()


def test_a_missing_set_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        tool.main([CONFIG, '--cfg-options', f'train_dataloader.dataset.data_root={tmp_path}/'])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f'error: {tmp_path}/annotations/train.json: ') and '\n' not in error


def test_levels_and_line_of_known_targets():
    """Two instances claim cell 5 of the 4x4 level; a third claims none."""
    cell, instance = np.array([3, 4 + 5, 4 + 6, 4 + 5, 4 + 0]), np.array([0, 0, 0, 1, 1])
    coarse, fine = tool.split_levels(cell, instance, (2, 4), ((1, 9), (8, 64)))
    assert coarse.cell.tolist() == [3] and fine.cell.tolist() == [5, 6, 5, 0]
    assert coarse.shared.tolist() == [] and fine.shared.tolist() == [5]
    targets = tool.Targets(
        name='x.png',
        image=np.zeros((64, 64, 3), np.uint8),
        masks=np.zeros((3, 64, 64), bool),
        boxes=np.array([[16, 16, 48, 48], [0, 0, 32, 32], [60, 60, 63, 62]]),
        classes=['nut', 'fig', 'date'],
        levels=[coarse, fine],
    )
    assert tool.describe(targets) == (
        'x.png: instances: 3, positive cells by level: 1 3, claimed by several: 1, '
        'without a cell: date 3x2'
    )
