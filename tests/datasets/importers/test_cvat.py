"""CVAT for images 1.1: every kind of shape, groups, subsets, and XML that is refused."""

from xml.sax.saxutils import quoteattr

import numpy as np
import pytest

from mmsolov2.datasets.importers import find_source
from mmsolov2.errors import InputError

HEAD = '<?xml version="1.0" encoding="utf-8"?>\n'


def element(tag: str, **attributes) -> str:
    shown = ' '.join(f'{key}={quoteattr(str(value))}' for key, value in attributes.items())
    return f'<{tag} {shown}></{tag}>'


def polygon(name: str, part: list[float], group: int = 0) -> str:
    points = ';'.join(f'{x},{y}' for x, y in np.reshape(part, (-1, 2)))
    extra = dict(group_id=group) if group else {}
    return element('polygon', label=name, source='manual', points=points, z_order=0, **extra)


def mask(name: str, pixels: np.ndarray) -> str:
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    box = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    runs, value = [0], False
    for pixel in box.ravel().tolist():  # row by row, as CVAT's documentation shows it
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    place = dict(left=columns[0], top=rows[0], width=box.shape[1], height=box.shape[0])
    return element('mask', label=name, rle=', '.join(map(str, runs)), z_order=0, **place)


def document(drawn, images: list[str]) -> str:
    labels = ''.join(
        f'<label><name>{name.replace("&", "&amp;")}</name><color>#1</color></label>'
        for name in drawn.classes
    )
    meta = f'<meta><task><name>x</name><labels>{labels}</labels></task></meta>'
    return f'{HEAD}<annotations><version>1.1</version>{meta}{"".join(images)}</annotations>'


def frame(drawn, name: str, shapes: list[str], **extra) -> str:
    height, width = drawn.size
    attributes = dict(id=0, name=name, width=width, height=height, **extra)
    start = element('image', **attributes).removesuffix('</image>')
    return f'{start}{"".join(shapes)}</image>'


def as_polygons(drawn, picture) -> list[str]:
    return [
        polygon(name, part, group if len(parts) > 1 else 0)
        for group, (name, parts) in enumerate(picture.instances, 1)
        for part in parts
    ]


def as_masks(drawn, picture) -> list[str]:
    return [mask(name, drawn.mask(parts)) for name, parts in picture.instances]


def mixed(drawn, picture) -> list[str]:
    """A group of a mask and a polygon."""
    _, (nut, (first, second)), *rest = picture.instances
    grouped = mask(nut, drawn.mask([first])).replace('<mask ', '<mask group_id="4" ')
    others = [mask(name, drawn.mask(parts)) for name, parts in [picture.instances[0], *rest]]
    return [grouped, *others, polygon(nut, second, 4)]


@pytest.mark.parametrize('shapes', [as_polygons, as_masks, mixed])
@pytest.mark.parametrize('subsets', [True, False])
def test_every_mask_is_read(tmp_path, drawn, shapes, subsets):
    images = []
    for split, pictures in drawn.splits.items():
        if not subsets and split == 'val':
            continue
        subset = dict(train='Train', val='Validation')[split]
        for picture in pictures:
            extra = dict(subset=subset, task_id=3) if subsets else {}
            images.append(frame(drawn, picture.name, shapes(drawn, picture), **extra))
            drawn.save(picture, tmp_path / 'images' / (subset if subsets else ''))
    (tmp_path / 'annotations.xml').write_text(document(drawn, images), 'utf-8')
    source = find_source(tmp_path)
    contents = source.read()
    assert source.kind == 'CVAT for images 1.1' and not source.notes
    assert [*contents] == (['train', 'val'] if subsets else ['all'])
    for split, content in contents.items():
        drawn.assert_same(content, 'train' if split == 'all' else split, tmp_path)
        assert [one['name'] for one in content['categories']] == drawn.classes


def read_one(tmp_path, drawn, shapes: list[str]):
    drawn.save(drawn.splits['train'][0], tmp_path)
    (tmp_path / 'a.xml').write_text(document(drawn, [frame(drawn, 'a.png', shapes)]), 'utf-8')
    source = find_source(tmp_path / 'a.xml')
    content = source.read()['all']
    return source, [drawn.mask(one['segmentation']) for one in content['annotations']]


def test_boxes_and_ellipses_turned(tmp_path, drawn):
    box = dict(label='bolt', xtl=60, ytl=40, xbr=100, ybr=60)
    oval = dict(label='bolt', cx=80, cy=50, rx=40, ry=20)
    shapes = [
        element('box', **box),
        element('box', rotation=90, **box),
        element('ellipse', **oval),
        element('ellipse', rotation=30, **oval),
        element('points', label='bolt', points='1,2'),
        element('tag', label='bolt'),
    ]
    source, (plain, turned, ellipse, leaning) = read_one(tmp_path, drawn, shapes)
    assert plain[40:60, 60:100].all() and plain.sum() == 800
    assert turned[30:70, 70:90].all() and turned.sum() == 800
    y, x = np.mgrid[: drawn.size[0], : drawn.size[1]] + 0.5
    for found, degrees in ((ellipse, 0), (leaning, 30)):  # clockwise, as y points down
        turn = np.radians(degrees)
        u = (x - 80) * np.cos(turn) + (y - 50) * np.sin(turn)
        v = (y - 50) * np.cos(turn) - (x - 80) * np.sin(turn)
        expected = (u / 40) ** 2 + (v / 20) ** 2 <= 1
        assert (found & expected).sum() / (found | expected).sum() > 0.97
    assert source.notes == [
        '2 boxes, taken as masks of rectangles, first a.png: <box> 1',
        '1 <points> elements left out, which are no masks, first a.png: <points> 5',
        '1 <tag> elements left out, which are no masks, first a.png: <tag> 6',
    ]


def test_groups_are_of_one_label_and_one_picture(tmp_path, drawn):
    parts = [[10, 10, 50, 10, 50, 50], [100, 10, 150, 10, 150, 50]]
    shapes = [polygon('bolt', parts[0], 2), polygon('Mutter ü', parts[1], 2)]
    assert len(read_one(tmp_path, drawn, shapes)[1]) == 2
    alone = [polygon('bolt', part).replace('<polygon', '<polygon group_id="0"') for part in parts]
    assert len(read_one(tmp_path, drawn, alone)[1]) == 2


def test_subsets_of_pictures_in_one_folder(tmp_path, drawn):
    images = []
    for name, subset in (('a.png', 'Train'), ('e.png', 'Validation')):
        drawn.save(drawn.splits['val'][name == 'e.png'], tmp_path)
        images.append(frame(drawn, name, [], subset=subset))
    (tmp_path / 'a.xml').write_text(document(drawn, images), 'utf-8')
    contents = find_source(tmp_path).read()
    assert {split: len(one['images']) for split, one in contents.items()} == dict(train=1, val=1)


@pytest.mark.parametrize(
    'shape, message',
    [
        (polygon('spoon', [1, 1, 9, 1, 9, 9]), "the label 'spoon', which is none of"),
        ('<polygon label="bolt" points="1,2;x,3"/>', 'cannot be read'),
        ('<polygon label="bolt"/>', 'cannot be read'),
        (
            '<mask label="bolt" rle="3, 4" left="1" top="1" width="3" height="3"/>',
            '7 pixels for 3x3',
        ),
    ],
)
def test_shapes_that_are_refused_by_name(tmp_path, drawn, shape, message):
    with pytest.raises(InputError, match=rf'a\.png: <\w+> 1 .*{message}'):
        read_one(tmp_path, drawn, [shape])


def test_outlines_that_are_none_are_counted(tmp_path, drawn):
    source, masks = read_one(tmp_path, drawn, [polygon('bolt', [1, 1, 9, 9])])
    assert not masks and source.notes[0].startswith(
        '1 shapes left out, with less than three points'
    )


def test_a_mask_that_lies_partly_outside_is_cut(tmp_path, drawn):
    shape = '<mask label="bolt" rle="0, 16" left="-2" top="148" width="4" height="4"/>'
    drawn.save(drawn.splits['train'][0], tmp_path)
    (tmp_path / 'a.xml').write_text(document(drawn, [frame(drawn, 'a.png', [shape])]), 'utf-8')
    one = find_source(tmp_path).read()['all']['annotations'][0]
    assert one['bbox'] == [0, 148, 2, 2] and one['area'] == 4


BOMB = """<?xml version="1.0"?>
<!DOCTYPE annotations [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotations><image name="&b;" width="4" height="4"/></annotations>"""


@pytest.mark.parametrize(
    'text, message',
    [
        (BOMB, 'declares a document type'),
        (BOMB.encode('utf-16'), 'declares a document type'),
        ('<annotations><image', 'this is no XML that can be read'),
        ('<annotations><track id="0"/></annotations>', 'as of a video'),
        ('<annotations><image name="x" width="-4" height="4"/></annotations>', "width='-4'"),
        ('<annotations><image name="x" width="0" height="4"/></annotations>', "width='0'"),
    ],
)
def test_xml_that_is_refused(tmp_path, text, message):
    file = tmp_path / 'annotations.xml'
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    if b'UTF' not in file.read_bytes() and isinstance(text, bytes):
        file.write_bytes(BOMB.replace('?>', ' encoding="utf-16"?>', 1).encode('utf-16'))
    with pytest.raises(InputError, match=message):
        find_source(tmp_path).read()


def test_a_picture_that_is_listed_twice_is_refused(tmp_path, drawn):
    drawn.save(drawn.splits['train'][0], tmp_path)
    for name in ('one.xml', 'two.xml'):
        (tmp_path / name).write_text(document(drawn, [frame(drawn, 'a.png', [])]), 'utf-8')
    with pytest.raises(InputError, match=r'two\.xml: the picture a\.png is listed twice'):
        find_source(tmp_path).read()
