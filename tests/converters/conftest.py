import pytest

from mmsolov2.converters.convert import convert
from mmsolov2.errors import InputError


@pytest.fixture
def message():
    """Why a checkpoint is refused."""

    def refusal(checkpoint: dict) -> str:
        with pytest.raises(InputError) as caught:
            convert(checkpoint)
        assert '\n' not in str(caught.value)
        return str(caught.value)

    return refusal
