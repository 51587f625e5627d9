"""Image files: search by name."""

from pathlib import Path

from mllm_msr.data.image_files import images_by_stem


def test_images_are_found_by_stem(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.PNG", "3.txt", "a.b.webp"):
        (tmp_path / name).touch()
    assert images_by_stem(tmp_path) == {
        "1": str(tmp_path / "1.jpg"),
        "2": str(tmp_path / "2.PNG"),
        "a.b": str(tmp_path / "a.b.webp"),
    }
    assert images_by_stem(tmp_path / "none") == {}
