"""TIFF dialects of scanner vendors: SVS, SCN, BIF and QPTIFF."""
