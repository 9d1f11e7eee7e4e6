"""State dicts beside a model's."""

import numpy as np
import pytest
import torch
from torch import nn

from mmsolov2.errors import InputError
from mmsolov2.models.state_dicts import mismatches, require_match, weights_for


class Block(nn.Module):
    """Eight entries: two layers with weight and bias, and a normalisation with four."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.scale = nn.Parameter(torch.ones(1))


ENTRIES = [
    'scale',
    'first.weight',
    'first.bias',
    'second.weight',
    'second.bias',
    'norm.running_mean',
    'norm.running_var',
    'norm.num_batches_tracked',
]


def weights(*without: str) -> dict:
    return {name: value for name, value in Block().state_dict().items() if name not in without}


def test_all_match():
    assert sorted(weights()) == sorted(ENTRIES)
    assert mismatches(Block(), weights()) == (8, [])
    require_match(Block(), weights(), strict=True)


def test_counters_may_be_missing():
    fewer = weights('norm.num_batches_tracked')
    assert mismatches(Block(), fewer) == (7, [])
    require_match(Block(), fewer, strict=True)


def test_mismatches_are_named():
    changed = {**weights('scale'), 'first.weight': torch.zeros(5, 2), 'other': torch.zeros(1)}
    matched, wrong = mismatches(Block(), changed)
    assert matched == 6
    assert wrong == ['scale (missing)', 'first.weight (is (5, 2), needs (3, 2))', 'other (unknown)']


def test_strict_asks_for_all():
    require_match(Block(), weights('scale'))
    with pytest.raises(InputError, match=r'7 of the 8 entries of Block match; .*: scale \(miss'):
        require_match(Block(), weights('scale'), strict=True)


def test_strict_knows_every_entry():
    with pytest.raises(InputError, match=r'8 of the 8 entries .*: head\.weight \(unknown\)\. Use'):
        require_match(Block(), {**weights(), 'head.weight': torch.zeros(1)}, strict=True)


def test_half_is_enough_and_less_is_not():
    half = ENTRIES[4:]
    require_match(Block(), weights(*half))
    with pytest.raises(InputError, match='3 of the 8 entries'):
        require_match(Block(), weights(*half, ENTRIES[0]))


def test_first_five_are_named():
    with pytest.raises(InputError) as caught:
        require_match(Block(), dict(other=torch.zeros(1)))
    names = 'scale (missing), first.weight (missing), first.bias (missing), '
    names += 'second.weight (missing), second.bias (missing) and 3 more. Use the config'
    assert '0 of the 8 entries of Block match' in str(caught.value)
    assert names in str(caught.value)


def test_five_are_all():
    with pytest.raises(InputError) as caught:
        require_match(Block(), weights(*ENTRIES[:5]))
    assert 'second.bias (missing). Use' in str(caught.value) and 'more' not in str(caught.value)


def test_empty_state_dict():
    with pytest.raises(InputError, match='0 of the 8'):
        require_match(Block(), {})


def test_prefix():
    prefixed = {f'part.{name}': value for name, value in weights().items()}
    others = {'else.weight': torch.zeros(1)}
    assert mismatches(Block(), {**prefixed, **others}, 'part.') == (8, [])
    require_match(Block(), {**prefixed, **others}, 'part.', strict=True)
    with pytest.raises(InputError, match=r'0 of the 8 .* part\.scale \(missing\)'):
        require_match(Block(), weights(), 'part.')


def test_weights_for_takes_a_checkpoint_or_a_state_dict():
    model = Block()
    assert weights_for(model, dict(meta={}, state_dict=weights())).keys() == weights().keys()
    assert weights_for(model, weights()).keys() == weights().keys()


@pytest.mark.parametrize('wrapped', [dict(model=weights(), iteration=3), {**weights(), 'epoch': 3}])
def test_weights_are_found_beside_other_things(wrapped):
    assert mismatches(Block(), weights_for(Block(), wrapped))[0] == 8


@pytest.mark.parametrize(
    'content, named',
    [
        (dict(net=weights()), '1 entries are no tensors, net first, of type dict'),
        (dict(state_dict=dict(a=torch.zeros(1), b=3)), '1 entries are no tensors, b first, of typ'),
        (
            dict(state_dict=dict(a=torch.zeros(1), b=torch.eye(2).to_sparse())),
            'no tensors, b first',
        ),
        (dict(state_dict=dict(a=np.array(['x'])), b=3), 'no tensors, a first, of type ndarray'),
    ],
)
def test_what_is_no_weight_is_named(content, named):
    with pytest.raises(InputError, match=named):
        weights_for(Block(), content)


def test_entry_without_a_shape_is_a_mismatch():
    changed = {**weights(), 'scale': 3}
    assert mismatches(Block(), changed) == (7, ['scale (is no tensor, needs (1,))'])


def test_prefix_of_a_wrapper_is_removed():
    wrapped = {f'module.{name}': value for name, value in weights().items()}
    assert weights_for(Block(), dict(state_dict=wrapped)).keys() == weights().keys()
    inside = {'part.module.weight': torch.ones(1)}
    assert weights_for(Block(), inside) == inside


def test_mask_features_are_renamed_for_models_that_have_them():
    one, two, three = torch.arange(3.0)
    theirs = {
        'mask_head.mask_feature_head.conv.weight': one,
        'mask_head.conv.weight': two,
        'backbone.mask_head.mask_feature_head.weight': three,
    }
    assert weights_for(Block(), theirs) == theirs
    model = Block()
    model.mask_neck = nn.Identity()
    assert weights_for(model, theirs) == {
        'mask_neck.conv.weight': one,
        'mask_head.conv.weight': two,
        'backbone.mask_head.mask_feature_head.weight': three,
    }
