"""COCO files, as the tools of today export them: Roboflow, CVAT, Label Studio, and others."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mmsolov2.datasets.coco_file import by_number, find, identity, objects_of
from mmsolov2.datasets.importers.content import require_no_classes, size_of
from mmsolov2.datasets.importers.source import Source
from mmsolov2.datasets.importers.tree import Tree, split_of
from mmsolov2.datasets.json_file import clipped, paused_collector, read_json
from mmsolov2.datasets.tally import Tally
from mmsolov2.errors import InputError

MARKS = (b'"images"', b'"categories"')
ROBOFLOW = '_annotations.coco.json'
CROWDS = 'brush masks of CVAT that it marks as crowds, taken as instances'
Files = dict[str, list[Path]]


def detect(tree: Tree, classes: Sequence[str] | None) -> Source | None:
    """COCO JSON anywhere below a folder, or one file of it."""
    files = [path for path in tree.descriptions('.json') if holds(path, MARKS)]
    if not files:
        return None
    require_no_classes(classes, files[0])
    kind = 'COCO'
    if any(path.name == ROBOFLOW for path in files):
        kind = 'COCO of Roboflow'
    elif any(path.name.startswith('instances_default') for path in files):
        kind = 'COCO of CVAT'
    elif any(holds(path, (b'"Label Studio"',)) for path in files):
        kind = 'COCO of Label Studio'
    grouped: Files = defaultdict(list)
    for path in files:
        grouped[split_of(path.stem) or tree.split_of(path) or 'all'].append(path)
    spare = grouped.pop('all') if len(grouped) > 1 and 'all' in grouped else []
    return Source(kind, tree, files[0], partial(read, tree, dict(grouped), spare))


def holds(path: Path, marks: Sequence[bytes]) -> bool:
    """Whether a file holds some words; UTF-16 and UTF-32 have zeros between their letters."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f'{path}: it cannot be read ({error.strerror})') from error
    if b'\0' in data[:4]:
        data = data.replace(b'\0', b'')
    return all(mark in data for mark in marks)


def read(tree: Tree, files: Files, spare: Sequence[Path], tally: Tally) -> dict[str, dict]:
    """The content of each split; of files that belong to none nothing may be left."""
    with paused_collector():
        parts = {
            split: [load(path, split, tree, tally) for path in chosen(paths, tally)]
            for split, paths in files.items()
        }
        contents = [content for each in parts.values() for content in each]
        drop_supercategory(contents, tally)
        share_categories(contents)
        merged = {split: merge(each) for split, each in parts.items()}
    known = {image.get('file_name') for each in merged.values() for image in each['images']}
    for path in spare:
        names = {image.get('file_name') for image in load(path, 'all', tree, Tally())['images']}
        if names - known:
            raise InputError(
                f'{path}: {len(names - known)} of its pictures are in no other file, first '
                f'{clipped(min(map(str, names - known)))}, but the others are named after splits: '
                'name it train, val or test, or move it away'
            )
        tally.add('files left out, whose pictures the others list too', tree.name_of(path))
    return {split: {k: v for k, v in each.items() if k != 'file'} for split, each in merged.items()}


def chosen(paths: Sequence[Path], tally: Tally) -> Sequence[Path]:
    """Of a split's files those of instances, where MS COCO has others beside them."""
    instances = [path for path in paths if path.name.startswith('instances_')]
    for path in paths if instances else ():
        if path not in instances:
            tally.add('files left out beside those named instances_…', path)
    return instances or paths


def load(path: Path, split: str, tree: Tree, tally: Tally) -> dict:
    """A file's content, with names of pictures from the root."""
    content = read_json(str(path), str(path))
    for key in ('images', 'categories'):
        if key not in content:
            raise InputError(f'{path}: this is no COCO file, it lacks {key}')
        objects_of(content, key, str(path))
    if content.get('annotations') is not None:
        objects_of(content, 'annotations', str(path))
    folders = picture_folders(path, split, content, tree)
    for image in content['images']:
        place_image(image, folders, split, tree, tally)
    for annotation in content.get('annotations') or ():
        if annotation.get('iscrowd') == 1 and is_brush_mask(annotation):
            annotation['iscrowd'] = 0
            tally.add(CROWDS, f'{tree.name_of(path)} (id {clipped(annotation.get("id"))})')
    kept = ('info', 'licenses', 'images', 'annotations', 'categories')
    return dict(file=str(path), **{key: content[key] for key in kept if key in content})


def picture_folders(path: Path, split: str, content: dict, tree: Tree) -> list[Path]:
    """Where the pictures of a file may be, the likely places first."""
    info = content.get('info')
    told = info.get('folder') if isinstance(info, dict) else None  # by mmsolov2 itself
    near = [tree.root, path.parent, tree.root / 'images', path.parent / 'images']
    near += [path.parent.parent, path.parent.parent / 'images', *tree.folders_of(split)]
    return [*dict.fromkeys(near), *([Path(told)] if isinstance(told, str) else [])]


def place_image(image: dict, folders: Sequence[Path], split: str, tree: Tree, tally: Tally) -> None:
    """Give an image its name from the root, and its size if the file lacks it."""
    name = image.get('file_name')
    if not isinstance(name, str) or not name:
        return
    path = tree.find(name, folders, tally, None if split == 'all' else split)
    if path is None:
        return
    image['file_name'] = tree.name_of(path)
    if image.get('width') is None or image.get('height') is None:
        size = size_of(path)
        if size:
            image['height'], image['width'] = size
            tally.add('images without a size, which is now that of the picture', name)


def is_brush_mask(annotation: dict) -> bool:
    """Whether CVAT wrote an annotation, and not as polygons."""
    attributes = annotation.get('attributes')
    is_rle = isinstance(annotation.get('segmentation'), dict)
    return is_rle and isinstance(attributes, dict) and 'occluded' in attributes


def drop_supercategory(contents: Sequence[dict], tally: Tally) -> None:
    """Take out the category that Roboflow puts above all others, if nothing is annotated as it."""
    if not all(Path(content['file']).name == ROBOFLOW for content in contents):
        return
    used = {
        identity(each.get('category_id'))
        for content in contents
        for each in content.get('annotations') or ()
    }
    for content in contents:
        above = {str(each.get('supercategory')) for each in content['categories']}
        for each in list(content['categories']):
            is_above = each.get('supercategory') == 'none' and each.get('name') in above
            if is_above and identity(each.get('id')) not in used:
                content['categories'].remove(each)
                tally.add('categories above all others left out', each['name'])


def by_id(entries: Sequence[dict]) -> dict[int | str, dict]:
    """Images or categories by their ids; those without one are found in the check."""
    found = ((identity(entry.get('id')), entry) for entry in entries)
    return by_number({number: entry for number, entry in found if number is not None})


def share_categories(contents: Sequence[dict]) -> None:
    """Give files whose categories differ those of all, by their names."""
    lists = [[(each.get('id'), each.get('name')) for each in one['categories']] for one in contents]
    if all(one == lists[0] for one in lists):
        return
    names = dict.fromkeys(str(name) for one in lists for _, name in one)
    numbers = {name: number for number, name in enumerate(names, 1)}
    for content in contents:
        own = by_id(content['categories'])
        for index, annotation in enumerate(content.get('annotations') or ()):
            category = find(own, annotation.get('category_id'))
            if category is None:
                raise InputError(
                    f'{content["file"]}: annotations[{index}] has the category_id '
                    f'{clipped(annotation.get("category_id"))}, which no category has'
                )
            annotation['category_id'] = numbers[str(category.get('name'))]
        content['categories'] = [dict(id=number, name=name) for name, number in numbers.items()]


def merge(contents: Sequence[dict]) -> dict:
    """One content of those of several files, which list different pictures."""
    if len(contents) == 1:
        return contents[0]
    owners: dict[str, str] = {}
    images: list[dict] = []
    annotations: list[dict] = []
    for content in contents:
        own = by_id(content['images'])
        for annotation in content.get('annotations') or ():
            image = find(own, annotation.get('image_id'))
            annotations.append({**annotation, 'id': len(annotations) + 1, 'image_id': image})
        for image in content['images']:
            images.append(image)
            name = str(image.get('file_name'))
            if owners.setdefault(name, content['file']) != content['file']:
                raise InputError(
                    f'{content["file"]}: the picture {clipped(name)} is listed in {owners[name]} '
                    'too; give one of the files, or move one of them away'
                )
    for number, image in enumerate(images, 1):
        image['id'] = number
    for annotation in annotations:  # 0 is no image's: it is counted where the content is checked
        annotation['image_id'] = (annotation['image_id'] or {}).get('id', 0)
    return dict(images=images, annotations=annotations, categories=contents[0]['categories'])
