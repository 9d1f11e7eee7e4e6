"""Samples painted on the image that their annotations were drawn on."""

from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from PIL import Image

from mmsolov2.registry import VISUALIZERS

ORIENTATION, TURNED = 0x0112, 6  # the EXIF tag, and what stands for a quarter turn


@pytest.fixture
def photo(tmp_path) -> Path:
    """A grey JPEG, stored as 48x32 pixels (width, height), which viewers turn."""
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    Image.new('RGB', (48, 32), (120, 120, 120)).save(tmp_path / 'photo.jpg', exif=exif)
    return tmp_path / 'photo.jpg'


def sample(path: Path, height: int, width: int) -> DetDataSample:
    """Ground truth of one instance: the left half."""
    masks = torch.zeros(1, height, width, dtype=torch.bool)
    masks[:, :, : width // 2] = True
    truth = InstanceData(
        masks=masks,
        labels=torch.tensor([0]),
        bboxes=torch.tensor([[0.0, 0, width / 2, height]]),
    )
    about = dict(img_path=str(path), ori_shape=(height, width))
    return DetDataSample(gt_instances=truth, metainfo=about)


@pytest.mark.parametrize(('height', 'width'), [(32, 48), (48, 32)])
def test_a_turned_photo_is_painted_in_the_frame_of_its_annotations(photo, tmp_path, height, width):
    visualizer = VISUALIZERS.build(dict(type='mmsolov2.InstanceVisualizer', name='turned'))
    visualizer.dataset_meta = dict(classes=('nut',), palette=[(250, 0, 0)])
    upright = mmcv.imread(str(photo), channel_order='rgb')
    assert upright.shape == (48, 32, 3)
    truth, out = sample(photo, height, width), str(tmp_path / 'painted.png')
    visualizer.add_datasample('photo', upright, truth, draw_pred=False, out_file=out)
    painted = mmcv.imread(out)
    assert painted.shape == (height, width, 3)
    changed = np.abs(painted.astype(int) - 120).max(2) > 20
    assert changed[:, : width // 2 - 4].mean() > 0.9 and not changed[:, width // 2 + 4 :].any()


def test_an_image_without_a_sample_is_painted_as_it_is(tmp_path):
    visualizer = VISUALIZERS.build(dict(type='mmsolov2.InstanceVisualizer', name='alone'))
    image = np.full((8, 12, 3), 77, np.uint8)
    for one in (None, DetDataSample()):
        visualizer.add_datasample('alone', image, one, out_file=str(tmp_path / 'alone.png'))
        assert (mmcv.imread(str(tmp_path / 'alone.png')) == 77).all()
