"""Statistics of whole maps, which squeeze-and-excitation, group norm and others use."""
