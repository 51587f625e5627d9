"""`help`: prints the list of commands, or the help of one."""

from __future__ import annotations

import pytest

from mllm_msr.errors import UnknownNameError


def test_it_prints_the_same_as_the_option(invoke) -> None:
    assert invoke("help", "serve").stdout == invoke("serve", "--help").stdout
    assert invoke("help").stdout == invoke("--help").stdout


def test_a_misspelled_command_gets_a_suggestion(fail) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown command 'srve'\. Did you mean 'serve'\?"):
        fail("help", "srve")
