"""What a person's data are."""

from collections.abc import Sequence
from pathlib import Path

from mmsolov2.datasets.importers import coco, cvat, labelme, mask_images, yolo
from mmsolov2.datasets.importers.source import Source
from mmsolov2.datasets.importers.tree import OWN_FOLDER, Tree
from mmsolov2.errors import InputError

LAYOUTS = (
    'COCO JSON (also of Roboflow, CVAT and Label Studio)',
    'YOLO-seg (data.yaml, images/, labels/)',
    'CVAT for images 1.1 (annotations.xml)',
    'labelme (JSON beside each picture)',
    'pictures with masks (images/ and masks/ with equal names, or NAME/images and NAME/masks)',
)
DETECTORS = (coco.detect, yolo.detect, cvat.detect, labelme.detect, mask_images.detect)


def find_source(data: str | Path, *, classes: Sequence[str] | None = None) -> Source:
    """The source of a folder, or of one COCO, XML or YAML file in it, whatever wrote it.

    ``classes`` names the one class of pictures with masks, which have no name for it.

    Raises:
        InputError: if there is nothing, the layout is not known, or there are two.
    """
    path = Path(data).expanduser()
    tree = Tree(path)
    found = [source for detect in DETECTORS if (source := detect(tree, classes))]
    if not found and (tree.root / OWN_FOLDER).is_dir():
        found = list(filter(None, [coco.detect(Tree(path, with_own=True), classes)]))
    if len(found) == 1:
        return found[0]
    known = '; '.join(LAYOUTS)
    if found:
        both = ' and '.join(f'{source.kind} ({source.evidence})' for source in found)
        raise InputError(
            f'{path}: this is {both}; give the one file to be read, or move the others away. '
            f'Layouts understood: {known}'
        )
    about = f'{len(tree.pictures)} pictures among {len(tree.files)} files'
    packed = tree.descriptions('.zip', '.gz', '.tar', '.7z', '.rar')
    remedy = f'unpack {packed[0]}' if packed else 'export the annotations as one of them'
    raise InputError(
        f'{path}: nothing in it is known ({about}); {remedy}. Layouts understood: {known}'
    )
