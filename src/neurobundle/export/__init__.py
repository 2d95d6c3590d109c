"""Results as files: NIfTI, CSV, JSON, pictures and pages."""
