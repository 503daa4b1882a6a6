"""A synthetic glioma cohort in BraTS layout: no patient, no licence, the same bytes for the same seed.

Made to look like skull-stripped clinical MRI: hemispheres with folded cortex, fissures, ventricles, deep nuclei,
cerebellum and stem; order and rough ratios of white matter, grey matter and fluid in FLAIR, T1ce, T1 and T2 (set beside
TCGA-LGG patients); tissues that share voxels; an uneven coil, Rician noise, thick slices, sites with protocols of their
own; lesions of log-normal size in the lobes where gliomas are (Larjavaara et al. 2007,
doi:10.1215/15228517-2007-016) with edema along white matter, core, necrosis and enhancing rim, and mass effect. Heads
are life-size from 200 voxels per axis on; a smaller grid scales head and lesion down, while noise stays per voxel and
folds narrower than a voxel vanish.

The IDH status shows in four signs and nothing else in the images:

- T2-FLAIR mismatch: core bright in T2, dark in FLAIR, bright edge (Patel et al. 2017,
  doi:10.1158/1078-0432.CCR-17-0560);
- margin: sharp in mutants, infiltrating in wild types (Qi et al. 2014, doi:10.3892/ol.2014.2013);
- enhancement: less complete and weaker in mutants (Qi et al. 2014);
- necrosis: a larger share of the core in wild types (Yamashita et al. 2016, doi:10.3174/ajnr.A4491).

Each has a latent strength per case. Its distributions given the IDH status overlap by one setting (`difficulty`), so
the best possible AUC is known. Outside of the images, age depends on IDH (AUC 0.77, as in the paper's cases).

Not realistic, on purpose: volume, place, shape, sex, grade and site are independent of IDH, and the brain of age; in
patients, mutants are more often frontal and of low grade. One lesion per head, none across the midline, none after
surgery; no blood, calcium, motion, or errors of registration, skull-stripping or annotation; no 1p/19q, no looks of
grades, no other diseases. The strengths' distributions are chosen, not measured. A score reached here shows that the
software works and how far it is from the best possible score; it says nothing about patients.
"""

from mttu.phantom.subjects import Recipe
from mttu.phantom.writing import TRUTH_TABLE, measure_phantom, write_phantom

__all__ = ["TRUTH_TABLE", "Recipe", "measure_phantom", "write_phantom"]
