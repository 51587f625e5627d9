"""Weights in installed packages: their path, if they are there and as tested."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from mllm_msr.errors import BackendError
from mllm_msr.models.encoders.packages import package_file
from mllm_msr.models.small.sources import VISION


def test_the_file_is_found_verified_and_its_absence_explained(tmp_path, monkeypatch):
    package = tmp_path / "weights_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "w.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    digest = hashlib.sha256(b"weights").hexdigest()
    source = replace(VISION, module="weights_of_a_test", file="w.bin", sha256=digest)
    assert package_file("x", source) == package / "w.bin"
    with pytest.raises(BackendError, match=r"'x': .* another version"):
        package_file("x", replace(source, sha256="0" * 64))
    with pytest.raises(BackendError, match=r"it needs the package .* Run: pip install"):
        package_file("x", replace(source, module="no_such_package_of_a_test"))
