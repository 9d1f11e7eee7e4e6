"""Instances to cells, against a loop over instances and cells, and against drawings."""

import cv2
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from mmsolov2.models.targets.grid_assigner import GridAssigner, positives
from mmsolov2.registry import TASK_UTILS
from mmsolov2.structures.masks import center_of_mass, pixel_counts, quarter_masks

F32 = np.float32

# The description of SOLO, one instance and one cell at a time


QUOTIENTS = dict(  # of float32 numbers; a GPU's torch takes the divisor's reciprocal
    cpu=lambda number, divisor: F32(number / F32(divisor)),
    cuda=lambda number, divisor: F32(number * F32(F32(1) / F32(divisor))),
)


def cell_of(point, side, grid, divide):
    """The cell along one axis that a float32 coordinate is in: truncated toward zero."""
    return int(np.trunc(divide(divide(point, side), 1 / grid)))


def span(center, extent, side, grid, center_scale, divide):
    """The cells along one axis of an instance's centre region."""
    reach = F32(F32(0.5) * extent) * F32(center_scale)
    middle = cell_of(center, side, grid, divide)
    first = max(cell_of(center - reach, side, grid, divide), 0, middle - 1)
    last = min(cell_of(center + reach, side, grid, divide), grid - 1, middle + 1)
    return range(first, last + 1)


def center_of(mask):
    ys, xs = np.nonzero(mask)
    return F32(ys.sum()) / F32(len(ys)), F32(xs.sum()) / F32(len(xs))


def assign_by_loops(masks, labels, boxes, assigner, grids, background, device='cpu'):
    """Labels of all cells, and the (cell, instance) pairs level by level."""
    height, width = masks.shape[1:]
    rule = assigner.center_scale, QUOTIENTS[device]
    all_labels, pairs, first = [], [], 0
    for (low, high), grid in zip(assigner.scale_ranges, grids, strict=True):
        level_labels = [background] * grid**2
        for i, mask in enumerate(masks):
            box_width, box_height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
            scale = np.sqrt(box_width * box_height)
            if not mask.any() or scale < low or scale > high:
                continue
            y, x = center_of(mask)
            for row in span(y, box_height, height, grid, *rule):
                for column in span(x, box_width, width, grid, *rule):
                    level_labels[row * grid + column] = int(labels[i])
                    pairs.append((first + row * grid + column, i))
        all_labels += level_labels
        first += grid**2
    return all_labels, pairs


# Random cases


def random_mask(rng, height, width):
    """A rectangle, an ellipse, a pixel or nothing, often across the border."""
    mask = np.zeros((height, width), np.uint8)
    kind = rng.integers(0, 8)
    x, y = rng.integers(-4, width + 4), rng.integers(-4, height + 4)
    w, h = rng.integers(1, width + 8), rng.integers(1, height + 8)
    if kind == 0:
        mask[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] = 1
    elif kind < 4:
        mask[max(y - h // 2, 0) : max(y + h // 2, 0), max(x - w // 2, 0) : max(x + w // 2, 0)] = 1
    elif kind < 7:
        axes = (int(w) // 3, int(h) // 3)
        cv2.ellipse(mask, (int(x), int(y)), axes, int(rng.integers(180)), 0, 360, 1, -1)
    return mask.astype(bool)


def box_around(mask):
    ys, xs = np.nonzero(mask)
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)


def random_case(rng):
    """Masks, labels and boxes (the masks' own or any others), an assigner and grids."""
    height, width = (4 * int(side) for side in rng.integers(2, 17, 2))
    n = int(rng.integers(0, 13))
    masks = [random_mask(rng, height, width) for _ in range(n)]
    boxes = np.array([box_around(mask) for mask in masks], F32).reshape(n, 4)
    if rng.random() < 0.5:
        corners = rng.uniform(0, [width, height], (n, 2))
        boxes = np.hstack([corners, corners + rng.uniform(0, [width, height], (n, 2))]).astype(F32)
    edge = int(rng.integers(4, 17))
    ranges = ((1, 2 * edge), (edge, 3 * edge), (rng.integers(0, edge + 1), 64))
    assigner = GridAssigner(center_scale=rng.choice([0.1, 0.2, 0.5, 1.0]), scale_ranges=ranges)
    grids = [int(grid) for grid in rng.integers(1, 14, 3)]
    masks = np.stack(masks) if n else np.zeros((0, height, width), bool)
    return masks, rng.integers(0, 7, n), boxes, assigner, grids


def assign(masks, labels, boxes, assigner, grids, background=7, device='cpu'):
    tensors = (torch.from_numpy(array).to(device) for array in (masks, labels, boxes))
    return assigner(*tensors, num_grids=grids, background=background)


@pytest.mark.parametrize('seed', range(20))
def test_equals_loops_over_instances_and_cells(seed, device):
    rng = np.random.default_rng(seed)
    seen = dict.fromkeys(['empty image', 'empty mask', 'shared', 'two levels', 'three levels'], 0)
    for _ in range(100):
        case = masks, *_, grids = random_case(rng)
        expected_labels, expected_pairs = assign_by_loops(*case, 7, device.type)
        targets = assign(*case, device=device)
        ((cell, instance),) = positives([targets])
        assert list(zip(cell.tolist(), instance.tolist(), strict=True)) == expected_pairs
        assert targets.labels.tolist() == expected_labels
        assert targets.num_positive == len({cell for cell, _ in expected_pairs})

        firsts = np.cumsum([0] + [grid**2 for grid in grids])
        levels = {(np.searchsorted(firsts, cell, 'right'), i) for cell, i in expected_pairs}
        levels_of = np.bincount([i for _, i in levels], minlength=len(masks))
        seen['empty image'] += len(masks) == 0
        seen['empty mask'] += sum(not mask.any() for mask in masks)
        seen['shared'] += len(expected_pairs) > len({cell for cell, _ in expected_pairs})
        seen['two levels'] += (levels_of == 2).sum()
        seen['three levels'] += (levels_of == 3).sum()
    assert all(seen.values()), seen


# Drawings


def draw(*lines):
    """A mask of a drawing with '#' for its pixels."""
    return torch.tensor([[character == '#' for character in line] for line in lines])


def table(targets, grid):
    """The labels of a single level as a small table, '.' for the background 9."""
    text = ''.join('.' if label == 9 else str(label) for label in targets.labels.tolist())
    return [text[start : start + grid] for start in range(0, grid * grid, grid)]


def assign_drawn(masks, labels, grid=None, boxes=None, grids=None, **settings):
    masks = torch.stack(masks)
    if boxes is None:
        boxes = [box_around(mask) for mask in masks.numpy()]
    assigner = GridAssigner(**{'scale_ranges': ((0, 64),), **settings})
    boxes = torch.tensor(boxes).float()
    grids = grids or (grid,)
    return assigner(masks, torch.tensor(labels), boxes, num_grids=grids, background=9)


SQUARE = draw(
    '........',
    '........',
    '..####..',
    '..####..',
    '..####..',
    '..####..',
    '........',
    '........',
)


def test_a_square_in_the_middle_of_8x8_pixels_has_the_cell_of_its_centre():
    """The centre is (3.5, 3.5), each cell has 2 pixels, and the centre region is 0.8 wide."""
    assert table(assign_drawn([SQUARE], [5], grid=4), 4) == [
        '....',
        '.5..',
        '....',
        '....',
    ]


def test_a_larger_centre_region_touches_more_cells():
    """With the whole box for a region: 3.5 ± 2 is from 1.5, in cell 0, to 5.5, in cell 2."""
    assert table(assign_drawn([SQUARE], [5], grid=4, center_scale=1.0), 4) == [
        '555.',
        '555.',
        '555.',
        '....',
    ]


def test_at_most_one_cell_around_the_centre():
    """The box spans all 8 cells; the centre 3.5 is in cell 3."""
    full = torch.ones(8, 8, dtype=torch.bool)
    assert table(assign_drawn([full], [1], grid=8, center_scale=1.0), 8) == [
        '........',
        '........',
        '..111...',
        '..111...',
        '..111...',
        '........',
        '........',
        '........',
    ]


def test_the_region_is_as_high_and_as_wide_as_the_box():
    """The centre is (1, 3): rows 1 ± 0.5 are in cell 0, columns 3 ± 3.5 reach 0 to 2."""
    bar = draw('........', '#######.', *['........'] * 6)
    assert table(assign_drawn([bar], [3], grid=4, center_scale=1.0), 4) == [
        '333.',
        '....',
        '....',
        '....',
    ]


def test_the_later_of_two_instances_in_a_cell_gives_the_label_and_both_supervise():
    small = draw(*['........'] * 3, '...##...', '...##...', *['........'] * 3)
    targets = assign_drawn([SQUARE, small], [5, 2], grid=4)
    assert table(targets, 4) == ['....', '.2..', '....', '....']
    assert targets.num_positive == 1
    ((cell, instance),) = positives([targets])
    assert (cell.tolist(), instance.tolist()) == ([5, 5], [0, 1])
    assert table(assign_drawn([small, SQUARE], [2, 5], grid=4), 4)[1] == '.5..'


PIXEL_ON_A_BORDER = draw(*['....'] * 2, '..#.', '....')


def test_a_region_around_a_cell_border_touches_the_cells_on_both_sides():
    """The centre (2, 2) is where cell 1 begins; the region reaches 0.1 into cell 0."""
    assert table(assign_drawn([PIXEL_ON_A_BORDER], [7], grid=2), 2) == ['77', '77']


def test_a_centre_on_a_cell_border_is_in_the_cell_that_it_begins():
    point = [(2, 2, 2, 2)]
    assert table(assign_drawn([PIXEL_ON_A_BORDER], [7], grid=2, boxes=point), 2) == ['..', '.7']


@pytest.mark.parametrize(
    ('side', 'pixel', 'cell'),
    [
        (8, 4, 3),  # a true floor of the float32 numbers would give 2
        (12, 10, 4),  # exact arithmetic would give 5
    ],
)
def test_a_float32_quotient_is_truncated(side, pixel, cell):
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[pixel, pixel] = True
    targets = assign_drawn([mask], [1], grid=6, boxes=[(0, 0, 0, 0)])
    assert (targets.labels == 1).nonzero().tolist() == [[6 * cell + cell]]


def test_positives_come_by_level_then_instance():
    """Sizes 4, 2 and 3 with ranges for the first two, for all and for the last two."""
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, 0:4, 4:8] = masks[1, 4:6, 0:2] = masks[2, 4:7, 4:7] = True
    boxes = torch.tensor([[4, 0, 8, 4], [0, 4, 2, 6], [4, 4, 7, 7]]).float()
    assigner = GridAssigner(scale_ranges=((3, 4), (1, 64), (1, 3)))
    labels = torch.tensor([2, 0, 1])
    targets = assigner(masks, labels, boxes, num_grids=(2, 2, 1), background=9)
    first, second, third = targets.labels.split([4, 4, 1])
    assert first.tolist() == [9, 2, 9, 1]
    assert second.tolist() == [9, 2, 0, 1]
    assert third.tolist() == [1]
    ((cell, instance),) = positives([targets])
    assert instance.tolist() == [0, 2, 0, 1, 2, 1, 2]
    assert cell.tolist() == [1, 3, 5, 6, 7, 8, 8]  # from 0, from 4 and from 8


def test_positives_of_a_batch_are_apart():
    empty = assign(*random_case(np.random.default_rng(0))[:3], GridAssigner(), (4, 4, 3, 2, 2))
    empty = empty._replace(valid=torch.zeros_like(empty.valid))
    one = assign_drawn([SQUARE], [5], grid=4)
    found = positives([empty, one, empty])
    assert [(cell.tolist(), instance.tolist()) for cell, instance in found] == [
        ([], []),
        ([5], [0]),
        ([], []),
    ]


@pytest.mark.parametrize(('scale', 'levels'), [(4, [0]), (8, [0, 1]), (10, [1]), (12, [1, 2])])
def test_scale_ranges_include_both_ends(scale, levels):
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, :scale, :scale] = True
    assigner = GridAssigner(scale_ranges=((4, 8), (8, 12), (12, 16)))
    boxes = torch.tensor([[0.0, 0.0, scale, scale]])
    targets = assigner(mask, torch.tensor([1]), boxes, num_grids=(1, 1, 1), background=9)
    assert targets.labels.tolist() == [1 if level in levels else 9 for level in range(3)]


def test_instances_beyond_the_last_range_have_no_cell():
    """The square's size is 4, the last range ends with 3."""
    targets = assign_drawn([SQUARE], [7], grids=(1, 1), scale_ranges=((0, 2), (1, 3)))
    assert targets.labels.tolist() == [9, 9]


def test_pixel_centres_are_whole_numbers():
    """Pixels 1 and 2 of 4 have their centre at 1.5, in cell 0, and not at 2, in cell 1."""
    square = draw('....', '.##.', '.##.', '....')
    assert table(assign_drawn([square], [7], grid=2, boxes=[(2, 2, 2, 2)]), 2) == ['7.', '..']


def test_instances_of_which_nothing_is_left_at_a_quarter_have_cells():
    dot = draw('....', '....', '....', '...#')  # not among the central 2x2 pixels
    assert not quarter_masks(dot[None]).any()
    assert table(assign_drawn([dot], [7], grid=1), 1) == ['7']


# Options


@pytest.mark.parametrize('seed', range(3))
def test_the_last_owner_equals_loops(seed, device):
    """Of the pairs of cell and instance a cell keeps its last."""
    rng = np.random.default_rng(seed)
    shared = 0
    for _ in range(50):
        case = *_, assigner, _ = random_case(rng)
        expected_labels, pairs = assign_by_loops(*case, 7, device.type)
        last = dict(pairs)
        assigner.owner = 'last'
        targets = assign(*case, device=device)
        ((cell, instance),) = positives([targets])
        found = list(zip(cell.tolist(), instance.tolist(), strict=True))
        assert found == [pair for pair in pairs if last[pair[0]] == pair[1]]
        assert targets.num_positive == len(found)
        assert targets.labels.tolist() == expected_labels
        shared += len(pairs) - len(found)
    assert shared > 30


SMALL = draw(*['........'] * 3, '..##....', '..##....', *['........'] * 3)
TALL = draw(*['...#....'] * 8)


@pytest.mark.parametrize(('owner', 'supervise'), [(None, [0, 1]), ('last', [1])])
def test_who_gets_a_cell_that_two_claim(owner, supervise):
    """Both centres are in cell (1, 1) of 4x4; the label is the last one's."""
    boxes = [(3, 3, 3, 3)] * 2  # points: each claims the cell of its centre alone
    targets = assign_drawn([SMALL, TALL], [5, 2], grid=4, boxes=boxes, owner=owner)
    assert table(targets, 4) == ['....', '.2..', '....', '....']
    assert positives([targets])[0][1].tolist() == supervise


@pytest.mark.parametrize('seed', range(3))
def test_without_boxes_those_of_the_masks_are_taken(seed):
    rng = np.random.default_rng(seed)
    for _ in range(30):
        masks, labels, _, assigner, grids = random_case(rng)
        boxes = np.array([box_around(mask) for mask in masks], F32).reshape(len(masks), 4)
        expected = assign(masks, labels, boxes, assigner, grids)
        tensors = (torch.from_numpy(array) for array in (masks, labels))
        found = assigner(*tensors, num_grids=grids, background=7)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_the_last_owner_never_waits_for_the_device():
    with FakeTensorMode():
        masks, labels, _ = instances_on('cpu')
        targets = GridAssigner(owner='last')(
            masks, labels, num_grids=(5, 4, 3, 2, 1), background=80
        )
        assert targets.labels.shape == (55,)


def test_the_last_owner_without_instances(device):
    masks, labels, _ = instances_on(device, n=0)
    assigner = GridAssigner(owner='last')
    targets = assigner(masks, labels, num_grids=(5, 4, 3, 2, 1), background=80)
    assert targets.labels.tolist() == [80] * 55


# Sizes, devices, errors


def test_no_instances(device):
    masks = torch.zeros(0, 32, 64, dtype=torch.bool, device=device)
    labels = torch.zeros(0, dtype=torch.long, device=device)
    boxes = torch.zeros(0, 4, device=device)
    targets = GridAssigner()(masks, labels, boxes, num_grids=(5, 4, 3, 2, 1), background=80)
    assert targets.labels.tolist() == [80] * (25 + 16 + 9 + 4 + 1)
    assert targets.labels.dtype == torch.int64
    assert targets.num_positive == 0
    ((cell, instance),) = positives([targets])
    assert cell.shape == instance.shape == (0,)
    assert quarter_masks(masks).shape == (0, 8, 16)
    assert center_of_mass(*pixel_counts(masks)).shape == (0, 2)


def test_inputs_are_not_modified():
    masks, labels, boxes, assigner, grids = random_case(np.random.default_rng(3))
    assert len(masks) > 1
    before = [array.copy() for array in (masks, labels, boxes)]
    positives([assign(masks, labels, boxes, assigner, grids)])
    quarter_masks(torch.from_numpy(masks))
    for array, copy in zip((masks, labels, boxes), before, strict=True):
        assert np.array_equal(array, copy)


def instances_on(device, n=3):
    return (
        torch.zeros(n, 32, 32, dtype=torch.bool, device=device),
        torch.zeros(n, dtype=torch.long, device=device),
        torch.zeros(n, 4, device=device),
    )


def test_assigning_never_waits_for_the_device():
    """Fake tensors have no values: whatever needs one raises, as ``positives`` does."""
    with FakeTensorMode():
        instances = instances_on('cpu')
        targets = GridAssigner()(*instances, num_grids=(5, 4, 3, 2, 1), background=80)
        quarter_masks(instances[0])
        with pytest.raises(DataDependentOutputException):
            positives([targets])


def test_assigning_stays_on_the_device():
    """Tensors of the device 'meta' neither move to the CPU nor mix with tensors there."""
    instances = instances_on('meta')
    targets = GridAssigner()(*instances, num_grids=(5, 4, 3, 2, 1), background=80)
    assert {tensor.device.type for tensor in targets} == {'meta'}
    assert targets.labels.shape == (55,)
    assert targets.valid.shape == (5 * 3 * 9,)


@pytest.mark.parametrize(
    'settings',
    [
        dict(center_scale=0),
        dict(center_scale=-0.2),
        dict(center_scale=1.1),
        dict(center_scale=float('nan')),
        dict(scale_ranges=((1, 96), (48, 48))),
        dict(scale_ranges=((96, 1),)),
        dict(scale_ranges=((-1, 96),)),
        dict(owner='first'),
        dict(owner='smallest'),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r'GridAssigner: .*not'):
        GridAssigner(**settings)


def test_as_many_grids_as_scale_ranges():
    instances = instances_on('cpu')
    with pytest.raises(ValueError, match='zip'):
        GridAssigner()(*instances, num_grids=(5, 4, 3, 2), background=80)


def test_it_is_built_from_a_config():
    ranges = [[1, 9], [5, 99]]
    assigner = TASK_UTILS.build(dict(type='mmsolov2.GridAssigner', scale_ranges=ranges))
    assert assigner.scale_ranges == ((1, 9), (5, 99))


def test_a_setting_that_it_has_not_is_named():
    with pytest.raises(TypeError, match=r"GridAssigner\..* argument 'half_pixel'"):
        TASK_UTILS.build(dict(type='mmsolov2.GridAssigner', half_pixel=True))


def test_settings_have_the_published_defaults():
    assigner = GridAssigner()
    assert assigner.center_scale == 0.2
    assert assigner.scale_ranges == ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
    assert assigner.owner is None
