"""The MONAI Label app, and what stands in front of it."""
