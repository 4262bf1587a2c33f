"""A picture of any kind becomes the 8-bit RGB that a viewer shows, or is refused by name."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from benchbd.datasets import _picture
from benchbd.datasets._decoded import Source, _key, decoded
from benchbd.datasets._picture import large_pictures_allowed, open_picture
from benchbd.errors import UsageError

RAMP = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
NOISE = np.random.RandomState(0).randint(0, 256, (12, 16, 3)).astype(np.uint8)


def opened(path: Path) -> np.ndarray:
    image = open_picture(path, "mine")
    assert image.mode == "RGB"
    return np.asarray(image)


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        open_picture(path, "mine")
    text = str(caught.value)
    assert text.startswith(f"mine: {path} ")
    assert "\n" not in text
    return text


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def deep_png(values: np.ndarray, colour: int, *more: tuple[bytes, bytes]) -> bytes:
    """A 16-bit PNG of (H, W, channels) values, of a colour type that Pillow does not write."""
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png((b"IHDR", head), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def tiff(values: np.ndarray, *, bits: int, photometric: int = 1, kind: int = 1) -> bytes:
    """A grey TIFF file of one strip, in little-endian order."""
    body = values.tobytes()
    tags = [(256, values.shape[1]), (257, values.shape[0]), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, values.shape[0]), (279, len(body)), (339, kind)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + b"\0" * 4


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_to_the_nearest(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RAMP.astype(">u2") if mode.endswith("B") else RAMP).save(path)
    want = np.floor(RAMP / 257 + 0.5)
    assert np.array_equal(opened(path), np.repeat(want[..., None], 3, axis=2))
    assert len(np.unique(opened(path))) == 256


def test_16_bit_grey_of_pgm_and_jpeg_2000_is_scaled_too(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes())
    assert opened(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 128, 255]
    if features.check("jpg_2000"):
        Image.fromarray(RAMP).save(tmp_path / "a.jp2")
        assert np.abs(opened(tmp_path / "a.jp2")[..., 0] - RAMP / 257).max() <= 1


def test_tiff_may_start_at_white_or_have_12_bits(tmp_path: Path) -> None:
    (tmp_path / "white.tif").write_bytes(tiff(RAMP, bits=16, photometric=0))
    assert np.array_equal(opened(tmp_path / "white.tif")[..., 0], 255 - np.floor(RAMP / 257 + 0.5))
    packed = np.array([[0xFF, 0xF8, 0x00]], np.uint8)  # 4095 and 2048
    head = tiff(packed, bits=12).replace(struct.pack("<HHII", 256, 3, 1, 3), struct.pack("<HHII", 256, 3, 1, 2))
    (tmp_path / "twelve.tif").write_bytes(head)
    assert opened(tmp_path / "twelve.tif")[0, :, 0].tolist() == [255, 128]


def test_16_bit_colour_keeps_the_upper_byte(tmp_path: Path) -> None:
    deep = np.random.RandomState(0).randint(0, 65536, (8, 8, 3))
    (tmp_path / "a.png").write_bytes(deep_png(deep, 2))
    assert np.array_equal(opened(tmp_path / "a.png"), deep >> 8)


@pytest.mark.parametrize("photometric", [1, 0])
def test_floats_from_0_to_1_are_scaled(tmp_path: Path, photometric: int) -> None:
    values = (RAMP / 65535).astype(np.float32)
    (tmp_path / "a.tif").write_bytes(tiff(values, bits=32, photometric=photometric, kind=3))
    want = np.floor(255 * (values.astype(np.float64) if photometric else 1 - values.astype(np.float64)) + 0.5)
    assert np.array_equal(opened(tmp_path / "a.tif")[..., 0], want)


@pytest.mark.parametrize("value", [1.5, -0.1, 255.0, float("nan"), float("inf")])
def test_floats_of_another_range_are_refused(tmp_path: Path, value: float) -> None:
    values = np.full((8, 8), 0.5, np.float32)
    values[3, 3] = value
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert "only floats from 0 (black) to 1 (white) have a defined brightness; scale them" in refusal(
        tmp_path / "a.tif"
    )


@pytest.mark.parametrize(("dtype", "bits"), [(np.int8, 8), (np.int16, 16), (np.int32, 32), (np.uint32, 32)])
def test_signed_and_32_bit_integers_are_refused(tmp_path: Path, dtype: Any, bits: int) -> None:
    kind = 1 if dtype is np.uint32 else 2
    (tmp_path / "a.tif").write_bytes(tiff(np.full((8, 8), 9, dtype), bits=bits, kind=kind))
    assert "holds signed or 32-bit integers" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_pictures_stand_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    smooth = np.zeros((16, 24, 3), np.uint8)
    smooth[:4, :, 0], smooth[:, :6, 1] = 200, 100
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(smooth).save(path, exif=exif)
    plain = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    assert np.array_equal(opened(path), np.asarray(plain))
    assert opened(path).shape == ((16, 24, 3) if orientation < 5 else (24, 16, 3))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_mean_nothing_leave_a_picture_as_stored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(NOISE).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(opened(tmp_path / "a.png"), NOISE)
    Image.fromarray(NOISE).save(tmp_path / "b.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(opened(tmp_path / "b.png"), NOISE), "damaged EXIF data"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_composed_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.full((8, 8), 60, np.uint8)).convert("PA" if mode == "PA" else mode)
    alpha = np.full((8, 8), 255, np.uint8)
    alpha[:, :4], alpha[0, 7] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    path = tmp_path / ("a.tif" if mode == "PA" else "a.png")
    image.save(path)
    seen = opened(path)
    assert (seen[:, :4] == 255).all()
    assert (seen[1:, 4:] == 60).all()
    assert (abs(seen[0, 7].astype(int) - 157) <= 1).all()


def test_opaque_alpha_changes_nothing_and_alpha_of_zero_everywhere_is_unused(tmp_path: Path) -> None:
    for value in (255, 0):
        image = Image.fromarray(NOISE).convert("RGBA")
        image.putalpha(value)
        image.save(tmp_path / f"{value}.png")
        assert np.array_equal(opened(tmp_path / f"{value}.png"), NOISE)


@pytest.mark.parametrize("key", [3, bytes([255, 255, 255, 0])])
def test_palettes_and_their_transparent_colours(tmp_path: Path, key: Any) -> None:
    image = Image.fromarray(np.arange(4, dtype=np.uint8).repeat(16).reshape(8, 8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "keyed.png", transparency=key)
    assert opened(tmp_path / "opaque.png")[::2, 0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90], [1, 2, 3]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened(tmp_path / "keyed.png")[::2, 0].tolist()[2:] == [[70, 80, 90], [255, 255, 255]]


def test_one_colour_may_be_transparent(tmp_path: Path) -> None:
    Image.fromarray(np.array([[5, 9]], np.uint8)).save(tmp_path / "grey.png", transparency=9)
    Image.fromarray(np.array([[[5, 6, 7], [9, 9, 9]]], np.uint8)).save(tmp_path / "c.png", transparency=(9, 9, 9))
    assert opened(tmp_path / "grey.png")[0].tolist() == [[5] * 3, [255] * 3]
    assert opened(tmp_path / "c.png")[0].tolist() == [[5, 6, 7], [255] * 3]
    key = struct.pack(">H", 40000)
    (tmp_path / "deep.png").write_bytes(deep_png(np.array([[[5 * 257], [40000]]]), 0, (b"tRNS", key)))
    assert opened(tmp_path / "deep.png")[0].tolist() == [[5] * 3, [255] * 3]
    key = struct.pack(">HHH", 1, 2, 3)
    (tmp_path / "rgb.png").write_bytes(deep_png(np.array([[[1, 2, 3], [9, 9, 9]]]), 2, (b"tRNS", key)))
    assert "marks one 16-bit colour as transparent" in refusal(tmp_path / "rgb.png")


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("1", "png"), ("1", "tif"), ("L", "bmp"), ("P", "gif"), ("CMYK", "jpg"), ("CMYK", "tif"), ("YCbCr", "tif")],
)
def test_other_modes_look_as_pillow_converts_them(tmp_path: Path, mode: str, suffix: str) -> None:
    Image.fromarray(NOISE).convert(mode).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(
        opened(tmp_path / f"a.{suffix}"), np.asarray(Image.open(tmp_path / f"a.{suffix}").convert("RGB"))
    )


def test_lab_colours_are_refused_with_what_to_do(tmp_path: Path) -> None:
    Image.new("LAB", (8, 8)).save(tmp_path / "a.tif")
    assert refusal(tmp_path / "a.tif").endswith("mode LAB, which has no defined RGB form; save it as 8-bit RGB")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_animations_and_pages_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), (v, 0, 255 - v)) for v in (0, 90, 200)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert "holds several frames or pages; save the one that you mean" in refusal(tmp_path / f"a.{suffix}")
    frames[0].save(tmp_path / f"b.{suffix}")
    assert opened(tmp_path / f"b.{suffix}").shape == (8, 8, 3)


def test_a_preview_beside_a_photograph_is_no_page(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (v, v, v)) for v in (40, 200)]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert abs(int(opened(tmp_path / "a.jpg").mean()) - 40) < 3


def test_profiles_and_gamma_leave_values_as_stored(tmp_path: Path) -> None:
    from PIL import ImageCms, PngImagePlugin

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", 22000))
    Image.fromarray(NOISE).save(tmp_path / "a.png", pnginfo=info, icc_profile=profile)
    assert np.array_equal(opened(tmp_path / "a.png"), NOISE)


def test_the_content_decides_about_the_format(tmp_path: Path) -> None:
    for suffix in ("JPG", "tif", "txt", ""):
        Image.fromarray(NOISE).save(tmp_path / f"a.{suffix}", "PNG")
        assert np.array_equal(opened(tmp_path / f"a.{suffix}"), NOISE)


def test_large_pictures_are_decoded_in_silence_and_huge_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
        with large_pictures_allowed():
            assert np.array_equal(opened(tmp_path / "a.png"), NOISE)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90)
        text = refusal(tmp_path / "a.png")
    assert "is too large to decode (Image size (192 pixels) exceeds limit" in text
    assert text.endswith("make it smaller")


def test_a_long_strip_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("RGB", (200_000, 1)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a\.png has 200,000 by 1 pixels, too long a strip to resize; crop it"):
        decoded(Source("p", tmp_path, ["a.png"], 1024, crop=True))


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", denied)
    assert refusal(tmp_path / "a.png").endswith("a.png cannot be read: Permission denied")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_not_a_file_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "a.png"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    monkeypatch.setattr(_picture, "open_picture", None)
    with pytest.raises(UsageError, match=r"a\.png is a (FIFO|folder|device), not an image file; take it out"):
        decoded(Source("p", tmp_path, ["a.png"], 8, crop=False))


FORMATS = ("bmp", "gif", "jpg", "png", "ppm", "tga", "tif", "webp")


@given(suffix=st.sampled_from(FORMATS), seed=st.integers(0, 2**32 - 1), cut=st.booleans())
@settings(max_examples=150, deadline=None)
def test_damaged_files_decode_or_are_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, seed: int, cut: bool
) -> None:
    random = np.random.RandomState(seed)
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE).save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix), exif=exif)
    body = bytearray(stream.getvalue())
    for at in random.randint(0, len(body), random.randint(1, 8)):
        body[at] = random.randint(0, 256)
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    path.write_bytes(body[: random.randint(0, len(body))] if cut else body)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            mode, text = open_picture(path, "mine").mode, ""
        except UsageError as error:
            mode, text = "RGB", str(error)
    assert mode == "RGB"
    assert "\n" not in text


def test_the_key_holds_the_rules_the_folder_and_all_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of an archive can agree in name, size and date, and a changed file can be given its old date."""
    keys = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.ppm").write_bytes(b"P6 1 1 255\n" + (b"\1" if folder == "one" else b"\2") * 3)
        os.utime(tmp_path / folder / "a.ppm", (1, 1))
        keys.append(_key(Source("p", tmp_path / folder, ["a.ppm"], 8, crop=False)))
    (tmp_path / "two" / "a.ppm").write_bytes(b"P6 1 1 255\n\3\3\3")
    os.utime(tmp_path / "two" / "a.ppm", (1, 1))
    keys.append(_key(Source("p", tmp_path / "two", ["a.ppm"], 8, crop=False)))
    monkeypatch.setattr("benchbd.datasets._decoded.RULES", -1)
    keys.append(_key(Source("p", tmp_path / "two", ["a.ppm"], 8, crop=False)))
    monkeypatch.setattr("PIL.__version__", "0")
    keys.append(_key(Source("p", tmp_path / "two", ["a.ppm"], 8, crop=False)))
    assert len(set(keys)) == 5
