"""Which part of a large job a process does."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mmsolov2.errors import InputError

LAUNCHERS = (  # variables of a process's number, from 0, and of how many there are
    ('RANK', 'WORLD_SIZE'),  # torchrun, which Slurm may have started
    ('JOB_COMPLETION_INDEX', None),  # an indexed job of Kubernetes, which does not tell
    ('SLURM_PROCID', 'SLURM_NTASKS'),
)


@dataclass(frozen=True)
class Shard:
    """The part ``number``, from 1, of ``total``."""

    number: int = 1
    total: int = 1

    def of(self, length: int) -> range:
        """The places of a list of a length that are this part's: as many as of others, or one more.

        >>> [list(Shard(number, 3).of(5)) for number in (1, 2, 3)]
        [[0], [1, 2], [3, 4]]
        """
        return range(length * (self.number - 1) // self.total, length * self.number // self.total)


def parse_shard(text: str | None, variables: Mapping[str, str]) -> Shard:
    """The part that ``--shard`` names: ``2/8``, or with ``auto`` or ``auto/8`` that of a launcher.

    >>> parse_shard('auto', {'SLURM_PROCID': '0', 'SLURM_NTASKS': '8'})
    Shard(number=1, total=8)

    Raises:
        InputError: if it is no such part, or no launcher has set its variables.
    """
    if text is None:
        return Shard()
    match = re.fullmatch(r'(?:(auto)|(\d+))(?:/(\d+))?', text, re.ASCII)
    if not match or not (match[1] or match[3]):
        raise InputError(f'--shard {text}: give a part as 2/8, the second of eight, or auto')
    if match[1]:
        return _of_launcher(text, int(match[3] or 0), variables)
    return _checked(text, int(match[2]), int(match[3]))


def _of_launcher(text: str, given: int, variables: Mapping[str, str]) -> Shard:
    """The part of the first launcher that has set its variables; ``given`` is 0, or how many."""
    for name, total in LAUNCHERS:
        if name not in variables:
            continue
        told = variables.get(total or '', str(given or ''))
        if not (variables[name].isdecimal() and told.isdecimal()):
            raise InputError(
                f'--shard {text}: {name}={variables[name]} does not tell of how many parts: '
                'say it, as in auto/8'
            )
        if given and int(told) != given:
            raise InputError(f'--shard {text}: {total}={told} says another number of parts')
        return _checked(text, int(variables[name]) + 1, int(told))
    names = ', '.join(name for name, _ in LAUNCHERS)
    raise InputError(f'--shard {text}: no launcher has set {names}: give the part, as in 2/8')


def _checked(text: str, number: int, total: int) -> Shard:
    if not 1 <= number <= total:
        raise InputError(
            f'--shard {text}: there is no part {number} of {total}: the first of eight is 1/8, '
            'the last is 8/8'
        )
    return Shard(number, total)
