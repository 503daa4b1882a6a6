"""From folders of NIfTI files and clinical tables to a checked manifest."""
