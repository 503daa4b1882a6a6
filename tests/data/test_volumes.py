import bz2
import gzip
import lzma
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from small_cases import LPS, MODALITIES

from mttu.config import Config
from mttu.data.cache_space import estimate_bytes
from mttu.data.geometry import start_geometry
from mttu.data.volumes import differ, open_image, read_volume, write_mask
from mttu.errors import InputError


def save(path, voxels, affine=LPS):
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_volume(path, "A")
    (problem,) = caught.value.problems
    return problem


def test_voxels_are_float32_with_the_file_s_scaling(tmp_path):
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), LPS)
    image.header.set_slope_inter(0.5, 1)
    nib.save(image, tmp_path / "x.nii")
    voxels = read_volume(tmp_path / "x.nii", "A").get_fdata(dtype=np.float32)
    assert voxels.dtype == np.float32
    stored = nib.load(tmp_path / "x.nii").get_fdata()
    np.testing.assert_allclose(voxels, stored)


@pytest.mark.parametrize("more", [(1,), (1, 1)])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_axes_of_one_voxel_after_the_third_change_nothing(tmp_path, more, ending):
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for name, extents in (("three", ()), ("more", more)):
        image = nib.Nifti1Image(voxels.reshape(*voxels.shape, *extents), LPS)
        image.header.set_slope_inter(0.1, 3)
        image.set_qform(LPS, 1)
        image.set_sform(LPS, 4)
        nib.save(image, tmp_path / f"{name}{ending}")
    three, squeezed = (read_volume(tmp_path / f"{name}{ending}", "A") for name in ("three", "more"))
    assert squeezed.shape == (3, 4, 5)
    np.testing.assert_array_equal(squeezed.get_fdata(dtype=np.float32), three.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(squeezed.affine, three.affine)
    assert start_geometry(squeezed, 1.0) == start_geometry(three, 1.0)
    assert start_geometry(nib.load(tmp_path / f"more{ending}"), 1.0).shape == (3, 4, 5)


def test_an_ending_in_upper_case_is_read_and_its_checksum_verified(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 999, (16, 16, 16)).astype(np.int16)
    path = save(tmp_path / "x.nii.gz", voxels).rename(tmp_path / "x.NII.GZ")
    np.testing.assert_array_equal(read_volume(path, "A").get_fdata(dtype=np.float32), voxels)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the checksum
    path.write_bytes(bytes(content))
    assert "x.NII.GZ: voxels cannot be read" in refusal(path)


def test_missing_empty_and_foreign_files(tmp_path):
    assert "x.nii.gz not found; restore it, or write the manifest again" in refusal(tmp_path / "x.nii.gz")
    (tmp_path / "empty.nii").touch()
    assert refusal(tmp_path / "empty.nii").startswith("case A: empty.nii: is empty (0 bytes)")
    (tmp_path / "text.nii.gz").write_text("no image")
    assert "text.nii.gz: no readable NIfTI file" in refusal(tmp_path / "text.nii.gz")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_truncated_file(tmp_path, ending):
    voxels = np.random.default_rng(0).integers(0, 999, (16, 16, 16)).astype(np.int16)
    path = save(tmp_path / f"x{ending}", voxels)
    path.write_bytes(path.read_bytes()[:4000])
    assert f"case A: x{ending}: voxels cannot be read" in refusal(path)


def test_damaged_bytes_inside_a_gzip_file(tmp_path):
    path = save(tmp_path / "x.nii.gz", np.random.default_rng(0).integers(0, 999, (16, 16, 16)).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    assert "voxels cannot be read" in refusal(path)


@pytest.mark.parametrize(
    ("voxels", "problem"),
    [
        (
            np.ones((4, 4, 4, 2), np.int16),
            "has shape (4, 4, 4, 2), 2 volumes in one file; expected one volume, three axes of 2 to 1024 voxels; keep "
            "the one that is meant, or give each modality a file of its own",
        ),
        (np.ones((4, 4, 4, 1, 3), np.int16), "has shape (4, 4, 4, 1, 3), 3 volumes in one file; expected one volume"),
        (np.ones((1, 4, 4, 4), np.int16), "has shape (1, 4, 4, 4), 4 volumes in one file; expected one volume"),
        (np.ones((4, 4, 1, 1), np.int16), "has shape (4, 4, 1); expected three axes"),
        (np.ones((4, 4), np.int16), "has shape (4, 4); expected three axes"),
        (np.ones((4, 4, 1), np.int16), "has shape (4, 4, 1); expected three axes"),
        (np.ones((1025, 2, 2), np.uint8), "has shape (1025, 2, 2); expected three axes"),
        (np.ones((4, 4, 4), np.complex64), "has voxels of type complex64; expected integers or floats"),
        (np.full((4, 4, 4), np.nan, np.float32), "64 voxels are NaN or infinite; these are all; restore it"),
        (np.where(np.eye(4)[..., None] * np.ones(4) > 0, np.inf, 1), "16 voxels are NaN or infinite"),
    ],
)
def test_refused_voxels(tmp_path, voxels, problem):
    assert problem in refusal(save(tmp_path / "x.nii.gz", voxels))


@pytest.mark.parametrize(
    ("affine", "problem"),
    [
        (np.diag([1000.0, 1000, 1000, 1]), "has voxel spacing [1000.0, 1000.0, 1000.0] mm; expected 0.1 to 20"),
        (np.diag([0.001, 1, 1, 1]), "has voxel spacing [0.001, 1.0, 1.0] mm"),
        (np.array([[1.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0.01, 0], [0, 0, 0, 1]]), "two axes of its affine are para"),
    ],
)
def test_refused_grids(tmp_path, affine, problem):
    image = nib.Nifti1Image(np.ones((4, 4, 4), np.int16), None)
    image.header.set_sform(affine, 1)  # the q-form cannot hold such grids
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.int16), None, image.header), tmp_path / "x.nii")
    assert problem in refusal(tmp_path / "x.nii")


def test_grids_differ_by_shape_and_affine_beyond_a_thousandth():
    first = nib.Nifti1Image(np.zeros((4, 5, 6)), LPS)
    near, far = LPS.copy(), LPS.copy()
    near[0, 3] += 0.0009
    far[1, 3] += 0.002
    assert differ(first, nib.Nifti1Image(np.zeros((4, 5, 6)), near)) is None
    assert differ(first, nib.Nifti1Image(np.zeros((4, 5, 7)), LPS)) == "shape (4, 5, 6) and (4, 5, 7)"
    assert differ(first, nib.Nifti1Image(np.zeros((4, 5, 6)), far)) == "affine (row 1, column 3: 23 and 23.002)"


@pytest.mark.parametrize(("qform_code", "sform_code"), [(1, 1), (2, 1), (0, 2), (1, 0), (4, 3), (0, 0)])
def test_a_mask_is_written_where_its_image_lies(tmp_path, qform_code, sform_code):
    cosine, sine = np.cos(0.2), np.sin(0.2)
    affine = np.array([[-cosine, sine, 0, 17.3], [-sine, -cosine, 0, 88.1], [0, 0, 1.5, -40], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.ones((5, 6, 7), np.int16), None)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, qform_code)
    shifted = affine.copy()
    shifted[0, 3] += 2  # the two forms need not agree
    image.set_sform(shifted, sform_code)
    source = nib.Nifti1Image(np.ones((5, 6, 7), np.int16), None, image.header)
    nib.save(source, tmp_path / "image.nii.gz")
    original = nib.load(tmp_path / "image.nii.gz")
    mask = np.random.default_rng(0).integers(0, 5, (5, 6, 7)).astype(np.uint8)

    write_mask(tmp_path / "mask.nii.gz", mask, start_geometry(original, 1.0))

    written = nib.load(tmp_path / "mask.nii.gz")
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask)
    np.testing.assert_array_equal(written.affine, original.affine)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (qform_code, sform_code)
    for name in ("pixdim", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(written.header[name], original.header[name], err_msg=name)
    assert written.header.get_xyzt_units() == ("mm", "sec")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["image.nii.gz", "mask.nii.gz"]


def test_masks_of_the_same_voxels_are_the_same_bytes(tmp_path):
    geometry = start_geometry(nib.Nifti1Image(np.zeros((4, 4, 4)), LPS), 1.0)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_mask(tmp_path / name, np.ones((4, 4, 4), np.uint8), geometry)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes())[-64:] == bytes([1]) * 64


def write_extension(path, claimed, offset=None, length=16, flag=1, padding=64):
    """A volume of 8 voxels with an extension that claims a size."""
    header = nib.Nifti1Header()
    header.set_data_shape((2, 2, 2))
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = 352 + length if offset is None else offset
    header["magic"] = b"n+1"
    extension = np.array([claimed, 6], np.int32).tobytes() + bytes(length - 8)
    content = header.binaryblock + bytes([flag, 0, 0, 0]) + extension + bytes([1, 2, 3, 4, 5, 6, 7, 8])
    with gzip.open(path, "wb") as file:
        file.writelines([content, *[bytes(2**20)] * padding])


@pytest.mark.parametrize(
    ("claimed", "offset", "problem"),
    [
        (2**26, None, "an extension claims 67108864 bytes; 16 are left before the voxels"),
        (-16, None, "an extension claims -16 bytes; 16 are left before the voxels"),
        (0, None, "an extension claims 0 bytes"),
        (16, 2.0**30, "has extensions, and voxels from byte 1073741824; expected 352 to 16777216"),
        (16, 0, "has extensions, and voxels from byte 0; expected 352 to"),
        (16, np.inf, "voxels from byte inf; expected 352 to 16777216"),
        (16, np.nan, "voxels from byte nan; expected 352 to 16777216"),
    ],
)
def test_an_extension_takes_no_more_than_lies_before_the_voxels(tmp_path, claimed, offset, problem):
    path = tmp_path / "a.nii.gz"
    write_extension(path, claimed, offset)
    tracemalloc.start()
    with pytest.raises(InputError, match=rf"case c: a.nii.gz: no readable NIfTI file \({problem}"):
        read_volume(path, "c")
    with pytest.raises(ValueError, match=problem):
        open_image(path)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_many_extensions_are_refused_and_a_few_are_read(tmp_path):
    image = nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4))
    for number in range(3):
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * (10 + number)))
    for kind in (image, nib.Nifti2Image(image.dataobj, image.affine, nib.Nifti2Header.from_header(image.header))):
        nib.save(kind, tmp_path / "few.nii.gz")
        assert read_volume(tmp_path / "few.nii.gz", "c").get_fdata().sum() == 8
    image.header.extensions.extend(nib.nifti1.Nifti1Extension("comment", b"x") for _ in range(1100))
    nib.save(image, tmp_path / "many.nii")
    with pytest.raises(InputError, match="more than 1000 extensions"):
        read_volume(tmp_path / "many.nii", "c")


@pytest.mark.parametrize("flag", [0, 1])
@pytest.mark.parametrize("offset", [np.inf, -np.inf, np.nan])
def test_voxels_from_nowhere_are_refused_and_need_no_room(tmp_path, make_case, flag, offset):
    case = make_case("A")
    path = case.images["flair"]
    write_extension(path, 16, offset, flag=flag, padding=0)
    assert f"(voxels from byte {offset}; expected 352 to 16777216); mend the header" in refusal(path)
    assert estimate_bytes(case, MODALITIES, Config().data.prepare) == 0


NO_ENDING = "its name ends in neither .nii nor .nii.gz); give it a name that ends in"


@pytest.mark.parametrize(
    ("name", "pack", "problem"),
    [
        ("x.nii.bz2", bz2.compress, "it is compressed by bzip2); unpack it"),
        ("x.nii.xz", lzma.compress, "it is compressed by xz); unpack it"),
        ("x.nii.zst", bytes, f"{NO_ENDING} .nii"),
        ("x.nii.gz.bz2", gzip.compress, f"{NO_ENDING} .nii.gz"),
        ("x.img", bytes, f"{NO_ENDING} .nii"),
    ],
)
def test_a_name_by_which_nobody_measures_is_refused(tmp_path, name, pack, problem):
    voxels = save(tmp_path / "y.nii", np.ones((8, 8, 8), np.int16)).read_bytes()
    (tmp_path / name).write_bytes(pack(voxels))
    assert refusal(tmp_path / name) == f"case A: {name}: no readable NIfTI file ({problem}"
    with pytest.raises(ValueError, match="its name ends in neither"):
        open_image(tmp_path / name)
