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

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from torch import nn

from mmsolov2.apis import load_config
from mmsolov2.cli.arguments import tool_parser
from mmsolov2.cli.config import add_cfg_options, base_dataset_configs, dataset_of, require_images
from mmsolov2.cli.errors import error_context, exit_with_message
from mmsolov2.engine.hooks import check_classes
from mmsolov2.errors import InputError
from mmsolov2.fileio import require_folder
from mmsolov2.models.data_samples import check_ground_truth
from mmsolov2.registry import DATASETS, MODELS
from mmsolov2.structures.masks import padded_masks, tight_boxes
from mmsolov2.visualization.targets import Level, Targets, draw_targets


def build_dataset(config: Config, split: str):
    """The dataset of a split, with the pipeline of the training set: the test's has no masks."""
    dataset = copy.deepcopy(dataset_of(config, split))
    if split != 'train':
        for part in base_dataset_configs(dataset):
            part.pipeline = next(base_dataset_configs(dataset_of(config, 'train'))).pipeline
    return DATASETS.build(dataset)


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
    sizes = np.round(targets.boxes[:, 2:] - targets.boxes[:, :2]).astype(int)
    lost = [f'{targets.classes[i]} {sizes[i][0]}x{sizes[i][1]}' for i in targets.unassigned]
    return (
        f'{targets.name}: instances: {len(targets.masks)}, positive cells by level: {counts}, '
        f'claimed by several: {shared}, without a cell: {", ".join(lost) or "none"}'
    )


def browse(config: Config, args: argparse.Namespace) -> None:
    """Write the pictures of a split's first images, and print a line for each."""
    require_images(config, 'browse_targets.py', args.split)
    init_default_scope(config.get('default_scope', 'mmdet'))
    set_random_seed(0)  # the same augmentations every time
    colors = dict(mean=None, std=None, bgr_to_rgb=False, rgb_to_bgr=False)  # as they are
    with error_context(config.filename):
        dataset = build_dataset(config, args.split)
        padding = MODELS.build({**config.model.data_preprocessor, **colors})
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
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='config file, or the name of one that mmsolov2 ships')
    text = '%s (default: %%(default)s)'
    parser.add_argument('--out-dir', type=Path, default='targets', help=text % 'folder')
    splits = ('train', 'val')
    parser.add_argument('--split', choices=splits, default='train', help=text % 'dataset')
    parser.add_argument('--num', type=int, default=8, help=text % 'images')
    add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with exit_with_message(args.config):
        browse(load_config(args.config, args.cfg_options), args)
    return 0


if __name__ == '__main__':
    sys.exit(main())
