"""Known clinical tables, by their column names. A new data set's table is one entry of `CLINICAL_TABLES`.

Only the columns named here are ever read. The WHO 2021 diagnosis is not among them: it holds the IDH status in words.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mttu.cohort.clinical_rows import FIELDS
from mttu.errors import InputError, name_some, say_count

ROLES = ("ids", "patient", "aliases", *FIELDS)
"""What a column can hold."""

LOOKS: Mapping[str, re.Pattern[str]] = {
    "idh": re.compile(r"(^|_)idh"),
    "age": re.compile(r"(^|_)age(_|$)"),
    "grade": re.compile(r"(^|_)grade"),
    "sex": re.compile(r"(^|_)(sex|gender)(_|$)"),
    "split": re.compile(r"(^|_)(split|fold|subset|partition|set)(_|$)"),
    "patient_id": re.compile(r"(^|_)(patient|subject|participant)(_|$)"),
    "site": re.compile(r"(^|_)(site|hospital|institution|centre|center)(_|$)"),
}
"""Patterns of column names that may stand for a known column."""
_MOST_NAMED = 30


def normalise_column(name: str) -> str:
    """The name in lower case, with `_` for spaces, underscores, dots and dashes."""
    return re.sub(r"[\s_.\-]+", "_", name.strip().lower())


@dataclass(frozen=True)
class ClinicalTable:
    """Columns of one data set's table, in its own spelling; those of `EVERYWHERE` are known, too."""

    title: str
    recognised_by: tuple[tuple[str, ...], ...]
    """A file that has all columns of one of these is such a table."""
    ids: tuple[str, ...]
    """A row belongs to the case that one of these names."""
    patient: tuple[str, ...] = ()
    """The first one that is filled in names the patient; if none is, `patient_of` does."""
    aliases: tuple[str, ...] = ()
    """Names of the same patient in other data sets."""
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name in `mttu.cohort.clinical_rows.FIELDS` to the columns that may hold it."""
    id_pattern: str = r"(.*)"
    """Regular expression of an id, whose groups fill the following templates; other ids are kept as they are."""
    folders: tuple[str, ...] = ("{0}",)
    """Templates of the names that the case may have as a folder."""
    patient_template: str | None = None
    """Template of the patient; None if every case is a different patient."""

    def spell(self, name: str) -> tuple[str, ...]:
        """All names that the case of an id may have as a folder."""
        found = re.fullmatch(self.id_pattern, name, re.DOTALL)
        return tuple(folder.format(*found.groups()) for folder in self.folders) if found else (name,)

    def patient_of(self, name: str) -> str | None:
        """The patient that an id names, if any."""
        found = re.fullmatch(self.id_pattern, name, re.DOTALL)
        return self.patient_template.format(*found.groups()) if found and self.patient_template else None

    def columns(self, role: str) -> tuple[str, ...]:
        """Normalised names of the columns for one of `ROLES`."""
        own = {"ids": self.ids, "patient": self.patient, "aliases": self.aliases, **self.fields}.get(role, ())
        return tuple(dict.fromkeys(normalise_column(name) for name in (*EVERYWHERE.get(role, ()), *own)))


_IDH_COLUMNS = tuple(
    gene + ending
    for gene, ending in itertools.product(
        ("idh", "idh1/2", "idh1_2", "idh1", "idh2", "idh_1", "idh_2", "paper_idh"),
        ("", "_status", "_mutation", "_mutation_status", "_mutated", "_mutant", "_genotype", "_type"),
    )
)

_ID_ENDINGS = ("_id", "_subject_id")

EVERYWHERE: Mapping[str, tuple[str, ...]] = {
    "ids": ("case_id",),
    "patient": ("patient_id", "patient"),
    "aliases": (
        *(f"{name}{ending}" for name in ("brats21", "brats2021", "brats_2021") for ending in _ID_ENDINGS),
        "other_name",
    ),
    "idh": _IDH_COLUMNS,
    "grade": ("grade",),
    "age": ("age",),
    "sex": ("sex", "gender"),
    "site": ("site",),
    "split": ("split",),
}
"""Columns that any table may have. `paper_IDH.status` is a column of TCGA's tables."""


def gene_of(column: str) -> str:
    """`IDH1` or `IDH2` for a column of one gene, `IDH` for any other, by its normalised name."""
    found = re.match(r"(?:paper_)?idh_?([12])(?![/\d]|_[12])", column)
    return f"IDH{found[1]}" if found else "IDH"


_TCGA_IDS = ("tcia_subject_id", "tcga_tcia_subject_id")
GENERIC = ClinicalTable(
    "any other table", (), ids=("brats_2020_id", "brats_2020_subject_id", *_TCGA_IDS), patient=_TCGA_IDS
)

CLINICAL_TABLES: Mapping[str, ClinicalTable] = {
    "brats2020": ClinicalTable(
        "BraTS 2020 with IDH status",
        recognised_by=(("TCIA_Subject_ID", "BraTS_2020_ID", "IDH_status"),),
        ids=("BraTS_2020_ID", "TCIA_Subject_ID"),
        patient=("TCIA_Subject_ID",),
    ),
    "brats-names": ClinicalTable(
        "name_mapping.csv of BraTS 2019 and 2020",
        recognised_by=(("Grade", "BraTS_2020_subject_ID"), ("Grade", "BraTS_2019_subject_ID")),
        ids=(*(f"BraTS_{year}_subject_ID" for year in (2020, 2019, 2018, 2017)), "TCGA_TCIA_subject_ID"),
        patient=("TCGA_TCIA_subject_ID",),
    ),
    "ucsf-pdgm": ClinicalTable(
        "UCSF-PDGM-metadata_v5.csv",
        recognised_by=(("ID", "Sex", "Age at MRI", "WHO CNS Grade", "IDH"),),
        ids=("ID",),
        fields={"age": ("Age at MRI",), "grade": ("WHO CNS Grade",)},
        id_pattern=r"((UCSF-PDGM-)(\d{1,4})((?:_FU\d+d)?)(?:_nifti)?)",
        folders=("{0}", "{1}{2:0>4}{3}", "{1}{2:0>4}{3}_nifti"),  # three digits in the table, four in folders
        patient_template="{1}{2:0>4}",
    ),
    "upenn-gbm": ClinicalTable(
        "UPENN-GBM_clinical_info_v2.1.csv",
        recognised_by=(("ID", "Gender", "Age_at_scan_years", "IDH1"),),
        ids=("ID",),
        fields={"age": ("Age_at_scan_years",), "idh": ("IDH1",)},
        id_pattern=r"((UPENN-GBM-\d{5})_\d{2})",
        patient_template="{1}",
    ),
    "egd": ClinicalTable(
        "Genetic_and_Histological_labels.xlsx and Clinical_data.xlsx of EGD",
        recognised_by=(("Subject", "IDH", "1p19q", "Grade"), ("Subject", "Age", "Sex")),
        ids=("Subject",),
        id_pattern=r"(?:MR_)?(EGD-\d{4})",
        folders=("{0}", "MR_{0}"),
    ),
    "utsw-glioma": ClinicalTable(
        "UTSW_Glioma_Metadata-2-1.tsv",
        recognised_by=(("Subject ID", "Tumor Grade", "IDH"),),
        ids=("Subject ID",),
        fields={"age": ("Age at Imaging",), "grade": ("Tumor Grade",)},
    ),
    "generic": GENERIC,
}
"""Name for `--clinical-format` to table."""


def find_table(columns: Iterable[str], chosen: str | None) -> ClinicalTable:
    """The table that a file with these columns is: the one known table that fits, or `GENERIC`.

    Args:
        columns: Normalised names.
        chosen: Name in `CLINICAL_TABLES` that takes precedence.

    Raises:
        InputError: Unknown name, or two tables fit.
    """
    if chosen is not None:
        if chosen not in CLINICAL_TABLES:
            known = ", ".join(f"{name} ({table.title})" for name, table in CLINICAL_TABLES.items())
            raise InputError(f"clinical format {chosen!r}: unknown; choose one of {known}")
        return CLINICAL_TABLES[chosen]
    there = set(columns)
    fitting = [
        name
        for name, table in CLINICAL_TABLES.items()
        if any({normalise_column(column) for column in wanted} <= there for wanted in table.recognised_by)
    ]
    if len(fitting) > 1:
        listed = " and ".join(f"{name} ({CLINICAL_TABLES[name].title})" for name in fitting)
        raise InputError(f"its columns are those of {listed}; pass --clinical-format NAME")
    return CLINICAL_TABLES[fitting[0]] if fitting else GENERIC


def find_column_problems(names: Sequence[str], table: ClinicalTable, alone: bool) -> list[str]:
    """What is wrong with a table's columns, given by their normalised names.

    A table that is `alone` must say more than one of several, since no other can add what it lacks.
    """
    listed = ", ".join(filter(None, names)) or "none"
    problems = [f"column {name} is there twice" for name in sorted({*names} - {""}) if names.count(name) > 1]
    if not set(table.columns("ids")) & set(names):
        problems.append(
            f"no column with ids; expected one of {', '.join(table.columns('ids'))}; found {listed}; "
            "name the column case_id, or the table with --clinical-format"
        )
    said = {role: [name for name in table.columns(role) if name in names] for role in FIELDS}
    problems += [
        f"columns {' and '.join(columns)} say the same; keep one of them"
        for role, columns in said.items()
        if len(columns) > 1 and role != "idh"  # columns of IDH are read together
    ]
    genes = {gene_of(name) for name in said["idh"]}
    own = {normalise_column(name) for name in table.fields.get("idh", ())}
    decided = "IDH" in genes or genes == {"IDH1", "IDH2"} or bool(own & set(said["idh"]))
    if alone and table is GENERIC and not decided and not said["split"]:
        problems.append(f"no column idh (or IDH_status) and no column split; found {listed}")
    elif not any(said.values()):
        wanted = ", ".join(table.columns(role)[0] for role in FIELDS)
        problems.append(f"no column says anything; expected some of {wanted}; found {listed}")
    elif not said["idh"]:
        problems += [
            f"column {name} is not known, but its name tells of IDH; call it idh, or take it out"
            for name in names
            if re.search(r"(^|_)idh", name)
        ]
    if said["idh"] and not decided:
        problems.append(
            f"column {said['idh'][0]} is of one gene alone; call it idh if its wild type is that of IDH, "
            "or add the column of the other gene"
        )
    return problems


def describe_unused(header: Sequence[str], used: Mapping[str, str], looks: Mapping[str, re.Pattern[str]]) -> list[str]:
    """Names the columns that are not used, and for each that looks like a known one, which.

    Args:
        header: As spelled in the file.
        used: Normalised names of the columns that are used, with what each says.
        looks: Known column to the pattern of similar names. A known column that is there is not suggested again,
            except IDH, which may have several.
    """
    roles = set(used.values())
    unused = [name for name in header if name and normalise_column(name) not in used]
    if not unused:
        return []
    count = say_count(len(unused), "column is", "columns are")
    notes = [f"{count} not used: {name_some(unused, _MOST_NAMED)}"]
    for name in unused:
        alike = [role for role, pattern in looks.items() if pattern.search(normalise_column(name))]
        told = [role for role in alike if role == "idh" or not {role, role.removesuffix("_id")} & roles]
        notes += [f"column {name} looks like {role} but is not used; call it {role} if it is that" for role in told]
    return notes
