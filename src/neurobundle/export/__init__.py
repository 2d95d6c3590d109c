"""Results as files: NIfTI, CSV, JSON, pictures and pages. Importing this imports neither torch nor MONAI."""
