import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mttu.cohort.clinical_rows import FIELDS, parse_idh, site_of_barcode

MUTANT = (
    *(
        "Mutant",
        "mutated",
        "mut",
        "1",
        "1.0",
        "IDH-mutant",
        "IDH mutant",
        "IDH_mutant",
        "IDHmut",
        "IDH1-mutant",
        "IDH2 mut",
    ),
    *(
        "IDH1 p.R132H",
        "IDH1 R132C",
        "IDH1 p.R132G",
        "IDH1 p.R132S",
        "IDH2 R172K",
        "IDH2 p.Arg172Trp",
        "IDH1 p.Arg132His",
    ),
    *("R132H", "p.R132H", "IDH1-R132H", "IDH1: p.R132H", "IDH1 (R132H)", "IDH1 R132H mutant", "IDH2 R140Q", "R172K"),
    *("mutated (NOS)", "IDH-mutant (NOS)", "mutation"),
)
WILD = (
    *(
        "WT",
        "wild type",
        "wildtype",
        "wild-type",
        "Wild",
        "IDHwt",
        "IDH-wt",
        "IDH-wildtype",
        "IDH wild-type",
        "0",
        "0.0",
    ),
    *("IDH1 wildtype", "IDH1/2 wt", "not mutated", "non-mutated", "unmutated", "no mutation"),
)
UNKNOWN = (
    *("", "NA", "N/A", "nan", "none", "unknown", "NOS", "NEC", "NOS/NEC", "-1", "-1.0", "not tested", "not available"),
    *("indeterminate", "inconclusive", "#N/A", "null", "IDH not tested", "IDH-NOS"),
)
REFUSED = (
    *(
        "positive",
        "negative",
        "maybe",
        "?",
        "2",
        "IDH1",
        "IDH",
        "IDH-1",
        "IDH 0",
        "+",
        "-",
        "- 1",
        "\u22121",
        "yes",
        "true",
    ),
    *(
        "not mutant",
        "no IDH mutation",
        "not IDH-mutant",
        "non-mutant",
        "mutant?",
        "mutant/WT",
        "WT or mutant",
        "1 mutant",
    ),
    *("not wild type", "no wildtype", "wildtype?", "R132H negative", "no R132H", "IDH1 R132H not found", "WT (R132H)"),
    *("IDH1 p.R132R", "IDH1 p.Arg132Arg", "R132", "R132*", "R132fs", "IDH1 p.V178I", "IDH1 G105G", "(R132H", "R132H)"),
    *("IDH2 R132H", "IDH1 R172K", "IDH1 R140Q", "R132H wildtype", "Astrocytoma, IDH-mutant", "IDH3 mutant"),
)


@pytest.mark.parametrize(
    ("text", "idh"),
    [*((text, 1) for text in MUTANT), *((text, 0) for text in WILD), *((text, -1) for text in UNKNOWN)],
)
def test_idh_spellings(text, idh):
    assert parse_idh(text) == idh


def read_idh(text):
    try:
        return parse_idh(text)
    except ValueError:
        return "refused"


@pytest.mark.parametrize("text", REFUSED)
def test_other_words_of_idh_are_refused(text):
    assert read_idh(text) == "refused"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    text=st.sampled_from(MUTANT + WILD + UNKNOWN),
    upper=st.lists(st.booleans(), min_size=24, max_size=24),
    gaps=st.lists(st.text(" \t\u00a0", min_size=1, max_size=3), min_size=5, max_size=5),
)
def test_case_and_spaces_never_change_the_class(text, upper, gaps):
    varied = "".join(letter.upper() if up else letter.lower() for letter, up in zip(text, upper, strict=False))
    first, *rest = varied.split(" ")
    spaced = first + "".join(gap + word for gap, word in zip(gaps, rest, strict=False))
    assert parse_idh(gaps[-1] + spaced + gaps[-2]) == parse_idh(text)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    text=st.sampled_from([text for text in MUTANT + WILD if not text[0].isdigit()]),
    word=st.sampled_from(["no", "not", "without", "never", "neg", "?", "possibly", "0", "1", "wt", "mut", "-1"]),
    before=st.booleans(),
    gap=st.sampled_from([" ", "", "-", "/", ", "]),
)
def test_a_word_more_never_flips_the_class(text, word, before, gap):
    """But for the known words `not mutated` and `no mutation`, it keeps its class or is refused."""
    written = word + gap + text if before else text + gap + word
    known = {"not mutated": 0, "not-mutated": 0, "no mutation": 0, "no-mutation": 0}
    assert read_idh(written) in ("refused", known.get(written, parse_idh(text)))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(field=st.sampled_from(sorted(FIELDS)), text=st.text(max_size=20))
def test_any_text_is_parsed_or_refused(field, text):
    try:
        value, reason = FIELDS[field].parse(text), ""
    except ValueError as error:
        value, reason = None, str(error)
    assert value is None or isinstance(value, str | float | int)
    assert not re.search("invalid literal|could not convert", reason)


def test_sites_of_barcodes():
    assert site_of_barcode("TCGA-DU-7294") == "DU"
    assert site_of_barcode("TCGA-02-0006-01A") == "02"
    assert [site_of_barcode(name) for name in ("TCGA-DU", "UCSF-PDGM-0004", "xTCGA-DU-7294", "", None)] == [None] * 5
