"""Pictures of instances: tinted masks with contours, boxes and labels.

Everything scales with the image, colours are those of the instances, and text is drawn with
Pillow, which smooths small letters and knows more than ASCII.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from mmdet.structures import DetDataSample
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

FONT = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'
TINT = 0.4  # share of the instance's colour in its pixels
GOLDEN_ANGLE = 137.508  # degrees between the hues of neighbours: no two are alike

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]


@cache
def instance_color(index: int) -> Color:
    """A bright colour, BGR, far from those of the instances before."""
    hue = (205 + index * GOLDEN_ANGLE) % 360 / 2
    saturation, value = (215, 255) if index % 2 else (165, 255)
    pixel = np.array([[[hue, saturation, value]]], np.uint8)
    blue, green, red = cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def tint(image: np.ndarray, mask: np.ndarray, color: Color, share: float = TINT) -> None:
    """Mix a colour into the pixels of an image (H, W, 3) uint8 where a mask (H, W) bool is set."""
    mixed = image[mask] * (1 - share) + np.array(color) * share
    image[mask] = mixed.round().astype(np.uint8)


def outline(
    image: np.ndarray, mask: np.ndarray, color: Color, width: int, corner: tuple = (0, 0)
) -> None:
    """Draw the contours of a mask (h, w) bool, holes too, into an image (H, W, 3) uint8.

    ``corner`` (x, y) is where in the image the mask's first pixel is.
    """
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=corner
    )
    line = cv2.LINE_AA if width > 1 else cv2.LINE_8  # thin lines stay on the mask's own pixels
    cv2.drawContours(image, contours, -1, color, width, line)


def line_width(image: np.ndarray) -> int:
    """Pixels of a line that is seen, but does not hide much, in an image (H, W, 3)."""
    return max(1, round(np.sqrt(image.shape[0] * image.shape[1]) / 450))


def font_size(image: np.ndarray) -> int:
    """Pixels of letters that can be read in an image (H, W, 3)."""
    return max(10, round(0.5 * (image.shape[0] * image.shape[1]) ** 0.25))


def draw_labels(
    image: np.ndarray, labels: Sequence[tuple[str, Sequence[float], Color]], size: int
) -> np.ndarray:
    """Write labels (text, xyxy box, colour) at their boxes: the image (H, W, 3) uint8 with them.

    Each stands above its box, or where that is taken inside or below it; the first has first
    choice. A label without a free place, or larger than the image, is left out.
    """
    canvas = Image.fromarray(image[..., ::-1])
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.truetype(str(FONT), size)
    taken: list[Box] = []
    for text, box, color in labels:
        width, height = round(font.getlength(text)) + size // 2, round(1.35 * size)
        if width > canvas.width or height > canvas.height:
            continue
        spot = next(_free_spots(box, width, height, canvas.size, taken), None)
        if spot is None:
            continue
        taken.append(spot)
        draw.rounded_rectangle(spot, radius=size // 4, fill=color[::-1])
        middle = ((spot[0] + spot[2]) / 2, (spot[1] + spot[3]) / 2)
        draw.text(middle, text, fill=_ink(color), font=font, anchor='mm')
    return np.array(canvas)[..., ::-1]


def _free_spots(
    box: Sequence[float], width: int, height: int, image_size: Sequence[int], taken: list[Box]
) -> Iterator[Box]:
    """Places, xyxy, at an xyxy box for a label of a size, that overlap none of those taken."""
    x1, y1, x2, y2 = (round(side) for side in box)
    corners = [(x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x2 - width, y1)]
    corners += [(x1, y2), (x1, y2 - height), (x2 - width, y2 - height), (x1, (y1 + y2) // 2)]
    for left, top in corners:
        left = min(max(left, 0), image_size[0] - width)
        top = min(max(top, 0), image_size[1] - height)
        spot = (left, top, left + width - 1, top + height - 1)
        if not any(_overlap(spot, other) for other in taken):
            yield spot


def _overlap(a: Box, b: Box) -> bool:
    """Whether two xyxy boxes have a pixel in common."""
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _ink(color: Color) -> str:
    """The colour of letters on a BGR colour."""
    blue, green, red = color
    return '#101010' if 0.11 * blue + 0.59 * green + 0.3 * red > 110 else 'white'


def decoded(masks: torch.Tensor | Sequence[dict]) -> Iterator[np.ndarray]:
    """Masks (n, H, W) bool, or n RLE dicts, one (H, W) bool at a time."""
    for mask in masks:
        if isinstance(mask, torch.Tensor):
            yield mask.cpu().numpy().astype(bool)
        else:
            yield coco_mask.decode(mask).astype(bool)


def draw_overlay(image: np.ndarray, sample: DetDataSample, classes: Sequence[str]) -> np.ndarray:
    """The image (H, W, 3) uint8 BGR with the sample's ``pred_instances`` drawn, the best on top."""
    found = sample.pred_instances
    names = zip(found.labels.tolist(), found.scores.tolist(), strict=True)
    return draw_instances(
        image,
        masks=decoded(found.masks),
        boxes=found.bboxes.tolist(),
        colors=[instance_color(index) for index in range(len(found))],
        texts=[f'{classes[label]} {score:.2f}' for label, score in names],
    )


def draw_instances(
    image: np.ndarray,
    *,
    masks: Iterable[np.ndarray],
    boxes: Sequence[Sequence[float]],
    colors: Sequence[Color],
    texts: Sequence[str],
) -> np.ndarray:
    """The image (H, W, 3) uint8 BGR with n instances, the first on top.

    Masks are (H, W) bool, boxes xyxy. An instance without a text has no label.
    """
    picture, width = image.copy(), line_width(image)
    for mask, color, box in list(zip(masks, colors, boxes, strict=True))[::-1]:
        x1, y1, x2, y2 = (int(side) for side in box)
        mask = mask[y1:y2, x1:x2]
        tint(picture[y1:y2, x1:x2], mask, color)
        outline(picture, mask, color, width, (x1, y1))
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), color, max(1, width // 2))
    labels = [label for label in zip(texts, boxes, colors, strict=True) if label[0]]
    return draw_labels(picture, labels, font_size(image))
