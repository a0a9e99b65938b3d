"""Export of a data module to a folder: images, masks, tables, manifest and journal."""
