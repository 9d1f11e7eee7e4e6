"""Points NMS: of neighbouring cells of a class the best one stays."""

import torch
import torch.nn.functional as F
from torch import Tensor


def points_nms(scores: Tensor) -> Tensor:
    """Zero all scores (B, C, S, S) >= 0 that are not the largest of the 2x2 cells they end."""
    above = F.pad(scores, (1, 0, 1, 0))
    above = torch.maximum(above[..., 1:, :], above[..., :-1, :])
    return scores * (torch.maximum(above[..., 1:], above[..., :-1]) == scores)
