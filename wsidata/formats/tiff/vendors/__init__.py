"""Layouts of the TIFF dialects SVS, SCN, BIF and QPTIFF of scanner vendors."""
