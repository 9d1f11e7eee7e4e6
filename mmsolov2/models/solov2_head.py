"""The SOLOv2 head: category and kernel branches, their loss, and the way to results."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from mmcv.cnn import ConvModule
from mmdet.models.losses import QualityFocalLoss, VarifocalLoss
from mmdet.utils import reduce_mean
from mmengine.dist import get_world_size
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmsolov2.models.coordinates import append_coordinates, coordinates
from mmsolov2.models.decode.candidates import Candidates, find_candidates
from mmsolov2.models.decode.points_nms import points_nms
from mmsolov2.models.decode.results import to_results
from mmsolov2.models.decode.settings import build_nms, checked_test_cfg
from mmsolov2.models.dynamic_conv import (
    AveragedKernels,
    CellKernels,
    Kernels,
    with_balanced_taps,
)
from mmsolov2.models.position_terms import cell_positions, num_terms, quadratic_forms
from mmsolov2.models.pyramid import resize, to_head_strides
from mmsolov2.models.targets.dice_loss import MaskTargets, checkpoint_chunks, dice_losses, is_dice
from mmsolov2.models.targets.grid_assigner import ImageTargets, positives
from mmsolov2.models.views import MaskFeatures, Outputs, View
from mmsolov2.registry import MODELS, TASK_UTILS
from mmsolov2.structures.masks import MASK_STRIDE, padded_masks, quarter_masks

GROUP_NORM = dict(type='GN', num_groups=32)
CATEGORY_PRIOR = dict(name='conv_cls', type='Normal', std=0.01, bias_prob=0.01)
NORMAL_INIT = dict(type='Normal', layer='Conv2d', std=0.01, override=CATEGORY_PRIOR)
QUALITY_LOSSES = (QualityFocalLoss, VarifocalLoss)


def flatten_cells(levels: Sequence[Tensor]) -> Tensor:
    """Put all cells of levels (B, C, S, S) on one axis, level by level: (B, cells, C)."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)


def input_size(mask_features: MaskFeatures) -> list[int]:
    """Height and width of the padded network input that mask features belong to."""
    first = mask_features if isinstance(mask_features, Tensor) else mask_features[0]
    return [MASK_STRIDE * side for side in first.shape[-2:]]


def covered_size(size: Sequence[int]) -> list[int]:
    """Height and width that the mask features of images of a size cover: it, rounded up."""
    return [-(-side // MASK_STRIDE) * MASK_STRIDE for side in size]


def of_type(mask_features: MaskFeatures, dtype: torch.dtype) -> MaskFeatures:
    """Mask features in another type. CUDA's autocast normalises in float32, not in the kernels'."""
    if isinstance(mask_features, Tensor):
        return mask_features.to(dtype)
    return [level.to(dtype) for level in mask_features]


def per_image(mask_features: MaskFeatures) -> Iterable[MaskFeatures]:
    """The mask features of each image: (E, h, w), or such for each level."""
    if isinstance(mask_features, Tensor):
        return mask_features
    return list(zip(*mask_features, strict=True))


def tower(
    in_channels: int, channels: int, conv_cfgs: Sequence[dict | None], norm_cfg: dict | None
) -> nn.ModuleList:
    """A 3x3 convolution to ``channels`` for each of the configs."""
    before = [in_channels] + [channels] * (len(conv_cfgs) - 1)
    return nn.ModuleList(
        ConvModule(first, channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        for first, conv_cfg in zip(before, conv_cfgs, strict=True)
    )


def check_levels(strides: Sequence[int], num_grids: Sequence[int], ranges: Sequence) -> None:
    """Raise ValueError unless strides, grids and scale ranges are of the same levels."""
    if not len(strides) == len(num_grids) == len(ranges) >= 3:
        raise ValueError(
            'SOLOv2Head: strides, num_grids and assigner.scale_ranges need one entry for each '
            f'of at least 3 pyramid levels, but have {len(strides)}, {len(num_grids)} and '
            f'{len(ranges)}: {strides}, {num_grids}, {ranges}'
        )
    if min(*strides, *num_grids) < 1:
        raise ValueError(
            f'SOLOv2Head: strides and num_grids must be at least 1, not {strides} and {num_grids}'
        )
    if strides[0] != strides[1] or strides[-1] != strides[-2]:
        raise ValueError(
            'SOLOv2Head: the first level is halved and the last brought to the size of the one '
            f"before, so that each has its neighbour's stride, not {strides}"
        )


def check_convs(stacked_convs: int, kernel_size: int) -> None:
    """Raise ValueError unless there are convolutions, and kernels have a centre."""
    if stacked_convs < 1:
        raise ValueError(f'SOLOv2Head: stacked_convs must be at least 1, not {stacked_convs}')
    if kernel_size not in range(1, 100, 2):
        raise ValueError(
            f'SOLOv2Head: kernel_size must be odd, 1 as published or 3, not {kernel_size!r}'
        )


def check_losses(loss_cls: nn.Module, loss_mask: nn.Module) -> None:
    """Raise ValueError if categories shall learn a quality that the mask loss does not tell."""
    if isinstance(loss_cls, QUALITY_LOSSES) and not (is_dice(loss_mask) and loss_mask.loss_weight):
        kind = type(loss_mask).__name__ + (' of weight 0' if is_dice(loss_mask) else '')
        raise ValueError(
            f'SOLOv2Head: loss_cls={type(loss_cls).__name__} learns the Dice coefficient of the '
            f'masks, which loss_mask={kind} does not tell: set '
            "loss_mask=dict(type='DiceLoss', use_sigmoid=True, activate=True, loss_weight=3.0)"
        )


@MODELS.register_module()
class SOLOv2Head(BaseModule):
    """Category logits (B, C, S, S) and kernels (B, D, S, S) for every pyramid level.

    SOLOv2, section 3.1: each level is resized to a grid of S x S cells; two towers of 3x3
    convolutions predict categories and mask kernels, the kernel tower with coordinates in its
    first convolution and without an activation at its end. The loss is focal + 3 · Dice
    (equation 2). Parameter names are those of the published weights.

    Args:
        num_classes: number of categories C; there is no background channel.
        in_channels: channels of every pyramid level.
        mask_channels: channels E of the mask features: no setting, ``SOLOv2`` gives it.
        feat_channels: channels of the towers.
        stacked_convs: convolutions in each tower.
        strides: stride of each level; a mask needs more pixels of the mask features than that.
        num_grids: cells S along a side, for each level.
        kernel_size: side k of the dynamic kernels, D = E·k² (table 3a). For k > 1, predicted taps
            beside the centre are divided by k² (``with_balanced_taps``).
        use_coords: append x and y to the kernel branch's input (table 3b).
        position_terms: None, 'bias', 'linear' or 'quadratic': kernels have P = 0, 1, 3 or 6 numbers
            more, which say where the mask is (``position_terms``).
        assigner: config of the assigner of instances to cells.
        loss_cls: config of the category loss. With ``QualityFocalLoss`` (GFL, Li et al., NeurIPS
            2020) or ``VarifocalLoss`` (VarifocalNet, Zhang et al., CVPR 2021) a cell learns the
            Dice coefficient of its mask in place of 1.
        loss_mask: config of the mask loss.
        sync_avg_factor: divide the losses by the positive cells of all processes, not by each
            process's own: gradients averaged over processes are those of one joint batch.
        conv_cfg: config of the towers' convolutions, as dict(type='DCNv2').
        last_conv_cfg: config of the last one of each tower, if it is another.
        test_cfg: prediction's settings over ``TEST_DEFAULTS``. ``score_thr``, ``filter_thr`` and
            ``mask_thr`` are thresholds before and after the NMS and of mask pixels; ``nms_pre``
            and ``max_per_img`` limit the instances before and after it; ``nms`` is the config of
            a mask NMS, ``mask_format`` 'bitmap' or 'rle'. ``min_mask_pixels`` is the smallest
            mask that is kept, in pixels of the mask features; None asks for more than the level's
            stride, as published. ``min_part`` removes the parts of a mask that are smaller than a
            share of its largest one, as 0.1; 1.0 keeps the largest alone, None keeps all.

    Raises:
        ValueError: if the levels disagree, the kernel size is even, position terms or a setting of
            testing are unknown, or the category loss needs another mask loss.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 256,
        mask_channels: int = 256,
        feat_channels: int = 512,
        stacked_convs: int = 4,
        strides: Sequence[int] = (8, 8, 16, 32, 32),
        num_grids: Sequence[int] = (40, 36, 24, 16, 12),
        kernel_size: int = 1,
        use_coords: bool = True,
        position_terms: str | None = None,
        assigner: dict,
        loss_cls: dict,
        loss_mask: dict,
        sync_avg_factor: bool = False,
        conv_cfg: dict | None = None,
        last_conv_cfg: dict | None = None,
        norm_cfg: dict | None = GROUP_NORM,
        test_cfg: dict | None = None,
        init_cfg: dict | list | None = NORMAL_INIT,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.mask_channels = mask_channels
        self.strides = tuple(strides)
        self.num_grids = tuple(num_grids)
        self.kernel_size = kernel_size
        self.use_coords = use_coords
        self.num_terms = num_terms(position_terms)
        self.assigner = TASK_UTILS.build(assigner)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_mask = MODELS.build(loss_mask)
        self.sync_avg_factor = sync_avg_factor
        self.test_cfg = checked_test_cfg(test_cfg)
        self.nms = build_nms(self.test_cfg['nms'])
        check_levels(self.strides, self.num_grids, self.assigner.scale_ranges)
        check_convs(stacked_convs, kernel_size)
        check_losses(self.loss_cls, self.loss_mask)

        layers = [conv_cfg] * (stacked_convs - 1) + [last_conv_cfg or conv_cfg]
        self.cls_convs = tower(in_channels, feat_channels, layers, norm_cfg)
        self.kernel_convs = tower(in_channels + 2 * use_coords, feat_channels, layers, norm_cfg)
        self.conv_cls = nn.Conv2d(feat_channels, num_classes, 3, padding=1)
        numbers = mask_channels * kernel_size**2 + self.num_terms
        self.conv_kernel = nn.Conv2d(feat_channels, numbers, 3, padding=1)
        self._register_cells()

    def _register_cells(self) -> None:
        """Level, stride and position of every cell, where the parameters are."""
        cells = [torch.full((grid**2,), level) for level, grid in enumerate(self.num_grids)]
        cell_levels = torch.cat(cells)
        self.register_buffer('cell_levels', cell_levels, persistent=False)
        cell_strides = torch.tensor(self.strides)[cell_levels]
        self.register_buffer('cell_strides', cell_strides, persistent=False)
        self.register_buffer('cell_positions', cell_positions(self.num_grids), persistent=False)

    # Layers

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Category logits (B, C, S, S) and kernels (B, D + P, S, S) of levels (B, C', h, w).

        One entry a pyramid level in each. The last P numbers of a kernel are its position terms.
        """
        if len(features) != len(self.num_grids):
            raise ValueError(
                f'SOLOv2Head: the neck gives {len(features)} levels, but num_grids has '
                f'{len(self.num_grids)}: set neck.num_outs={len(self.num_grids)}'
            )
        levels = zip(to_head_strides(features), self.num_grids, strict=True)
        logits, kernels = zip(*(self._forward_level(x, grid) for x, grid in levels), strict=True)
        return list(logits), list(kernels)

    def _forward_level(self, features: Tensor, grid: int) -> tuple[Tensor, Tensor]:
        """Logits (B, C, grid, grid) and kernels (B, D + P, grid, grid) of level (B, C', h, w)."""
        category = kernel = resize(features, (grid, grid))
        if self.use_coords:  # resized by themselves: in their own precision, and without a copy
            kernel = append_coordinates(category, resize(coordinates(features), (grid, grid)))
        for cls_conv, kernel_conv in zip(self.cls_convs, self.kernel_convs, strict=True):
            category, kernel = cls_conv(category), kernel_conv(kernel)
        kernel = with_balanced_taps(self.conv_kernel(kernel), self.kernel_size, self.num_terms)
        return self.conv_cls(category), kernel

    def _cells(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Kernels (B, cells, D) and position terms (B, cells, P) of levels (B, D + P, S, S)."""
        numbers = flatten_cells(levels)
        kernels, terms = numbers.tensor_split([numbers.shape[-1] - self.num_terms], dim=-1)
        return kernels, terms

    # Training

    def loss_by_feat(
        self,
        category_logits: Sequence[Tensor],
        kernels: Sequence[Tensor],
        mask_features: MaskFeatures,
        instances: list[InstanceData],
    ) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_mask`` of the outputs of ``forward`` (equation 2).

        ``loss_cls`` is over the number of positive cells + 1; ``loss_mask`` adds up all pairs of
        cell and instance, over the number of positive cells, as in mmdet.
        """
        targets = self.targets(instances, input_size(mask_features))
        num_positive = torch.stack([image.num_positive for image in targets]).sum()
        one = 1.0
        if self.sync_avg_factor:  # a process's share of the sum over all, and of one cell
            num_positive, one = reduce_mean(num_positive.float()), 1 / get_world_size()
        losses = self._mask_losses(mask_features, *self._cells(kernels), targets)
        loss_cls = self.loss_cls(
            flatten_cells(category_logits).flatten(0, 1),
            self._category_targets(targets, losses),
            avg_factor=num_positive + one,
        )
        return dict(loss_cls=loss_cls, loss_mask=losses.sum() / num_positive.clamp(min=one))

    def _category_targets(self, targets: Sequence[ImageTargets], losses: Tensor) -> Tensor:
        """Labels (B · cells,), or where they shall be qualities (B · cells, C), these.

        The quality of a cell is the Dice coefficient of its mask with the instance that gives the
        label, the last one of several: of Dice losses (p,) of positives.
        """
        labels = torch.cat([image.labels for image in targets])
        if not isinstance(self.loss_cls, QUALITY_LOSSES):
            return labels
        cell = torch.cat([i * len(self.cell_levels) + one.cell for i, one in enumerate(targets)])
        instance = torch.cat([image.instance for image in targets])
        owner = torch.full_like(labels, -1).scatter_reduce(0, cell, instance, 'amax')
        dice = 1 - losses.detach() / self.loss_mask.loss_weight
        dice = dice.where(instance == owner[cell], 0)
        quality = dice.new_zeros(len(labels)).scatter_reduce(0, cell, dice, 'amax')
        classes = torch.arange(self.num_classes, device=labels.device)
        return (labels[:, None] == classes) * quality[:, None]

    def targets(self, instances: Sequence[InstanceData], size: Sequence[int]) -> list[ImageTargets]:
        """What each image trains, of its instances and the size (H, W) of the padded network input.

        Grids and masks span what the mask features cover, a pixel or a few more.

        Raises:
            InputError: if masks are larger than that, or an instance has a label of no class.
        """
        size = covered_size(size)
        assign = partial(self.assigner, num_grids=self.num_grids, background=self.num_classes)
        assigned, masks = [], []
        for gt in instances:
            whole = padded_masks(gt.masks, size, gt.labels.device)
            assigned.append(assign(whole, gt.labels, gt.get('bboxes')))
            masks.append(quarter_masks(whole))
        images = zip(assigned, positives(assigned), masks, strict=True)
        return [
            ImageTargets(image.labels, image.num_positive, cell, instance, small)
            for image, (cell, instance), small in images
        ]

    def _mask_losses(
        self,
        features: MaskFeatures,
        kernels: Tensor,
        terms: Tensor,
        targets: Sequence[ImageTargets],
    ) -> Tensor:
        """Mask losses (p,) of the positives of all images, of kernels and terms (B, cells, ·)."""
        if isinstance(features, Tensor) and self.kernel_size == 1 and is_dice(self.loss_mask):
            kernels, terms = (
                torch.cat([of[image.cell] for of, image in zip(each, targets, strict=True)])
                for each in (kernels, terms)
            )
            form = None
            if self.num_terms:
                positions = self.cell_positions[torch.cat([image.cell for image in targets])]
                form = quadratic_forms(terms, positions, features.shape[2:])
            masks = [MaskTargets(image.masks, image.instance) for image in targets]
            return dice_losses(features, kernels, form, masks, self.loss_mask)
        images = zip(per_image(features), kernels, terms, targets, strict=True)
        return torch.cat([self._image_mask_losses(*image) for image in images])

    def _cell_kernels(self, features: MaskFeatures, kernels: Tensor, terms: Tensor) -> CellKernels:
        """What makes an image's masks, of kernels (cells, D) and position terms (cells, P)."""
        cells = self.cell_positions, self.cell_levels
        return CellKernels(features, kernels, terms, *cells, self.kernel_size)

    def _image_mask_losses(
        self, features: MaskFeatures, kernels: Tensor, terms: Tensor, targets: ImageTargets
    ) -> Tensor:
        """Mask losses (p,) of an image's p positives, by any loss and kernels of any size.

        Losses of single pixels, as cross entropy, are averaged over a mask.
        """
        cells = self._cell_kernels(features, kernels, terms)

        def losses(cell: Tensor, instance: Tensor) -> Tensor:
            logits, masks = cells[cell].logits(), targets.masks[instance]
            loss = self.loss_mask(logits, masks, reduction_override='none')
            return loss.flatten(1).mean(1) if loss.ndim > 1 else loss

        pixels = targets.masks.shape[1:].numel()
        return checkpoint_chunks(losses, pixels, targets.cell, targets.instance)

    # Prediction

    @torch.no_grad()
    def predict_by_feat(
        self,
        category_logits: Sequence[Tensor],
        kernels: Sequence[Tensor],
        mask_features: MaskFeatures,
        metas: list[dict],
        *,
        rescale: bool = True,
    ) -> list[InstanceData]:
        """Results of every image, of the outputs of ``forward`` (section 3.2, inference).

        Each has n instances, the highest score first: ``scores`` (n,), ``labels`` (n,),
        ``bboxes`` (n, 4) xyxy around the masks, ``masks`` (n, H, W) bool or n RLE dicts.
        """
        outputs = Outputs(category_logits, kernels, mask_features)
        return self.predict_views([View(outputs)], metas, rescale=rescale)

    @torch.no_grad()
    def predict_views(
        self, views: Sequence[View], metas: list[dict], *, rescale: bool = True
    ) -> list[InstanceData]:
        """``predict_by_feat`` of several views: categories and masks are means of all of them.

        Masks are of the size of the first view's.
        """
        levels = zip(*(view.categories() for view in views), strict=True)
        scores = flatten_cells([points_nms(torch.stack(each).mean(0)) for each in levels])
        images = zip(scores, self._kernels_of(views), metas, strict=True)
        return [self._predict_image(*image, rescale=rescale) for image in images]

    def _kernels_of(self, views: Sequence[View]) -> Iterator[Kernels]:
        """The kernels of each image in the views of it."""
        cells = []  # of each view, of each image
        for view in views:
            features = per_image(of_type(view.outputs.mask_features, view.outputs.kernels[0].dtype))
            images = zip(features, *self._cells(view.outputs.kernels), strict=True)
            found = [self._cell_kernels(*image) for image in images]
            cells.append([one[self._mirrored()] for one in found] if view.is_mirrored else found)
        is_mirrored = [view.is_mirrored for view in views]
        for image in zip(*cells, strict=True):
            as_they_are = is_mirrored == [False]
            averaged = AveragedKernels(image, is_mirrored, image[0].mask_size)
            yield image[0] if as_they_are else averaged

    def _mirrored(self) -> Tensor:
        """For each cell (cells,) the one that has its place when left and right are exchanged."""
        column, _, grid = self.cell_positions.T
        return torch.arange(len(column), device=column.device) + grid - 1 - 2 * column

    def _predict_image(
        self, scores: Tensor, kernels: Kernels, meta: dict, *, rescale: bool
    ) -> InstanceData:
        """Results of an image, of scores (cells, C) and the kernels of all cells."""
        least = self.test_cfg.min_mask_pixels
        candidates = find_candidates(
            scores,
            kernels,
            self.cell_strides + 1 if least is None else torch.full_like(self.cell_strides, least),
            self.test_cfg,
        )
        return to_results(self._rescore(candidates), meta, self.test_cfg, rescale=rescale)

    def _rescore(self, candidates: Candidates) -> Candidates:
        """The best candidates after mask NMS, the highest score first."""
        scores = self.nms(candidates.scores, candidates.labels, candidates.masks)
        kept = (candidates.scores > 0) & (scores >= self.test_cfg.filter_thr)
        order = scores.where(kept, -1).argsort(descending=True, stable=True)
        best = replace(candidates, scores=scores)[order[: kept.sum()][: self.test_cfg.max_per_img]]
        least = self.test_cfg.min_part
        return best if least is None else best.without_small_parts(least)
