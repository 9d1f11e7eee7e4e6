"""Pictures of training targets: the grid cells that the instances of an image are assigned to."""

from typing import NamedTuple

import cv2
import numpy as np

from mmsolov2.visualization.overlay import draw_labels, instance_color, outline, tint

PANEL = 640  # pixels of the longer side of a level's picture
GREY = (150, 150, 150)
WHITE = (255, 255, 255)


class Level(NamedTuple):
    """The positives of a level: pairs of cell and instance."""

    grid: int  # cells along a side
    bounds: tuple[float, float]  # sizes of the instances that belong here, in pixels
    cell: np.ndarray  # (p,) int64, row · grid + column
    instance: np.ndarray  # (p,) int64

    @property
    def shared(self) -> np.ndarray:
        """Cells (k,) that several instances claim."""
        cells, claims = np.unique(self.cell, return_counts=True)
        return cells[claims > 1]


class Targets(NamedTuple):
    """An image as the network gets it, and the targets of its n instances."""

    name: str
    image: np.ndarray  # (H, W, 3) uint8 BGR, padded
    masks: np.ndarray  # (n, H, W) bool
    boxes: np.ndarray  # (n, 4) xyxy
    classes: list[str]  # n names
    levels: list[Level]

    @property
    def unassigned(self) -> list[int]:
        """The instances without any cell."""
        assigned = np.concatenate([level.instance for level in self.levels])
        return sorted(set(range(len(self.masks))) - set(assigned.tolist()))


def draw_targets(targets: Targets) -> np.ndarray:
    """The levels side by side: (h, w, 3) uint8 BGR."""
    panels = []
    for index, level in enumerate(targets.levels):
        picture = draw_level(targets, level)
        low, high = level.bounds
        text = f'level {index}: {level.grid}x{level.grid} cells, sizes {low:g} to {high:g}, '
        text += f'{len(np.unique(level.cell))} positive'
        width = picture.shape[1]
        title = np.full((28, width, 3), 255, np.uint8)
        title = draw_labels(title, [(text, (0, 4, width, 28), WHITE)], size=14)
        panel = np.vstack([title, picture])
        panels.append(cv2.copyMakeBorder(panel, 0, 0, 4, 4, cv2.BORDER_CONSTANT, value=WHITE))
    return np.hstack(panels)


def draw_level(targets: Targets, level: Level) -> np.ndarray:
    """The image, ``PANEL`` pixels along its longer side, with the grid and cells of a level."""
    height, width = targets.image.shape[:2]
    scale = PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = cv2.resize(targets.image, size, interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    picture = cv2.addWeighted(picture, 0.35, grey, 0.4, 20)  # muted: colour is for instances
    x, y = (np.linspace(0, side, level.grid + 1).round().astype(int) for side in size)
    lines = np.zeros(picture.shape[:2], bool)
    lines[:, x[1:-1]] = lines[y[1:-1]] = True
    tint(picture, lines, WHITE, 0.25)
    draw_cells(picture, level, x, y)
    draw_contours(picture, targets, level)
    draw_frames(picture, level, x, y)
    return draw_labels(picture, cell_labels(targets, level, x, y), size=12)


def draw_cells(picture: np.ndarray, level: Level, x: np.ndarray, y: np.ndarray) -> None:
    """Tint the positive cells, whose borders are x and y, in the colours of their instances."""
    owner = dict(zip(level.cell.tolist(), level.instance.tolist(), strict=True))  # the last one
    for cell, instance in owner.items():
        row, column = divmod(cell, level.grid)
        window = picture[y[row] : y[row + 1], x[column] : x[column + 1]]
        tint(window, np.ones(window.shape[:2], bool), instance_color(instance), 0.6)


def draw_frames(picture: np.ndarray, level: Level, x: np.ndarray, y: np.ndarray) -> None:
    """Frame the cells that several instances claim."""
    for cell in level.shared.tolist():
        row, column = divmod(cell, level.grid)
        first = (int(x[column]), int(y[row]))
        last = (int(x[column + 1]) - 1, int(y[row + 1]) - 1)
        cv2.rectangle(picture, first, last, WHITE, 2)


def draw_contours(picture: np.ndarray, targets: Targets, level: Level) -> None:
    """Draw the contours of all instances, those on the level last and in their colours."""
    here = set(level.instance.tolist())
    for index in sorted(range(len(targets.masks)), key=here.__contains__):
        mask = cv2.resize(targets.masks[index].astype(np.uint8), picture.shape[1::-1])
        color = instance_color(index) if index in here else GREY
        outline(picture, mask, color, 2 if index in here else 1)


def cell_labels(targets: Targets, level: Level, x: np.ndarray, y: np.ndarray) -> list[tuple]:
    """Labels of the instances on a level, each at the box around its cells."""
    labels = []
    for index in np.unique(level.instance):
        rows, columns = np.divmod(level.cell[level.instance == index], level.grid)
        box = (x[columns.min()], y[rows.min()], x[columns.max() + 1], y[rows.max() + 1])
        labels.append((targets.classes[index], box, instance_color(int(index))))
    return labels
