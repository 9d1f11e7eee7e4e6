"""COCO files as the tools of today write them, their pictures found, and nothing lost."""

import copy
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmsolov2.datasets.importers import find_source
from mmsolov2.errors import InputError


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def own(drawn, root, split):
    return root / 'annotations' / f'{split}.json', root / split


def ms_coco(drawn, root, split):
    return root / 'annotations' / f'instances_{split}2017.json', root / f'{split}2017'


def roboflow(drawn, root, split):
    folder = root / dict(train='train', val='valid')[split]
    return folder / '_annotations.coco.json', folder


def nested(drawn, root, split):
    return root / 'deep' / 'labels' / f'{split}.json', root / 'images' / split / 'day 1'


@pytest.mark.parametrize('layout', [own, ms_coco, roboflow, nested])
def test_every_mask_of_splits_is_read(tmp_path, drawn, layout):
    for split, pictures in drawn.splits.items():
        file, folder = layout(drawn, tmp_path, split)
        write(file, drawn.coco(split))
        for picture in pictures:
            drawn.save(picture, folder)
    source = find_source(tmp_path)
    contents = source.read()
    assert source.kind.startswith('COCO') and sorted(source.splits) == sorted(contents)
    assert sorted(contents) == ['train', 'val']
    assert source.kind.startswith('COCO') and set(source.splits) == set(contents) == {
        'train',
        'val',
    }
    for split, content in contents.items():
        drawn.assert_same(content, split, source.picture_root)
    assert source.read() == contents and not source.notes


def saved(drawn, folder):
    for picture in drawn.splits['train']:
        drawn.save(picture, folder)
    return drawn.coco('train')


@pytest.mark.parametrize(
    'name', ['images/{}', 'images\\{}', 'C:\\data\\upload\\{}', '/srv/upload/1/{}', '../x/{}']
)
def test_pictures_are_found_whatever_stands_before_their_names(tmp_path, drawn, name):
    content = saved(drawn, tmp_path / 'images')
    for image in content['images']:
        image['file_name'] = name.format(image['file_name'])
    content['info'] = dict(contributor='Label Studio')
    write(tmp_path / 'result.json', content)
    source = find_source(tmp_path)
    drawn.assert_same(source.read()['all'], 'train', tmp_path)
    assert source.kind == 'COCO of Label Studio'
    assert bool(source.notes) == (not name.startswith('images'))  # by the last part alone


def test_names_that_are_quoted(tmp_path, drawn):
    content = saved(drawn, tmp_path / 'images')
    for image in content['images']:
        image['file_name'] = image['file_name'].replace(' ', '%20').replace('#', '%23')
    source = find_source(write(tmp_path / 'result.json', content))
    drawn.assert_same(source.read()['all'], 'train', tmp_path)


@pytest.mark.parametrize('folders', [('one', 'two'), ('.', 'images')])
def test_a_name_that_two_pictures_have_is_not_guessed(tmp_path, drawn, folders):
    for folder in folders:
        content = saved(drawn, tmp_path / folder)
    for image in content['images']:
        image['file_name'] = f'gone/{image["file_name"]}'
    write(tmp_path / 'a.json', content)
    source = find_source(tmp_path)
    assert [one['file_name'] for one in source.read()['all']['images']] == [
        f'gone/{picture.name}' for picture in drawn.splits['train']
    ]
    assert not source.notes


def test_a_picture_of_another_split_is_not_taken(tmp_path, drawn):
    content = saved(drawn, tmp_path / 'val')
    write(tmp_path / 'annotations' / 'train.json', content)
    images = find_source(tmp_path).read()['train']['images']
    assert images[0]['file_name'] == drawn.splits['train'][0].name  # missing, as a check will say


def test_roboflows_category_above_all_others_goes_unless_it_is_used(tmp_path, drawn):
    content = saved(drawn, tmp_path / 'train')
    content['categories'] = [dict(id=0, name='parts', supercategory='none')] + [
        {**one, 'supercategory': 'parts'} for one in content['categories']
    ]
    file = write(tmp_path / 'train' / '_annotations.coco.json', content)
    source = find_source(tmp_path)
    assert [one['name'] for one in source.read()['train']['categories']] == drawn.classes
    assert source.notes == ['1 categories above all others left out, first parts']
    content['annotations'][0]['category_id'] = 0
    write(file, content)
    assert len(find_source(tmp_path).read()['train']['categories']) == 4
    content['categories'] = [{**one, 'supercategory': one['name']} for one in content['categories']]
    content['annotations'] = content['annotations'][1:2]
    write(file, content)
    assert len(find_source(tmp_path).read()['train']['categories']) == 4  # unused is not above


def test_brush_masks_of_cvat_are_instances_and_crowds_of_others_stay(tmp_path, drawn):
    content = saved(drawn, tmp_path / 'images' / 'default')
    for one in content['annotations']:
        mask = drawn.mask(one['segmentation'])
        changes = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False))
        runs = np.diff(changes, prepend=0, append=mask.size).tolist()
        one['segmentation'] = dict(counts=runs, size=[*mask.shape])
        one.update(iscrowd=1, attributes=dict(occluded=False))
    as_it_was = copy.deepcopy(content)
    write(tmp_path / 'annotations' / 'instances_default.json', content)
    source = find_source(tmp_path)
    read = source.read()['all']
    for one in read['annotations']:
        runs = one['segmentation']
        one['segmentation'] = coco_mask.frPyObjects(runs, *runs['size'])
    drawn.assert_same(read, 'train', tmp_path)
    count = len(read['annotations'])
    assert source.kind == 'COCO of CVAT' and source.notes[0].startswith(f'{count} brush masks of')
    for one in as_it_was['annotations']:
        del one['attributes']
    write(tmp_path / 'annotations' / 'instances_default.json', as_it_was)
    assert all(one['iscrowd'] for one in find_source(tmp_path).read()['all']['annotations'])


def test_files_whose_categories_differ_share_those_of_all(tmp_path, drawn):
    for split, pictures in drawn.splits.items():
        for picture in pictures:
            drawn.save(picture, tmp_path / split)
        content = drawn.coco(split)
        if split == 'val':
            content['categories'] = [
                dict(id=f'{90 - one["id"]}', name=one['name'])
                for one in content['categories'][::-1]
            ]
            for one in content['annotations']:
                one['category_id'] = 90 - one['category_id']
        write(tmp_path / 'annotations' / f'{split}.json', content)
    contents = find_source(tmp_path).read()
    assert contents['train']['categories'] == contents['val']['categories']
    for split, content in contents.items():
        drawn.assert_same(content, split, tmp_path)


def test_files_of_one_split_become_one(tmp_path, drawn):
    parts = {'task 1': drawn.coco('train'), 'task 2': drawn.coco('val')}
    for name, content in parts.items():
        for picture in drawn.splits['train' if name == 'task 1' else 'val']:
            drawn.save(picture, tmp_path / name / 'images')
        write(tmp_path / name / 'annotations' / 'instances_default.json', content)
    source = find_source(tmp_path)
    content = source.read()['all']
    both = drawn._replace(splits=dict(all=drawn.splits['train'] + drawn.splits['val']))
    both.assert_same(content, 'all', tmp_path)
    ids = [one['id'] for one in content['annotations']]
    assert len(set(ids)) == len(ids) and source.splits == ('all',)


def test_a_picture_in_two_files_of_a_split_is_refused(tmp_path, drawn):
    content = saved(drawn, tmp_path)
    write(tmp_path / 'one.json', content)
    write(tmp_path / 'two.json', content)
    with pytest.raises(
        InputError, match=r'two\.json: the picture a\.png is listed in .*one\.json too'
    ):
        find_source(tmp_path).read()
    assert find_source(tmp_path / 'one.json').read()['all']['images']


def test_a_file_of_all_splits_is_left_out_where_the_splits_have_it_all(tmp_path, drawn):
    content = saved(drawn, tmp_path / 'images')
    for name in ('train', 'trainval'):
        write(tmp_path / 'annotations' / f'{name}.json', content)
    source = find_source(tmp_path)
    assert [*source.read()] == ['train']
    assert source.notes == [
        '1 files left out, whose pictures the others list too, first annotations/trainval.json'
    ]
    content['images'] = content['images'][1:]
    write(tmp_path / 'annotations' / 'train.json', content)
    with pytest.raises(
        InputError, match='1 of its pictures are in no other file, first images/a.png'
    ):
        find_source(tmp_path).read()


def test_other_files_of_ms_coco_are_left_out(tmp_path, drawn):
    content = saved(drawn, tmp_path / 'train2017')
    for name in ('instances', 'person_keypoints'):
        write(tmp_path / 'annotations' / f'{name}_train2017.json', content)
    write(tmp_path / 'annotations' / 'captions_train2017.json', dict(images=[], annotations=[]))
    source = find_source(tmp_path)
    drawn.assert_same(source.read()['train'], 'train', tmp_path)
    assert 'person_keypoints' in source.notes[0]


def test_missing_sizes_are_those_of_the_pictures(tmp_path, drawn):
    content = saved(drawn, tmp_path)
    for image in content['images']:
        image['width'] = None
        del image['height']
    source = find_source(write(tmp_path / 'a.json', content))
    drawn.assert_same(source.read()['all'], 'train', tmp_path)
    assert source.notes[0].startswith('4 images without a size')


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-8-sig'])
def test_encodings(tmp_path, drawn, encoding):
    content = saved(drawn, tmp_path)
    (tmp_path / 'a.json').write_text(json.dumps(content, ensure_ascii=False), encoding)
    drawn.assert_same(find_source(tmp_path).read()['all'], 'train', tmp_path)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(images=7), 'images is number, not a list'),
        (dict(categories=None), 'categories is null, not a list'),
        (dict(annotations=['x']), r'annotations\[0\] is text'),
    ],
)
def test_what_is_no_coco_is_refused_by_name(tmp_path, drawn, change, message):
    write(tmp_path / 'a.json', {**saved(drawn, tmp_path), **change})
    with pytest.raises(InputError, match=rf'a\.json: .*{message}'):
        find_source(tmp_path).read()


def test_cut_json_is_refused_by_name(tmp_path, drawn):
    text = json.dumps(saved(drawn, tmp_path))
    (tmp_path / 'a.json').write_text(text[:-20])
    with pytest.raises(InputError, match=r'a\.json: this is no COCO file of JSON'):
        find_source(tmp_path).read()
    (tmp_path / 'notes.json').write_text('[1, 2]')  # beside them other JSON may lie
    (tmp_path / 'a.json').write_text(text)
    drawn.assert_same(find_source(tmp_path).read()['all'], 'train', tmp_path)


def test_the_picture_of_a_file_that_lies_elsewhere(tmp_path, drawn):
    content = saved(drawn, tmp_path / 'pictures')
    content['info'] = dict(folder=str(tmp_path / 'pictures'))
    source = find_source(write(tmp_path / 'elsewhere' / 'x' / 'all.json', content))
    read = source.read()['all']
    assert cv2.imread(str(source.picture_root / read['images'][0]['file_name'])) is not None
    drawn.assert_same(read, 'train', source.picture_root)
