import gzip

import numpy as np
from small_cases import MODALITIES, draw_volumes

from mttu.cohort.suspicions import find_suspicions
from mttu.config import PrepareSettings
from mttu.data.preprocess import prepare_case
from mttu.data.sources import read_sources


def suspicions(case):
    return find_suspicions(case, MODALITIES, read_sources(case, MODALITIES), is_synthetic=True)


def test_one_image_under_two_modalities_is_worth_a_warning(make_case):
    volumes = draw_volumes()
    assert suspicions(make_case("A", volumes)) == []
    assert suspicions(make_case("B", {**volumes, "t1": volumes["flair"]})) == [
        "case B: flair and t1 have the same voxels; is one of them a copy of the other?"
    ]


def test_the_spacing_is_that_of_the_affine_not_of_a_field_that_contradicts_it(make_case):
    case = make_case("A")
    path = case.images["flair"]
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[80:92] = np.array([60, 60, 60], "<f4").tobytes()  # pixdim: 60 mm, while the affine says 1 mm
    path.write_bytes(gzip.compress(bytes(content)))
    assert suspicions(case) == []  # neither an odd spacing nor a head of many litres
    assert prepare_case(case, MODALITIES, PrepareSettings()).image.any()
