"""Export of a data module to a folder of images, masks, tables, manifest and journal."""
