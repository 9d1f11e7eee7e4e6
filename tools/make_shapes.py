"""Make the shapes set: textured, overlapping shapes with exact instance masks in COCO format.

    python tools/make_shapes.py data/shapes --num-train 400 --num-val 100 --seed 0

writes OUT/annotations/{train,val}.json, OUT/train/000001.png ... and OUT/val/000001.png ...
Five classes (circle, square, triangle, star, ring), each with a texture and hues of its own, in
sizes from COCO-small to COCO-large, one to seven in an image. A mask holds exactly the pixels
that are seen, so a shape painted later takes its pixels from those below it.

The same arguments give the same bytes: image k has its own generator, seeded with
[seed, split, k], and all forms and textures are drawn with whole numbers. Every 50th train image
(from the 20th on) holds no shape at all.

With --alike all shapes of an image are copies of one, whole and apart: nothing but their place
tells them from each other.
"""

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

CLASSES = ('circle', 'square', 'triangle', 'star', 'ring')
SPLITS = ('train', 'val')
DESCRIPTION = 'Shapes: textured, overlapping shapes with exact visible masks'
RECIPE = 1  # raise it when the same arguments would give other files
MADE_WITH = 'annotations/made_with.json'  # written last
OWN = re.compile(r'annotations/(train|val|made_with)\.json|(train|val)/\d{6}\.png')

UNIT = 1024  # 1.0 in fixed point
HOLE = 563  # radius of a ring's hole, of an outer radius of UNIT
POLYGONS = {  # sides, how far they are off the centre, and how many of them a point is inside of
    'square': (4, 724, 4),
    'triangle': (3, 512, 3),
    'star': (5, 316, 4),
}
AREAS = {'circle': 3217, 'square': 2048, 'triangle': 1330, 'star': 1150, 'ring': 2244}  # radius 1

# (least, most) square root of a shape's area; each pair is drawn with equal chance
SIDES = 2 * ((14, 28),) + 6 * ((34, 72),) + 2 * ((97, 110),)
UPRIGHT = 90  # degrees: triangles and stars point up, squares stand on a side
TURN = 20  # degrees that a shape may lean to either side
MAX_SHAPES = 7
TRIES = 20  # places tried for a shape before it is left out
MIN_VISIBLE_PIXELS = 40
MIN_VISIBLE_PERCENT = 50
SMALL, LARGE = 32**2, 96**2  # COCO's bounds between small, medium and large areas

Array = np.ndarray
Rng = np.random.Generator
Texture = Callable[[Rng, Array, Array, int], Array]


class Scene(NamedTuple):
    """An image in the making; `owner` holds 0 for background and i for the i-th shape."""

    image: Array  # (H, W, 3) uint8, BGR
    owner: Array  # (H, W) uint8
    kinds: list[int]  # index into CLASSES of each shape
    areas: list[int]  # pixels of each shape before anything hides it
    colours: list[Array]  # (3,) int64, mean of the background and of each shape


# Forms


def along(y: Array, x: Array, degrees: int) -> Array:
    """(H, W): how far each pixel lies in a direction, in fixed point."""
    turn = math.radians(degrees)
    return x * round(UNIT * math.cos(turn)) + y * round(UNIT * math.sin(turn))


def rasterise(kind: str, radius: int, angle: int = 0, squeeze: int = 100) -> Array:
    """(2R+1, 2R+1) bool: the form turned by `angle` degrees, one axis at `squeeze` percent."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    u, v = along(y, x, angle) * 100 // squeeze, along(y, x, angle + 90)
    if kind in POLYGONS:
        sides, reach, need = POLYGONS[kind]
        turns = range(0, 360, 360 // sides)
        return sum(along(v, u, turn) <= reach * radius * UNIT for turn in turns) >= need
    square, hole = u * u + v * v, radius * HOLE if kind == 'ring' else -1
    return (square <= (radius * UNIT) ** 2) & (square > hole * abs(hole))


def random_form(rng: Rng, kind: str, largest: int) -> Array:
    """(2R+1, 2R+1) bool: a form of random size and turn; all classes share the same areas."""
    low, high = SIDES[rng.integers(len(SIDES))]
    side = int(rng.integers(min(low, largest // 2), min(high, largest) + 1))
    squeeze = int(rng.integers(82, 101))
    radius = math.isqrt(side * side * UNIT * 100 // (AREAS[kind] * squeeze))
    return rasterise(kind, radius, UPRIGHT + int(rng.integers(-TURN, TURN + 1)), squeeze)


# Textures: (H, W) from 0 to 256, of rows y (H, 1) and columns x (1, W), about `cell` pixels fine


def gradient(rng: Rng, y: Array, x: Array, cell: int) -> Array:
    """A ramp in a random direction; `cell` is not used."""
    ramp = along(y, x, int(rng.integers(360)))
    ramp = ramp - ramp.min()
    return ramp * 256 // max(1, int(ramp.max()))


def stripes(rng: Rng, y: Array, x: Array, cell: int) -> Array:
    """Bands `cell` pixels wide in a random direction."""
    return along(y, x, int(rng.integers(180))) // (cell * UNIT) % 2 * 256


def checks(rng: Rng, y: Array, x: Array, cell: int) -> Array:
    """A turned chessboard with fields `cell` pixels wide."""
    angle, pitch = int(rng.integers(90)), cell * UNIT
    return (along(y, x, angle) // pitch + along(y, x, angle + 90) // pitch) % 2 * 256


def dots(rng: Rng, y: Array, x: Array, cell: int) -> Array:
    """Dots about `cell` pixels wide on a turned grid."""
    angle, pitch = int(rng.integers(90)), (cell * 3 + 3) // 2 * UNIT
    u, v = (along(y, x, turn) % pitch - pitch // 2 for turn in (angle, angle + 90))
    return (u * u + v * v <= (pitch * 3 // 10) ** 2) * np.int32(256)


def noise(rng: Rng, y: Array, x: Array, cell: int) -> Array:
    """Blotches about half a `cell` wide."""
    side = (cell + 1) // 2
    shape = (y.size // side + 1, x.size // side + 1)
    return rng.integers(0, 257, shape, np.int32)[y // side, x // side]


LOOKS = {  # texture and hue, of 1536, of each class
    'circle': (dots, 0),
    'square': (checks, 1000),
    'triangle': (stripes, 256),
    'star': (gradient, 1290),
    'ring': (noise, 512),
}
HUE_SPREAD = 90  # to either side
BACKDROPS = (gradient, stripes, noise)


def bgr(hue: Array, saturation: Array, value: Array) -> Array:
    """(N, 3) int64 in 0..255 from (N,) hues in 0..1535, saturations and values in 0..255."""
    sector = (hue[:, None] + np.array([1, 3, 5]) * 256) % 1536
    depth = np.clip(np.minimum(sector, 1024 - sector), 0, 256)
    return value[:, None] - (value * saturation)[:, None] * depth // (255 * 256)


def partner(rng: Rng, colour: Array, low: int, high: int) -> Array:
    """(3,) int64: the colour moved `low` to `high` percent of the way to black or white."""
    goal = 255 if colour.mean() < 110 else 0
    return colour + (goal - colour) * int(rng.integers(low, high + 1)) // 100


def far_colour(rng: Rng, hue: int, taken: Sequence[Array]) -> Array:
    """(3,) int64: of some vivid colours around a hue the one least like all those in `taken`."""
    low, high = (hue - HUE_SPREAD, 110, 90), (hue + HUE_SPREAD, 256, 256)
    colours = bgr(*rng.integers(low, high, (10, 3)).T)
    gaps = np.abs(colours[:, None] - np.array(taken)).sum(2).min(1)
    return colours[gaps.argmax()]


def weave(
    rng: Rng, texture: Texture, height: int, width: int, first: Array, second: Array
) -> Array:
    """(H, W, 3) uint8: two colours in a texture, with a fine grain."""
    y, x = (axis.astype(np.int32) for axis in np.ogrid[:height, :width])
    coarsest = min(8, min(height, width) // 8)
    weights = texture(rng, y, x, int(rng.integers(2, coarsest + 3)))
    ramp = first + (second - first) * np.arange(257)[:, None] // 256
    ramp = np.clip(ramp - 5, 0, 245).astype(np.uint8)
    return np.take(ramp, weights, axis=0) + rng.integers(0, 11, (height, width, 1), np.uint8)


# Scenes


def backdrop(rng: Rng, height: int, width: int) -> tuple[Array, Array]:
    """A (H, W, 3) uint8 background in two muted colours, and their mean (3,) int64."""
    value = (30, 90) if rng.integers(2) else (150, 240)
    first = bgr(*rng.integers((0, 20, value[0]), (1536, 120, value[1]), (1, 3)).T)[0]
    second = partner(rng, first, 6, 16)
    texture = BACKDROPS[rng.integers(len(BACKDROPS))]
    return weave(rng, texture, height, width, first, second), (first + second) // 2


def cover(owner: Array, form: Array, row: int, column: int) -> Array:
    """(H, W) uint8: `owner` after the form has been laid on it, with its centre at a pixel."""
    (height, width), size, rim = owner.shape, len(form), len(form) // 2
    covered = cv2.copyMakeBorder(owner, rim, rim, rim, rim, cv2.BORDER_CONSTANT)
    covered[row : row + size, column : column + size][form] = owner.max() + 1
    return covered[rim : rim + height, rim : rim + width]


def find_place(rng: Rng, scene: Scene, form: Array, percent: int) -> Array | None:
    """(H, W) uint8 owners with the form where `percent` of each shape is seen, if one is met.

    Places are off the rim, by preference on a shape.
    """
    owner, areas = scene.owner, np.array([*scene.areas, form.sum()])
    size = np.array(owner.shape)
    low = np.minimum(len(form) // 4, (size - 1) // 2)
    for _ in range(TRIES):
        first, second = rng.integers(low, size - low, (2, 2)).tolist()
        covered = cover(owner, form, *(first if owner[tuple(first)] else second))
        seen = np.bincount(covered.ravel(), minlength=len(areas) + 1)[1:]
        if np.all((seen >= MIN_VISIBLE_PIXELS) & (seen * 100 >= areas * percent)):
            return covered
    return None


def paint(rng: Rng, scene: Scene, fresh: Array, kind: str, taken: Sequence[Array]) -> None:
    """Fill the pixels `fresh` (H, W) bool with a class's texture and hue, unlike those taken."""
    left, top, width, height = cv2.boundingRect(fresh.view(np.uint8))
    inside = slice(top, top + height), slice(left, left + width)
    texture, hue = LOOKS[kind]
    colour = far_colour(rng, hue, taken)
    strength = min(45, 15 + min(height, width))  # gentle on tiny shapes, to keep their form
    shade = partner(rng, colour, strength // 2, strength)
    woven = weave(rng, texture, height, width, colour, shade)
    scene.image[inside][fresh[inside]] = woven[fresh[inside]]
    scene.colours.append((colour + shade) // 2)


def add_shape(rng: Rng, scene: Scene, look: Rng | None = None) -> None:
    """Paint one more random shape; leave the scene as it is when no place is found for it.

    With a generator for its look it is small enough to be whole and apart, and unlike the
    background alone.
    """
    side, percent, taken = min(scene.owner.shape) * 9 // 16, MIN_VISIBLE_PERCENT, scene.colours
    if look is not None:
        side, percent, taken = min(scene.owner.shape) // 3, 100, scene.colours[:1]
    look = look or rng
    kind = int(look.integers(len(CLASSES)))
    form = random_form(look, CLASSES[kind], side)
    covered = find_place(rng, scene, form, percent)
    if covered is None:
        return
    paint(look, scene, covered != scene.owner, CLASSES[kind], taken)
    scene.owner[...] = covered
    scene.kinds.append(kind)
    scene.areas.append(int(form.sum()))


def is_empty(split: str, index: int) -> bool:
    """Whether an image of the set holds no shape; it depends on nothing but its place."""
    return split == 'train' and index % 50 == 19


def make_scene(
    seed: int, split: str, index: int, height: int, width: int, alike: bool = False
) -> Scene:
    """The finished image `index` (from 0) of a split, whatever the number of images."""
    place = [seed, SPLITS.index(split), index]
    rng = np.random.default_rng(place)
    image, colour = backdrop(rng, height, width)
    scene = Scene(image, np.zeros((height, width), np.uint8), [], [], [colour])
    if is_empty(split, index):
        return scene
    left = int(rng.integers(1, MAX_SHAPES + 1))
    while left > 0 or not scene.kinds:
        add_shape(rng, scene, np.random.default_rng([*place, 1]) if alike else None)
        left -= 1
    return scene


# Files


def annotate(scene: Scene, image_id: int) -> Iterator[dict]:
    """The COCO annotations of a scene, without ids, from the shape painted first to the last."""
    for number, kind in enumerate(scene.kinds, start=1):
        mask = (scene.owner == number).view(np.uint8)
        runs = coco_mask.encode(np.asfortranarray(mask))
        yield {
            'image_id': image_id,
            'category_id': kind + 1,
            'segmentation': {'counts': runs['counts'].decode('ascii'), 'size': [*mask.shape]},
            'bbox': [*cv2.boundingRect(mask)],
            'area': int(coco_mask.area(runs)),
            'iscrowd': 0,
        }


def image_name(index: int) -> str:
    """File name of the image `index` (from 0)."""
    return f'{index + 1:06d}.png'


def write_png(path: Path, image: Array) -> None:
    """Write (H, W, 3) uint8 BGR, always with the same compression."""
    done, data = cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise OSError(f'{path}: the image cannot be encoded as PNG')
    path.write_bytes(data.tobytes())


def write_json(path: Path, content: dict) -> None:
    """Write JSON whose bytes depend on the content alone."""
    text = json.dumps(content, sort_keys=True, separators=(',', ':')) + '\n'
    path.write_bytes(text.encode('ascii'))


def write_split(out: Path, split: str, wanted: dict[str, int]) -> list[dict]:
    """Write the images of a split, then its COCO file; return the annotations."""
    height, width = wanted['height'], wanted['width']
    images, annotations = [], []
    for index in range(wanted[f'num_{split}']):
        scene = make_scene(wanted['seed'], split, index, height, width, wanted.get('alike', False))
        name = image_name(index)
        write_png(out / split / name, scene.image)
        images.append({'id': index + 1, 'file_name': name, 'height': height, 'width': width})
        annotations.extend(annotate(scene, index + 1))
    for number, annotation in enumerate(annotations, start=1):
        annotation['id'] = number
    content = {
        'info': {'description': DESCRIPTION, 'version': str(RECIPE)},
        'licenses': [],
        'categories': [
            {'id': number, 'name': name, 'supercategory': 'shape'}
            for number, name in enumerate(CLASSES, start=1)
        ],
        'images': images,
        'annotations': annotations,
    }
    write_json(out / 'annotations' / f'{split}.json', content)
    return annotations


def expected_files(wanted: dict[str, int]) -> set[str]:
    """Paths, relative to OUT, of all files of a finished set."""
    images = {f'{s}/{image_name(index)}' for s in SPLITS for index in range(wanted[f'num_{s}'])}
    return images | {f'annotations/{split}.json' for split in SPLITS} | {MADE_WITH}


def present_files(out: Path) -> set[str]:
    """Paths, relative to OUT, of everything in it that is not a folder."""
    return {path.relative_to(out).as_posix() for path in out.rglob('*') if not path.is_dir()}


def read_made_with(out: Path) -> dict[str, int] | None:
    """The arguments that a finished set was made with; None for any other folder."""
    try:
        content = json.loads((out / MADE_WITH).read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def check_folder(out: Path, wanted: dict[str, int]) -> None:
    """Raise FileExistsError when writing the set to OUT would spoil what is there."""
    found = read_made_with(out)
    if found not in (None, wanted):
        there, here = (
            ' '.join(f'{name}={value}' for name, value in sorted(arguments.items()))
            for arguments in (found, wanted)
        )
        raise FileExistsError(
            f'{out} holds a set made with other arguments\n  there:  {there}\n  wanted: {here}\n'
            'Give another OUT folder, the arguments of the set there, or --overwrite.'
        )
    strange = sorted(name for name in present_files(out) if not OWN.fullmatch(name))
    if strange and found is None:
        raise FileExistsError(
            f'{out} holds files that are not of this set, such as {strange[0]}\n'
            'Give a new or empty OUT folder, or --overwrite (which keeps such files).'
        )


def prepare_folder(out: Path) -> None:
    """Make the folders and remove what an earlier run left, its mark of completion first."""
    (out / MADE_WITH).unlink(missing_ok=True)
    for name in filter(OWN.fullmatch, present_files(out)):
        (out / name).unlink()
    for folder in ('annotations', *SPLITS):
        (out / folder).mkdir(parents=True, exist_ok=True)


def size_name(area: int) -> str:
    """COCO's name for the size of an instance."""
    if area < SMALL:
        return 'small'
    return 'medium' if area <= LARGE else 'large'


def summarise(out: Path, wanted: dict[str, int], annotations: list[dict]) -> str:
    """One line: images, instances of each class, share of each size."""
    kinds = Counter(CLASSES[item['category_id'] - 1] for item in annotations)
    sizes = Counter(size_name(item['area']) for item in annotations)
    by_class = ', '.join(f'{name} {kinds[name]}' for name in CLASSES)
    total = max(1, len(annotations))
    shares = ', '.join(f'{n} {100 * sizes[n] / total:.0f}%' for n in ('small', 'medium', 'large'))
    counts = f'{wanted["num_train"]} train + {wanted["num_val"]} val images'
    return f'{out}: {counts}, {len(annotations)} instances ({by_class}; {shares})'


def make_set(out: Path, wanted: dict[str, int], overwrite: bool = False) -> str:
    """Write the set to OUT, unless it is there already; return a line that says what was done."""
    if not overwrite:
        if read_made_with(out) == wanted and expected_files(wanted) <= present_files(out):
            return f'{out}: already made with these arguments, nothing to do'
        check_folder(out, wanted)
    prepare_folder(out)
    annotations = [item for split in SPLITS for item in write_split(out, split, wanted)]
    write_json(out / MADE_WITH, wanted)
    return summarise(out, wanted, annotations)


# Command line


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`, for argparse."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            message = f'{text!r} will not do: give a whole number from {low} to {high}'
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return parse


def folder(text: str) -> Path:
    """The path in `text`, which is a folder or can become one, for argparse."""
    path = Path(text)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            message = f'{text!r} will not do: {place} is a file; give a folder, new or empty'
            raise argparse.ArgumentTypeError(message)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(description=DESCRIPTION + ', in COCO format.')
    parser.add_argument('out', metavar='OUT', type=folder, help='folder for the set')
    count, side = whole_number(0, 999999), whole_number(64, 4096)
    for name, parse, default, text in (
        ('--num-train', count, 400, 'train images'),
        ('--num-val', count, 100, 'val images'),
        ('--seed', whole_number(0, 2**32 - 1), 0, 'seed of all random choices'),
        ('--height', side, 192, 'height of the images in pixels'),
        ('--width', side, 256, 'width of the images in pixels'),
    ):
        help_text = f'{text} (default: {default})'
        parser.add_argument(name, metavar='N', type=parse, default=default, help=help_text)
    text = 'all shapes of an image are copies of one'
    parser.add_argument('--alike', action='store_true', help=text)
    parser.add_argument('--overwrite', action='store_true', help='replace the set that is in OUT')
    wanted = vars(parser.parse_args(argv))
    out, overwrite = wanted.pop('out'), wanted.pop('overwrite')
    if not wanted['alike']:
        del wanted['alike']  # sets made before there was the option have not got it
    try:
        print(make_set(out, {**wanted, 'recipe': RECIPE}, overwrite))
    except OSError as error:
        parser.error(str(error))
    return 0


if __name__ == '__main__':
    sys.exit(main())
