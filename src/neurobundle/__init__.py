"""Neurobundle: MONAI bundles for brain MRI, and the small library that they are made of.

Importing this module imports nothing heavy; each room (``neurobundle.prepare``, ``neurobundle.train`` ...) is
imported by the config or the script that names it.
"""

__version__ = "0.1.0"
