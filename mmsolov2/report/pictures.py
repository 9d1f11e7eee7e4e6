"""Pictures of a report: the truth beside what was found, as JPEG in the page."""

import base64
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mmsolov2.evaluation.instance_errors import KINDS, Error, Instances
from mmsolov2.report.figures import Picture
from mmsolov2.visualization.overlay import Color, draw_instances, instance_color

THUMBNAILS = 60  # pictures of the table that have one
SHOWN = 6  # pictures, and errors of a kind, that are shown larger
LARGE, SMALL, CROP = 254, 110, 166  # pixels of a half's longer side
MARGIN = 0.3  # of the longer side of an error's box, around it
GREY = (150, 150, 150)  # of what is not in an error
QUALITY = 82  # of JPEG

Window = tuple[int, int, int, int]


class Look(NamedTuple):
    """How n instances are drawn."""

    colors: list[Color]
    texts: list[str]  # '' for none

    def of(self, seen: Container[int] | None) -> 'Look':
        """The look where some are seen, all by None, and the others are grey."""
        if seen is None:
            return self
        return Look(
            [color if index in seen else GREY for index, color in enumerate(self.colors)],
            [text if index in seen else '' for index, text in enumerate(self.texts)],
        )


class Crop(NamedTuple):
    """An error, the picture that it is in, and its image."""

    picture: Picture
    error: Error
    image: str  # as a data URI


@dataclass
class Pictures:
    """The images of a page, as data URIs."""

    thumbnails: dict[int, str] = field(default_factory=dict)  # by the picture's number
    worst: dict[int, str] = field(default_factory=dict)
    best: dict[int, str] = field(default_factory=dict)
    crops: dict[str, list[Crop]] = field(default_factory=lambda: {kind: [] for kind in KINDS})


# What is shown


def worst_first(pictures: Iterable[Picture]) -> list[Picture]:
    """Pictures by quality, of equals those with more errors first."""
    return sorted(pictures, key=lambda one: (one.quality, -len(one.errors), one.number))


def extremes(ranked: Sequence[Picture]) -> tuple[list[Picture], list[Picture]]:
    """The worst pictures, which have errors, and the best, in which instances are found."""
    worst = [one for one in ranked if one.errors][:SHOWN]
    taken = {one.number for one in worst}
    best = [one for one in reversed(ranked) if one.right and one.number not in taken]
    return worst, best[:SHOWN]


def chosen_errors(pictures: Iterable[Picture]) -> list[tuple[Picture, Error]]:
    """Errors that are shown, some of each kind: of the highest scores, or the largest instances."""
    every = [(picture, error) for picture in pictures for error in picture.errors]
    every.sort(key=lambda one: weight(*one), reverse=True)
    return [one for kind in KINDS for one in [e for e in every if e[1].kind == kind][:SHOWN]]


def weight(picture: Picture, error: Error) -> float:
    """How much an error matters among those of its kind."""
    if error.found:
        return float(picture.scores[list(error.found)].max())
    return float(coco_mask.area([picture.truth.masks[one] for one in error.truths]).max())


def make_pictures(
    pictures: Sequence[Picture], classes: Sequence[str], load: Callable[[int], np.ndarray]
) -> Pictures:
    """The images of a report; ``load`` gives the image (H, W, 3) uint8 BGR of a number."""
    ranked = worst_first(pictures)
    worst, best = ({one.number for one in group} for group in extremes(ranked))
    small = {one.number for one in ranked[:THUMBNAILS]}
    errors = chosen_errors(pictures)
    made = Pictures()
    for picture in pictures:
        number, own = picture.number, [error for other, error in errors if other is picture]
        if not own and number not in worst | best | small:
            continue
        image = load(number)
        if number in small:
            made.thumbnails[number] = beside(image, picture, side=SMALL)
        if number in worst | best:
            large = beside(image, picture, side=LARGE, classes=classes)
            (made.worst if number in worst else made.best)[number] = large
        for error in own:
            crop = beside(image, picture, side=CROP, classes=classes, error=error)
            made.crops[error.kind].append(Crop(picture, error, crop))
    return made


# How it is drawn


def beside(
    image: np.ndarray,
    picture: Picture,
    *,
    side: int,
    classes: Sequence[str] | None = None,
    error: Error | None = None,
) -> str:
    """A picture's truth beside what was found, each with a longer side in pixels: a data URI.

    An instance has the same colour in both. With ``classes`` they have names; of an ``error`` its
    surroundings are shown, and the other instances are grey and without names.
    """
    truth, found = picture.truth, picture.found
    window = (0, 0, image.shape[1], image.shape[0])
    if error is not None:
        window = around(boxes_in(picture, error), window)
    colors, own = colors_of(picture)
    left = Look(colors, labels_of(truth, classes)).of(error and error.truths)
    right = Look(own, labels_of(found, classes, picture.scores)).of(error and error.found)
    halves = [
        draw(image, instances, window, side, look)
        for instances, look in ((truth, left), (found, right))
    ]
    gap = np.full((halves[0].shape[0], 4, 3), 128, np.uint8)
    return data_uri(np.hstack([halves[0], gap, halves[1]]))


def colors_of(picture: Picture) -> tuple[list[Color], list[Color]]:
    """The colours of the truth, and of what was found: its match's, or one of its own."""
    colors = [instance_color(index) for index in range(len(picture.truth.masks))]
    others = [instance_color(len(colors) + index) for index in range(len(picture.match))]
    pairs = zip(picture.match.tolist(), others, strict=True)
    return colors, [colors[match] if match >= 0 else other for match, other in pairs]


def labels_of(
    instances: Instances, classes: Sequence[str] | None, scores: np.ndarray | None = None
) -> list[str]:
    """What stands at instances: class, and score if there is one."""
    if classes is None:
        return [''] * len(instances.masks)
    names = [classes[label] for label in instances.labels]
    if scores is None:
        return names
    return [f'{name} {score:.2f}' for name, score in zip(names, scores, strict=True)]


def boxes_in(picture: Picture, error: Error) -> np.ndarray:
    """Boxes (n, 4) xywh of the instances in an error."""
    masks = [picture.truth.masks[one] for one in error.truths]
    return coco_mask.toBbox(masks + [picture.found.masks[one] for one in error.found])


def around(boxes: np.ndarray, whole: Window) -> Window:
    """A window xyxy around boxes (n, 4) xywh with a margin, within another.

    >>> around(np.array([[40, 40, 20, 10]]), (0, 0, 100, 45))
    (24, 24, 76, 45)
    """
    x1, y1 = boxes[:, :2].min(0)
    x2, y2 = (boxes[:, :2] + boxes[:, 2:]).max(0)
    margin = max(MARGIN * max(x2 - x1, y2 - y1), 16)
    left, top, right, bottom = whole
    return (
        int(max(x1 - margin, left)),
        int(max(y1 - margin, top)),
        int(min(x2 + margin, right)),
        int(min(y2 + margin, bottom)),
    )


def draw(
    image: np.ndarray, instances: Instances, window: Window, side: int, look: Look
) -> np.ndarray:
    """The part of an image (H, W, 3) in a window, ``side`` pixels long, with its instances."""
    x1, y1, x2, y2 = window
    scale = side / max(x2 - x1, y2 - y1)
    size = (max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    part = cv2.resize(image[y1:y2, x1:x2], size, interpolation=method)
    masks, boxes = [], []
    for mask in instances.masks:
        bits = np.ascontiguousarray(coco_mask.decode(mask)[y1:y2, x1:x2])
        masks.append(cv2.resize(bits, size, interpolation=cv2.INTER_NEAREST).astype(bool))
        x, y, width, height = cv2.boundingRect(masks[-1].view(np.uint8))
        boxes.append((x, y, x + width, y + height))
    visible = [index for index, mask in enumerate(masks) if mask.any()]
    looks = {name: [each[index] for index in visible] for name, each in look._asdict().items()}
    return draw_instances(
        part, masks=[masks[one] for one in visible], boxes=[boxes[one] for one in visible], **looks
    )


def data_uri(image: np.ndarray) -> str:
    """An image (H, W, 3) uint8 BGR as a JPEG in a page's text."""
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return f'data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}'
