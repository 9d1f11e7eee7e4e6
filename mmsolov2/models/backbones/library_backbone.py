"""What backbones of other libraries share: frozen stages, weights, and how many channels."""

import importlib
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsolov2.errors import InputError
from mmsolov2.models.backbones.probe import meta_twin, needed_by, probe_images, stride_of
from mmsolov2.models.bands import is_of_other_bands, spread_bands
from mmsolov2.models.state_dicts import mismatches, some_of


def imported(library: str, extra: str) -> ModuleType:
    """A library that this package can do without.

    Raises:
        InputError: if it cannot be imported.
    """
    try:
        return importlib.import_module(library)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
        raise InputError(
            f"{library} cannot be imported ({error}): pip install 'mmsolov2[{extra}]'"
        ) from error


def fitted_weights(net: nn.Module, weights: Mapping, source: str) -> dict:
    """A state dict for a network, that of the first convolution for as many bands as it takes.

    Raises:
        InputError: if the weights are of another network.
    """
    own = net.state_dict()
    fitted = {
        name: spread_bands(value, own[name].shape[1])
        if name in own and is_of_other_bands(value, own[name])
        else value
        for name, value in weights.items()
    }
    matched, wrong = mismatches(net, fitted)
    if wrong:
        raise InputError(
            f'{source}: these weights are of another network, {matched} of the {len(own)} entries '
            f'of {type(net).__name__} match; the first that do not: {some_of(wrong)}: take the '
            'model and the settings of the weights, and the release of its library that saved them'
        )
    return fitted


class LibraryBackbone(BaseModule):
    """Maps (B, C, H/stride, W/stride) of images (B, in_channels, H, W), the finest first.

    Parameters that no map needs are not trained, so that processes that share gradients need not
    look for them. ``out_channels`` and ``strides`` are those of the maps.

    Args:
        net: the network of the library; names of weights begin with ``net.``.
        in_channels: bands of the images.
        frozen_stages: as many maps, the finest, and all that they need are not trained.
        norm_eval: keep the statistics of all batch normalisation.
        source: where ``init_weights`` takes the weights from, None for none.

    Raises:
        ValueError: if there are fewer maps, or weights of two sources.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        in_channels: int,
        frozen_stages: int,
        norm_eval: bool,
        source: str | None,
        init_cfg: dict | list | None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if source and init_cfg:
            raise ValueError(
                f'{type(self).__name__}: pretrained={source!r} and init_cfg={init_cfg} are two '
                'sources of weights: leave one out'
            )
        self.net = net
        self.in_channels = in_channels
        self.norm_eval = norm_eval
        self.source = source
        self._probe(frozen_stages)

    @staticmethod
    @abstractmethod
    def maps_of(net: nn.Module, images: Tensor) -> Sequence[Tensor]:
        """The maps (B, C, h, w) that a network makes of images (B, in_channels, H, W)."""

    @abstractmethod
    def read_weights(self, source: str) -> Mapping:
        """The state dict of the network in a source."""

    @torch.enable_grad()
    def _probe(self, frozen_stages: int) -> None:
        """Learn what the maps are like, and freeze what they do not need, or need to stay."""
        twin = meta_twin(self.net)
        maps = self.maps_of(twin, probe_images(self.in_channels))
        if frozen_stages not in range(len(maps) + 1):
            raise ValueError(
                f'{type(self).__name__}: frozen_stages must be from 0 to {len(maps)}, not '
                f'{frozen_stages}'
            )
        self.out_channels = [one.shape[1] for one in maps]
        self.strides = [stride_of(one) for one in maps]
        parameters = list(twin.parameters())
        needed, stays = needed_by(maps, parameters), needed_by(maps[:frozen_stages], parameters)
        for parameter, *used in zip(self.net.parameters(), needed, stays, strict=True):
            parameter.requires_grad_(used == [True, False])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of images (B, in_channels, H, W).

        Raises:
            InputError: if the images have another number of channels.
        """
        if images.shape[1] != self.in_channels:
            raise InputError(
                f'{type(self).__name__}: images have {images.shape[1]} channels, but in_channels '
                f'is {self.in_channels}: give both the same number'
            )
        return tuple(self.maps_of(self.net, images))

    def train(self, mode: bool = True) -> 'LibraryBackbone':
        """Set the mode of all but what is frozen and, with norm_eval, the normalisation."""
        super().train(mode)
        for module in self.net.modules():
            learns = [parameter.requires_grad for parameter in module.parameters()]
            if (learns and not any(learns)) or (self.norm_eval and isinstance(module, _BatchNorm)):
                module.eval()
        return self

    def init_weights(self) -> None:
        """Take the weights of the source, if there is one.

        Raises:
            InputError: if it cannot be read, or is of another network.
        """
        super().init_weights()
        if self.source:
            weights = self.read_weights(self.source)
            self.net.load_state_dict(fitted_weights(self.net, weights, self.source))
            print_log(f'{type(self).__name__}: weights of {self.source}', 'current', logging.INFO)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """Fit weights to the bands; refuse those of another network, or with other names."""
        own = f'{prefix}net.'
        given = {
            name.removeprefix(own): value
            for name, value in state_dict.items()
            if name.startswith(own)
        }
        if given:
            fitted = fitted_weights(self.net, given, type(self).__name__)
            state_dict.update({f'{own}{name}': value for name, value in fitted.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)
