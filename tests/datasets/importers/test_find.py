"""What a folder is, two layouts at once, and folders of nothing that is known."""

import json
import os

import pytest

from mmsolov2.datasets.importers import LAYOUTS, find_source
from mmsolov2.errors import InputError


def coco(drawn, root) -> None:
    for picture in drawn.splits['train']:
        drawn.save(picture, root)
    (root / 'a.json').write_text(json.dumps(drawn.coco('train')))


def test_two_layouts_are_refused_and_a_file_chooses(tmp_path, drawn):
    coco(drawn, tmp_path)
    (tmp_path / 'data.yaml').write_text('train: .\nnames: [a]\n')
    with pytest.raises(
        InputError, match=r'this is COCO .*a\.json.* and YOLO-seg .*data\.yaml'
    ) as error:
        find_source(tmp_path)
    assert all(layout in str(error.value) for layout in LAYOUTS)
    drawn.assert_same(find_source(str(tmp_path / 'a.json')).read()['all'], 'train', tmp_path)


def test_nothing_that_is_known(tmp_path, drawn):
    drawn.save(drawn.splits['train'][0], tmp_path)
    (tmp_path / 'isat.json').write_text('{"info": {}, "objects": []}')
    with pytest.raises(
        InputError, match='nothing in it is known .1 pictures among 2 files'
    ) as error:
        find_source(tmp_path)
    assert all(layout in str(error.value) for layout in LAYOUTS)
    (tmp_path / 'export.zip').write_bytes(b'PK')
    with pytest.raises(InputError, match=r'unpack .*export\.zip'):
        find_source(tmp_path)


@pytest.mark.parametrize('name', ['nowhere', 'empty'])
def test_no_folder_and_an_empty_one(tmp_path, name):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match=name):
        find_source(tmp_path / name)


def test_a_file_far_from_its_pictures_does_not_widen_the_search(tmp_path, drawn):
    coco(drawn, tmp_path)
    (tmp_path / 'x').mkdir()
    (tmp_path / 'a.json').rename(tmp_path / 'x' / 'a.json')
    assert find_source(tmp_path / 'x' / 'a.json').root == tmp_path / 'x'
    (tmp_path / 'x').rename(tmp_path / 'annotations')
    for data in (tmp_path / 'annotations' / 'a.json', tmp_path / 'annotations'):
        source = find_source(data)
        assert source.root == tmp_path
        drawn.assert_same(source.read()['all'], 'train', tmp_path)


def test_classes_are_for_masks_alone(tmp_path, drawn):
    coco(drawn, tmp_path)
    with pytest.raises(InputError, match='name their classes themselves'):
        find_source(tmp_path, classes=['a'])


def test_hidden_files_and_links_that_lead_back(tmp_path, drawn):
    coco(drawn, tmp_path / 'x')
    for name in ('.hidden.json', '__MACOSX/a.json'):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes((tmp_path / 'x' / 'a.json').read_bytes())
    os.symlink(tmp_path, tmp_path / 'x' / 'back')
    drawn.assert_same(find_source(tmp_path).read()['all'], 'train', tmp_path)


def test_what_was_converted_is_no_second_layout(tmp_path, drawn):
    coco(drawn, tmp_path)
    own = tmp_path / 'annotations_coco'
    own.mkdir()
    (own / 'all.json').write_bytes((tmp_path / 'a.json').read_bytes())
    drawn.assert_same(find_source(tmp_path).read()['all'], 'train', tmp_path)  # of one file
    (tmp_path / 'a.json').unlink()
    for data in (tmp_path, own):
        source = find_source(data)
        drawn.assert_same(source.read()['all'], 'train', source.picture_root)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_a_folder_that_cannot_be_read(tmp_path, drawn):
    coco(drawn, tmp_path)
    (tmp_path / 'locked').mkdir(mode=0)
    with pytest.raises(InputError, match='locked: the folder cannot be read'):
        find_source(tmp_path)
