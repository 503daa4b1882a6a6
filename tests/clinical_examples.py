"""Small tables of made-up patients with the true column names of each data set."""

import csv

import openpyxl

BRATS_2020 = (
    "TCIA_Subject_ID,BraTS_2020_ID,Age,Gender,Histology,Grade,IDH_status\n"
    "TCGA-DU-7294,BraTS20_Training_300,53,female,astrocytoma,LGG,Mutant\n"
    "TCGA-02-0006,BraTS20_Training_158,56,male,glioblastoma,HGG,WT\n"
    "NA,BraTS20_Training_001,NA,NA,NA,HGG,NA\n"
)
BRATS_NAMES = (
    "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2019_subject_ID,BraTS_2020_subject_ID\n"
    "LGG,Brats17_TCIA_1_1,Brats18_TCIA_1_1,TCGA-DU-7294,BraTS19_TCIA_1_1,BraTS20_Training_300\n"
    "HGG,NA,NA,NA,BraTS19_CBICA_1_1,BraTS20_Training_001\n"
)
UCSF = (
    "ID,Sex,Age at MRI,WHO CNS Grade,Final pathologic diagnosis (WHO 2021),MGMT status,MGMT index,1p/19q,IDH,"
    "1-dead 0-alive,OS,EOR,Biopsy prior to imaging,BraTS21 ID,BraTS21 Segmentation Cohort,BraTS21 MGMT Cohort\n"
    'UCSF-PDGM-004,M,66,4,"Glioblastoma, IDH-wildtype",negative,0,unknown,wildtype,1,1303,STR,No,BraTS2021_00097,,\n'
    'UCSF-PDGM-005,F,30,2,"Astrocytoma, IDH-mutant",unknown,unknown,intact,mutated (NOS),0,900,GTR,No,,,\n'
    'UCSF-PDGM-0391,F,41,3,"Astrocytoma, IDH-mutant",unknown,unknown,intact,IDH2 p.Arg172Trp,0,900,GTR,No,,,\n'
    'UCSF-PDGM-0391_FU016d,F,41,3,"Astrocytoma, IDH-mutant",unknown,unknown,intact,IDH1 p.R132C,0,900,GTR,No,,,\n'
)
UPENN = (
    "ID,Gender,Age_at_scan_years,Survival_from_surgery_days_UPDATED,Survival_Status,Survival_Censor,IDH1,MGMT,KPS,"
    "GTR_over90percent,Time_since_baseline_preop,PsP_TP_score\n"
    "UPENN-GBM-00001_11,M,64.4,421,Deceased,1,Wildtype,Methylated,Not Available,Y,0,Not Applicable\n"
    "UPENN-GBM-00001_21,M,65.1,421,Deceased,1,Wildtype,Methylated,Not Available,Y,200,3\n"
    "UPENN-GBM-00002_11,F,>89,90,Deceased,1,Mutated,Not Available,80,N,0,Not Applicable\n"
    "UPENN-GBM-00003_11,F,Not Available,90,Deceased,1,NOS/NEC,Indeterminate,80,N,0,Not Applicable\n"
)
EGD_LABELS = (("Subject", "IDH", "1p19q", "Grade"), ("EGD-0001", 1, 0, 3), ("EGD-0002", -1, -1, -1))
EGD_CLINICAL = (("Subject", "Age", "Sex"), ("EGD-0001", 44.5, "F"), ("EGD-0002", None, "M"))


def write_text(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def write_rows(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_workbook(path, rows):
    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.active.append(row)
    workbook.create_sheet("other").append(["not", "read"])
    workbook.save(path)
    return path
