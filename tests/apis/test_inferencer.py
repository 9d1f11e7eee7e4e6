"""The inferencer: what goes in, what comes out, and what is said of what fails."""

import json
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from tiny_model import TINY
from torch import nn

from mmsolov2.apis import SOLOv2Inferencer, inferencer, load_config, predict, read_image
from mmsolov2.apis.inferencer import read_ahead
from mmsolov2.apis.pictures import Picture
from mmsolov2.errors import InputError
from mmsolov2.registry import MODELS

CONFIG = 'solov2-light_r18_fpn_ms-3x_coco'


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    """A checkpoint with its config, random, under which many cells pass the thresholds."""
    torch.manual_seed(0)
    config = load_config(CONFIG, TINY)
    model = MODELS.build(config.model)
    nn.init.normal_(model.mask_head.conv_cls.weight, std=0.1)
    nn.init.constant_(model.mask_head.conv_cls.bias, 1)
    nn.init.normal_(model.mask_head.conv_kernel.weight, std=0.1)
    path = tmp_path_factory.mktemp('weights') / 'tiny #1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=config.dump())), path)
    return path


@pytest.fixture(scope='module')
def infer(weights) -> SOLOv2Inferencer:
    return SOLOv2Inferencer(weights, device='cpu')


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of four images of three sizes, of which two have one name."""
    folder = tmp_path / 'my photos'
    rng = np.random.default_rng(0)
    for name, size in [('ä.png', (40, 60)), ('b.png', (60, 40)), ('c/b.png', (40, 60))]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (*size, 3), np.uint8))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.*'))


def assert_same(result: dict, expected: dict) -> None:
    assert result.keys() == expected.keys() and result['name'] == expected['name']
    assert result['labels'] == expected['labels']
    np.testing.assert_allclose(result['scores'], expected['scores'], rtol=1e-4)
    assert (result['masks'] != expected['masks']).mean() < 1e-3


@pytest.mark.parametrize(
    ('model', 'checkpoint'),
    [(None, 'weights'), ('weights', None), (CONFIG, 'weights'), ('config', 'weights')],
)
def test_a_model_is_given_in_three_ways(weights, tmp_path, model, checkpoint):
    given = dict(weights=weights, config=tmp_path / 'own.py')
    load_config(CONFIG, TINY).dump(given['config'])
    built = SOLOv2Inferencer(
        given.get(model, model), given.get(checkpoint), device='cpu', cfg_options=TINY
    )
    assert len(built.classes) == 80 and not built.model.training
    assert built.model.cfg.model.test_cfg.mask_format == 'rle'


@pytest.mark.parametrize('given', [{}, dict(model='own.py'), dict(weights='own.py')])
def test_a_model_without_weights(given):
    with pytest.raises(InputError, match='give a checkpoint, with weights='):
        SOLOv2Inferencer(**given)


def test_a_prediction_is_what_predict_says(infer, photos):
    path = photos / 'b.png'
    result = infer(path, pred_score_thr=0)
    assert result.keys() == {'predictions', 'visualization'} and result['visualization'] == []
    (found,) = result['predictions']
    expected = predict(infer.model, path).pred_instances
    assert found['name'] == str(path) and len(expected) == 5
    assert found['scores'] == expected.scores.tolist()
    assert found['labels'] == expected.labels.tolist()
    assert found['bboxes'] == expected.bboxes.tolist()
    assert found['masks'].shape == (5, 60, 40) and found['masks'].dtype == bool
    decoded = coco_mask.decode(expected.masks).transpose(2, 0, 1)
    assert decoded.any() and np.array_equal(found['masks'], decoded)


def test_mask_formats_agree(infer, photos):
    (bitmaps,), (rles,), (polygons,) = (
        infer(photos / 'b.png', pred_score_thr=0, mask_format=kind)['predictions']
        for kind in ('bitmap', 'rle', 'polygon')
    )
    for found in (json.loads(json.dumps(rles)), json.loads(json.dumps(polygons))):
        assert {**found, 'masks': 0} == {**bitmaps, 'masks': 0}
    for bitmap, rle, polygon in zip(bitmaps['masks'], rles['masks'], polygons['masks']):
        assert np.array_equal(coco_mask.decode(rle), bitmap)
        back = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygon, *bitmap.shape)))
        assert np.array_equal(back, bitmap)


@pytest.mark.parametrize(('kind', 'empty'), [('rle', []), ('polygon', [])])
def test_no_instance(infer, photos, kind, empty):
    (found,) = infer(photos / 'b.png', pred_score_thr=1, mask_format=kind)['predictions']
    assert found['masks'] == empty == found['scores'] == found['labels'] == found['bboxes']
    assert infer(photos / 'b.png', pred_score_thr=1)['predictions'][0]['masks'].shape == (0, 60, 40)


def test_the_threshold(infer, photos):
    scores = infer(photos / 'b.png', pred_score_thr=0)['predictions'][0]['scores']
    (found,) = infer(photos / 'b.png', pred_score_thr=scores[2])['predictions']
    assert found['scores'] == scores[:3] and len(found['masks']) == 3


def test_samples(infer, photos):
    (sample,) = infer(photos / 'b.png', pred_score_thr=0, return_datasamples=True)['predictions']
    assert sample.ori_shape == (60, 40) and len(sample.pred_instances.masks) == 5


@pytest.mark.parametrize('batch_size', [2, 3, 8])
def test_batches_and_streams_give_the_same(infer, photos, batch_size):
    alone = infer(photos)['predictions']
    assert [Path(found['name']).name for found in alone] == ['b.png', 'b.png', 'ä.png']
    together = infer(photos, batch_size=batch_size)['predictions']
    stream = infer([photos], batch_size=batch_size, stream=True)
    assert isinstance(stream, types.GeneratorType)
    streamed = [result['predictions'][0] for result in stream]
    for expected, *found in zip(alone, together, streamed, strict=True):
        for each in found:
            assert_same(each, expected)


def test_a_stream_holds_one_batch(infer, photos, monkeypatch):
    read = []

    def pictures(inputs):
        for number in range(6):
            yield Picture(str(number), lambda: read.append(1) or read_image(photos / 'b.png'))

    monkeypatch.setattr(inferencer, 'pictures_of', pictures)
    stream = infer([], batch_size=2, stream=True)
    assert len(read) == 0
    assert [(next(stream)['predictions'][0]['name'], len(read)) for _ in range(4)] == [
        ('0', 2), ('1', 2), ('2', 4), ('3', 4)
    ]  # fmt: skip


def test_what_cannot_be_read_is_said_and_the_rest_go_on(infer, photos):
    (photos / 'c' / 'broken.jpg').write_text('no image')
    inputs = [photos, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)]
    for result in (infer(inputs), infer(inputs, batch_size=4, return_vis=True)):
        errors = {found['name']: found.get('error') for found in result['predictions']}
        assert len(result['predictions']) == 6
        broken, array = errors[str(photos / 'c' / 'broken.jpg')], result['predictions'][4]
        assert 'broken.jpg: this is no image' in broken
        assert 'an image must be (H, W, 3) uint8 BGR, not (4, 4) uint8' in array['error']
        assert sum(error is not None for error in errors.values()) == 2 - (array['name'] in errors)


def test_a_single_picture_raises(infer, tmp_path):
    (tmp_path / 'broken.jpg').write_text('no image')
    for inputs in (tmp_path / 'broken.jpg', np.zeros((4, 4), np.uint8)):
        with pytest.raises(InputError, match='no image|must be'):
            infer(inputs)
        with pytest.raises(InputError):
            next(infer(inputs, stream=True))
    assert 'error' in infer([tmp_path / 'broken.jpg'])['predictions'][0]


def test_a_picture_that_a_batch_fails_for(infer, photos, monkeypatch):

    def refuse_tall(model, images, predict_batch=inferencer.predict_batch):
        if any(image.shape[0] == 60 for image in images):
            raise InputError('too tall')
        return predict_batch(model, images)

    monkeypatch.setattr(inferencer, 'predict_batch', refuse_tall)
    found = infer(photos, batch_size=3)['predictions']
    assert [each.get('error') for each in found] == ['too tall', None, None]
    with pytest.raises(InputError, match='too tall'):
        infer(photos / 'b.png')


def test_files(infer, photos, tmp_path):
    out = tmp_path / 'out'
    result = infer(photos, out_dir=out, no_save_pred=False, return_vis=True, pred_score_thr=0)
    stems = ['000000-b', '000001-b', '000002-ä']
    assert names(out) == [f'preds/{s}.json' for s in stems] + [f'vis/{s}.png' for s in stems]
    for stem, found, drawn in zip(stems, result['predictions'], result['visualization']):
        assert np.array_equal(cv2.imread(str(out / 'vis' / f'{stem}.png')), drawn)
        saved = json.loads((out / 'preds' / f'{stem}.json').read_text())
        assert saved['scores'] == found['scores']
        assert np.array_equal(coco_mask.decode(saved['masks'][0]), found['masks'][0])
    infer(photos, out_dir=tmp_path / 'none', no_save_vis=True)
    assert names(tmp_path / 'none') == []
    address = tmp_path / (251 * 'n' + '.png')
    address.write_bytes((photos / 'b.png').read_bytes())
    infer(address, out_dir=tmp_path / 'long')
    assert len(names(tmp_path / 'long')) == 1


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(mask_format='png'), "mask_format='png': give one of bitmap, rle, polygon"),
        (dict(batch_size=0), 'batch_size=0: give a whole number'),
        (dict(batch_size=2.0), 'batch_size=2.0: give a whole number'),
        (dict(batch_size=True), 'batch_size=True: give a whole number'),
        (dict(out_dir=__file__), 'it cannot be written to'),
    ],
)
def test_wrong_arguments(infer, photos, options, said):
    with pytest.raises(InputError, match=said):
        infer(photos, **options)


@pytest.mark.parametrize('workers', [0, 1, 3])
def test_threads_keep_the_order_and_do_not_run_far_ahead(workers):
    begun = []

    def pictures():
        for number in range(20):
            begun.append(number)
            yield Picture(str(number), lambda number=number: np.full((1, 1, 3), number, np.uint8))

    reading = read_ahead(pictures(), workers, 5)
    first = next(reading)
    assert first.picture.name == '0' and len(begun) == (5 if workers else 1)
    assert [answer.image[0, 0, 0] for answer in reading] == list(range(1, 20))


def test_threads_pass_errors_on():

    def refuse():
        raise InputError('broken')

    def fail():
        raise KeyboardInterrupt

    assert str(next(read_ahead([Picture('a', refuse)], 2, 3)).error) == 'broken'
    with pytest.raises(KeyboardInterrupt):
        list(read_ahead([Picture('a', fail)], 2, 3))
