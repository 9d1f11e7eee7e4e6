"""Draw the training targets: which grid cells of which level each instance is assigned to.

    python tools/browse_targets.py CONFIG --out-dir targets

takes the first images of the training set after its augmentations, padded as for the network, and
writes one picture an image: the pyramid levels side by side, with their grids, and the positive
cells in the colour of their instance. A white frame marks a cell that several instances claim: it
has the label of the instance in whose colour it is, and learns the masks of all of them. Contours
are coloured on the levels that an instance is assigned to, and grey elsewhere.
"""

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from torch import nn

from mmsolov2.apis import load_config
from mmsolov2.cli.config import add_cfg_options, base_dataset_configs, dataset_of, error_context
from mmsolov2.engine.hooks import check_classes
from mmsolov2.errors import InputError, exit_with_message
from mmsolov2.fileio import require_folder
from mmsolov2.models.data_samples import check_ground_truth
from mmsolov2.registry import DATASETS, MODELS
from mmsolov2.structures.masks import padded_masks, tight_boxes
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


# Targets


def build_dataset(config: Config, split: str):
    """The dataset of a split, with the pipeline of the training set: the test's has no masks."""
    dataset = copy.deepcopy(dataset_of(config, split))
    if split != 'train':
        for part in base_dataset_configs(dataset):
            part.pipeline = next(base_dataset_configs(dataset_of(config, 'train'))).pipeline
    return DATASETS.build(dataset)


def build_padding(config: Config) -> nn.Module:
    """The data preprocessor of a config, which pads but leaves colours as they are."""
    colors = dict(mean=None, std=None, bgr_to_rgb=False, rgb_to_bgr=False)
    return MODELS.build({**config.model.data_preprocessor, **colors})


def build_head(config: Config) -> nn.Module:
    """The head of a config, whose targets are those of training.

    Raises:
        InputError: if it has no assigner.
    """
    head = config.model.mask_head
    if 'assigner' not in head:
        raise InputError(f'the head is a {head.type}: only SOLOv2Head has an assigner to show')
    return MODELS.build(head)


def assign(sample: dict, padding: nn.Module, head: nn.Module, classes: Sequence[str]) -> Targets:
    """The targets of a dataset's sample."""
    data = padding(pseudo_collate([sample]), training=True)
    image, ground_truth = data['inputs'][0], data['data_samples'][0].gt_instances
    check_ground_truth(data['data_samples'], data['inputs'], padding.pad_size_divisor)
    masks = padded_masks(ground_truth.masks, image.shape[-2:], image.device)
    boxes = ground_truth.get('bboxes')
    (targets,) = head.targets([ground_truth], image.shape[-2:])
    return Targets(
        name=Path(data['data_samples'][0].img_path).name,
        image=np.ascontiguousarray(image.permute(1, 2, 0).byte().numpy()),
        masks=masks.numpy(),
        boxes=(tight_boxes(masks) if boxes is None else boxes).numpy(),
        classes=[classes[label] for label in ground_truth.labels],
        levels=split_levels(
            targets.cell.numpy(),
            targets.instance.numpy(),
            head.num_grids,
            head.assigner.scale_ranges,
        ),
    )


def split_levels(
    cell: np.ndarray,
    instance: np.ndarray,
    num_grids: Sequence[int],
    scale_ranges: Sequence[tuple[float, float]],
) -> list[Level]:
    """The levels of pairs of flat cell (p,) and instance (p,)."""
    levels, first = [], 0
    for grid, bounds in zip(num_grids, scale_ranges, strict=True):
        here = (cell >= first) & (cell < first + grid * grid)
        levels.append(Level(grid, bounds, cell[here] - first, instance[here]))
        first += grid * grid
    return levels


def describe(targets: Targets) -> str:
    """One line: instances, positives of each level, shared cells, instances without a cell."""
    counts = ' '.join(str(len(np.unique(level.cell))) for level in targets.levels)
    shared = sum(len(level.shared) for level in targets.levels)
    lost = [f'{targets.classes[i]} {_size(targets.boxes[i])}' for i in targets.unassigned]
    return (
        f'{targets.name}: instances: {len(targets.masks)}, positive cells by level: {counts}, '
        f'claimed by several: {shared}, without a cell: {", ".join(lost) or "none"}'
    )


def _size(box: np.ndarray) -> str:
    """Width and height of an xyxy box, in pixels."""
    return f'{box[2] - box[0]:.0f}x{box[3] - box[1]:.0f}'


# Pictures


def draw_targets(targets: Targets) -> np.ndarray:
    """The levels side by side: (h, w, 3) uint8 BGR."""
    panels = []
    for index, level in enumerate(targets.levels):
        picture = draw_level(targets, level)
        panel = np.vstack([title(index, level, picture.shape[1]), picture])
        panels.append(cv2.copyMakeBorder(panel, 0, 0, 4, 4, cv2.BORDER_CONSTANT, value=WHITE))
    return np.hstack(panels)


def title(index: int, level: Level, width: int) -> np.ndarray:
    """A white strip (h, width, 3) uint8 that says what a level is."""
    low, high = level.bounds
    text = (
        f'level {index}: {level.grid}x{level.grid} cells, sizes {low:g} to {high:g}, '
        f'{len(np.unique(level.cell))} positive'
    )
    strip = np.full((28, width, 3), 255, np.uint8)
    return draw_labels(strip, [(text, (0, 4, width, 28), WHITE)], size=14)


def draw_level(targets: Targets, level: Level) -> np.ndarray:
    """The image, ``PANEL`` pixels along its longer side, with the grid and cells of a level."""
    height, width = targets.image.shape[:2]
    scale = PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = cv2.resize(targets.image, size, interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    picture = cv2.addWeighted(picture, 0.35, grey, 0.4, 20)  # muted: colour is for instances
    x = np.linspace(0, size[0], level.grid + 1).round().astype(int)
    y = np.linspace(0, size[1], level.grid + 1).round().astype(int)
    draw_grid(picture, x, y)
    draw_cells(picture, level, x, y)
    draw_contours(picture, targets, level)
    draw_frames(picture, level, x, y)
    return draw_labels(picture, cell_labels(targets, level, x, y), size=12)


def draw_grid(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Draw faint lines at columns x and rows y of a picture (h, w, 3) uint8."""
    lines = np.zeros(picture.shape[:2], bool)
    lines[:, x[1:-1]] = True
    lines[y[1:-1]] = True
    tint(picture, lines, WHITE, 0.25)


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


# Command line


def browse(config: Config, args: argparse.Namespace) -> None:
    """Write the pictures of a split's first images, and print a line for each."""
    init_default_scope(config.get('default_scope', 'mmdet'))
    set_random_seed(0)  # the same augmentations every time
    with error_context(config.filename):
        dataset, padding = build_dataset(config, args.split), build_padding(config)
        head = build_head(config)
    check_classes(config.filename, head.num_classes, dataset)
    require_folder(args.out_dir)
    instances, lost = 0, 0
    for index in range(min(args.num, len(dataset))):
        with error_context(config.filename):
            targets = assign(dataset[index], padding, head, dataset.metainfo['classes'])
        path = args.out_dir / f'{index:03d}_{Path(targets.name).stem}.png'
        if not cv2.imwrite(str(path), draw_targets(targets)):
            raise InputError(f'{path}: it cannot be written; give another --out-dir')
        print(describe(targets))
        instances, lost = instances + len(targets.masks), lost + len(targets.unassigned)
    print(f'{instances} instances, {lost} without a cell: {args.out_dir}')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition('\n')[0],
        epilog=__doc__.partition('\n\n')[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file, or the name of one that mmsolov2 ships')
    parser.add_argument(
        '--out-dir', type=Path, default=Path('targets'), help='folder (default: %(default)s)'
    )
    parser.add_argument(
        '--split', choices=('train', 'val'), default='train', help='dataset (default: %(default)s)'
    )
    parser.add_argument('--num', type=int, default=8, help='images (default: %(default)s)')
    add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with exit_with_message(args.config):
        browse(load_config(args.config, args.cfg_options), args)
    return 0


if __name__ == '__main__':
    sys.exit(main())
