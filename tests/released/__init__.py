"""Files that released versions, and the older tools whose format this is, have written: kept, and never made anew."""
