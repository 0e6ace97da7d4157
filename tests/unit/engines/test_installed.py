"""Whether the machine is what the plan is for."""

import pytest

from toolkit.engines.common.machine import check_installed
from toolkit.errors import MachineError


def test_a_package_that_is_not_there_is_named_with_the_extra_that_brings_it() -> None:
    with pytest.raises(MachineError) as caught:
        check_installed("no-such-package", extra="megatron")
    assert str(caught.value).startswith("no-such-package: not installed, this plan runs on it; pip install")
    assert "'.[train,megatron]'" in str(caught.value)


def test_one_that_is_there_is_taken() -> None:
    check_installed("pytest", extra="dev")
