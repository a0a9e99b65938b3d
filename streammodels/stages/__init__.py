"""Networks with statistics of whole maps, in stages between which maps wait."""
